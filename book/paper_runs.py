"""The paper's experiments on adenylate kinase, run and kept as data: `make paper`.

    python book/paper_runs.py --work FOLDER [--only PATTERN] [--list]

Every run is a simulation (made once), a training and an evaluation, and ends as `book/results/NAME.json`. A run whose result exists is
not made again; one that was interrupted goes on from its checkpoint. All of them take hours on two cores.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from provenance import commit, processor

from cryostar_nb.files import write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "book" / "results"
ENDS = {"closed": ROOT / "data" / "1ake.pdb", "open": ROOT / "data" / "4ake.pdb"}


@dataclass(frozen=True)
class PaperRun:
    """One training of the paper's comparison."""

    method: str = "star"  # star, cont, nma
    setting: str = "paper"  # paper: every constant as printed. ours: the preset of this book
    reference: str = "closed"  # the end that the run knows
    snr: float = 0.1  # over the whole box
    seed: int = 0
    morph: str = "linear"
    changes: tuple[str, ...] = ()  # further options of `train`, for ablations
    steps: int = 12_000

    @property
    def name(self) -> str:
        """The name of its result, and of its run folder."""
        changed = "".join(f"_{change.lstrip('-').replace(' ', '=')}" for change in self.changes)
        steps = "" if self.steps == 12_000 else f"_steps{self.steps}"
        return f"adk_{self.morph}_snr{self.snr:g}_{self.reference}_{self.method}_{self.setting}_seed{self.seed}{steps}{changed}"

    @property
    def data(self) -> str:
        """The folder of its particles."""
        return f"adk_{self.morph}_snr{self.snr:g}"


SNR_LADDER = (1.0, 0.1, 0.05, 0.01, 0.001, 0.0001)
ABLATIONS = (
    *(f"--relaxation-percentile {p}" for p in (50, 95, 100)),
    "--relaxation-measure squared_error",
    *(f"--final-elastic-weight {w}" for w in (1.0, 0.05, 0.02, 0.002)),
    *(f"--kl-weight {w}" for w in (0.0, 0.001)),
    *(f"--low-pass {resolution}" for resolution in (3.0, 6.0, 8.0)),
    "--density nodes",
    "--encoder-input image",
    "--clash-weight 0",
    "--learning-rate 0.0003",
    "--learning-rate-schedule constant",
)
RUNS = (
    # Figure 3, both directions; three seeds where the paper has its figure.
    *(PaperRun("star", setting, seed=seed) for seed in range(3) for setting in ("ours", "paper")),
    *(PaperRun(method, seed=seed) for seed in range(3) for method in ("cont", "nma")),
    *(PaperRun("star", setting, "open") for setting in ("ours", "paper")),
    *(PaperRun(method, reference="open") for method in ("cont", "nma")),
    # Is it the restraints or the images? The loosest method, with our images and our encoder.
    *(PaperRun("cont", "ours", reference) for reference in ENDS),
    *(PaperRun("cont", "ours", snr=snr) for snr in (0.01, 0.001)),
    # What the noise leaves: every method over the ladder.
    *(PaperRun("star", setting, snr=snr) for snr in SNR_LADDER if snr != 0.1 for setting in ("ours", "paper")),
    *(PaperRun(method, snr=snr) for snr in (0.01, 0.001) for method in ("cont", "nma")),
    # The likelihood of the noise weighs the images against the KL divergence: see the book on how this is the same.
    PaperRun(snr=0.01, setting="ours", changes=("--kl-weight 0.001",)),
    PaperRun(snr=0.001, setting="ours", changes=("--kl-weight 0.005",)),
    # A path that is not a straight line.
    *(PaperRun("star", setting, morph="rigid") for setting in ("ours", "paper")),
    # One change at a time, for half as long.
    *(PaperRun("star", "ours", changes=changes, steps=6_000) for changes in ((), *((change,) for change in ABLATIONS))),
)


def cryostar(*arguments: object) -> None:
    """Call the command line, and stop where it fails."""
    command = [sys.executable, "-m", "cryostar_nb", *map(str, arguments)]
    print("$ cryostar-nb", *command[3:], flush=True)
    subprocess.run(command, check=True)


def simulate(run: PaperRun, work: Path, particles: int) -> Path:
    """The particles of a run, made when they are missing."""
    folder = work / "particles" / run.data
    if not (folder / "particles.star").exists():  # it is written last
        ends = ["--closed", ENDS["closed"], "--open", ENDS["open"]]
        cryostar("simulate", *ends, "--out", folder, "--snr", run.snr, "--morph", run.morph, "--n-particles", particles)
    return folder


def train_and_evaluate(run: PaperRun, work: Path, particles: int) -> None:
    """Make a run, or what is missing of it, and write its result."""
    folder, out = simulate(run, work, particles), work / "runs" / run.name
    if (out / "checkpoint.pt").exists():
        options: list[object] = ["--resume", "--out", out]
    else:
        options = [folder / "particles.star", "--reference", ENDS[run.reference], "--out", out, "--preset", run.setting]
        options += ["--method", run.method, "--steps", run.steps, "--seed", run.seed]
        options += [word for change in run.changes for word in change.split()]
    cryostar("train", *options, "--cache", folder / "cache")
    cryostar("evaluate", out, "--truth", folder / "truth.npz")
    evaluation = json.loads((out / "evaluation.json").read_text())
    about = {"system": "adk", "method": run.method, "setting": run.setting, "reference": run.reference, "morph": run.morph, "snr": run.snr}
    about |= {
        "seed": run.seed,
        "changes": list(run.changes),
        "n_particles": particles,
        "seconds": evaluation["seconds_per_step"] * evaluation["steps"],
    }
    write_json(RESULTS / f"{run.name}.json", about | evaluation | provenance(run))


def provenance(run: PaperRun) -> dict[str, str]:
    """Where, when and from what a result was made."""
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{processor()}, {os.cpu_count()} cores"
    return {"command": f"make paper ONLY={run.name}", "commit": commit(), "machine": machine, "date": datetime.date.today().isoformat()}


def main() -> None:
    """Make the runs whose results are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "paper", help="folder for particles and runs (15 GB)")
    parser.add_argument("--only", default="*", help="make only the runs whose names match this pattern, as `*_nma_*`")
    parser.add_argument("--list", action="store_true", help="list the runs and whether their results exist")
    parser.add_argument("--particles", type=int, default=50_000)
    options = parser.parse_args()
    for run in RUNS:
        done = (RESULTS / f"{run.name}.json").exists()
        if options.list:
            print("done   " if done else "missing", run.name)
        elif fnmatch(run.name, options.only) and not done:
            train_and_evaluate(run, options.work, options.particles)


if __name__ == "__main__":
    main()
