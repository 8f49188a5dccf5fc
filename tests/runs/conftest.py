"""A small simulation that the tests of runs train on, and a short training on it."""

import dataclasses
from pathlib import Path

import pytest

from cryostar_nb.config import PRESETS
from cryostar_nb.runs.run_config import Hardware, InputFiles
from cryostar_nb.runs.start import start_run
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


@pytest.fixture(scope="session")
def train_briefly(particles):
    """Train on the particles, by default for 30 steps with the standard setting; gives the run."""

    def train(folder, reference="1ake.pdb", preset="standard", **changes):
        brief = {"steps": 30, "batch_size": 16, "low_pass": 9.0} | changes
        config = dataclasses.replace(PRESETS[preset], **brief)
        inputs = InputFiles(particles / "particles.star", DATA / reference)
        return start_run(inputs, config, folder, hardware=Hardware("cpu"))

    return train
