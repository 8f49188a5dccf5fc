"""Posteriors of particles whose truth, noise and prior are known."""

import dataclasses
import math

import pytest
import torch
from scipy.stats import multivariate_normal
from tiny import BAND, SIZES
from torch import nn

from cryostar_nb.density import node_density
from cryostar_nb.encoders import ImageEncoder
from cryostar_nb.geometry import random_rotations
from cryostar_nb.latents import Directions
from cryostar_nb.mixture import Mixture, quantiles
from cryostar_nb.models import CartesianDecoder, Deformation, DeformationVAE
from cryostar_nb.poses import Corrections, corrected
from cryostar_nb.posterior import Inference, Posterior, mean_and_sd
from cryostar_nb.training import TrainingData

PRIOR_SD = 1.5


class Bending(CartesianDecoder):
    """A decoder without parameters: the first number of a latent moves half of the nodes, and the
    second hardly moves any.
    """

    latent_dim = 2

    def __init__(self, reference):
        nn.Module.__init__(self)
        self.register_buffer("reference", reference)

    def forward(self, latent):
        half = torch.arange(len(self.reference)) < len(self.reference) // 2
        move = torch.tensor([1.0, 0.5, 0.0]) * half[:, None]
        bend = 0.03 * torch.tensor([0.0, 1.0, 1.0]) * half[:, None]
        along = latent[..., None, :1]
        return self.reference + along * move + along.square() * bend

    def deform(self, latent):
        return Deformation(self(latent), None)


class Turning(Bending):
    """A decoder that turns half of the nodes about z: the latents lie on a circle."""

    def forward(self, latent):
        half = torch.arange(len(self.reference)) < len(self.reference) // 2
        unit = nn.functional.normalize(latent, dim=-1)
        cos, sin = unit[..., None, 0], unit[..., None, 1]
        x, y, z = self.reference.unbind(-1)
        turned = torch.stack([cos * x - sin * y, sin * x + cos * y, z + 0 * cos], dim=-1)
        return torch.where(half[:, None], turned, self.reference)


@pytest.fixture
def nodes(make_nodes, rng):
    return make_nodes(rng.normal([8, -8, 4], 8, (40, 3)))


@pytest.fixture
def network(nodes):
    """A network that knows the structures, and whose encoder always says 0."""
    reference = torch.from_numpy(nodes.positions).float()
    network = DeformationVAE(ImageEncoder(BAND, SIZES), Bending(reference)).eval()
    for values in network.parameters():
        values.data.zero_()
    return network


@pytest.fixture
def density(nodes):
    return node_density(nodes, 2.0)


@pytest.fixture
def make_particles(network, density, rng, generator):
    """Particles with latents from N(0, 1.5^2), and those latents; noise has unit variance."""

    def make(count, signal=30.0, contrast_sd=0.0, ring=False):
        latents = torch.zeros(count, 2)
        latents[:, 0] = PRIOR_SD * torch.randn(count, generator=generator)
        if ring:
            latents = torch.nn.functional.normalize(torch.randn(count, 2, generator=generator))
        rotations = torch.from_numpy(random_rotations(count, rng)).float()
        images = density.images(network.decoder(latents), BAND, rotations=rotations)
        scale = signal / images.norm(dim=-1).mean()
        contrast = 1 + contrast_sd * torch.randn(count, 1, generator=generator)
        images = scale * contrast * images + torch.randn(images.shape, generator=generator)
        data = TrainingData(images, rotations, looks=images)
        return dataclasses.replace(data, looks=data.vectors), latents, float(scale)

    return make


@pytest.fixture
def make_inference(network, density):
    """What there is to know, but for the particles."""

    def make(scale, contrast_sd=0.02):
        prior = Mixture(
            torch.ones(1).double(), torch.zeros(1, 1).double(), torch.ones(1, 1, 1).double()
        )
        axes = torch.tensor([[PRIOR_SD, 0.0]]).double()
        directions = Directions(torch.zeros(2).double(), axes, axes.mT / PRIOR_SD**2)
        flat = torch.ones(BAND.size)
        return Inference(network, density, BAND, directions, prior, flat, scale * flat, contrast_sd)

    return make


def test_intervals_hold_the_truth_as_often_as_they_say(make_particles, make_inference):
    data, latents, scale = make_particles(600)
    found = make_inference(scale).infer(data, torch.zeros(600, 2))
    ends = quantiles(
        found.latents[..., 0], found.weights, torch.tensor([0.25, 0.05, 0.025, 0.75, 0.95, 0.975])
    )
    inside = (latents[:, :1] > ends[:, :3]) & (latents[:, :1] < ends[:, 3:])
    share = inside.float().mean(0)
    torch.testing.assert_close(share, torch.tensor([0.5, 0.9, 0.95]), atol=0.04, rtol=0)
    spread = (found.weights * found.latents[..., 0]).sum(1) - latents[:, 0]
    assert spread.square().mean().sqrt() < 0.5 * PRIOR_SD
    assert found.effective.median() > 30


def test_the_posterior_is_that_of_a_fine_grid(make_particles, make_inference, density, network):
    data, _, scale = make_particles(12, signal=15.0)
    inference = make_inference(scale, contrast_sd=0.1)
    found = inference.infer(data, torch.zeros(12, 2), draws=4000)
    grid = torch.linspace(-5, 5.5, 321)
    structures = network.decoder(torch.stack([grid, torch.zeros(321)], dim=1))
    for row in range(12):
        made = scale * density.images(structures, BAND, rotations=data.rotations[row])
        contrast = torch.linspace(0.4, 1.6, 121)[:, None, None]
        errors = (data.vectors[row] - contrast * made).square().sum(-1)
        fit = -0.5 * errors - 0.5 * ((contrast[..., 0] - 1) / 0.1).square()
        weights = torch.logsumexp(fit.double(), 0) - 0.5 * (grid / PRIOR_SD).square()
        weights = torch.softmax(weights, 0)
        mean = float((weights * grid).sum())
        sd = math.sqrt(float((weights * (grid - mean).square()).sum()))
        drawn = found.latents[row, :, 0]
        here = float((found.weights[row] * drawn).sum())
        assert abs(here - mean) < 0.1 * sd
        there = math.sqrt(float((found.weights[row] * (drawn - here).square()).sum()))
        assert there == pytest.approx(sd, rel=0.1)


def test_information_is_the_distance_from_the_prior(make_particles, make_inference):
    """That of a Gaussian N(m, s^2) from N(0, 1): (s^2 + m^2 - 1) / 2 - log s."""
    data, _, scale = make_particles(40)
    found = make_inference(scale).infer(data, torch.zeros(40, 2), draws=2000)
    drawn = found.latents[..., 0].double() / PRIOR_SD
    mean = (found.weights * drawn).sum(1)
    variance = (found.weights * (drawn - mean[:, None]).square()).sum(1)
    expected = 0.5 * (variance + mean.square() - 1 - variance.log())
    off = (found.information - expected).abs()
    assert off.median() < 0.05 and off.quantile(0.9) < 0.25  # some are not Gaussian


def test_a_second_look_finds_particles_that_the_encoder_sends_to_the_other_side(
    make_particles, make_inference, network
):
    network.decoder = Turning(network.decoder.reference)
    data, latents, scale = make_particles(200, ring=True, signal=25.0)
    angles = torch.arange(12).double() * (2 * math.pi / 12)
    means = torch.stack([angles.cos(), angles.sin()], dim=1)
    factors = 4 * torch.eye(2).double().expand(12, 2, 2)
    inference = dataclasses.replace(
        make_inference(scale),
        directions=Directions(torch.zeros(2).double(), *2 * [torch.eye(2).double()]),
        prior=Mixture(torch.full((12,), 1 / 12).double(), means, factors),
    )
    found = inference.infer(data, -latents)  # which is the opposite
    mean = found.structures(network.decoder)[0]
    off = (mean - network.decoder(latents)).square().sum(-1).mean(-1).sqrt()
    assert (off < 1).float().mean() > 0.8
    assert (found.effective > 5).float().mean() > 0.5


def test_an_image_without_signal_says_nothing(make_inference, make_particles, generator):
    data, _, scale = make_particles(20)
    empty = dataclasses.replace(data, vectors=torch.randn(data.vectors.shape, generator=generator))
    found = make_inference(1e-4 * scale).infer(empty, torch.zeros(20, 2), draws=400)
    assert (found.information < 0.02).all()
    spread = (found.weights * found.latents[..., 0].square()).sum(1).sqrt()
    torch.testing.assert_close(spread, torch.full_like(spread, PRIOR_SD), rtol=0.2, atol=0)


def test_contrast_and_poses_are_integrated_out(make_particles, make_inference, rng):
    """The likelihood is that of a Gaussian image: mean P, covariance 1 + G L G^T."""
    data, _, scale = make_particles(5, signal=20.0)
    centre, widths = torch.tensor([8.0, -8.0, 4.0]), torch.tensor([0.03, 0.5])
    inference = dataclasses.replace(
        make_inference(scale, contrast_sd=0.2), widths=widths, centre=centre
    )
    values = 0.01 * torch.randn(5, 5)
    rotations, shifts = corrected(data.rotations, values, centre)
    moved = dataclasses.replace(data, rotations=rotations, shifts=shifts)
    corrections = Corrections(data.rotations, centre, values, widths)
    batch = inference._batch(moved, torch.arange(5), corrections)
    nuisance = inference._nuisance(batch, torch.zeros(5, 1).double())
    made = [inference._predict(batch, torch.tensor([[z, 0.0]] * 5)) for z in (0.0, 1.0, -2.0)]
    fits = torch.stack([nuisance.fit(batch.images, m) for m in made])
    prior = torch.tensor([0.2, 0.03, 0.03, 0.03, 0.5, 0.5]).square()
    for row in range(5):
        expected = []
        for image in made:
            slopes = torch.cat([image[row, None], nuisance.slopes[row]]).double().numpy()
            mean = image[row].double().numpy() - slopes[1:].T @ values[row].double().numpy()
            covariance = torch.eye(BAND.size).double().numpy() + (slopes.T * prior.numpy()) @ slopes
            expected.append(multivariate_normal(mean, covariance).logpdf(data.vectors[row].numpy()))
        found = fits[:, row] - fits[0, row]
        assert found.tolist() == pytest.approx([e - expected[0] for e in expected], abs=0.02)


def test_what_is_learned_is_what_the_particles_have(make_particles, network, density):
    """Contrast, noise and prior; the encoder's latents have noise of their own."""
    data, latents, scale = make_particles(500, contrast_sd=0.25)
    said = latents + torch.tensor([0.7, 0.01]) * torch.randn(500, 2)
    doubled = dataclasses.replace(data, vectors=2 * data.vectors)
    inference = Inference.learn(network, doubled, said, density=density, band=BAND)
    assert len(inference.directions.axes) == 1
    assert float(inference.amplitude.mean()) == pytest.approx(2 * scale, rel=0.1)
    assert float(inference.whitening.mean()) == pytest.approx(0.5, rel=0.05)
    assert inference.contrast_sd == pytest.approx(0.25, rel=0.25)
    drawn = inference.directions.latents(
        inference.prior.draw(20_000, torch.Generator().manual_seed(0))
    )
    assert said[:, 0].std() > 1.1 * PRIOR_SD
    assert float(drawn[:, 0].std()) == pytest.approx(float(latents[:, 0].std()), rel=0.08)


def test_few_particles_that_are_junk_change_neither_noise_nor_contrast(
    make_particles, network, density
):
    data, latents, _ = make_particles(200)
    images = data.vectors.clone()
    images[:20] = 5 * torch.randn(20, BAND.size)
    good = torch.arange(200) >= 20
    spoilt = dataclasses.replace(data, vectors=images)
    found, clean = (
        Inference.learn(network, d, latents, density=density, band=BAND, good=good)
        for d in (spoilt, data)
    )
    torch.testing.assert_close(found.whitening, clean.whitening)
    assert found.contrast_sd == clean.contrast_sd


def test_the_answer_does_not_depend_on_other_particles_of_the_call(make_particles, make_inference):
    data, _, scale = make_particles(6)
    inference = make_inference(scale)
    alone = inference.infer(data, torch.zeros(6, 2), torch.arange(6)[:1])
    again = inference.infer(data, torch.zeros(6, 2), torch.arange(6)[:1])
    assert all(torch.equal(a, b) for a, b in zip(alone, again, strict=True))


def test_the_mean_structure_and_the_sd_of_its_nodes():
    structures = torch.tensor([[[[0.0, 0, 0], [1, 0, 0]], [[2.0, 0, 0], [1, 0, 4]]]])
    mean, sd = mean_and_sd(structures, torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(mean, torch.tensor([[[0.5, 0, 0], [1, 0, 1]]]))
    torch.testing.assert_close(sd, torch.tensor([[math.sqrt(0.75), math.sqrt(3)]]))


def test_draws_that_are_drawn_again_are_as_frequent_as_they_weigh():
    weights = torch.tensor([[0.7, 0.3, 0.0]]).expand(2000, 3)
    latents = torch.tensor([[[1.0], [2.0], [3.0]]]).expand(2000, 3, 1)
    some = Posterior(latents, weights, *(torch.zeros(2000),) * 4)
    drawn = some.resampled(4)
    assert drawn.shape == (2000, 4, 1)
    assert (drawn == 1).float().mean() == pytest.approx(0.7, abs=0.02)
    assert not (drawn == 3).any()
