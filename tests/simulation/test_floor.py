"""Laws of the information floor: its limits, two states by hand, inner products and pixels."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from refusals import refused
from scipy import integrate, stats

from cryostar_nb.geometry import rmsd
from cryostar_nb.io.structures import write_structure
from cryostar_nb.pages import figures
from cryostar_nb.simulation.floor import (
    draw_projections,
    information_floor,
    posterior,
    scatter_matrices,
    signal_measures,
    state_coordinates,
)
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import SNR_DEFINITION, simulate
from cryostar_nb.simulation.paths import linear_morph

CONFIG = SimulationConfig(
    n_particles=24, box_size=24, pixel_size=3.0, resolution=6.0, states=5, seed=3
)


@pytest.fixture
def bending(helix_nodes):
    """A helix that bends, in five states, and one whose end goes around a curve."""
    bend = np.linspace(-1, 1, len(helix_nodes))[:, None] ** 2
    ends = helix_nodes.positions, helix_nodes.positions + bend * [12.0, 0.0, 0.0]
    return helix_nodes, linear_morph(start=ends[0], end=ends[1], states=CONFIG.states)


@pytest.fixture
def curved(bending):
    nodes, path = bending
    turn = np.linspace(0, 1.5, len(path))[:, None, None]
    bend = np.linspace(-1, 1, len(nodes))[:, None] ** 2
    return nodes, nodes.positions + 12 * bend * (
        np.cos(turn) * [1.0, 0, 0] + np.sin(turn) * [0, 1.0, 0]
    )


def test_the_distance_of_state_coordinates_is_the_rmsd(bending, curved):
    for (_, path), axes in ((bending, 1), (curved, 2)):
        positions = torch.from_numpy(path)
        coordinates = state_coordinates(positions)
        assert coordinates.shape == (5, axes)
        expected = rmsd(positions[:, None], positions[None])
        torch.testing.assert_close(
            (coordinates[:, None] - coordinates).norm(dim=-1), expected, atol=1e-9, rtol=0
        )


def test_without_noise_nothing_is_unknown(bending):
    floor = information_floor(*bending, CONFIG, [1e6])
    assert max(floor.rms[0], floor.mean[0], floor.lowest_mean[0]) < 1e-6


def test_noise_alone_leaves_the_prior(bending):
    nodes, path = bending
    floor = information_floor(nodes, path, CONFIG, [1e-12])
    to_mean = np.sqrt(np.square(path - path.mean(0)).sum(-1).mean(-1))
    np.testing.assert_allclose(floor.per_state[0], to_mean, atol=1e-3)
    np.testing.assert_allclose(floor.prior_per_state, to_mean, atol=1e-9)
    assert floor.mean[0] == pytest.approx(
        to_mean.mean(), abs=1e-3
    ) and floor.prior_mean == pytest.approx(to_mean.mean())
    assert floor.rms[0] == pytest.approx(floor.prior_rms, abs=1e-3)
    assert floor.lowest_mean[0] == pytest.approx(
        to_mean.mean(), rel=0.02
    )  # the median of an odd number of even steps


def test_inner_products_say_what_the_pixels_say(generator):
    images = (
        torch.randn(4, 300, dtype=torch.float64, generator=generator)
        * torch.tensor([1.0, 2.0, 0.5, 1.0])[:, None]
    )
    noise, sd = torch.randn(6, 300, dtype=torch.float64, generator=generator), 7.0
    seen = images[None, :, :] + sd * noise[:, None, :]  # (draw, truth, pixel)
    by_pixels = torch.softmax(-(seen[:, :, None] - images).square().sum(-1) / (2 * sd**2), dim=-1)
    difference = images - images.mean(0)
    by_products = posterior(difference @ difference.mT, noise @ difference.mT, sd)
    torch.testing.assert_close(by_products, by_pixels, atol=1e-10, rtol=0)


def test_projections_of_noise_have_the_covariance_of_pixels(generator):
    images = torch.randn(4, 300, dtype=torch.float64, generator=generator)
    difference = images - images.mean(0)
    scatter = difference @ difference.mT  # singular: the differences add up to nothing
    factor = draw_projections(
        scatter, torch.eye(4, dtype=torch.float64)
    )  # what each normal number adds to z
    torch.testing.assert_close(factor.mT @ factor, scatter, atol=1e-9, rtol=0)


def test_two_states_have_a_closed_form(bending):
    """With k = |x_1 - x_2| / sigma the log-odds of the truth are N(k^2/2, k^2).

    The posterior mean misses by d sigmoid(-odds).
    """
    nodes, path = bending
    path = path[[0, -1]]
    config = dataclasses.replace(CONFIG, n_particles=60, states=2)
    snr = 0.01
    floor = information_floor(nodes, path, config, [snr], draws=3000)
    scatter, variance = scatter_matrices(nodes, path, config)
    separation = (scatter[:, 0, 0] + scatter[:, 1, 1] - 2 * scatter[:, 0, 1]).sqrt() / math.sqrt(
        variance / snr
    )
    distance = float(rmsd(torch.from_numpy(path[0]), torch.from_numpy(path[1])))

    def expected(k, power):
        def integrand(odds):
            return stats.norm.pdf(odds, k * k / 2, k) / (1 + np.exp(odds)) ** power

        return integrate.quad(integrand, k * k / 2 - 9 * k, k * k / 2 + 9 * k)[0]

    mean, square = (np.mean([expected(k, power) for k in separation.tolist()]) for power in (1, 2))
    wrong = stats.norm.cdf(-separation.numpy() / 2).mean()  # the best state is the likelier one
    assert 0.05 < wrong < 0.45
    assert floor.mean[0] == pytest.approx(distance * mean, rel=0.01)
    assert floor.rms[0] == pytest.approx(distance * math.sqrt(square), rel=0.01)
    assert floor.lowest_mean[0] == pytest.approx(
        distance * wrong, rel=0.03
    )  # counts of a rare event: four standard errors


def test_the_floor_falls_as_the_signal_grows(bending, curved):
    for path in (bending, curved):
        floor = information_floor(*path, CONFIG, [1e-4, 1e-3, 1e-2, 0.1, 1.0])
        assert (np.diff(floor.rms) < 0).all() and (np.diff(floor.mean) < 0).all()
        assert (floor.rms >= floor.mean).all() and (
            floor.rms < floor.prior_rms + 3 * floor.rms_error
        ).all()


def test_on_a_straight_morph_the_best_state_has_the_least_mean(bending):
    floor = information_floor(*bending, CONFIG, [1e-2, 0.1], draws=50)
    assert (floor.lowest_mean < floor.mean).all()


def test_a_low_pass_only_takes_away(bending):
    whole, coarse = (
        information_floor(*bending, CONFIG, [0.05], low_pass=low_pass, draws=20)
        for low_pass in (None, 18.0)
    )
    np.testing.assert_allclose(whole.noise_sd, coarse.noise_sd)  # the same noise
    assert coarse.rms[0] > whole.rms[0]
    same = information_floor(*bending, CONFIG, [0.05], low_pass=CONFIG.pixel_size, draws=20)
    np.testing.assert_allclose(same.rms, whole.rms)


def test_the_average_over_states_is_the_overall_number(bending):
    floor = information_floor(*bending, CONFIG, [0.01, 0.1])
    np.testing.assert_allclose(floor.per_state.mean(1), floor.mean)
    assert (floor.per_state_error > 0).all()


def test_the_standard_error_is_the_spread_between_repetitions(bending):
    floors = [
        information_floor(*bending, dataclasses.replace(CONFIG, seed=seed), [0.02], draws=2)
        for seed in range(40)
    ]
    spread = np.std([floor.mean[0] for floor in floors], ddof=1)
    stated = np.mean([floor.mean_error[0] for floor in floors])
    assert stated == pytest.approx(
        spread, rel=0.4
    )  # the spread of 40 is known to 11 %, and the noise's scale is shared within a seed


def test_one_seed_gives_one_result(bending):
    first, again = (information_floor(*bending, CONFIG, [0.1]) for _ in range(2))
    assert np.array_equal(first.per_state, again.per_state) and first.mean == again.mean
    assert (
        information_floor(*bending, dataclasses.replace(CONFIG, seed=4), [0.1]).mean != first.mean
    )


def test_impossible_settings_are_refused(bending):
    with refused(value=0.0):
        information_floor(*bending, CONFIG, [0.1, 0.0])
    with refused(value="n_particles = 1, draws = 4"):
        information_floor(*bending, dataclasses.replace(CONFIG, n_particles=1), [0.1])


def test_the_noise_is_that_of_simulate(bending, tmp_path):
    nodes, path = bending
    for name, positions in (("closed", path[0]), ("open", path[-1])):
        write_structure(tmp_path / f"{name}.pdb", nodes.with_positions(positions))
    config = dataclasses.replace(CONFIG, n_particles=400, snr=0.1)
    simulate(config, start=tmp_path / "closed.pdb", end=tmp_path / "open.pdb", out=tmp_path)
    truth = np.load(tmp_path / "truth.npz")
    assert truth["snr_definition"] == SNR_DEFINITION
    scale = nodes.electrons[0] / 6  # the file's atoms are bare carbons
    floor = information_floor(nodes, path, config, [0.1], draws=1)
    assert float(truth["noise_sd"]) * scale == pytest.approx(floor.noise_sd[0], rel=0.02)


def test_signal_measures_are_ordered_and_share_the_box_with_the_floor(bending):
    nodes, path = bending
    config = dataclasses.replace(CONFIG, n_particles=100, box_size=48)
    measures = signal_measures(nodes, path, config)
    _, variance = scatter_matrices(nodes, path, config)
    assert measures["box"] == pytest.approx(variance, rel=0.05)  # one state a particle, against all
    assert measures["box"] < measures["disc"] < measures["peak"]
    assert measures["volume"] < measures["before_ctf"]


def test_the_plot_shows_floor_prior_and_methods():
    figure = figures.information_floor(
        [0.1, 0.001],
        [0.05, 0.8],
        [0.01, 0.02],
        mean_structure=1.8,
        methods={"star": ([0.1], [0.5])},
    )
    (ax,) = figure.axes
    assert ax.get_xscale() == "log" and ax.get_ylim()[0] == 0
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "information floor",
        "always the mean structure",
        "star",
    ]
