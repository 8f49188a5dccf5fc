"""Laws of the projectors; their axes, signs and units are proved in test_conventions.py."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from cryostar_nb.ctf import contrast_transfer_function
from cryostar_nb.fourier import Band, shift_band, shift_images
from cryostar_nb.geometry import random_rotations
from cryostar_nb.projector import gaussian_density, make_images, project_band, project_real, rotate

SIGMA = torch.tensor(2.0, dtype=torch.float64)
WIDTHS = torch.tensor([1.8, 2.0, 2.5, 3.0, 2.2], dtype=torch.float64)
EITHER_SIGMA = pytest.mark.parametrize(
    "sigma", [SIGMA, WIDTHS], ids=["one width", "a width per node"]
)
BOXES = pytest.mark.parametrize("box_size", [40, 41])


@pytest.fixture
def rotations(rng):
    return torch.from_numpy(random_rotations(4, rng))


def complex_coefficients(vector):
    return torch.complex(*vector.chunk(2, dim=-1))


# The real-space and the Fourier projector agree


@BOXES
def test_both_projectors_agree_where_the_gaussian_is_well_sampled(box_size, asymmetric):
    band = Band(box_size, 1.0, 2.0)
    real = project_real(*asymmetric, SIGMA, box_size=box_size, pixel_size=1.0)
    fourier = band.decode(project_band(*asymmetric, SIGMA, band))
    assert (fourier - (real - real.mean())).abs().max() < 1e-5 * real.max()


@EITHER_SIGMA
def test_the_real_space_projector_is_the_formula_on_the_blackboard(
    sigma, asymmetric, blackboard_image
):
    positions, amplitudes = asymmetric
    expected = blackboard_image(positions.numpy(), amplitudes.numpy(), sigma.numpy(), 9, 1.7)
    assert torch.allclose(
        project_real(positions, amplitudes, sigma, box_size=9, pixel_size=1.7), expected, atol=1e-14
    )


@EITHER_SIGMA
def test_the_density_integrated_along_z_is_the_projection(sigma, asymmetric):
    density = gaussian_density(*asymmetric, sigma, box_size=41, pixel_size=1.0)
    image = project_real(*asymmetric, sigma, box_size=41, pixel_size=1.0)
    assert torch.allclose(density.sum(dim=0) * 1.0, image, atol=1e-5 * float(image.max()))


def test_the_density_is_a_gaussian_of_the_distance(asymmetric):
    positions, amplitudes = asymmetric
    density = gaussian_density(positions, amplitudes, SIGMA, box_size=6, pixel_size=1.5)
    point = 1.5 * np.array([1.0, -2.0, 2.0])  # x, y, z of voxel (5, 1, 4)
    squared = np.square(positions.numpy() - point).sum(-1)
    expected = np.sum(
        amplitudes.numpy() * np.exp(-squared / (2 * 2.0**2)) / (2 * np.pi * 2.0**2) ** 1.5
    )
    assert float(density[5, 1, 4]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("function", [project_real, gaussian_density])
def test_a_width_per_node_is_the_sum_of_nodes_projected_alone(function, asymmetric):
    positions, amplitudes = asymmetric
    grid = {"box_size": 20, "pixel_size": 1.5}
    alone = [function(positions[[i]], amplitudes[[i]], WIDTHS[i], **grid) for i in range(5)]
    together = function(positions, amplitudes, WIDTHS, **grid)
    assert torch.allclose(together, torch.stack(alone).sum(0), atol=1e-12)


@pytest.mark.parametrize("project", ["real", "band"])
def test_an_image_is_linear_in_the_amplitudes(project, asymmetric, generator):
    positions, _ = asymmetric
    band = Band(20, 1.5, 3.0)
    first, second = torch.rand(2, 5, generator=generator, dtype=torch.float64)

    def made(amplitudes):
        if project == "band":
            return project_band(positions, amplitudes, SIGMA, band)
        return project_real(positions, amplitudes, SIGMA, box_size=20, pixel_size=1.5)

    assert torch.allclose(made(3 * first - second), 3 * made(first) - made(second), atol=1e-12)


def test_float32_is_right_to_five_digits(asymmetric):
    band = Band(128, 1.0, 4.0)
    exact = project_band(*asymmetric, SIGMA, band)
    single = project_band(*(tensor.float() for tensor in asymmetric), SIGMA.float(), band)
    assert single.dtype == torch.float32
    assert (single - exact).norm() < 1e-5 * exact.norm()


def test_a_coarser_band_is_a_part_of_a_finer_one(asymmetric):
    fine, coarse = Band(32, 1.5, 3.0), Band(32, 1.5, 8.0)
    images = [band.decode(project_band(*asymmetric, SIGMA, band)) for band in (fine, coarse)]
    assert torch.allclose(coarse.decode(coarse.encode(images[0])), images[1], atol=1e-12)


# Symmetries


def test_turning_the_nodes_is_turning_the_pose(asymmetric, rotations):
    positions, amplitudes = asymmetric
    band = Band(32, 1.5, 3.0)
    first, second = rotations[:2]
    turned = make_images(
        torch.stack([first @ x for x in positions]), amplitudes, SIGMA, band, rotations=second
    )
    assert torch.allclose(
        turned,
        make_images(positions, amplitudes, SIGMA, band, rotations=second @ first),
        atol=1e-12,
    )


def test_a_quarter_turn_in_the_plane_turns_an_odd_image(asymmetric):
    positions, amplitudes = asymmetric
    band = Band(33, 1.5, 3.0)
    about_z = torch.tensor(
        [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64
    )
    still, turned = (
        band.decode(make_images(positions, amplitudes, SIGMA, band, rotations=r))
        for r in (torch.eye(3).double(), about_z)
    )
    # (x, y) goes to (-y, x): turned[x, -y] = still[y, x]
    assert torch.allclose(turned, still.mT.flip(-1), atol=1e-12)
    assert not torch.allclose(turned, still, atol=0.1 * float(still.max()))


def test_looking_from_behind_mirrors_the_image(asymmetric):
    positions, amplitudes = asymmetric
    band = Band(33, 1.5, 3.0)
    half_turn_about_y = torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    front, back = (
        band.decode(make_images(positions, amplitudes, SIGMA, band, rotations=r))
        for r in (torch.eye(3).double(), half_turn_about_y)
    )
    assert torch.allclose(back, front.flip(-1), atol=1e-12)


def test_moving_the_nodes_is_shifting_the_image(asymmetric):
    positions, amplitudes = asymmetric
    band = Band(32, 1.5, 3.0)
    shift = torch.tensor([2.3, -4.1], dtype=torch.float64)
    moved = project_band(
        positions + torch.cat([shift, torch.tensor([9.0])]), amplitudes, SIGMA, band
    )  # z does not matter
    assert torch.allclose(
        shift_band(project_band(positions, amplitudes, SIGMA, band), shift, band), moved, atol=1e-12
    )


def test_a_shift_is_a_phase_ramp(generator):
    band = Band(17, 1.5, 3.0)
    vector = torch.randn(band.size, generator=generator, dtype=torch.float64)
    x, y = 2.3, -4.1
    kx, ky = band.frequencies.unbind(-1)
    expected = complex_coefficients(vector) * torch.exp(-2j * math.pi * (kx * x + ky * y))
    assert torch.allclose(
        complex_coefficients(shift_band(vector, torch.tensor([x, y]).double(), band)), expected
    )


@BOXES
def test_a_shift_of_a_band_is_that_of_its_images(box_size, generator):
    band = Band(box_size, 1.5, 3.0)
    vectors = torch.randn(3, band.size, generator=generator, dtype=torch.float64)
    shifts = torch.tensor([[2.3, -4.1], [0.0, 0.0], [-7.5, 1.0]], dtype=torch.float64)
    expected = shift_images(band.decode(vectors), shifts, pixel_size=1.5)
    assert torch.allclose(band.decode(shift_band(vectors, shifts, band)), expected, atol=1e-12)


# Batches and the whole image formation


def test_leading_dimensions_are_a_batch(asymmetric, rotations):
    positions, amplitudes = asymmetric
    batch = rotate(positions, rotations).unflatten(0, (2, 2))
    band = Band(16, 2.0, 4.0)
    grid = {"box_size": 16, "pixel_size": 2.0}

    def all_three(x):
        yield project_band(x, amplitudes, SIGMA, band)
        yield project_real(x, amplitudes, WIDTHS, **grid)
        yield gaussian_density(x, amplitudes, WIDTHS, **grid)

    for i in range(2):
        for j in range(2):
            for together, alone in zip(all_three(batch), all_three(batch[i, j]), strict=True):
                assert torch.allclose(together[i, j], alone, atol=1e-12)


def test_rotation_left_multiplies_column_vectors(asymmetric, rotations):
    positions, _ = asymmetric
    expected = [
        [rotation @ position for position in positions.numpy()] for rotation in rotations.numpy()
    ]
    np.testing.assert_allclose(rotate(positions, rotations), expected, atol=1e-12)


def test_image_formation_rotates_projects_shifts_and_blurs_each_particle(
    asymmetric, rotations, microscope
):
    positions, amplitudes = asymmetric
    band = Band(24, 2.0, 4.0)
    shifts = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.0, 0.0], [4.0, -4.0]], dtype=torch.float64)
    defocus = torch.tensor([8_000.0, 12_000.0, 20_000.0, 25_000.0])
    ctf = microscope(defocus_u=defocus, defocus_v=0.9 * defocus, defocus_angle_deg=30.0)
    batch = (
        positions + torch.arange(4).double()[:, None, None]
    )  # another structure for each particle
    made = make_images(batch, amplitudes, SIGMA, band, rotations=rotations, shifts=shifts, ctf=ctf)
    for i in range(4):
        vector = project_band(batch[i] @ rotations[i].T, amplitudes, SIGMA, band)
        expected = complex_coefficients(
            shift_band(vector, shifts[i], band)
        ) * contrast_transfer_function(band.frequencies, ctf[i])
        assert torch.allclose(complex_coefficients(made[i]), expected, atol=1e-12)


def test_one_structure_is_seen_from_every_pose(asymmetric, rotations):
    positions, amplitudes = asymmetric
    band = Band(24, 2.0, 4.0)
    made = make_images(positions, amplitudes, SIGMA, band, rotations=rotations)
    assert torch.allclose(
        made,
        make_images(positions.expand(4, -1, -1), amplitudes, SIGMA, band, rotations=rotations),
        atol=1e-12,
    )


# Gradients, against finite differences


def test_the_gradient_of_the_fourier_projector_is_right(asymmetric, rotations):
    positions, amplitudes = asymmetric
    batch = rotate(positions, rotations[:2]).requires_grad_()
    assert gradcheck(lambda x: project_band(x, amplitudes, SIGMA, Band(9, 4.0, 8.0)), batch)


def test_the_gradients_of_the_real_space_projector_are_right(asymmetric):
    positions, amplitudes = asymmetric
    inputs = [tensor.clone().requires_grad_() for tensor in (positions, amplitudes, WIDTHS)]
    assert gradcheck(lambda x, a, s: project_real(x, a, s, box_size=6, pixel_size=3.0), inputs)


def test_the_gradients_of_the_whole_image_formation_are_right(asymmetric, rotations, microscope):
    positions, amplitudes = asymmetric
    band = Band(9, 4.0, 8.0)

    def made(x, turn, shifts):
        return make_images(
            x, amplitudes, SIGMA, band, rotations=turn, shifts=shifts, ctf=microscope()
        )

    inputs = [
        positions.clone(),
        rotations[0].clone(),
        torch.tensor([1.0, -2.0], dtype=torch.float64),
    ]
    assert gradcheck(made, [tensor.requires_grad_() for tensor in inputs])


def test_the_gradient_in_the_width_is_right(asymmetric):
    band, sigma = Band(9, 4.0, 8.0), SIGMA.clone().requires_grad_()
    assert gradcheck(lambda s: project_band(*asymmetric, s, band), sigma)


def test_the_gradient_in_the_amplitudes_is_right(asymmetric):
    positions, amplitudes = asymmetric
    assert gradcheck(
        lambda a: project_band(positions, a, SIGMA, Band(9, 4.0, 8.0)),
        amplitudes.clone().requires_grad_(),
    )
