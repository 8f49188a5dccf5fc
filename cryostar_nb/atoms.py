"""Every heavy atom of a structure whose nodes are known: carried, turned, and its joints mended.

An atom goes with its residue, as a rigid body in the frame of the residue's node, and what hangs on
the node is turned about it where the network says so. Neighbouring residues then move a little
apart or into each other, and the bonds between them change their length. `relax` mends that.
"""

import itertools

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from cryostar_nb.geometry import pair_distances
from cryostar_nb.structure import Structure, residue_ranges

LONGEST_LINK = 2.2  # Å, of a peptide or phosphodiester bond in the reference
LONGEST_PAIR = 2.7  # Å, of atoms one or two bonds apart
CLASH = 2.2  # Å: atoms of residues that are not neighbours do not come nearer
LINKS = (("C", "N"), ("O3'", "P"))
STEPS, RATE, PULL = 60, 0.03, 0.02  # of the relaxation: Å a step, weight of staying in place


def links(atoms: Structure) -> Int[np.ndarray, "bond 2"]:
    """Pairs of atoms whose bond joins a residue to the next of its chain."""
    found = []
    for (first, middle), (_, last) in itertools.pairwise(residue_ranges(atoms)):
        names = [atoms.atom_names[a:b].tolist() for a, b in ((first, middle), (middle, last))]
        for leaving, entering in LINKS:
            if leaving in names[0] and entering in names[1]:
                found.append((first + names[0].index(leaving), middle + names[1].index(entering)))
    pairs = np.array(found, dtype=np.int64).reshape(-1, 2)
    pairs = pairs[atoms.chains[pairs[:, 0]] == atoms.chains[pairs[:, 1]]]
    length = np.linalg.norm(atoms.positions[pairs[:, 0]] - atoms.positions[pairs[:, 1]], axis=-1)
    return pairs[length < LONGEST_LINK]


def link_error(atoms: Structure, positions: Float[Tensor, "*batch atom 3"]) -> float:
    """Rms change of the bonds between residues, in Å, from their length in the reference.

    0 where there are none.
    """
    pairs = links(atoms)
    there = pair_distances(torch.from_numpy(atoms.positions).to(positions), pairs)
    squares = (pair_distances(positions, pairs) - there).square()
    return float(squares.mean().sqrt()) if len(pairs) else 0.0


def clashes(atoms: Structure, positions: Float[np.ndarray, "atom 3"]) -> int:
    """Number of pairs of atoms nearer than 2.2 Å, of residues that are not neighbours."""
    residue = _residue_of(atoms)
    pairs = cKDTree(positions).query_pairs(CLASH, output_type="ndarray")
    return int((np.abs(residue[pairs[:, 0]] - residue[pairs[:, 1]]) > 1).sum())


def relax(
    atoms: Structure, positions: Float[Tensor, "*batch atom 3"]
) -> Float[Tensor, "*batch atom 3"]:
    """The same atoms with bonds and angles nearer to those of the reference.

    Atoms of one residue, or of two neighbours in a chain, that are nearer than 2.7 Å in the
    reference keep that distance, as far as little steps from where the atoms are allow.
    """
    pairs = torch.from_numpy(_near_pairs(atoms))
    wanted = pair_distances(torch.from_numpy(atoms.positions).to(positions), pairs)
    moved = positions.clone().requires_grad_()
    optimiser = torch.optim.Adam([moved], lr=RATE)
    with torch.enable_grad():
        for _ in range(STEPS):
            stretched = (pair_distances(moved, pairs) - wanted).square().sum()
            loss = stretched + PULL * (moved - positions).square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return moved.detach()


def _near_pairs(atoms: Structure) -> Int[np.ndarray, "pair 2"]:
    """Atoms nearer than 2.7 Å in the reference, of one residue or of two that follow each other."""
    residue = _residue_of(atoms)
    pairs = cKDTree(atoms.positions).query_pairs(LONGEST_PAIR, output_type="ndarray")
    apart = np.abs(residue[pairs[:, 0]] - residue[pairs[:, 1]])
    same_chain = atoms.chains[pairs[:, 0]] == atoms.chains[pairs[:, 1]]
    return pairs[(apart == 0) | ((apart == 1) & same_chain)].astype(np.int64)


def _residue_of(atoms: Structure) -> Int[np.ndarray, " atom"]:
    """The number of each atom's residue, counted from 0."""
    ranges = residue_ranges(atoms)
    return np.repeat(np.arange(len(ranges)), [last - first for first, last in ranges])
