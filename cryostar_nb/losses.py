"""The losses of sections 2.3 and 2.4, one small function each.

The structural losses take *distances*, in Å, of a batch of predicted structures, (batch, pair), beside those of the
reference, (pair,). `geometry.pair_distances` makes them. NumPy arrays and lists are welcome too. Training takes the same
losses from `pairs`, which sums over the pairs without storing their distances (`losses.Restraints`).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryostar_nb.errors import InputError
from cryostar_nb.fast.pairs import clash_sums, length_change_sums
from cryostar_nb.geometry import pair_distances
from cryostar_nb.structure import Structure, bonds, elastic_edges

Numbers = np.ndarray | Sequence[Any]


def correlation_loss(
    images: Float[Tensor, "*batch band"] | Numbers,
    predictions: Float[Tensor, "*batch band"] | Numbers,
) -> Float[Tensor, ""]:
    """L_image, eq. 9: minus the normalised cross correlation of each image with its prediction, mean over the batch."""
    images, predictions = torch.as_tensor(images), torch.as_tensor(predictions)
    return -torch.nn.functional.cosine_similarity(images, predictions, dim=-1).mean()


def continuity_loss(
    distances: Float[Tensor, "*batch bond"] | Numbers,
    reference_distances: Float[Tensor, " bond"] | Numbers,
) -> Float[Tensor, ""]:
    """L_cont, eq. 2: mean squared change of the distance between bonded nodes, in Å^2."""
    return (torch.as_tensor(distances) - torch.as_tensor(reference_distances)).square().mean()


def clash_loss(
    distances: Float[Tensor, "*batch pair"] | Numbers, threshold: float = 4.0
) -> Float[Tensor, ""]:
    """L_clash, eq. 3 and 4: mean over the clashing pairs of the squared depth below `threshold`, in Å^2.

    The mean is over the pairs of each structure that clash, then over the batch; a structure without a clash adds 0.
    Pass non-adjacent pairs only: bonded nodes stand 3.8 Å apart and would count.
    """
    depth = (threshold - torch.as_tensor(distances)).clamp(min=0)
    clashes = (depth.detach() > 0).sum(-1).clamp(min=1)
    return (depth.square().sum(-1) / clashes).mean()


def relaxed_edges(
    distances: Float[Tensor, "batch edge"] | Numbers, percentile: float
) -> Bool[Tensor, " edge"]:
    """P'_EN of eq. 7: True for the edges to keep, those whose distance varies least over the batch."""
    return stable_edges(torch.as_tensor(distances).detach().var(dim=0, correction=0), percentile)


def stable_edges(variance: Float[Tensor, " edge"], percentile: float) -> Bool[Tensor, " edge"]:
    """P'_EN of eq. 7, from the variance of each edge's distance over the batch, in Å^2.

    An edge stays when its variance is below the `percentile`-th percentile of all variances; 100 keeps every edge. Where all
    edges vary alike (a batch of one, the first step) there is nothing to choose, and all stay.
    """
    if percentile >= 100 or len(variance) == 0:
        return torch.ones_like(variance, dtype=torch.bool)
    rank = percentile / 100 * (len(variance) - 1)
    # Two order statistics by selection, and the line between them, as NumPy's percentile has it: no sorting.
    below, above = (
        torch.kthvalue(variance, 1 + int(place)).values
        for place in (rank, min(rank + 1, len(variance) - 1))
    )
    keep = variance < torch.lerp(below, above, rank - int(rank))
    return keep | ~keep.any()


def elastic_network_loss(
    distances: Float[Tensor, "batch edge"] | Numbers,
    reference_distances: Float[Tensor, " edge"] | Numbers,
    keep: Bool[Tensor, " edge"] | Numbers | None = None,
) -> Float[Tensor, ""]:
    """L_EN, eq. 6: mean squared change of the edge lengths, in Å^2, over the edges to `keep` (all by default)."""
    change = (torch.as_tensor(distances) - torch.as_tensor(reference_distances)).square()
    if keep is None:
        return change.mean()
    weights = torch.as_tensor(keep).to(change)
    return (change.mean(0) * weights).sum() / weights.sum().clamp(min=1)


def kl_divergence(
    mean: Float[Tensor, "*batch latent"] | Numbers,
    log_variance: Float[Tensor, "*batch latent"] | Numbers,
) -> Float[Tensor, ""]:
    """L_KL of eq. 8: divergence of N(mean, variance) from N(0, 1), summed over the latent, mean over the batch, in nats."""
    mean, log_variance = torch.as_tensor(mean), torch.as_tensor(log_variance)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()


class Restraints:
    """The structural losses of one reference: its bonds, its elastic edges, and the search for clashes.

    `method` chooses them: all of section 2.3 (star), continuity alone (cont), or none (nma). Distances are in Å;
    `percentile` is p of eq. 7, and `measure` what varies there. Raises InputError for a reference without bonds or edges.
    """

    def __init__(
        self,
        nodes: Structure,
        *,
        method: Literal["star", "cont", "nma"] = "star",
        elastic_cutoff: float = 12.0,
        elastic_between_chains: bool = False,
        clash_distance: float = 4.0,
        percentile: float = 80.0,
        measure: Literal["distance", "squared_error"] = "distance",
        device: torch.device | None = None,
    ) -> None:
        reference = torch.from_numpy(nodes.positions).float().to(device)
        self.method, self.clash_distance, self.percentile, self.measure = (
            method,
            clash_distance,
            percentile,
            measure,
        )
        self.bonds = torch.from_numpy(bonds(nodes)).to(device)
        self.edges = torch.from_numpy(
            elastic_edges(nodes, elastic_cutoff, between_chains=elastic_between_chains)
        ).to(device)
        if method != "nma" and not len(self.bonds):
            raise InputError(
                f"of {len(nodes)} nodes no two are bonded, and continuity needs bonds; give a reference whose chains are whole"
            )
        if method == "star" and not len(self.edges):
            raise InputError(
                f"elastic_cutoff = {elastic_cutoff:g}: no two nodes are that near; give a larger --elastic-cutoff"
            )
        self.bond_lengths = pair_distances(reference, self.bonds)
        self.edge_lengths = pair_distances(reference, self.edges)
        self.bonded = torch.zeros(len(nodes), dtype=torch.bool, device=device)
        self.bonded[self.bonds[:, 0]] = True  # to the next node

    def losses(
        self,
        positions: Float[Tensor, "batch atom 3"],
        over_all: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> dict[str, Tensor]:
        """Unweighted structural losses of the method, by name, from sums over the pairs (see `pairs`).

        `over_all` adds up a tensor over the processes that share a batch: adaptive relaxation looks at all of it.
        """
        if self.method == "nma":
            return {}
        count, by_atom = len(positions), positions.permute(1, 2, 0).contiguous()
        _, squares = length_change_sums(by_atom, self.bonds, self.bond_lengths)
        losses = {"continuity": squares.mean() / count}
        if self.method == "star":
            changes, squares = length_change_sums(by_atom, self.edges, self.edge_lengths)
            first, second = changes, squares
            if self.measure == "squared_error":
                errors = (
                    (pair_distances(positions.detach(), self.edges) - self.edge_lengths)
                    .double()
                    .square()
                )
                first, second = errors.sum(0), errors.square().sum(0)
            whole, firsts, seconds = over_all(
                torch.stack([torch.full_like(first, count), first, second]).detach()
            )
            keep = stable_edges(seconds / whole - (firsts / whole).square(), self.percentile)
            losses["elastic"] = (squares * keep).sum() / keep.sum() / count
            penalties, clashes = clash_sums(by_atom, self.bonded, self.clash_distance)
            losses["clash"] = (penalties / clashes.clamp(min=1)).mean()
        return {name: value.to(positions.dtype) for name, value in losses.items()}
