"""When a training corrects poses, what it keeps of that, and what a run makes of it."""

import contextlib
import csv
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import BAND, CONFIG, SIZES, assert_same_weights, metrics

from cryostar_nb.cli import parse
from cryostar_nb.config import TrainConfig
from cryostar_nb.density import node_density
from cryostar_nb.geometry import rotations_from_vectors
from cryostar_nb.io.metadata import Poses
from cryostar_nb.io.options import Reading
from cryostar_nb.io.reading import read_particles
from cryostar_nb.models import make_network
from cryostar_nb.poses import corrected
from cryostar_nb.prepare.info import describe
from cryostar_nb.prepare.options import Choice
from cryostar_nb.prepare.select import select_particles
from cryostar_nb.runs import pose_refinement
from cryostar_nb.runs.engine import run_training
from cryostar_nb.runs.folder import open_run
from cryostar_nb.runs.run_config import Hardware, InputFiles, read_config
from cryostar_nb.runs.start import start_run
from cryostar_nb.simulation.options import Faults, SimulationConfig
from cryostar_nb.simulation.particles import simulate
from cryostar_nb.training import with_looks

DATA = Path(__file__).parents[2] / "data"
REFINED = dataclasses.replace(
    CONFIG,
    steps=24,
    clash_distance=6.0,
    checkpoint_every=8,
    encoder_input="structure",
    poses="refined",
    image_loss="likelihood",
    radial_scale=True,
)
NEW = ("poses", "image_loss", "radial_scale")


# In memory


@pytest.fixture
def train(helix_data, helix_nodes, tmp_path):
    """Train the tiny network in a folder of this name."""

    def training(folder="run", config=REFINED, **options):
        out = tmp_path / folder
        out.mkdir(exist_ok=True)
        return run_training(
            config, helix_data, helix_nodes, BAND, out, model_config=SIZES, **options
        )

    return training


@pytest.fixture
def stop_after():
    """Make a training stop after this step, as with Ctrl-C, and say so."""

    @contextlib.contextmanager
    def arrange(step):
        answers = iter([False] * (step - 1) + [True])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "cryostar_nb.runs.engine.deferred_interrupt",
                lambda: contextlib.nullcontext(lambda: next(answers)),
            )
            with pytest.raises(KeyboardInterrupt, match=f"stopped at step {step} "):
                yield

    return arrange


@pytest.fixture
def corrections_made(monkeypatch):
    """A list that grows by the corrections of every round."""
    made, correct = [], pose_refinement.correct

    def noted(*arguments, **options):
        made.append(correct(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(pose_refinement, "correct", noted)
    return made


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same_poses(first, second):
    first, second = checkpoint(first)["poses"], checkpoint(second)["poses"]
    assert set(first) == {"values", "widths"}
    assert first["values"].any() and torch.equal(first["values"], second["values"])
    assert torch.equal(first["widths"], second["widths"])


@pytest.mark.parametrize(
    ("steps", "rounds"),
    [
        (100, [25, 50, 75]),
        (12_000, [600, 3_000, 6_000, 9_000]),
        (4_800, [1_200, 2_400, 3_600]),
        (2, [1]),
    ],
)
def test_poses_are_corrected_soon_and_at_every_quarter(steps, rounds, helix_nodes, helix_data):
    config = dataclasses.replace(CONFIG, poses="refined", steps=steps)
    network, given = make_network(config, SIZES, helix_nodes, BAND), helix_data.rotations
    density = node_density(helix_nodes, config.sigma)
    poses = pose_refinement.PoseRefinement(
        config, network, density, BAND, given, look=with_looks, of_first=lambda values: values
    )
    assert [step for step in range(steps + 1) if poses.due(step)] == rounds


@pytest.mark.parametrize("encoder_input", ["structure", "image"])
def test_poses_are_corrected_after_each_quarter_of_the_steps(
    encoder_input, train, tmp_path, corrections_made, monkeypatch
):
    steps, refine = [], pose_refinement.PoseRefinement.refine

    def noted(self, data):
        with (tmp_path / "run" / "metrics.csv").open() as handle:
            steps.append(len(list(csv.DictReader(handle))))  # of the steps before
        return refine(self, data)

    monkeypatch.setattr(pose_refinement.PoseRefinement, "refine", noted)
    train(config=dataclasses.replace(REFINED, encoder_input=encoder_input))
    assert steps == [5, 11, 17, 24]
    assert len(corrections_made) == 4
    for before, after in itertools.pairwise(corrections_made):
        assert not torch.equal(before.values, after.values)
        assert not torch.equal(before.widths, after.widths)
    kept = checkpoint(tmp_path / "run")["poses"]
    assert torch.equal(kept["values"], corrections_made[-1].values)
    assert torch.equal(kept["widths"], corrections_made[-1].widths)


def test_poses_that_are_given_are_not_corrected(train, tmp_path, corrections_made):
    train(config=dataclasses.replace(REFINED, poses="given"))
    assert corrections_made == [] and checkpoint(tmp_path / "run")["poses"] is None


def test_what_comes_after_a_round_sees_the_corrected_poses(train, tmp_path, monkeypatch):
    """Images and what the encoder sees: the losses are no longer those of the poses given."""
    train("refined")
    monkeypatch.setattr(pose_refinement.PoseRefinement, "due", lambda self, step: False)
    train("late")
    refined, late = metrics(tmp_path / "refined"), metrics(tmp_path / "late")
    assert refined[:6] == late[:6]
    assert all(a != b for a, b in zip(refined[6:], late[6:], strict=True))


@pytest.mark.parametrize("step", [3, 6, 9, 18, 23])
@pytest.mark.parametrize("encoder_input", ["structure", "image"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    step, encoder_input, train, tmp_path, stop_after
):
    """Also where it stops after the very step of a round."""
    config = dataclasses.replace(REFINED, encoder_input=encoder_input)
    whole = train("whole", config)
    with stop_after(step):
        train("parts", config)
    state = checkpoint(tmp_path / "parts")
    assert state["step"] == step and bool(state["poses"]["values"].any()) == (step >= 6)
    assert_same_weights(train("parts", config, resume=True), whole)
    assert_same_poses(tmp_path / "parts", tmp_path / "whole")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_a_run_that_died_goes_on_from_its_checkpoint_before_a_round(train, tmp_path):
    """The checkpoint of step 16 has the poses of the round of step 12; those of 18 come anew."""
    whole, correct = train("whole"), pose_refinement.correct
    rounds = iter([correct, correct])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pose_refinement, "correct", lambda *a, **o: next(rounds)(*a, **o))
        with pytest.raises(StopIteration):
            train("parts")
    assert checkpoint(tmp_path / "parts")["step"] == 16
    assert_same_weights(train("parts", resume=True), whole)
    assert_same_poses(tmp_path / "parts", tmp_path / "whole")


def test_a_run_that_has_ended_is_given_more_steps(train, tmp_path):
    train()
    longer = dataclasses.replace(REFINED, steps=28)
    train(config=longer, resume=True)
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 29))


# A run folder


@pytest.fixture(scope="module")
def off(tmp_path_factory):
    """A folder with 60 particles in one state, whose poses are told with an error: 3°, and shifts
    that are not those of the images, by 2.5 Å along each axis. A tenth of them are junk.
    """
    folder = tmp_path_factory.mktemp("off")
    faults = Faults(rotation_error=3.0, shift_error=2.0, junk=0.1)
    config = SimulationConfig(n_particles=60, box_size=32, pixel_size=4.0, states=2, snr=2.0)
    simulate(config, start=DATA / "1ake.pdb", end=DATA / "1ake.pdb", out=folder, faults=faults)
    particles = read_particles(folder / "particles.star")
    shifts = torch.from_numpy(np.random.default_rng(1).normal(scale=1.5, size=(60, 2)))
    told = Poses(particles.rotations, shifts, None)
    select_particles(
        folder / "particles.star", folder / "told.star", Choice(indices=":"), poses=told
    )
    return folder


CPU = Hardware("cpu")
SHORT = TrainConfig(steps=12, batch_size=16, low_pass=9.0, log_every=1, learning_rate=1e-4)


@pytest.fixture(scope="module")
def finished(off, tmp_path_factory):
    """The folder of a short run on them."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    start_run(InputFiles(off / "told.star", DATA / "1ake.pdb"), SHORT, folder, hardware=CPU)
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_the_poses_of_a_run_are_nearer_to_the_truth(copy, off):
    score = open_run(copy).evaluate(off / "truth.npz")
    given, refined = score.pose_errors_given, score.pose_errors_refined
    assert given["rotation_error_deg"] > 4 and given["shift_error"] > 2
    assert refined["rotation_error_deg"] < 0.7 * given["rotation_error_deg"]
    assert refined["shift_error"] < 0.7 * given["shift_error"]
    as_new = open_run(copy).evaluate(off / "truth.npz", off / "told.star")
    assert as_new.pose_errors_given == given
    assert as_new.pose_errors_refined["shift_error"] < 0.7 * given["shift_error"]


def test_the_poses_of_a_run_are_the_corrections_after_the_shifts_that_were_given(finished):
    run = open_run(finished)
    poses, particles, state = run.poses, run.particles, checkpoint(finished)["poses"]
    assert poses.rotations.dtype == poses.shifts.dtype == torch.float64
    turns = rotations_from_vectors(state["values"][:, :3].double())
    torch.testing.assert_close(poses.rotations, turns @ particles.rotations)
    centre = run.reference.double().mean(0)
    shown = [(r @ centre)[:, :2] for r in (particles.rotations, poses.rotations)]
    expected = shown[0] + particles.shifts + state["values"][:, 3:]
    torch.testing.assert_close(shown[1] + poses.shifts, expected, atol=1e-4, rtol=0)
    assert particles.shifts.abs().max() > 1
    in_single = corrected(particles.rotations.float(), state["values"], centre.float())
    torch.testing.assert_close(in_single[0].double(), poses.rotations, atol=1e-5, rtol=0)


def test_latents_and_quality_are_found_anew_as_they_were_stored(copy):
    stored = {name: np.load(copy / f"{name}.npy") for name in ("latents", "quality")}
    for name in stored:
        (copy / f"{name}.npy").unlink()
    run = open_run(copy)
    scale = np.abs(stored["latents"]).max()  # training has what the encoder sees at half precision
    np.testing.assert_allclose(run.latents, stored["latents"], atol=2e-3 * scale)
    np.testing.assert_allclose(run.quality, stored["quality"], atol=1e-3)
    assert (copy / "quality.npy").exists() and (copy / "latents.npy").exists()
    (copy / "latents.npy").unlink()
    apart = dataclasses.replace(run, corrections=None).latents - torch.from_numpy(stored["latents"])
    assert apart.abs().max() > 0.05 * scale  # the poses do matter


def test_quality_is_read_where_it_is_stored_and_not_older_than_the_checkpoint(copy):
    np.save(copy / "quality.npy", np.full(60, 0.25))
    assert (open_run(copy).quality == 0.25).all()


def test_the_quality_of_particles_without_a_molecule_is_low(finished, off):
    quality, good = open_run(finished).quality, np.load(off / "truth.npz")["junk"] == 0
    assert quality.shape == (60,) and 0 < (~good).sum() < 30
    assert quality[good].mean() > 0.8 and quality[~good].mean() < 0.3


def test_info_of_a_run_says_how_many_particles_are_good(copy):
    good = int((np.load(copy / "quality.npy") >= 0.5).sum())
    facts = parse(["info", str(copy)]).run()
    assert facts["good_particles"] == good and facts["n_particles"] == 60
    assert f"probably good     {good} of them" in describe(facts)
    (copy / "quality.npy").unlink()
    assert "not known before `analyse`" in describe(parse(["info", str(copy)]).run())
    assert not (copy / "quality.npy").exists()


def test_refined_poses_are_written_and_read_back(finished, off, tmp_path):
    out = tmp_path / "refined.star"
    words = ["select", finished, "--indices", ":", "--poses", "refined", "--out", out]
    parse([*map(str, words)]).run()
    run, again = open_run(finished), read_particles(out, Reading(root=off))
    torch.testing.assert_close(again.rotations, run.poses.rotations, atol=1e-6, rtol=0)
    torch.testing.assert_close(again.shifts, run.poses.shifts, atol=1e-5, rtol=0)
    assert not torch.allclose(again.shifts, run.particles.shifts, atol=0.1)
    # With these poses given, the images are those that the run compared.
    expected = run.latents
    found = dataclasses.replace(run, corrections=None).infer(again)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=5e-3 * scale, rtol=0)


def test_particles_are_chosen_by_the_quality_that_the_run_has(finished, off, tmp_path):
    out, run = tmp_path / "good.star", open_run(finished)
    words = ["select", finished, "--quality", "0.5", "--out", out]
    parse([*map(str, words)]).run()
    kept = run.quality >= 0.5
    assert 0 < kept.sum() < 60
    chosen = read_particles(out, Reading(root=off))
    assert torch.equal(chosen.rotations, run.particles.rotations[kept])


def test_new_particles_get_poses_and_latents_of_their_own(finished, off):
    run = open_run(finished)
    rows = np.arange(6, 30)
    latents, poses = run.refine(run.particles[rows])
    assert torch.equal(run.infer(run.particles[rows]), latents)
    moved = poses.shifts - run.particles.shifts[rows]
    assert moved.abs().max() > 0.5 and len(poses) == len(latents) == 24
    without = dataclasses.replace(run, corrections=None)
    _, given = without.refine(run.particles[rows])
    assert torch.equal(given.rotations, run.particles.rotations[rows])
    assert torch.equal(given.shifts, run.particles.shifts[rows])


def test_a_run_with_poses_as_given_has_no_others(off, tmp_path):
    inputs = InputFiles(off / "told.star", DATA / "1ake.pdb")
    config = dataclasses.replace(SHORT, steps=2, poses="given")
    run = start_run(inputs, config, tmp_path / "run", hardware=CPU)
    assert run.poses is None and run.corrections is None
    assert run.quality.shape == (60,)


@pytest.mark.parametrize("stop", [None, 5, 6])
def test_from_disk_poses_are_those_from_memory(stop, finished, off, tmp_path, stop_after):
    """Also where the run stops before or at a round and goes on."""
    inputs = InputFiles(off / "told.star", DATA / "1ake.pdb")
    tight, folder = Hardware("cpu", memory_gb=1e-6), tmp_path / "disk"
    if stop is not None:
        with stop_after(stop):
            start_run(inputs, SHORT, folder, hardware=tight)
    run = start_run(inputs, SHORT, folder, hardware=tight, resume=stop is not None)
    assert (folder / "looks_refined.f16").stat().st_size == 2 * 60 * run.model.encoder.look_size
    memory = open_run(finished)
    assert_same_weights(run.model, memory.model)
    assert_same_poses(folder, finished)
    assert metrics(folder) == metrics(finished)
    assert torch.equal(run.latents, memory.latents)
    assert np.array_equal(run.quality, memory.quality)


def test_a_run_from_before_there_was_a_choice_is_read_as_it_was_trained(copy):
    values = json.loads((copy / "config.json").read_text())
    for name in NEW:
        del values["train"][name]
    (copy / "config.json").write_text(json.dumps(values))
    train = read_config(copy).train
    assert (train.poses, train.image_loss, train.radial_scale) == ("given", "correlation", False)
    assert (TrainConfig().poses, TrainConfig().image_loss) == ("refined", "likelihood")
    state = checkpoint(copy)
    del state["poses"]
    state["model"] = {k: v for k, v in state["model"].items() if "radial_scale" not in k}
    torch.save(state, copy / "checkpoint.pt")
    run = open_run(copy)
    assert run.poses is None and run.model.radial_scale is None and len(run.latents) == 60


# Several processes

EACH_WITH_ITS_OWN = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from cryostar_nb.config import TrainConfig
from cryostar_nb.runs import pose_refinement
from cryostar_nb.runs.run_config import Hardware, InputFiles
from cryostar_nb.runs.start import start_run
import dataclasses

particles, reference, out = map(Path, sys.argv[1:])
rank, correct = int(os.environ.get("LOCAL_RANK", 0)), pose_refinement.correct
corrected, refine = [], pose_refinement.PoseRefinement.refine

def inexact(*arguments, **options):
    found = correct(*arguments, **options)
    return dataclasses.replace(found, values=found.values + 1e-3 * rank)

def noted(self, data):
    data = refine(self, data)
    corrected.append((data.rotations, data.shifts, self.corrections.widths))
    torch.save(corrected, out.with_name(f"{rank}.pt"))
    return data

pose_refinement.correct = inexact
pose_refinement.PoseRefinement.refine = noted
config = TrainConfig(steps=8, batch_size=16, low_pass=9.0)
start_run(InputFiles(particles, reference), config, out, hardware=Hardware("cpu", devices=2))
"""


@pytest.mark.slow
def test_processes_that_share_a_batch_have_the_same_poses(off, tmp_path):
    """Those of the first one, even if the others find something else in the last digits."""
    (tmp_path / "script.py").write_text(EACH_WITH_ITS_OWN)
    words = [tmp_path / "script.py", off / "told.star", DATA / "1ake.pdb", tmp_path / "run"]
    ours = ("MASTER_", "LOCAL_", "NODE_", "WORLD_", "RANK")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    answer = subprocess.run(
        [sys.executable, *map(str, words)], env=environment, capture_output=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr.decode()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert len(first) == len(second) == 4
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
