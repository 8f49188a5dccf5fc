"""Particles of a complex of protein and DNA, one subunit of which opens, in two populations.

    python book/make_complex.py --out DIR --n-particles 2000

Subunit C of the RuvB hexamer (data/7pbl.pdb.gz) swings out of the ring by 25 degrees, about a hinge
beside its contacts with its neighbours and the DNA. Its residues move by 11.4 Å in the mean, and
none runs into another. Writes motion.pdb and motion.dcd, then the files of `cryostar-nb simulate`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tyro

from cryostar_nb.io.structures import read_structure, write_structure
from cryostar_nb.io.trajectories import write_trajectory
from cryostar_nb.simulation.hinges import clear_hinge, hinge_path
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import simulate
from cryostar_nb.structure import Structure, node_atoms

MOTION = {"C": 25.0}  # chains that move as one body: angle of the last state, in degrees


def turn_domains(atoms: Structure, motion: Mapping[str, float], states: int) -> np.ndarray:
    """The path (state, atom, 3), in Å, of domains that turn evenly, each about a clear hinge.

    Prints how far they turn.
    """
    nodes, path = node_atoms(atoms), np.repeat(atoms.positions[None], states, axis=0)
    for chains, angle in motion.items():
        domain = np.isin(atoms.chains, list(chains))
        hinge = clear_hinge(atoms.positions[nodes], domain[nodes], angle)
        angles = np.linspace(0, angle, states)
        path[:, domain] = hinge_path(
            atoms.positions, domain, axis=hinge.axis, pivot=hinge.pivot, angles_deg=angles
        )[:, domain]
        moved = np.linalg.norm(path[-1] - path[0], axis=-1)[nodes[domain[nodes]]]
        print(
            f"chains {chains}: {len(moved)} residues turn by {angle:g}°, "
            f"{moved.mean():.1f} Å in the mean, {moved.max():.1f} Å at most"
        )
    return path


def write_motion_and_simulate(
    atoms: Structure,
    motion: Mapping[str, float],
    config: SimulationConfig,
    out: Path,
    poses: Path | None = None,
) -> None:
    """Write the path as motion.pdb and motion.dcd into `out`, and simulate particles of it."""
    simulate(config, **write_motion(atoms, motion, config.states, out), out=out, poses=poses)


def write_motion(
    atoms: Structure, motion: Mapping[str, float], states: int, out: Path
) -> dict[str, Path]:
    """Write the path as motion.pdb and motion.dcd into `out`; what `simulate` needs of them."""
    ends = {"start": out / "motion.pdb", "trajectory": out / "motion.dcd"}
    write_structure(ends["start"], atoms)
    write_trajectory(ends["trajectory"], atoms, turn_domains(atoms, motion, states))
    return ends


def main(
    out: Path,
    n_particles: int = 20_000,
    box_size: int = 96,
    pixel_size: float = 2.0,
    snr: float = 0.1,
    seed: int = 0,
) -> None:
    """Make particles of RuvB on a Holliday junction."""
    config = SimulationConfig(
        n_particles=n_particles,
        box_size=box_size,
        pixel_size=pixel_size,
        snr=snr,
        seed=seed,
        populations="two",
        resolution=2 * pixel_size,
    )
    atoms = read_structure(Path(__file__).parents[1] / "data" / "7pbl.pdb.gz")
    write_motion_and_simulate(atoms, MOTION, config, out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
