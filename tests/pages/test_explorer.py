"""The latent explorer holds what the run holds: structures, pictures, and particles that stand for all."""

import base64
import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from cryostar_nb.config import TrainConfig
from cryostar_nb.io.structures import write_structure
from cryostar_nb.pages.explorer import latent_explorer, representatives
from cryostar_nb.runs.config import InputFiles
from cryostar_nb.runs.start import start_run
from cryostar_nb.simulation.particles import SimulationConfig, simulate


def train_run(folder, nodes, low_pass, **sizes):
    write_structure(folder / "closed.pdb", nodes)
    write_structure(folder / "open.pdb", nodes.with_positions(1.1 * nodes.positions))
    config = SimulationConfig(n_particles=60, resolution=6.0, states=5, **sizes)
    simulate(config, closed=folder / "closed.pdb", open_=folder / "open.pdb", out=folder)
    inputs = InputFiles(folder / "particles.star", reference=folder / "closed.pdb")
    return start_run(inputs, TrainConfig(steps=5, batch_size=8, low_pass=low_pass), folder / "run")


@pytest.fixture
def run(tmp_path, helix_nodes):
    return train_run(tmp_path, helix_nodes, 8.0, box_size=48, pixel_size=2.0)


def data_of(html):
    return json.loads(
        re.search(
            r"exploreLatents\(document.getElementById\(\"[\w-]+\"\), (\{.*\}), window", html
        ).group(1)
    )


def test_representatives_lie_where_the_particles_are(rng):
    two = np.concatenate([rng.normal(0, 1, (300, 2)), rng.normal(20, 1, (100, 2))])
    chosen = representatives(two, 40)
    assert (np.diff(chosen) > 0).all() and 20 < len(chosen) <= 40
    assert (chosen < 300).sum() > 5 and (chosen >= 300).sum() > 5
    nearest = np.linalg.norm(two[:, None] - two[chosen][None], axis=-1).min(axis=1)
    assert np.median(nearest) < 0.6  # of clouds whose points are 1 from their centre


def test_few_particles_are_all_shown(rng):
    assert representatives(rng.normal(size=(7, 2)), 100).tolist() == list(range(7))


def test_the_page_holds_the_structures_of_the_run_and_asks_for_nothing_else(run):
    html = latent_explorer(run, points=10)
    assert not re.search(r"https?://|src=|href=", html)
    data = data_of(html)
    labels = [int(label.split(":")[0].replace(",", "")) - 1 for label in data["labels"]]
    assert 1 < len(labels) <= 10
    packed = np.frombuffer(base64.b64decode(data["structures"]), dtype=np.int16).reshape(
        len(labels), len(run.nodes), 3
    )
    with torch.no_grad():
        decoded = run.model.decoder(run.latents()[labels])
    assert np.abs(packed * data["step"] - decoded.numpy()).max() < 0.01  # Å
    pictures = np.frombuffer(base64.b64decode(data["particles"]), dtype=np.uint8).reshape(
        len(labels), data["side"], data["side"]
    )
    assert (pictures.std(axis=(1, 2)) > 10).all()
    assert np.sum(data["density"]) == 60


@pytest.mark.parametrize(
    ("box_size", "pixel_size", "low_pass"),
    [(48, 2.0, 4.0), (32, 3.0, 4.0), (33, 3.0, 4.0), (72, 1.5, 2.0)],
)
def test_pictures_are_of_one_size_whatever_the_box(
    box_size, pixel_size, low_pass, tmp_path, helix_nodes
):
    run = train_run(tmp_path, helix_nodes, low_pass, box_size=box_size, pixel_size=pixel_size)
    data = data_of(latent_explorer(run, points=4))
    for name in ("predictions", "particles"):
        assert len(base64.b64decode(data[name])) == len(data["points"]) * data["side"] ** 2


def test_a_chain_without_a_name_takes_its_column(run):
    nameless = dataclasses.replace(run.nodes, chains=np.full(len(run.nodes), ""))
    atoms = data_of(latent_explorer(dataclasses.replace(run, nodes=nameless), points=4))["atoms"]
    assert [chain for _, _, chain, _ in atoms] == [" "] * len(run.nodes)
