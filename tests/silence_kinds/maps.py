"""Changes to MRC maps alone. Left out, because no reader can know it: an ORIGIN in voxels."""

import numpy as np
import torch

from cryostar_nb.io.maps import DensityMap, write_map
from silence_kinds.mrc import IMOD_STAMP, mrc
from silence_kinds.scene import BOX, Trial, kind, patch


def of_map(what: str, *, sound: bool = False, known: bool = True):
    """A kind that gets a map's voxels (z, y, x) and returns the bytes of the file."""

    def add(change):
        @kind(f"map: {what}")
        def run(scene):
            voxels = np.clip(scene.rng.normal(0, 25, (BOX,) * 3), -100, 100).round()
            path = scene.folder / "map.mrc"
            path.write_bytes(change(voxels, scene))
            true = (voxels, 1.5, np.zeros(3)) if known else None
            return Trial(path, true, what="map", sound=sound)

        return change

    return add


@kind("map: unsigned bytes")
def unsigned_map(scene):
    voxels = np.clip(scene.rng.normal(120, 25, (BOX,) * 3), 0, 250).round()
    path = scene.folder / "map.mrc"
    words = scene.choose({}, {38: IMOD_STAMP, 39: 0})
    path.write_bytes(mrc(voxels, 0, of="u1", words=words))
    return Trial(path, (voxels, 1.5, np.zeros(3)), what="map")


@kind("map: this package's writer")
def own_map(scene):
    voxels = scene.rng.standard_normal((BOX,) * 3).astype(np.float32)
    corner = scene.rng.uniform(-50, 50, 3)
    path = scene.folder / "map.mrc"
    write_map(path, DensityMap(torch.from_numpy(voxels), 1.5, corner))
    if scene.rng.integers(2):
        patch(path, 4 * 4, np.array([0, 0, 0], "<i4").tobytes())
    return Trial(path, (voxels, 1.5, corner), what="map", sound=True)


@kind("map: axes in another order")
def map_axes(scene):
    voxels = scene.rng.standard_normal((BOX,) * 3).astype(np.float32)
    axes = scene.rng.permutation(3) + 1  # of column, row, section; 1 is x
    # Axis 3 - i of the true array is i; of the file: 0 is the section.
    data = voxels.transpose([3 - axes[2], 3 - axes[1], 3 - axes[0]])
    start = scene.rng.integers(-9, 9, 3)  # along x, y and z
    words = dict(zip((16, 17, 18), map(int, axes), strict=True))
    words |= {4 + i: int(start[axis - 1]) for i, axis in enumerate(axes)}
    path = scene.folder / "map.mrc"
    path.write_bytes(mrc(data, words=words))
    return Trial(path, (voxels, 1.5, 1.5 * start), what="map", sound=True)


@kind("map: its place as ORIGIN, NSTART, or both")
def map_place(scene):
    voxels = scene.rng.standard_normal((BOX,) * 3).astype(np.float32)
    start = scene.rng.integers(-9, 9, 3)
    words = {4 + i: int(n) for i, n in enumerate(start)}
    which, path = scene.choose("origin", "start", "both"), scene.folder / "map.mrc"
    origin = (0, 0, 0) if which == "start" else 1.5 * start
    path.write_bytes(mrc(voxels, origin=origin, words={} if which == "origin" else words))
    return Trial(path, (voxels, 1.5, 1.5 * start), what="map", sound=True)


@kind("map: a cell larger than the map")
def map_cell(scene):
    voxels = scene.rng.standard_normal((BOX,) * 3).astype(np.float32)
    words = {7 + i: 2 * BOX for i in range(3)} | {10 + i: 3.0 * BOX for i in range(3)}
    path = scene.folder / "map.mrc"
    path.write_bytes(mrc(voxels, words=words))
    return Trial(path, (voxels, 1.5, np.zeros(3)), what="map", sound=True)


of_map("no voxel size", known=False)(lambda data, scene: mrc(data, pixel_size=0.0))
of_map("a voxel size in m", known=False)(lambda data, scene: mrc(data, pixel_size=1.5e-10))
of_map("voxels that are no cubes", known=False)(lambda data, scene: mrc(data, words={10: 30.0}))
of_map("a skewed cell", known=False)(lambda data, scene: mrc(data, words={13: 60.0}))
