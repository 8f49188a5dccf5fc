"""Density maps: read with their place in space, written, and seen from any side through their Fourier transform.

A map file places its voxel 0 twice: ORIGIN says where it is, in Å, and NSTART counts, in voxels, from the corner of a unit
cell. Here the two are added, unless they say the same thing, when it counts once. RELION and cryoSPARC leave both at 0 and
mean the frame of the poses instead, whose origin is the centre voxel, `size // 2`; `DensityMap.centre` leads from one to the
other.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryostar_nb.errors import InputError
from cryostar_nb.files import existing_file, replacing
from cryostar_nb.fourier import centred_fft, centred_ifft, coordinate_axis, fourier_crop, frequency_axis
from cryostar_nb.mrc import open_mrc

SHORTEST_EDGE, LONGEST_EDGE = 4, 1024  # voxels; outside of these a header is damaged, or it is no map's
MOST_FILLED = 16  # times the voxels of a file are those of the cube that it is filled up to


@dataclass(frozen=True)
class DensityMap:
    """A cubic map. Voxel (z, y, x) lies at `corner + voxel_size * (x, y, z)` in the frame of its file."""

    values: Float[Tensor, "z y x"]
    voxel_size: float  # Å
    corner: Float[np.ndarray, "3"]  # Å, xyz of voxel 0 in the frame of the file

    @property
    def box_size(self) -> int:
        """Voxels along an edge."""
        return len(self.values)

    @property
    def centre(self) -> Float[np.ndarray, "3"]:
        """Place of the centre voxel in the frame of the file, in Å: what is added to coordinates in the frame of the poses."""
        return self.corner + (self.box_size // 2) * self.voxel_size


def read_map(path: Path | str, *, pixel_size: float | None = None) -> DensityMap:
    """Read an MRC map with its axes in the order z, y, x; one that is no cube is filled up with zeros at the far ends.

    `pixel_size`, in Å, overrides the header's. Raises InputError for a file that is no map, for a header without a voxel
    size, and for voxels that are not cubes.
    """
    path = existing_file(path, "an MRC map")
    if pixel_size is not None and not (pixel_size > 0 and math.isfinite(pixel_size)):
        raise InputError(f"{path}: a pixel size of {pixel_size:g} Å was given; give a positive number")
    data, header = open_mrc(path)
    if max(data.shape) > LONGEST_EDGE or min(data.shape) < SHORTEST_EDGE:
        raise InputError(
            f"{path}: holds an array of shape {data.shape}; give a map, which has three axes of {SHORTEST_EDGE} to {LONGEST_EDGE} voxels"
        )
    edge = max(data.shape)
    if edge**3 > MOST_FILLED * data.size:
        raise InputError(
            f"{path}: holds an array of shape {data.shape}, and most of a cube around it would be empty; give a map that is nearer to a cube"
        )
    columns = [int(header[name]) or default for name, default in (("mapc", 1), ("mapr", 2), ("maps", 3))]
    if sorted(columns) != [1, 2, 3]:
        raise InputError(f"{path}: its header names the axes {columns}; they are 1, 2 and 3 in some order")
    cell = np.array([float(header.cella[name]) for name in "xyz"])
    counts = np.array([float(header[name]) for name in ("mx", "my", "mz")])
    voxels = np.divide(cell, counts, out=np.zeros(3), where=counts != 0) if pixel_size is None else np.full(3, float(pixel_size))
    bad = ~(np.isfinite(voxels) & (voxels > 0))
    if bad.any():
        raise InputError(
            f"{path}: its header has a voxel size of {voxels[bad][0]:g} Å; give the true one, in Å (--map-pixel-size, or --pixel-size of dock)"
        )
    if not np.allclose(voxels, voxels[0], rtol=1e-3):
        raise InputError(f"{path}: its voxels are {voxels[0]:g} x {voxels[1]:g} x {voxels[2]:g} Å; resample it to cubic voxels")
    order = [2 - columns.index(axis) for axis in (3, 2, 1)]  # where z, y and x stand among the axes of the array
    values = torch.from_numpy(np.array(data, dtype=np.float32).transpose(order))
    if not torch.isfinite(values).all():
        raise InputError(f"{path}: a voxel is {values[~torch.isfinite(values)][0].item()}; export the map again")
    origin = np.array([float(header.origin[name]) for name in "xyz"])
    if not np.isfinite(origin).all():
        raise InputError(f"{path}: its header has ORIGIN = {', '.join(f'{value:g}' for value in origin)}; write the map again")
    starts = [int(header[name]) for name in ("nxstart", "nystart", "nzstart")]  # of column, row and section
    start = np.array([starts[columns.index(axis)] for axis in (1, 2, 3)]) * voxels
    said_twice = np.allclose(origin, start, atol=float(voxels[0]))
    far = [width for size in reversed(values.shape) for width in (0, edge - size)]
    cube = torch.nn.functional.pad(values, far)
    return DensityMap(cube, float(voxels.mean()), origin if said_twice else origin + start)


def write_map(path: Path | str, density: DensityMap) -> None:
    """Write a map as MRC; its place goes into ORIGIN."""
    path = Path(path)
    with replacing(path) as temporary, mrcfile.new(temporary, overwrite=True) as handle:
        handle.set_data(density.values.numpy().astype(np.float32))
        handle.voxel_size = density.voxel_size
        handle.header.origin = tuple(density.corner)
        handle.header.label[0] = b"CryoSTAR-NB"  # mrcfile puts the time there: other bytes for the same map


@torch.no_grad()
def model_density(
    positions: Float[Tensor, "atom 3"],
    amplitudes: Float[Tensor, " atom"],
    sigma: float,
    *,
    box_size: int,
    pixel_size: float,
) -> Float[Tensor, "z y x"]:
    """Band-limited density of Gaussians on a cube whose centre voxel is the origin, in electrons/Å^3, as float32.

    Like `projector.gaussian_density`, but for many atoms, and for Gaussians narrower than a voxel: they are sampled as if at
    least one voxel wide, plane by plane with the atoms near each plane, and narrowed again in Fourier space.
    """
    width = max(sigma, pixel_size)
    axis = coordinate_axis(box_size, pixel_size).float()
    order = torch.argsort(positions[:, 2])
    x, y, z = positions[order].float().mT.contiguous()
    scale = amplitudes[order].float() / (math.sqrt(2 * math.pi) * width) ** 3
    first, last = (torch.searchsorted(z, axis + end * 5 * width).tolist() for end in (-1, 1))
    volume = torch.zeros(box_size, box_size, box_size)
    for plane in range(box_size):
        near = slice(first[plane], last[plane])
        across, up = (torch.exp(-(axis - values[near, None]).square() / (2 * width**2)) for values in (x, y))
        depth = scale[near] * torch.exp(-(axis[plane] - z[near]).square() / (2 * width**2))
        volume[plane] = (up * depth[:, None]).mT @ across
    if width == sigma:
        return volume
    k = frequency_axis(box_size, pixel_size).float()
    k2 = k[:, None, None].square() + k[:, None].square() + k.square()
    return centred_ifft(centred_fft(volume, 3) * torch.exp(2 * math.pi**2 * (width**2 - sigma**2) * k2), 3)


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
        parts = torch.nn.functional.grid_sample(self.table, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        return torch.complex(*parts[0, :, 0, 0]).reshape(k.shape[:-1])

    def at(self, k: Float[Tensor, "*batch 3"]) -> Complex[Tensor, "*batch"]:
        """The transform of the density where it is."""
        angle = -2 * math.pi * (k @ self.centre.to(k))
        return self.centred(k) * torch.polar(torch.ones_like(angle), angle)


def _spectrum(volume: Tensor, voxel_size: float, centre: Tensor, resolution: float, radius: float) -> Spectrum:
    """Table of the transform of a cube: padded to twice its edge, and divided by what linear interpolation multiplies."""
    size = len(volume)
    padded = 2 * size
    start = padded // 2 - size // 2
    axis = coordinate_axis(size, voxel_size).float()
    window = torch.sinc(axis / (padded * voxel_size)).square()
    cube = torch.zeros(padded, padded, padded)
    cube[(slice(start, start + size),) * 3] = volume / (window[:, None, None] * window[:, None] * window)
    most = min(math.ceil(padded * voxel_size / resolution) + 1, padded // 2 - 1)
    keep = slice(padded // 2 - most, padded // 2 + most + 1)
    table = torch.view_as_real(centred_fft(cube, 3)[keep, keep, keep]).permute(3, 0, 1, 2)[None]
    return Spectrum(table.contiguous() * voxel_size**3, most / (padded * voxel_size), centre, radius)


@torch.no_grad()
def model_spectrum(positions: Float[Tensor, "atom 3"], amplitudes: Float[Tensor, " atom"], sigma: float, resolution: float) -> Spectrum:
    """The spectrum of Gaussians, down to a resolution in Å."""
    centre = (positions.mul(amplitudes[:, None]).sum(0) / amplitudes.sum()).float()
    radius = float((positions - centre).norm(dim=-1).max())
    voxel_size = min(resolution / 2.5, radius / 4 + 1)
    box_size = 2 * math.ceil((radius + 3 * max(sigma, voxel_size)) / voxel_size)
    volume = model_density(positions.float() - centre, amplitudes, sigma, box_size=box_size, pixel_size=voxel_size)
    return _spectrum(volume, voxel_size, centre, resolution, radius)


@torch.no_grad()
def map_spectrum(density: DensityMap, resolution: float) -> Spectrum:
    """The spectrum of a map, down to a resolution in Å, in the frame of the poses: its centre voxel is the origin."""
    edge = density.box_size * density.voxel_size
    box_size = min(density.box_size, 2 * math.ceil(1.25 * edge / resolution))
    volume = fourier_crop(density.values, box_size, 3)
    return _spectrum(volume - volume.median(), edge / box_size, torch.zeros(3), resolution, edge / 2)
