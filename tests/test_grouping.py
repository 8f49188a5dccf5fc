"""Groups of atoms: few, of one residue each, and showing what all atoms show."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage

from cryostar_nb.density import atom_density, group_density
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.grouping import (
    _groups,
    _trees,
    centroids,
    fitted_centres,
    group_atoms,
    group_width,
)
from cryostar_nb.io.structures import read_structure
from cryostar_nb.losses import correlation_loss
from cryostar_nb.projector import project_band, rotate
from cryostar_nb.structure import coarse_grain, residue_ranges


@pytest.fixture(scope="module")
def atoms():
    return read_structure(Path(__file__).parent.parent / "data" / "1ake.pdb")


def correlation(atoms, density, resolution):
    """Of clean images at 40 other directions, at the centre of a larger box, with all atoms'."""
    band = Band(96, resolution / 5, resolution)
    directions = torch.from_numpy(random_rotations(40, np.random.default_rng(5))).float()
    nodes = torch.from_numpy(coarse_grain(atoms).positions).float()

    def images(gaussians):
        centres = rotate(gaussians.centres(nodes), directions)
        return project_band(centres, gaussians.amplitudes, gaussians.sigma, band)

    exact = images(atom_density(atoms, 0.8))
    return torch.cosine_similarity(images(density), exact, dim=-1).mean().item()


@pytest.mark.parametrize("height", [0.0, 1.3, 2.0, 3.5, 100.0])
def test_all_residues_are_cut_at_one_height(height, atoms):
    ranges = residue_ranges(atoms)
    joints, heights = _trees(atoms.positions, ranges)
    found = _groups(joints[heights <= height], len(atoms))
    assert sorted(set(found)) == list(range(found.max() + 1))
    for first, last in ranges:
        expected = fcluster(linkage(atoms.positions[first:last], "ward"), height, "distance")
        pairs = set(zip(found[first:last].tolist(), expected.tolist(), strict=True))
        assert len(pairs) == len(set(expected)) == len(set(found[first:last]))
    assert len(set(found)) == sum(len(set(found[first:last])) for first, last in ranges)


@pytest.mark.parametrize(("resolution", "wanted"), [(4.0, 0.995), (6.0, 0.995), (4.0, 0.99)])
def test_groups_show_what_was_asked_for_and_are_few(resolution, wanted, atoms):
    density = group_density(atoms, 0.8, resolution, wanted)
    assert len(coarse_grain(atoms)) < len(density.amplitudes) < len(atoms) / 3
    found = correlation(atoms, density, resolution)
    assert wanted + 0.2 * (1 - wanted) < found < 1 - 0.1 * (1 - wanted)


def test_images_of_atoms_do_not_pull_on_fitted_groups(atoms):
    """In directions that the fit has not seen: the gradient of the loss at the centres."""
    settings = {"sigma": 0.8, "resolution": 4.0}
    ranges, electrons = residue_ranges(atoms), atoms.electrons
    groups = group_atoms(atoms.positions, electrons, ranges, **settings, correlation=0.99)
    width = torch.tensor(group_width(atoms.positions, electrons, groups, 0.8))
    amplitudes = torch.from_numpy(np.bincount(groups, electrons)).float()
    band = Band(96, 1.0, 4.0)
    directions = torch.from_numpy(random_rotations(60, np.random.default_rng(8))).float()
    every = torch.from_numpy(atoms.positions).float()
    weights = torch.from_numpy(electrons).float()
    exact = project_band(rotate(every, directions), weights, torch.tensor(0.8), band)

    def pull(centres):
        leaf = torch.from_numpy(centres).float().requires_grad_()
        images = project_band(rotate(leaf, directions), amplitudes, width, band)
        (gradient,) = torch.autograd.grad(correlation_loss(exact, images), leaf)
        return float(gradient.norm())

    fitted = fitted_centres(atoms.positions, electrons, groups, **settings)
    assert pull(fitted) < 0.5 * pull(centroids(atoms.positions, electrons, groups))
    assert np.linalg.norm(fitted.mean(0) - atoms.positions.mean(0)) < 0.3


def test_finer_images_need_more_groups(atoms):
    counts = [len(group_density(atoms, 0.8, low_pass).amplitudes) for low_pass in (2.5, 3, 4, 6, 8)]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == 5


def test_there_is_at_least_a_group_for_each_residue(atoms):
    nodes, density = coarse_grain(atoms), group_density(atoms, 0.8, 20.0)
    assert len(density.amplitudes) == len(nodes)
    assert density.amplitudes.tolist() == pytest.approx(nodes.electrons.tolist(), rel=1e-5)


def test_a_group_is_of_one_residue_and_keeps_its_electrons_and_their_centre(atoms):
    ranges = residue_ranges(atoms)
    groups = group_atoms(
        atoms.positions + 1000,  # wherever the molecule lies
        atoms.electrons,
        ranges,
        sigma=0.8,
        resolution=4.0,
        correlation=0.995,
    )
    residue = np.repeat(np.arange(len(ranges)), [b - a for a, b in ranges])
    assert sorted(set(groups.tolist())) == list(range(groups.max() + 1))
    for group in range(groups.max() + 1):
        assert len(set(residue[groups == group])) == 1
    assert (np.diff(residue[np.unique(groups, return_index=True)[1]]) >= 0).all()
    nodes, density = coarse_grain(atoms), group_density(atoms, 0.8, 4.0)
    assert float(density.amplitudes.sum()) == pytest.approx(nodes.electrons.sum())
    centres = density.centres(torch.from_numpy(nodes.positions).float())
    middle = (centres * density.amplitudes[:, None]).sum(0) / density.amplitudes.sum()
    everything = atom_density(atoms, 0.8)
    expected = np.average(atoms.positions, axis=0, weights=everything.amplitudes)
    np.testing.assert_allclose(middle, expected, atol=0.1)


def test_groups_are_fitted_wherever_they_are_asked_for(atoms):
    """Also while images are made without gradients."""
    with torch.no_grad():
        within = group_density(atoms, 0.8, 8.0)
    outside = group_density(atoms, 0.8, 8.0)
    assert torch.equal(within.carried.offsets, outside.carried.offsets)
    assert not outside.carried.offsets.requires_grad


def test_single_atoms_are_as_wide_as_an_atom_and_groups_by_their_spread():
    positions = np.array([[0.0, 0, 0], [2.0, 0, 0], [9.0, 9, 9]])
    electrons = np.array([6.0, 6, 12])
    apart, joined = np.arange(3), np.array([0, 0, 1])
    assert group_width(positions, electrons, apart, 0.8) == pytest.approx(0.8)
    # Half of the electrons lie 1 Å off along one axis of three.
    expected = (0.8**2 + 0.5 / 3) ** 0.5
    assert group_width(positions, electrons, joined, 0.8) == pytest.approx(expected)
    assert centroids(positions, electrons, joined).tolist() == [[1, 0, 0], [9, 9, 9]]
