"""One process or many, and a step that is recorded: the losses are the same."""

import contextlib
import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cryostar_nb.config import ModelConfig, TrainConfig
from cryostar_nb.errors import InputError
from cryostar_nb.fast.cuda_graph import CapturedStep
from cryostar_nb.fourier import Band
from cryostar_nb.models import DeformationVAE
from cryostar_nb.runs import machine
from cryostar_nb.runs.config import InputFiles
from cryostar_nb.runs.machine import Hardware, start_fabric
from cryostar_nb.runs.start import start_run
from cryostar_nb.simulation.particles import SimulationConfig, simulate
from cryostar_nb.training import TrainingData, train

ROOT = Path(__file__).parents[2]
BAND = Band(24, 3.0, 9.0)  # that of the fixture helix_data
TINY = ModelConfig(encoder_widths=(32, 16), decoder_widths=(16, 32), latent_dim=2)
CONFIG = TrainConfig(
    steps=30,
    batch_size=8,
    warmup_steps=10,
    log_every=1,
    low_pass=9.0,
    clash_distance=6.0,
    final_elastic_weight=0.1,
)


@pytest.fixture
def nodes(helix_nodes):
    return helix_nodes


@pytest.fixture
def data(helix_data):
    return helix_data


def metrics(folder):
    with (folder / "metrics.csv").open(newline="") as handle:
        return [
            {name: float(value) for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(handle)
        ]


# Several processes


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    """A folder with 96 particles of adenylate kinase."""
    folder = tmp_path_factory.mktemp("particles")
    config = SimulationConfig(n_particles=96, box_size=32, pixel_size=4.0, states=4)
    simulate(
        config, closed=ROOT / "data" / "1ake.pdb", open_=ROOT / "data" / "4ake.pdb", out=folder
    )
    return folder


def command(particles, out, steps, *options):
    """`cryostar-nb train` as a shell would call it, with a global batch of 16."""
    given = [
        particles / "particles.star",
        "--reference",
        ROOT / "data" / "1ake.pdb",
        "--out",
        out,
        "--device",
        "cpu",
    ]
    given += [
        "--steps",
        steps,
        "--batch-size",
        16,
        "--log-every",
        1,
        "--low-pass",
        8.0,
        "--final-elastic-weight",
        0.1,
        *options,
    ]
    return [sys.executable, "-m", "cryostar_nb", "train", *map(str, given)]


def environment():
    """Without what an earlier launch left behind, and with one thread a process."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MASTER_", "LOCAL_", "NODE_", "WORLD_", "RANK"))
    }
    return kept | {"OMP_NUM_THREADS": "1"}


def test_two_processes_give_the_losses_of_one_with_the_same_global_batch(particles, tmp_path):
    for out, options in (
        ("one", []),
        ("two", ["--devices", "2", "--strategy", "ddp", "--cache", tmp_path / "cache"]),
    ):
        done = subprocess.run(
            command(particles, tmp_path / out, 50, *options),
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("trained; now try") == 1
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(one) == len(two) == 50
    for first, second in zip(one, two, strict=True):
        assert second == pytest.approx(first, abs=1e-5)
    assert one[-1]["elastic"] > 0 and one[-1]["kl"] > 0
    assert (tmp_path / "two" / "latents.npy").exists()


def test_processes_stop_after_the_same_step_and_go_on_together(particles, tmp_path):
    out, options = tmp_path / "run", ["--devices", "2"]
    running = subprocess.Popen(
        command(particles, out, 100_000, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    for _ in range(600):
        time.sleep(0.1)
        if (out / "metrics.csv").exists() and (out / "metrics.csv").stat().st_size > 1000:
            break
    running.send_signal(signal.SIGINT)  # to the first process alone
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors.decode()
    step = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    assert f"stopped at step {step} of 100000".encode() in errors
    again = [
        sys.executable,
        "-m",
        "cryostar_nb",
        "train",
        "--resume",
        "--out",
        str(out),
        "--steps",
        str(step + 5),
        *options,
    ]
    done = subprocess.run(
        [*again, "--device", "cpu"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in metrics(out)] == list(range(1, step + 6))


def test_a_batch_that_processes_cannot_share_is_one_line(particles, tmp_path):
    done = subprocess.run(
        command(particles, tmp_path / "run", 5, "--devices", "3"),
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == "cryostar-nb: batch_size = 16 cannot be shared by 3 processes; give a multiple of 3\n"
    )


# More particles than memory may hold


def test_a_run_from_disk_stops_and_resumes_as_one_from_disk(particles, tmp_path, capsys):
    """The limit of memory holds for the whole run: the second part comes with another one, and takes the first one's order."""
    inputs = InputFiles(particles / "particles.star", ROOT / "data" / "1ake.pdb")
    config = dataclasses.replace(CONFIG, steps=20, low_pass=8.0, clash_distance=4.0)
    tight, looser = Hardware("cpu", memory_gb=4e-5), Hardware("cpu", memory_gb=8e-5)
    whole = start_run(inputs, config, tmp_path / "whole", hardware=tight)
    assert (
        "96 particles (0.000136 GB) are more than memory may hold; they are read from"
        in capsys.readouterr().out
    )
    assert (tmp_path / "whole" / "vectors.f16").stat().st_size == 96 * whole.band.size * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "cryostar_nb.training.deferred_interrupt",
            lambda: contextlib.nullcontext(iter([False] * 11 + [True]).__next__),
        )
        with pytest.raises(KeyboardInterrupt, match="stopped at step 11 of 20"):
            start_run(inputs, config, tmp_path / "parts", hardware=tight)
    start_run(inputs, config, tmp_path / "parts", hardware=looser, resume=True)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    start_run(inputs, config, tmp_path / "memory", hardware=Hardware("cpu"))
    assert not (tmp_path / "memory" / "vectors.f16").exists()
    assert metrics(tmp_path / "memory") != metrics(tmp_path / "whole")  # whose order is by windows


# Precision and devices


def test_half_precision_reaches_the_encoder_and_nothing_else(data, nodes, tmp_path):
    seen = {}

    def note(name):
        def hook(module, given, made):
            seen[name] = made.dtype

        return hook

    fabric = start_fabric(Hardware("cpu", precision="bf16-mixed"))
    network = DeformationVAE(BAND.size, torch.from_numpy(nodes.positions).float(), TINY)
    network.encoder.layers[0].register_forward_hook(note("encoder"))
    network.decoder.layers[0].register_forward_hook(note("decoder"))
    network.decoder.register_forward_hook(note("positions"))
    fabric.setup(network)(data.vectors[:8], torch.zeros(8, 2))
    assert seen == {"encoder": torch.bfloat16, "decoder": torch.float32, "positions": torch.float32}
    train(CONFIG, data, nodes, BAND, tmp_path, model_config=TINY, fabric=fabric)
    assert metrics(tmp_path)[-1]["loss"] < metrics(tmp_path)[0]["loss"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"devices": 0}, "devices = 0; give a positive number"),
        ({"num_nodes": -1}, "num_nodes = -1; give a positive number"),
        ({"device": "gpu"}, "device = gpu: not usable here"),
    ],
)
def test_impossible_hardware_is_refused(given, message, tmp_path):
    hardware = Hardware(**{"device": "cpu"} | given)
    with pytest.raises(InputError, match=message):
        start_fabric(hardware)
    with pytest.raises(InputError, match=message):  # before anything is read
        start_run(
            InputFiles(tmp_path / "none.star", tmp_path / "none.pdb"),
            CONFIG,
            tmp_path / "run",
            hardware=hardware,
        )


# A recorded step


@pytest.fixture
def pretend_recording(monkeypatch):
    """Record and replay on the CPU: the same calls as on a GPU, with a graph that runs the step anew."""
    made = []

    class Graph:
        def replay(self):
            recorded = made[-1]
            for name, value in self.step(*recorded.inputs).items():
                recorded.outputs[name].copy_(value)

    class Recorder(CapturedStep):
        def __init__(self, step, *rest):
            made.append(self)
            Graph.step = staticmethod(step)
            super().__init__(step, *rest)

    class Stream:
        def wait_stream(self, other):
            pass

    for name, stand_in in {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": Graph,
        "graph": lambda graph: contextlib.nullcontext(),
    }.items():
        monkeypatch.setattr(machine.torch.cuda, name, stand_in)
    monkeypatch.setattr("cryostar_nb.training.can_capture", lambda fabric: True)
    monkeypatch.setattr("cryostar_nb.training.CapturedStep", Recorder)
    return made


def test_a_recorded_step_trains_as_the_step_itself(
    data, nodes, tmp_path, pretend_recording, monkeypatch
):
    for folder in ("recorded", "plain"):
        (tmp_path / folder).mkdir()
        recorded = train(CONFIG, data, nodes, BAND, tmp_path / folder, model_config=TINY)
        monkeypatch.setattr("cryostar_nb.training.can_capture", lambda fabric: False)
        assert len(pretend_recording) == 1
    assert metrics(tmp_path / "recorded") == metrics(tmp_path / "plain")
    state = torch.load(tmp_path / "plain" / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(value, state[name]) for name, value in recorded.state_dict().items())


def test_a_recorded_run_resumes_as_if_it_had_not_been_stopped(
    data, nodes, tmp_path, pretend_recording
):
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    train(CONFIG, data, nodes, BAND, tmp_path / "whole", model_config=TINY)
    half = dataclasses.replace(CONFIG, checkpoint_every=15)

    def stop(*_):
        raise RuntimeError("in the middle of a step")

    calls, original = [], Band.per_coefficient
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Band,
            "per_coefficient",
            lambda self, values: (
                stop() if len(calls) > 24 else calls.append(1) or original(self, values)
            ),
        )
        with pytest.raises(RuntimeError, match="in the middle of a step"):
            train(half, data, nodes, BAND, tmp_path / "parts", model_config=TINY)
    train(half, data, nodes, BAND, tmp_path / "parts", model_config=TINY, resume=True)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert len(pretend_recording) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_recorded_run_gives_the_losses_of_a_plain_one(
    data, nodes, tmp_path, monkeypatch
):
    moved = TrainingData(data.vectors.cuda(), data.rotations.cuda(), ctf=None)
    for folder in ("recorded", "plain"):
        (tmp_path / folder).mkdir()
        train(CONFIG, moved, nodes, BAND, tmp_path / folder, model_config=TINY)
        monkeypatch.setattr("cryostar_nb.training.can_capture", lambda fabric: False)
    for recorded, plain in zip(
        metrics(tmp_path / "recorded"), metrics(tmp_path / "plain"), strict=True
    ):
        assert recorded == pytest.approx(plain, rel=1e-3)
