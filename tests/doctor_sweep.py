"""Every fault, and every pair of faults, on simulated particles of adenylate kinase: does the doctor name it? `make sweep`.

    python tests/doctor_sweep.py [--n-particles 500] [--snr 0.05] [--states 50] [--box-size 64] [--pixel-size 2] [--singly]

Not part of the suite: each of the 115 data sets takes the doctor about ten seconds. Ends with exit code 1 if one is wrong.
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

from cryostar_nb.diagnosis import diagnose
from cryostar_nb.reading import read_particles
from cryostar_nb.simulation import SimulationConfig, draw_particles, draw_poses, simulate
from cryostar_nb.star import Poses, write_star
from cryostar_nb.structure_files import read_structure

DATA = Path(__file__).parent.parent / "data"
CLOSED, OPEN = DATA / "1ake.pdb", DATA / "4ake.pdb"


def simulated(config, folder, *, with_ctf):
    """Particles with shifts of 5 Å, sd, and their images; the same noise and the same file whether their images have a CTF or not."""
    rng = np.random.default_rng(config.seed)
    poses = draw_poses(config, rng)
    poses = Poses(poses.rotations, torch.from_numpy(rng.normal(0, 5, (config.n_particles, 2)).clip(-15, 15)), poses.ctf)
    zero = torch.zeros_like(poses.ctf.defocus_u)
    none = dict.fromkeys(("defocus_u", "defocus_v", "spherical_aberration_mm", "amplitude_contrast"), zero)
    lens = poses.ctf if with_ctf else dataclasses.replace(poses.ctf, **none, phase_shift_deg=zero + 90)
    given = Poses(poses.rotations, poses.shifts, lens)
    write_star(folder / "poses.star", draw_particles(config, folder / "poses.mrcs", folder / "poses.star", rng, given))
    simulate(config, closed=CLOSED, open_=OPEN, out=folder, poses=folder / "poses.star")
    particles = dataclasses.replace(read_particles(folder / "particles.star"), ctf=poses.ctf)
    return particles, particles.images(slice(None))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("n-particles", 500), ("snr", 0.05), ("states", 50), ("box-size", 64), ("pixel-size", 2.0), ("seed", 0)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--singly", action="store_true", help="no pairs")
    options = vars(parser.parse_args())
    singly = options.pop("singly")
    config = SimulationConfig(**options)
    torch.set_num_threads(1)
    usable = [fault for fault in faults.ALL if not (config.pixel_size == 1 and faults.NAMES.get(fault) == "origin unit")]
    cases = [(), *((fault,) for fault in usable)]
    if not singly:
        cases += [pair for pair in itertools.combinations(usable, 2) if faults.family(pair[0]) != faults.family(pair[1])]
    model, wrong, began = read_structure(CLOSED), 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {with_ctf: simulated(config, folder / str(with_ctf), with_ctf=with_ctf) for with_ctf in (True, False)}
        for case in cases:
            particles, images = made["CTF off" not in case]
            spoilt = faults.write_spoilt(particles, images, case, folder / "spoilt.mrcs")
            positions = faults.spoil_model(torch.from_numpy(model.positions), case)
            used = time.process_time()
            found = diagnose(spoilt, atoms=model.with_positions(positions.numpy()))
            right = found.verdict == faults.verdict(case)
            wrong += not right
            told = "" if right else f"  WRONG, should be {faults.verdict(case)}"
            print(f"{' + '.join(case) or 'nothing':40} -> {found.verdict}{told}  ({time.process_time() - used:.0f} s)", flush=True)
    print(f"{len(cases) - wrong} of {len(cases)} right, {time.monotonic() - began:.0f} s")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
