"""Structures in the frame of what does not move."""

import math

import numpy as np
import pytest
import torch

from cryostar_nb.gauge import Gauge, still_weights, superpose_weighted
from cryostar_nb.geometry import random_rotations, rotations_from_vectors, superpose


@pytest.fixture
def cloud(rng):
    """Forty atoms as far apart as in a protein, in Å."""
    return torch.from_numpy(rng.normal(scale=12, size=(40, 3)))


def turned(positions, rng, degrees):
    """Turned by so many degrees about a random axis, and moved."""
    axis = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal(3)), dim=0)
    rotation = rotations_from_vectors(math.radians(degrees) * axis)
    return positions @ rotation.mT + torch.from_numpy(rng.normal(scale=30, size=3))


@pytest.mark.parametrize("degrees", [0, 0.01, 5, 60, 120, 170, 180])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rigid_motion_of_any_size_is_undone(degrees, dtype, cloud, rng):
    weights = torch.from_numpy(rng.uniform(0, 1, 40)).to(dtype)
    moved = torch.stack([turned(cloud, rng, degrees) for _ in range(5)]).to(dtype)
    back = superpose_weighted(moved, cloud.to(dtype), weights)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(back, cloud.to(dtype).expand(5, -1, -1), atol=tolerance, rtol=0)


def test_with_equal_weights_it_is_the_superposition_of_the_least_rmsd(cloud, rng):
    """Also of a mirror image, which no rotation makes fit."""
    mobile = torch.stack(
        [turned(cloud, rng, 100), cloud + torch.from_numpy(rng.normal(size=(40, 3))), -cloud]
    )
    expected = np.stack([superpose(one, cloud.numpy()) for one in mobile.numpy()])
    found = superpose_weighted(mobile, cloud, torch.full((40,), 3.0, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_no_small_motion_brings_a_structure_nearer_to_its_own_target(cloud, rng):
    mobile, targets = torch.from_numpy(rng.normal(scale=8, size=(2, 6, 40, 3)))
    weights = torch.from_numpy(rng.uniform(0, 1, 40))

    def distance(x):
        return ((x - targets).square().sum(-1) * weights).sum(-1)

    placed = superpose_weighted(mobile, targets, weights)
    for vector in 1e-3 * torch.cat([torch.eye(3), -torch.eye(3)]).double():
        assert (distance(placed @ rotations_from_vectors(vector).mT) > distance(placed)).all()
        assert (distance(placed + vector) > distance(placed)).all()


@pytest.mark.parametrize("degrees", [2, 150])
def test_the_derivative_is_that_of_finite_differences(degrees, rng):
    target = torch.from_numpy(rng.normal(scale=5, size=(7, 3)))
    weights = torch.from_numpy(rng.uniform(0.1, 1, 7))
    mobile = turned(target + torch.from_numpy(rng.normal(size=(7, 3))), rng, degrees)[None]
    inputs = (mobile.requires_grad_(), target.requires_grad_(), weights.requires_grad_())
    assert torch.autograd.gradcheck(superpose_weighted, inputs, atol=1e-7, rtol=1e-6)


def test_a_rigid_motion_has_no_gradient(cloud, rng):
    """What comes out does not depend on the frame of what went in."""
    bent = cloud + torch.from_numpy(rng.normal(size=(40, 3)))
    vector = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    moved = (bent @ rotations_from_vectors(vector).mT + shift)[None]
    placed = superpose_weighted(moved, cloud, torch.ones(40, dtype=torch.float64))
    (placed * torch.from_numpy(rng.standard_normal((40, 3)))).sum().backward()
    assert vector.grad.abs().max() < 1e-8 and shift.grad.abs().max() < 1e-10


@pytest.mark.parametrize("shape", ["a point", "a line"])
def test_what_has_no_orientation_stays_finite(shape):
    positions = torch.zeros(1, 9, 3)
    if shape == "a line":
        positions[0, :, 0] = torch.arange(9) - 4
    positions.requires_grad_()
    target = torch.arange(9)[:, None] * torch.tensor([0.0, 1.0, 0.0])
    placed = superpose_weighted(positions, target, torch.ones(9))
    placed.square().sum().backward()
    assert placed.isfinite().all() and positions.grad.isfinite().all()
    if shape == "a line":
        torch.testing.assert_close(placed[0].detach(), target, atol=1e-4, rtol=0)


@pytest.fixture
def hinged(cloud, rng):
    """Structures whose last ten atoms move by 10 Å and more, each in a frame of its own."""
    bent = cloud.repeat(20, 1, 1)
    bent[:, 30:, 0] += torch.linspace(10, 20, 20, dtype=torch.float64)[:, None]
    return torch.stack([turned(one, rng, 20) for one in bent]), bent


def test_what_moves_has_no_weight(cloud, hinged):
    weights = still_weights(hinged[0], cloud)
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights[30:].max()) < 1e-3 * float(weights[:30].min())
    torch.testing.assert_close(weights[:30], torch.full((30,), 1 / 30).double(), rtol=0.01, atol=0)


def test_the_scale_says_what_counts_as_still(cloud, hinged):
    assert float(still_weights(hinged[1], cloud, scale=1000.0)[30:].min()) > 0.9 / 40


def test_in_a_gauge_what_does_not_move_stays_and_only_the_motion_is_left(cloud, hinged):
    gauge = Gauge.of(hinged[0], cloud)
    torch.testing.assert_close(gauge.apply(hinged[0]), hinged[1], atol=0.02, rtol=0)
    again = gauge.apply(gauge.apply(hinged[0]))
    torch.testing.assert_close(again, gauge.apply(hinged[0]), atol=1e-9, rtol=0)
    one = hinged[0][3]
    torch.testing.assert_close(gauge.apply(one), gauge.apply(hinged[0])[3])


def test_structures_that_are_only_turned_lie_on_the_reference_in_the_gauge(cloud, rng):
    rotations = torch.from_numpy(random_rotations(8, rng))
    spun = cloud @ rotations.mT
    torch.testing.assert_close(
        Gauge.of(spun, cloud).apply(spun), cloud.expand(8, -1, -1), atol=1e-9, rtol=0
    )
