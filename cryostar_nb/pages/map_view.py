"""The maps of a run in 3D: the isosurface of each about the model of the same particles.

A page holds little of a map: what is around the models, on a grid as coarse as the resolution of
the half-maps allows, with 8 bits a voxel: 0.8 MB of text at most for all maps of a view. A node
takes 8 bytes in each model.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from markupsafe import Markup
from torch import Tensor

from cryostar_nb.fourier import fourier_crop
from cryostar_nb.io.maps import read_map
from cryostar_nb.io.structures import read_nodes
from cryostar_nb.pages.explorer import atom_columns, integer_step, packed
from cryostar_nb.pages.figures import COLOURS
from cryostar_nb.pages.html import render
from cryostar_nb.pages.terminal import angstroms

if TYPE_CHECKING:
    from cryostar_nb.runs.maps import Maps, PartMap

MARGIN = 6.0  # Å around the models
SAMPLES = 3  # voxels to the best resolution of the maps
MOST_VOXELS = 500_000  # of all maps together
VOLUME_PER_MASS = 1.21  # Å^3/Da of protein (Erickson, Biol. Proced. Online 2009)
MASS_PER_ELECTRON = 1.87  # Da, of protein
_numbers = itertools.count(1)


def map_view(maps: Maps) -> Markup:
    """HTML of a 3D view of maps with their models, for a page that has 3Dmol.js; `Maps.view` for
    notebooks. Map and model lie where their files place them.

    Raises InputError where the file of a map or of its model is gone.
    """
    paths = [maps.path(number) for number in range(len(maps.maps))]
    nodes = [read_nodes(path.with_suffix(".cif")) for path in paths]
    positions = torch.from_numpy(np.stack([model.positions for model in nodes]))
    step = integer_step(positions)
    data = {
        "atoms": atom_columns(nodes[0]),
        "step": step,
        "structures": packed((positions / step).round().short().numpy()),
        "volume": VOLUME_PER_MASS * MASS_PER_ELECTRON * float(nodes[0].electrons.sum()),
        "colours": {
            "model": COLOURS["cryoSTAR"],
            "apart": COLOURS["accent"],
            "map": COLOURS["doing nothing"],
        },
        **_volumes(maps, paths, positions),
    }
    return render("map_view.html", name=f"map-view-{next(_numbers)}", data=data)


def _volumes(
    maps: Maps, paths: list[Path], positions: Float[Tensor, "map node 3"]
) -> dict[str, Any]:
    """The maps as bytes, x outermost, and the grid that they share; `origin` is that of voxel 0."""
    corners = positions.flatten(0, 1).aminmax(dim=0)
    low, high = corners.min.numpy() - MARGIN, corners.max.numpy() + MARGIN
    resolutions = [one.resolution for one in maps.maps if one.resolution is not None]
    first = read_map(paths[0])
    width = first.box_size * first.voxel_size
    finest = min(resolutions, default=2 * SAMPLES * first.voxel_size) / SAMPLES
    spacing = (len(paths) * np.prod(high - low) / MOST_VOXELS) ** (1 / 3)
    box = max(2, int(width / max(finest, spacing)))
    voxel = width / box
    corner = first.centre - (box // 2) * voxel
    start, stop = ((end - corner) / voxel for end in (low, high))
    inside = np.stack([np.floor(start), np.ceil(stop)]).astype(int).clip(0, box - 1)
    return {
        "voxel": voxel,
        "origin": (corner + voxel * inside[0]).tolist(),
        "size": (inside[1] - inside[0] + 1).tolist(),
        "maps": [
            _one(one, fourier_crop(read_map(path).values, box, 3), inside)
            for one, path in zip(maps.maps, paths, strict=True)
        ],
    }


def _one(
    one: PartMap, values: Float[Tensor, "z y x"], inside: Int[np.ndarray, "2 3"]
) -> dict[str, Any]:
    """A map from 0 to 255 within these voxels, xyz, and its standard deviation in the same unit."""
    x, y, z = (slice(first, last + 1) for first, last in inside.T.tolist())
    scale = 255 / float(values[z, y, x].max().clamp(min=1e-30))
    levels = (scale * values[z, y, x]).clamp(min=0).round().byte()
    resolution, count = angstroms(one.resolution), f"{len(one.disagreeing)} residues disagree"
    return {
        "name": f"{one.name}: {one.particles:,.0f} particles, half-maps {resolution}, {count}",
        "values": packed(levels.permute(2, 1, 0).numpy()),
        "sd": scale * float(values.std()),
        "apart": one.disagreeing,
    }
