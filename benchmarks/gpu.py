"""What a GPU shows: tests, kernels against float64, times of a step, and whole trainings.

    bash benchmarks/gpu.sh [--rehearse]

* The tests that need a GPU, and those of its kernels.
* Each kernel on fresh inputs against the same sums in float64, written out or exact.
* The step at N = 214 and N = 13,936 with both presets: launched kernel by kernel (eager), as a
  recorded graph, and recorded with the encoder at half precision (bf16-mixed).
* Adenylate kinase, 50,000 particles and 12,000 steps, with both presets: the time and the error.

Every part is written to `results/gpu.json` and `gpu.md` as soon as it is there, and one that fails
says so in its place. `--rehearse` does all of it on a CPU, with few particles and steps and the
kernels in Triton's interpreter, and writes `gpu_rehearsal.*`.
"""

import contextlib
import dataclasses
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import tyro

if not torch.cuda.is_available() or "--rehearse" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are first imported

from common import (
    HERE,
    KINASE,
    RESULTS,
    figures,
    machine,
    machine_line,
    molecule,
    quarter_band,
    table,
)
from step import train_times
from step import training_data as noise_particles
from torch import Tensor

from cryostar_nb.config import PRESETS
from cryostar_nb.density import atom_density, make_density
from cryostar_nb.fast import dispatch
from cryostar_nb.fast.carry import carry
from cryostar_nb.fast.pairs import clash_sums
from cryostar_nb.fourier import Band
from cryostar_nb.io.files import write_json, write_text
from cryostar_nb.io.structures import read_atoms_and_nodes
from cryostar_nb.projector import project_band
from cryostar_nb.runs.engine import start_fabric
from cryostar_nb.runs.run_config import Hardware, InputFiles
from cryostar_nb.runs.start import start_run
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import simulate

TESTS = ("tests/fast/test_gpu.py", "tests/io/test_batches.py", "tests/runs/test_machine.py")
BARS = {  # ms a step, and s for a whole training
    ("paper", 214): 1.0,
    ("standard", 214): 1.5,
    ("paper", 13_936): 12.0,
    "training": 20.0,
}
LARGEST_ERROR = 1e-4  # of a kernel, relative in norm


def run_tests(device: str, rehearse: bool) -> dict[str, Any]:
    """The tests of the kernels and those that need a GPU; how many passed, failed, were skipped."""
    chosen = [] if rehearse else ["-k", "gpu or recorded"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen, *TESTS[:2]]
    done = subprocess.run(
        [*command, TESTS[2]], cwd=HERE.parent, capture_output=True, text=True, timeout=200
    )
    last = (done.stdout.strip().splitlines() or [done.stderr])[-1]
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (\w+)", last)}
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return {"counts": counts, "code": done.returncode, "failed": failed, "last": last}


def relative(found: Tensor, expected: Tensor) -> float:
    """Error relative in norm."""
    return float((found.detach().double().cpu() - expected).norm() / expected.norm())


def check_kernels(device: str, rehearse: bool) -> list[dict[str, Any]]:
    """Relative errors of images, clashes and centres, and of their gradients, on fresh inputs."""
    seed = torch.seed() % 2**32
    torch.manual_seed(seed)
    atoms, nodes = read_atoms_and_nodes(KINASE)
    density, band = atom_density(atoms, 0.8), Band(128, 1.0, 4.0)
    images, few = (2, 120) if rehearse else (32, len(atoms))
    centres = torch.from_numpy(atoms.positions)[:few] + torch.randn(images, few, 3).double()
    of_images = torch.randn(images, band.size, dtype=torch.float64)
    positions = (
        torch.from_numpy(nodes.positions) + 1.5 * torch.randn(images, len(nodes), 3).double()
    )
    carried = density.carried
    assert carried is not None

    def image_sum(x: Tensor, exact: bool) -> Tensor:
        method = "exact" if exact else "spread"
        of_atoms, width = density.amplitudes[:few].to(x), density.sigma.to(x.device)
        made = project_band(x, of_atoms, width.to(x), band, method=method)
        return (made * of_images.to(x)).sum(-1)

    def clash_sum(x: Tensor, exact: bool) -> Tensor:
        bonded = torch.ones(len(nodes), dtype=torch.bool, device=x.device)
        if not exact:
            return clash_sums(x.permute(1, 2, 0), bonded, 4.0)[0]
        first, second = torch.triu_indices(len(nodes), len(nodes), offset=2)
        apart = (x[:, first] - x[:, second]).norm(dim=-1)
        return (4.0 - apart).clamp(min=0).square().sum(-1)

    def centre_sum(x: Tensor, exact: bool) -> Tensor:
        offsets = carried.offsets.to(x)
        indices = [t.to(x.device) for t in (carried.frame_nodes, carried.framed, carried.node_of)]
        made = carry(x, *indices[:2], offsets, indices[2], loops=not exact)
        return (made * made.roll(1, 1)).sum((1, 2))

    sums: dict[str, tuple[Callable[[Tensor, bool], Tensor], Tensor]] = {
        "projection of atoms": (image_sum, centres),
        "clashes": (clash_sum, positions),
        "atoms carried by nodes": (centre_sum, positions),
    }
    rows = []
    for name, (function, x) in sums.items():
        exact = x.clone().requires_grad_()
        expected = function(exact, True)
        expected.sum().backward()
        leaf = x.float().to(device).requires_grad_()
        forced = mock.patch.object(dispatch, "uses_gpu", lambda _: True)
        with forced if rehearse and name != "atoms carried by nodes" else contextlib.nullcontext():
            found = function(leaf, False)
            found.sum().backward()
        assert leaf.grad is not None and exact.grad is not None
        value = relative(found, expected.detach())
        gradient = relative(leaf.grad, exact.grad)
        good = max(value, gradient) < LARGEST_ERROR
        rows.append({"kernel": name, "value": value, "gradient": gradient, "good": good})
    return [row | {"seed": seed} for row in rows]


def time_steps(device: str, rehearse: bool) -> list[dict[str, Any]]:
    """Milliseconds of a step in the three ways of taking it."""
    ways = {"eager": ("32-true", False), "graph": ("32-true", True), "bf16": ("bf16-mixed", True)}
    if rehearse:  # a graph takes a GPU
        ways = {"eager": ("32-true", False), "bf16": ("bf16-mixed", False)}
    entries = []
    for count in (214, 1948 if rehearse else 13_936):
        atoms, nodes = molecule(count)
        band = quarter_band(nodes, 64 if rehearse else 128)
        data = noise_particles(band, device)
        for preset in PRESETS:
            config = dataclasses.replace(PRESETS[preset], low_pass=band.resolution)
            density = make_density(config, atoms, nodes)
            entry: dict[str, Any] = {"nodes": count, "preset": preset}
            entry["gaussians"] = len(density.amplitudes)
            for way, (precision, recorded) in ways.items():
                fabric = start_fabric(Hardware(device=device, precision=precision))
                with mock.patch(
                    "cryostar_nb.runs.engine.can_capture", lambda _, graph=recorded: graph
                ):
                    span = 2 if rehearse else 100
                    times = train_times(config, data, nodes, density, band, span, fabric=fabric)
                entry[way] = statistics.median(times)
            entries.append(entry)
    return entries


def train_kinase(device: str, rehearse: bool) -> list[dict[str, Any]]:
    """The paper's experiment with both presets: seconds of training and of all, and the error."""
    entries = []
    with tempfile.TemporaryDirectory() as folder:
        work, config = Path(folder), SimulationConfig(n_particles=600 if rehearse else 50_000)
        began = time.perf_counter()
        simulate(config, start=KINASE, end=KINASE.with_name("4ake.pdb"), out=work)
        simulated = time.perf_counter() - began
        inputs = InputFiles(work / "particles.star", KINASE)
        for preset in PRESETS:
            steps = 20 if rehearse else PRESETS[preset].steps
            settings = dataclasses.replace(PRESETS[preset], steps=steps)
            began = time.perf_counter()
            run = start_run(inputs, settings, work / preset, hardware=Hardware(device=device))
            whole = time.perf_counter() - began
            assert run is not None
            score = run.evaluate(work / "truth.npz")
            entries.append(
                {
                    "preset": preset,
                    "particles": config.n_particles,
                    "steps": steps,
                    "simulation": simulated,
                    "training": run.metrics["seconds"][-1],
                    "whole": whole,
                    "error": score.rmsd_mean,
                    "error_open": score.rmsd_most_open,
                }
            )
    return entries


def report(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    text = machine_line(result["machine"]) + f" Triton {result['triton']}.\n\n"
    if result["rehearsal"]:
        text += "A rehearsal on a CPU: its times say nothing about a GPU.\n\n"
    for name, value in result.items():
        if isinstance(value, dict) and "error" in value:
            text += f"**{name} failed**\n\n```\n{value['error']}```\n\n"
    if "last" in result.get("tests", {}):
        text += f"Tests of the kernels and on the GPU: {result['tests']['last'].strip('= ')}\n\n"
        text += "".join(f"* {line}\n" for line in result["tests"]["failed"]) + "\n"
    if isinstance(result.get("kernels"), list):
        rows = [
            [row["kernel"], f"{row['value']:.1e}", f"{row['gradient']:.1e}", str(row["good"])]
            for row in result["kernels"]
        ]
        text += f"Kernels against float64, relative in norm (bar {LARGEST_ERROR:g}):\n\n"
        text += table(["kernel", "value", "gradient", "within the bar"], rows) + "\n"
    if isinstance(result.get("steps"), list):
        ways = [way for way in ("eager", "graph", "bf16") if way in result["steps"][0]]
        rows = []
        for e in result["steps"]:
            times = [figures(e[way]) for way in ways]
            bar = figures(BARS.get((e["preset"], e["nodes"])))
            rows.append([e["preset"], f"{e['nodes']:,}", f"{e['gaussians']:,}", *times, bar])
        text += "A step, batch 64, in ms:\n\n"
        text += table(["preset", "N", "Gaussians", *ways, "bar"], rows) + "\n"
    if isinstance(result.get("trainings"), list):
        rows = []
        for e in result["trainings"]:
            seconds = [figures(e[name]) for name in ("simulation", "training", "whole")]
            errors = [f"{e[name]:.3f}" for name in ("error", "error_open")]
            rows.append([e["preset"], f"{e['particles']:,}", f"{e['steps']:,}", *seconds, *errors])
        text += "Adenylate kinase to the end, in s and Å "
        text += f"(bar for the training with `paper`: {BARS['training']:g} s):\n\n"
        head = [
            "preset",
            "particles",
            "steps",
            "simulation",
            "training",
            "with reading and latents",
        ]
        text += table([*head, "error", "most open"], rows)
    return text


def main(rehearse: bool = False) -> None:
    """Run every part and write the results."""
    if not rehearse and not torch.cuda.is_available():
        sys.exit("there is no GPU that PyTorch sees; --rehearse runs all of it on the CPU")
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = "missing"
    device = "cpu" if rehearse else "cuda"
    result: dict[str, Any] = {"rehearsal": rehearse, "machine": machine(device), "triton": version}
    parts = {
        "kernels": check_kernels,
        "steps": time_steps,
        "trainings": train_kinase,
        "tests": run_tests,
    }
    name = "gpu_rehearsal" if rehearse else "gpu"
    RESULTS.mkdir(exist_ok=True)
    for part, function in parts.items():
        began = time.perf_counter()
        try:
            result[part] = function(device, rehearse)
        except Exception:
            result[part] = {"error": traceback.format_exc()}
        result.setdefault("seconds", {})[part] = round(time.perf_counter() - began, 1)
        print(f"{part}: {result['seconds'][part]:g} s", flush=True)
        write_json(RESULTS / f"{name}.json", result)
        write_text(RESULTS / f"{name}.md", report(result))
    print("\n" + report(result))
    broken = [part for part in parts if isinstance(result[part], dict) and "error" in result[part]]
    if broken or result["tests"]["code"] or not all(row["good"] for row in result["kernels"]):
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
