"""Training in a folder: the same run twice, stopped and resumed, and one that diverges."""

import dataclasses
import itertools
import re
import signal

import numpy as np
import pytest
import torch
from refusals import refused
from tiny import BAND, CONFIG, CROWDED, SIZES, assert_same_weights, metrics

from cryostar_nb.losses import kl_divergence
from cryostar_nb.models import NormalModeDecoder, make_network
from cryostar_nb.normal_modes import normal_modes
from cryostar_nb.runs.engine import run_training

NMA = dataclasses.replace(CONFIG, method="nma", checkpoint_every=30, modes=8)
BY_STRUCTURE = dataclasses.replace(CROWDED, encoder_input="structure")


@pytest.fixture
def run(helix_data, helix_nodes, tmp_path):
    """Train the tiny network in a folder of this name."""

    def training(folder="run", config=CONFIG, resume=False, data=helix_data):
        out = tmp_path / folder
        out.mkdir(exist_ok=True)
        return run_training(config, data, helix_nodes, BAND, out, model_config=SIZES, resume=resume)

    return training


@pytest.fixture
def at_step(monkeypatch):
    """Call a function once, in the middle of a training step; steps are counted from 0."""

    def arrange(step, action):
        calls = itertools.count()

        def divergence(*arguments):
            if next(calls) == step:
                action()
            return kl_divergence(*arguments)

        monkeypatch.setattr("cryostar_nb.training.kl_divergence", divergence)

    return arrange


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


# The same run twice


def test_the_same_seed_gives_the_same_weights_and_another_one_gives_others(run):
    first, again = run("first"), run("again")
    other = run("other", dataclasses.replace(CONFIG, seed=1))
    assert_same_weights(first, again)
    assert not torch.equal(first.decoder.layers[0].weight, other.decoder.layers[0].weight)


@pytest.mark.parametrize("config", [CROWDED, BY_STRUCTURE, NMA], ids=["image", "structure", "nma"])
def test_ctrl_c_ends_the_step_and_the_run_resumes_as_if_it_had_not_been_stopped(
    config, run, at_step, tmp_path, monkeypatch
):
    uninterrupted = run("whole", config)
    before = signal.getsignal(signal.SIGINT)
    at_step(30, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 31 of 60"):
        run("stopped", config)
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(tmp_path / "stopped" / "checkpoint.pt", weights_only=True)["step"] == 31
    # Neither the modes nor the scale of the encoder are computed anew: they come with the weights.
    monkeypatch.delattr("cryostar_nb.models.normal_modes")
    monkeypatch.delattr("cryostar_nb.runs.engine.learn_scale")
    assert_same_weights(run("stopped", config, resume=True), uninterrupted)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_died_resumes_from_its_last_checkpoint_as_if_it_had_not(
    failure, run, at_step, tmp_path
):
    def die():
        raise failure("in the middle of a step")

    uninterrupted = run("whole", CROWDED)
    at_step(42, die)
    with pytest.raises(failure, match="in the middle of a step"):
        run("stopped", CROWDED)
    assert len(metrics(tmp_path / "stopped")) == 42
    assert_same_weights(run("stopped", CROWDED, resume=True), uninterrupted)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_resuming_a_run_that_has_ended_changes_nothing(run, tmp_path):
    ended = run()
    lines = metrics(tmp_path / "run")
    assert_same_weights(run(resume=True), ended)
    assert metrics(tmp_path / "run") == lines


def test_a_run_that_has_ended_goes_on_when_it_is_given_more_steps(run, tmp_path):
    run()
    longer = dataclasses.replace(CONFIG, steps=65)
    run(config=longer, resume=True)
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 66))


# What it leaves


def test_a_checkpoint_holds_the_model_that_is_returned(run, helix_nodes, tmp_path):
    model = run()
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 60
    fresh = make_network(CONFIG, SIZES, helix_nodes, BAND)
    fresh.load_state_dict(state["model"])
    assert_same_weights(fresh, model)
    assert not model.training


def test_a_run_leaves_its_checkpoint_and_its_metrics_and_no_more(run, tmp_path):
    run()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint.pt", "metrics.csv"}


def test_a_line_is_logged_every_so_many_steps_and_at_the_end(run, tmp_path):
    run(config=dataclasses.replace(CONFIG, log_every=25))
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [25, 50, 60]
    assert set(lines[0]) == {"step", "loss", "image", "kl", "continuity", "elastic", "clash"}


def test_the_loss_goes_down(run, tmp_path):
    run(config=dataclasses.replace(CONFIG, steps=200))
    image = [line["image"] for line in metrics(tmp_path / "run")]
    assert np.mean(image[-20:]) < np.mean(image[:20]) - 0.03


def test_the_method_nma_moves_the_structure_by_its_own_modes(run, helix_nodes):
    decoder = run(config=dataclasses.replace(NMA, steps=10)).decoder
    assert isinstance(decoder, NormalModeDecoder)
    modes = torch.from_numpy(normal_modes(helix_nodes.positions, 8, 12.0).vectors).float()
    assert torch.equal(decoder.modes, modes * len(helix_nodes) ** 0.5)


# What it refuses


def test_a_particle_that_is_not_a_number_stops_the_run_and_is_named(run, helix_data):
    vectors = helix_data.vectors.clone()
    vectors[12, 5] = torch.nan
    with refused("run", value=np.nan) as caught:
        run(config=CROWDED, data=dataclasses.replace(helix_data, vectors=vectors))
    assert "particles 13 in it" in caught.value.problem
    assert re.search(r"after step [1-5],", caught.value.problem)  # in the first epoch


def test_a_loss_beyond_all_bounds_stops_the_run_and_keeps_its_last_checkpoint(run, tmp_path):
    run(config=dataclasses.replace(CROWDED, steps=30))
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    with refused("run") as caught:
        run(config=dataclasses.replace(CROWDED, learning_rate=1e6), resume=True)
    assert not caught.value.value < 1e5
    assert "after step 3" in caught.value.problem
    assert "none of its 8 particles stands out" in caught.value.problem
    assert "--learning-rate" in caught.value.remedy
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


def test_a_batch_of_more_particles_than_there_are_is_refused(run):
    with refused(value=41):
        run(config=dataclasses.replace(CONFIG, batch_size=41))
