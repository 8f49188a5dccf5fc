"""The losses of eq. 2 to 9 against arithmetic written out here."""

import math

import numpy as np
import pytest
import torch

from cryostar_nb.geometry import pair_distances
from cryostar_nb.losses import (
    clash_loss,
    continuity_loss,
    correlation_loss,
    elastic_network_loss,
    kl_divergence,
    relaxed_edges,
    side_chain_loss,
)

CONTAINERS = pytest.mark.parametrize(
    "given", [list, np.array, torch.tensor], ids=["lists", "NumPy arrays", "tensors"]
)

# Image, eq. 9


@CONTAINERS
def test_the_image_loss_is_minus_the_mean_normalised_correlation(given):
    images = given([[3.0, 4.0, 0.0], [1.0, 1.0, 1.0]])
    predictions = given([[4.0, 3.0, 0.0], [0.0, 0.0, -2.0]])
    # (12 + 12) / (5 * 5) and -2 / (sqrt(3) * 2)
    assert float(correlation_loss(images, predictions)) == pytest.approx(
        -(24 / 25 - 1 / math.sqrt(3)) / 2
    )


def test_the_image_loss_is_blind_to_brightness(generator):
    images = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    assert float(correlation_loss(5 * images, 0.1 * images)) == pytest.approx(-1)
    assert float(correlation_loss(images, -images)) == pytest.approx(1)


# Continuity, eq. 2


@CONTAINERS
def test_the_continuity_loss_is_the_mean_squared_change_of_bond_lengths(given):
    # Two structures of two bonds: ((0.2)^2 + (0.1)^2 + 0 + (0.3)^2) / 4
    distances, reference = given([[4.0, 3.7], [3.8, 4.1]]), given([3.8, 3.8])
    assert float(continuity_loss(distances, reference)) == pytest.approx(
        (0.04 + 0.01 + 0 + 0.09) / 4
    )


# Clashes, eq. 3 and 4


@CONTAINERS
def test_the_clash_loss_averages_over_the_pairs_that_clash(given):
    # Below 4 Å stand 3 and 1 Å: (1 + 9) / 2, whatever the pairs that do not clash.
    assert float(clash_loss(given([[3.0, 1.0, 4.0, 9.0]]))) == pytest.approx(5.0)


def test_a_structure_without_clash_adds_nothing_to_the_mean_over_the_batch():
    assert float(clash_loss([[3.0, 1.0], [5.0, 6.0]])) == pytest.approx((5.0 + 0.0) / 2)


def test_the_clash_distance_can_be_chosen():
    assert float(clash_loss([[3.0, 1.0]], threshold=2.0)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "distances", [[[5.0, 4.0, 8.0]], [[]]], ids=["no pair clashes", "no pairs"]
)
def test_no_clash_costs_nothing_and_has_a_finite_gradient(distances):
    distances = torch.tensor(distances, requires_grad=True)
    loss = clash_loss(distances)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(distances.grad, torch.zeros_like(distances))


def test_the_clash_loss_pushes_a_pair_apart():
    positions = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    clash_loss(pair_distances(positions, np.array([[0, 1]]))).backward()
    # d/dx of (4 - d)^2 at d = 1 is -2 * 3 along the line
    assert torch.allclose(positions.grad, torch.tensor([[6.0, 0.0, 0.0], [-6.0, 0.0, 0.0]]))


# Elastic network, eq. 6


@CONTAINERS
def test_the_elastic_loss_is_the_mean_squared_change_of_edge_lengths(given):
    distances, reference = given([[5.0, 9.0, 7.0], [6.0, 7.0, 7.0]]), given([5.0, 7.0, 10.0])
    # Changes 0, 2, -3 and 1, 0, -3
    assert float(elastic_network_loss(distances, reference)) == pytest.approx(
        (0 + 4 + 9 + 1 + 0 + 9) / 6
    )


@CONTAINERS
def test_released_edges_do_not_count(given):
    distances, reference = given([[5.0, 9.0, 7.0], [6.0, 7.0, 7.0]]), given([5.0, 7.0, 10.0])
    assert float(
        elastic_network_loss(distances, reference, given([True, True, False]))
    ) == pytest.approx((0 + 4 + 1 + 0) / 4)


def test_with_every_edge_released_the_elastic_loss_is_zero():
    assert float(elastic_network_loss([[5.0, 9.0]], [4.0, 4.0], [False, False])) == 0


# Adaptive relaxation, eq. 7


def lengths_with_deviations(deviations):
    """Distances of two structures, 8 Å plus and minus these numbers: the roots of the variances."""
    deviations = np.asarray(deviations)
    return np.stack([8 + deviations, 8 - deviations])


@CONTAINERS
def test_the_edges_that_vary_most_are_released(given):
    distances = given(lengths_with_deviations([0.5, 0.1, 0.9, 0.3, 0.2]).tolist())
    # Variances 0.25, 0.01, 0.81, 0.09, 0.04; only what lies below their median, 0.09, stays.
    assert relaxed_edges(distances, 50).tolist() == [False, True, False, False, True]


def test_a_fifth_of_the_edges_is_released_at_the_80th_percentile(rng):
    deviations = rng.permutation(np.arange(1, 101) / 100)
    keep = relaxed_edges(lengths_with_deviations(deviations), 80).numpy()
    assert sorted(deviations[~keep]) == [i / 100 for i in range(81, 101)]


def test_at_100_every_edge_is_kept():
    assert relaxed_edges(lengths_with_deviations([0.5, 0.1, 0.9, 0.0]), 100).all()


def test_the_variance_is_that_of_the_distance_not_of_its_squared_error():
    reference = torch.tensor([8.0, 8.0])
    # The first edge oscillates by 1 Å around its reference: its squared error is always 1. The
    # second one is 5 Å off and moves by 0.2 Å: its squared error runs from 23 to 27.
    distances = torch.tensor([[9.0, 13.2], [7.0, 12.8]])
    squared_error = (distances - reference).square()
    assert (squared_error.var(0)[0] < squared_error.var(0)[1]) and (
        distances.var(0)[0] > distances.var(0)[1]
    )
    assert relaxed_edges(distances, 60).tolist() == [False, True]


def test_the_choice_of_edges_passes_no_gradient():
    distances = torch.tensor(lengths_with_deviations([0.5, 0.1]), requires_grad=True)
    assert not relaxed_edges(distances, 60).requires_grad


# KL divergence


@CONTAINERS
def test_the_kl_divergence_is_that_of_the_textbook(given):
    mean, log_variance = [[0.0, 1.0], [-2.0, 0.5]], [[0.0, 0.0], [math.log(4), -1.0]]
    normal = torch.distributions.Normal(
        torch.tensor(mean), (0.5 * torch.tensor(log_variance)).exp()
    )
    standard = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    expected = torch.distributions.kl_divergence(normal, standard).sum(-1).mean()
    assert float(kl_divergence(given(mean), given(log_variance))) == pytest.approx(float(expected))


def test_the_kl_divergence_of_the_prior_is_zero():
    assert float(kl_divergence(torch.zeros(3, 8), torch.zeros(3, 8))) == 0


def test_the_side_chain_loss_is_the_prior_of_the_turns():
    turns = torch.tensor([[[0.3, 0.0, -0.1], [0.0, 0.0, 0.2]], [[0.0, 0.5, 0.0], [0.0, 0.0, 0.0]]])
    sd = torch.tensor(20.0).deg2rad()
    prior = torch.distributions.Normal(torch.tensor(0.0), sd)
    expected = (prior.log_prob(torch.zeros(())) - prior.log_prob(turns)).sum((1, 2)).mean()
    assert side_chain_loss(turns, 20.0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_edges_that_all_vary_alike_all_stay():
    assert relaxed_edges(torch.ones(4, 6), 80).all()  # none is below a percentile of equal numbers
    assert relaxed_edges(torch.rand(1, 6), 80).all()  # a batch of one has no variance
