"""Sums over pairs of nodes are those of the distances; clashes are those of brute force."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from cryostar_nb.fast import pairs as of_pairs
from cryostar_nb.geometry import pair_distances
from cryostar_nb.losses import stable_edges


def by_atom(positions):
    """The layout that the sums take: (batch, atom, 3) becomes (atom, 3, batch)."""
    return positions.permute(1, 2, 0).contiguous()


def length_change_sums(positions, pairs, lengths):
    return of_pairs.length_change_sums(by_atom(positions), pairs, lengths)


def clash_sums(positions, bonded, threshold):
    return of_pairs.clash_sums(by_atom(positions), bonded, threshold)


@pytest.fixture
def fresh():
    """A generator with another seed in each run of the tests; pytest shows it when a test fails."""
    generator = torch.Generator()
    print("seed", generator.seed())
    return generator


# Changes of length


@pytest.fixture
def network(fresh):
    """Twelve structures of forty nodes, 200 pairs of them, and their lengths in another one."""
    pairs = torch.randint(40, (200, 2), generator=fresh)
    pairs[:, 1] = (pairs[:, 0] + 1 + pairs[:, 1] % 39) % 40
    reference = torch.randn(40, 3, generator=fresh) * 10
    return torch.randn(12, 40, 3, generator=fresh) * 10, pairs, pair_distances(reference, pairs)


def test_the_sums_are_those_of_the_distances(network):
    positions, pairs, lengths = network
    changes = (pair_distances(positions.double(), pairs) - lengths.double()).numpy()
    sums, squares = length_change_sums(positions, pairs, lengths)
    np.testing.assert_allclose(sums, changes.sum(0), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(squares, (changes**2).sum(0), rtol=1e-5, atol=1e-4)
    variance = squares / 12 - (sums / 12).square()
    np.testing.assert_allclose(
        variance, pair_distances(positions, pairs).var(0, correction=0), rtol=1e-3, atol=1e-3
    )


def test_their_gradient_is_that_of_the_distances(network, fresh):
    positions, pairs, lengths = network
    of_sums, of_squares = torch.randn(2, 200, generator=fresh, dtype=torch.float64)
    of_sums[:50] = of_squares[:50] = 0  # edges that adaptive relaxation has released
    fused, plain = positions.clone().requires_grad_(), positions.double().requires_grad_()
    sums, squares = length_change_sums(fused, pairs, lengths)
    ((sums * of_sums).sum() + (squares * of_squares).sum()).backward()
    changes = pair_distances(plain, pairs) - lengths
    ((changes.sum(0) * of_sums).sum() + (changes.square().sum(0) * of_squares).sum()).backward()
    assert (fused.grad - plain.grad).norm() < 1e-5 * plain.grad.norm()


def test_the_variance_of_edges_that_have_moved_far_is_still_right():
    positions = torch.zeros(64, 2, 3)
    positions[:, 1, 0] = (
        30 + 0.01 * torch.arange(64) / 64
    )  # 18 Å longer than in the reference, and hardly varying
    sums, squares = length_change_sums(positions, torch.tensor([[0, 1]]), torch.tensor([12.0]))
    assert (squares / 64 - (sums / 64).square()).item() == pytest.approx(
        positions[:, 1, 0].double().var(correction=0).item(), rel=1e-3
    )


def test_coinciding_nodes_get_no_gradient_that_is_not_a_number():
    positions = torch.zeros(2, 3, 3, requires_grad=True)
    _, squares = length_change_sums(
        positions, torch.tensor([[0, 1], [1, 2]]), torch.tensor([3.8, 3.8])
    )
    squares.sum().backward()
    assert torch.isfinite(positions.grad).all()


# The percentile of the variances


@pytest.mark.parametrize("percentile", [0.1, 37.5, 80, 95, 99.9])
@pytest.mark.parametrize("count", [1, 2, 3, 101, 1000])
def test_stable_edges_are_those_below_numpys_percentile(percentile, count, fresh):
    variance = torch.rand(count, generator=fresh, dtype=torch.float64)
    below = variance.numpy() < np.percentile(variance.numpy(), percentile)
    expected = below if below.any() else np.ones(count, dtype=bool)
    assert stable_edges(variance, percentile).tolist() == expected.tolist()


# Clashes


def brute_force(positions, bonded, threshold):
    """Penalty, number of clashes and gradient of the penalty, by looking at every pair."""
    positions = positions.double().requires_grad_()
    i, j = torch.triu_indices(positions.shape[1], positions.shape[1], 1)
    apart = ~((j == i + 1) & bonded[i])
    depth = (threshold - pair_distances(positions, torch.stack([i, j], -1)[apart])).clamp(min=0)
    penalty = depth.square().sum(-1)
    penalty.sum().backward()
    return penalty.detach(), (depth > 0).sum(-1), positions.grad


@pytest.mark.parametrize("spread", [3.0, 8.0, 40.0, 1e5], ids=lambda spread: f"within {spread:g} Å")
@pytest.mark.parametrize("threshold", [4.0, 2.5])
def test_clashes_are_those_of_brute_force(spread, threshold, fresh):
    positions = (torch.rand(3, 90, 3, generator=fresh) - 0.5) * spread
    positions[:, ::7] = positions[:, 1::7] + torch.randn(
        3, 13, 3, generator=fresh
    )  # so that some clash
    bonded = torch.rand(90, generator=fresh) < 0.7
    positions[:, 0], bonded[0] = positions[:, 1] + 0.5, False  # and one does in any case
    leaf = positions.clone().requires_grad_()
    penalties, counts = clash_sums(leaf, bonded, threshold)
    penalties.sum().backward()
    expected, number, gradient = brute_force(positions, bonded, threshold)
    assert counts.tolist() == number.tolist() and counts.min() > 0
    # Far from the origin, float32 places an atom only to 0.004 Å.
    np.testing.assert_allclose(penalties.detach(), expected, rtol=1e-4 if spread < 1e3 else 2e-2)
    assert (leaf.grad - gradient).norm() < (1e-4 if spread < 1e3 else 2e-2) * gradient.norm()


def test_a_pair_across_cells_in_each_direction_is_found():
    steps = torch.tensor(
        [
            [x, y, z]
            for x in (-1, 0, 1)
            for y in (-1, 0, 1)
            for z in (-1, 0, 1)
            if (x, y, z) != (0, 0, 0)
        ]
    )
    for corner in torch.tensor([[0.0, 0, 0], [8, 8, 8], [-8, 0.01, 7.99], [4, -4, 12]]):
        positions = torch.stack([torch.stack([corner, corner + 1.9 * step]) for step in steps])
        _, counts = clash_sums(positions, torch.zeros(2, dtype=torch.bool), 4.0)
        assert counts.tolist() == [1.0] * 26


def test_neighbours_clash_when_they_are_not_bonded():
    positions = torch.tensor([[[0.0, 0, 0], [3, 0, 0], [6, 0, 0]]])
    assert clash_sums(positions, torch.tensor([True, True, False]), 4.0)[1].tolist() == [0]
    assert clash_sums(positions, torch.tensor([True, False, False]), 4.0)[1].tolist() == [1]
    assert clash_sums(positions, torch.tensor([False, False, False]), 4.0)[1].tolist() == [2]


def test_the_gradient_of_the_clashes_is_right(fresh):
    positions = (torch.rand(2, 12, 3, generator=fresh, dtype=torch.float64) * 6).requires_grad_()
    bonded = torch.zeros(12, dtype=torch.bool)
    assert gradcheck(lambda x: clash_sums(x, bonded, 4.0)[0], positions)


def test_no_clash_costs_nothing_and_nowhere_is_no_clash():
    positions = torch.tensor(
        [[[0.0, 0, 0], [9, 0, 0]], [[math.nan, 0, 0], [1, 0, 0]], [[math.inf, 0, 0], [1, 0, 0]]]
    )
    penalties, counts = clash_sums(
        positions.requires_grad_(), torch.zeros(2, dtype=torch.bool), 4.0
    )
    penalties.sum().backward()
    assert penalties.tolist() == counts.tolist() == [0, 0, 0]
    assert torch.equal(positions.grad, torch.zeros(3, 2, 3))
