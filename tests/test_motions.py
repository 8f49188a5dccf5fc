"""Modes of structures, and whether two sets of structures share them."""

import numpy as np
import pytest
import torch

from cryostar_nb.motions import Modes, correlation, displacement, extent, principal_angles


@pytest.fixture
def hinge():
    """500 structures of ten nodes: the last five move along x by up to 6 Å, the first along y."""
    generator = torch.Generator().manual_seed(3)
    places = torch.rand(500, 2, generator=generator) * torch.tensor([6.0, 3.0])
    structures = torch.randn(10, 3, generator=generator).repeat(500, 1, 1)
    structures[:, 5:, 0] += places[:, :1]
    structures[:, 0, 1] += places[:, 1]
    return structures, places


def test_modes_are_the_motions_and_extents_are_rms_over_the_nodes(hinge):
    structures, places = hinge
    modes = Modes.of(structures)
    assert len(modes.directions) == 2
    flat = modes.directions.flatten(1)
    torch.testing.assert_close(flat @ flat.mT, torch.eye(2, dtype=flat.dtype))
    scores = modes.scores(structures)
    found = extent(scores)
    expected = extent(places.double() * torch.tensor([5, 1.0], dtype=torch.float64).sqrt())
    torch.testing.assert_close(found, expected / 10**0.5, rtol=0.01, atol=0)
    assert correlation(scores, places.double()).abs().min() > 0.99


def test_what_moves_too_little_is_no_mode(hinge):
    structures, _ = hinge
    assert len(Modes.of(0.01 * structures).directions) == 1
    still = torch.zeros(20, 4, 3)
    modes = Modes.of(still)
    assert extent(modes.scores(still)).tolist() == [0.0]
    assert correlation(modes.scores(still), modes.scores(still)).tolist() == [0.0]


def test_scores_are_from_the_structures_own_mean(hinge):
    structures, _ = hinge
    modes = Modes.of(structures)
    moved = modes.scores(structures + torch.tensor([5.0, 0.0, 0.0]))
    torch.testing.assert_close(moved, modes.scores(structures), rtol=0, atol=1e-5)


@pytest.mark.parametrize("degrees", [0.0, 20.0, 90.0])
def test_principal_angles_are_those_that_spaces_were_turned_by(degrees):
    first, second = torch.zeros(2, 2, 4, 3, dtype=torch.float64)
    first[0, 0, 0] = first[1, 1, 1] = second[0, 0, 0] = 1
    angle = np.radians(degrees)
    second[1, 1, 1], second[1, 2, 2] = np.cos(angle), np.sin(angle)
    found = principal_angles(Modes(first), Modes(second))
    np.testing.assert_allclose(found, [0.0, degrees], atol=1e-5)


def test_displacement_is_between_the_ends(hinge):
    structures, places = hinge
    found = displacement(structures, places[:, 0])
    assert found[1:5].tolist() == pytest.approx([0.0] * 4, abs=1e-5)
    assert found[5:].tolist() == pytest.approx([5.4] * 5, abs=0.15)
    assert found[0] < 0.7
