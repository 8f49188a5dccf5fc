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
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.errors import InputError
from cryostar_nb.io.files import existing_file, replacing
from cryostar_nb.io.mrc import open_mrc

SHORTEST_EDGE, LONGEST_EDGE = (
    4,
    1024,
)  # voxels; outside of these a header is damaged, or it is no map's
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
        raise InputError(
            f"{path}: a pixel size of {pixel_size:g} Å was given; give a positive number"
        )
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
    columns = [
        int(header[name]) or default for name, default in (("mapc", 1), ("mapr", 2), ("maps", 3))
    ]
    if sorted(columns) != [1, 2, 3]:
        raise InputError(
            f"{path}: its header names the axes {columns}; they are 1, 2 and 3 in some order"
        )
    cell = np.array([float(header.cella[name]) for name in "xyz"])
    counts = np.array([float(header[name]) for name in ("mx", "my", "mz")])
    voxels = (
        np.divide(cell, counts, out=np.zeros(3), where=counts != 0)
        if pixel_size is None
        else np.full(3, float(pixel_size))
    )
    bad = ~(np.isfinite(voxels) & (voxels > 0))
    if bad.any():
        raise InputError(
            f"{path}: its header has a voxel size of {voxels[bad][0]:g} Å; give the true one, in Å (--map-pixel-size, or --pixel-size of dock)"
        )
    if not np.allclose(voxels, voxels[0], rtol=1e-3):
        raise InputError(
            f"{path}: its voxels are {voxels[0]:g} x {voxels[1]:g} x {voxels[2]:g} Å; resample it to cubic voxels"
        )
    order = [
        2 - columns.index(axis) for axis in (3, 2, 1)
    ]  # where z, y and x stand among the axes of the array
    values = torch.from_numpy(np.array(data, dtype=np.float32).transpose(order))
    if not torch.isfinite(values).all():
        raise InputError(
            f"{path}: a voxel is {values[~torch.isfinite(values)][0].item()}; export the map again"
        )
    origin = np.array([float(header.origin[name]) for name in "xyz"])
    if not np.isfinite(origin).all():
        raise InputError(
            f"{path}: its header has ORIGIN = {', '.join(f'{value:g}' for value in origin)}; write the map again"
        )
    starts = [
        int(header[name]) for name in ("nxstart", "nystart", "nzstart")
    ]  # of column, row and section
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
        handle.header.label[0] = (
            b"CryoSTAR-NB"  # mrcfile puts the time there: other bytes for the same map
        )
