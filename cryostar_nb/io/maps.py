"""Density maps: read with their place in space, and written.

A map file places its voxel 0 twice: ORIGIN says where it is, in Å, and NSTART counts, in voxels,
from the corner of a unit cell. Here the two are added, unless they say the same thing, when it
counts once. RELION and cryoSPARC leave both at 0 and mean the frame of the poses instead, whose
origin is the centre voxel, `size // 2`; `DensityMap.centre` leads from one to the other.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.io.files import existing_file, refuse, replacing, tell
from cryostar_nb.io.mrc import check_pixels, open_mrc

SHORTEST_EDGE, LONGEST_EDGE = 4, 1024  # voxels; outside, a header is damaged or not a map's
SMALLEST_VOXEL, LARGEST_VOXEL = 0.01, 1000.0  # Å
MOST_PADDING = 16  # voxels of the cube that a file is padded to, over those of the file


@dataclass(frozen=True)
class DensityMap:
    """A cubic map. Voxel (z, y, x) lies at corner + voxel_size * (x, y, z) in its file's frame."""

    values: Float[Tensor, "z y x"]
    voxel_size: float  # Å
    corner: Float[np.ndarray, "3"]  # Å, xyz of voxel 0 in the frame of the file

    @property
    def box_size(self) -> int:
        """Voxels along an edge."""
        return len(self.values)

    @property
    def centre(self) -> Float[np.ndarray, "3"]:
        """Place of the centre voxel in the frame of the file, in Å.

        Added to coordinates in the frame of the poses, it moves them to that of the file.
        """
        return self.corner + (self.box_size // 2) * self.voxel_size


def read_map(path: Path | str, *, pixel_size: float | None = None) -> DensityMap:
    """Read an MRC map with its axes in the order z, y, x.

    One that is no cube is filled up with zeros at the far ends. `pixel_size`, in Å, overrides the
    header's. Raises InputError for a file that is no map, for a header without a voxel size, and
    for voxels that are not cubes.
    """
    path = existing_file(path, "an MRC map")
    data, header = open_mrc(path)
    edge = max(data.shape)
    if edge > LONGEST_EDGE or min(data.shape) < SHORTEST_EDGE:
        remedy = f"give a map, with three axes of {SHORTEST_EDGE} to {LONGEST_EDGE} voxels"
        refuse(path, "holds an array of shape {value}", data.shape, remedy)
    if edge**3 > MOST_PADDING * data.size:
        problem = "holds an array of shape {value}, and most of a cube around it would be empty"
        refuse(path, problem, data.shape, "give a map that is nearer to a cube")
    # of column, row and section: which axis it is, 1 for x
    axes = [int(header[name]) or axis for axis, name in enumerate(("mapc", "mapr", "maps"), 1)]
    if sorted(axes) != [1, 2, 3]:
        remedy = "they are 1, 2 and 3 in some order"
        refuse(path, "its header names the axes {value}", axes, remedy)
    voxels = _voxel_size(path, header, pixel_size)
    order = [2 - axes.index(axis) for axis in (3, 2, 1)]  # of z, y and x in the array
    values = torch.from_numpy(np.array(data, dtype=np.float32).transpose(order))
    if remark := check_pixels(path, data, header):
        tell([f"{path}: {remark}"])
    if not torch.isfinite(values).all():
        value = values[~torch.isfinite(values)][0].item()
        refuse(path, "a voxel is {value}", value, "export the map again")
    origin = np.array([float(header.origin[name]) for name in "xyz"])
    if not np.isfinite(origin).all():
        refuse(path, "its header has ORIGIN = {value}", origin.tolist(), "write the map again")
    starts = [int(header[name]) for name in ("nxstart", "nystart", "nzstart")]  # as `axes`
    start = np.array([starts[axes.index(axis)] for axis in (1, 2, 3)]) * voxels
    same = np.allclose(origin, start, atol=float(voxels[0]))
    far = [width for size in reversed(values.shape) for width in (0, edge - size)]
    cube = torch.nn.functional.pad(values, far)
    return DensityMap(cube, float(voxels.mean()), origin if same else origin + start)


def _voxel_size(path: Path, header: np.recarray, given: float | None) -> Float[np.ndarray, "3"]:
    """Edges of a voxel along x, y and z, in Å."""
    if given is not None:
        if not (given > 0 and math.isfinite(given)):
            refuse(path, "a pixel size of {value} Å was given", given, "give a positive number")
        return np.full(3, float(given))
    cell = np.array([float(header.cella[name]) for name in "xyz"])
    counts = np.array([float(header[name]) for name in ("mx", "my", "mz")])
    voxels = np.divide(cell, counts, out=np.zeros(3), where=counts != 0)
    possible = np.isfinite(voxels) & (voxels >= SMALLEST_VOXEL) & (voxels <= LARGEST_VOXEL)
    for size in voxels[~possible].tolist()[:1]:
        remedy = "give the true one, in Å (--map-pixel-size, or --pixel-size of dock)"
        refuse(path, "its header has a voxel size of {value} Å", size, remedy)
    angles = [float(header.cellb[name]) for name in ("alpha", "beta", "gamma")]
    for angle in angles:
        if angle and abs(angle - 90) > 0.01:  # degrees; 0 in headers that do not say
            problem, remedy = "its cell has an angle of {value}°", "resample it to cubic voxels"
            refuse(path, problem, angle, remedy)
    if not np.allclose(voxels, voxels[0], rtol=1e-3):
        shown = " x ".join(f"{size:g}" for size in voxels)
        refuse(path, f"its voxels are {shown} Å", voxels.tolist(), "resample it to cubic voxels")
    return voxels


def write_map(path: Path | str, density: DensityMap) -> None:
    """Write a map as MRC; its place goes into ORIGIN."""
    path = Path(path)
    with replacing(path) as temporary, mrcfile.new(temporary, overwrite=True) as handle:
        handle.set_data(density.values.numpy().astype(np.float32))
        handle.voxel_size = density.voxel_size
        handle.header.origin = tuple(density.corner)
        # mrcfile puts the time there: other bytes for the same map
        handle.header.label[0] = b"CryoSTAR-NB"
