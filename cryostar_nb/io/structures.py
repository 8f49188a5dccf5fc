"""Structures in files: PDB and mmCIF through gemmi."""

from pathlib import Path
from typing import NoReturn

import gemmi
import numpy as np
from jaxtyping import Float

from cryostar_nb.errors import about_file
from cryostar_nb.io.atom_records import read_document
from cryostar_nb.io.elements import UNKNOWN
from cryostar_nb.io.files import refuse, tell, write_text
from cryostar_nb.io.polymer import find_polymer
from cryostar_nb.io.structure_checks import (
    check_electrons,
    check_models,
    check_unit,
    describe_polymer,
)
from cryostar_nb.structure import NODE_NAMES, Structure, coarse_grain, residue_ranges

_PDB_CHAINS, _PDB_ATOMS = 62, 99_999  # the most that fit the format
Frames = Float[np.ndarray, "frame atom 3"]  # Å
BFactors = Float[np.ndarray, "frame atom"]  # Å^2
FARTHEST_TWICE = 3.0  # Å, between two places of one atom, as alternate locations have them
AtomRow = tuple[object, ...]  # the fields of `Structure`


def read_structure(path: Path | str) -> Structure:
    """Read the heavy polymer atoms of the first model of a PDB or mmCIF file (also gzipped).

    Of alternate locations, and of atoms given twice, the first is kept. A line says what is chosen
    among models, and which residues are left out although they look like parts of a chain. Raises
    InputError for a file that is missing, cannot be parsed, holds no polymer, has a coordinate that
    is not finite or an atom of no element, gives the same residue twice, spreads an assembly over
    models, or contradicts itself.
    """
    path = Path(path)
    document = read_document(path, split_chain_on_ter=True)
    check_models(path, document)
    atoms = polymer_atoms(path, document)[0]
    check_unit(path, atoms)
    check_electrons(path, atoms)
    return atoms


def polymer_atoms(path: Path, document: gemmi.Structure) -> tuple[Structure, list[int]]:
    """The heavy polymer atoms of the first model, and their serial numbers."""
    polymer = find_polymer(document[0])
    rows: list[AtomRow] = []
    serials: list[int] = []
    first_of: dict[tuple[str, str], gemmi.Residue] = {}
    for chain, residue in polymer.residues:
        if not _is_alternate(path, chain, residue, first_of):
            for serial, row in _atom_rows(path, chain, residue):
                rows.append(row)
                serials.append(serial)
    if not rows:
        remedy = "give a model of a protein or nucleic acid"
        refuse(path, "holds no chain of amino acids or nucleotides", None, remedy)
    for line in describe_polymer(document, polymer):
        tell([f"{path}: {line}"])
    positions, electrons, *labels = map(np.array, zip(*rows, strict=True))
    return Structure(positions.astype(np.float64), electrons.astype(np.float64), *labels), serials


def _is_alternate(
    path: Path,
    chain: gemmi.Chain,
    residue: gemmi.Residue,
    first_of: dict[tuple[str, str], gemmi.Residue],
) -> bool:
    """Whether a residue shares its place with an earlier one, as alternate locations do.

    `first_of` keeps the first residue of each chain and number. Raises InputError for a residue
    that is there twice.
    """
    key = (chain.name, str(residue.seqid))
    nodes = [atom for atom in residue if atom.name in NODE_NAMES and not atom.has_altloc()]
    twice = len(nodes) > len({atom.name for atom in nodes})
    first = first_of.setdefault(key, residue)
    if first is residue and not twice:
        return False
    if twice or not all(any(atom.has_altloc() for atom in r) for r in (first, residue)):
        _refuse_twice(path, chain, residue, first)
    return True


def _refuse_twice(
    path: Path, chain: gemmi.Chain, residue: gemmi.Residue, first: gemmi.Residue
) -> NoReturn:
    """Raise InputError for a residue that is there twice, and say what may be the cause."""
    segments = sorted({other.segment for other in chain if other.segment})
    where = f", in the segments {' and '.join(segments[:2])}" if segments[1:] else ""
    label, remedy = f"{residue.name} {residue.seqid}", "delete or renumber one of them"
    if not chain.name or where:
        remedy = "give each chain a name of its own (column 22; segments do not count)"
    if not chain.name:
        problem = f"has chains without a name, and residue {{value}} is there twice{where}"
        refuse(path, problem, label, remedy)
    problem = f"residue {{value}} is there twice (first as {first.name}){where}"
    refuse(path, problem, f"chain {chain.name} {label}", remedy)


def _atom_rows(path: Path, chain: gemmi.Chain, residue: gemmi.Residue) -> list[tuple[int, AtomRow]]:
    """Serial number and fields of the heavy atoms of a residue, each name once."""
    rows: dict[str, tuple[int, AtomRow]] = {}
    number, code = int(residue.seqid.num or 0), residue.seqid.icode.strip()
    for atom in residue:
        if atom.is_hydrogen():
            continue
        position, element = atom.pos.tolist(), atom.element
        label = f"{atom.name} of residue chain {chain.name} {residue.name} {residue.seqid}"
        if atom.name in rows:
            apart = float(np.linalg.norm(np.array(position) - np.array(rows[atom.name][1][0])))
            if apart > FARTHEST_TWICE and not atom.has_altloc():
                tell(
                    [f"{path}: atom {label} is there twice, {apart:.1f} Å apart; the first is kept"]
                )
            continue
        if not np.isfinite(position).all():
            refuse(path, f"atom {label} has coordinates {{value}}", position, "give finite ones")
        if element == UNKNOWN:
            refuse(
                path,
                "atom {value} has no element",
                label,
                "fill in the column of elements, or delete it",
            )
        labels = (atom.name, element.name, residue.name, number, code, chain.name)
        rows[atom.name] = (atom.serial, (position, element.atomic_number, *labels))
    return list(rows.values())


def read_atoms_and_nodes(path: Path | str) -> tuple[Structure, Structure]:
    """Read a structure file; return it, and one node for each of its residues."""
    atoms = read_structure(path)
    with about_file(path):
        return atoms, coarse_grain(atoms)


def read_nodes(path: Path | str) -> Structure:
    """Read a structure file as one node for each of its residues."""
    return read_atoms_and_nodes(path)[1]


def structure_path(path: Path | str, structure: Structure | None = None) -> Path:
    """The path of a structure to be written.

    Raises InputError for a suffix other than .pdb and .cif, and for one that cannot hold it.
    """
    path = Path(path)
    if path.suffix not in (".pdb", ".cif"):
        problem, remedy = "a structure is written as .pdb or .cif", "choose one of these suffixes"
        refuse(path, problem, path.suffix, remedy)
    if path.suffix == ".pdb" and structure is not None and not fits_pdb(structure):
        chains = len(set(structure.chains.tolist()))
        problem = f"{chains} chains and {len(structure)} atoms do not fit a PDB file"
        refuse(path, problem, len(structure), "write .cif")
    return path


def write_structure(
    path: Path | str,
    structure: Structure,
    frames: Frames | None = None,
    b_factors: BFactors | None = None,
) -> None:
    """Write a PDB or mmCIF file (by the suffix), one model per frame, or of its own positions.

    `b_factors` are in Å^2, of each atom of each frame; 0 by default.
    Raises InputError where PDB cannot hold the structure (more than 62 chains or 99,999 atoms): use
    .cif then.
    """
    path = structure_path(path, structure)
    as_pdb = path.suffix == ".pdb"
    as_text = pdb_text if as_pdb else mmcif_text
    write_text(path, as_text(structure, frames, b_factors))


def fits_pdb(structure: Structure) -> bool:
    """Whether the PDB format can hold this many chains and atoms."""
    return len(set(structure.chains.tolist())) <= _PDB_CHAINS and len(structure) <= _PDB_ATOMS


def pdb_text(
    structure: Structure, frames: Frames | None = None, b_factors: BFactors | None = None
) -> str:
    """The structure in PDB format, one model per frame; chains get names of one letter."""
    document = _document(structure, frames, b_factors)
    document.shorten_chain_names()
    return document.make_pdb_string(gemmi.PdbWriteOptions(cryst1_record=False))


def mmcif_text(
    structure: Structure, frames: Frames | None = None, b_factors: BFactors | None = None
) -> str:
    """The structure in mmCIF format, one model per frame."""
    groups = gemmi.MmcifOutputGroups(True)
    groups.cell = False  # there is no crystal
    return _document(structure, frames, b_factors).make_mmcif_document(groups).as_string()


def _document(
    structure: Structure, frames: Frames | None, b_factors: BFactors | None
) -> gemmi.Structure:
    document = gemmi.Structure()
    frames = structure.positions[None] if frames is None else frames
    for number, positions in enumerate(frames, start=1):
        blur = np.zeros(len(structure)) if b_factors is None else b_factors[number - 1]
        document.add_model(_model(structure, positions, blur, number))
    document.setup_entities()
    return document


def residues_of_chains(structure: Structure) -> dict[str, list[tuple[int, int]]]:
    """For each chain the first atom, and one past the last, of each of its residues."""
    chains: dict[str, list[tuple[int, int]]] = {}
    for first, last in residue_ranges(structure):
        chains.setdefault(str(structure.chains[first]), []).append((first, last))
    return chains


def _model(
    structure: Structure,
    positions: Float[np.ndarray, "atom 3"],
    b_factors: Float[np.ndarray, " atom"],
    number: int,
) -> gemmi.Model:
    """A model of these atoms elsewhere, in the order of their chains."""
    model = gemmi.Model(number)
    for name, residues in residues_of_chains(structure).items():
        chain = gemmi.Chain(name)
        for first, last in residues:
            residue = gemmi.Residue()
            residue.name, residue.het_flag = str(structure.residue_names[first]), "A"
            code = str(structure.insertion_codes[first]) or " "
            residue.seqid = gemmi.SeqId(int(structure.residue_numbers[first]), code)
            for i in range(first, last):
                atom = gemmi.Atom()
                atom.name = str(structure.atom_names[i])
                atom.element = gemmi.Element(str(structure.elements[i]))
                atom.pos, atom.occ = gemmi.Position(*map(float, positions[i])), 1.0
                atom.b_iso = float(b_factors[i])
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
    return model
