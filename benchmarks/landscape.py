"""How right populations are: those of a known mixture of two states, at three noise levels.

    python benchmarks/landscape.py --work FOLDER

For each SNR and each share of the first state, particles of adenylate kinase are simulated in two
populations, about 20 % and 80 % of the way from the closed to the open structure; the default
setting is trained on them, `infer` finds the posterior of every particle, and `landscape` their
populations along the first component. The share on the closed side of the middle of the way is
compared with that of the truth, beside the share of the latent means there. A second run of as many
steps, from the open structure, tells the error that a bootstrap cannot see. What is done is kept in
FOLDER and goes on from there; images are deleted at the end, unless `--keep`.
"""

import argparse
import shutil
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, KINASE, kept_cell, made_with, options_of, trained

import cryostar_nb as cs
from cryostar_nb.io.files import write_json, write_text
from cryostar_nb.runs.landscapes import populations_beside
from cryostar_nb.runs.posteriors import infer, was_inferred
from cryostar_nb.runs.run_config import LandscapeConfig

sys.path.append(str(HERE.parent / "book"))
from provenance import provenance_of

OPEN = HERE.parent / "data" / "4ake.pdb"
COMMAND = "python benchmarks/landscape.py"


def simulate(folder: Path, snr: float, share: float, options: argparse.Namespace) -> None:
    """Particles in two populations, unless they are there."""
    if (folder / "done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    cs.simulate(
        start=KINASE,
        end=OPEN,
        out=folder,
        n_particles=options.particles,
        snr=snr,
        populations="two",
        first_share=share,
        seed=options.seed,
    )
    (folder / "done").touch()


def inferred(folder: Path, name: str, reference: Path, steps: int) -> cs.Run:
    """A run of this name with its posteriors; what is missing of it is made."""
    run = trained(folder / name, folder / "particles.star", reference=reference, steps=steps)
    if not was_inferred(run):
        infer(run)
    return run


def score_of_the_middle(run: cs.Run, truth: dict[str, np.ndarray]) -> float:
    """The score on the first component whose structures stand in the middle of the true way.

    A structure's place on the way is its coordinate on the line from the first to the last state.
    """
    first, last = truth["positions"][0], truth["positions"][-1]
    line = (last - first) / np.square(last - first).sum()
    rows = np.linspace(0, len(run.latents) - 1, min(2000, len(run.latents))).astype(int)
    places = ((run.decode(run.latents[rows]).numpy() - first) * line).sum((1, 2))
    scores = run.components().scores[rows, 0].numpy()
    order = np.argsort(scores)
    width = max(1, len(rows) // 50)
    smooth = np.convolve(places[order], np.full(width, 1 / width), mode="valid")
    ahead = np.convolve(scores[order], np.full(width, 1 / width), mode="valid")
    return float(np.interp(0.5, np.maximum.accumulate(smooth), ahead))


def measure(snr: float, share: float, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All numbers of one SNR and one share."""
    simulate(folder, snr, share, options)
    run = inferred(folder, "run", KINASE, options.steps)
    with np.load(folder / "truth.npz") as arrays:
        truth = {name: arrays[name] for name in ("state", "positions")}
    began = time.perf_counter()
    found = run.landscape(quality=0.0)
    seconds = time.perf_counter() - began
    middle = score_of_the_middle(run, truth)
    above, error = found.share_above(middle)
    other = inferred(folder, "other", OPEN, options.steps)
    told = populations_beside(run, found.edges, other, LandscapeConfig(quality=0.0))
    by_other = replace(found, populations=told).share_above(middle)[0]
    scores = run.components().scores[:, 0].numpy()
    states = [{"share": state.share, "error": state.error} for state in found.states()]
    return {
        "snr": snr,
        "asked": share,
        "true": float((truth["state"] < (len(truth["positions"]) - 1) / 2).mean()),
        "found": 1 - above,
        "error": error,
        "by_other": 1 - by_other,
        "error_with_other": replace(found, others=told[None]).share_above(middle)[1],
        "bare": float((scores < middle).mean()),
        "states": states,
        "displacement": found.displacement.tolist(),
        "populations": found.populations.tolist(),
        "errors": found.errors.tolist(),
        "of_latent_means": found.bare.tolist(),
        "energies": found.energies.tolist(),
        "energy_errors": found.energy_errors.tolist(),
        "seconds": seconds,
        **{name: getattr(options, name) for name in ("particles", "steps", "seed")},
    }


def table(cells: list[dict[str, Any]]) -> str:
    """The numbers as a page."""
    first = cells[0]
    lines = [
        f"Adenylate kinase in two populations, {first['particles']:,} particles,"
        f" {first['steps']:,} steps; the part of the particles nearer to the closed end, in %."
        f" {made_with(cells)}.",
        "",
        "| SNR | true | by the posteriors | sd | by the second run | sd with it | off, in sd |"
        " latent means | states found | bins |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cell in cells:
        sd = cell["error_with_other"]
        off = (cell["found"] - cell["true"]) / sd if sd else float("nan")
        shares = (100 * cell[k] for k in ("true", "found", "error", "by_other", "error_with_other"))
        lines.append(
            f"| {cell['snr']:g} | {' | '.join(f'{share:.1f}' for share in shares)} | {off:+.1f}"
            f" | {100 * cell['bare']:.1f} | {len(cell['states'])} | {len(cell['populations'])} |"
        )
    return "\n".join([*lines, ""])


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = options_of(__doc__, "landscape")
    add = parser.add_argument
    add("--snr", nargs="+", type=float, default=[0.1, 0.01, 0.001])
    add("--share", nargs="+", type=float, default=[0.2, 0.5], help="of the first population")
    add("--particles", type=int, default=50_000)
    add("--steps", type=int, default=12_000)
    add("--seed", type=int, default=7, help="of the particles")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Make what is missing, and the table."""
    options, begin = parsed(words), partial(provenance_of, COMMAND)
    cells = [
        kept_cell(
            f"snr{snr:g}_share{share:g}", options, partial(measure, snr, share, options), begin
        )
        for snr, share in product(options.snr, options.share)
    ]
    write_json(options.results / "landscape.json", {"cells": cells})
    write_text(options.results / "landscape.md", table(cells))


if __name__ == "__main__":
    main()
