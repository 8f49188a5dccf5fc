"""Errors of recorded runs on particles that they have never seen: `book/results/held_out.json`.

    python book/make_held_out.py --work FOLDER [NAME ...]

FOLDER is that of `make paper`, where the run folders are; each NAME is a run of adenylate kinase
there (default: all). For each SNR new particles are simulated: other states, poses, defoci and
noise.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import torch
from paper_runs import ENDS, RESULTS, cryostar
from provenance import provenance_of

from cryostar_nb.evaluation import rmsd_to_truth
from cryostar_nb.io.files import write_json
from cryostar_nb.io.reading import read_particles
from cryostar_nb.runs.folder import open_run

COUNT, SEED = 5_000, 2  # of the new particles; `make paper` has drawn those of the seeds 0 and 1


def new_particles(snr: float, work: Path) -> Path:
    """The folder of new particles of the straight path, made when they are missing."""
    folder = work / "particles" / f"adk_held_out_snr{snr:g}"
    if not (folder / "particles.star").exists():
        common = ["--snr", snr, "--n-particles", COUNT, "--seed", SEED, "--out", folder]
        ends = ["--start", ENDS["closed"], "--end", ENDS["open"]]
        cryostar("simulate", "--overwrite", *ends, *common)
    return folder


@torch.no_grad()
def held_out(run_folder: Path, particles: Path) -> float:
    """Mean RMSD, in Å, of the structures that a run makes of particles that are not its own."""
    run = open_run(run_folder)
    latents = run.infer(read_particles(particles / "particles.star"))
    with np.load(particles / "truth.npz") as truth:
        states, positions = (torch.from_numpy(truth[name]) for name in ("state", "positions"))
    return float(rmsd_to_truth(run.model.decoder, latents, positions.float(), states).mean())


def main() -> None:
    """Measure the runs, and keep what other runs had."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    folders = (arguments.work / "runs").iterdir()
    linear = sorted(f.name for f in folders if re.match("adk_linear_.*_closed_", f.name))
    names = arguments.names or linear
    out = RESULTS / "held_out.json"
    rows = {row["name"]: row for row in json.loads(out.read_text())["runs"]} if out.exists() else {}
    provenance = provenance_of("python book/make_held_out.py --work FOLDER")  # before this writes
    for name in names:
        record = json.loads((RESULTS / f"{name}.json").read_text())
        kept = ("method", "setting", "snr", "seed", "changes", "n_particles", "steps")
        row = {key: record[key] for key in kept}
        row |= {"name": name, "trained_on": record["rmsd_mean"]}
        particles = new_particles(record["snr"], arguments.work)
        row["held_out"] = held_out(arguments.work / "runs" / name, particles)
        errors = f"{row['trained_on']:.3f} Å, on new particles {row['held_out']:.3f} Å"
        print(f"{name}: {errors}", flush=True)
        rows[name] = row
        result = {"runs": [rows[key] for key in sorted(rows)], "particles": COUNT}
        write_json(out, result | provenance)


if __name__ == "__main__":
    main()
