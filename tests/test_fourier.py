"""Laws of the centred transform, of the shell correlation and of the band."""

import inspect
import math

import pytest
import torch
from refusals import refused

from cryostar_nb.fourier import (
    Band,
    centred_fft,
    centred_ifft,
    coordinate_axis,
    fourier_crop,
    frequency_axis,
    frequency_grid,
    shell_correlation,
    shift_images,
)

BOXES = pytest.mark.parametrize("box_size", [16, 17])


def wave(box_size, kx, ky):
    """cos(2 pi (kx x + ky y) / box) with x and y counted from the centre pixel."""
    axis = (torch.arange(box_size, dtype=torch.float64) - box_size // 2) * 2 * math.pi / box_size
    return torch.cos(kx * axis + ky * axis[:, None])


# Grids and transforms


def test_frequencies_are_centred_on_even_and_odd_boxes():
    assert frequency_axis(4, 2.0).tolist() == [-0.25, -0.125, 0.0, 0.125]
    assert frequency_axis(5, 2.0).tolist() == pytest.approx([-0.2, -0.1, 0.0, 0.1, 0.2])


def test_coordinates_are_centred_on_even_and_odd_boxes():
    assert coordinate_axis(4, 1.5).tolist() == [-3.0, -1.5, 0.0, 1.5]
    assert coordinate_axis(5, 1.5).tolist() == [-3.0, -1.5, 0.0, 1.5, 3.0]


def test_kx_runs_along_columns_and_ky_along_rows():
    grid = frequency_grid(5, 2.0)
    assert torch.equal(grid[3, :, 0], frequency_axis(5, 2.0))
    assert torch.equal(grid[:, 3, 1], frequency_axis(5, 2.0))


@BOXES
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_inverse_transform_undoes_the_transform(box_size, ndim, generator):
    array = torch.randn(2, *[box_size] * ndim, generator=generator, dtype=torch.float64)
    assert torch.allclose(centred_ifft(centred_fft(array, ndim), ndim), array, atol=1e-12)


@BOXES
@pytest.mark.parametrize("other", [12, 13, 24, 25])
def test_a_wave_on_another_grid_is_the_same_wave(box_size, other):
    changed = fourier_crop(wave(box_size, 3, -2), other, 2)
    torch.testing.assert_close(changed, wave(other, 3, -2), atol=1e-12, rtol=0)


@BOXES
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_point_at_the_centre_has_a_transform_of_ones(box_size, ndim):
    point = torch.zeros([box_size] * ndim, dtype=torch.float64)
    point[(box_size // 2,) * ndim] = 1
    assert torch.allclose(
        centred_fft(point, ndim), torch.ones_like(point, dtype=torch.complex128), atol=1e-12
    )


@BOXES
def test_a_point_beside_the_centre_has_a_phase_ramp(box_size):
    point = torch.zeros(box_size, box_size, dtype=torch.float64)
    point[box_size // 2 - 1, box_size // 2 + 3] = 1  # x = 3, y = -1
    kx, ky = frequency_grid(box_size, 1.0).unbind(-1)
    assert torch.allclose(
        centred_fft(point, 2), torch.exp(-2j * math.pi * (3 * kx - ky)), atol=1e-12
    )


# Shifts


@BOXES
def test_a_shift_by_whole_pixels_rolls_the_image(box_size, generator):
    images = torch.randn(3, box_size, box_size, generator=generator, dtype=torch.float64)
    shifts = 1.5 * torch.tensor([[2.0, -3.0], [0.0, 0.0], [-1.0, 5.0]], dtype=torch.float64)
    expected = [images[0].roll((-3, 2), (0, 1)), images[1], images[2].roll((5, -1), (0, 1))]
    assert torch.allclose(
        shift_images(images, shifts, pixel_size=1.5), torch.stack(expected), atol=1e-12
    )


@BOXES
def test_a_shift_by_part_of_a_pixel_moves_a_wave_by_as_much(box_size):
    axis = (torch.arange(box_size, dtype=torch.float64) - box_size // 2)[None].expand(box_size, -1)
    angle = 2 * math.pi * 3 / box_size
    shifted = shift_images(
        torch.cos(angle * axis), torch.tensor([0.37, 0.0]).double(), pixel_size=1.0
    )
    assert torch.allclose(shifted, torch.cos(angle * (axis - 0.37)), atol=1e-12)


# Shell correlation


@pytest.mark.parametrize("shape", [(16, 16), (17, 17), (16, 16, 16), (17, 17, 17)])
def test_an_array_correlates_with_itself_whatever_its_scale_and_mean(shape, generator):
    array = torch.randn(shape, generator=generator, dtype=torch.float64)
    for other, expected in ((array, 1.0), (3 * array + 7, 1.0), (-array, -1.0)):
        frequencies, correlation = shell_correlation(array, other, pixel_size=2.0)
        assert torch.allclose(correlation, torch.full_like(correlation, expected))
        assert torch.allclose(frequencies, torch.arange(1, len(correlation) + 1) / (shape[0] * 2.0))
        assert len(correlation) == (shape[0] - 1) // 2


def test_independent_noise_does_not_correlate(generator):
    first, second = torch.randn(2, 32, 32, 32, generator=generator)
    _, correlation = shell_correlation(first, second, pixel_size=1.0)
    independent = (
        2 * math.pi * torch.arange(1, len(correlation) + 1) ** 2
    )  # half of the coefficients of a shell
    assert (correlation.abs() < 4 / independent.sqrt()).all()


def test_each_shell_has_its_own_correlation():
    # Shell 2 holds two waves in one image and the first of them in the other: 1 / sqrt(2). Shell 5
    # changes sign.
    first = wave(32, 2, 0) + wave(32, 0, 2) + wave(32, 3, 4)
    second = 5 * wave(32, 2, 0) - wave(32, 3, 4)
    _, correlation = shell_correlation(first, second, pixel_size=1.0)
    assert float(correlation[1]) == pytest.approx(1 / math.sqrt(2))
    assert float(correlation[4]) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("first", "second"), [((8, 8), (9, 9)), ((8, 9), (8, 9)), ((8, 8), (8, 8, 8))]
)
def test_shells_of_unequal_or_oblong_arrays_are_refused(first, second):
    unchecked = inspect.unwrap(shell_correlation)  # without the shape checks of the tests
    with refused(value=f"{first} and {second}"):
        unchecked(torch.zeros(first), torch.zeros(second), pixel_size=1.0)


# The band


@BOXES
@pytest.mark.parametrize("resolution", [2.0, 3.1, 8.0])
def test_a_band_holds_one_of_each_pair_of_opposite_frequencies_in_a_disk(box_size, resolution):
    band = Band(box_size, 1.0, resolution)
    kept = [tuple(index) for index in band.indices.tolist()]
    m = min(int(box_size / resolution), (box_size - 1) // 2)
    disk = {
        (kx, ky)
        for kx in range(-m, m + 1)
        for ky in range(-m, m + 1)
        if 0 < kx * kx + ky * ky <= m * m
    }
    assert len(set(kept)) == len(kept) == len(disk) // 2
    assert {*kept, *((-kx, -ky) for kx, ky in kept)} == disk
    assert band.size == 2 * len(kept)
    assert torch.allclose(band.frequencies, band.indices.double() / box_size)


def test_an_image_of_128_pixels_down_to_4_angstrom_is_3208_numbers():
    assert Band(128, 1.0, 4.0).size == 3208


@pytest.mark.parametrize(("box_size", "limit"), [(16, 7), (17, 8)])
def test_a_band_stays_below_nyquist(box_size, limit):
    assert Band(box_size, 1.0, 0.1).max_index == limit


@BOXES
def test_encode_undoes_decode(box_size, generator):
    band = Band(box_size, 1.3, 2.6)
    vectors = torch.randn(2, 3, band.size, generator=generator, dtype=torch.float64)
    assert torch.allclose(band.encode(band.decode(vectors)), vectors, atol=1e-12)


@BOXES
def test_a_band_keeps_the_waves_inside_it_and_drops_the_mean_and_those_beyond(box_size):
    band = Band(box_size, 1.0, box_size / 5)
    inside = wave(box_size, 3, -4) + 2 * wave(box_size, 0, 5) - wave(box_size, 1, 1)
    beyond = 7 + wave(box_size, 4, 4) - wave(box_size, 0, 6) + 3 * wave(box_size, 7, 0)
    assert torch.allclose(band.decode(band.encode(inside + beyond)), inside, atol=1e-12)


@BOXES
def test_the_dot_product_of_vectors_is_that_of_the_images(box_size, generator):
    band = Band(box_size, 1.0, 3.0)
    first, second = torch.randn(2, band.size, generator=generator, dtype=torch.float64)
    assert float(first @ second) == pytest.approx(
        float((band.decode(first) * band.decode(second)).sum())
    )


def test_white_noise_has_unit_variance_in_every_element(generator):
    band = Band(16, 1.0, 2.0)
    vectors = band.encode(torch.randn(4000, 16, 16, generator=generator, dtype=torch.float64))
    assert torch.allclose(vectors.var(dim=0), torch.ones(band.size).double(), atol=0.15)
    assert float(vectors.var()) == pytest.approx(1, abs=0.01)


def test_a_real_factor_multiplies_both_parts_of_a_coefficient():
    band = Band(16, 1.0, 4.0)
    factor = torch.rand(3, len(band.indices))
    laid_out = band.per_coefficient(factor)
    assert laid_out.shape == (3, band.size)
    assert all(torch.equal(part, factor) for part in laid_out.chunk(2, dim=-1))


def test_a_band_coarser_than_the_box_is_refused():
    with refused(value=50.0) as caught:
        _ = Band(16, 2.0, 50.0).max_index
    assert "32 Å" in caught.value.problem


def test_images_of_another_box_are_refused():
    with refused(value=(17, 17)):
        Band(16, 1.0, 4.0).encode(torch.zeros(17, 17))
