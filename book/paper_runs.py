"""The paper's experiments, run and kept as data: `make paper`. Adenylate kinase first, then three harder systems.

    python book/paper_runs.py --work FOLDER [--only PATTERN] [--list]

Every run is a simulation (made once), a training and an evaluation, and ends as `book/results/NAME.json`. A run whose result exists is
not made again; one that was interrupted goes on from its checkpoint. All of them take hours on two cores. The runs of `adk_dims` and of
`spliceosome` need files that are not part of the project, in the folder that CRYOSTAR_EXTERNAL_DATA names; they are skipped without it.
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
from typing import Any

import numpy as np
import torch
from provenance import commit, processor

from cryostar_nb.geometry import kabsch
from cryostar_nb.io.files import write_json
from cryostar_nb.io.structures import read_nodes, read_structure, read_trajectory, write_structure
from cryostar_nb.latents import ENDS as PERCENTILES
from cryostar_nb.latents import mean_around_percentiles, principal_components
from cryostar_nb.structure import Structure

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "book" / "results"
FLOOR = RESULTS / "floor_adk.json"  # the least error that the noise leaves
ENDS = {"closed": ROOT / "data" / "1ake.pdb", "open": ROOT / "data" / "4ake.pdb"}
EXTERNAL = Path(os.environ.get("CRYOSTAR_EXTERNAL_DATA", "external data"))


@dataclass(frozen=True)
class System:
    """What is imaged: how often, and how trainings on it differ from their preset."""

    particles: int
    paper: tuple[str, ...] = ()  # options of the paper for data of this kind
    ours: tuple[str, ...] = ()  # and ours
    external: tuple[str, ...] = ()  # files of CRYOSTAR_EXTERNAL_DATA that it takes


SYSTEMS = {
    "adk": System(50_000),
    # A path that a simulation took, all atoms in thermal motion: its first frame, which is the reference, is 0.6 Å from 1AKE.
    "adk_dims": System(20_000, external=("adk/adk_dims.dcd", "adk/adk.psf")),
    # One of its nine chains moves, which has a sixth of the edges: releasing a fifth of all could let go of all of its own.
    "7pbl": System(20_000, ours=("--relaxation-percentile 99",)),
    # Its particles are made of its nodes, and imaged as an experiment was, for which the paper gives p = 95. Twenty chains move as one
    # block, by up to 30 Å, further than the detail in the images: ours compares them coarse to fine, and edges between chains take the
    # small ones along. Few edges of all have to be released, and at the truth the others cost nothing: p and the last elastic weight
    # can be high.
    "spliceosome": System(
        20_000,
        ("--relaxation-percentile 95",),
        (
            "--density nodes",
            "--relaxation-percentile 99",
            "--initial-blur 15",
            "--elastic-between-chains",
            "--final-elastic-weight 0.1",
        ),
        ("spliceosome/5nrl_rebuilt.cif.gz", "spliceosome/empiar10180_meta.npz"),
    ),
}


@dataclass(frozen=True)
class PaperRun:
    """One training of the paper's comparison."""

    method: str = "star"  # star, cont, nma
    setting: str = "paper"  # paper: every constant as printed. ours: the preset of this book
    reference: str = "closed"  # the end that the run knows
    snr: float = 0.1  # over the whole box
    seed: int = 0
    morph: str = (
        "linear"  # linear, rigid, or core: linear, with 4AKE superposed by what does not move
    )
    changes: tuple[str, ...] = ()  # further options of `train`, for ablations
    steps: int = 12_000
    system: str = "adk"
    data_seed: int = 0  # of the particles: their states, poses, defoci and noise

    @property
    def options(self) -> tuple[str, ...]:
        """All options of `train` that are not the preset's."""
        system = SYSTEMS[self.system]
        return (*(system.paper if self.setting == "paper" else system.ours), *self.changes)

    @property
    def name(self) -> str:
        """The name of its result, and of its run folder."""
        changed = "".join(f"_{change.lstrip('-').replace(' ', '=')}" for change in self.changes)
        steps = "" if self.steps == 12_000 else f"_steps{self.steps}"
        reference = f"_{self.reference}" if self.system == "adk" else ""
        return (
            f"{self.data}{reference}_{self.method}_{self.setting}_seed{self.seed}{steps}{changed}"
        )

    @property
    def data(self) -> str:
        """The folder of its particles."""
        drawn = f"_data{self.data_seed}" if self.data_seed else ""
        return (
            f"adk_{self.morph}_snr{self.snr:g}{drawn}"
            if self.system == "adk"
            else f"{self.system}_snr{self.snr:g}{drawn}"
        )

    @property
    def lacking(self) -> list[str]:
        """The external files that it takes and that are not there."""
        return [name for name in SYSTEMS[self.system].external if not (EXTERNAL / name).exists()]


SNR_LADDER = (1.0, 0.1, 0.05, 0.01, 0.001, 0.0001)
ABLATIONS = (
    *(f"--relaxation-percentile {p}" for p in (50, 95, 100)),
    "--relaxation-measure squared_error",
    *(f"--final-elastic-weight {w}" for w in (1.0, 0.05, 0.02, 0.002)),
    *(f"--kl-weight {w}" for w in (0.0, 0.001)),
    *(f"--low-pass {resolution}" for resolution in (6.0, 8.0)),
    "--density nodes",
    "--encoder-input image",
    "--clash-weight 0",
    "--learning-rate 0.0003",
    "--learning-rate-schedule constant",
)
SPLICEOSOME_STEPS = (
    (
        "--relaxation-percentile 95",
        "--initial-blur 0",
        "--no-elastic-between-chains",
        "--final-elastic-weight 0.005",
    ),
    ("--relaxation-percentile 95", "--initial-blur 10", "--final-elastic-weight 0.005"),
    ("--initial-blur 10", "--final-elastic-weight 0.005"),
)
COMPARED = (("star", "ours"), ("star", "paper"), ("cont", "paper"), ("nma", "paper"))
RUNS = (
    # Figure 3, both directions; three seeds where the paper has its figure.
    *(PaperRun("star", setting, seed=seed) for seed in range(3) for setting in ("ours", "paper")),
    *(PaperRun(method, seed=seed) for seed in range(3) for method in ("cont", "nma")),
    *(PaperRun("star", setting, "open") for setting in ("ours", "paper")),
    *(PaperRun(method, reference="open") for method in ("cont", "nma")),
    # Other particles of the same kind: another draw of states, poses, defoci and noise.
    *(PaperRun("star", setting, data_seed=1) for setting in ("ours", "paper")),
    # Is it the restraints or the images? The baselines, with our images and our encoder.
    *(PaperRun("cont", "ours", reference) for reference in ENDS),
    *(PaperRun("cont", "ours", snr=snr) for snr in (0.01, 0.001)),
    PaperRun("nma", "ours"),
    # And what the encoder is worth in more noise.
    *(
        PaperRun("star", "ours", snr=snr, changes=("--encoder-input image",))
        for snr in (0.01, 0.001)
    ),
    # What the noise leaves: cryoSTAR over the whole ladder, the baselines over its middle.
    *(
        PaperRun("star", setting, snr=snr)
        for snr in SNR_LADDER
        if snr != 0.1
        for setting in ("ours", "paper")
    ),
    *(PaperRun(method, snr=snr) for snr in (0.01, 0.001) for method in ("cont", "nma")),
    PaperRun("nma", snr=0.0001),
    # The likelihood of the noise weighs the images against the KL divergence: see the book on how this is the same.
    PaperRun(snr=0.01, setting="ours", changes=("--kl-weight 0.001",)),
    PaperRun(snr=0.001, setting="ours", changes=("--kl-weight 0.005",)),
    # A path that is not a straight line.
    *(PaperRun("star", setting, morph="rigid") for setting in ("ours", "paper")),
    # The straight line in another frame: the ends are 8.09 Å apart, and CORE stays where it is.
    *(PaperRun(method, morph="core") for method in ("star", "nma")),
    # One change at a time, for half as long.
    *(
        PaperRun("star", "ours", changes=changes, steps=6_000)
        for changes in ((), *((change,) for change in ABLATIONS))
    ),
    # A path that a simulation took, a complex and the spliceosome, both in two populations.
    *(PaperRun(method, setting, system="adk_dims") for method, setting in COMPARED),
    *(PaperRun(method, setting, system="7pbl", steps=4_000) for method, setting in COMPARED),
    *(
        PaperRun("star", "ours", system="7pbl", steps=4_000, changes=(change,))
        for change in ("--relaxation-percentile 95", "--encoder-input image")
    ),
    *(PaperRun(method, setting, system="spliceosome", steps=3_000) for method, setting in COMPARED),
    # What it took to bring the small chains along: from what suffices for one chain, step by step.
    *(
        PaperRun("star", "ours", system="spliceosome", steps=3_000, changes=changes)
        for changes in SPLICEOSOME_STEPS
    ),
)


def call(*arguments: object) -> None:
    """Call Python, and stop where it fails."""
    print("$ python", *arguments, flush=True)
    subprocess.run([sys.executable, *map(str, arguments)], check=True)


def cryostar(*arguments: object) -> None:
    """Call the command line."""
    call("-m", "cryostar_nb", *arguments)


def simulate(run: PaperRun, work: Path) -> tuple[Path, Path]:
    """The folder of the particles of a run, made when they are missing, and its reference."""
    folder, particles = work / "particles" / run.data, SYSTEMS[run.system].particles
    files = [EXTERNAL / name for name in SYSTEMS[run.system].external]
    references = {
        "adk": ENDS[run.reference],
        "7pbl": ROOT / "data" / "7pbl.pdb.gz",
        "adk_dims": folder / "first.pdb",
    }
    reference = references.get(run.system, folder / "motion.pdb")
    common = [
        "--out",
        folder,
        "--snr",
        run.snr,
        "--n-particles",
        particles,
        "--seed",
        run.data_seed,
    ]
    if (folder / "particles.star").exists():  # it is written last
        return folder, reference
    if run.system == "adk" and run.morph == "core":
        write_structure(folder / "4ake.pdb", superposed_on_the_core(ENDS["open"], ENDS["closed"]))
        cryostar(
            "simulate",
            "--overwrite",
            "--closed",
            ENDS["closed"],
            "--open",
            folder / "4ake.pdb",
            *common,
        )
    elif run.system == "adk":
        cryostar(
            "simulate",
            "--overwrite",
            "--closed",
            ENDS["closed"],
            "--open",
            ENDS["open"],
            "--morph",
            run.morph,
            *common,
        )
    elif run.system == "adk_dims":
        write_structure(reference, read_trajectory(*files)[0])
        cryostar(
            "simulate",
            "--overwrite",
            "--closed",
            reference,
            "--trajectory",
            files[0],
            "--topology",
            files[1],
            *common,
        )
    elif run.system == "7pbl":
        call(ROOT / "book" / "make_complex.py", *common)
    else:
        call(
            ROOT / "book" / "make_spliceosome.py", "--model", files[0], "--meta", files[1], *common
        )
    return folder, reference


def superposed_on_the_core(mobile: Path, target: Path) -> Structure:
    """A structure superposed on another by the nodes that stay: those further away than twice the RMSD are left out, five times over.

    PyMOL's `align` drops outliers in this manner; the paper made its trajectory with PyMOL.
    """
    nodes, places = read_nodes(mobile).positions, read_nodes(target).positions
    kept = np.ones(len(nodes), dtype=bool)
    for _ in range(5):
        rotation, translation = kabsch(nodes[kept], places[kept])
        away = np.linalg.norm(nodes @ rotation.T + translation - places, axis=1)
        kept &= away <= 2 * np.sqrt(np.mean(away[kept] ** 2))
    rotation, translation = kabsch(nodes[kept], places[kept])
    atoms = read_structure(mobile)
    return atoms.with_positions(atoms.positions @ rotation.T + translation)


def train_and_evaluate(run: PaperRun, work: Path) -> None:
    """Make a run, or what is missing of it, and write its result."""
    (folder, reference), out = simulate(run, work), work / "runs" / run.name
    if (out / "checkpoint.pt").exists():
        options: list[object] = ["--resume", "--out", out]
    else:
        options = [
            folder / "particles.star",
            "--reference",
            reference,
            "--out",
            out,
            "--preset",
            run.setting,
        ]
        options += ["--method", run.method, "--steps", run.steps, "--seed", run.seed]
        options += [word for option in run.options for word in option.split()]
    cryostar("train", *options, "--cache", folder / "cache")
    cryostar("evaluate", out, "--truth", folder / "truth.npz")
    evaluation = json.loads((out / "evaluation.json").read_text())
    about = {
        "system": run.system,
        "method": run.method,
        "setting": run.setting,
        "reference": run.reference,
        "morph": run.morph,
    }
    about |= {
        "snr": run.snr,
        "seed": run.seed,
        "data_seed": run.data_seed,
        "changes": list(run.options),
        "n_particles": SYSTEMS[run.system].particles,
        "seconds": evaluation["seconds_per_step"] * evaluation["steps"],
    }
    if run.system != "adk":
        evaluation["latent_density"] = latent_density(
            torch.from_numpy(np.load(out / "latents.npy"))
        )
    write_json(
        RESULTS / f"{run.name}.json",
        about | evaluation | provenance_of(f"make paper ONLY={run.name}"),
    )


def latent_density(latents: torch.Tensor) -> dict[str, Any]:
    """Number of particles over the first two principal components, and where the 5th and 95th percentile of the first lie."""
    scores = principal_components(latents).scores[:, :2]
    counts, *edges = np.histogram2d(*scores.T.numpy(), bins=(40, 24))
    ends = mean_around_percentiles(scores, scores[:, 0], torch.tensor(PERCENTILES))
    return {
        "counts": counts.astype(int).tolist(),
        "from": [float(e[0]) for e in edges],
        "to": [float(e[-1]) for e in edges],
    } | {"ends": ends.tolist()}


def provenance_of(command: str) -> dict[str, str]:
    """Where, when and from what a result was made."""
    machine = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{processor()}, {os.cpu_count()} cores"
    )
    return {
        "command": command,
        "commit": commit(),
        "machine": machine,
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    """Make the runs whose results are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "paper", help="folder for particles and runs (15 GB)"
    )
    parser.add_argument(
        "--only",
        default="*",
        help="make only the runs whose names match this pattern, as `*_nma_*`",
    )
    parser.add_argument(
        "--list", action="store_true", help="list the runs and whether their results exist"
    )
    options = parser.parse_args()
    for run in RUNS:
        done = (RESULTS / f"{run.name}.json").exists()
        if options.list:
            print("done   " if done else "missing", run.name)
        elif fnmatch(run.name, options.only) and not done:
            if run.lacking:
                print(
                    f"skipped {run.name}: there is no {', '.join(run.lacking)} in {EXTERNAL} (CRYOSTAR_EXTERNAL_DATA)",
                    flush=True,
                )
            else:
                train_and_evaluate(run, options.work)
    if not options.list and not FLOOR.exists() and fnmatch(FLOOR.stem, options.only):
        call(ROOT / "book" / "make_floor.py")


if __name__ == "__main__":
    main()
