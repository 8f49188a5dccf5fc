"""A small run for the pages: what they ask of a `Run`, without training or files."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cryostar_nb.config import TrainConfig
from cryostar_nb.density import model_density
from cryostar_nb.fourier import Band
from cryostar_nb.gauge import Gauge
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.maps import DensityMap, write_map
from cryostar_nb.io.structures import write_structure
from cryostar_nb.latents import ENDS, components_from_reference, traverse
from cryostar_nb.projector import make_images
from cryostar_nb.runs.maps import Maps, PartMap
from cryostar_nb.structure import Structure


@dataclasses.dataclass(frozen=True)
class Views:
    """Directions from which particles are seen; the images are computed when asked for."""

    rotations: torch.Tensor
    box_size: int
    pixel_size: float

    def __getitem__(self, rows):
        return dataclasses.replace(self, rotations=self.rotations[torch.as_tensor(rows)])


class Line(nn.Module):
    """A decoder that moves the last six nodes by 10 Å along x for each unit of the first latent,
    and all of them by 5 Å along y for each unit of the second.
    """

    def __init__(self, reference):
        super().__init__()
        self.reference = reference

    def forward(self, latents):
        first, second = (latents[:, i, None, None] for i in (0, 1))
        last = torch.arange(len(self.reference))[:, None] >= len(self.reference) - 6
        along_x, along_y = torch.eye(3)[:2]
        return self.reference + 10 * first * last * along_x + 5 * second * along_y


@dataclasses.dataclass(frozen=True)
class LineRun:
    """A run whose decoder is a `Line`."""

    folder: Path
    nodes: Structure
    latents: torch.Tensor
    particles: Views
    band: Band
    config: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    step: int = 1_200
    metrics: dict = dataclasses.field(default_factory=dict)
    evaluation: dict | None = None
    held_out: dict | None = None
    quality: np.ndarray = dataclasses.field(default_factory=lambda: np.repeat([0.9, 0.1], [45, 15]))

    certainty = ()
    made_maps = ()
    mapped = None
    checked = None

    def node_sd(self, particles=None):
        return None

    @property
    def reference(self):
        return torch.from_numpy(self.nodes.positions).float()

    @property
    def decode(self):
        return Line(self.reference)

    def components(self):
        return components_from_reference(self.decode, self.latents, self.reference)

    @property
    def gauge(self):
        return Gauge.of(self.decode(self.latents), self.reference)

    def traverse(self, pc=1, frames=21):
        scores = self.components().scores[:, pc - 1]
        structures = traverse(self.decode, self.latents, scores, torch.linspace(*ENDS, frames))
        return self.gauge.apply(structures)

    @property
    def refined_particles(self):
        return self.particles

    def turns(self, latents):
        return None

    @property
    def atoms(self):
        return self.nodes

    def all_atoms(self, latents):
        return self.gauge.apply(self.decode(latents))

    def project(self, structures, particles, band=None, turns=None):
        band, electrons = band or self.band, torch.from_numpy(self.nodes.electrons).float()
        rotations, width = particles.rotations, torch.tensor(2.0)
        return band.decode(make_images(structures, electrons, width, band, rotations=rotations))

    def images(self, particles, band=None):
        structures = self.reference.expand(len(particles.rotations), -1, -1)
        images = self.project(structures, particles, band)
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
        return images + images.std() * noise


@pytest.fixture
def make_run(tmp_path, helix_nodes, rng):
    """Make a run of sixty particles, for these pixels and this resolution, in Å."""

    def make(box_size=48, pixel_size=2.0, resolution=8.0, **values):
        rotations = torch.from_numpy(random_rotations(60, rng)).float()
        particles = Views(rotations, box_size, pixel_size)
        latents = torch.from_numpy(rng.normal(0.5, 1, (60, 3))).float()
        band = Band(box_size, pixel_size, resolution)
        return LineRun(tmp_path, helix_nodes, latents, particles, band, **values)

    return make


@pytest.fixture
def run(make_run):
    return make_run()


@pytest.fixture
def make_maps(tmp_path, helix_nodes):
    """Write two maps, without noise, of the helix and of it turned about y, with their models."""

    def make(
        resolution=6.0, *, box_size=32, pixel_size=2.0, origin=(0, 0, 0), residues=(0.9,) * 24
    ):
        maps = Maps(tmp_path / "maps", "pc1", "at random", 7, None)
        maps.folder.mkdir(exist_ok=True)
        electrons = torch.from_numpy(helix_nodes.electrons)
        corner = np.array(origin) - (box_size // 2) * pixel_size
        for name, order in (("pc1_1", (0, 1, 2)), ("pc1_2", (2, 1, 0))):
            positions = helix_nodes.positions[:, order] * (1, 1, -1 if order[0] else 1) + (3, 0, 1)
            grid = {"box_size": box_size, "pixel_size": pixel_size}
            volume = model_density(torch.from_numpy(positions), electrons, 2.0, **grid)
            path = maps.folder / name
            write_map(path.with_suffix(".mrc"), DensityMap(volume, pixel_size, corner))
            moved = helix_nodes.with_positions(positions + origin)
            write_structure(path.with_suffix(".cif"), moved)
            about = ([0.05, 0.1, 0.15], [1.0, 0.6, 0.1], [1.0, 0.6, 0.1], list(residues))
            maps.maps.append(PartMap(name, 1234.4, resolution, None, *about))
        return maps

    return make


@pytest.fixture
def evaluation():
    """An `evaluation.json` of two states, one of them without a particle."""
    errors = {"rmsd_per_state": [1.0, None], "rmsd_std_per_state": [0.5, None]}
    idle = {"do_nothing_mean": 2.0, "do_nothing_per_state": [2.0, 3.0]}
    means = {"rmsd_mean": 1.0, "rmsd_most_open": None, "bond_error": 0.1}
    return errors | idle | means
