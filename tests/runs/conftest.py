"""A small simulation that the tests of runs train on."""

from pathlib import Path

import pytest

from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import simulate

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="session")
def particles(tmp_path_factory):
    """A folder with 96 particles of adenylate kinase, in four states."""
    folder = tmp_path_factory.mktemp("particles")
    config = SimulationConfig(n_particles=96, box_size=32, pixel_size=4.0, states=4, snr=1.0)
    simulate(config, start=DATA / "1ake.pdb", end=DATA / "4ake.pdb", out=folder)
    return folder
