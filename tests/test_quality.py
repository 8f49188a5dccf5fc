"""The probability that a particle is good: apart, calibrated, and silent where there is nothing."""

import numpy as np
import pytest
import torch
from refusals import refused
from tiny import BAND, SIZES

from cryostar_nb.density import node_density
from cryostar_nb.encoders import ImageEncoder
from cryostar_nb.geometry import random_rotations
from cryostar_nb.models import CartesianDecoder, DeformationVAE
from cryostar_nb.projector import make_images
from cryostar_nb.quality import Mixture, matched_signals, probability_good, roc_area
from cryostar_nb.training import TrainingData


def draw(rng, count, share, *, expected=25.0, scatter=0.25, bad="noise"):
    """Scores with known truth: contrasts of good particles scatter, bad ones are near 0."""
    norms = expected * rng.normal(1, 0.2, count).clip(0.3)
    good = rng.random(count) < share
    of_bad = {
        "noise": rng.normal(0.3, 1, count),
        "heavy": rng.standard_t(4, count),
        "alike": rng.normal(0.1 * norms, 0.15 * norms),
    }[bad]
    contrast = rng.normal(1, scatter, count)
    return np.where(good, norms * contrast + rng.standard_normal(count), of_bad), norms, good


@pytest.mark.parametrize("bad", ["noise", "heavy", "alike"])
@pytest.mark.parametrize("share", [0.15, 0.7, 0.97])
def test_good_and_bad_particles_come_apart_and_the_share_is_true(share, bad, rng):
    score, expected, good = draw(rng, 4000, share, bad=bad)
    probability = probability_good(score, expected)
    assert roc_area(probability, good) > (0.98 if bad == "alike" else 0.995)
    called = probability > 0.5
    assert probability[called].mean() == pytest.approx(good[called].mean(), abs=0.03)
    assert probability.mean() == pytest.approx(good.mean(), abs=0.03)


@pytest.mark.parametrize("expected", [3.0, 4.0, 8.0])
def test_probabilities_are_calibrated_where_the_two_overlap(expected, rng):
    score, norms, good = draw(rng, 20_000, 0.6, expected=expected)
    probability = probability_good(score, norms)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        among = (probability >= low) & (probability <= high)
        if among.sum() > 300:
            assert probability[among].mean() == pytest.approx(good[among].mean(), abs=0.06)
    assert ((probability > 0.2) & (probability < 0.8)).any()


@pytest.mark.parametrize("count", [12, 300, 5000])
@pytest.mark.parametrize("expected", [4.0, 25.0])
def test_a_set_without_junk_has_none(count, expected, rng):
    score, norms, _ = draw(rng, count, 1.0, expected=expected)
    probability = probability_good(score, norms)
    assert probability.mean() > 0.97 and (probability > 0.5).mean() > 0.99


def test_a_skewed_contrast_makes_no_junk(rng):
    norms = rng.normal(25, 5, 5000).clip(5)
    score = norms * rng.lognormal(-0.08, 0.4, 5000) + rng.standard_normal(5000)
    assert probability_good(score, norms).mean() > 0.99


@pytest.mark.parametrize("count", [12, 300, 5000])
@pytest.mark.parametrize("expected", [0.3, 4.0, 25.0])
def test_without_signal_nothing_is_good(count, expected, rng):
    score, norms, _ = draw(rng, count, 0.0, expected=expected)
    assert probability_good(score, norms).max() < 0.1


@pytest.mark.parametrize("count", [1, 2, 15])
def test_a_few_particles_are_judged(count, rng):
    norms = np.full(count, 25.0)
    assert (probability_good(norms + rng.standard_normal(count), norms) > 0.9).all()
    assert (probability_good(rng.standard_normal(count), norms) < 0.1).all()
    if count > 2:
        score = norms * rng.normal(1, 0.2, count)
        score[[3, 7]] = 0.5, -1.0
        assert np.flatnonzero(probability_good(score, norms) < 0.5).tolist() == [3, 7]


def test_the_same_score_means_more_where_less_is_expected(rng):
    """A score of 9 is that of a good particle that is hard to see, and not of one easy to see."""
    good = rng.random(4000) < 0.6
    norms = rng.choice([9.0, 60.0], 4000)
    alike = rng.normal(4, 3, 4000)
    score = np.where(good, norms * rng.normal(1, 0.15, 4000), alike) + rng.standard_normal(4000)
    score[:2], norms[:2] = 9.0, (9.0, 60.0)
    weak, strong = probability_good(score, norms)[:2]
    assert weak > 0.6 and strong < 0.01


@pytest.mark.parametrize(
    "mixture",
    [
        Mixture(0.7, 1.0, 0.06, 0.3, 1.0),
        Mixture(0.7, 1.0, 0.0, 1.0, 6.0),  # the bad ones scatter more
        Mixture(0.7, 1.0, 0.0, 0.0, 1.0),  # both alike
        Mixture(0.7, 0.01, 0.06, 2.0, 3.0),  # good ones below bad ones
    ],
)
def test_the_probability_never_falls_as_the_score_rises(mixture):
    score = np.linspace(-60, 120, 2001)
    for expected in (1.0, 10.0, 40.0):
        probability = mixture.probability(score, np.full(2001, expected))
        assert (np.diff(probability) >= -1e-12).all()
        assert ((probability >= 0) & (probability <= 1)).all()


def test_the_order_of_the_particles_and_a_larger_set_change_nothing(rng):
    score, norms, good = draw(rng, 60_000, 0.8)
    probability = probability_good(score, norms)
    assert probability.mean() == pytest.approx(good.mean(), abs=0.01)
    some = slice(0, 3000)
    backwards = probability_good(score[some][::-1], norms[some][::-1])[::-1]
    np.testing.assert_allclose(backwards, probability_good(score[some], norms[some]), atol=1e-9)


@pytest.mark.parametrize(
    ("name", "value"),
    [("score", np.nan), ("score", np.inf), ("expected", np.nan), ("expected", 0.0)],
)
def test_what_is_no_number_is_refused_by_its_particle(name, value):
    values = {"score": np.ones(5), "expected": np.ones(5)}
    values[name][3] = value
    with refused(row=4, value=value) as caught:
        probability_good(**values)
    assert name in caught.value.problem


def test_no_particles_are_refused():
    with refused():
        probability_good(np.zeros(0), np.zeros(0))


@pytest.mark.parametrize("noise_sd", [1.0, 7.0])
def test_a_signal_is_measured_in_standard_deviations_of_the_noise(
    noise_sd, helix_nodes, rng, generator
):
    """Also where noise is stronger at low frequencies, and a fifth of the images shows nothing."""
    reference = torch.from_numpy(helix_nodes.positions).float()
    network = DeformationVAE(ImageEncoder(BAND, SIZES), CartesianDecoder(reference, SIZES))
    for values in network.parameters():
        values.data.zero_()  # every structure is the reference
    density = node_density(helix_nodes, 2.0)
    rotations = torch.from_numpy(random_rotations(400, rng)).float()
    shifts = 3 * torch.randn(400, 2, generator=generator)
    where = {"rotations": rotations, "shifts": shifts}
    signal = make_images(reference, density.amplitudes, density.sigma, BAND, **where)
    signal = 12 * signal / signal.norm(dim=-1).mean()
    k = BAND.per_coefficient(BAND.frequencies.norm(dim=-1)).float()
    noise_sd = noise_sd * (0.3 + (0.02 / k))  # coloured
    images = signal * noise_sd.mean() + noise_sd * torch.randn(signal.shape, generator=generator)
    images[::5] -= signal[::5] * noise_sd.mean()
    data = TrainingData(images, rotations, looks=images, shifts=shifts)
    score, expected = matched_signals(network, data, density=density, band=BAND)
    length = (signal * noise_sd.mean() / noise_sd).norm(dim=-1).numpy()  # |P|, whitened
    good = np.arange(400) % 5 > 0
    assert score[~good].mean() == pytest.approx(0, abs=0.35)
    assert score[~good].std() == pytest.approx(1, abs=0.2)
    assert (score[good] - length[good]).mean() == pytest.approx(0, abs=0.5)
    assert (score[good] - length[good]).std() == pytest.approx(1, abs=0.15)
    assert np.corrcoef(expected, length)[0, 1] > 0.99
    assert roc_area(probability_good(score, expected), good) > 0.99


def test_the_area_is_the_chance_that_the_good_one_of_a_pair_scores_higher(rng):
    score = rng.integers(0, 8, 60).astype(float)  # with ties
    good = rng.random(60) < 0.4
    pairs = score[good][:, None] - score[~good]
    assert roc_area(score, good) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert roc_area(good.astype(float), good) == 1 and roc_area(-1.0 * good, good) == 0
    for everyone in (True, False):
        with refused():
            roc_area(score, np.full(60, everyone))
    score[5] = np.nan
    with refused(row=6):
        roc_area(score, good)
