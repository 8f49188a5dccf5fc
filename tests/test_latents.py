"""How many populations, and what moved: on densities and displacements whose answer is known."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import norm

from cryostar_nb.evaluation import displacement
from cryostar_nb.latents import latent_modes, score_density


def two_gaussians(rng, apart, n, share=0.5):
    """Scores of two populations of unit spread, `apart` from each other, the second of them holding this share."""
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
    assert (
        len(latent_modes(two_gaussians(rng, 2.5, 50_000))) == 1
    )  # it has two peaks, and hardly a valley
    assert len(latent_modes(two_gaussians(rng, 3.2, 50_000))) == 2


def test_modes_do_not_depend_on_sign_scale_or_a_few_stray_particles(rng):
    scores = two_gaussians(rng, 5.0, 2000)
    np.testing.assert_allclose(
        latent_modes(7 - 3 * scores), 7 - 3 * latent_modes(scores)[::-1], atol=0.05
    )
    assert len(latent_modes(np.append(scores, [30.0, -30.0, 31.0]))) == 2


def test_particles_of_one_score_are_one_mode():
    np.testing.assert_array_equal(latent_modes(np.full(9, 2.5)), [2.5])


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
