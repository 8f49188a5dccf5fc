"""Mixtures of Gaussians, beside SciPy's densities and numbers made on a grid."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from cryostar_nb.mixture import NARROWEST, Mixture, effective_number, quantiles


@pytest.fixture
def two():
    """Two Gaussians in the plane, a third and two thirds."""
    covariance = torch.tensor([[[1.0, 0.3], [0.3, 0.5]], [[0.2, 0.0], [0.0, 2.0]]]).double()
    factors = torch.linalg.cholesky(torch.linalg.inv(covariance))
    means = torch.tensor([[0.0, 1.0], [3.0, -2.0]]).double()
    return Mixture(torch.tensor([1 / 3, 2 / 3], dtype=torch.double), means, factors)


def scipy_density(mixture, points):
    covariances = torch.linalg.inv(mixture.factors @ mixture.factors.mT).numpy()
    parts = zip(mixture.weights.tolist(), mixture.means.numpy(), covariances, strict=True)
    return sum(w * multivariate_normal(mean, c).pdf(points.numpy()) for w, mean, c in parts)


def test_the_density_is_that_of_its_gaussians(two, generator):
    points = 2 * torch.randn(50, 2, generator=generator).double()
    expected = torch.from_numpy(scipy_density(two, points))
    torch.testing.assert_close(two.log_density(points).exp(), expected)


def test_beside_another_both_have_half_of_the_weight(two):
    batch = Mixture(
        *(values.expand(3, *values.shape) for values in (two.weights, two.means, two.factors))
    )
    moved = Mixture(batch.weights, batch.means + 5, batch.factors).part(torch.tensor([2]))
    both = batch.part(torch.tensor([0])).beside(moved)
    points = torch.tensor([[[0.0, 1.0], [5.0, 6.0], [2.0, -1.0]]]).double()
    expected = (two.log_density(points[0]).exp() + two.log_density(points[0] - 5).exp()) / 2
    torch.testing.assert_close(both.log_density(points).exp()[0], expected)


def test_draws_have_its_moments(two, generator):
    drawn = two.draw(40_000, generator)
    mean = (two.weights[:, None] * two.means).sum(0)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.05, rtol=0)
    own = torch.linalg.inv(two.factors @ two.factors.mT)
    apart = two.means - mean
    covariance = (two.weights[:, None, None] * (own + apart[:, :, None] * apart[:, None])).sum(0)
    torch.testing.assert_close(torch.cov(drawn.T), covariance, atol=0.1, rtol=0)


def test_a_batch_draws_for_each_of_its_mixtures(two, generator):
    shifted = two.times_gaussian(torch.zeros(3, 2).double(), torch.eye(2).double().expand(3, 2, 2))
    assert shifted.draw(5, generator).shape == (3, 5, 2)
    assert shifted.log_density(torch.zeros(3, 4, 2).double()).shape == (3, 4)


def test_times_a_gaussian_it_is_the_normalised_product(two):
    slope = torch.tensor([[0.7, -1.0], [0.0, 0.0]]).double()
    curvature = torch.tensor([[[2.0, 0.5], [0.5, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]).double()
    product = two.times_gaussian(slope, curvature)
    axis = torch.linspace(-14, 14, 401, dtype=torch.double)
    grid = torch.cartesian_prod(axis, axis)
    factor = grid @ slope[0] - 0.5 * torch.einsum("pi,ij,pj->p", grid, curvature[0], grid)
    expected = torch.from_numpy(scipy_density(two, grid)) * factor.exp()
    expected = expected / (expected.sum() * (axis[1] - axis[0]) ** 2)
    found = product.log_density(grid.expand(2, -1, -1)).exp()
    torch.testing.assert_close(found[0], expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[1], torch.from_numpy(scipy_density(two, grid)))


def test_wider_components_are_so_many_times_as_wide(two):
    covariance, wider = (
        torch.linalg.inv(m.factors @ m.factors.mT) for m in (two, two.widened(1.5))
    )
    torch.testing.assert_close(wider, 1.5**2 * covariance)


def test_the_mode_is_the_mean_that_weighs_most(two):
    assert torch.equal(two.mode(), two.means[1])
    flat = torch.zeros(4, 2).double(), torch.zeros(4, 2, 2).double()
    torch.testing.assert_close(two.times_gaussian(*flat).mode(), two.means[1].expand(4, 2))


def test_a_fit_finds_the_gaussians_that_points_come_from(two, generator):
    points = two.draw(20_000, generator)
    found = Mixture.fit(points, torch.ones(len(points)).double(), 2, steps=100)
    order = found.weights.argsort()
    torch.testing.assert_close(found.weights[order], two.weights, atol=0.02, rtol=0)
    torch.testing.assert_close(found.means[order], two.means, atol=0.06, rtol=0)


def test_points_count_by_their_weights(two, generator):
    points = two.draw(4000, generator)
    first = (points[:, 0] < 1.5).double()
    found = Mixture.fit(points, first + 1e-9, two, steps=20)
    inside = points[first > 0]
    mean = (found.weights[:, None] * found.means).sum(0)
    torch.testing.assert_close(mean, inside.mean(0), atol=0.02, rtol=0)


def test_a_component_without_points_is_left_out_and_none_is_a_point(two):
    points = torch.zeros(10, 2).double()
    found = Mixture.fit(points, torch.ones(10).double(), two, steps=5)
    assert len(found.weights) == 1
    sd = torch.linalg.inv(found.factors @ found.factors.mT).diagonal(dim1=1, dim2=2).sqrt()
    torch.testing.assert_close(sd, torch.full_like(sd, NARROWEST))


def test_equal_draws_count_each_and_one_draw_counts_one():
    weights = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    assert effective_number(weights).tolist() == [4, 1, 2]


def test_a_new_draw_lies_below_a_quantile_as_often_as_it_says(rng):
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]).double()
    drawn = torch.from_numpy(rng.normal(size=(4000, 40)))
    found = quantiles(drawn, torch.full((4000, 40), 1 / 40).double(), levels)
    share = torch.from_numpy(norm.cdf(found.numpy())).mean(0)
    torch.testing.assert_close(share, levels, atol=0.006, rtol=0)


def test_draws_by_importance_have_the_quantiles_of_their_target(rng):
    """Draws of N(0, 2^2), weighted to be N(1, 1)."""
    drawn = torch.from_numpy(rng.normal(scale=2, size=(2000, 400)))
    log_weights = norm.logpdf(drawn.numpy(), 1) - norm.logpdf(drawn.numpy(), scale=2)
    weights = torch.softmax(torch.from_numpy(log_weights), -1)
    levels = torch.tensor([0.05, 0.5, 0.95]).double()
    found = quantiles(drawn, weights, levels).mean(0)
    expected = torch.from_numpy(norm.ppf(levels.numpy(), 1))
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_quantiles_do_not_depend_on_the_order_of_draws(rng):
    values, weights = torch.from_numpy(rng.normal(size=30)), torch.from_numpy(rng.random(30))
    weights = weights / weights.sum()
    order = torch.from_numpy(np.argsort(rng.random(30)))
    levels = torch.tensor([0.1, 0.6]).double()
    torch.testing.assert_close(
        quantiles(values, weights, levels), quantiles(values[order], weights[order], levels)
    )
