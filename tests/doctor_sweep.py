"""Every fault, and every pair of faults, on simulated particles of adenylate kinase: does the doctor name it? `make sweep`.

    python tests/doctor_sweep.py [--n-particles 500] [--snr 0.05] [--states 50] [--box-size 64] [--pixel-size 2] [--singly | --others]

Then what is not a fault of this list: a pixel size off by a factor of two, the model of another molecule or of another state,
and the map of another molecule. Not part of the suite: each of the 132 data sets takes the doctor about ten seconds. Ends with
exit code 1 if one is wrong.
"""

import argparse
import dataclasses
import itertools
import sys
import tempfile
import time
from pathlib import Path

import faults
import numpy as np
import torch

from cryostar_nb.density import model_density
from cryostar_nb.doctor.diagnosis import diagnose
from cryostar_nb.io.maps import DensityMap
from cryostar_nb.io.metadata import Poses
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.star import write_star
from cryostar_nb.io.structures import read_structure
from cryostar_nb.simulation.particles import SimulationConfig, draw_particles, draw_poses, simulate

DATA = Path(__file__).parent.parent / "data"
CLOSED, OPEN = DATA / "1ake.pdb", DATA / "4ake.pdb"


def simulated(config, folder, *, with_ctf):
    """Particles with shifts of 5 Å, sd, and their images; the same noise and the same file whether their images have a CTF or not."""
    rng = np.random.default_rng(config.seed)
    poses = draw_poses(config, rng)
    poses = Poses(
        poses.rotations,
        torch.from_numpy(rng.normal(0, 5, (config.n_particles, 2)).clip(-15, 15)),
        poses.ctf,
    )
    zero = torch.zeros_like(poses.ctf.defocus_u)
    none = dict.fromkeys(
        ("defocus_u", "defocus_v", "spherical_aberration_mm", "amplitude_contrast"), zero
    )
    lens = (
        poses.ctf if with_ctf else dataclasses.replace(poses.ctf, **none, phase_shift_deg=zero + 90)
    )
    given = Poses(poses.rotations, poses.shifts, lens)
    write_star(
        folder / "poses.star",
        draw_particles(config, folder / "poses.mrcs", folder / "poses.star", rng, given),
    )
    simulate(config, closed=CLOSED, open_=OPEN, out=folder, poses=folder / "poses.star")
    particles = dataclasses.replace(read_particles(folder / "particles.star"), ctf=poses.ctf)
    return particles, particles.images(slice(None))


def others(particles, images, without_ctf, folder):
    """Name, what to diagnose, and the verdicts that are right, of what is not a fault alone or a pair."""
    closed, opened = read_structure(CLOSED), read_structure(OPEN)
    foreign = read_structure(DATA / "7pbl.pdb.gz")
    foreign = foreign[foreign.chains == foreign.chains[0]]
    foreign = foreign.with_positions(foreign.positions - foreign.positions.mean(axis=0))
    stack = folder / "others.mrcs"
    for factor, moved in itertools.product((0.5, 2.0), (True, False)):
        for more in ((), ("contrast sign",), ("transpose",)):
            spoilt = faults.write_spoilt(
                particles, images, more, folder / f"others{len(more)}{''.join(more)[:1]}.mrcs"
            )
            shifts = spoilt.shifts * (factor if moved else 1)
            wrong = dataclasses.replace(
                spoilt, pixel_size=spoilt.pixel_size * factor, shifts=shifts
            )
            name = " + ".join(
                [
                    *more,
                    f"pixels {factor:g} times as large",
                    "shifts in pixels right" if moved else "shifts in Å right",
                ]
            )
            yield name, wrong, {"atoms": closed}, [" + ".join([*more, "pixel size"])]
    sound = faults.write_spoilt(particles, images, (), stack)
    yield "a model of another molecule", sound, {"atoms": foreign}, ["undecided"]
    yield (
        "a map of another molecule",
        sound,
        {"atoms": closed, "density": map_of(foreign, particles)},
        ["undecided"],
    )
    yield (
        "a model of another molecule, a right map",
        sound,
        {"atoms": foreign, "density": map_of(closed, particles)},
        ["undecided"],
    )
    yield "a model of another state", sound, {"atoms": opened}, ["ok"]
    yield "a model of another state, CTF off", without_ctf, {"atoms": opened}, ["CTF off"]


def map_of(atoms, particles):
    positions, electrons = (
        torch.from_numpy(values).float() for values in (atoms.positions, atoms.electrons)
    )
    density = model_density(
        positions, electrons, 1.5, box_size=particles.box_size, pixel_size=particles.pixel_size
    )
    return DensityMap(density, particles.pixel_size, np.zeros(3))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("n-particles", 500),
        ("snr", 0.05),
        ("states", 50),
        ("box-size", 64),
        ("pixel-size", 2.0),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--singly", action="store_true", help="no pairs")
    parser.add_argument("--others", action="store_true", help="no fault of the list, nor pairs")
    options = vars(parser.parse_args())
    singly, only_others = options.pop("singly"), options.pop("others")
    config = SimulationConfig(**options)
    torch.set_num_threads(1)
    usable = [
        fault
        for fault in faults.ALL
        if not (config.pixel_size == 1 and faults.NAMES.get(fault) == "origin unit")
    ]
    cases = [(), *((fault,) for fault in usable)]
    if only_others:
        cases = []
    elif not singly:
        cases += [
            pair
            for pair in itertools.combinations(usable, 2)
            if faults.family(pair[0]) != faults.family(pair[1])
        ]
    model, wrong, began = read_structure(CLOSED), 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {
            with_ctf: simulated(config, folder / str(with_ctf), with_ctf=with_ctf)
            for with_ctf in (True, False)
        }
        tried = 0

        def examine(name, expected, *what, **against):
            nonlocal wrong, tried
            used = time.process_time()
            found = diagnose(*what, **against)
            tried, wrong = tried + 1, wrong + (found.verdict not in expected)
            told = (
                "" if found.verdict in expected else f"  WRONG, should be {' or '.join(expected)}"
            )
            print(
                f"{name:40} -> {found.verdict}{told}  ({time.process_time() - used:.0f} s)",
                flush=True,
            )

        for case in cases:
            particles, images = made["CTF off" not in case]
            spoilt = faults.write_spoilt(particles, images, case, folder / "spoilt.mrcs")
            positions = faults.spoil_model(torch.from_numpy(model.positions), case)
            examine(
                " + ".join(case) or "nothing",
                [faults.verdict(case)],
                spoilt,
                atoms=model.with_positions(positions.numpy()),
            )
        for name, particles, against, expected in others(*made[True], made[False][0], folder):
            examine(name, expected, particles, **against)
    print(f"{tried - wrong} of {tried} right, {time.monotonic() - began:.0f} s")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
