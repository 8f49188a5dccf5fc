"""Maps of parts of a run's particles, made from their pixels, and the model beside them.

The model decides which particles make a map, and nothing else: the maps are back-projections
(`reconstruction`). Two half-maps hold different particles, but the bins of both were chosen with
one network, which was trained on all of them.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryostar_nb.ctf import contrast_transfer_function
from cryostar_nb.density import Density, atom_density, model_density
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band, first_crossing, shell_correlation
from cryostar_nb.io.files import check_room, write_json
from cryostar_nb.io.maps import DensityMap, write_map
from cryostar_nb.io.structures import write_structure
from cryostar_nb.io.tables import available_memory
from cryostar_nb.io.vectors import band_vectors
from cryostar_nb.reconstruction import (
    DISAGREES,
    Reconstruction,
    Slices,
    filtered,
    local_correlation,
    reconstruct,
    signal_part,
    sphere_mask,
)
from cryostar_nb.runs.kept import is_fresh
from cryostar_nb.runs.parts import Weights, good_particles, half_sets, parts_of
from cryostar_nb.runs.run_config import MapConfig

if TYPE_CHECKING:
    from cryostar_nb.pages.html import Fragment
    from cryostar_nb.runs.run import Run

FEWEST = 2  # particles of a half-map
BALL = 6.0  # Å, least radius within which model and map are compared about a residue


@dataclass(frozen=True)
class PartMap:
    """A map of some of the particles, and how it agrees with itself and with the model."""

    name: str  # of its files
    particles: float  # the sum of their weights
    resolution: float | None  # Å, where the FSC of the half-maps falls to 0.143
    model_resolution: float | None  # Å, where the FSC of model and map falls to 0.5
    frequencies: list[float]  # 1/Å
    fsc_halves: list[float]
    fsc_model: list[float]
    residues: list[float | None]  # correlation of model and map about each residue

    @property
    def disagreeing(self) -> list[int]:
        """Residues, counted from 0, where model and map disagree; those outside of the box, too."""
        values = enumerate(self.residues)
        return [n for n, value in values if value is None or not value >= DISAGREES]


@dataclass(frozen=True)
class Maps:
    """What `reconstruct` made: maps in a folder, and a table of them."""

    folder: Path
    kind: str  # pc1, clusters, chosen
    halves: str  # where the half-sets are from
    left_out: int  # particles that are probably no good ones
    masked: float | None  # Å
    maps: list[PartMap] = field(default_factory=list)

    def path(self, number: int, what: str = "") -> Path:
        """The file of map `number`, counted from 0; `what` may be half1 or half2."""
        return self.folder / f"{self.maps[number].name}{what and '_'}{what}.mrc"

    def view(self) -> "Fragment":
        """The maps in 3D, each about the model of its particles, as HTML that a notebook shows."""
        from cryostar_nb.pages.html import Fragment  # matplotlib is slow to import
        from cryostar_nb.pages.map_view import map_view

        return Fragment.with_3dmol(map_view(self))

    @classmethod
    def of(cls, run: "Run") -> list["Maps"]:
        """Those in the folder of a run, of its last checkpoint, as they were last made."""
        paths = sorted((run.folder / "maps").glob("*.json"))
        return [cls.read(path) for path in paths if is_fresh(path, run.folder)]

    @classmethod
    def read(cls, path: Path) -> "Maps":
        """What `write` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        maps = [PartMap(**one) for one in values.pop("maps")]
        return cls(folder=path.parent, maps=maps, **values)

    def write(self) -> None:
        """Write the table, as JSON."""
        values = dataclasses.asdict(self)
        values.pop("folder")
        write_json(self.folder / f"{self.kind}.json", values)


def make_maps(run: "Run", config: MapConfig, out: Path | None = None) -> Maps:
    """Reconstruct parts of a run's particles; write maps, half-maps, structures and a table.

    They go to the folder `maps` of the run, or to `out`: for each part NAME.mrc, NAME_half1.mrc,
    NAME_half2.mrc, and NAME.cif, the model at the mean latent of its particles; all are in the
    frame of the poses, whose origin is the centre voxel, and the header says so. The pixels are
    read once where the parts fit into half of the free memory, else as often as it takes.

    Raises InputError for a part without particles, and for a map that is too large for memory.
    """
    good = good_particles(run, config.quality)
    kind, weights = parts_of(run, config)
    weights = weights * torch.from_numpy(good)[:, None]
    halves, source = half_sets(run)
    folder = run.folder / "maps" if out is None else Path(out)
    band = _band(run, config.resolution)
    _check(weights, halves, kind, band, folder)
    maps = Maps(folder, kind, source, int((~good).sum()), config.mask_radius)
    mask = None
    if config.mask_radius is not None:
        mask = sphere_mask(band.box_size, band.pixel_size, config.mask_radius)
    density = best_density(run)
    at_once = max(1, available_memory() // (4 * Slices.bytes_of(band)))
    for first in range(0, weights.shape[1], at_once):
        some = weights[:, first : first + at_once]
        slices = insert_particles(run, band, some, halves)
        for number in range(some.shape[1]):
            name = kind if weights.shape[1] == 1 else f"{kind}_{first + number + 1}"
            found = reconstruct(slices, number, mask=mask)
            latent = (some[:, number] @ run.latents) / some[:, number].sum()
            _write(run, folder / name, found, latent[None], band)
            maps.maps.append(_compare(run, name, found, latent, density, some[:, number], mask))
    maps.write()
    return maps


def _band(run: "Run", resolution: float | None) -> Band:
    """The coefficients of a map: up to Nyquist, or to a resolution."""
    grid = run.settings.grid
    finest = 2 * grid.pixel_size
    return Band(grid.box_size, grid.pixel_size, max(finest, resolution or finest))


def _check(
    weights: Weights, halves: Int[Tensor, " particle"], kind: str, band: Band, folder: Path
) -> None:
    """Raise InputError, before any work, for maps that cannot be made."""
    for number, part in enumerate(weights.T, start=1):
        fewest = min(int(((part > 0) & (halves == half)).sum()) for half in (0, 1))
        if fewest < FEWEST:
            problem = f"part {number} of {kind} has {{value}} good particles in one of its halves"
            remedy = "give fewer bins or clusters, more indices, or a lower --quality"
            raise InputError(problem, value=fewest, remedy=remedy)
    needed, free = 2 * Slices.bytes_of(band), available_memory()
    if needed > free // 2:
        problem = f"a map of this box takes {{value}} GB, and {free / 1e9:.3g} GB are free"
        remedy = "give a coarser --resolution"
        raise InputError(problem, value=float(f"{needed / 1e9:.3g}"), remedy=remedy)
    check_room(folder, 12 * weights.shape[1] * band.box_size**3, "maps")


def insert_particles(
    run: "Run", band: Band, weights: Weights, halves: Int[Tensor, " particle"]
) -> Slices:
    """One pass over the pixels of the particles that count: volumes 2 n and 2 n + 1 are the halves
    of part n. Poses are those that the run corrected.
    """
    rows = torch.nonzero(weights.sum(1)).flatten()
    particles = run.refined_particles[rows]
    of_half = torch.nn.functional.one_hot(halves[rows], 2).float()
    shares = (weights[rows, :, None] * of_half[:, None]).flatten(1)
    slices = Slices.none(band, shares.shape[1])
    ctf = None if particles.ctf is None else particles.ctf.to(torch.float32)
    for part, vectors in band_vectors(particles, band, run.inputs.invert):
        transfers = torch.ones(len(vectors), len(band.indices))
        if ctf is not None:
            transfers = contrast_transfer_function(band.frequencies, ctf[part])
        slices.add(vectors, transfers, particles.views[part].float(), shares[part])
    return slices


def best_density(run: "Run") -> Density:
    """That of all atoms where the run knows them."""
    if run.config.density == "nodes":
        return run.density
    return atom_density(run.atoms, run.config.atom_sigma)


def _write(
    run: "Run", path: Path, found: Reconstruction, latent: Float[Tensor, "1 latent"], band: Band
) -> None:
    """The map, its halves and its model, all in the frame of the poses."""
    corner = np.full(3, -(band.box_size // 2) * band.pixel_size)
    maps = {"": found.values, "_half1": found.halves[0], "_half2": found.halves[1]}
    for what, values in maps.items():
        write_map(f"{path}{what}.mrc", DensityMap(values, band.pixel_size, corner))
    atoms, positions = run.models(latent, in_gauge=False)
    write_structure(Path(f"{path}.cif"), atoms, positions)


def _compare(
    run: "Run",
    name: str,
    found: Reconstruction,
    latent: Float[Tensor, " latent"],
    density: Density,
    weights: Float[Tensor, " particle"],
    mask: Float[Tensor, "z y x"] | None,
) -> PartMap:
    """A map beside the density of the model at its particles' mean latent."""
    grid, nodes = run.settings.grid, run.decode(latent)
    model = model_density(
        density.centres(nodes, run.turns(latent)),
        density.amplitudes,
        float(density.sigma),
        box_size=grid.box_size,
        pixel_size=grid.pixel_size,
    )
    model = model if mask is None else model * mask
    frequencies, curve = shell_correlation(model, found.values, pixel_size=grid.pixel_size)
    count, resolution = len(found.frequencies), found.resolution
    local = local_correlation(
        filtered(model, signal_part(found.correlation)),
        found.values,
        nodes,
        pixel_size=grid.pixel_size,
        radius=max(BALL, resolution or BALL, 1.5 * grid.pixel_size),
    )
    return PartMap(
        name=name,
        particles=float(weights.sum()),
        resolution=resolution,
        model_resolution=first_crossing(frequencies[:count], curve[:count]),
        frequencies=found.frequencies.tolist(),
        fsc_halves=found.correlation.tolist(),
        fsc_model=curve[:count].tolist(),
        residues=local.tolist(),
    )
