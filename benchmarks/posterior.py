"""How good posteriors are: their means, their intervals, and the time that they take.

    python benchmarks/posterior.py --work FOLDER

For each SNR: particles are simulated, the default setting is trained on `--particles` of them from
the first state, and `infer` finds the posterior of every particle. Then `--new` particles that
training has not seen are compared with their truth: the encoder's structures, the posterior's mean
structures, and how often intervals hold the truth. Errors that all particles share are told by a
second run, from the last state, with half as many steps or `--second-steps`. What is done is kept
in FOLDER and goes on from there; images are deleted at the end, unless `--keep`.

Cases: adenylate kinase from 1AKE (`adk`), from 1AKE with half of its side chains in another rotamer
(`rotamers`), along a trajectory of all atoms (`dims`; its files are not part of the project, and
are found through CRYOSTAR_EXTERNAL_DATA), and RuvB, two subunits of which open, each for itself
(`7pbl`).
"""

import argparse
import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import HERE, KINASE, RUVB, kept_cell, made_with, options_of, split, trained

import cryostar_nb as cs
from cryostar_nb.calibration import SILENT, node_sd
from cryostar_nb.io.files import write_json, write_text
from cryostar_nb.io.structures import write_structure
from cryostar_nb.io.trajectories import read_trajectory, write_trajectory
from cryostar_nb.latents import evenly_spaced
from cryostar_nb.runs.posteriors import compare_runs, home, infer, model_errors

sys.path.append(str(HERE.parent / "book"))
from make_complex import turn_domains
from paper_runs import SYSTEMS
from provenance import provenance_of

OPEN = HERE.parent / "data" / "4ake.pdb"
COMMAND = "python benchmarks/posterior.py"
CASES = {
    "adk": "Adenylate kinase",
    "rotamers": "Adenylate kinase, half of the side chains of the reference in another rotamer",
    "dims": "Adenylate kinase, along a trajectory of all atoms",
    "7pbl": "RuvB on a Holliday junction, two subunits of which open, each for itself",
}
OPENING = {"C": 25.0, "F": 25.0}  # subunits of RuvB, and by how many degrees each opens
OPTIONS = ("case", "particles", "new", "steps", "second_steps", "seed")
POSITIONS = 7  # of each subunit
LARGE = {"box_size": 96, "pixel_size": 2.0, "resolution": 4.0, "states": POSITIONS**2}


def motion_of(case: str, folder: Path) -> dict[str, Any]:
    """What is simulated, and `first.pdb` and `last.pdb`, the references, in `folder`."""
    first, last = folder / "first.pdb", folder / "last.pdb"
    if case in ("adk", "rotamers"):
        shutil.copy(KINASE, first)
        shutil.copy(OPEN, last)
        turned = {"reference_rotamers": 0.5} if case == "rotamers" else {}
        return {"start": KINASE, "end": OPEN} | turned
    if case == "dims":
        files = dict(zip(("trajectory", "topology"), SYSTEMS["adk_dims"].files, strict=True))
        atoms, frames = read_trajectory(*files.values())
    else:
        files = {"trajectory": folder / "motion.dcd"}
        atoms, frames = two_motions()
        write_trajectory(files["trajectory"], atoms, frames)
    write_structure(first, atoms)
    write_structure(last, atoms.with_positions(frames[-1]))
    return {"start": first} | files | (LARGE if case == "7pbl" else {})


def two_motions() -> tuple[cs.Structure, np.ndarray]:
    """RuvB, and the states (state, atom, 3) of two subunits that open independently, in Å."""
    atoms = cs.read_structure(RUVB)
    one, other = (
        turn_domains(atoms, {chain: angle}, POSITIONS) - atoms.positions
        for chain, angle in OPENING.items()
    )
    return atoms, (one[:, None] + other + atoms.positions).reshape(-1, *atoms.positions.shape)


def simulate(folder: Path, snr: float, options: argparse.Namespace) -> None:
    """Particles to train on and new ones, each with its truth, unless they are there."""
    if (folder / "done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    count = options.particles + options.new
    motion = motion_of(options.case, folder)
    star = cs.simulate(**motion, out=folder, n_particles=count, snr=snr, seed=options.seed)
    if "reference_rotamers" in motion:
        shutil.copy(folder / "reference.cif", folder / "first.cif")
        (folder / "first.pdb").unlink()
    split(star, options.particles, count)
    (folder / "done").touch()


def measure(snr: float, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All numbers of one SNR."""
    simulate(folder, snr, options)
    star, first = folder / "trained.star", next(folder.glob("first.*"))
    run = trained(folder / "run", star, reference=first, steps=options.steps)
    seconds = {"train": run.metrics["seconds"][-1]}
    if not (home(run) / "seconds.json").exists():
        began = time.perf_counter()
        infer(run)
        write_json(home(run) / "seconds.json", {"infer": time.perf_counter() - began})
    seconds |= json.loads((home(run) / "seconds.json").read_text(encoding="utf-8"))
    other = trained(
        folder / "other", star, reference=folder / "last.pdb", steps=options.second_steps
    )
    new = (folder / "new.npz", folder / "new.star")
    second = other.evaluate(*new)  # before noise is known: then it has no posteriors to find
    if model_errors(run) is None:
        compare_runs(run, [other])
    errors = model_errors(run)
    assert errors is not None
    score = run.evaluate(*new)
    rows = evenly_spaced(1000, options.particles)
    told = run.posterior()
    sds = told.part(rows).structures(run.model.decoder)[1]
    return {
        "snr": snr,
        "encoder": {"mean": score.rmsd_mean, "most_open": score.rmsd_most_open},
        "second_encoder": {"mean": second.rmsd_mean, "most_open": second.rmsd_most_open},
        "posterior": score.posterior,
        "do_nothing": score.idle.rmsd_mean,
        "silent_of_training": float((told.information < SILENT).float().mean()),
        "information": torch.histc(told.information, 50, 0, 5).tolist(),  # particles, by 0.1 nats
        "node_sd": sds.square().mean(0).sqrt().tolist(),  # Å, of the posteriors
        "node_shared_sd": node_sd(errors).tolist(),
        "seconds": seconds,
        **{name: getattr(options, name) for name in OPTIONS},
    }


def percent(values: list[float]) -> str:
    return " / ".join(f"{100 * value:.0f}" for value in values)


def table(cells: list[dict[str, Any]]) -> str:
    """The numbers as a page."""
    first = cells[0]
    lines = [
        f"{CASES[first['case']]}: {first['particles']:,} particles, {first['steps']:,} steps,"
        f" {first['second_steps']:,} of the second run; errors of {first['new']:,} new particles,"
        f" Cα, in Å, unaligned: mean / last five states. {made_with(cells)}.",
        "",
        "| SNR | encoder | posterior mean | its sd | says nothing | training | inference |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cell in cells:
        encoder, told, seconds = cell["encoder"], cell["posterior"], cell["seconds"]
        lines.append(
            f"| {cell['snr']:g} | {encoder['mean']:.3f} / {encoder['most_open']:.3f}"
            f" | {told['rmsd_mean']:.3f} / {told['rmsd_most_open']:.3f} | {told['sd']:.2f}"
            f" | {told['silent']:.1%} | {seconds['train']:.0f} s | {seconds['infer']:.0f} s |"
        )
    lines += [
        "",
        "Of 100 intervals of 50 / 90 / 95 %, so many hold the truth:",
        "",
        "| SNR | along the motion | with shared errors | residues | with shared errors |"
        " shared errors, sd |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cell in cells:
        told = cell["posterior"]
        columns = [
            percent(told[f"coverage_{where}{shared}"])
            for where in ("along", "residues")
            for shared in ("", "_with_shared")
        ]
        lines.append(f"| {cell['snr']:g} | {' | '.join(columns)} | {told['shared_sd']:.2f} Å |")
    for cell in cells:
        if second := cell.get("second_encoder"):  # older cells lack it
            lines += [
                "",
                f"At an SNR of {cell['snr']:g} the encoder of the second run is wrong by"
                f" {second['mean']:.3f} / {second['most_open']:.3f} Å on the same new particles.",
            ]
    return "\n".join([*lines, ""])


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = options_of(__doc__, "posterior")
    add = parser.add_argument
    add("--case", choices=CASES, default="adk")
    add("--snr", nargs="+", type=float, default=[0.1, 0.01, 0.001])
    add("--particles", type=int, default=50_000, help="to train on")
    add("--new", type=int, default=5000, help="to compare with their truth")
    add("--steps", type=int, default=12_000)
    add("--second-steps", type=int, help="of the run beside it; half of --steps without")
    add("--seed", type=int, default=7, help="of the particles")
    options = parser.parse_args(words)
    options.second_steps = options.second_steps or options.steps // 2
    return options


def main(words: list[str] | None = None) -> None:
    """Make what is missing, and the table."""
    options, begin = parsed(words), partial(provenance_of, COMMAND)
    cells = [
        kept_cell(f"{options.case}_snr{snr:g}", options, partial(measure, snr, options), begin)
        for snr in options.snr
    ]
    name = "posterior" if options.case == "adk" else f"posterior_{options.case}"
    write_json(options.results / f"{name}.json", {"cells": cells})
    write_text(options.results / f"{name}.md", table(cells))


if __name__ == "__main__":
    main()
