"""Whether maps of a run's particles are right, and of the right states, and how long they take.

    python benchmarks/reconstruct.py --work FOLDER

Particles of adenylate kinase and of RuvB (one subunit of which opens) are simulated, and the
default setting is trained on them for a few steps. `reconstruct` makes five maps along the first
component. Each is compared with the true density of its particles, the mean of the densities of
their states, and with that of every single state: the state that it correlates with most should be
that of its particles. Beside it stands the map of all particles. Then the insertion of slices is
timed: compiled, by PyTorch's index_add_, and by torch-fourier-slice where it is installed. What is
done is kept in FOLDER.
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
from common import (
    HERE,
    KINASE,
    RUVB,
    kept_cell,
    machine,
    machine_line,
    milliseconds,
    options_of,
)

import cryostar_nb as cs
from cryostar_nb.density import atom_sigma, model_density
from cryostar_nb.fourier import Band, first_crossing, shell_correlation
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.files import write_json, write_text
from cryostar_nb.pages.terminal import angstroms
from cryostar_nb.reconstruction import PADDING, Slices
from cryostar_nb.runs.maps import Maps
from cryostar_nb.runs.parts import parts_of
from cryostar_nb.runs.run_config import MapConfig
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import load_path

sys.path.append(str(HERE.parent / "book"))
from make_complex import MOTION, write_motion
from provenance import provenance_of

OPEN = HERE.parent / "data" / "4ake.pdb"
STATES = 50
SYSTEMS: dict[str, dict[str, Any]] = {
    "adk": {"box_size": 128, "pixel_size": 1.0, "populations": "uniform"},
    "7pbl": {"box_size": 96, "pixel_size": 2.0, "populations": "two", "resolution": 4.0},
}
SEVERAL = 16  # images that each way of inserting is timed with


def ends_of(system: str, folder: Path) -> dict[str, Path]:
    """What a simulation and its path start from."""
    if system == "adk":
        return {"start": KINASE, "end": OPEN}
    folder.mkdir(parents=True, exist_ok=True)
    return write_motion(cs.read_structure(RUVB), MOTION, STATES, folder)


def trained(system: str, folder: Path, options: argparse.Namespace) -> tuple[cs.Run, dict]:
    """A run on simulated particles, made unless it is there, and the ends of their path."""
    ends, star = ends_of(system, folder), folder / "particles.star"
    if not star.exists():
        count = options.particles if system == "adk" else options.particles // 5
        values = SYSTEMS[system] | {"states": STATES, "snr": options.snr, "seed": options.seed}
        cs.simulate(**ends, out=folder, n_particles=count, **values)
    out = folder / "run"
    if not (out / "latents.npy").exists():
        shutil.rmtree(out, ignore_errors=True)
        reference = {"adk": KINASE, "7pbl": RUVB}[system]
        steps = options.steps if system == "adk" else options.steps // 6
        cs.train(star, reference=reference, out=out, steps=steps, seed=options.seed)
    return cs.open_run(out), ends


class Truth:
    """The densities of the states, and of mixtures of them."""

    def __init__(self, system: str, ends: dict, folder: Path) -> None:
        values = SYSTEMS[system] | {"states": STATES}
        config = SimulationConfig(**values)
        atoms, self.path = load_path(config, **ends)
        self.electrons = torch.from_numpy(atoms.electrons).float()
        self.sigma, self.grid = atom_sigma(config.resolution), SYSTEMS[system]
        with np.load(folder / "truth.npz") as arrays:
            self.state = torch.from_numpy(arrays["state"])

    def density(self, state: int) -> torch.Tensor:
        """That of a state, on the grid of the particles."""
        grid = {name: self.grid[name] for name in ("box_size", "pixel_size")}
        positions = torch.from_numpy(self.path[state])
        return model_density(positions, self.electrons, self.sigma, **grid)


def resolution(first: torch.Tensor, second: torch.Tensor, pixel_size: float) -> float | None:
    return first_crossing(*shell_correlation(first, second, pixel_size=pixel_size))


def compared(system: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All numbers of one molecule."""
    run, ends = trained(system, folder, options)
    seconds: dict[str, dict[str, float]] = {}

    def timed(name: str, **choice: Any) -> Maps:
        clocks = time.perf_counter, time.process_time
        began = [clock() for clock in clocks]
        made = run.maps(**choice)
        ended = [clock() - start for clock, start in zip(clocks, began, strict=True)]
        seconds[name] = dict(zip(("wall", "cores"), ended, strict=True))
        return made

    run.quality  # noqa: B018 - found once, and kept
    maps = timed("the maps of the bins", bins=options.bins)
    everything = f"0:{len(run.particles)}"
    whole = timed("one map of all", indices=everything, out=folder / "consensus")
    truth, pixel_size = Truth(system, ends, folder), SYSTEMS[system]["pixel_size"]
    weights = parts_of(run, MapConfig(bins=options.bins))[1]
    counts = torch.zeros(STATES, options.bins).index_add_(0, truth.state, weights)
    found = [cs.read_map(maps.path(number)).values for number in range(options.bins)]
    consensus = cs.read_map(whole.path(0)).values
    means = [torch.zeros_like(consensus) for _ in found]
    correlations = np.zeros((STATES, options.bins))
    for state in range(STATES):
        density = truth.density(state)
        for number, values in enumerate(found):
            means[number] += density * counts[state, number] / counts[:, number].sum()
            pair = torch.stack([density.flatten(), values.flatten()])
            correlations[state, number] = torch.corrcoef(pair)[0, 1]
    own = (counts * torch.arange(STATES)[:, None]).sum(0) / counts.sum(0)
    bins = [
        {
            "particles": one.particles,
            "mean_state": float(own[number]) + 1,
            "best_state": int(correlations[:, number].argmax()) + 1,
            "halves": one.resolution,
            "model": one.model_resolution,
            "truth": resolution(found[number], means[number], pixel_size),
            "consensus_to_truth": resolution(consensus, means[number], pixel_size),
            "disagreeing": len(one.disagreeing),
            "correlations": correlations[:, number].tolist(),
            "fsc_truth": curve(found[number], means[number], pixel_size),
            "fsc_consensus": curve(consensus, means[number], pixel_size),
            "fsc_halves": one.fsc_halves,
            "fsc_model": one.fsc_model,
        }
        for number, one in enumerate(maps.maps)
    ]
    score = run.evaluate(folder / "truth.npz")
    about = {"steps": run.step, "snr": options.snr, "seed": options.seed}
    return {
        "system": system,
        "particles": len(run.particles),
        "box_size": SYSTEMS[system]["box_size"],
        "pixel_size": pixel_size,
        "rmsd_mean": score.rmsd_mean,
        "do_nothing": score.idle.rmsd_mean,
        "volumes": score.volumes,
        "bins": bins,
        "frequencies": maps.maps[0].frequencies,
        "one_map": {"halves": whole.maps[0].resolution},
        "seconds": seconds,
        **about,
    }


def curve(first: torch.Tensor, second: torch.Tensor, pixel_size: float) -> list[float]:
    return shell_correlation(first, second, pixel_size=pixel_size)[1].tolist()


def by_index_add(
    slices: Slices, vectors: torch.Tensor, transfers: torch.Tensor, rotations: torch.Tensor
) -> None:
    """What `Slices.add` does to one volume, in PyTorch."""
    kx, ky = slices.band.indices.float().T
    axes = PADDING * rotations[:, :2]
    places = kx[:, None] * axes[:, None, 0] + ky[:, None] * axes[:, None, 1]
    sign = torch.where(places[..., :1] < 0, -1.0, 1.0)
    size, middle = slices.grid.shape[1], slices.grid.shape[1] // 2
    places = places * sign + torch.tensor([0, middle, middle])
    corner = places.floor()
    part, corner = places - corner, corner.long()
    real, imaginary = (vectors * slices.band.per_coefficient(transfers)).chunk(2, dim=-1)
    numbers = torch.stack([real, imaginary * sign[..., 0], transfers.square()], dim=-1)
    target = slices.grid[0].view(-1, 3)
    columns = slices.grid.shape[3] // 3
    for step in torch.cartesian_prod(*[torch.arange(2)] * 3):
        weight = torch.where(step == 1, part, 1 - part).prod(-1, keepdim=True)
        x, y, z = (corner + step).unbind(-1)
        flat = ((z * size + y) * columns + x).flatten()
        target.index_add_(0, flat, (weight * numbers).flatten(0, 1))


def by_torch_fourier_slice(
    size: int, images: torch.Tensor, squares: torch.Tensor, rotations: torch.Tensor
) -> None:
    """The same by its two insertions, whose images are as large as the padded volume."""
    from torch_fourier_slice.slice_insertion import insert_central_slices_rfft_3d

    for values in (images, squares):
        insert_central_slices_rfft_3d(
            values, volume_shape=(size,) * 3, rotation_matrices=rotations, fftfreq_max=0.25
        )


def insertion_times() -> dict[str, Any]:
    """Milliseconds for an image of 128 x 128 pixels up to Nyquist, by each way."""
    band, generator = Band(128, 1.0, 2.0), torch.Generator().manual_seed(0)
    vectors = torch.randn(SEVERAL, band.size, generator=generator)
    transfers = torch.randn(SEVERAL, len(band.indices), generator=generator)
    rotations = torch.from_numpy(random_rotations(SEVERAL, np.random.default_rng(0))).float()
    slices, weights = Slices.none(band, 1), torch.ones(SEVERAL, 1)
    parts = {
        "compiled": lambda: slices.add(vectors, transfers, rotations, weights),
        "index_add_": lambda: by_index_add(slices, vectors, transfers, rotations),
    }
    try:
        import torch_fourier_slice  # noqa: F401

        padded = torch.zeros(SEVERAL, 256, 129, dtype=torch.complex64)
        parts["torch-fourier-slice"] = lambda: by_torch_fourier_slice(
            256, padded, padded.clone(), rotations
        )
    except ImportError:
        pass
    return {name: value / SEVERAL for name, value in milliseconds(parts, 5).items()}


def table(cells: list[dict[str, Any]], insertion: dict[str, Any]) -> str:
    """The numbers as a page."""
    lines = []
    for cell in cells:
        name = {"adk": "Adenylate kinase", "7pbl": "RuvB"}[cell["system"]]
        pixels = f"{cell['box_size']}² pixels of {cell['pixel_size']:g} Å"
        lines += [
            f"{name}: {cell['particles']:,} particles, {pixels}, SNR {cell['snr']:g};"
            f" {cell['steps']:,} steps, mean error {cell['rmsd_mean']:.2f} Å"
            f" (doing nothing: {cell['do_nothing']:.2f} Å). Version {cell['version']}"
            f" ({cell['commit']}), {cell['date']}.",
            "",
            "| bin | mean true state | state it is most like | half-maps 0.143 | map to truth 0.5 |"
            " map of all to truth 0.5 | map to model 0.5 | residues that disagree |",
            "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for number, one in enumerate(cell["bins"], start=1):
            numbers = [one["halves"], one["truth"], one["consensus_to_truth"], one["model"]]
            values = " | ".join(map(angstroms, numbers))
            lines.append(
                f"| {number} | {one['mean_state']:.1f} | {one['best_state']} | {values} |"
                f" {one['disagreeing']} |"
            )
        times = ", ".join(
            f"{name} {value['wall']:.0f} s, of which cores computed {value['cores']:.0f} s in sum"
            for name, value in cell["seconds"].items()
        )
        lines += ["", f"Time: {times}; {machine_line(cell['on'])}", ""]
    times = ", ".join(f"{name} {value:.2f} ms" for name, value in insertion["times"].items())
    lines += [f"Insertion of one image of 128² pixels, up to Nyquist: {times}."]
    lines += [machine_line(insertion["on"]), ""]
    return "\n".join(lines)


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = options_of(__doc__, "maps")
    add = parser.add_argument
    add("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    add("--particles", type=int, default=50_000, help="of adenylate kinase; of RuvB a fifth")
    add("--snr", type=float, default=0.1)
    add("--steps", type=int, default=3000, help="for adenylate kinase; for RuvB a sixth of them")
    add("--bins", type=int, default=5)
    add("--seed", type=int, default=3)
    return parser.parse_args(words)


def begun() -> dict[str, Any]:
    """With what a cell is made."""
    return provenance_of("python benchmarks/reconstruct.py") | {"on": machine()}


def main(words: list[str] | None = None) -> None:
    """Make what is missing, and the table."""
    options = parsed(words)
    cells = [
        kept_cell(system, options, partial(compared, system, options), begun)
        for system in options.systems
    ]
    insertion = {"on": machine(), "times": insertion_times()}
    values = {"cells": cells, "insertion": insertion}
    write_json(options.results / "reconstruct.json", values)
    write_text(options.results / "reconstruct.md", table(cells, insertion))


if __name__ == "__main__":
    main()
