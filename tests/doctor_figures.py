"""The figures of the book's page on the doctor.

    CRYOSTAR_EXTERNAL_DATA=FOLDER python tests/doctor_figures.py trpv1 [--resolution 20]
    python tests/doctor_figures.py dock [--snr 0.05] [--n-particles 1000] [--seeds 5]

Ten real particles with each fault, and models that were displaced by 30 Å and 40 degrees. Not part
of the suite: some minutes each.
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
from cryostar_nb.doctor.diagnosis import diagnose
from cryostar_nb.doctor.docking import rotation_angle
from cryostar_nb.doctor.hypotheses import name_of
from cryostar_nb.doctor.placing import dock_files
from cryostar_nb.io.maps import DensityMap, read_map, write_map
from cryostar_nb.io.options import Reading
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.structures import read_structure, write_structure
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import simulate
from cryostar_nb.structure import coarse_grain

DATA = Path(__file__).parent.parent / "data"
CORNER = np.array([11.0, -7.0, 40.0])  # Å, of the maps


def trpv1(resolution, folder):
    """Diagnose ten real particles of TRPV1 with their map, as they are and with each fault."""
    source = Path(os.environ["CRYOSTAR_EXTERNAL_DATA"]) / "trpv1"
    in_star = folder / "batch_0_restacked.mrc"  # the name in the STAR file
    in_star.symlink_to(source / "trpv1_small_stack.mrcs")
    particles = read_particles(source / "trpv1_small_stack.star", Reading(root=folder))
    density_map = read_map(source / "trpv1_volume.mrc")
    images, right = particles.images(slice(None)), 0
    names = ("contrast sign", "phase flipped", *faults.IN_THE_FILE, "model mirrored")
    cases = [(), *((name,) for name in names)]
    for case in cases:
        spoilt = faults.write_spoilt(particles, images, case, folder / "spoilt.mrcs")
        values = density_map.values
        if case == ("model mirrored",):
            values = values.flip(0, 1, 2).roll((1 - density_map.box_size % 2,) * 3, (0, 1, 2))
        against = dataclasses.replace(density_map, values=values)
        diagnosis = diagnose(spoilt, density_map=against, resolution=resolution)
        right += diagnosis.verdict == faults.verdict(case)
        default, best = diagnosis.default, diagnosis.winner or diagnosis.default
        rivals = [name_of(row.faults) for row in (best, *diagnosis.decision.rivals)]
        between = f" (between {', '.join(rivals)})" if rivals[1:] else ""
        print(
            f"{' + '.join(case) or 'nothing':18}-> {diagnosis.verdict:16} as given "
            f"{default.mean:6.3f}, best {best.mean:6.3f}; {diagnosis.needed} particles needed"
            f"{between}",
            flush=True,
        )
    print(f"{right} of {len(cases)} right, to {diagnosis.sample.resolution:.3g} Å")


def displaced(positions, rng):
    """Points turned by 40 degrees and moved by 30 Å, both in a random direction."""
    axis, way = (vector / np.linalg.norm(vector) for vector in rng.standard_normal((2, 3)))
    turn, centre = Rotation.from_rotvec(np.deg2rad(40) * axis).as_matrix(), positions.mean(axis=0)
    return (positions - centre) @ turn.T + centre + 30 * way


def errors(docked, true):
    """How far off the centre and, by superposition, the orientation are: Å and degrees."""
    both = [positions - positions.mean(axis=0) for positions in (docked, true)]
    turn, _ = Rotation.align_vectors(*both)
    distance = np.linalg.norm(docked.mean(axis=0) - true.mean(axis=0))
    return float(distance), rotation_angle(torch.from_numpy(turn.as_matrix()))


def docking(snr, count, seeds, folder):
    """Displaced models, docked back into their own maps and against simulated particles."""
    for name, size, pixel_size in (("1ake.pdb", 64, 2.0), ("7pbl.pdb.gz", 96, 2.5)):
        grid = {"box_size": size, "pixel_size": pixel_size}
        atoms = read_structure(DATA / name)
        centred = atoms.positions - coarse_grain(atoms).positions.mean(axis=0)
        weights = torch.from_numpy(atoms.electrons)
        values = model_density(torch.from_numpy(centred), weights, atom_sigma(3.0), **grid)
        write_map(folder / "map.mrc", DensityMap(values, pixel_size, CORNER))
        in_map = centred + CORNER + size // 2 * pixel_size
        targets = {"its own map": (folder / "map.mrc", in_map)}
        if name == "1ake.pdb":
            config = SimulationConfig(n_particles=count, snr=snr, states=2, **grid)
            simulate(config, start=DATA / name, end=DATA / name, out=folder / "sim")
            star = folder / "sim" / "particles.star"
            targets[f"{count:,} particles"] = (star, atoms.positions)
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            for target, (path, true) in targets.items():
                write_structure(folder / "moved.cif", atoms.with_positions(displaced(true, rng)))
                docked = dock_files(folder / "moved.cif", path, folder / "docked.cif")
                distance, angle = errors(read_structure(folder / "docked.cif").positions, true)
                print(
                    f"{name} {target:16} seed {seed}: off by {distance:.3f} Å, {angle:.2f} "
                    f"degrees; correlation {docked.before:.2f} -> {docked.after:.2f}",
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
