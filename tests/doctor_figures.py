"""The figures of the book's page on the doctor: ten real particles with each fault, and models that were displaced by 30 Å and 40 degrees.

    CRYOSTAR_EXTERNAL_DATA=FOLDER python tests/doctor_figures.py trpv1 [--resolution 20]
    python tests/doctor_figures.py dock [--snr 0.05] [--n-particles 1000] [--seeds 5]

Not part of the suite: some minutes each.
"""

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path

import faults
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryostar_nb.density import atom_sigma, model_density
from cryostar_nb.doctor.diagnosis import diagnose, name_of
from cryostar_nb.doctor.docking import rotation_angle
from cryostar_nb.doctor.placing import dock_files
from cryostar_nb.io.maps import DensityMap, read_map, write_map
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.structures import read_structure, write_structure
from cryostar_nb.simulation.particles import SimulationConfig, simulate
from cryostar_nb.structure import coarse_grain

DATA = Path(__file__).parent.parent / "data"


def trpv1(resolution, folder):
    """What the doctor says of ten real particles of TRPV1 and their map, as they are and with each fault."""
    source = Path(os.environ["CRYOSTAR_EXTERNAL_DATA"]) / "trpv1"
    (folder / "batch_0_restacked.mrc").symlink_to(
        source / "trpv1_small_stack.mrcs"
    )  # the name in the STAR file
    particles, density = (
        read_particles(source / "trpv1_small_stack.star", root=folder),
        read_map(source / "trpv1_volume.mrc"),
    )
    images, right = particles.images(slice(None)), 0
    cases = [
        (),
        *((fault,) for fault in ("contrast sign", "phase flipped", *faults.IN_THE_FILE)),
        ("model mirrored",),
    ]
    for case in cases:
        spoilt = faults.write_spoilt(particles, images, case, folder / "spoilt.mrcs")
        values = density.values
        if case == ("model mirrored",):
            values = values.flip(0, 1, 2).roll((1 - density.box_size % 2,) * 3, (0, 1, 2))
        found = diagnose(
            spoilt, density=dataclasses.replace(density, values=values), resolution=resolution
        )
        right += found.verdict == faults.verdict(case)
        best = found.default if found.winner is None else found.winner
        rivals = (
            f" (between {', '.join(name_of(one.faults) for one in (best, *found.rivals))})"
            if found.rivals
            else ""
        )
        print(
            f"{' + '.join(case) or 'nothing':18}-> {found.verdict:16} as given {found.default.mean:6.3f}, best {best.mean:6.3f}; {found.needed} particles needed{rivals}",
            flush=True,
        )
    print(f"{right} of {len(cases)} right, to {found.sample.resolution:.3g} Å")


def displaced(positions, rng):
    """Points turned by 40 degrees about their centre and moved by 30 Å, both in a random direction."""
    axis, way = (vector / np.linalg.norm(vector) for vector in rng.standard_normal((2, 3)))
    turn, centre = Rotation.from_rotvec(np.deg2rad(40) * axis).as_matrix(), positions.mean(axis=0)
    return (positions - centre) @ turn.T + centre + 30 * way


def errors(docked, true):
    """How far off the centre and the orientation are, in Å and degrees, by superposition of the one on the other."""
    both = [positions - positions.mean(axis=0) for positions in (docked, true)]
    turn, _ = Rotation.align_vectors(*both)
    return float(np.linalg.norm(docked.mean(axis=0) - true.mean(axis=0))), rotation_angle(
        torch.from_numpy(turn.as_matrix())
    )


def docking(snr, count, seeds, folder):
    """Displaced models, docked back into their own maps and against simulated particles."""
    for name, box_size, pixel_size in (("1ake.pdb", 64, 2.0), ("7pbl.pdb.gz", 96, 2.5)):
        atoms = read_structure(DATA / name)
        if name == "1ake.pdb":
            options = SimulationConfig(
                n_particles=count, snr=snr, states=2, box_size=box_size, pixel_size=pixel_size
            )
            simulate(options, closed=DATA / name, open_=DATA / name, out=folder / "sim")
        middle = coarse_grain(atoms).positions.mean(axis=0)
        centred = atoms.with_positions(atoms.positions - middle)
        weights = torch.from_numpy(atoms.electrons)
        values = model_density(
            torch.from_numpy(centred.positions),
            weights,
            atom_sigma(3.0),
            box_size=box_size,
            pixel_size=pixel_size,
        )
        write_map(folder / "map.mrc", DensityMap(values, pixel_size, np.array([11.0, -7.0, 40.0])))
        frame = np.array([11.0, -7.0, 40.0]) + box_size // 2 * pixel_size
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            targets = {"its own map": (folder / "map.mrc", centred.positions + frame)}
            if name == "1ake.pdb":
                targets[f"{count:,} particles"] = (
                    folder / "sim" / "particles.star",
                    atoms.positions,
                )
            for target, (path, true) in targets.items():
                write_structure(folder / "moved.cif", atoms.with_positions(displaced(true, rng)))
                docked = dock_files(folder / "moved.cif", path, folder / "docked.cif")
                distance, angle = errors(read_structure(folder / "docked.cif").positions, true)
                found = f"correlation {docked.before:.2f} -> {docked.after:.2f}"
                print(
                    f"{name} {target:16} seed {seed}: off by {distance:.3f} Å, {angle:.2f} degrees; {found}",
                    flush=True,
                )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=("trpv1", "dock"))
    parser.add_argument("--resolution", type=float)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--n-particles", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        if options.which == "trpv1":
            trpv1(options.resolution, Path(name))
        else:
            docking(options.snr, options.n_particles, options.seeds, Path(name))


if __name__ == "__main__":
    main()
