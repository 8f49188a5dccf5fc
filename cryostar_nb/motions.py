"""Motions as structures show them: their modes, how far each goes, and whether two runs share them.

Latents of two trainings cannot be compared, for each network has its own. Structures can: those
that two networks give to the same particles, in one frame.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

ENDS = (0.05, 0.95)  # quantiles of the scores between which a motion is measured
LEAST_PART = 0.1  # of the extent of the first mode; smaller ones are left out
LEAST_EXTENT = 0.1  # Å rms


@dataclass(frozen=True)
class Modes:
    """Principal modes of structures: orthonormal directions in the space of all coordinates."""

    directions: Float[Tensor, "mode atom 3"]

    @classmethod
    def of(cls, structures: Float[Tensor, "structure atom 3"], count: int = 3) -> "Modes":
        """The `count` modes of these structures, those that go far enough, at least one."""
        flat = (structures - structures.mean(0)).double().flatten(1)
        directions = torch.linalg.svd(flat, full_matrices=False)[2][:count]
        modes = cls(directions.unflatten(1, structures.shape[1:]))
        extents = extent(modes.scores(structures))
        far = extents > max(LEAST_EXTENT, LEAST_PART * float(extents[0]))
        return cls(modes.directions[: max(1, int(far.sum()))])

    def scores(
        self, structures: Float[Tensor, "structure atom 3"]
    ) -> Float[Tensor, "structure mode"]:
        """Where structures are along each mode, from their own mean, in Å rms over the nodes."""
        flat = (structures - structures.mean(0)).double().flatten(1)
        return flat @ self.directions.flatten(1).mT / structures.shape[1] ** 0.5


def extent(scores: Float[Tensor, "structure mode"]) -> Float[Tensor, " mode"]:
    """From the 5th to the 95th percentile of the scores."""
    low, high = scores.quantile(torch.tensor(ENDS, dtype=scores.dtype), dim=0)
    return high - low


def correlation(
    first: Float[Tensor, "structure mode"], second: Float[Tensor, "structure mode"]
) -> Float[Tensor, " mode"]:
    """Pearson's correlation of the scores along each mode; 0 where one does not vary."""
    first, second = first - first.mean(0), second - second.mean(0)
    lengths = first.norm(dim=0) * second.norm(dim=0)
    return (first * second).sum(0) / lengths.clamp(min=1e-12)


def principal_angles(first: Modes, second: Modes) -> Float[Tensor, " angle"]:
    """Angles between the spaces of two sets of modes, in degrees, the smallest first.

    There are as many as the smaller set has modes (Björck and Golub, Math. Comp. 1973).
    """
    overlap = first.directions.flatten(1) @ second.directions.flatten(1).mT
    return torch.rad2deg(torch.linalg.svdvals(overlap).clamp(max=1).acos())


def displacement(
    structures: Float[Tensor, "structure atom 3"], scores: Float[Tensor, " structure"]
) -> Float[Tensor, " atom"]:
    """How far each node goes, in Å: between the mean structures of the lowest and the highest 10 %
    of the scores.
    """
    order = scores.argsort()
    part = max(1, len(order) // 10)
    ends = structures[order[:part]].mean(0), structures[order[-part:]].mean(0)
    return (ends[1] - ends[0]).norm(dim=-1)
