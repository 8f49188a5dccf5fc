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
from scipy.cluster.hierarchy import fcluster, linkage

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
    trees = [linkage(positions[a:b], "ward") if b - a > 1 else None for a, b in ranges]
    band, rotations = _band_of(positions, resolution), _views(0)
    positions = positions - positions.mean(0)

    def images(groups: Int[np.ndarray, " atom"]) -> torch.Tensor:
        width = torch.tensor(group_width(positions, electrons, groups, sigma))
        centres = centroids(positions, electrons, groups)
        return _images(centres, np.bincount(groups, electrons), width, band, rotations)

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
