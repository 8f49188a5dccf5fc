"""Time of a training step with this version and with an earlier one, in turn in one run.

    python benchmarks/versions.py --before PATH

PATH is a checkout of the earlier version (`git worktree add PATH COMMIT`). Each training runs in a
process of its own, from the same structures and on the same noise for particles: adenylate kinase,
RuvB, and a synthetic complex of 13,936 residues with eight atoms each. The step is that of
`run_training()`, from its own log; its first stretch does not count. A first process of each kind
compiles and does not count either. Writes results/versions.json and versions.md.
"""

import csv
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PRESETS = ("standard", "paper")
STRETCHES = 3  # that count in each process


def worker(preset: str, structure: str, box_size: int, pixel_size: float, span: int) -> None:
    """Print the milliseconds of a step over stretches of `span` steps, by whatever is imported."""
    import dataclasses

    import numpy as np
    import torch

    from cryostar_nb.config import PRESETS as presets
    from cryostar_nb.ctf import ctf_terms
    from cryostar_nb.density import make_density
    from cryostar_nb.fourier import Band
    from cryostar_nb.io.structures import read_atoms_and_nodes
    from cryostar_nb.runs.engine import run_training
    from cryostar_nb.simulation.options import SimulationConfig
    from cryostar_nb.simulation.particles import draw_poses
    from cryostar_nb.training import TrainingData

    torch.manual_seed(0)
    band, steps = Band(box_size, pixel_size, 4 * pixel_size), (STRETCHES + 1) * span
    atoms, nodes = read_atoms_and_nodes(Path(structure))
    changes = {"steps": steps, "log_every": span, "low_pass": band.resolution}
    if hasattr(presets[preset], "poses"):  # no round of corrections, which are few in a training
        changes["poses"] = "given"
    config = dataclasses.replace(presets[preset], **changes)
    drawn = draw_poses(SimulationConfig(n_particles=2048), np.random.default_rng(0))
    terms = ctf_terms(drawn.ctf.to(torch.float32))
    vectors = torch.randn(2048, band.size).half()
    data = TrainingData(vectors, drawn.rotations.float(), terms)
    density = make_density(config, atoms, nodes)
    with tempfile.TemporaryDirectory() as folder:
        run_training(config, data, nodes, band, Path(folder), density=density)
        with (Path(folder) / "metrics.csv").open(newline="") as handle:
            seconds = [float(row["seconds"]) for row in csv.DictReader(handle)]
    print(*(1e3 * (b - a) / span for a, b in itertools.pairwise(seconds)), len(density.amplitudes))


def step_times(tree: Path, *words: object) -> tuple[list[float], int]:
    """Milliseconds of each stretch, and the number of Gaussians, with the version in a folder."""
    command = [sys.executable, __file__, "worker", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, cwd=tree
    )
    *times, gaussians = done.stdout.split()
    return [float(time) for time in times], int(gaussians)


def measure(trees: dict[str, Path], rounds: int) -> list[dict[str, Any]]:
    """An entry for each molecule, preset and version; all versions and presets in turn."""
    from common import KINASE, RUVB, quarter_band, synthetic_structure

    from cryostar_nb.io.structures import read_nodes, write_structure

    entries, kinds = [], list(itertools.product(PRESETS, trees))
    with tempfile.TemporaryDirectory() as folder:
        complex_file = Path(folder) / "complex.cif"
        write_structure(complex_file, synthetic_structure(13_936))
        for path, span in ((KINASE, 50), (RUVB, 8), (complex_file, 3)):
            nodes = read_nodes(path)
            band = quarter_band(nodes, 128)
            times: dict[Any, list[float]] = {kind: [] for kind in kinds}
            gaussians: dict[Any, int] = {}
            for turn in range(rounds + 1):
                for kind in kinds:
                    words = (kind[0], path, band.box_size, band.pixel_size, span if turn else 1)
                    took, gaussians[kind] = step_times(trees[kind[1]], *words)
                    times[kind] += took if turn else []
            for kind in kinds:
                entry = {"nodes": len(nodes), "preset": kind[0], "version": kind[1]}
                entry |= {"gaussians": gaussians[kind], "step": statistics.median(times[kind])}
                entries.append(entry | {"all": times[kind]})
                print(entry, flush=True)
    return entries


def main(before: Path, rounds: int = 3) -> None:
    """Fill the table; `before` is a checkout of the earlier version."""
    from common import HERE, RESULTS, figures, machine, machine_line, table

    from cryostar_nb.io.files import write_json, write_text

    here = machine()
    entries = measure({"before": before.resolve(), "now": HERE.parent}, rounds)
    rows = []
    for count in sorted({entry["nodes"] for entry in entries}):
        of = {(e["preset"], e["version"]): e for e in entries if e["nodes"] == count}
        was = of["paper", "before"]["step"]
        for preset in PRESETS:
            old, new = of[preset, "before"], of[preset, "now"]
            ratios = (new["step"] / old["step"], new["step"] / was)
            counts = (f"{version['gaussians']:,}" for version in (old, new))
            times = (figures(version["step"]) for version in (old, new))
            rows.append(
                [f"{count:,}", preset, *counts, *times, *(figures(ratio, 2) for ratio in ratios)]
            )
    head = ["N", "preset", "Gaussians before", "now", "step before", "now"]
    head += ["now / before", "now / `paper` before"]
    text = f"{machine_line(here)} Batch 64, 128 × 128 pixels; milliseconds.\n\n" + table(head, rows)
    write_json(RESULTS / "versions.json", {"machine": here, "entries": entries})
    write_text(RESULTS / "versions.md", text)
    print("\n" + text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        _, _, preset, structure, *sizes = sys.argv
        worker(preset, structure, int(sizes[0]), float(sizes[1]), int(sizes[2]))
    else:
        import tyro

        tyro.cli(main)
