"""Random structures of two proteins and a strand of RNA, and the lines of PDB files."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import gemmi
import numpy as np
from scipy.spatial.transform import Rotation

from cryostar_nb.io.structures import pdb_text, read_structure
from cryostar_nb.structure import Structure, residue_ranges
from silence_kinds.scene import Scene, Trial, kind

NUCLEOTIDE = {  # a phosphate and a sugar, along z; O3' of one is 1.6 Å from P of the next
    "P": (0.0, 0.0, 0.0),
    "OP1": (1.4, 0.4, 0.0),
    "OP2": (-1.4, 0.4, 0.0),
    "O5'": (0.3, 0.3, 1.5),
    "C5'": (1.2, 1.0, 2.4),
    "C4'": (0.6, 1.2, 3.6),
    "C1'": (1.9, 2.6, 4.1),
    "N9": (2.7, 3.7, 3.8),
    "C3'": (-0.2, 0.3, 4.0),
    "O3'": (0.0, 0.0, 5.2),
}


def atoms_of(scene: Scene) -> Structure:
    """Two pieces of a protein, and two nucleotides, each a chain."""
    protein, pieces = adenylate_kinase(), []
    ranges = residue_ranges(protein)
    for name in ("A", "B"):
        first = int(scene.rng.integers(2, len(ranges) - 14))
        stop = first + int(scene.rng.integers(4, 12))
        piece = protein[ranges[first][0] : ranges[stop][0]]
        turn = Rotation.random(rng=scene.rng).as_matrix()
        place = scene.rng.uniform(-9, 9, 3) + (30 if name == "B" else 0)
        positions = (piece.positions - piece.positions.mean(0)) @ turn.T + place
        numbers = piece.residue_numbers - piece.residue_numbers[0] + 5
        chains = np.full(len(piece), name)
        pieces.append(
            replace(piece, positions=positions.round(3), residue_numbers=numbers, chains=chains)
        )
    pieces.append(nucleotides(scene))
    names = ("positions", "electrons", "atom_names", "elements", "residue_names")
    names += ("residue_numbers", "insertion_codes", "chains")
    return Structure(*(np.concatenate([getattr(p, name) for p in pieces]) for name in names))


def nucleotides(scene: Scene) -> Structure:
    """Three of RNA, bonded to each other."""
    names = list(NUCLEOTIDE) * 3
    elements = [name[0] for name in names]
    count, per = len(names), len(NUCLEOTIDE)
    steps = np.repeat(np.arange(3), per)
    positions = np.array([NUCLEOTIDE[name] for name in names])
    positions += steps[:, None] * np.array([0.0, 0.0, 6.8]) + np.array([-30.0, 0.0, 0.0])
    return Structure(
        positions.round(3),
        np.array([float(gemmi.Element(element).atomic_number) for element in elements]),
        np.array(names),
        np.array(elements),
        np.full(count, scene.choose("A", "G")),
        steps + 5,
        np.full(count, ""),
        np.full(count, "R"),
    )


def by_gemmi(text: str, suffix: str) -> str:
    """The same model, written by gemmi with all that it writes by default."""
    document = gemmi.read_pdb_string(text)
    document.setup_entities()
    if suffix == ".pdb":
        return document.make_pdb_string()
    return document.make_mmcif_document().as_string()


def of_pdb(what: str, *, sound: bool = False):
    """A kind that changes the lines of a PDB file.

    It is given lines and atoms, and returns the lines and the atoms that they now describe.
    """

    def add(change):
        @kind(f"PDB: {what}")
        def run(scene):
            atoms, path = atoms_of(scene), scene.folder / "model.pdb"
            text = pdb_text(atoms)
            if scene.rng.integers(2):
                text = by_gemmi(text, ".pdb")
            text, true = change(text.splitlines(), atoms, scene)
            if not isinstance(text, bytes):
                text = "".join(f"{line}\n" for line in text).encode()
            path.write_bytes(text)
            return Trial(path, true, what="structure", sound=sound)

        return change

    return add


def each_atom(lines: list[str], change) -> list[str]:
    """The lines, with the atoms' lines changed; None drops one."""
    changed = (change(line) if is_atom(line) else line for line in lines)
    return [line for line in changed if line is not None]


def is_atom(line: str) -> bool:
    return line.startswith(("ATOM  ", "HETATM"))


def left_aligned(line: str) -> str:
    return line[:12] + f"{line[12:16].strip():<4}" + line[16:]


def places(lines: list[str]) -> list[int]:
    return [i for i, line in enumerate(lines) if is_atom(line)]


def column(start: int, stop: int, value: str):
    """A change of all atoms' lines: these columns, from 0, get this value."""
    return lambda lines, atoms, scene: (
        each_atom(lines, lambda line: line[:start] + value + line[stop:]),
        atoms,
    )


@cache
def adenylate_kinase() -> Structure:
    """A model with the geometry of a protein, to cut pieces from."""
    return read_structure(Path(__file__).parents[2] / "data" / "1ake.pdb")
