"""How good posteriors are: their means, their intervals, and the time that they take.

    python benchmarks/posterior.py --work FOLDER

For each SNR: particles of adenylate kinase are simulated, the default setting is trained on
`--particles` of them from the closed structure, and `infer` finds the posterior of every particle.
Then `--new` particles that training has not seen are compared with their truth: the encoder's
structures, the posterior's mean structures, and how often intervals hold the truth. Errors that all
particles share are told by a second run, from the open structure, with half as many steps. What is
done is kept in FOLDER and goes on from there; images are deleted at the end, unless `--keep`.
"""

import argparse
import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import HERE, KINASE, kept_cell, options_of, split

import cryostar_nb as cs
from cryostar_nb.calibration import SILENT, node_sd
from cryostar_nb.io.files import write_json, write_text
from cryostar_nb.latents import evenly_spaced
from cryostar_nb.runs.posteriors import compare_runs, home, infer, model_errors

sys.path.append(str(HERE.parent / "book"))
from provenance import provenance_of

OPEN = HERE.parent / "data" / "4ake.pdb"
COMMAND = "python benchmarks/posterior.py"


def simulate(folder: Path, snr: float, options: argparse.Namespace) -> None:
    """Particles to train on and new ones, each with its truth, unless they are there."""
    if (folder / "done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    count = options.particles + options.new
    star = cs.simulate(
        start=KINASE, end=OPEN, out=folder, n_particles=count, snr=snr, seed=options.seed
    )
    split(star, options.particles, count)
    (folder / "done").touch()


def trained(folder: Path, name: str, reference: Path, steps: int) -> cs.Run:
    """A run of this name, trained unless it is there."""
    out = folder / name
    if (out / "latents.npy").exists():
        return cs.open_run(out)
    if (out / "checkpoint.pt").exists():
        return cs.train(out=out, resume=True)
    return cs.train(folder / "trained.star", reference=reference, out=out, steps=steps)


def measure(snr: float, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All numbers of one SNR."""
    simulate(folder, snr, options)
    run = trained(folder, "run", KINASE, options.steps)
    seconds = {"train": run.metrics["seconds"][-1]}
    if not (home(run) / "seconds.json").exists():
        began = time.perf_counter()
        infer(run)
        write_json(home(run) / "seconds.json", {"infer": time.perf_counter() - began})
    seconds |= json.loads((home(run) / "seconds.json").read_text(encoding="utf-8"))
    if model_errors(run) is None:
        compare_runs(run, [trained(folder, "other", OPEN, options.steps // 2)])
    errors = model_errors(run)
    assert errors is not None
    score = run.evaluate(folder / "new.npz", folder / "new.star")
    rows = evenly_spaced(1000, options.particles)
    told = run.posterior()
    sds = told.part(rows).structures(run.model.decoder)[1]
    return {
        "snr": snr,
        "encoder": {"mean": score.rmsd_mean, "most_open": score.rmsd_most_open},
        "posterior": score.posterior,
        "do_nothing": score.idle.rmsd_mean,
        "silent_of_training": float((told.information < SILENT).float().mean()),
        "information": torch.histc(told.information, 50, 0, 5).tolist(),  # particles, by 0.1 nats
        "node_sd": sds.square().mean(0).sqrt().tolist(),  # Å, of the posteriors
        "node_shared_sd": node_sd(errors).tolist(),
        "seconds": seconds,
        **{name: getattr(options, name) for name in ("particles", "new", "steps", "seed")},
    }


def percent(values: list[float]) -> str:
    return " / ".join(f"{100 * value:.0f}" for value in values)


def table(cells: list[dict[str, Any]]) -> str:
    """The numbers as a page."""
    first = cells[0]
    lines = [
        f"Adenylate kinase, {first['particles']:,} particles, {first['steps']:,} steps; errors of"
        f" {first['new']:,} new particles, Cα, in Å, unaligned: mean / five most open states."
        f" {first['machine']}; version {first['version']}"
        f" ({', '.join(dict.fromkeys(cell['commit'] for cell in cells))}), {first['date']}.",
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
    return "\n".join([*lines, ""])


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = options_of(__doc__, "posterior")
    add = parser.add_argument
    add("--snr", nargs="+", type=float, default=[0.1, 0.01, 0.001])
    add("--particles", type=int, default=50_000, help="to train on")
    add("--new", type=int, default=5000, help="to compare with their truth")
    add("--steps", type=int, default=12_000)
    add("--seed", type=int, default=7, help="of the particles")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Make what is missing, and the table."""
    options, begin = parsed(words), partial(provenance_of, COMMAND)
    cells = [
        kept_cell(f"snr{snr:g}", options, partial(measure, snr, options), begin)
        for snr in options.snr
    ]
    write_json(options.results / "posterior.json", {"cells": cells})
    write_text(options.results / "posterior.md", table(cells))


if __name__ == "__main__":
    main()
