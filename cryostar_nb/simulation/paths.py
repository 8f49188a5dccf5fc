"""Paths between two structures: from one end to the other in a number of states."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree

from cryostar_nb.errors import InputError
from cryostar_nb.geometry import pair_distances, superpose
from cryostar_nb.structure import Structure

NEAR = 6.0  # Å between atoms whose distance a rigid morph keeps


def matching_atoms(start: Structure, end: Structure) -> tuple[Structure, Structure]:
    """The atoms that two structures of the same molecule share, in the order of the first.

    Raises InputError when a residue of one is missing from the other, or has another name there.
    """
    names_at_start, names_at_end = (
        dict(zip(ends.residue_keys, ends.residue_names.tolist(), strict=True))
        for ends in (start, end)
    )
    for key in names_at_start.keys() | names_at_end.keys():
        name, other = (table.get(key, "absent") for table in (names_at_start, names_at_end))
        if name != other:
            residue = f"residue chain {key[0]} {key[1]}{key[2]}"
            problem = f"{residue} is {name} at the start and {other} at the end"
            raise InputError(problem, remedy="give two models of the same chains and residues")
    row_at_end = {key: row for row, key in enumerate(_atom_keys(end))}
    shared = [(row, row_at_end[k]) for row, k in enumerate(_atom_keys(start)) if k in row_at_end]
    first, second = map(list, zip(*shared, strict=True))
    return start[first], end[second]


def _atom_keys(atoms: Structure) -> list[tuple[str, int, str, str]]:
    """Chain, residue number, insertion code and name of each atom."""
    names = atoms.atom_names.tolist()
    return [(*key, name) for key, name in zip(atoms.residue_keys, names, strict=True)]


def linear_morph(
    *, start: Float[np.ndarray, "atom 3"], end: Float[np.ndarray, "atom 3"], states: int
) -> Float[np.ndarray, "state atom 3"]:
    """Straight lines from start to end. What rotates shrinks on the way: bonds become too short."""
    t = np.linspace(0, 1, states)[:, None, None]
    return (1 - t) * start + t * end


def rigid_morph(
    *,
    start: Float[np.ndarray, "atom 3"],
    end: Float[np.ndarray, "atom 3"],
    states: int,
) -> Float[np.ndarray, "state atom 3"]:
    """A path on which distances between near atoms change evenly, so that domains keep their shape.

    Elastic network interpolation (Kim, Jernigan & Chirikjian, Biophys. J. 2002): every state
    minimises, from the straight line, the squared errors of the distances of all pairs nearer than
    6 Å at the start, and of a thinned set of pairs up to three times as far, which makes
    domains stiff. Each state is superposed on the straight line's.
    """
    straight = linear_morph(start=start, end=end, states=states)
    near = cKDTree(start).query_pairs(NEAR, output_type="ndarray")
    thinned = np.arange(0, len(start), max(1, len(start) // 400))
    far = thinned[cKDTree(start[thinned]).query_pairs(3 * NEAR, output_type="ndarray")]
    pairs = np.concatenate([near, far])
    lengths = [np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=-1) for x in (start, end)]
    # A pair far apart at one end is a contact that breaks: it does not hold the domains together.
    lasting = np.abs(lengths[0] - lengths[1]) < 2.0  # Å
    index = torch.from_numpy(pairs[lasting])
    at_start, at_end = (torch.from_numpy(length[lasting]).float() for length in lengths)
    t = torch.linspace(0, 1, states)[:, None]
    targets = (1 - t) * at_start + t * at_end  # (state, pair)
    positions = torch.from_numpy(straight).float().requires_grad_()
    optimiser = torch.optim.LBFGS([positions], max_iter=150, line_search_fn="strong_wolfe")

    def energy() -> torch.Tensor:
        optimiser.zero_grad()
        loss = (pair_distances(positions, index) - targets).square().sum()
        loss.backward()
        return loss

    optimiser.step(energy)
    relaxed = positions.detach().double().numpy()
    path = np.stack([superpose(state, line) for state, line in zip(relaxed, straight, strict=True)])
    path[-1], path[0] = end, start
    return path
