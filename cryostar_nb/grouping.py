"""Atoms finer than the images are work for nothing: few Gaussians at groups of atoms show the same.

The atoms of a residue are joined to groups by Ward's criterion (J. Am. Stat. Assoc. 58:236, 1963):
always those two whose union spreads least about its centre, up to one height in all residues.
`group_atoms` finds the height at which the images still correlate with those of all atoms.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage

from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.projector import project_band, rotate

VIEWS = 16  # random directions in which images are compared
HEIGHT_STEP = 0.05  # Å, within which the height is found


def group_atoms(
    positions: Float[np.ndarray, "atom 3"],
    electrons: Float[np.ndarray, " atom"],
    ranges: list[tuple[int, int]],
    *,
    sigma: float,
    resolution: float,
    correlation: float,
) -> Int[np.ndarray, " atom"]:
    """The group of each atom, counted from 0: as few groups as suffice, at least one a residue.

    `ranges` are the first atom of each residue and the one after its last. `correlation` is the
    mean, over random directions, of that of two clean images down to `resolution` Å, without CTF:
    one of all atoms, `sigma` Å wide, and one of the groups, as wide as `group_width` says.
    """
    positions = positions - positions.mean(0)
    trees = [linkage(positions[a:b], "ward") if b - a > 1 else None for a, b in ranges]
    band, rotations = _views(positions, resolution)

    def images(groups: Int[np.ndarray, " atom"]) -> torch.Tensor:
        centres = torch.from_numpy(centroids(positions, electrons, groups)).float()
        amplitudes = torch.from_numpy(np.bincount(groups, electrons)).float()
        width = torch.tensor(group_width(positions, electrons, groups, sigma))
        return project_band(rotate(centres, rotations), amplitudes, width, band)

    exact = images(np.arange(len(positions)))
    low, high = 0.0, max((tree[-1, 2] for tree in trees if tree is not None), default=0.0)
    best, coarsest = _groups(trees, low), _groups(trees, high)
    if torch.cosine_similarity(images(coarsest), exact, dim=-1).mean() >= correlation:
        return coarsest
    while high - low > HEIGHT_STEP:
        height = (low + high) / 2
        groups = _groups(trees, height)
        if torch.cosine_similarity(images(groups), exact, dim=-1).mean() >= correlation:
            low, best = height, groups
        else:
            high = height
    return best


def _groups(trees: list[np.ndarray | None], height: float) -> Int[np.ndarray, " atom"]:
    """Cut the tree of every residue at one height, in Å; None stands for a single atom."""
    labels, count = [], 0
    for tree in trees:
        of_residue = np.ones(1, dtype=np.int64)
        if tree is not None:
            of_residue = fcluster(tree, height, "distance").astype(np.int64)
        labels.append(of_residue - 1 + count)
        count += int(of_residue.max())
    return np.concatenate(labels)


def _views(
    positions: Float[np.ndarray, "atom 3"], resolution: float
) -> tuple[Band, Float[torch.Tensor, "view 3 3"]]:
    """Frequencies and directions in which images are compared; the box holds the molecule."""
    reach = float(np.linalg.norm(positions, axis=-1).max())
    pixel_size = resolution / 4
    box_size = max(16, math.ceil(2.4 * reach / pixel_size))
    rotations = random_rotations(VIEWS, np.random.default_rng(0))
    return Band(box_size, pixel_size, resolution), torch.from_numpy(rotations).float()


def centroids(
    positions: Float[np.ndarray, "atom 3"],
    electrons: Float[np.ndarray, " atom"],
    groups: Int[np.ndarray, " atom"],
) -> Float[np.ndarray, "group 3"]:
    """Centres of the electrons of each group, in Å."""
    sums = [np.bincount(groups, electrons * axis) for axis in positions.T]
    return np.stack(sums, axis=-1) / np.bincount(groups, electrons)[:, None]


def group_width(
    positions: Float[np.ndarray, "atom 3"],
    electrons: Float[np.ndarray, " atom"],
    groups: Int[np.ndarray, " atom"],
    sigma: float,
) -> float:
    """Width of all groups, in Å: that of an atom and the spread along an axis, added in squares."""
    offsets = positions - centroids(positions, electrons, groups)[groups]
    spread = np.average(np.square(offsets).sum(-1), weights=electrons) / 3
    return math.sqrt(sigma**2 + spread)
