"""Does the doctor name every fault, and every pair of faults? `make sweep`.

    python tests/doctor_sweep.py [--which all|singly|others] [--config.snr 0.05] [...]

On simulated particles of adenylate kinase. Then what is not a fault of the list: a pixel size off
by a factor of two, the model of another molecule or of another state, and the map of another
molecule. Not part of the suite: each of the 132 data sets takes the doctor about ten seconds. Ends
with exit code 1 if one verdict is wrong.
"""

import dataclasses
import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import faults
import numpy as np
import torch
import tyro

from cryostar_nb.density import model_density
from cryostar_nb.doctor.diagnosis import diagnose
from cryostar_nb.io.maps import DensityMap
from cryostar_nb.io.metadata import Poses
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.star import write_star
from cryostar_nb.io.structures import read_structure
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import draw_poses, new_particles, simulate

DATA = Path(__file__).parent.parent / "data"
CLOSED, OPEN = DATA / "1ake.pdb", DATA / "4ake.pdb"
CONFIG = SimulationConfig(n_particles=500, snr=0.05, states=50, box_size=64, pixel_size=2.0)


def simulated(config, folder, *, with_ctf):
    """Particles with shifts of 5 Å, sd, and their images, with a CTF or without it.

    The noise and the file are the same for both.
    """
    rng = np.random.default_rng(config.seed)
    drawn = draw_poses(config, rng)
    shifts = torch.from_numpy(rng.normal(0, 5, (config.n_particles, 2)).clip(-15, 15))
    zero = torch.zeros_like(drawn.ctf.defocus_u)
    names = ("defocus_u", "defocus_v", "spherical_aberration_mm", "amplitude_contrast")
    none = dataclasses.replace(drawn.ctf, **dict.fromkeys(names, zero), phase_shift_deg=zero + 90)
    poses = Poses(drawn.rotations, shifts, drawn.ctf if with_ctf else none)
    star = folder / "poses.star"
    write_star(star, new_particles(config, star, poses))
    simulate(config, start=CLOSED, end=OPEN, out=folder, poses=star)
    particles = dataclasses.replace(read_particles(folder / "particles.star"), ctf=drawn.ctf)
    return particles, particles.images(slice(None))


def others(particles, images, without_ctf, folder):
    """Name, particles, references and the right verdict of what is not a fault or a pair."""
    closed, opened = read_structure(CLOSED), read_structure(OPEN)
    foreign = read_structure(DATA / "7pbl.pdb.gz")
    foreign = foreign[foreign.chains == foreign.chains[0]]
    foreign = foreign.with_positions(foreign.positions - foreign.positions.mean(axis=0))
    more = ((), ("contrast sign",), ("transpose",))
    for factor, moved, case in itertools.product((0.5, 2.0), (True, False), more):
        stack = folder / f"others{len(case)}{''.join(case)[:1]}.mrcs"
        spoilt = faults.write_spoilt(particles, images, case, stack)
        shifts = spoilt.shifts * (factor if moved else 1)
        wrong = dataclasses.replace(spoilt, pixel_size=spoilt.pixel_size * factor, shifts=shifts)
        right = "shifts in pixels right" if moved else "shifts in Å right"
        name = " + ".join([*case, f"pixels {factor:g} times as large", right])
        yield name, wrong, {"atoms": closed}, " + ".join([*case, "pixel size"])
    sound = faults.write_spoilt(particles, images, (), folder / "others.mrcs")
    closed_map, foreign_map = (map_of(atoms, particles) for atoms in (closed, foreign))
    yield "a model of another molecule", sound, {"atoms": foreign}, "undecided"
    both = {"atoms": closed, "density_map": foreign_map}
    yield "a map of another molecule", sound, both, "undecided"
    both = {"atoms": foreign, "density_map": closed_map}
    yield "a model of another molecule, a right map", sound, both, "undecided"
    yield "a model of another state", sound, {"atoms": opened}, "ok"
    yield "a model of another state, CTF off", without_ctf, {"atoms": opened}, "CTF off"


def map_of(atoms, particles):
    positions, electrons = map(torch.from_numpy, (atoms.positions, atoms.electrons))
    grid = {"box_size": particles.box_size, "pixel_size": particles.pixel_size}
    values = model_density(positions.float(), electrons.float(), 1.5, **grid)
    return DensityMap(values, particles.pixel_size, np.zeros(3))


def cases(config):
    """No fault, every fault, and every pair that can go together."""
    usable = [
        fault
        for fault in faults.ALL
        if not (config.pixel_size == 1 and faults.NAMES.get(fault) == "origin unit")
    ]
    pairs = [
        pair
        for pair in itertools.combinations(usable, 2)
        if faults.family(pair[0]) != faults.family(pair[1])
    ]
    return [(), *((fault,) for fault in usable)], pairs


def data_sets(which, config, folder):
    """Name, particles, references and the right verdict of every data set."""
    simulations = {
        with_ctf: simulated(config, folder / str(with_ctf), with_ctf=with_ctf)
        for with_ctf in (True, False)
    }
    single, pairs = cases(config)
    model = read_structure(CLOSED)
    for case in {"all": single + pairs, "singly": single, "others": []}[which]:
        particles, images = simulations["CTF off" not in case]
        spoilt = faults.write_spoilt(particles, images, case, folder / "spoilt.mrcs")
        positions = faults.spoil_model(torch.from_numpy(model.positions), case)
        against = {"atoms": model.with_positions(positions.numpy())}
        yield " + ".join(case) or "nothing", spoilt, against, faults.verdict(case)
    yield from others(*simulations[True], simulations[False][0], folder)


def main(
    which: Literal["all", "singly", "others"] = "all", config: SimulationConfig = CONFIG
) -> None:
    """Diagnose every data set, or no pairs, or no fault of the list."""
    torch.set_num_threads(1)
    tried, wrong, began = 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        for title, particles, against, expected in data_sets(which, config, Path(name)):
            used = time.process_time()
            verdict = diagnose(particles, **against).verdict
            seconds = time.process_time() - used
            tried, wrong = tried + 1, wrong + (verdict != expected)
            remark = "" if verdict == expected else f"  WRONG, should be {expected}"
            print(f"{title:40} -> {verdict}{remark}  ({seconds:.0f} s)", flush=True)
    print(f"{tried - wrong} of {tried} right, {time.monotonic() - began:.0f} s")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
