"""One process or many, memory or disk, and a step that is recorded: the losses are the same."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from refusals import refused
from tiny import BAND, CONFIG, SIZES, assert_same_weights, metrics

from cryostar_nb.config import PRESETS
from cryostar_nb.ctf import ctf_terms
from cryostar_nb.encoders import StructureEncoder
from cryostar_nb.fast.cuda_graph import RecordedStep
from cryostar_nb.models import make_network
from cryostar_nb.runs.engine import run_training
from cryostar_nb.runs.machine import check_hardware, deferred_interrupt, start_fabric
from cryostar_nb.runs.run_config import Hardware, InputFiles
from cryostar_nb.runs.start import start_run
from cryostar_nb.training import TrainingData

REFERENCE = Path(__file__).parents[2] / "data" / "1ake.pdb"
SHORT = dataclasses.replace(CONFIG, steps=30, clash_distance=6.0)


@pytest.fixture
def run(helix_data, helix_nodes, tmp_path):
    """Train the tiny network in a folder of this name."""

    def training(folder, config=SHORT, data=helix_data, **options):
        out = tmp_path / folder
        out.mkdir(exist_ok=True)
        return run_training(config, data, helix_nodes, BAND, out, model_config=SIZES, **options)

    return training


@pytest.fixture
def data_with_ctf(helix_data, microscope):
    """The particles with CTFs that their images do not have: only the bits matter here."""
    ctf = ctf_terms(microscope(defocus_u=torch.linspace(5_000.0, 20_000.0, 40)).to(torch.float32))
    return dataclasses.replace(helix_data, ctf=ctf)


# Several processes


def call(*words):
    """Start `cryostar-nb` as a shell would, with one thread a process.

    It gets nothing of what an earlier launch left in the environment.
    """
    ours = ("MASTER_", "LOCAL_", "NODE_", "WORLD_", "RANK")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.Popen(
        [sys.executable, "-m", "cryostar_nb", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )


def train_words(particles, out, steps, *options):
    """A training with a global batch of 16."""
    files = ["train", particles / "particles.star", "--reference", REFERENCE, "--out", out]
    settings = ["--device", "cpu", "--steps", steps, "--batch-size", 16, "--log-every", 1]
    return [*files, *settings, "--low-pass", 8.0, "--final-elastic-weight", 0.1, *options]


def finish(process):
    """What a process wrote, once it has ended well."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_with_the_same_global_batch(particles, tmp_path):
    two_processes = ["--devices", "2", "--strategy", "ddp", "--cache", tmp_path / "cache"]
    for words in (
        train_words(particles, tmp_path / "one", 30),
        train_words(particles, tmp_path / "two", 30, *two_processes),
    ):
        assert finish(call(*words)).count("trained; now try") == 1
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(one) == len(two) == 30
    for first, second in zip(one, two, strict=True):
        assert second == pytest.approx(first, abs=1e-5, rel=1e-3)
    assert one[-1]["elastic"] > 0 and one[-1]["kl"] > 0
    assert (tmp_path / "two" / "latents.npy").exists()
    poses = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["poses"]["values"]
        for name in ("one", "two")
    ]
    torch.testing.assert_close(*poses, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_processes_stop_after_the_same_step_and_go_on_together(particles, tmp_path):
    out, options = tmp_path / "run", ["--devices", "2"]
    process = call(*train_words(particles, out, 100_000, *options))
    for _ in range(600):
        time.sleep(0.1)
        if (out / "metrics.csv").exists() and (out / "metrics.csv").stat().st_size > 1000:
            break
    process.send_signal(signal.SIGINT)  # to the first process alone
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    step = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    assert f"stopped at step {step} of 100000" in errors
    more = ["train", "--resume", "--out", out, "--steps", step + 5, "--device", "cpu", *options]
    finish(call(*more))
    assert [line["step"] for line in metrics(out)] == list(range(1, step + 6))


@pytest.mark.slow
def test_a_batch_that_processes_cannot_share_is_one_line(particles, tmp_path):
    process = call(*train_words(particles, tmp_path / "run", 5, "--devices", "3"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith("cryostar-nb: batch_size = 16") and errors.count("\n") == 1


# More particles than memory may hold


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_from_disk_is_the_run_from_memory_even_when_it_is_stopped(
    preset, particles, tmp_path
):
    inputs = InputFiles(particles / "particles.star", REFERENCE)
    small = {"batch_size": 16, "log_every": 1, "checkpoint_every": 1000}
    config = dataclasses.replace(PRESETS[preset], steps=20, low_pass=8.0, **small)
    tight, looser = Hardware("cpu", memory_gb=4e-5), Hardware("cpu", memory_gb=8e-5)
    run = start_run(inputs, config, tmp_path / "memory", hardware=Hardware("cpu"))
    assert not (tmp_path / "memory" / "vectors.f16").exists()
    start_run(inputs, config, tmp_path / "disk", hardware=tight)
    assert (tmp_path / "disk" / "vectors.f16").stat().st_size == 96 * run.band.size * 2
    assert (tmp_path / "disk" / "looks.f16").exists() == (preset == "standard")
    with pytest.MonkeyPatch.context() as patch:
        answers = iter([False] * 10 + [True])
        patch.setattr(
            "cryostar_nb.runs.engine.deferred_interrupt",
            lambda: contextlib.nullcontext(lambda: next(answers)),
        )
        with pytest.raises(KeyboardInterrupt, match="stopped at step 11 of 20"):
            start_run(inputs, config, tmp_path / "parts", hardware=tight)
    start_run(inputs, config, tmp_path / "parts", hardware=looser, resume=True)
    assert metrics(tmp_path / "disk") == metrics(tmp_path / "memory")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "memory")


# Ctrl-C


def test_ctrl_c_waits_and_the_handler_before_it_comes_back():
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_signals_are_left_alone():
    before, answers = signal.getsignal(signal.SIGINT), []

    def work():
        with deferred_interrupt() as interrupted:
            answers.append((interrupted(), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [(False, True)]


# Precision and devices


@pytest.mark.parametrize("encoder_input", ["image", "structure"])
def test_half_precision_reaches_the_layers_of_the_encoder_and_nothing_else(
    encoder_input, data_with_ctf, helix_nodes, run, tmp_path, monkeypatch
):
    dtypes, look = {}, StructureEncoder.look

    def note(name):
        def hook(module, inputs, output):
            dtypes[name] = output.dtype

        return hook

    def noted_look(encoder, images, rotations, ctf, shifts):
        assert shifts is None
        dtypes.update(images=images.dtype, rotations=rotations.dtype, ctf=ctf.dtype)
        numbers = look(encoder, images, rotations, ctf, shifts)
        dtypes["numbers"] = numbers.dtype
        return numbers

    monkeypatch.setattr(StructureEncoder, "look", noted_look)
    config = dataclasses.replace(SHORT, encoder_input=encoder_input)
    fabric = start_fabric(Hardware("cpu", precision="bf16-mixed"))
    network = make_network(config, SIZES, helix_nodes, BAND)
    network.encoder.layers[0].register_forward_hook(note("encoder"))
    network.decoder.layers[0].register_forward_hook(note("decoder"))
    (batch,) = data_with_ctf.split(40)
    deformation, *_ = fabric.setup(network)(network.encoder.look(*batch), torch.zeros(40, 2))
    dtypes["positions"] = deformation.positions.dtype
    assert dtypes.pop("encoder") == torch.bfloat16
    assert len(dtypes) == (6 if encoder_input == "structure" else 2)
    assert set(dtypes.values()) == {torch.float32}
    run("half", config, data_with_ctf, fabric=fabric)
    lines = metrics(tmp_path / "half")
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize(
    ("given", "value"), [({"device": "gpu"}, "gpu"), ({"device": "cpu:0", "devices": 2}, "cpu:0")]
)
def test_hardware_that_is_not_there_is_refused_before_anything_is_read(given, value, tmp_path):
    hardware = Hardware(**given)
    inputs = InputFiles(tmp_path / "none.star", tmp_path / "none.pdb")
    for start in (
        lambda: check_hardware(hardware),
        lambda: start_fabric(hardware),
        lambda: start_run(inputs, SHORT, tmp_path / "run", hardware=hardware),
    ):
        with refused(value=value):
            start()


# A recorded step


@pytest.fixture
def pretend_recording(monkeypatch):
    """Record and replay on the CPU: the calls of a GPU, and a graph that runs the step anew.

    Lists the steps that were recorded.
    """
    recorded, real = [], torch.cuda.CUDAGraph

    class Graph:
        __class__ = property(lambda self: real)  # for the checks of types

        def replay(self):
            step = recorded[-1]
            for name, value in step.step(*step.inputs).items():
                step.outputs[name].copy_(value)

    class Recorder(RecordedStep):
        def __init__(self, *arguments):
            recorded.append(self)
            super().__init__(*arguments)

    class Stream:
        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())
    monkeypatch.setattr("cryostar_nb.runs.engine.can_capture", lambda fabric: True)
    monkeypatch.setattr("cryostar_nb.runs.engine.RecordedStep", Recorder)
    return recorded


@pytest.mark.parametrize("data", ["helix_data", "data_with_ctf"])
@pytest.mark.parametrize("encoder_input", ["image", "structure"])
def test_a_recorded_step_trains_as_the_step_itself(
    data, encoder_input, request, run, tmp_path, pretend_recording, monkeypatch
):
    config = dataclasses.replace(SHORT, encoder_input=encoder_input)
    data = request.getfixturevalue(data)
    recorded = run("recorded", config, data)
    monkeypatch.setattr("cryostar_nb.runs.engine.can_capture", lambda fabric: False)
    assert_same_weights(recorded, run("plain", config, data))
    assert len(pretend_recording) == 1
    assert metrics(tmp_path / "recorded") == metrics(tmp_path / "plain")


def test_recording_leaves_no_trace_where_poses_and_amplitudes_are_learned(
    data_with_ctf, run, tmp_path, pretend_recording, monkeypatch
):
    """It runs the step a few times, which learn the amplitudes of the images, too."""
    config = dataclasses.replace(
        SHORT,
        encoder_input="structure",
        poses="refined",
        image_loss="likelihood",
        radial_scale=True,
    )
    recorded = run("recorded", config, data_with_ctf)
    monkeypatch.setattr("cryostar_nb.runs.engine.can_capture", lambda fabric: False)
    assert_same_weights(recorded, run("plain", config, data_with_ctf))
    assert len(pretend_recording) == 1 and "radial_scale.power" in recorded.state_dict()
    assert metrics(tmp_path / "recorded") == metrics(tmp_path / "plain")
    poses = [torch.load(tmp_path / n / "checkpoint.pt")["poses"] for n in ("recorded", "plain")]
    assert poses[0]["values"].any() and torch.equal(poses[0]["values"], poses[1]["values"])


def test_a_recorded_run_resumes_as_if_it_had_not_been_stopped(run, tmp_path, pretend_recording):
    half = dataclasses.replace(SHORT, checkpoint_every=15)
    run("whole", half)
    replay, calls = torch.cuda.CUDAGraph.replay, []

    def stop_at_20(graph):
        calls.append(graph)
        if len(calls) == 20:
            raise RuntimeError("in the middle of a step")
        replay(graph)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.CUDAGraph, "replay", stop_at_20)
        with pytest.raises(RuntimeError, match="in the middle of a step"):
            run("parts", half)
    run("parts", half, resume=True)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert len(pretend_recording) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("encoder_input", ["image", "structure"])
def test_on_a_gpu_a_recorded_run_gives_the_losses_of_a_plain_one(
    encoder_input, data_with_ctf, run, tmp_path, monkeypatch
):
    config = dataclasses.replace(SHORT, encoder_input=encoder_input)
    data = TrainingData(
        data_with_ctf.vectors.cuda(), data_with_ctf.rotations.cuda(), data_with_ctf.ctf.cuda()
    )
    run("recorded", config, data)
    monkeypatch.setattr("cryostar_nb.runs.engine.can_capture", lambda fabric: False)
    run("plain", config, data)
    lines = zip(metrics(tmp_path / "recorded"), metrics(tmp_path / "plain"), strict=True)
    for recorded, plain in lines:
        assert recorded == pytest.approx(plain, rel=1e-3)
