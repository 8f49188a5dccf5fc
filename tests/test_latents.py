"""The latent space: components, populations, and what moved, where the answer is known."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import norm
from tiny import Line

from cryostar_nb.evaluation import displacement
from cryostar_nb.latents import (
    components_from_reference,
    evenly_spaced,
    latent_modes,
    mean_around_percentiles,
    path_of_highest_density,
    principal_components,
    score_density,
    traverse,
)

ENDS_OF_PATH = [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]

# Components and the structures along them


def test_principal_components_find_the_axes_and_their_share(generator):
    spread = torch.randn(5000, 3, generator=generator) * torch.tensor([1.0, 3.0, 0.1]) + 7
    pca = principal_components(spread)
    assert pca.components[0].abs().argmax() == 1 and pca.components[1].abs().argmax() == 0
    torch.testing.assert_close(pca.explained[0].item(), 9 / 10.01, rtol=0.03, atol=0)
    torch.testing.assert_close(pca.scores @ pca.components + pca.mean, spread, atol=1e-4, rtol=1e-4)


# One of them needs another sign than that which comes of the latents.
@pytest.mark.parametrize("start", [0, 10])
def test_the_first_component_and_its_traversal_lead_away_from_the_reference(
    helix, generator, start
):
    closed = torch.from_numpy(helix(12)).float()
    latents = torch.stack(
        [torch.linspace(0, 10, 1001), 0.1 * torch.randn(1001, generator=generator)], dim=1
    )
    decoder = Line(closed)
    reference = decoder(torch.tensor([float(start), 0.0]))
    pca = components_from_reference(decoder, latents, reference)
    frames = traverse(decoder, latents, pca.scores[:, 0], torch.tensor([5.0, 50.0, 95.0]))
    torch.testing.assert_close(
        (frames - reference)[:, 0, 0].abs(), torch.tensor([0.5, 5.0, 9.5]), atol=0.02, rtol=0
    )
    torch.testing.assert_close(
        pca.scores @ pca.components + pca.mean, latents, atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(pca.scores[:, 1], principal_components(latents).scores[:, 1])


def test_the_structures_along_a_component_are_means_of_its_neighbours(generator):
    latents = torch.randn(1001, 2, generator=generator)
    scores = latents[:, 0]
    frames = traverse(Line(torch.zeros(1, 3)), latents, scores, torch.tensor([0.0, 50.0, 100.0]))
    middle = scores.sort().values[490:511].mean()  # ten particles on either side of the middle
    assert frames[1, 0].tolist() == pytest.approx([float(middle), 0, 0])
    assert frames[0, 0, 0] < -1.9 and frames[2, 0, 0] > 1.9


def test_the_mean_around_a_percentile_of_a_few_particles_is_that_of_the_nearest():
    values, scores = torch.arange(5.0)[:, None] ** 2, torch.tensor([3.0, 2.0, 5.0, 4.0, 1.0])
    ends = mean_around_percentiles(values, scores, torch.tensor([0.0, 50.0, 100.0]))
    order = [16.0, 1.0, 0.0, 9.0, 4.0]  # of the values, by their scores
    expected = [np.mean(order[:2]), np.mean(order[1:4]), np.mean(order[3:])]
    assert ends.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("count", "total"), [(1, 9), (4, 9), (9, 9), (20, 9), (2000, 50_000)])
def test_evenly_spaced_rows_are_distinct_and_as_far_apart_as_can_be(count, total):
    rows = evenly_spaced(count, total)
    assert len(rows) == len(rows.unique()) == min(count, total)
    assert rows[0] == 0 and rows.max() < total
    if count > 1:
        assert rows[-1] == total - 1 and rows.diff().max() - rows.diff().min() <= 1


# Populations


def two_gaussians(rng, apart, n, share=0.5):
    """Scores of two populations of unit spread, this far apart; the second has this share."""
    return rng.standard_normal(n) + apart * (np.arange(n) < share * n)


def test_the_density_is_that_of_the_population(rng):
    places, density = score_density(rng.normal(3.0, 2.0, 20_000))
    assert np.trapezoid(density, places) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(density, norm(3.0, 2.0).pdf(places), atol=0.008)  # 4 % of the peak


@pytest.mark.parametrize(("n", "times"), [(1000, 20), (20_000, 2)])
def test_one_gaussian_a_uniform_and_a_heavy_tailed_population_have_one_mode(rng, n, times):
    for _ in range(times):
        assert len(latent_modes(rng.standard_normal(n))) == 1
        assert len(latent_modes(rng.uniform(size=n))) == 1
        assert len(latent_modes(rng.standard_t(4, n))) == 1


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_two_gaussians_are_found_where_they_are(rng, share):
    for _ in range(10):
        np.testing.assert_allclose(
            latent_modes(two_gaussians(rng, 6.0, 2000, share)), [0, 6], atol=0.6
        )


def test_what_counts_as_two_is_the_depth_of_the_valley(rng):
    assert len(latent_modes(two_gaussians(rng, 2.5, 50_000))) == 1  # two peaks, hardly a valley
    assert len(latent_modes(two_gaussians(rng, 3.2, 50_000))) == 2


def test_modes_do_not_depend_on_sign_scale_or_a_few_stray_particles(rng):
    scores = two_gaussians(rng, 5.0, 2000)
    np.testing.assert_allclose(
        latent_modes(7 - 3 * scores), 7 - 3 * latent_modes(scores)[::-1], atol=0.05
    )
    assert len(latent_modes(np.append(scores, [30.0, -30.0, 31.0]))) == 2


def test_particles_of_one_score_are_one_mode():
    np.testing.assert_array_equal(latent_modes(np.full(9, 2.5)), [2.5])


# What moved


def test_a_displacement_is_measured_with_its_direction(rng):
    start, domain = 10 * rng.standard_normal((30, 3)), np.arange(30) < 10
    end = start + 4.0 * domain[:, None] * [0, 0, 1]
    short = start + 3.0 * domain[:, None] * [0, 0, 1]
    astray = start + 4.0 * domain[:, None] * [0, 1, 0]
    true = np.stack([start, end])
    moved = displacement(np.stack([start, short]), true, domain)
    assert (moved.nodes, moved.true, moved.found, moved.error) == pytest.approx((10, 4.0, 3.0, 1.0))
    wrong_way = displacement(np.stack([start, astray]), true, domain)
    assert (wrong_way.found, wrong_way.error) == pytest.approx((4.0, 4 * np.sqrt(2)))
    still = displacement(np.stack([start, short]), true, ~domain)
    assert (still.true, still.found, still.error) == pytest.approx((0, 0, 0), abs=1e-12)


def test_a_displacement_does_not_depend_on_the_frame(rng):
    found, true = rng.standard_normal((2, 2, 30, 3))
    nodes = np.arange(30) < 12
    turn, shift = Rotation.random(rng=rng).as_matrix(), rng.standard_normal(3)
    before = displacement(found, true, nodes)
    after = displacement(found @ turn.T + shift, true @ turn.T - shift, nodes)
    assert (after.true, after.found, after.error) == pytest.approx(
        (before.true, before.found, before.error)
    )


# Paths


def test_the_path_of_highest_density_stays_on_a_ring_that_a_straight_line_would_cross(generator):
    angle = 2 * torch.pi * torch.rand(1500, generator=generator)
    noise = 0.05 * torch.randn(1500, 3, generator=generator)
    ring = torch.stack([angle.cos(), angle.sin(), 0 * angle], dim=1) + noise
    east, west = (int((ring - torch.tensor(end)).norm(dim=1).argmin()) for end in ENDS_OF_PATH)
    path = path_of_highest_density(ring, ring, east, west, frames=15)
    assert path.shape == (15, 3)
    assert (path.norm(dim=1) > 0.93).all() and (path.norm(dim=1) < 1.05).all()
    torch.testing.assert_close(path[[0, -1]], torch.tensor(ENDS_OF_PATH), atol=0.1, rtol=0)
    steps = path.diff(dim=0).norm(dim=1)
    assert steps.max() < 1.3 * steps.min() and float(steps.sum()) == pytest.approx(3.1, abs=0.2)


def test_of_two_ways_the_path_takes_the_one_with_more_particles(generator):
    """Three quarters of a ring's particles lie on its upper half."""
    angle = torch.pi * torch.rand(2000, generator=generator)
    angle = torch.where(torch.arange(2000) % 4 > 0, angle, -angle)
    ring = torch.stack([angle.cos(), angle.sin()], dim=1)
    ring = ring + 0.03 * torch.randn(2000, 2, generator=generator)
    ends = [int((ring - torch.tensor(end[:2])).norm(dim=1).argmin()) for end in ENDS_OF_PATH]
    path = path_of_highest_density(ring, ring, *ends)
    assert (path[2:-2, 1] > 0).all()
