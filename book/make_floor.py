"""Compute the information floor of adenylate kinase and write it to `book/results/floor_adk.json`.

    python book/make_floor.py [--particles 4000] [--seed 0] [--out book/results/floor_adk.json]

Poses, defoci, box and density are those of Table 1, the path is the straight morph of 50 states.
The floor is computed at the ladder of SNRs in our definition (variance over the whole box) and in
that over a mask (the disc and the silhouette of `simulation.floor.signal_measures`), on a fine grid
for the curve, for images without detail finer than 4 Å (as in training), and for images without
CTF. A few minutes on one core.
"""

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import processor, provenance_of

from cryostar_nb.io.files import write_json
from cryostar_nb.simulation.floor import InformationFloor, information_floor, signal_measures
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import SNR_DEFINITION, load_path

BOOK = Path(__file__).parent
DATA = BOOK.parent / "data"
LADDER = (1.0, 0.1, 0.05, 0.01, 0.001, 0.0001)
GRID = tuple(float(snr) for snr in np.round(10.0 ** np.arange(-6, 0.01, 0.25), 12))
CURVES = ("rms", "rms_error", "mean", "mean_error", "lowest_mean", "lowest_mean_error")
TABLE_1 = 0.0001  # the SNR that the paper prints, without a definition
TARGETS = (0.5, 1.0, 1.5)  # Å
LOW_PASS = 4.0  # Å
DRAWS = 4  # of the noise


def main() -> None:
    """Compute, write, and print the table."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    text = "poses and defoci; each shows every state"
    parser.add_argument("--particles", type=int, default=4000, help=text)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=BOOK / "results" / "floor_adk.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    config = SimulationConfig(n_particles=arguments.particles, seed=arguments.seed)
    result = compute(config)
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    command = " ".join(["python", "book/make_floor.py", *sys.argv[1:]])
    provenance = provenance_of(command) | {
        "machine": machine,
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(arguments.out, provenance | result)
    table = result["floors"]
    titles = "".join(f"{name:>20s}" for name in table)
    print(f"SNR        {titles}      (mean RMSD of the posterior mean, Å)")
    for i, snr in enumerate(LADDER):
        columns = (f"{row['mean'][i]:12.4f} ±{row['mean_error'][i]:.4f}" for row in table.values())
        print(f"{snr:<11g}{''.join(columns)}")
    idle = result["always_the_mean_structure"]["mean"]
    print(f"always the mean structure: {idle:.2f} Å; wrote {arguments.out}")


def compute(config: SimulationConfig) -> dict[str, Any]:
    """The floors, the ratios of the signal's measures, and what follows for Table 1."""
    few = dataclasses.replace(config, n_particles=max(2, config.n_particles // 8))
    atoms, path = load_path(config, DATA / "1ake.pdb", DATA / "4ake.pdb")
    measures = signal_measures(atoms, path, config)
    ratios = {name: value / measures["box"] for name, value in measures.items()}
    names = ("box", "disc", "silhouette")
    ladders = [snr / ratios[name] for name in names for snr in LADDER]
    floor = information_floor(atoms, path, config, [*ladders, *GRID], draws=DRAWS)
    blurred = information_floor(atoms, path, few, LADDER, low_pass=LOW_PASS, draws=DRAWS)
    without_ctf = information_floor(atoms, path, few, LADDER, ctf=False, draws=DRAWS)
    steps = len(LADDER)
    few_particles = {"snr": list(LADDER), "n_particles": few.n_particles}
    curve = {"snr": list(GRID)} | rows(floor, 3 * steps, len(GRID))
    step = (path[1] - path[0])[atoms.atom_names == "CA"]
    return {
        "config": dataclasses.asdict(config) | {"snr": None, "draws": DRAWS},
        "snr_definition": SNR_DEFINITION,
        "spacing": float(np.sqrt(np.square(step).sum(-1).mean())),
        "always_the_mean_structure": {
            "mean": floor.prior_mean,
            "rms": floor.prior_rms,
            "per_state": floor.prior_per_state.tolist(),
        },
        "ratio_to_box": ratios,
        "floors": {
            name: {"snr": list(LADDER)} | rows(floor, steps * i, steps, per_state=True)
            for i, name in enumerate(names)
        },
        "curve": curve,
        "low_pass_4": few_particles | rows(blurred, 0, steps),
        "without_ctf": few_particles | rows(without_ctf, 0, steps),
        "table_1": table_1(curve, ratios),
    }


def rows(
    floor: InformationFloor, first: int, count: int, *, per_state: bool = False
) -> dict[str, Any]:
    """A stretch of the levels, rounded to 1e-5 Å."""
    names = (*CURVES, "per_state", "per_state_error") if per_state else CURVES
    return {
        name: np.round(getattr(floor, name)[first : first + count], 5).tolist() for name in names
    }


def table_1(curve: dict[str, Any], ratios: dict[str, float]) -> dict[str, Any]:
    """What an SNR of 0.0001 is in our definition, for every measure of the signal.

    With the floor there, and the SNRs that some accuracies need.
    """
    logarithms = np.log10(curve["snr"])
    equivalents = {name: TABLE_1 / ratio for name, ratio in ratios.items()}
    return {
        "snr": TABLE_1,
        "box_snr_if_the_signal_is": equivalents,
        "mean_floor_if_the_signal_is": {
            name: round(float(np.interp(np.log10(snr), logarithms, curve["mean"])), 3)
            for name, snr in equivalents.items()
        },
        "box_snr_for_a_mean_floor_of": {
            f"{target:g}": float(10 ** np.interp(-target, -np.array(curve["mean"]), logarithms))
            for target in TARGETS
        },
    }


if __name__ == "__main__":
    main()
