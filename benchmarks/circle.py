"""A motion that is a circle: how far trainings get, and whether the latent is a ring.

    python benchmarks/circle.py --work FOLDER

Two copies of adenylate kinase on a stiff arm are simulated, one of which turns by 360 degrees in
100 states (book/make_turning_pair.py). Each setting of SETTINGS is trained on the same particles
from the first state, and compared with the truth: errors per state, FSC-AUC as CryoBench defines
it, and the ring: the winding number and the order of the latents, and the largest step between
structures of neighbouring states. The posterior of every particle is found: its mean structure
stands beside the encoder's, how many of both are off by more than FAR, and the largest step between
the means of neighbouring states. What is done is kept in FOLDER and goes on from there; images are
deleted at the end, unless `--keep`.
"""

import argparse
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import HERE, figures, kept_cell, options_of, trained
from common import table as table_of

from cryostar_nb.evaluation import per_state, rmsd_to_truth
from cryostar_nb.geometry import rmsd
from cryostar_nb.io.files import write_json, write_text
from cryostar_nb.latents import principal_components

sys.path.append(str(HERE.parent / "book"))
import make_turning_pair
from provenance import provenance_of

COMMAND = "python benchmarks/circle.py"
SIZES = ("particles", "steps", "snr", "box", "pixel", "low_pass", "seed")
SHOWN = 1000  # particles whose latents are kept, to be drawn
FAR = 10.0  # Å, by which a structure is on the wrong side
STIFF_CHAIN = {
    "decoder": "chain",
    "elastic_weight": 5.0,
    "final_elastic_weight": 1.0,
    "relaxation_percentile": 100.0,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "along chains, stiff": STIFF_CHAIN,
    "the same, 2,500 steps": STIFF_CHAIN | {"steps": 2500},
}


def particles_of(options: argparse.Namespace) -> Path:
    """The folder of the particles, simulated unless they are there."""
    folder: Path = options.work / "particles"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make_turning_pair.main(
            folder,
            n_particles=options.particles,
            box_size=options.box,
            pixel_size=options.pixel,
            snr=options.snr,
            seed=options.seed,
        )
        (folder / "done").touch()
    return folder


def ring(points: torch.Tensor, states: torch.Tensor, count: int) -> dict[str, Any]:
    """Whether points of particles, (particle, dimension), lie on a ring in the order of the states.

    They are seen in the plane of their first two principal components, as angles about the middle
    of the states' mean points. `winding` is how often these means go around it, once through all
    states and back to the first: 1 for a ring, 0 for a line that goes out and back. `order` is the
    length of the mean of exp(i (angle - true angle)) over the particles, in the better of both
    directions: 1 where both angles agree but for a turn, 0 by chance.
    """
    scores = principal_components(points).scores[:, :2].double()
    means = torch.stack([scores[states == state].mean(0) for state in range(count)])
    angles = torch.view_as_complex((scores - means.mean(0)).contiguous()).angle()
    around = torch.view_as_complex((means - means.mean(0)).contiguous()).angle()
    steps = torch.remainder(around.roll(-1) - around + torch.pi, 2 * torch.pi) - torch.pi
    true = states * (2 * torch.pi / count)
    apart = torch.stack([angles - true, angles + true])
    order = torch.polar(torch.ones_like(apart), apart).mean(1).abs().max()
    return {"winding": round(abs(float(steps.sum())) / (2 * np.pi)), "order": float(order)}


def spread_of(errors: torch.Tensor) -> dict[str, float]:
    """Mean and median of the errors of the particles, in Å, and the share beyond FAR."""
    far = float((errors > FAR).double().mean())
    return {"rmsd": float(errors.mean()), "median": float(errors.median()), "far": far}


def seconds_of_a_step(metrics: dict[str, list[float]]) -> float:
    """The median over the lines of a log: a pause of the machine does not count."""
    seconds, steps = (np.diff([0, *metrics[name]]) for name in ("seconds", "step"))
    return float(np.median(seconds[steps > 0] / steps[steps > 0]))


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All numbers of one setting."""
    particles = particles_of(options)
    star, reference = particles / "particles.star", particles / "motion.pdb"
    same = {"steps": options.steps, "low_pass": options.low_pass, "poses": "given"}
    run = trained(folder / "run", star, reference=reference, **(same | SETTINGS[name]))
    told, began = run.posterior(), time.perf_counter()
    score = run.evaluate(particles / "truth.npz")
    with np.load(particles / "truth.npz") as truth:
        states = torch.from_numpy(truth["state"]).long()
        true = torch.from_numpy(truth["positions"]).float()
    count = len(true)
    means = [run.latents[states == state].mean(0) for state in range(count)]
    path = run.decode(torch.stack(means))
    some = slice(0, 2000)
    structures = run.decode(run.latents[some]).flatten(1)
    scores = principal_components(run.latents).scores[:SHOWN, :2]
    likely = torch.cat(
        [
            told.part(rows).structures(run.model.decoder)[0]
            for rows in torch.arange(len(states)).split(500)
        ]
    )
    errors = rmsd(likely, true[states])
    told_path = torch.stack([likely[states == state].mean(0) for state in range(count)])
    assert score.volumes is not None
    return {
        "setting": name,
        "options": SETTINGS[name],
        "rmsd": score.rmsd_mean,
        "rmsd_per_state": score.rmsd_per_state,
        "encoder": spread_of(rmsd_to_truth(run.model.decoder, run.latents, true, states)),
        "posterior": spread_of(errors),
        "posterior_per_state": per_state(errors, states, count)[0],
        "idle": score.idle.rmsd_mean,
        "idle_per_state": score.idle.rmsd_per_state,
        "volumes": score.volumes,
        "ring_of_latents": ring(run.latents, states, count),
        "ring_of_structures": ring(structures, states[some], count),
        "largest_step": float(rmsd(path.roll(-1, 0), path).max()),
        "largest_step_of_posteriors": float(rmsd(told_path.roll(-1, 0), told_path).max()),
        "true_step": float(rmsd(true[1], true[0])),
        "training_seconds": run.step * seconds_of_a_step(run.metrics),
        "evaluation_seconds": time.perf_counter() - began,
        "latents": scores.numpy().round(2).tolist(),
        "states": states[: len(scores)].tolist(),
        "geometry": make_turning_pair.report(*make_turning_pair.molecule()),
        **{name: getattr(options, name) for name in SIZES},
    }


def table(cells: list[dict[str, Any]]) -> str:
    """The numbers as a page."""
    first = cells[0]
    head = ["setting", "RMSD, Å", "median state", "worst state", f"beyond {FAR:g} Å"]
    head += ["FSC-AUC, image", "conformation", "winding", "order", "largest step, Å", "minutes"]
    idle, volumes = first["idle_per_state"], first["volumes"]
    nothing = [*map(figures, (first["idle"], np.median(idle), max(idle))), ""]
    nothing += 2 * [figures(volumes["fsc_auc_do_nothing"])]
    rows = [["doing nothing", *nothing, *4 * [""]]]
    told = []
    for cell in cells:
        states, areas, latents = cell["rmsd_per_state"], cell["volumes"], cell["ring_of_latents"]
        row = [figures(value) for value in (cell["rmsd"], np.median(states), max(states))]
        row += [f"{cell['encoder']['far']:.1%}"]
        row += [figures(areas[f"fsc_auc_per_{kind}"]) for kind in ("image", "conformation")]
        row += [str(latents["winding"]), f"{latents['order']:.2f}", figures(cell["largest_step"])]
        rows.append([cell["setting"], *row, figures(cell["training_seconds"] / 60, 2)])
        mean, states = cell["posterior"], cell["posterior_per_state"]
        row = [figures(value) for value in (mean["rmsd"], np.median(states), max(states))]
        row += [f"{mean['far']:.1%}", figures(cell["largest_step_of_posteriors"])]
        told.append([cell["setting"], *row])
    return (
        f"Two copies of adenylate kinase, one of which turns a full circle; {first['particles']:,}"
        f" particles of {first['box']}² at {first['pixel']:g} Å, SNR {first['snr']:g},"
        f" {first['steps']:,} steps, compared to {max(first['low_pass'], 2 * first['pixel']):g} Å."
        f" The highest FSC-AUC, of equal densities, is"
        f" {volumes['fsc_auc_highest']:.3f}; a true step between states is"
        f" {first['true_step']:.2f} Å. {first['machine']}, shared; version {first['version']}"
        f" ({first['commit']}), {first['date']}."
        f"\n\nThe encoder's structures:\n\n{table_of(head, rows)}"
        f"\nThe means of the posteriors:\n\n{table_of([*head[:5], head[9]], told)}"
    )


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = options_of(__doc__, "circle")
    add = parser.add_argument
    add("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    add("--particles", type=int, default=20_000)
    add("--steps", type=int, default=3_000)
    add("--snr", type=float, default=0.01)
    add("--box", type=int, default=128, help="pixels along an edge")
    add("--pixel", type=float, default=3.0, help="Å")
    add("--low-pass", type=float, default=4.0, help="Å; the default of trainings is 4")
    add("--seed", type=int, default=7, help="of the particles")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Make what is missing, and the table."""
    options, begin = parsed(words), partial(provenance_of, COMMAND)
    cells = [
        kept_cell(name, options, partial(measure, name, options), begin)
        for name in options.settings
    ]
    write_json(options.results / "circle.json", {"cells": cells})
    write_text(options.results / "circle.md", table(cells))
    if not options.keep:
        shutil.rmtree(options.work / "particles", ignore_errors=True)


if __name__ == "__main__":
    main()
