"""What the benchmarks share: molecules, options, cells that are kept, and how a time is taken."""

import argparse
import datetime
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from scipy.spatial.distance import pdist

import cryostar_nb
from cryostar_nb.ctf import CTFParameters
from cryostar_nb.fourier import Band
from cryostar_nb.io.files import write_json
from cryostar_nb.io.structures import read_atoms_and_nodes
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import draw_poses
from cryostar_nb.structure import Structure, coarse_grain

HERE = Path(__file__).parent
RESULTS = HERE / "results"
KINASE, RUVB = (HERE.parent / "data" / name for name in ("1ake.pdb", "7pbl.pdb.gz"))
BATCH = 64
Parts = dict[str, Callable[[], Any]]

CHAIN_RESIDUES = (30, 2, 4)  # along x, y and z
RISE = 3.8  # Å from residue to residue along the chain
RESIDUE_VOLUME = 130.0  # Å^3, of a residue of a protein
RESIDUE_ATOMS = 8  # heavy atoms of a residue
SIDE_CHAIN = 1.5  # Å, along each axis, by which the others lie off its Cα


def options_of(description: str | None, folder: str) -> argparse.ArgumentParser:
    """The options that every benchmark with trainings has; `folder` is where it works."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=kind)
    work = HERE.parent / folder
    parser.add_argument("--work", type=Path, default=work, help="folder for all that is made")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the table")
    parser.add_argument("--keep", action="store_true", help="keep images and runs")
    return parser


def kept_cell(
    name: str,
    options: argparse.Namespace,
    make: Callable[[Path], dict[str, Any]],
    begin: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """A cell of a table, made in the folder of this name unless its JSON file is there.

    `begin` says, before it is made, with what. The folder is deleted then, unless it is to be kept.
    """
    path, folder = options.work / f"{name}.json", options.work / name
    if not path.exists():
        about = begin()
        write_json(path, make(folder) | about)
    if not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    cell: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return cell


def trained(out: Path, star: Path, **choice: Any) -> cryostar_nb.Run:
    """The run in a folder, trained on these particles unless it is there; a cut one goes on."""
    if (out / "latents.npy").exists():
        return cryostar_nb.open_run(out)
    if (out / "checkpoint.pt").exists():
        return cryostar_nb.train(out=out, resume=True)
    shutil.rmtree(out, ignore_errors=True)
    return cryostar_nb.train(star, out=out, **choice)


def split(star: Path, trained: int, count: int) -> None:
    """Beside simulated particles, trained.star and new.star: the first ones and the other ones.

    Each has its truth, trained.npz and new.npz.
    """
    with np.load(star.parent / "truth.npz") as arrays:
        truth = {name: arrays[name] for name in arrays.files}
    of_particles = ("state", "junk", "rotations", "shifts")
    for name, rows in (("trained", slice(0, trained)), ("new", slice(trained, count))):
        path = star.parent / f"{name}.star"
        cryostar_nb.select(star, out=path, indices=f"{rows.start}:{rows.stop}")
        part = {entry: truth[entry][rows] for entry in of_particles}
        about_all = {entry: truth[entry] for entry in ("positions", "reference_nodes")}
        np.savez(path.with_suffix(".npz"), **part, **about_all)


def synthetic_structure(count: int) -> Structure:
    """A compact stand-in for a complex of `count` residues, at the density of a protein.

    Chains of 240 residues run up and down. A node has 13 edges of an elastic network of 12 Å, as in
    a real complex: 12.7 in the spliceosome with 13,936 nodes. A residue has eight atoms, its Cα
    first.
    """
    spacing = np.sqrt(RESIDUE_VOLUME / RISE) * np.array([0, 1, 1]) + RISE * np.array([1, 0, 0])
    axes = np.meshgrid(*map(np.arange, CHAIN_RESIDUES), indexing="ij")
    x, y, z = (axis.flatten() for axis in axes)
    # Every line starts beside the end of the one before.
    order = np.lexsort((x * (-1) ** (y + z), y * (-1) ** z, z))
    chain = np.stack([x, y, z], axis=-1)[order] * spacing
    chains = -(-count // len(chain))
    cells = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    places = cells * spacing * CHAIN_RESIDUES
    places = places[np.argsort(np.linalg.norm(places, axis=-1), kind="stable")[:chains]]
    rng = np.random.default_rng(0)
    nodes = (places[:, None] + chain).reshape(-1, 3)[:count] + rng.normal(
        scale=0.2, size=(count, 3)
    )
    apart = rng.normal(scale=SIDE_CHAIN, size=(count, RESIDUE_ATOMS, 3))
    apart[:, 0] = 0
    residues = np.repeat(np.arange(count), RESIDUE_ATOMS)
    same = {"elements": "C", "residue_names": "ALA", "insertion_codes": "", "electrons": 6.0}
    return Structure(
        positions=((nodes - nodes.mean(0))[:, None] + apart).reshape(-1, 3),
        residue_numbers=residues % len(chain) + 1,
        chains=np.array([f"C{number}" for number in (residues // len(chain)).tolist()]),
        atom_names=np.tile(["CA", *(f"C{i}" for i in range(1, RESIDUE_ATOMS))], count),
        **{name: np.full(len(residues), value) for name, value in same.items()},
    )


def molecule(count: int) -> tuple[Structure, Structure]:
    """Atoms and nodes: adenylate kinase for 214 nodes, RuvB for 1,948, else synthetic."""
    files = {214: KINASE, 1948: RUVB}
    if count in files:
        return read_atoms_and_nodes(files[count])
    atoms = synthetic_structure(count)
    return atoms, coarse_grain(atoms)


def quarter_band(nodes: Structure, box_size: int) -> Band:
    """Frequencies up to half of Nyquist, as in the paper (1 Å pixels, 4 Å).

    Pixels are of at least 1 Å, and such that the box holds the molecule.
    """
    some = nodes.positions[:: max(1, len(nodes) // 1000)]
    pixel_size = max(1.0, 1.2 * float(pdist(some).max()) / box_size)
    return Band(box_size, pixel_size, 4 * pixel_size)


def particle_parameters(count: int) -> tuple[torch.Tensor, CTFParameters]:
    """Rotations and CTF parameters of `count` simulated particles, as float32."""
    drawn = draw_poses(SimulationConfig(n_particles=count), np.random.default_rng(0))
    assert drawn.ctf is not None
    return drawn.rotations.float(), drawn.ctf.to(torch.float32)


def milliseconds(
    parts: Parts, repeats: int, warm_up: int = 2, at_most: float = 30.0, device: str = "cpu"
) -> dict[str, float]:
    """Median time of each, interleaved so that a busy moment of the machine falls on all of them.

    Repeats stop after `at_most` seconds, but not before the third that counts. A GPU is waited for.
    """
    times: dict[str, list[float]] = {name: [] for name in parts}
    started = time.perf_counter()
    for repeat in range(warm_up + repeats):
        if repeat >= warm_up + 3 and time.perf_counter() - started > at_most:
            break
        for name, part in parts.items():
            wait(device)
            began = time.perf_counter()
            part()
            wait(device)
            if repeat >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def wait(device: str) -> None:
    """Until a GPU has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def machine(device: str = "cpu") -> dict[str, Any]:
    """What a figure was measured on, and when."""
    processor = _value("/proc/cpuinfo", "model name")
    kibibytes = _value("/proc/meminfo", "MemTotal")
    return {
        "date": datetime.date.today().isoformat(),
        "version": cryostar_nb.__version__,
        "processor": processor or "unknown",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(int(kibibytes.split()[0]) / 2**20, 1) if kibibytes else None,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "CPU",
        "torch": torch.__version__,
        "numba": numba.__version__,
        "load_average": round(os.getloadavg()[0], 2),
    }


def machine_line(of: dict[str, Any]) -> str:
    """The same as a sentence, for the head of a table."""
    device = "" if of["device"] == "CPU" else f"{of['device']}; "
    processor = (
        f"{of['processor']}, {of['cores']} cores, {of['threads']} threads, {of['memory_gib']:g} GiB"
    )
    versions = f"torch {of['torch']}, numba {of['numba']}"
    load = f"load average {of['load_average']:g} at the start."
    return f"{device}{processor}; {versions}; {of['date']}, {load}"


def made_with(cells: list[dict[str, Any]]) -> str:
    """Machine, version, commits and date of cells that were made one by one."""
    first, commits = cells[0], dict.fromkeys(cell["commit"] for cell in cells)
    return f"{first['machine']}; version {first['version']} ({', '.join(commits)}), {first['date']}"


def _value(path: str, name: str) -> str | None:
    """The value of a name in one of the files of Linux about a machine."""
    if not Path(path).exists():
        return None
    lines = (line.partition(":") for line in Path(path).read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), None)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its numbers to the right."""
    lines = [head, ["---" if column == 0 else "---:" for column in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def figures(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, and no exponent."""
    if value is None:
        return "–"
    return f"{value:,.{max(0, digits - 1 - int(np.floor(np.log10(value)))) if value > 0 else 0}f}"


def exponent(sizes: list[float], times: list[float]) -> float:
    """The p of time = a size^p that fits best, in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
