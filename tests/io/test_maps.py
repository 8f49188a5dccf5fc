"""Map files and their place in space; densities and their spectra against the blackboard's."""

import mrcfile
import numpy as np
import pytest
import torch
from refusals import refused

from cryostar_nb.density import model_density
from cryostar_nb.doctor.spectrum import map_spectrum, model_spectrum
from cryostar_nb.fourier import Band, centred_fft, fourier_crop
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.maps import DensityMap, read_map, write_map
from cryostar_nb.projector import gaussian_density, project_band, rotate


@pytest.fixture
def write_mrc(tmp_path):
    """Write values (as they lie in the file) with a header; returns the path."""

    def write(values, voxel_size=2.0, origin=(0, 0, 0), start=(0, 0, 0), axes=(1, 2, 3)):
        path = tmp_path / "map.mrc"
        with mrcfile.new(path, overwrite=True) as handle:
            handle.set_data(np.zeros(np.shape(values), dtype=np.float32))
            handle.data[...] = values  # afterwards: set_data warns of what is not finite
            if axes != (1, 2, 3):  # mrcfile takes the edges from columns, rows and sections
                sizes = dict(zip(axes, values.shape[::-1], strict=True))
                handle.header.mapc, handle.header.mapr, handle.header.maps = axes
                handle.header.mx, handle.header.my, handle.header.mz = sizes[1], sizes[2], sizes[3]
            handle.voxel_size = voxel_size
            handle.header.origin = origin
            handle.header.nxstart, handle.header.nystart, handle.header.nzstart = start
        return path

    return write


CUBE = np.arange(4**3).reshape(4, 4, 4)


@pytest.mark.parametrize(
    ("origin", "start", "corner"),
    [
        ((0, 0, 0), (0, 0, 0), (0, 0, 0)),
        ((5, -3, 7), (0, 0, 0), (5, -3, 7)),
        ((0, 0, 0), (-2, 1, 3), (-4, 2, 6)),
        ((5, -3, 7), (-2, 1, 3), (1, -1, 13)),
        ((-4, 2, 6), (-2, 1, 3), (-4, 2, 6)),  # both say the same: once
    ],
)
def test_voxel_0_lies_where_origin_and_nstart_say(write_mrc, origin, start, corner):
    density = read_map(write_mrc(CUBE, origin=origin, start=start))
    np.testing.assert_allclose(density.corner, corner)
    np.testing.assert_allclose(density.centre, np.array(corner) + 2 * 2.0)


def test_axes_in_another_order_are_put_right_and_so_are_their_starts(write_mrc):
    values = np.zeros((4, 5, 6))
    values[1, 2, 3] = 1  # section 1, row 2, column 3
    # columns run along z, rows along x, sections along y
    density = read_map(write_mrc(values, axes=(3, 1, 2), start=(10, 20, 30)))
    assert torch.nonzero(density.values).tolist() == [[3, 1, 2]]
    np.testing.assert_allclose(density.corner, [40, 60, 20])


def test_a_map_that_is_no_cube_is_filled_up_at_its_far_ends(write_mrc):
    values = np.random.default_rng(0).standard_normal((4, 6, 5))
    density = read_map(write_mrc(values, origin=(1, 2, 3)))
    assert density.values.shape == (6, 6, 6) and density.corner.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(density.values[:4, :6, :5], values.astype(np.float32))
    assert float(density.values.abs().sum()) == pytest.approx(np.abs(values).sum(), rel=1e-6)


def test_a_header_without_a_voxel_size_asks_for_it(write_mrc):
    path = write_mrc(CUBE, voxel_size=0)
    with refused("map.mrc", value=0.0) as caught:
        read_map(path)
    assert "--pixel-size" in caught.value.remedy
    assert read_map(path, pixel_size=3.5).voxel_size == 3.5


def test_a_map_reads_back_as_it_was_written(tmp_path):
    density = DensityMap(
        torch.randn(6, 6, 6, generator=torch.Generator().manual_seed(0)),
        1.7,
        np.array([-4.0, 3.0, 0.5]),
    )
    write_map(tmp_path / "a.mrc", density)
    again = read_map(tmp_path / "a.mrc")
    assert torch.equal(again.values, density.values)
    assert again.voxel_size == pytest.approx(1.7, rel=1e-6)
    np.testing.assert_allclose(again.corner, density.corner, rtol=1e-6)


@pytest.mark.parametrize("box_size", [24, 25])
def test_the_density_is_the_blackboards_where_gaussians_are_wide(asymmetric, box_size):
    positions, electrons = asymmetric
    grid = {"box_size": box_size, "pixel_size": 1.5}
    exact = gaussian_density(positions, electrons, torch.tensor(2.5, dtype=torch.float64), **grid)
    made = model_density(positions, electrons, 2.5, **grid).double()
    assert float((made - exact).norm() / exact.norm()) < 1e-5


def test_narrow_gaussians_are_band_limited_not_aliased(asymmetric):
    positions, electrons = asymmetric
    fine = gaussian_density(
        positions, electrons, torch.tensor(0.8, dtype=torch.float64), box_size=96, pixel_size=0.5
    )
    coarse = model_density(positions, electrons, 0.8, box_size=24, pixel_size=2.0)
    both = [
        centred_fft(volume.double(), 3) * size**3 for volume, size in ((fine, 0.5), (coarse, 2.0))
    ]
    # down to 7 of the 12 indices; nearer to Nyquist the wide Gaussians alias
    inner = (slice(12 - 7, 12 + 8), slice(48 - 7, 48 + 8))
    exact, made = both[0][(inner[1],) * 3], both[1][(inner[0],) * 3]
    assert float((made - exact).abs().max() / exact.abs().max()) < 0.01


@pytest.mark.parametrize(("size", "small"), [(24, 12), (25, 12), (24, 13), (25, 13)])
def test_a_coarser_grid_has_the_same_centre_and_the_same_density(asymmetric, size, small):
    positions, electrons = asymmetric
    fine = model_density(positions, electrons, 4.0, box_size=size, pixel_size=1.6)
    coarse = fourier_crop(fine, small, 3)
    exact = model_density(positions, electrons, 4.0, box_size=small, pixel_size=1.6 * size / small)
    assert float((coarse - exact).norm() / exact.norm()) < 0.02


def projections(spectrum, band, rotations):
    values = spectrum.at(band.frequencies.float() @ rotations[:, :2])
    return torch.cat([values.real, values.imag], dim=-1)


def test_slices_of_a_models_spectrum_are_its_projections(asymmetric, rng):
    positions, electrons = (values.float() for values in asymmetric)
    band, rotations = Band(32, 2.0, 5.0), torch.from_numpy(random_rotations(20, rng)).float()
    exact = project_band(
        rotate(positions + torch.tensor([9.0, -4.0, 6.0]), rotations),
        electrons,
        torch.tensor(1.5),
        band,
    )
    spectrum = model_spectrum(positions + torch.tensor([9.0, -4.0, 6.0]), electrons, 1.5, 5.0)
    made = projections(spectrum, band, rotations) * (2**0.5 / (32 * 2.0**2))
    assert float((made - exact).norm() / exact.norm()) < 0.03


@pytest.mark.parametrize("box_size", [32, 33])
def test_slices_of_a_maps_spectrum_are_its_projections(asymmetric, rng, box_size):
    positions, electrons = (values.float() for values in asymmetric)
    band, rotations = Band(32, 2.0, 6.0), torch.from_numpy(random_rotations(20, rng)).float()
    exact = project_band(rotate(positions, rotations), electrons, torch.tensor(2.5), band)
    density = DensityMap(
        model_density(positions, electrons, 2.5, box_size=box_size, pixel_size=1.5) + 0.3,
        1.5,
        np.array([100.0, 0, 0]),
    )
    made = projections(map_spectrum(density, 6.0), band, rotations) * (2**0.5 / (32 * 2.0**2))
    # whatever the background, and whatever the header says of its place
    assert float((made - exact).norm() / exact.norm()) < 0.03
