"""Paths between two structures: from one end to the other in a number of states."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree

from cryostar_nb.errors import InputError
from cryostar_nb.geometry import pair_distances, superpose
from cryostar_nb.structure import Structure


def matching_atoms(closed: Structure, open_: Structure) -> tuple[Structure, Structure]:
    """The atoms that two structures of the same molecule share, in one order.

    Raises InputError when a residue of one is missing from the other, or has another name there.
    """
    residues = [
        dict(zip(s.residue_keys, s.residue_names.tolist(), strict=True)) for s in (closed, open_)
    ]
    for key in residues[0].keys() | residues[1].keys():
        names = [table.get(key, "absent") for table in residues]
        if names[0] != names[1]:
            raise InputError(
                f"residue chain {key[0]} {key[1]}{key[2]} is {names[0]} in the closed and {names[1]} in the open structure; give two models of the same chains and residues"
            )
    place = {
        (*key, name): i
        for i, (key, name) in enumerate(
            zip(open_.residue_keys, open_.atom_names.tolist(), strict=True)
        )
    }
    shared = [
        (i, place[(*key, name)])
        for i, (key, name) in enumerate(
            zip(closed.residue_keys, closed.atom_names.tolist(), strict=True)
        )
        if (*key, name) in place
    ]
    first, second = map(list, zip(*shared, strict=True))
    return closed[first], open_[second]


def linear_morph(
    closed: Float[np.ndarray, "atom 3"], open_: Float[np.ndarray, "atom 3"], states: int
) -> Float[np.ndarray, "state atom 3"]:
    """Straight-line path. It is simple, and it shrinks whatever rotates: bonds are too short midway."""
    t = np.linspace(0, 1, states)[:, None, None]
    return (1 - t) * closed + t * open_


def rigid_morph(
    closed: Float[np.ndarray, "atom 3"],
    open_: Float[np.ndarray, "atom 3"],
    states: int,
    *,
    cutoff: float = 6.0,
    iterations: int = 150,
) -> Float[np.ndarray, "state atom 3"]:
    """Path on which the distances between near atoms go evenly from one end to the other, so domains turn instead of shrink.

    Elastic network interpolation (Kim, Jernigan & Chirikjian, Biophys. J. 2002): every state minimises, from the straight
    line, the squared errors of the distances of all pairs nearer than `cutoff` Å at both ends, and of a thinned set up to
    three times as far, which makes domains stiff. Each state is superposed on the straight line's.
    """
    straight = linear_morph(closed, open_, states)
    near = cKDTree(closed).query_pairs(cutoff, output_type="ndarray")
    backbone = np.arange(0, len(closed), max(1, len(closed) // 400))
    far = backbone[cKDTree(closed[backbone]).query_pairs(3 * cutoff, output_type="ndarray")]
    pairs = np.concatenate([near, far])
    ends = [np.linalg.norm(end[pairs[:, 0]] - end[pairs[:, 1]], axis=-1) for end in (closed, open_)]
    # A pair far apart at one end is a contact that breaks: it does not hold the domains together.
    lasting = np.abs(ends[0] - ends[1]) < 2.0
    pairs, ends = pairs[lasting], [end[lasting] for end in ends]
    t = torch.linspace(0, 1, states)[:, None]
    targets = (1 - t) * torch.from_numpy(ends[0]).float() + t * torch.from_numpy(ends[1]).float()
    positions = torch.from_numpy(straight).float().requires_grad_()
    optimiser = torch.optim.LBFGS([positions], max_iter=iterations, line_search_fn="strong_wolfe")
    index = torch.from_numpy(pairs)

    def energy() -> torch.Tensor:
        optimiser.zero_grad()
        loss = (pair_distances(positions, index) - targets).square().sum()
        loss.backward()
        return loss

    optimiser.step(energy)
    relaxed = positions.detach().double().numpy()
    path = np.stack([superpose(state, line) for state, line in zip(relaxed, straight, strict=True)])
    path[-1], path[0] = open_, closed
    return path
