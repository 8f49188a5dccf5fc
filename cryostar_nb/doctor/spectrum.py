"""The Fourier transform of a reference, a model or a map, at any spatial frequency."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryostar_nb.density import model_density
from cryostar_nb.fourier import centred_fft, coordinate_axis, fourier_crop
from cryostar_nb.io.maps import DensityMap


@dataclass(frozen=True)
class Spectrum:
    """The Fourier transform of a reference at any frequency down to a resolution.

    `at(k)` is the integral of rho(x) exp(-2 pi i k . x), interpolated linearly in a table that is
    fine enough for the reference's extent (about 1 % of the norm). It is differentiable in `k`.
    A central slice of it is a projection.
    """

    table: Float[Tensor, "1 2 z y x"]  # real and imaginary part
    reach: float  # 1/Å, the frequency at the faces of the table
    centre: Float[Tensor, "3"]  # Å, where the middle of the reference lies
    radius: float  # Å, within which the reference lies about its centre

    def centred(self, k: Float[Tensor, "*batch 3"]) -> Complex[Tensor, "*batch"]:
        """The transform of the reference moved to the origin; zero beyond the table."""
        grid = (k / self.reach).reshape(1, 1, 1, -1, 3).to(self.table)
        parts = torch.nn.functional.grid_sample(
            self.table, grid, mode="bilinear", padding_mode="zeros", align_corners=True
        )
        return torch.complex(*parts[0, :, 0, 0]).reshape(k.shape[:-1])

    def at(self, k: Float[Tensor, "*batch 3"]) -> Complex[Tensor, "*batch"]:
        """The transform of the reference where it is."""
        return self.centred(k) * phase_ramp(k @ self.centre.to(k))


def phase_ramp(cycles: Float[Tensor, "*batch"]) -> Complex[Tensor, "*batch"]:
    """exp(-2 pi i k . t), of k . t: what a shift by t multiplies the transform by."""
    return torch.polar(torch.ones_like(cycles), -2 * math.pi * cycles)


def _spectrum(
    volume: Tensor, voxel_size: float, resolution: float, centre: Tensor, radius: float
) -> Spectrum:
    """Transform a cube, padded to twice its edge and divided by what interpolation multiplies."""
    size = len(volume)
    padded = 2 * size
    start = padded // 2 - size // 2
    axis = coordinate_axis(size, voxel_size).float()
    window = torch.sinc(axis / (padded * voxel_size)).square()
    cube = torch.zeros(padded, padded, padded)
    cube[(slice(start, start + size),) * 3] = volume / (
        window[:, None, None] * window[:, None] * window
    )
    max_index = min(math.ceil(padded * voxel_size / resolution) + 1, padded // 2 - 1)
    kept = slice(padded // 2 - max_index, padded // 2 + max_index + 1)
    table = torch.view_as_real(centred_fft(cube, 3)[kept, kept, kept]).permute(3, 0, 1, 2)[None]
    reach = max_index / (padded * voxel_size)
    return Spectrum(table.contiguous() * voxel_size**3, reach, centre, radius)


@torch.no_grad()
def model_spectrum(
    positions: Float[Tensor, "atom 3"],
    amplitudes: Float[Tensor, " atom"],
    sigma: float,
    resolution: float,
) -> Spectrum:
    """The spectrum of Gaussians of width `sigma`, in Å, down to a resolution in Å."""
    centre = (positions.mul(amplitudes[:, None]).sum(0) / amplitudes.sum()).float()
    radius = float((positions - centre).norm(dim=-1).max())
    voxel_size = min(resolution / 2.5, radius / 4 + 1)
    box_size = 2 * math.ceil((radius + 3 * max(sigma, voxel_size)) / voxel_size)
    volume = model_density(
        positions.float() - centre, amplitudes, sigma, box_size=box_size, pixel_size=voxel_size
    )
    return _spectrum(volume, voxel_size, resolution, centre, radius)


@torch.no_grad()
def map_spectrum(density_map: DensityMap, resolution: float) -> Spectrum:
    """The spectrum of a map down to a resolution, in Å; its centre voxel is the poses' origin."""
    edge = density_map.box_size * density_map.voxel_size
    box_size = min(density_map.box_size, 2 * math.ceil(1.25 * edge / resolution))
    volume = fourier_crop(density_map.values, box_size, 3)
    volume = volume - volume.median()
    return _spectrum(volume, edge / box_size, resolution, torch.zeros(3), edge / 2)
