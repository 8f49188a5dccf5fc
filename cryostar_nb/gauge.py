"""The frame of flexible structures: what does not move stays where the reference has it.

Where poses are refined, a rotation of the structure and one of the pose say the same, and a
decoder's structures have no frame of their own. A gauge is a choice of one.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.geometry import rotations_from_vectors

SQUARINGS = 10  # of the matrix whose largest eigenvector is a rotation's quaternion
MOST_ITERATIONS = 100
TOLERANCE = 1e-4  # of the weights, as a part of the largest


def superpose_weighted(
    positions: Float[Tensor, "*#batch atom 3"],
    target: Float[Tensor, "*#batch atom 3"],
    weights: Float[Tensor, " atom"],
) -> Float[Tensor, "*batch atom 3"]:
    """Each structure moved as a rigid body to the least weighted squared distance to the target.

    Positions are in Å; only ratios of the weights count. Differentiable, for the rotation and the
    translation follow the positions: the rotation is found without a gradient, and one Newton step
    from there, of length 0, carries the derivative.
    """
    weights = (weights / weights.sum())[:, None]
    centre, target_centre = ((weights * x).sum(-2, keepdim=True) for x in (positions, target))
    centred = positions - centre
    covariance = (weights * centred).mT @ (target - target_centre)  # (*batch, 3, 3)
    with torch.no_grad():
        rotation = _closest_rotation(covariance)
        rotation = _newton_step(rotation @ covariance) @ rotation
    rotation = _newton_step(rotation @ covariance) @ rotation
    return centred @ rotation.mT + target_centre


def _closest_rotation(covariance: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation R of the largest trace of R C (Horn, J. Opt. Soc. Am. A 1987).

    Its quaternion is the eigenvector of the largest eigenvalue of a symmetric 4 x 4 matrix, found
    by squaring that matrix, which any device does without waiting.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in covariance.unbind(-2))
    rows = [
        [xx + yy + zz, yz - zy, zx - xz, xy - yx],
        [yz - zy, xx - yy - zz, xy + yx, zx + xz],
        [zx - xz, xy + yx, yy - xx - zz, yz + zy],
        [xy - yx, zx + xz, yz + zy, zz - xx - yy],
    ]
    matrix = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    one = torch.eye(4, dtype=matrix.dtype, device=matrix.device)
    power = matrix + (_size(matrix) + 1e-9) * one  # no eigenvalue below 0
    for _ in range(SQUARINGS):
        power = power / _size(power)
        power = power @ power
    longest = power.norm(dim=-1).argmax(-1)[..., None, None].expand(*power.shape[:-2], 1, 4)
    quaternion = torch.nn.functional.normalize(power.gather(-2, longest)[..., 0, :], dim=-1)
    w, x, y, z = quaternion.unbind(-1)
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def _size(matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch 1 1"]:
    return matrix.square().sum((-2, -1), keepdim=True).sqrt()


def _newton_step(covariance: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation R towards the largest trace of R C, by the slope and the curvature at R = 1."""
    slope = torch.stack(
        [
            covariance[..., 1, 2] - covariance[..., 2, 1],
            covariance[..., 2, 0] - covariance[..., 0, 2],
            covariance[..., 0, 1] - covariance[..., 1, 0],
        ],
        dim=-1,
    )
    symmetric = (covariance + covariance.mT) / 2
    trace = symmetric.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    # Atoms on a line, or in one place, have an axis without a curvature, about which nothing turns.
    ridge = 100 * torch.finfo(covariance.dtype).eps * trace.abs() + 1e-9
    one = torch.eye(3, dtype=covariance.dtype, device=covariance.device)
    a, b, c = ((trace + ridge) * one - symmetric).unbind(-2)
    cross = torch.linalg.cross
    # The inverse by Cramer's rule: a solver would make a GPU wait.
    adjugate = torch.stack([cross(b, c), cross(c, a), cross(a, b)], dim=-1)
    volume = (a * cross(b, c)).sum(-1)[..., None]
    return rotations_from_vectors((adjugate @ slope[..., None])[..., 0] / volume)


@torch.no_grad()
def still_weights(
    structures: Float[Tensor, "batch atom 3"],
    reference: Float[Tensor, "atom 3"],
    scale: float = 1.0,
) -> Float[Tensor, " atom"]:
    """Weights, of sum 1, of the part that differs least from the reference.

    Structures are superposed on the reference, and a node weighs (1 + m / scale^2)^-2 with m its
    mean squared distance to the reference, in turn until the weights no longer change. `scale` is
    in Å.
    """
    weights = torch.full_like(reference[:, 0], 1 / len(reference))
    for _ in range(MOST_ITERATIONS):
        apart = superpose_weighted(structures, reference, weights) - reference
        before, weights = weights, (1 + apart.square().sum(-1).mean(0) / scale**2) ** -2
        weights = weights / weights.sum()
        if (weights - before).abs().max() < TOLERANCE * weights.max():
            break
    return weights


@dataclass(frozen=True)
class Gauge:
    """A frame in which deformations carry no rigid motion: what does not move stays in place."""

    reference: Float[Tensor, "atom 3"]  # Å
    weights: Float[Tensor, " atom"]  # large where structures hold still

    @classmethod
    def of(
        cls, structures: Float[Tensor, "batch atom 3"], reference: Float[Tensor, "atom 3"]
    ) -> "Gauge":
        """The gauge of the part of these structures that holds still."""
        return cls(reference, still_weights(structures, reference))

    def apply(self, structures: Float[Tensor, "*batch atom 3"]) -> Float[Tensor, "*batch atom 3"]:
        """Each structure as a rigid body where its still part fits the reference best."""
        return superpose_weighted(structures, self.reference, self.weights)
