"""The structural losses of a training step: continuity, clashes, and the elastic network with its adaptive relaxation."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.errors import InputError
from cryostar_nb.geometry import pair_distances
from cryostar_nb.losses import stable_edges
from cryostar_nb.pairs import clash_sums, length_change_sums
from cryostar_nb.structure import Structure, bonds, elastic_edges


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
        self.method, self.clash_distance, self.percentile, self.measure = method, clash_distance, percentile, measure
        self.bonds = torch.from_numpy(bonds(nodes)).to(device)
        self.edges = torch.from_numpy(elastic_edges(nodes, elastic_cutoff, between_chains=elastic_between_chains)).to(device)
        if method != "nma" and not len(self.bonds):
            raise InputError(
                f"of {len(nodes)} nodes no two are bonded, and continuity needs bonds; give a reference whose chains are whole"
            )
        if method == "star" and not len(self.edges):
            raise InputError(f"elastic_cutoff = {elastic_cutoff:g}: no two nodes are that near; give a larger --elastic-cutoff")
        self.bond_lengths = pair_distances(reference, self.bonds)
        self.edge_lengths = pair_distances(reference, self.edges)
        self.bonded = torch.zeros(len(nodes), dtype=torch.bool, device=device)
        self.bonded[self.bonds[:, 0]] = True  # to the next node

    def losses(
        self, positions: Float[Tensor, "batch atom 3"], over_all: Callable[[Tensor], Tensor] = lambda sums: sums
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
                errors = (pair_distances(positions.detach(), self.edges) - self.edge_lengths).double().square()
                first, second = errors.sum(0), errors.square().sum(0)
            whole, firsts, seconds = over_all(torch.stack([torch.full_like(first, count), first, second]).detach())
            keep = stable_edges(seconds / whole - (firsts / whole).square(), self.percentile)
            losses["elastic"] = (squares * keep).sum() / keep.sum() / count
            penalties, clashes = clash_sums(by_atom, self.bonded, self.clash_distance)
            losses["clash"] = (penalties / clashes.clamp(min=1)).mean()
        return {name: value.to(positions.dtype) for name, value in losses.items()}
