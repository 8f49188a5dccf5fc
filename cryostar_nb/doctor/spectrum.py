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
    """The Fourier transform of a density at any frequency down to a resolution: a table, and a place.

    `at(k)` is the integral of the density times exp(-2 pi i k . x), by linear interpolation in a table that is fine enough for
    the density's extent (about 1 % of the norm). It is differentiable in `k`. A central slice of it is a projection.
    """

    table: Float[Tensor, "1 2 z y x"]  # real and imaginary part
    reach: float  # 1/Å, the frequency at the faces of the table
    centre: Float[Tensor, "3"]  # Å, where the middle of the density lies
    radius: float  # Å, within which the density lies about its centre

    def centred(self, k: Float[Tensor, "*batch 3"]) -> Complex[Tensor, "*batch"]:
        """The transform of the density moved to the origin; zero beyond the table."""
        grid = (k / self.reach).reshape(1, 1, 1, -1, 3).to(self.table)
        parts = torch.nn.functional.grid_sample(
            self.table, grid, mode="bilinear", padding_mode="zeros", align_corners=True
        )
        return torch.complex(*parts[0, :, 0, 0]).reshape(k.shape[:-1])

    def at(self, k: Float[Tensor, "*batch 3"]) -> Complex[Tensor, "*batch"]:
        """The transform of the density where it is."""
        angle = -2 * math.pi * (k @ self.centre.to(k))
        return self.centred(k) * torch.polar(torch.ones_like(angle), angle)


def _spectrum(
    volume: Tensor, voxel_size: float, centre: Tensor, resolution: float, radius: float
) -> Spectrum:
    """Table of the transform of a cube: padded to twice its edge, and divided by what linear interpolation multiplies."""
    size = len(volume)
    padded = 2 * size
    start = padded // 2 - size // 2
    axis = coordinate_axis(size, voxel_size).float()
    window = torch.sinc(axis / (padded * voxel_size)).square()
    cube = torch.zeros(padded, padded, padded)
    cube[(slice(start, start + size),) * 3] = volume / (
        window[:, None, None] * window[:, None] * window
    )
    most = min(math.ceil(padded * voxel_size / resolution) + 1, padded // 2 - 1)
    keep = slice(padded // 2 - most, padded // 2 + most + 1)
    table = torch.view_as_real(centred_fft(cube, 3)[keep, keep, keep]).permute(3, 0, 1, 2)[None]
    return Spectrum(
        table.contiguous() * voxel_size**3, most / (padded * voxel_size), centre, radius
    )


@torch.no_grad()
def model_spectrum(
    positions: Float[Tensor, "atom 3"],
    amplitudes: Float[Tensor, " atom"],
    sigma: float,
    resolution: float,
) -> Spectrum:
    """The spectrum of Gaussians, down to a resolution in Å."""
    centre = (positions.mul(amplitudes[:, None]).sum(0) / amplitudes.sum()).float()
    radius = float((positions - centre).norm(dim=-1).max())
    voxel_size = min(resolution / 2.5, radius / 4 + 1)
    box_size = 2 * math.ceil((radius + 3 * max(sigma, voxel_size)) / voxel_size)
    volume = model_density(
        positions.float() - centre, amplitudes, sigma, box_size=box_size, pixel_size=voxel_size
    )
    return _spectrum(volume, voxel_size, centre, resolution, radius)


@torch.no_grad()
def map_spectrum(density: DensityMap, resolution: float) -> Spectrum:
    """The spectrum of a map, down to a resolution in Å, in the frame of the poses: its centre voxel is the origin."""
    edge = density.box_size * density.voxel_size
    box_size = min(density.box_size, 2 * math.ceil(1.25 * edge / resolution))
    volume = fourier_crop(density.values, box_size, 3)
    return _spectrum(
        volume - volume.median(), edge / box_size, torch.zeros(3), resolution, edge / 2
    )
