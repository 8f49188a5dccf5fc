"""Local geometry and helices of a chain, from its nodes alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryostar_nb.geometry import pair_distances
from cryostar_nb.structure import Structure, bonds, elastic_edges

CONTACT_DISTANCE = 8.0  # Å


def sequence_pairs(nodes: Structure, separation: int) -> Int[np.ndarray, "pair 2"]:
    """Pairs (i, i + separation) whose nodes are joined by an unbroken run of bonds."""
    bonded = np.zeros(len(nodes), dtype=bool)
    bonded[bonds(nodes)[:, 0]] = True
    start = np.arange(len(nodes) - separation)
    unbroken = np.all([bonded[start + step] for step in range(separation)], axis=0)
    return np.stack([start[unbroken], start[unbroken] + separation], axis=-1)


@dataclass(frozen=True)
class LocalGeometry:
    """How well structures keep the local geometry of others; errors are rms, in Å."""

    bond_error: float
    """Error of the distance between bonded nodes."""
    local_error: float
    """Error of the i -> i+2 and i -> i+3 distances, which turns and helices fix."""
    third_neighbour_error: float
    """Error of the i -> i+3 distances alone, which no bond angle fixes."""
    contacts_kept: float
    """Fraction of the reference's contacts (same chain, nearer than 8 Å, three or more residues
    apart) that are at most 1.2 times as long."""


@torch.no_grad()
def local_geometry(
    positions: Float[Tensor, "batch atom 3"],
    nodes: Structure,
    target: Float[Tensor, "*batch atom 3"] | None = None,
) -> LocalGeometry:
    """Local geometry against `target` positions, one for all or one for each structure (default:
    the reference).
    """
    reference = torch.from_numpy(nodes.positions).to(positions)
    target = reference if target is None else target
    contacts = elastic_edges(nodes, CONTACT_DISTANCE)
    contacts = contacts[contacts[:, 1] - contacts[:, 0] >= 3]

    def error(pairs: Int[np.ndarray, "pair 2"]) -> float:
        change = pair_distances(positions, pairs) - pair_distances(target, pairs)
        return float(change.square().mean().sqrt())

    kept = pair_distances(positions, contacts) < 1.2 * pair_distances(reference, contacts)
    third = sequence_pairs(nodes, 3)
    local = np.concatenate([sequence_pairs(nodes, 2), third])
    return LocalGeometry(
        error(bonds(nodes)), error(local), error(third), float(kept.double().mean())
    )


@torch.no_grad()
def in_helix(
    positions: Float[Tensor, "*batch atom 3"], nodes: Structure
) -> Bool[Tensor, "*batch atom"]:
    """Residues in an α-helix, from Cα alone (P-SEA; Labesse et al., Comput. Appl. Biosci. 1997).

    Residue i is helical when d(i-1, i+2) is 5.3 ± 0.5 Å and d(i-1, i+3) is 6.4 ± 0.6 Å, or when the
    angle at i is 89 ± 12° and the dihedral of i-1 to i+2 is 50 ± 20°. Five helical residues in a
    row are a helix, and the residue at either end of it joins when its distance or its angle fits.
    Nothing fits across a gap in the chain, and nothing but Cα is helical.
    """

    def fits(
        measure: Callable[..., Tensor], span: int, value: float, tolerance: float
    ) -> Bool[Tensor, "*batch atom"]:
        """For each residue i, whether the measure of nodes i-1 to i-1+span is near the value."""
        start = sequence_pairs(nodes, span)[:, 0]
        start = start[nodes.atom_names[start] == "CA"]
        fitting = torch.zeros(positions.shape[:-1], dtype=torch.bool, device=positions.device)
        nearby = (positions[..., start + step, :] for step in range(span + 1))
        fitting[..., start + 1] = (measure(*nearby) - value).abs() <= tolerance
        return fitting

    def windows(
        flags: Bool[Tensor, "*batch number"], width: int, beyond: int
    ) -> Bool[Tensor, "*batch window width"]:
        return torch.nn.functional.pad(flags, (beyond, beyond)).unfold(-1, width, 1)

    third, fourth = fits(_distance, 3, 5.3, 0.5), fits(_distance, 4, 6.4, 0.6)
    angle, dihedral = fits(_angle, 2, 89, 12), fits(_dihedral, 3, 50, 20)
    five_in_a_row = windows((third & fourth) | (angle & dihedral), 5, beyond=4).all(-1)
    helix = windows(five_in_a_row, 5, beyond=0).any(-1)
    return helix | (windows(helix, 3, beyond=1).any(-1) & (third | angle))


def _distance(first: Tensor, *others: Tensor) -> Tensor:
    return (others[-1] - first).norm(dim=-1)


def _angle(first: Tensor, middle: Tensor, last: Tensor) -> Tensor:
    return torch.cosine_similarity(first - middle, last - middle, dim=-1).acos().rad2deg()


def _dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Angle between the planes of a, b, c and of b, c, d; positive for a right-handed screw."""
    left, right = torch.linalg.cross(b - a, c - b), torch.linalg.cross(c - b, d - c)
    along = torch.nn.functional.normalize(c - b, dim=-1)
    sine = (torch.linalg.cross(left, right) * along).sum(-1)
    return torch.atan2(sine, (left * right).sum(-1)).rad2deg()


def helix_content(positions: Float[Tensor, "*batch atom 3"], nodes: Structure) -> float:
    """Fraction of the amino acids in a helix, mean over the structures; NaN without any."""
    amino_acids = nodes.atom_names == "CA"
    parts = positions.reshape(-1, len(nodes), 3).split(64)  # in parts: memory stays small
    fractions = [in_helix(part, nodes)[:, amino_acids].double().mean(-1) for part in parts]
    return float(torch.cat(fractions).mean())
