"""The paper's experiments, run and kept as data: `make paper`.

    python book/paper_runs.py --work FOLDER [--only PATTERN] [--list]

Each run is a simulation (made once), a training and an evaluation, and ends as
`book/results/NAME.json`. A run whose result exists is not made again; one that was interrupted goes
on from its checkpoint. All of them take hours on two cores. `adk_dims` and `spliceosome` need files
from outside the project, in the folder CRYOSTAR_EXTERNAL_DATA; without them they are skipped.
"""

import argparse
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
from provenance import provenance_of

from cryostar_nb.geometry import kabsch
from cryostar_nb.io.files import write_json
from cryostar_nb.io.structures import read_nodes, read_structure, write_structure
from cryostar_nb.io.trajectories import read_trajectory
from cryostar_nb.latents import ENDS as PERCENTILES
from cryostar_nb.latents import mean_around_percentiles, principal_components
from cryostar_nb.structure import Structure

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "book" / "results"
FLOOR = RESULTS / "floor_adk.json"  # the least error that the noise leaves
ENDS = {"closed": ROOT / "data" / "1ake.pdb", "open": ROOT / "data" / "4ake.pdb"}
EXTERNAL = Path(os.environ.get("CRYOSTAR_EXTERNAL_DATA", "external data"))


IDENTITY = ("system", "method", "setting", "reference", "morph", "snr", "seed", "data_seed")


@dataclass(frozen=True)
class System:
    """A molecule: its number of particles, and the flags of `train` that its data need."""

    particles: int
    paper: tuple[str, ...] = ()  # added to the preset `paper`
    standard: tuple[str, ...] = ()  # added to the preset `standard`
    external: tuple[str, ...] = ()  # files of CRYOSTAR_EXTERNAL_DATA that it takes

    @property
    def files(self) -> list[Path]:
        """Its external files."""
        return [EXTERNAL / name for name in self.external]


# The runs with the preset `standard` were made with a Gaussian for each atom, before groups became
# its default; those with groups are listed as a change.
ATOMS = "--density atoms"
# Of every run, as the paper has it: the particles are perfect, all of them are trained on, and the
# numbers are from before the preset `standard` corrected poses, compared likelihoods, kept chains
# and turned side chains.
PINNED = (
    "--poses given",
    "--image-loss correlation",
    "--no-radial-scale",
    "--held-out 0",
    "--relaxation-percentile 80",
    "--kept-along-chain 0",
    "--side-chain-sd 0",
)
SYSTEMS = {
    "adk": System(50_000, standard=(ATOMS,)),
    # A trajectory, all atoms in thermal motion; its first frame is the reference, 0.6 Å from 1AKE.
    "adk_dims": System(20_000, standard=(ATOMS,), external=("adk/adk_dims.dcd", "adk/adk.psf")),
    # One of nine chains moves. It has a sixth of the edges: with p = 80 it could lose all of them.
    "7pbl": System(20_000, standard=(ATOMS, "--relaxation-percentile 99")),
    # Made of nodes, and imaged as an experiment was, for which the paper has p = 95. Twenty chains
    # move as one block by up to 30 Å, farther than the finest detail: so images are compared coarse
    # to fine, and edges between chains take small chains along. Few edges have to be released, and
    # at the truth the others cost nothing: p and the last elastic weight can be high.
    "spliceosome": System(
        20_000,
        paper=("--relaxation-percentile 95",),
        standard=(
            "--density nodes",
            "--relaxation-percentile 99",
            "--initial-blur 15",
            "--elastic-between-chains",
            "--final-elastic-weight 0.1",
        ),
        external=("spliceosome/5nrl_rebuilt.cif.gz", "spliceosome/empiar10180_meta.npz"),
    ),
}


@dataclass(frozen=True)
class PaperRun:
    """One training of the paper's comparison."""

    method: str = "star"  # star, cont, nma
    setting: str = "paper"  # the preset: standard or paper
    reference: str = "closed"  # the end that the run knows
    snr: float = 0.1  # over the whole box
    seed: int = 0
    morph: str = "linear"  # linear, rigid; core: linear, 4AKE superposed by what does not move
    changes: tuple[str, ...] = ()  # further flags of `train`, for ablations
    steps: int = 12_000
    system: str = "adk"
    data_seed: int = 0  # of the particles: their states, poses, defoci and noise

    @property
    def flags(self) -> tuple[str, ...]:
        """All flags of `train` that change its preset."""
        system = SYSTEMS[self.system]
        flags = system.paper if self.setting == "paper" else system.standard
        if any(change.startswith("--density") for change in self.changes):
            flags = tuple(flag for flag in flags if flag != ATOMS)
        return (*flags, *self.changes)

    @property
    def name(self) -> str:
        """The name of its result, and of its run folder."""
        reference = f"_{self.reference}" if self.system == "adk" else ""
        steps = "" if self.steps == 12_000 else f"_steps{self.steps}"
        changed = "".join(f"_{change.lstrip('-').replace(' ', '=')}" for change in self.changes)
        return (
            f"{self.data}{reference}_{self.method}_{self.setting}_seed{self.seed}{steps}{changed}"
        )

    @property
    def data(self) -> str:
        """The folder of its particles."""
        path = f"adk_{self.morph}" if self.system == "adk" else self.system
        return f"{path}_snr{self.snr:g}" + (f"_data{self.data_seed}" if self.data_seed else "")


PRESETS = ("standard", "paper")
GROUPS = "--density groups"  # the default
OTHER_SNRS = (1.0, 0.05, 0.01, 0.001, 0.0001)  # than 0.1
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
LITERAL = (
    *(f"--{loss}-weight 1.93" for loss in ("continuity", "clash", "elastic")),
    f"--kl-weight {1.93 / 128**2:.3e}",
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
COMPARED = (("star", "standard"), ("star", "paper"), ("cont", "paper"), ("nma", "paper"))
RUNS = (
    # Figure 3, both directions; three seeds where the paper has its figure.
    *(PaperRun("star", setting, seed=seed) for seed in range(3) for setting in PRESETS),
    *(PaperRun(method, seed=seed) for seed in range(3) for method in ("cont", "nma")),
    *(PaperRun("star", "standard", seed=seed, changes=(GROUPS,)) for seed in range(3)),
    *(PaperRun("star", "standard", snr=snr, changes=(GROUPS,)) for snr in (0.01, 0.001)),
    *(PaperRun("star", setting, "open") for setting in PRESETS),
    *(PaperRun(method, reference="open") for method in ("cont", "nma")),
    # Other particles of the same kind: another draw of states, poses, defoci and noise.
    *(PaperRun("star", setting, data_seed=1) for setting in PRESETS),
    # The restraints or the images? The baselines with the standard preset's images and encoder.
    *(PaperRun("cont", "standard", reference) for reference in ENDS),
    *(PaperRun("cont", "standard", snr=snr) for snr in (0.01, 0.001)),
    PaperRun("nma", "standard"),
    # What the encoder is worth in more noise.
    PaperRun("star", "standard", snr=0.01, changes=("--encoder-input image",)),
    PaperRun("star", "standard", snr=0.001, changes=("--encoder-input image",)),
    # What the noise leaves: cryoSTAR over the whole ladder, the baselines over its middle.
    *(PaperRun("star", setting, snr=snr) for snr in OTHER_SNRS for setting in PRESETS),
    *(PaperRun(method, snr=snr) for snr in (0.01, 0.001) for method in ("cont", "nma")),
    PaperRun("nma", snr=0.0001),
    # In more noise the likelihood gives the KL divergence a larger weight (eq. 6.10).
    PaperRun("star", "standard", snr=0.01, changes=("--kl-weight 0.001",)),
    PaperRun("star", "standard", snr=0.001, changes=("--kl-weight 0.005",)),
    # A path that is not a straight line.
    *(PaperRun("star", setting, morph="rigid") for setting in PRESETS),
    # The straight line in another frame: the ends are 8.09 Å apart, and CORE stays where it is.
    *(PaperRun(method, morph="core") for method in ("star", "nma")),
    # Eq. 9 with the norm of the whole image, as Appendix A can be read: at an SNR of 0.1 the image
    # weighs 1.93 times less (eq. 7.5), which is the same as all else weighing 1.93 times more.
    PaperRun("star", changes=LITERAL),
    # One change at a time, for half as long.
    *(
        PaperRun("star", "standard", changes=changes, steps=6_000)
        for changes in ((), *((change,) for change in ABLATIONS))
    ),
    # A path that a simulation took; a complex and the spliceosome, both in two populations.
    *(PaperRun(method, setting, system="adk_dims") for method, setting in COMPARED),
    *(PaperRun(method, setting, system="7pbl", steps=4_000) for method, setting in COMPARED),
    *(
        PaperRun("star", "standard", system="7pbl", steps=4_000, changes=(change,))
        for change in ("--relaxation-percentile 95", "--encoder-input image", GROUPS)
    ),
    *(PaperRun(method, setting, system="spliceosome", steps=3_000) for method, setting in COMPARED),
    # What it took to bring the small chains along: from what suffices for one chain, step by step.
    *(
        PaperRun("star", "standard", system="spliceosome", steps=3_000, changes=changes)
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
    folder, system = work / "particles" / run.data, SYSTEMS[run.system]
    reference = {
        "adk": ENDS[run.reference],
        "adk_dims": folder / "first.pdb",
        "7pbl": ROOT / "data" / "7pbl.pdb.gz",
        "spliceosome": folder / "motion.pdb",
    }[run.system]
    if (folder / "particles.star").exists():  # it is written last
        return folder, reference
    common = ["--out", folder, "--snr", run.snr, "--n-particles", system.particles]
    common += ["--seed", run.data_seed]
    if run.system == "7pbl":
        call(ROOT / "book" / "make_complex.py", *common)
    elif run.system == "spliceosome":
        model, meta = system.files
        call(ROOT / "book" / "make_spliceosome.py", "--model", model, "--meta", meta, *common)
    else:
        cryostar("simulate", "--overwrite", *path_flags(run, folder, reference), *common)
    return folder, reference


def path_flags(run: PaperRun, folder: Path, reference: Path) -> list[object]:
    """The flags of `simulate` for the states of adenylate kinase; files they name are written."""
    if run.system == "adk_dims":
        trajectory, topology = SYSTEMS[run.system].files
        write_structure(reference, read_trajectory(trajectory, topology)[0])
        return ["--start", reference, "--trajectory", trajectory, "--topology", topology]
    start, end = ENDS["closed"], ENDS["open"]
    if run.morph != "core":
        return ["--start", start, "--end", end, "--morph", run.morph]
    write_structure(folder / "4ake.pdb", superposed_on_the_core(end, start))
    return ["--start", start, "--end", folder / "4ake.pdb"]


def superposed_on_the_core(mobile: Path, target: Path) -> Structure:
    """A structure superposed on another by the nodes that stay.

    Nodes farther away than twice the RMSD are left out, five times over, as PyMOL's `align` drops
    outliers; the paper made its trajectory with PyMOL.
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
    provenance = provenance_of(f"make paper ONLY={run.name}")  # the commit that it starts from
    (folder, reference), out = simulate(run, work), work / "runs" / run.name
    if (out / "checkpoint.pt").exists():
        flags: list[object] = ["--resume", "--out", out]
    else:
        flags = [folder / "particles.star", "--reference", reference, "--out", out]
        flags += ["--preset", run.setting, "--method", run.method, "--steps", run.steps]
        flags += ["--seed", run.seed, *" ".join((*PINNED, *run.flags)).split()]
    cryostar("train", *flags, "--cache", folder / "cache")
    cryostar("evaluate", out, "--truth", folder / "truth.npz")
    evaluation = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    about = {name: getattr(run, name) for name in IDENTITY} | {
        "changes": list(run.flags),
        "n_particles": SYSTEMS[run.system].particles,
        "seconds": evaluation["seconds_per_step"] * evaluation["steps"],
    }
    if run.system != "adk":
        latents = torch.from_numpy(np.load(out / "latents.npy"))
        evaluation["latent_density"] = latent_density(latents)
    write_json(RESULTS / f"{run.name}.json", about | evaluation | provenance)


def latent_density(latents: torch.Tensor) -> dict[str, Any]:
    """Number of particles over the first two principal components, in 40 x 24 bins.

    `ends` are the places of the 5th and the 95th percentile of the first component.
    """
    scores = principal_components(latents).scores[:, :2]
    counts, *edges = np.histogram2d(*scores.T.numpy(), bins=(40, 24))
    ends = mean_around_percentiles(scores, scores[:, 0], torch.tensor(PERCENTILES))
    return {
        "counts": counts.astype(int).tolist(),
        "from": [float(axis[0]) for axis in edges],
        "to": [float(axis[-1]) for axis in edges],
        "ends": ends.tolist(),
    }


def main() -> None:
    """Make the runs whose results are missing."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    add = parser.add_argument
    add("--work", type=Path, default=ROOT / "paper", help="folder for particles and runs (15 GB)")
    add("--only", default="*", help="only runs whose names match this pattern, such as `*_nma_*`")
    add("--list", action="store_true", help="list the runs and whether their results exist")
    options = parser.parse_args()
    for run in RUNS:
        done = (RESULTS / f"{run.name}.json").exists()
        if options.list:
            print("done   " if done else "missing", run.name)
        elif done or not fnmatch(run.name, options.only):
            continue
        elif missing := [str(f) for f in SYSTEMS[run.system].files if not f.exists()]:
            print(f"skipped {run.name}: there is no {', '.join(missing)}", flush=True)
        else:
            train_and_evaluate(run, options.work)
    if not options.list and not FLOOR.exists() and fnmatch(FLOOR.stem, options.only):
        call(ROOT / "book" / "make_floor.py")


if __name__ == "__main__":
    main()
