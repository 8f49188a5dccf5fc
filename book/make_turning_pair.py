"""Particles of a molecule that turns a full circle: two copies of adenylate kinase on a stiff arm.

    python book/make_turning_pair.py --out DIR --n-particles 20000

The copies (data/1ake.pdb) are one chain. Between them lie eight prolines as polyproline II, which
is stiff, with one glycine in their middle. The second copy and its half of the linker turn about
one bond of that glycine, from its CA to its C, by 360 degrees in 100 equal steps; every bond keeps
its length, and its angles. This is the idea of CryoBench's IgG-1D (Jeon et al., NeurIPS 2024),
where a Fab turns about a dihedral. Writes motion.pdb and motion.xtc, then the files of
`cryostar-nb simulate`, the reference being the first state.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro
from scipy.spatial import cKDTree

from cryostar_nb.geometry import kabsch
from cryostar_nb.io.structures import read_structure, write_structure
from cryostar_nb.io.trajectories import write_trajectory
from cryostar_nb.simulation.hinges import hinge_path
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import simulate
from cryostar_nb.structure import Structure, node_atoms

KINASE = Path(__file__).parents[1] / "data" / "1ake.pdb"
STATES = 100
LINKER = ["PRO"] * 4 + ["GLY"] + ["PRO"] * 4
PHI, PSI = -75.0, 145.0  # of polyproline II, degrees
# psi of the first copy's end, phi of the glycine, phi of the second copy's beginning, in degrees:
# of a scan in steps of 30, the widest circle on which the copies stay clear of each other.
JOINTS = (150.0, -90.0, 180.0)
Atoms = dict[str, np.ndarray]  # positions in Å by name


def placed(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, bond: float, angle: float, dihedral: float
) -> np.ndarray:
    """The atom at this distance from c, in Å, angle to b and dihedral to a, in degrees."""
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    angle, dihedral = np.deg2rad([angle, dihedral])
    across = np.cos(dihedral) * np.cross(normal, along) + np.sin(dihedral) * normal
    return c + bond * (np.sin(angle) * across - np.cos(angle) * along)


def next_residue(before: Atoms, psi: float, phi: float, name: str) -> Atoms:
    """The residue after one with this psi; its own phi, in degrees. Adds the O of that one.

    Bonds and angles are those of Engh and Huber (1991), to 0.01 Å and a degree.
    """
    n, ca, c = (before[atom] for atom in ("N", "CA", "C"))
    before["O"] = placed(n, ca, c, 1.23, 120.5, psi + 180)
    new = {"N": placed(n, ca, c, 1.33, 117.0, psi)}
    new["CA"] = placed(ca, c, new["N"], 1.46, 121.0, 180.0)
    new["C"] = placed(c, new["N"], new["CA"], 1.52, 111.0, phi)
    if name == "PRO":
        new["CB"] = placed(new["N"], new["C"], new["CA"], 1.53, 110.0, 122.0)
        new["CG"] = placed(new["N"], new["CA"], new["CB"], 1.49, 104.0, 28.0)
        new["CD"] = placed(new["CA"], new["CB"], new["CG"], 1.50, 105.0, -37.0)
    return new


def atoms_of(residues: list[Atoms], names: list[str], first: int, like: Structure) -> Structure:
    """A table of these residues, numbered from `first`, in the chain of another structure."""
    rows = [(i, atom) for i, residue in enumerate(residues) for atom in sorted(residue)]
    elements = np.array([atom[0] for _, atom in rows])
    return Structure(
        positions=np.array([residues[i][atom] for i, atom in rows]),
        electrons=np.array([{"C": 6.0, "N": 7.0, "O": 8.0}[element] for element in elements]),
        atom_names=np.array([atom for _, atom in rows]),
        elements=elements,
        residue_names=np.array([names[i] for i, _ in rows]),
        residue_numbers=np.array([first + i for i, _ in rows]),
        insertion_codes=np.full(len(rows), ""),
        chains=np.full(len(rows), like.chains[0]),
    )


def backbone(copy: Structure, number: int) -> Atoms:
    """N, CA and C of a residue."""
    here = copy.residue_numbers == number
    return {n: copy.positions[here & (copy.atom_names == n)][0] for n in ("N", "CA", "C")}


def molecule(joints: tuple[float, float, float] = JOINTS) -> tuple[Structure, np.ndarray]:
    """The first state, centred between its copies, and the path (state, atom, 3), in Å."""
    copy = read_structure(KINASE)
    copy = copy[copy.atom_names != "OXT"]
    length = int(copy.residue_numbers.max())
    residues, psi = [backbone(copy, length)], joints[0]
    for name in [*LINKER, "second copy"]:
        phi = {"GLY": joints[1], "PRO": PHI}.get(name, joints[2])
        residues.append(next_residue(residues[-1], psi, phi, name))
        psi = PSI
    linker, last = residues[1:-1], residues[-1]
    start, glycine = backbone(copy, 1), linker[LINKER.index("GLY")]
    rotation, shift = kabsch(*(np.stack([r[n] for n in start]) for r in (start, last)))
    parts = [
        copy,
        atoms_of(linker, LINKER, length + 1, copy),
        dataclasses.replace(
            copy.with_positions(copy.positions @ rotation.T + shift),
            residue_numbers=copy.residue_numbers + length + len(LINKER),
        ),
    ]
    names = [field.name for field in dataclasses.fields(Structure)]
    atoms = Structure(*(np.concatenate([getattr(part, n) for part in parts]) for n in names))
    joint = length + 1 + LINKER.index("GLY")
    turning = (atoms.residue_numbers > joint) | (
        (atoms.residue_numbers == joint) & (atoms.atom_names == "O")
    )
    path = hinge_path(
        atoms.positions,
        turning,
        axis=glycine["C"] - glycine["CA"],
        pivot=glycine["C"],
        angles_deg=np.arange(STATES) * 360 / STATES,
    )
    path -= path.mean((0, 1))
    return atoms.with_positions(path[0]), path


def report(atoms: Structure, path: np.ndarray) -> dict[str, float]:
    """How near the copies come to each other, and how far the second one moves, in Å."""
    second = atoms.residue_numbers > atoms.residue_numbers.max() // 2 + len(LINKER) // 2
    fixed = (path[:, ~second] == path[0, ~second]).all((0, 2))
    rest = cKDTree(path[0, ~second][fixed])
    centres = path[:, second].mean(1)
    nodes = node_atoms(atoms)
    ends = np.linalg.norm(path[:, nodes] - path[:1, nodes], axis=-1)
    return {
        "least_distance": float(min(rest.query(state[second])[0].min() for state in path)),
        "diameter_of_centre": float(np.linalg.norm(centres - centres[0], axis=-1).max()),
        "diameter_of_end": float(ends.max()),
        "reach": float(np.linalg.norm(path, axis=-1).max()),
    }


def write(atoms: Structure, path: np.ndarray, out: Path) -> dict[str, Path]:
    """Write the first state as motion.pdb and the path as motion.xtc; what `simulate` needs."""
    ends = {"start": out / "motion.pdb", "trajectory": out / "motion.xtc"}
    write_structure(ends["start"], atoms)
    write_trajectory(ends["trajectory"], atoms, path)
    return ends


def main(
    out: Path,
    n_particles: int = 20_000,
    box_size: int = 128,
    pixel_size: float = 3.0,
    snr: float = 0.01,
    seed: int = 0,
) -> None:
    """Make particles of two copies of adenylate kinase, one of which turns."""
    config = SimulationConfig(
        n_particles=n_particles,
        box_size=box_size,
        pixel_size=pixel_size,
        snr=snr,
        seed=seed,
        states=STATES,
        resolution=2 * pixel_size,
    )
    atoms, path = molecule()
    print(report(atoms, path))
    simulate(config, **write(atoms, path, out), out=out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
