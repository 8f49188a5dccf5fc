"""What an image shows at the places of a structure: the adjoint of the projector, in the frame of the reference."""

import math

import numpy as np
import pytest
import torch

from cryostar_nb.config import TrainConfig
from cryostar_nb.ctf import contrast_transfer_function, ctf_terms
from cryostar_nb.encoders import MOST_NODES, MOST_PLACES, REACH, StructureView, structure_view
from cryostar_nb.fast.nufft import adjoint_transform, transform_nodes
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.projector import make_images
from cryostar_nb.training import encoder_inputs, make_view, train

BAND = Band(32, 3.0, 8.0)


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
    (slopes,) = torch.autograd.grad(expected.sum(), positions)
    values, found = adjoint_transform(vectors, positions.detach(), BAND)
    assert (values - expected).norm() < 1e-5 * expected.norm()
    assert (found - slopes).norm() < 5e-5 * slopes.norm()


@pytest.fixture
def scene(generator, rng, microscope):
    """Sixteen images of five asymmetric nodes, their poses and CTFs."""
    positions = torch.randn(5, 3, generator=generator) * 12
    rotations = torch.from_numpy(random_rotations(16, rng)).float()
    ctf = microscope(defocus_u=torch.linspace(8_000.0, 20_000.0, 16)).to(torch.float32)
    images = make_images(
        positions, torch.full((5,), 40.0), torch.tensor(2.0), BAND, rotations=rotations, ctf=ctf
    )
    return positions, images, rotations, ctf


def test_a_view_is_the_gradient_of_the_likelihood(scene):
    """Its numbers at a node are the derivatives of image . prediction in the node's amplitude and position, in the reference's frame."""
    positions, images, rotations, ctf = scene
    elsewhere = (positions + torch.tensor([2.0, -1.0, 1.5])).requires_grad_()
    amplitudes = torch.ones(5, requires_grad=True)
    view = StructureView(BAND, elsewhere.detach(), torch.zeros(0, 3))
    seen = view(images, rotations, ctf_terms(ctf))
    for particle in (0, 7, 15):
        prediction = make_images(
            elsewhere,
            amplitudes,
            torch.tensor(2.0),
            BAND,
            rotations=rotations[particle],
            ctf=ctf[particle],
        )
        product = (images[particle] * prediction).sum() * (
            BAND.box_size * BAND.pixel_size**2 / math.sqrt(2)
        )
        of_amplitudes, of_positions = torch.autograd.grad(product, (amplitudes, elsewhere))
        np.testing.assert_allclose(
            seen[particle, :5],
            of_amplitudes,
            rtol=1e-3,
            atol=1e-4 * float(of_amplitudes.abs().max()),
        )
        np.testing.assert_allclose(
            seen[particle, 5:].reshape(5, 3),
            2.0 * of_positions,
            rtol=1e-2,
            atol=1e-3 * float(of_positions.abs().max()),
        )


def test_a_view_does_not_depend_on_how_the_molecule_lies(scene):
    """Turning the molecule with its pose changes no image, and turns what the view says with it."""
    positions, images, rotations, ctf = scene
    turn = torch.from_numpy(random_rotations(1, np.random.default_rng(3))[0]).float()
    first = StructureView(BAND, positions, positions)(images, rotations, ctf_terms(ctf))
    second = StructureView(BAND, positions @ turn.mT, positions @ turn.mT)(
        images, rotations @ turn.mT, ctf_terms(ctf)
    )
    assert torch.allclose(
        first[:, :5], second[:, :5], rtol=1e-3, atol=1e-3 * float(first.abs().max())
    )
    slopes = [seen[:, 5:20].reshape(16, 5, 3) for seen in (first, second)]
    assert torch.allclose(
        slopes[0] @ turn.mT, slopes[1], rtol=1e-3, atol=1e-3 * float(first.abs().max())
    )


def test_without_a_ctf_the_image_is_looked_at_as_it_is(scene):
    positions, images, rotations, ctf = scene
    view = StructureView(BAND, positions, positions)
    transfer = BAND.per_coefficient(contrast_transfer_function(BAND.frequencies, ctf).to(images))
    assert torch.allclose(
        view(images * transfer, rotations, None),
        view(images, rotations, ctf_terms(ctf)),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("count", [24, 5000])
def test_a_view_looks_at_a_bounded_number_of_places_all_near(count, generator):
    reference = torch.cumsum(torch.randn(count, 3, generator=generator), 0) * 2
    view = structure_view(reference - reference.mean(0), BAND)
    assert len(view.nodes) <= MOST_NODES and 0 < len(view.places) <= MOST_PLACES
    assert torch.cdist(view.places, reference - reference.mean(0)).amin(1).max() < REACH
    assert view.size == 4 * len(view.nodes) + len(view.places)


def test_training_by_the_view_learns_the_scale_once_and_resumes(helix_data, helix_nodes, tmp_path):
    band = Band(24, 3.0, 9.0)
    config = TrainConfig(
        steps=40, batch_size=8, warmup_steps=5, low_pass=9.0, encoder_input="structure", log_every=1
    )
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = train(config, helix_data, helix_nodes, band, tmp_path / "whole")
    inputs = torch.cat(
        list(encoder_inputs(helix_data, make_view(config, helix_nodes, band), batch_size=16))
    )
    assert torch.allclose(
        whole.encoder.centre, inputs.mean(0), atol=1e-4 * float(inputs.abs().max())
    )
    assert torch.allclose(whole.encoder.spread, inputs.std(0), rtol=1e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "cryostar_nb.config.TrainConfig.learning_rate_at",
            lambda self, step: 1 / 0 if step == 25 else 1e-3,
        )
        with pytest.raises(ZeroDivisionError):
            train(
                TrainConfig(**(vars(config) | {"checkpoint_every": 20})),
                helix_data,
                helix_nodes,
                band,
                tmp_path / "parts",
            )
    state = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 20 and torch.equal(
        state["model"]["encoder.centre"], whole.encoder.centre
    )
