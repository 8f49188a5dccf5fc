"""A helix that bends, and particles of it that are simulated in a moment."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.structures import write_structure
from cryostar_nb.simulation.options import Faults, ImperfectReference, SimulationConfig
from cryostar_nb.simulation.particles import simulate

QUICK = {
    "n_particles": 200,
    "box_size": 32,
    "pixel_size": 3.0,
    "states": 3,
    "resolution": 6.0,
    "snr": 0.1,
}


@pytest.fixture
def helix_ends(helix_nodes, tmp_path):
    """The two ends of the motion as files."""
    bend = np.linspace(-1, 1, len(helix_nodes))[:, None] ** 2
    moved = helix_nodes.with_positions(helix_nodes.positions + bend * [12.0, 0.0, 0.0])
    for name, nodes in (("start", helix_nodes), ("end", moved)):
        write_structure(tmp_path / f"{name}.pdb", nodes)
    return {name: tmp_path / f"{name}.pdb" for name in ("start", "end")}


@pytest.fixture
def simulated(helix_ends, tmp_path):
    """Simulate with faults, given by name; the particles, images, truth and what was asked for."""

    def make(name="sim", poses=None, imperfect=None, config=None, **faults):
        settings = SimulationConfig(**QUICK | (config or {}))
        out = tmp_path / name
        imperfect = ImperfectReference(**imperfect or {})
        simulate(
            settings,
            **helix_ends,
            out=out,
            poses=poses,
            faults=Faults(**faults),
            imperfect=imperfect,
        )
        particles = read_particles(out / "particles.star")
        truth = dict(np.load(out / "truth.npz"))
        images = particles.images(slice(None)).double()
        asked = json.loads(str(truth["faults"]))
        return SimpleNamespace(
            out=out, config=settings, told=particles, truth=truth, images=images, asked=asked
        )

    return make
