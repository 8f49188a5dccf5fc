"""Particles held out of a training: never in a batch, the same on resume, measured, and the end."""

import dataclasses
import itertools
import json

import pytest
import torch
from refusals import refused
from tiny import BAND, CONFIG, CROWDED, SIZES, assert_same_weights, metrics

from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.batches import held_out_rows
from cryostar_nb.losses import kl_divergence
from cryostar_nb.projector import make_images
from cryostar_nb.runs.engine import run_training
from cryostar_nb.training import TrainingData

APART = dataclasses.replace(CROWDED, held_out=0.2, checkpoint_every=20, log_every=8)
STEPS = [8, 16, 20, 24, 32, 40, 48, 56, 60]  # of the lines


@pytest.fixture
def run(helix_data, helix_nodes, tmp_path):
    """Train the tiny network in a folder of this name."""

    def training(folder="run", config=APART, resume=False, data=helix_data):
        out = tmp_path / folder
        out.mkdir(exist_ok=True)
        return run_training(config, data, helix_nodes, BAND, out, model_config=SIZES, resume=resume)

    return training


@pytest.fixture
def losses_are(monkeypatch):
    """Let the image loss of the particles held out be these values, one after the other."""

    def arrange(values):
        each = iter([value for value in values for _ in range(2)])  # held out, trained

        def losses(network, density, band, data, rows, latents):
            return torch.full((len(rows),), next(each))

        monkeypatch.setattr("cryostar_nb.runs.held_out.image_losses", losses)

    return arrange


# Which they are


def test_the_weights_do_not_depend_on_particles_that_are_held_out(run, helix_data):
    vectors = helix_data.vectors.clone()
    rows = held_out_rows(len(vectors), 0.2, seed=0)
    vectors[rows] = vectors[rows].flip(0) + 1
    short, with_other = dataclasses.replace(APART, steps=15), dataclasses.replace
    first = run("first", short)
    same = run("other", short, data=with_other(helix_data, vectors=vectors))
    assert_same_weights(same, first)
    vectors[0 if 0 not in rows else 1] += 1
    changed = run("changed", short, data=with_other(helix_data, vectors=vectors))
    assert not torch.equal(changed.decoder.layers[0].weight, first.decoder.layers[0].weight)


def test_without_them_a_run_is_what_it_was(run, tmp_path):
    run(config=dataclasses.replace(APART, held_out=0.0))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint.pt", "metrics.csv"}
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [step for step in STEPS if step != 20]
    assert "held_out" not in lines[-1]


def test_a_batch_of_all_but_those_held_out_is_the_largest(run):
    with refused(value=33) as caught:
        run(config=dataclasses.replace(APART, batch_size=33))
    assert "40 particles, less 8" in caught.value.problem
    run(config=dataclasses.replace(APART, batch_size=32, steps=1))


# While it trains


def test_the_log_has_their_loss_at_every_checkpoint_and_at_the_end(run, tmp_path):
    run()
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == STEPS
    assert [line["step"] for line in lines if "held_out" in line] == [20, 40, 60]
    assert all(-1 < line[name] < 0 for line in lines[-1:] for name in ("held_out", "trained"))
    found = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert found["loss"] == pytest.approx(lines[-1]["held_out"], abs=1e-6)
    assert found["trained_loss"] == pytest.approx(lines[-1]["trained"], abs=1e-6)
    assert (found["step"], found["held_out"], found["stopped_early"]) == (60, 8, False)


def test_a_run_that_goes_on_holds_out_the_same_and_has_the_same_log(run, tmp_path, monkeypatch):
    whole = run("whole")
    steps = itertools.count(1)

    def die_at_step_42(*arguments):
        if next(steps) == 42:
            raise RuntimeError("in the middle of a step")
        return kl_divergence(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("cryostar_nb.training.kl_divergence", die_at_step_42)
        with pytest.raises(RuntimeError, match="middle"):
            run("stopped")
    assert_same_weights(run("stopped", resume=True), whole)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    first, second = (
        json.loads((tmp_path / name / "held_out.json").read_text()) for name in ("whole", "stopped")
    )
    assert first == second


# Stopping early

EARLY = dataclasses.replace(APART, stop_early=True, checkpoint_every=5)


@pytest.mark.parametrize(
    ("losses", "last"),
    [
        ([-1.0, -1.0, -1.0, -1.0], 20),
        ([-1.0, -2.0, -1.5, -1.9, -2.0], 25),
        ([-1.0, -2.0, -1.5, -1.9, -2.1, -2.0, -2.0, -2.0], 40),
        ([-float(number) for number in range(12)], 60),
    ],
)
def test_a_run_stops_when_the_loss_has_not_fallen_at_three_checkpoints(
    losses, last, run, losses_are, tmp_path, capsys
):
    losses_are(losses)
    run(config=EARLY)
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == last
    found = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert (found["step"], found["stopped_early"]) == (last, last < 60)
    assert ("stopped early" in capsys.readouterr().out) == (last < 60)


def test_checkpoints_before_a_stop_count_when_the_run_goes_on(run, losses_are, tmp_path):
    losses_are([-1.0, -2.0, -1.5])
    run(config=dataclasses.replace(EARLY, steps=15))
    losses_are([-1.6, -1.7])
    run(config=EARLY, resume=True)
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 25


def test_a_run_that_does_not_stop_early_does_not(run, losses_are, tmp_path):
    losses_are([-1.0] * 12)
    run(config=dataclasses.replace(EARLY, stop_early=False))
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 60


# At the end


def test_an_encoder_that_has_seen_32_noisy_images_fifty_times_has_learned_them(
    run, helix_nodes, rng, tmp_path, capsys
):
    """The images are all of one structure: there is nothing to learn but their noise."""
    rotations = torch.from_numpy(random_rotations(64, rng)).float()
    reference = torch.from_numpy(helix_nodes.positions).float().expand(64, -1, -1)
    electrons = torch.from_numpy(helix_nodes.electrons).float()
    vectors = make_images(reference, electrons, torch.tensor(2.0), BAND, rotations=rotations)
    noise = torch.from_numpy(rng.standard_normal(vectors.shape)).float()
    data = TrainingData(vectors + vectors.std() * noise, rotations)
    free = {"method": "cont", "continuity_weight": 0.01, "kl_weight": 0.0, "learning_rate": 3e-3}
    few = {"steps": 200, "held_out": 0.5, "checkpoint_every": 200, "log_every": 100}
    config = dataclasses.replace(CONFIG, **free, **few)
    run(config=config, data=data)
    found = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert found["verdict"] == "learns by heart" and not found["moves"]
    assert found["trained_gain"]["mean"] > 5 * found["trained_gain"]["error"]
    assert "run: learns by heart: " in capsys.readouterr().out
