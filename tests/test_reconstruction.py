"""Back-projection against an oracle: the density that the images were made of."""

import itertools
import math

import numpy as np
import pytest
import torch

from cryostar_nb.ctf import CTFParameters, contrast_transfer_function
from cryostar_nb.density import model_density
from cryostar_nb.fast import slices_cpu
from cryostar_nb.fourier import Band, coordinate_axis, first_crossing, shell_correlation
from cryostar_nb.geometry import random_rotations
from cryostar_nb.projector import make_images
from cryostar_nb.reconstruction import (
    PADDING,
    Slices,
    filtered,
    local_correlation,
    reconstruct,
    signal_part,
    sphere_mask,
)

SIGMA = 2.0
COUNT = 500


@pytest.fixture(params=[32, 33], ids=["even", "odd"])
def band(request):
    return Band(request.param, 1.5, 3.0)


@pytest.fixture
def views(rng):
    return torch.from_numpy(random_rotations(COUNT, rng)).float()


@pytest.fixture
def truth(asymmetric, band):
    """The density that a map should show, without what the band leaves out, per pixel."""
    positions, electrons = (values.float() for values in asymmetric)
    box, size = band.box_size, band.pixel_size
    density = model_density(positions, electrons, SIGMA, box_size=box, pixel_size=size)
    return filtered(density * size, torch.ones(band.max_index))


@pytest.fixture
def images(asymmetric, band, views):
    positions, electrons = (values.float() for values in asymmetric)
    return make_images(positions, electrons, torch.tensor(SIGMA), band, rotations=views)


def halves(count):
    weights = torch.zeros(count, 2)
    weights[::2, 0] = weights[1::2, 1] = 1
    return weights


def slices_of(band, images, views, transfers=None, weights=None):
    slices = Slices.none(band, 2)
    transfers = torch.ones(len(images), len(band.indices)) if transfers is None else transfers
    slices.add(images, transfers, views, halves(len(images)) if weights is None else weights)
    return slices


def alike(first, second):
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def error(found, true):
    """Without the mean, which no image tells."""
    found = found - found.mean() + true.mean()
    return float((found - true).norm() / true.norm())


def test_without_noise_the_density_comes_back_with_its_scale_hand_and_axes(
    band, images, views, truth
):
    found = reconstruct(slices_of(band, images, views)).values
    assert error(found, truth) < 0.03
    low = Band(band.box_size, band.pixel_size, 8.0).max_index  # where trilinear is good
    _, curve = shell_correlation(found, truth, pixel_size=band.pixel_size)
    assert curve[:low].min() > 0.9995
    edge = 1 - band.box_size % 2  # the centre of an even box is not in its middle
    for axes in ((0,), (1,), (2,)):
        mirrored = found[edge:, edge:, edge:].flip(axes)
        assert alike(mirrored, truth[edge:, edge:, edge:]) < 0.93
    for axes in ((1, 0, 2), (2, 1, 0), (0, 2, 1)):
        assert alike(found.permute(axes), truth) < 0.9


def test_the_centre_voxel_is_the_origin_and_a_voxel_is_a_pixel(band, images, views, asymmetric):
    positions, electrons = asymmetric
    found = reconstruct(slices_of(band, images, views)).values.double()
    axis = coordinate_axis(band.box_size, band.pixel_size)
    near = (found - found[0, 0, 0]) * (found > 0.2 * found.max())
    weights = near / near.sum()
    place = [float((weights.sum([d for d in range(3) if d != k]) * axis).sum()) for k in (2, 1, 0)]
    expected = (electrons[:, None] * positions).sum(0) / electrons.sum()
    np.testing.assert_allclose(place, expected, atol=0.5)


def test_a_transfer_is_divided_out_where_it_is_not_zero(band, images, views, truth):
    ctf = CTFParameters(torch.linspace(5000, 25_000, COUNT))
    transfers = contrast_transfer_function(band.frequencies, ctf)
    seen = images * band.per_coefficient(transfers)
    found = reconstruct(slices_of(band, seen, views, transfers)).values
    assert error(found, truth) < 0.03
    assert error(reconstruct(slices_of(band, seen, views)).values, truth) > 0.5


def test_frequencies_that_no_image_shows_are_empty_and_not_noise(band, images, views, generator):
    """All CTFs are 0 in the same ring; the images have noise there, too."""
    radius = band.indices.double().norm(dim=-1)
    transfers = torch.where((radius > 6) & (radius < 10), 0.0, 1.0).expand(COUNT, -1)
    noise = 0.3 * images.std() * torch.randn(images.shape, generator=generator)
    seen = images * band.per_coefficient(transfers) + noise
    found = reconstruct(slices_of(band, seen, views, transfers))
    spectrum = torch.fft.fftshift(torch.fft.fftn(found.values)).abs()
    axis = torch.arange(band.box_size) - band.box_size // 2
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt().round()
    shown, hidden = spectrum[radius == 5].mean(), spectrum[radius == 8].mean()
    assert hidden < 0.05 * shown
    assert torch.isfinite(found.values).all()


def test_a_signal_that_the_images_move_is_found_moved(band, asymmetric, views):
    positions, electrons = (values.float() for values in asymmetric)
    there = positions + torch.tensor([3.0, 0.0, 0.0])
    seen = make_images(there, electrons, torch.tensor(SIGMA), band, rotations=views)
    box, size = band.box_size, band.pixel_size
    truth = model_density(there, electrons, SIGMA, box_size=box, pixel_size=size) * size
    assert error(reconstruct(slices_of(band, seen, views)).values, truth) < 0.05


def test_half_maps_are_of_their_own_particles_alone(band, images, views, generator):
    noise = torch.randn(images.shape, generator=generator)
    plain = reconstruct(slices_of(band, images, views))
    noisy = images.clone()
    noisy[1::2] += noise[1::2]
    other = reconstruct(slices_of(band, noisy, views))
    assert torch.equal(plain.halves[0], other.halves[0])
    assert not torch.allclose(plain.halves[1], other.halves[1])


def test_halves_of_noise_agree_at_no_resolution_and_their_map_is_empty(band, views, generator):
    noise = torch.randn(COUNT, band.size, generator=generator)
    found = reconstruct(slices_of(band, noise, views))
    assert found.correlation.abs().mean() < 0.2
    assert found.values.square().sum() < 0.05 * found.halves.mean(0).square().sum()


def test_the_filter_is_that_of_the_halves_correlation(band, images, views, generator):
    noise = 2 * images.std() * torch.randn(images.shape, generator=generator)
    slices = slices_of(band, images + noise, views)
    found = reconstruct(slices)
    values, power = (a + b for a, b in zip(slices.sums(0), slices.sums(1), strict=True))
    plain = slices.volume(values, power, torch.zeros(band.max_index + 1))
    expected = filtered(plain, signal_part(found.correlation))
    assert alike(found.values, expected) > 0.99
    assert signal_part(torch.tensor([1.0, 0.5, -0.1, 0.5])).tolist() == pytest.approx(
        [1, 2 / 3, 0, 0]
    )


def test_more_particles_make_a_better_map(asymmetric, rng, generator):
    band = Band(32, 1.5, 3.0)
    positions, electrons = (values.float() for values in asymmetric)
    resolutions = []
    for count in (100, 1600):
        views = torch.from_numpy(random_rotations(count, rng)).float()
        images = make_images(positions, electrons, torch.tensor(SIGMA), band, rotations=views)
        noise = 2 * images.std() * torch.randn(images.shape, generator=generator)
        found = reconstruct(slices_of(band, images + noise, views))
        resolutions.append(found.resolution)
    assert resolutions[1] < resolutions[0] - 0.5


def test_the_sign_of_the_images_is_the_sign_of_the_map(band, images, views):
    found, other = (reconstruct(slices_of(band, s * images, views)).values for s in (1, -1))
    torch.testing.assert_close(found, -other)


def test_a_weight_counts_as_so_many_particles(band, images, views):
    twice = torch.arange(COUNT).repeat(2)
    weights = halves(COUNT)
    once = slices_of(band, images, views, weights=2 * weights)
    again = slices_of(band, images[twice], views[twice], weights=weights[twice % COUNT])
    torch.testing.assert_close(once.grid, again.grid, rtol=1e-4, atol=1e-3)
    none = slices_of(band, images[:20], views[:20], weights=torch.zeros(20, 2))
    assert not none.grid.any()


def test_parts_in_turn_are_all_at_once(band, images, views):
    whole, parts = slices_of(band, images, views), Slices.none(band, 2)
    for rows in torch.arange(COUNT).split(77):
        transfers = torch.ones(len(rows), len(band.indices))
        parts.add(images[rows], transfers, views[rows], halves(COUNT)[rows])
    torch.testing.assert_close(parts.grid, whole.grid, rtol=1e-4, atol=1e-3)


def test_planes_shared_out_are_all_planes(band, images, views):
    whole, shared = slices_of(band, images, views), Slices.none(band, 2)
    transfers = torch.ones(COUNT, len(band.indices))
    tensors = (images, transfers, halves(COUNT), PADDING * views[:, :2], band.indices, shared.grid)
    arrays = [tensor.float().contiguous().numpy() for tensor in tensors]
    size, cuts = shared.grid.shape[1], [0, 7, 8, 30, shared.grid.shape[1]]
    assert cuts[-2] < size
    for first, last in itertools.pairwise(cuts):
        slices_cpu.insert(*arrays, first, last)
    assert torch.equal(shared.grid, whole.grid)


def test_what_lies_beyond_the_grid_or_nowhere_is_left_out(band, images, views):
    """Images of another magnification, and a pose that is not a number."""
    slices = Slices.none(band, 2)
    larger = torch.cat([views[:3] * 1.3, torch.full((1, 3, 3), torch.nan)])
    transfers = torch.ones(4, len(band.indices))
    slices.add(images[:4], transfers, larger, halves(4))
    within = Slices.none(band, 2)
    radius = band.indices.double().norm(dim=-1)
    inside = torch.where(radius * 1.3 < band.max_index, 1.0, 0.0).expand(3, -1)
    within.add(images[:3], inside, larger[:3], halves(3))
    low = slices.shells < band.max_index // 2
    for volume in (0, 1):
        for first, second in zip(slices.sums(volume), within.sums(volume), strict=True):
            torch.testing.assert_close(first[low], second[low])
    assert torch.isfinite(slices.grid).all()


def test_a_coarser_band_takes_less_memory_and_says_the_same(band, images, views, truth):
    coarse = Band(band.box_size, band.pixel_size, 6.0)
    inside = (band.indices.square().sum(-1) <= coarse.max_index**2).repeat(2)
    slices = slices_of(coarse, images[:, inside], views)
    assert slices.grid[0].nbytes == Slices.bytes_of(coarse) < Slices.bytes_of(band) / 4
    expected = filtered(truth, torch.ones(coarse.max_index))
    found = filtered(reconstruct(slices).values, torch.ones(coarse.max_index))
    assert error(found, expected) < 0.05


def test_a_mask_leaves_the_noise_outside_uncounted(band, images, views, generator):
    noise = 2 * images.std() * torch.randn(images.shape, generator=generator)
    slices = slices_of(band, images + noise, views)
    mask = sphere_mask(band.box_size, band.pixel_size, 12.0)
    middle = band.box_size // 2
    assert mask[middle, middle, middle] == 1 and mask[0, 0, 0] == 0
    assert 0 < mask[middle, middle, middle + 10] < 1  # 15 Å
    plain, masked = reconstruct(slices), reconstruct(slices, mask=mask)
    assert masked.correlation.mean() > plain.correlation.mean()
    assert torch.equal(plain.halves, masked.halves)
    assert not masked.values[mask == 0].any()


def test_local_correlation_tells_where_two_maps_differ(asymmetric):
    positions, electrons = (values.float() for values in asymmetric)
    size = {"box_size": 40, "pixel_size": 1.0}
    first = model_density(positions, electrons, 1.5, **size)
    moved = positions.clone()
    moved[4] += torch.tensor([0.0, 5.0, 0.0])
    second = model_density(moved, electrons, 1.5, **size)
    far = torch.tensor([[0.0, 0.0, 18.0]])  # its ball is not within the box
    places = torch.cat([positions, far])
    found = local_correlation(first, second, places, pixel_size=1.0, radius=4.0)
    assert found[:4].min() > 0.9 > 0.5 > found[4]
    assert math.isnan(found[5])
    same = local_correlation(first, 3 * first + 1, positions, pixel_size=1.0, radius=4.0)
    torch.testing.assert_close(same, torch.ones(5, dtype=torch.float64))


def test_a_curve_crosses_the_level_that_is_asked_for():
    frequencies, curve = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 0.6, 0.1])
    assert first_crossing(frequencies, curve) == pytest.approx(1 / 0.22)
    assert first_crossing(frequencies, curve, level=0.143) == pytest.approx(1 / 0.2914)
