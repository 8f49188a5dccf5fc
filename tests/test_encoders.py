"""What an image shows at the places of a structure: the adjoint of the projector, in its frame."""

import math

import numpy as np
import pytest
import torch
from tiny import BAND as HELIX_BAND
from tiny import SIZES

from cryostar_nb.config import PRESETS, ModelConfig, TrainConfig
from cryostar_nb.ctf import contrast_transfer_function, ctf_terms
from cryostar_nb.encoders import (
    MOST_NODES,
    MOST_PLACES,
    REACH,
    ImageEncoder,
    StructureEncoder,
    make_encoder,
    places_around,
)
from cryostar_nb.fast.nufft import adjoint_transform, transform_nodes
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.projector import make_images

BAND = Band(32, 3.0, 8.0)


# The adjoint


def test_it_is_the_adjoint_of_the_sum_over_nodes(generator):
    positions = torch.randn(3, 40, 3, generator=generator, dtype=torch.float64) * 15
    amplitudes = torch.randn(40, generator=generator, dtype=torch.float64)
    vectors = torch.randn(3, BAND.size, generator=generator, dtype=torch.float64)
    values, _ = adjoint_transform(vectors, positions, BAND)
    forward = (transform_nodes(positions, amplitudes, BAND) * vectors).sum(-1)
    assert torch.allclose((values * amplitudes).sum(-1), forward, rtol=1e-10)


def test_values_and_slopes_are_those_of_the_formula(generator):
    positions = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64) * 15
    vectors = torch.randn(2, BAND.size, generator=generator, dtype=torch.float64)
    positions.requires_grad_()
    angle = 2 * math.pi * positions[..., :2] @ BAND.frequencies.mT
    real, imaginary = vectors.chunk(2, dim=-1)
    expected = (real[:, None] * angle.cos() - imaginary[:, None] * angle.sin()).sum(-1)
    (expected_slopes,) = torch.autograd.grad(expected.sum(), positions)
    values, slopes = adjoint_transform(vectors, positions.detach(), BAND)
    assert (values - expected).norm() < 1e-5 * expected.norm()
    assert (slopes - expected_slopes).norm() < 5e-5 * expected_slopes.norm()


# The encoder of the structure


@pytest.fixture
def scene(generator, rng, microscope):
    """Five asymmetric nodes, sixteen images of them, their poses and CTFs."""
    positions = torch.randn(5, 3, generator=generator) * 12
    rotations = torch.from_numpy(random_rotations(16, rng)).float()
    ctf = microscope(defocus_u=torch.linspace(8_000.0, 20_000.0, 16)).to(torch.float32)
    electrons, sigma = torch.full((5,), 40.0), torch.tensor(2.0)
    images = make_images(positions, electrons, sigma, BAND, rotations=rotations, ctf=ctf)
    return positions, images, rotations, ctf


@pytest.fixture
def encoder_of():
    """Make an encoder that looks from these nodes."""

    def make(nodes):
        return StructureEncoder(nodes, BAND, SIZES)

    return make


def test_a_look_is_the_gradient_of_the_likelihood(scene, encoder_of):
    """At a node it is the derivative of image · prediction in the node's amplitude, and in its
    position in the frame of the reference, times the blur in Å.
    """
    positions, images, rotations, ctf = scene
    elsewhere = (positions + torch.tensor([2.0, -1.0, 1.5])).requires_grad_()
    amplitudes, sigma = torch.ones(5, requires_grad=True), torch.tensor(2.0)
    look = encoder_of(elsewhere.detach()).look(images, rotations, ctf_terms(ctf))
    scale = BAND.box_size * BAND.pixel_size**2 / math.sqrt(2)
    for particle in (0, 7, 15):
        pose = {"rotations": rotations[particle], "ctf": ctf[particle]}
        prediction = make_images(elsewhere, amplitudes, sigma, BAND, **pose)
        product = (images[particle] * prediction).sum() * scale
        values, slopes = torch.autograd.grad(product, (amplitudes, elsewhere))
        atol = 1e-4 * float(values.abs().max())
        np.testing.assert_allclose(look[particle, :5], values, rtol=1e-3, atol=atol)
        atol, slopes = 1e-3 * float(slopes.abs().max()), StructureEncoder.node_blur * slopes
        np.testing.assert_allclose(look[particle, 5:20].view(5, 3), slopes, rtol=1e-2, atol=atol)


def test_a_look_does_not_depend_on_how_the_molecule_lies(scene, encoder_of):
    """Turning the molecule with its pose changes no image; the slopes turn with the molecule."""
    positions, images, rotations, ctf = scene
    turn = torch.from_numpy(random_rotations(1, np.random.default_rng(3))[0]).float()
    first = encoder_of(positions).look(images, rotations, ctf_terms(ctf))
    turned = encoder_of(positions @ turn.mT).look(images, rotations @ turn.mT, ctf_terms(ctf))
    atol = 1e-3 * float(first.abs().max())
    assert torch.allclose(first[:, :5], turned[:, :5], rtol=1e-3, atol=atol)
    slopes, turned_slopes = (look[:, 5:20].reshape(16, 5, 3) for look in (first, turned))
    assert torch.allclose(slopes @ turn.mT, turned_slopes, rtol=1e-3, atol=atol)


def test_without_a_ctf_the_image_is_looked_at_as_it_is(scene, encoder_of):
    positions, images, rotations, ctf = scene
    encoder = encoder_of(positions)
    transfer = BAND.per_coefficient(contrast_transfer_function(BAND.frequencies, ctf).to(images))
    without = encoder.look(images * transfer, rotations, None)
    assert torch.allclose(
        without, encoder.look(images, rotations, ctf_terms(ctf)), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("count", [24, 5000])
def test_it_looks_at_a_bounded_number_of_places_all_near(count, generator, encoder_of):
    reference = torch.cumsum(torch.randn(count, 3, generator=generator), 0) * 2
    reference -= reference.mean(0)
    encoder = encoder_of(reference)
    assert len(encoder.nodes) <= MOST_NODES and 0 < len(encoder.places) <= MOST_PLACES
    assert torch.equal(encoder.places, places_around(reference))
    assert torch.cdist(encoder.places, reference).amin(1).max() < REACH
    assert len(encoder.centre) == 4 * len(encoder.nodes) + len(encoder.places)


def test_the_latent_is_that_of_the_standardised_look(scene, encoder_of):
    positions, images, rotations, ctf = scene
    encoder, terms = encoder_of(positions), ctf_terms(ctf)
    look = encoder.look(images, rotations, terms)
    encoder.learn_scale(look)
    mean, log_variance = encoder(look)
    expected = encoder.layers((look - look.mean(0)) / look.std(0).clamp(min=1e-12))
    assert mean.shape == log_variance.shape == (16, SIZES.latent_dim)
    assert torch.allclose(torch.cat([mean, log_variance], dim=1), expected, atol=1e-5)


def test_the_scale_is_kept_with_the_weights_and_the_places_are_not(scene, encoder_of):
    """Places follow from the reference; the scale follows from the particles."""
    encoder = encoder_of(scene[0])
    buffers = {name for name in encoder.state_dict() if "layers" not in name}
    assert buffers == {"centre", "spread"}


# The paper's encoder


def test_the_encoder_of_images_does_not_see_their_brightness(helix_data):
    encoder = ImageEncoder(HELIX_BAND, SIZES)
    plain, bright = (encoder(scale * helix_data.vectors) for scale in (1.0, 100.0))
    for a, b in zip(plain, bright, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_the_encoder_of_images_does_not_see_pose_and_ctf(scene):
    _, images, rotations, ctf = scene
    assert ImageEncoder(BAND, SIZES).look(images, rotations, ctf_terms(ctf)) is images


@pytest.mark.parametrize(
    ("config", "kind"), [(TrainConfig(), StructureEncoder), (PRESETS["paper"], ImageEncoder)]
)
def test_the_settings_choose_the_encoder(config, kind, scene):
    positions, images, rotations, ctf = scene
    encoder = make_encoder(config, ModelConfig(), positions, BAND)
    assert type(encoder) is kind
    assert encoder(encoder.look(images, rotations, ctf_terms(ctf)))[0].shape == (16, 8)
