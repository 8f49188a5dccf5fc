"""Atoms finer than the images are work for nothing: few Gaussians at groups of atoms show the same.

The atoms of a residue are joined to groups by Ward's criterion (J. Am. Stat. Assoc. 58:236, 1963):
always those two whose union spreads least about its centre, up to one height in all residues.
`group_atoms` finds the height at which the images still correlate with those of all atoms, and
`fitted_centres` moves the Gaussians to where the images are most alike. There the images of the
atoms pull on none of them, so that a structure that is fitted to images is not led astray.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.losses import correlation_loss
from cryostar_nb.projector import project_band, rotate

VIEWS = 16  # random directions in which images are compared at a time
HEIGHT_STEP = 0.05  # Å, within which the height is found
FIT_STEPS, FIT_RATE = 120, 0.05  # of Adam, Å a step at first; more change no centre by 0.02 Å
FIT_SETS = 16  # of views, in turn: fewer are not all directions


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
    joints, heights = _trees(positions, ranges)
    band, rotations = _band_of(positions, resolution), _views(0)
    positions = positions - positions.mean(0)

    def images(groups: Int[np.ndarray, " atom"]) -> torch.Tensor:
        width = torch.tensor(group_width(positions, electrons, groups, sigma))
        centres = centroids(positions, electrons, groups)
        return _images(centres, np.bincount(groups, electrons), width, band, rotations)

    exact = images(np.arange(len(positions)))

    def cut(height: float) -> Int[np.ndarray, " atom"]:
        return _groups(joints[heights <= height], len(positions))

    low, high = 0.0, float(heights.max(initial=0.0))
    best, coarsest = cut(low), cut(high)
    if torch.cosine_similarity(images(coarsest), exact, dim=-1).mean() >= correlation:
        return coarsest
    while high - low > HEIGHT_STEP:
        height = (low + high) / 2
        groups = cut(height)
        if torch.cosine_similarity(images(groups), exact, dim=-1).mean() >= correlation:
            low, best = height, groups
        else:
            high = height
    return best


@torch.enable_grad()
def fitted_centres(
    positions: Float[np.ndarray, "atom 3"],
    electrons: Float[np.ndarray, " atom"],
    groups: Int[np.ndarray, " atom"],
    *,
    sigma: float,
    resolution: float,
) -> Float[np.ndarray, "group 3"]:
    """Centres of the groups, in Å, whose images correlate best with those of the atoms.

    The images are those of `group_atoms`, in more directions; the search begins at the centroids
    and moves a centre by half an Å or so.
    """
    band, middle = _band_of(positions, resolution), positions.mean(0)
    width = torch.tensor(group_width(positions, electrons, groups, sigma))
    atoms, amplitudes = positions - middle, np.bincount(groups, electrons)
    sets = [_views(number) for number in range(FIT_SETS)]
    exact = [_images(atoms, electrons, torch.tensor(sigma), band, views) for views in sets]
    centres = torch.from_numpy(centroids(atoms, electrons, groups)).float().requires_grad_()
    optimiser = torch.optim.Adam([centres], FIT_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, FIT_STEPS)
    for step in range(FIT_STEPS):
        images = _images(centres, amplitudes, width, band, sets[step % FIT_SETS])
        optimiser.zero_grad()
        correlation_loss(exact[step % FIT_SETS], images).backward()
        optimiser.step()
        schedule.step()
    return centres.detach().double().numpy() + middle


def _images(
    centres: Float[np.ndarray, "gaussian 3"] | Float[torch.Tensor, "gaussian 3"],
    amplitudes: Float[np.ndarray, " gaussian"],
    width: Float[torch.Tensor, ""],
    band: Band,
    rotations: Float[torch.Tensor, "view 3 3"],
) -> Float[torch.Tensor, "view band"]:
    """Clean images, without CTF."""
    turned = rotate(torch.as_tensor(centres).float(), rotations)
    return project_band(turned, torch.as_tensor(amplitudes).float(), width, band)


def _trees(
    positions: Float[np.ndarray, "atom 3"], ranges: list[tuple[int, int]]
) -> tuple[Int[np.ndarray, "joint 2"], Float[np.ndarray, " joint"]]:
    """The trees of all residues: which node hangs on which, and at which height, in Å.

    Atoms are the first nodes, and unions follow.
    """
    joints, heights, count = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0)], len(positions)
    for first, last in ranges:
        size = last - first
        if size == 1:
            continue
        tree = linkage(positions[first:last], "ward")
        parts = tree[:, :2].astype(np.int64)
        parts += np.where(parts < size, first, count - size)
        unions = np.arange(count, count + len(tree))
        joints.append(np.stack([unions.repeat(2), parts.ravel()], axis=1))
        heights.append(tree[:, 2].repeat(2))
        count += len(tree)
    return np.concatenate(joints), np.concatenate(heights)


def _groups(joints: Int[np.ndarray, "joint 2"], atoms: int) -> Int[np.ndarray, " atom"]:
    """The group of each atom where only these joints hold."""
    size = max(atoms, int(joints.max(initial=0)) + 1)
    graph = coo_array((np.ones(len(joints)), tuple(joints.T)), shape=(size, size))
    labels = connected_components(graph, directed=False)[1][:atoms]
    return np.unique(labels, return_inverse=True)[1]


def _band_of(positions: Float[np.ndarray, "atom 3"], resolution: float) -> Band:
    """Frequencies at which images are compared, of a box that holds the molecule."""
    reach = float(np.linalg.norm(positions - positions.mean(0), axis=-1).max())
    pixel_size = resolution / 4
    return Band(max(16, math.ceil(2.4 * reach / pixel_size)), pixel_size, resolution)


def _views(seed: int) -> Float[torch.Tensor, "view 3 3"]:
    return torch.from_numpy(random_rotations(VIEWS, np.random.default_rng(seed))).float()


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
