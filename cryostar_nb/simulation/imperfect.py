"""A reference as it is at the start of a project: not quite the molecule in the images."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation

from cryostar_nb.backbone import in_helix
from cryostar_nb.errors import InputError
from cryostar_nb.simulation.faults import stream
from cryostar_nb.simulation.options import ImperfectReference
from cryostar_nb.structure import Structure, bonds, node_atoms, residue_ranges

BACKBONE = ("N", "CA", "C", "O", "OXT", "CB")  # these stay when a side chain turns about CA-CB
NO_ROTAMER = ("PRO", "ALA", "GLY")
TURN_DEG = 120.0
END_MARGIN = 5  # residues at the ends of a chain that are no loop
STRETCHED = 6.1  # Å from Cα to the next but one, in a strand
LEAST_DOMAIN = 10  # residues


@dataclass(frozen=True)
class Reference:
    """A model of one state, and how it differs; nodes are counted from 0 in the true molecule."""

    atoms: Structure
    state: int  # of the path, counted from 1
    nodes: Int[np.ndarray, " kept"]  # that the model has
    turned: Int[np.ndarray, " turned"]  # nodes whose side chain is turned
    moved: Int[np.ndarray, " moved"]  # nodes of the misplaced domain
    displacement: Float[np.ndarray, "3"]  # of that domain, in Å

    def truth(self) -> dict[str, np.ndarray]:
        """What `truth.npz` says of the reference."""
        return {
            "reference_nodes": self.nodes,
            "reference_state": np.array(self.state),
            "reference_turned": self.turned,
            "reference_moved": self.moved,
            "reference_displacement": self.displacement,
        }


def make_reference(
    atoms: Structure,
    path: Float[np.ndarray, "state atom 3"],
    settings: ImperfectReference,
    seed: int,
) -> Reference:
    """The model of a state, with the imperfections that the settings ask for.

    Raises InputError for a state that the path does not have, and for a gap that finds no loop.
    """
    state = len(path) if settings.reference_state == "last" else settings.reference_state
    if state > len(path):
        problem = f"reference_state = {{value}}, and the path has {len(path)} states"
        raise InputError(problem, value=state, remedy="give one of them, or last")
    ranges = np.array(residue_ranges(atoms))
    node_of = np.repeat(np.arange(len(ranges)), np.diff(ranges, axis=1)[:, 0])
    nodes, positions = atoms[node_atoms(atoms)], path[state - 1].copy()
    turned = none = np.zeros(0, dtype=np.int64)
    if settings.reference_rotamers:
        rng = stream(seed, "reference_rotamers")
        turned = _turn_side_chains(atoms, positions, settings.reference_rotamers, rng)
    moved, displacement = none, np.zeros(3)
    if settings.reference_shift:
        moved = _domain(path[:, node_atoms(atoms)], nodes)
        direction = stream(seed, "reference_shift").standard_normal(3)
        displacement = settings.reference_shift * direction / np.linalg.norm(direction)
        positions[np.isin(node_of, moved)] += displacement
    missing = none
    if settings.reference_gap:
        missing = _loop(nodes, settings.reference_gap, stream(seed, "reference_gap"))
    kept = ~np.isin(node_of, missing)
    return Reference(
        atoms=atoms.with_positions(positions)[kept],
        state=state,
        nodes=np.setdiff1d(np.arange(len(nodes)), missing),
        turned=turned,
        moved=moved,
        displacement=displacement,
    )


def _turn_side_chains(
    atoms: Structure, positions: np.ndarray, share: float, rng: np.random.Generator
) -> Int[np.ndarray, " turned"]:
    """Turn, in place, all beyond CB by +120° or -120° about CA-CB; return the residues' nodes."""
    ranges = residue_ranges(atoms)

    def can_turn(node: int) -> bool:
        first, last = ranges[node]
        names = set(atoms.atom_names[first:last].tolist())
        beyond = names - set(BACKBONE)
        return (
            {"CA", "CB"} <= names and bool(beyond) and atoms.residue_names[first] not in NO_ROTAMER
        )

    able = np.flatnonzero([can_turn(node) for node in range(len(ranges))])
    turned = np.sort(rng.choice(able, round(share * len(able)), replace=False))
    for node, sense in zip(turned.tolist(), rng.choice([-1, 1], len(turned)), strict=True):
        first, last = ranges[node]
        names = atoms.atom_names[first:last].tolist()
        alpha, beta = (positions[first + names.index(name)] for name in ("CA", "CB"))
        axis = (beta - alpha) / np.linalg.norm(beta - alpha)
        turn = Rotation.from_rotvec(sense * math.radians(TURN_DEG) * axis)
        beyond = [first + i for i, name in enumerate(names) if name not in BACKBONE]
        positions[beyond] = turn.apply(positions[beyond] - beta) + beta
    return turned


def _domain(path: Float[np.ndarray, "state node 3"], nodes: Structure) -> Int[np.ndarray, " moved"]:
    """The stretch of a chain about the node that moves most, of all that moves a quarter as far.

    Ten nodes at least where the chain has them, which all move alike where nothing moves.
    """
    moves = np.linalg.norm(path - path[0], axis=-1).max(axis=0)
    peak = int(moves.argmax())
    chain = np.flatnonzero(nodes.chains == nodes.chains[peak])
    far = set(chain[moves[chain] > moves[peak] / 4].tolist())
    first = last = peak
    while first - 1 in far:
        first -= 1
    while last + 1 in far:
        last += 1
    short = max(0, min(LEAST_DOMAIN, len(chain)) - (last - first + 1))
    first = max(int(chain[0]), first - short)
    last = min(int(chain[-1]), max(last, first + min(LEAST_DOMAIN, len(chain)) - 1))
    return np.arange(first, last + 1)


def _loop(nodes: Structure, length: int, rng: np.random.Generator) -> Int[np.ndarray, " missing"]:
    """One of the stretches of this many residues with the most coil, far from the chain's ends."""
    positions = torch.from_numpy(nodes.positions)
    coil = ~in_helix(positions, nodes).numpy() & ~_stretched(nodes)
    bonded = np.zeros(len(nodes), dtype=bool)
    bonded[bonds(nodes)[:, 0]] = True  # to the next
    starts = [
        first
        for first in range(END_MARGIN, len(nodes) - length - END_MARGIN + 1)
        if bonded[first - END_MARGIN : first + length + END_MARGIN - 1].all()
    ]
    scores = np.array([coil[first : first + length].sum() for first in starts], dtype=np.int64)
    before, without = len(bonds(nodes)), np.arange(len(nodes))
    for first in np.array(starts, dtype=np.int64)[
        np.lexsort((rng.random(len(starts)), -scores))
    ].tolist():
        missing = np.arange(first, first + length)
        if len(bonds(nodes[np.delete(without, missing)])) == before - length - 1:
            return missing  # the ends of the gap do not look bonded
    problem = "reference_gap = {value}: no chain has such a stretch away from its ends"
    raise InputError(problem, value=length, remedy="give a shorter one")


def _stretched(nodes: Structure) -> Bool[np.ndarray, " node"]:
    """Residues whose two neighbours are as far from each other as in a strand."""
    stretched = np.zeros(len(nodes), dtype=bool)
    span = np.linalg.norm(nodes.positions[2:] - nodes.positions[:-2], axis=-1)
    stretched[1:-1] = (span > STRETCHED) & (nodes.chains[2:] == nodes.chains[:-2])
    return stretched
