"""The losses of sections 2.3 and 2.4, one small function each, and `Restraints`: those of training.

The structural losses take *distances*, in Å, of a batch of predicted structures, (batch, pair), and
those of the reference, (pair,). `geometry.pair_distances` makes them. NumPy arrays and lists are
welcome too. `Restraints` computes the same losses from sums over the pairs (`fast.pairs`), without
storing a distance.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryostar_nb.config import TrainConfig
from cryostar_nb.errors import InputError
from cryostar_nb.fast.pairs import clash_sums, length_change_sums
from cryostar_nb.geometry import pair_distances
from cryostar_nb.structure import Structure, bonds, elastic_edges

Numbers = np.ndarray | Sequence[Any]


def correlation_loss(
    images: Float[Tensor, "*batch band"] | Numbers,
    predictions: Float[Tensor, "*batch band"] | Numbers,
) -> Float[Tensor, ""]:
    """L_image, eq. 9: minus the normalised correlation of image and prediction, batch mean.

    Both norms are those of the vectors: inside the band. With the norm of the whole image, as
    Appendix A can be read, the loss would be about half as heavy, as noise fills the image.
    """
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
    """L_clash, eq. 3 and 4: mean squared depth below `threshold` of the clashing pairs, in Å^2.

    The mean is over the clashing pairs of each structure, then over the batch; a structure without
    a clash adds 0. Pass non-adjacent pairs only: bonded nodes are 3.8 Å apart and would count.
    """
    depth = (threshold - torch.as_tensor(distances)).clamp(min=0)
    clashes = (depth.detach() > 0).sum(-1).clamp(min=1)
    return (depth.square().sum(-1) / clashes).mean()


def relaxed_edges(
    distances: Float[Tensor, "batch edge"] | Numbers, percentile: float
) -> Bool[Tensor, " edge"]:
    """P'_EN of eq. 7: True for the edges to keep, whose distance varies least over the batch."""
    return stable_edges(torch.as_tensor(distances).detach().var(dim=0, correction=0), percentile)


def stable_edges(variance: Float[Tensor, " edge"], percentile: float) -> Bool[Tensor, " edge"]:
    """P'_EN of eq. 7, from the variance of each edge's distance over the batch, in Å^2.

    An edge stays when its variance is below the `percentile`-th percentile of all variances; 100
    keeps every edge. Where all edges vary alike (a batch of one, the first step) all stay.
    """
    if percentile >= 100 or len(variance) == 0:
        return torch.ones_like(variance, dtype=torch.bool)
    rank = percentile / 100 * (len(variance) - 1)
    # NumPy's percentile: a line between two order statistics, found by selection, without sorting.
    next_rank = min(rank + 1, len(variance) - 1)
    below, above = (torch.kthvalue(variance, 1 + int(r)).values for r in (rank, next_rank))
    keep = variance < torch.lerp(below, above, rank - int(rank))
    return keep | ~keep.any()


def elastic_network_loss(
    distances: Float[Tensor, "batch edge"] | Numbers,
    reference_distances: Float[Tensor, " edge"] | Numbers,
    keep: Bool[Tensor, " edge"] | Numbers | None = None,
) -> Float[Tensor, ""]:
    """L_EN, eq. 6: mean squared change of the lengths of the edges to `keep` (all), in Å^2."""
    change = (torch.as_tensor(distances) - torch.as_tensor(reference_distances)).square()
    if keep is None:
        return change.mean()
    weights = torch.as_tensor(keep).to(change)
    return (change.mean(0) * weights).sum() / weights.sum().clamp(min=1)


def kl_divergence(
    mean: Float[Tensor, "*batch latent"] | Numbers,
    log_variance: Float[Tensor, "*batch latent"] | Numbers,
) -> Float[Tensor, ""]:
    """L_KL of eq. 8, in nats: divergence of N(mean, variance) from N(0, 1), batch mean."""
    mean, log_variance = torch.as_tensor(mean), torch.as_tensor(log_variance)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()


def side_chain_loss(turns: Float[Tensor, "*batch node 3"] | Numbers, sd: float) -> Tensor:
    """Minus the log prior of the turns of side chains, in nats, batch mean: N(0, sd) each.

    `sd` is in degrees, of each of the three numbers of a turn (`fast.carry`).
    """
    return (torch.as_tensor(turns) / math.radians(sd)).square().sum((-1, -2)).mean() / 2


class Restraints:
    """The structural losses of one reference: its bonds, its elastic edges, and the clash search.

    `config.method` chooses them: all of section 2.3 (star), continuity alone (cont), none (nma).
    `sum_over_processes` adds up a tensor over the processes that share a batch; by default there is
    one process. Raises InputError for a reference without the bonds or edges that a loss needs.
    """

    def __init__(
        self,
        nodes: Structure,
        config: TrainConfig,
        *,
        device: torch.device | None = None,
        sum_over_processes: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> None:
        self.config, self.sum_over_processes = config, sum_over_processes
        between = config.elastic_between_chains
        edges = elastic_edges(nodes, config.elastic_cutoff, between_chains=between)
        self.bonds = torch.from_numpy(bonds(nodes)).to(device)
        self.edges = torch.from_numpy(edges).to(device)
        if config.method != "nma" and not len(self.bonds):
            raise InputError(
                "of {value} nodes no two are bonded, and the continuity loss needs bonds",
                value=len(nodes),
                remedy="give a reference whose chains are whole",
            )
        if config.method == "star" and not len(self.edges):
            raise InputError(
                "elastic_cutoff = {value}: no two nodes are that near",
                value=config.elastic_cutoff,
                remedy="give a larger --elastic-cutoff",
            )
        reference = torch.from_numpy(nodes.positions).float().to(device)
        self.bond_lengths = pair_distances(reference, self.bonds)
        self.edge_lengths = pair_distances(reference, self.edges)
        self.chain_of = torch.from_numpy(np.unique(nodes.chains, return_inverse=True)[1]).to(device)
        self.bonded = torch.zeros(len(nodes), dtype=torch.bool, device=device)
        self.bonded[self.bonds[:, 0]] = True  # to the next node

    def losses(self, positions: Float[Tensor, "batch atom 3"]) -> dict[str, Tensor]:
        """Unweighted structural losses of the method, by name, in Å^2."""
        if self.config.method == "nma":
            return {}
        count, by_atom = len(positions), positions.permute(1, 2, 0).contiguous()
        _, squares = length_change_sums(by_atom, self.bonds, self.bond_lengths)
        losses = {"continuity": squares.mean() / count}
        if self.config.method == "star":
            changes, squares = length_change_sums(by_atom, self.edges, self.edge_lengths)
            keep = self._stable_edges(positions, changes, squares)
            losses["elastic"] = (squares * keep).sum() / keep.sum() / count
            penalties, clashes = clash_sums(by_atom, self.bonded, self.config.clash_distance)
            losses["clash"] = (penalties / clashes.clamp(min=1)).mean()
        return {name: value.to(positions.dtype) for name, value in losses.items()}

    def _stable_edges(self, positions: Tensor, changes: Tensor, squares: Tensor) -> Tensor:
        """The edges to keep: along the chain, and by their variance over all processes' batches.

        The variance decides as in eq. 7.
        """
        if self.config.relaxation_measure == "squared_error":
            distances = pair_distances(positions.detach(), self.edges)
            errors = (distances - self.edge_lengths).double().square()
            changes, squares = errors.sum(0), errors.square().sum(0)
        counts = torch.full_like(changes, len(positions))
        sums = self.sum_over_processes(torch.stack([counts, changes, squares]).detach())
        counts, changes, squares = sums
        variance = squares / counts - (changes / counts).square()
        stable = stable_edges(variance, self.config.relaxation_percentile)
        starts, ends = self.edges.unbind(1)
        same_chain = self.chain_of[starts] == self.chain_of[ends]
        return stable | (same_chain & (ends - starts <= self.config.kept_along_chain))
