"""The maps of a run in 3D: the isosurface of each about the model of the same particles.

A page holds little of a map: what is around the models, on a grid as coarse as the resolution of
the half-maps allows, with 8 bits a voxel. All of it together takes about 1 MB at most.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from markupsafe import Markup
from torch import Tensor

from cryostar_nb.fourier import fourier_crop
from cryostar_nb.io.maps import DensityMap, read_map
from cryostar_nb.io.structures import read_nodes
from cryostar_nb.pages.explorer import atom_columns, integer_step, packed
from cryostar_nb.pages.figures import COLOURS
from cryostar_nb.pages.html import render
from cryostar_nb.pages.terminal import angstroms
from cryostar_nb.reconstruction import DISAGREES

if TYPE_CHECKING:
    from cryostar_nb.runs.maps import Maps, PartMap

MARGIN = 6.0  # Å around the models
SAMPLES = 3  # voxels to the best resolution of the maps
MOST_VOXELS = 600_000  # of all maps together
VOLUME_PER_MASS = 1.21  # Å^3/Da of protein (Harpaz, Gerstein & Chothia, Structure 1994)
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
        "colours": {"model": COLOURS["star"], "apart": COLOURS["accent"], "map": COLOURS["idle"]},
        **_volumes(maps, [read_map(path) for path in paths], positions),
    }
    return render("map_view.html", name=f"map-view-{next(_numbers)}", data=data)


def _volumes(
    maps: Maps, densities: list[DensityMap], positions: Float[Tensor, "map node 3"]
) -> dict[str, Any]:
    """The maps as bytes, x outermost, and the grid that they share; `origin` is that of voxel 0."""
    corners = positions.flatten(0, 1).aminmax(dim=0)
    low, high = corners.min.numpy() - MARGIN, corners.max.numpy() + MARGIN
    resolutions = [one.resolution for one in maps.maps if one.resolution is not None]
    first, width = densities[0], densities[0].box_size * densities[0].voxel_size
    finest = min(resolutions, default=2 * SAMPLES * first.voxel_size) / SAMPLES
    spacing = (len(densities) * np.prod(high - low) / MOST_VOXELS) ** (1 / 3)
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
            _one(one, fourier_crop(density.values, box, 3), inside)
            for one, density in zip(maps.maps, densities, strict=True)
        ],
    }


def _one(
    one: PartMap, values: Float[Tensor, "z y x"], inside: Int[np.ndarray, "2 3"]
) -> dict[str, Any]:
    """A map from 0 to 255 within these voxels, xyz, and its standard deviation in the same unit."""
    scale = 255 / float(values.max().clamp(min=1e-30))
    x, y, z = (slice(first, last + 1) for first, last in inside.T.tolist())
    levels = (scale * values[z, y, x]).clamp(0, 255).round().byte()
    apart = [n for n, agrees in enumerate(one.residues) if agrees is None or not agrees >= DISAGREES]
    return {
        "name": f"{one.name}: {one.particles:,.0f} particles, half-maps {angstroms(one.resolution)}",
        "values": packed(levels.permute(2, 1, 0).numpy()),
        "sd": scale * float(values.std()),
        "apart": apart,
    }
