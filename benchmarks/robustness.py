"""How wrong structures get when particles are as imperfect as real ones, fault by fault.

    python benchmarks/robustness.py --work FOLDER

Each cell of the table is a molecule, a fault, an SNR, a method and a seed: particles are simulated
with that fault, a network is trained on `--particles` of them, and the structures that it makes of
`--new` others are compared with their truth. A cell is kept as a JSON file in FOLDER/cells and is
not made again; a training that was stopped goes on from its checkpoint. Images and runs are deleted
when their cells are done (`--keep` keeps them); one set of 7,000 images takes 460 MB. After every
cell results/robustness.json is written anew from all cells of these settings, and robustness.md
from it. `--list` says what is done, `--table` only writes the table.
"""

import argparse
import dataclasses
import functools
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from common import HERE, KINASE, RUVB, options_of, split, trained
from robustness_report import write_tables

import cryostar_nb as cs
from cryostar_nb.io.files import write_json
from cryostar_nb.simulation.options import REALISTIC, not_default

sys.path.append(str(HERE.parent / "book"))
from make_complex import MOTION, write_motion
from provenance import provenance_of

# The settings of `Faults` that each fault has as in `REALISTIC`.
FAULTS: dict[str, tuple[str, ...]] = {
    "perfect": (),
    "pose": ("rotation_error", "shift_error"),
    "defocus": ("defocus_error", "astigmatism", "astigmatism_error"),
    "noise": ("noise_spectrum", "ice_gradient"),
    "mtf": ("mtf",),
    "b_factor": ("b_factor", "b_factor_sd"),
    "contrast": ("contrast_sd",),
    "solvent": ("solvent",),
    "neighbours": ("neighbours",),
    "junk": ("junk",),
    "reference": (),
    "all": tuple(not_default(REALISTIC)),
    "all, reference": tuple(not_default(REALISTIC)),
}
WITH_REFERENCE = ("reference", "all, reference")  # trained from an imperfect model
IMPERFECT: dict[str, Any] = {
    "reference_rotamers": 0.5,
    "reference_gap": 12,
    "reference_shift": 3.0,
}
METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"preset": "paper"},
    "cont": {"method": "cont"},  # continuity alone, with the images and encoder of the default
}
COMMAND = "python benchmarks/robustness.py"
STATES = 50
NUMBERS = (
    "rmsd_in_gauge",
    "rmsd_in_gauge_most_open",
    "rmsd_superposed",
    "rmsd_mean",
    "do_nothing_in_gauge",
    "do_nothing_superposed",
    "bond_error",
    "local_error_to_truth",
    "contacts_kept",
    "n_particles",
    "n_junk",
    "pose_errors_given",
    "pose_errors_refined",
)


@dataclass(frozen=True)
class System:
    """A molecule and its images."""

    reference: Path
    field_of_view: float  # Å
    box_size: int  # pixels
    populations: str


SYSTEMS = {
    "adk": System(KINASE, 128.0, 128, "uniform"),
    "7pbl": System(RUVB, 192.0, 96, "two"),
}


@dataclass(frozen=True)
class Cell:
    """One training, and what it is about."""

    system: str
    fault: str
    snr: float
    seed: int  # of the particles and of the training
    method: str = "default"

    @property
    def data(self) -> str:
        """The folder of its particles."""
        fault = self.fault.replace(", ", "_")
        return f"{self.system}_{fault}_snr{self.snr:g}_seed{self.seed}"


@functools.cache
def begun() -> dict[str, str]:
    """Where the numbers are from: the commit before the first results were written."""
    return provenance_of(COMMAND)


def cells(options: argparse.Namespace) -> Iterator[list[Cell]]:
    """The cells, in groups that share their particles."""
    shared = product(options.seeds, options.snr, options.systems, options.faults)
    for seed, snr, system, fault in shared:
        yield [Cell(system, fault, snr, seed, method) for method in options.methods]


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What all cells of a table have in common."""
    return {name: getattr(options, name) for name in ("particles", "new", "steps", "box_size")}


def size_of(options: argparse.Namespace) -> str:
    """The same as a part of a name."""
    box = f"_box{options.box_size}" if options.box_size else ""
    return f"{options.particles}+{options.new}{box}"


def cell_file(cell: Cell, options: argparse.Namespace) -> Path:
    name = f"{cell.data}_{cell.method}_{size_of(options)}_steps{options.steps}.json"
    return options.work / "cells" / name


def simulate(cell: Cell, options: argparse.Namespace) -> Path:
    """The folder with particles to train on and new ones, each with its truth; made if missing."""
    folder = options.work / "particles" / f"{cell.data}_{size_of(options)}"
    if (folder / "done").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    system, count = SYSTEMS[cell.system], options.particles + options.new
    box_size = options.box_size or system.box_size
    values: dict[str, Any] = {name: getattr(REALISTIC, name) for name in FAULTS[cell.fault]}
    if cell.fault in WITH_REFERENCE:
        values |= IMPERFECT
    if cell.system == "adk":
        values |= {"start": KINASE, "end": HERE.parent / "data" / "4ake.pdb"}
    else:
        pixel_size = system.field_of_view / box_size
        values |= write_motion(cs.read_structure(RUVB), MOTION, STATES, folder)
        values |= {"resolution": 2 * pixel_size}
    star = cs.simulate(
        **values,
        out=folder,
        n_particles=count,
        box_size=box_size,
        pixel_size=system.field_of_view / box_size,
        snr=cell.snr,
        states=STATES,
        populations=system.populations,
        seed=cell.seed,
    )
    split(star, options.particles, count)
    (folder / "done").touch()
    return folder


def train(cell: Cell, folder: Path, options: argparse.Namespace) -> tuple[cs.Run, Path]:
    """The trained run of a cell, and its folder; one that was stopped goes on."""
    out = options.work / "runs" / cell_file(cell, options).stem
    reference = SYSTEMS[cell.system].reference
    if cell.fault in WITH_REFERENCE:
        reference = folder / "reference.cif"
    values = METHODS[cell.method] | {"steps": options.steps, "seed": cell.seed}
    return trained(out, folder / "trained.star", reference=reference, **values), out


def make(cell: Cell, options: argparse.Namespace) -> None:
    """Simulate, train, evaluate, and write the cell."""
    provenance = begun()
    folder = simulate(cell, options)
    run, out = train(cell, folder, options)
    scores = {
        "trained": run.evaluate(folder / "trained.npz"),
        "new": run.evaluate(folder / "new.npz", folder / "new.star"),
    }
    result = dataclasses.asdict(cell) | settings_of(options)
    numbers = {name: score.as_dict() for name, score in scores.items()}
    result["scores"] = {name: {key: n[key] for key in NUMBERS} for name, n in numbers.items()}
    result["seconds"] = run.metrics.get("seconds", [float("nan")])[-1]
    write_json(cell_file(cell, options), result | provenance)
    if not options.keep:
        shutil.rmtree(out)


def results(options: argparse.Namespace) -> dict[str, Any]:
    """All cells of these settings that are done, and how they were made."""
    files = sorted((options.work / "cells").glob("*.json"))
    done = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    alike = settings_of(options)
    done = [cell for cell in done if alike.items() <= cell.items()]
    order = {"methods": list(METHODS), "faults": list(FAULTS)}  # of the table
    return {"provenance": begun()} | alike | order | {"cells": done}


def write_results(options: argparse.Namespace) -> None:
    write_json(options.results / "robustness.json", results(options))
    write_tables(options.results)


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = options_of(__doc__, "robustness")
    add = parser.add_argument
    add("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    add("--faults", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="FAULT")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--snr", nargs="+", type=float, default=[0.05, 0.1])
    add("--particles", type=int, default=6000, help="to train on")
    add("--new", type=int, default=1000, help="to compare with their truth")
    add("--steps", type=int, default=2500)
    add("--seeds", nargs="+", type=int, default=[0])
    add("--box-size", type=int, help="pixels along an edge, of the same field of view")
    add("--list", action="store_true", help="list the cells and whether they are done")
    add("--table", action="store_true", help="only write the table")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Make the cells that are missing, and the table."""
    begun()
    options = parsed(words)
    if options.table:
        write_tables(options.results)
        return
    for group in cells(options):
        missing = [cell for cell in group if not cell_file(cell, options).exists()]
        if options.list:
            for cell in group:
                print("missing" if cell in missing else "done   ", cell_file(cell, options).stem)
            continue
        for cell in missing:
            print(f"== {cell_file(cell, options).stem}", flush=True)
            make(cell, options)
            write_results(options)
        if not options.keep:
            folder = options.work / "particles" / f"{group[0].data}_{size_of(options)}"
            shutil.rmtree(folder, ignore_errors=True)
    if not options.list:
        write_results(options)


if __name__ == "__main__":
    main()
