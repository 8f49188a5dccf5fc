"""Particles held out: the verdicts by their numbers, and networks that know and that remember."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import BAND, CONFIG, SIZES
from torch import nn

from cryostar_nb.density import node_density
from cryostar_nb.geometry import random_rotations
from cryostar_nb.losses import correlation_loss
from cryostar_nb.models import Deformation, make_network
from cryostar_nb.projector import make_images
from cryostar_nb.training import TrainingData
from cryostar_nb.validation import (
    Estimate,
    Generalisation,
    generalisation,
    image_losses,
    latents_of,
    mean_of,
    others_of,
    spread_of,
)

COUNT, BEND = 300, 20.0  # particles; Å at the ends of the helix
CLEAR = Estimate(0.1, 0.01)
FOUND = Generalisation(100, -0.3, -0.3, CLEAR, CLEAR, CLEAR, 2.0)


class Remembered(nn.Module):
    """An encoder whose latent is what it sees."""

    def forward(self, looks):
        return looks, torch.zeros_like(looks)


class Bent(nn.Module):
    """A decoder that bends the helix."""

    def __init__(self, reference):
        super().__init__()
        self.reference = reference
        along_x = torch.tensor([BEND, 0.0, 0.0])
        self.bend = torch.linspace(-1, 1, len(reference)).square()[:, None] * along_x

    def forward(self, latents):
        return self.reference + latents[..., :1, None] * self.bend

    def deform(self, latents):
        return Deformation(self(latents), None)


@pytest.fixture
def case(helix_nodes, rng):
    """A network that decodes a bend, and bent particles, whose looks are their latents."""
    network = make_network(CONFIG, SIZES, helix_nodes, BAND)
    network.encoder, network.decoder = Remembered(), Bent(network.decoder.reference)
    density = node_density(helix_nodes, 2.0)
    latents = torch.from_numpy(rng.uniform(-1, 1, (COUNT, 1))).float()
    rotations = torch.from_numpy(random_rotations(COUNT, rng)).float()
    images = make_images(
        density.centres(network.decoder(latents)),
        density.amplitudes,
        density.sigma,
        BAND,
        rotations=rotations,
    )
    noise = torch.from_numpy(rng.standard_normal(images.shape)).float()
    data = TrainingData(images + images.std() * noise, rotations, looks=latents)
    return network, density, data


def compare(case, looks):
    """Hold every third particle out, of a network with these latents."""
    network, density, data = case
    rows = torch.arange(COUNT)
    return generalisation(
        network,
        density,
        BAND,
        dataclasses.replace(data, looks=looks),
        held_out=rows[::3],
        trained=torch.cat([rows[1::3], rows[2::3]])[::2],
    )


# Networks


def test_a_network_that_knows_every_particle_generalises(case):
    looks = case[2].looks
    found = compare(case, looks)
    assert found.verdict == "generalises" and found.moves and not found.collapsed
    assert found.particles == 100
    assert found.ratio.mean == pytest.approx(1, abs=4 * found.ratio.error)
    assert found.gain_over_others.mean > found.gain.mean > 0
    assert found.loss == pytest.approx(found.trained_loss, abs=0.05)


def test_a_network_that_knows_only_the_particles_of_the_training_has_learned_them(case):
    looks = case[2].looks.clone()
    looks[::3] = looks[::3].roll(7, 0)  # of the particles held out it has those of others
    found = compare(case, looks)
    assert found.verdict == "learns by heart" and not found.moves and not found.collapsed
    assert found.gain.mean < 0 < found.trained_gain.mean
    assert abs(found.gain_over_others.z) < 3.5


def test_a_network_that_knows_no_particle_is_undecided_and_does_not_move(case):
    found = compare(case, case[2].looks.roll(10, 0))
    assert (found.verdict, found.moves, found.collapsed) == ("undecided", False, False)


def test_latents_that_are_all_decoded_to_one_structure_are_collapsed(case):
    found = compare(case, 1e-3 * case[2].looks)
    assert found.collapsed and not found.moves and "collapsed" in found.words()[1]
    assert found.verdict == "undecided"


# What it is made of


def test_the_losses_are_those_of_training_particle_by_particle(case):
    network, density, data = case
    rows = torch.arange(0, COUNT, 2).flip(0)  # more than one part
    latents = latents_of(network, data, rows)
    assert torch.equal(latents, data.looks[rows])
    found = image_losses(network, density, BAND, data, rows, latents)
    predictions = make_images(
        density.centres(network.decoder(latents)),
        density.amplitudes,
        density.sigma,
        BAND,
        rotations=data.rotations[rows],
    )
    expected = [
        correlation_loss(data.vectors[r], p) for r, p in zip(rows, predictions, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)
    assert float(found.mean()) == pytest.approx(
        float(correlation_loss(data.vectors[rows], predictions)), abs=1e-6
    )


def test_the_spread_is_the_rms_distance_from_the_mean_structure(case):
    decoder = case[0].decoder
    latents = torch.tensor([-1.0, 1.0]).repeat(70)[:, None]
    expected = float(decoder.bend.square().sum(-1).mean().sqrt())
    assert spread_of(decoder, latents) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [2, 3, 101])
def test_every_particle_has_another_one(count):
    others = others_of(count)
    assert sorted(others.tolist()) == list(range(count))
    assert (others != torch.arange(count)).all()


def test_the_standard_error_is_the_scatter_of_means(rng):
    values = torch.from_numpy(rng.standard_normal((2000, 50)) * 3 + 1)
    means = values.mean(1)
    assert mean_of(values[0]).mean == pytest.approx(float(means[0]))
    errors = np.mean([mean_of(row).error for row in values])
    assert errors == pytest.approx(float(means.std()), rel=0.05)


# Verdicts by their numbers


@pytest.mark.parametrize(
    ("gain", "trained", "verdict"),
    [
        ((0.09, 0.01), (0.1, 0.01), "generalises"),
        ((0.04, 0.01), (0.1, 0.01), "generalises"),  # not clearly below a half
        ((0.01, 0.01), (0.1, 0.01), "learns by heart"),
        ((0.02, 0.002), (0.1, 0.01), "learns by heart"),  # some of it is by heart
        ((-0.05, 0.01), (0.1, 0.01), "learns by heart"),
        ((0.02, 0.01), (0.02, 0.01), "undecided"),
        ((0.0, 0.01), (0.03, 0.01), "undecided"),
    ],
)
def test_a_verdict_follows_from_the_gains(gain, trained, verdict):
    found = dataclasses.replace(FOUND, gain=Estimate(*gain), trained_gain=Estimate(*trained))
    assert found.verdict == verdict
    assert found.words()[0].startswith(verdict)


def test_of_few_particles_nothing_is_concluded():
    found = dataclasses.replace(FOUND, particles=19)
    assert found.verdict == "undecided" and not found.moves and "too few" in found.words()[0]


@pytest.mark.parametrize("name", ["gain", "gain_over_others"])
def test_motion_is_above_noise_when_both_gains_are_clear(name):
    assert FOUND.moves and FOUND.words()[1].startswith("motion: structures differ by 2.00 Å")
    still = dataclasses.replace(FOUND, **{name: Estimate(0.029, 0.01)})
    assert not still.moves and still.words()[1].startswith("no motion found above noise")


def test_the_error_of_the_ratio_is_that_of_a_quotient(rng):
    gain, trained = Estimate(0.05, 0.004), Estimate(0.1, 0.005)
    ratio = dataclasses.replace(FOUND, gain=gain, trained_gain=trained).ratio
    draws = rng.normal(0.05, 0.004, 100_000) / rng.normal(0.1, 0.005, 100_000)
    assert ratio.mean == pytest.approx(0.5) and ratio.error == pytest.approx(draws.std(), rel=0.03)
