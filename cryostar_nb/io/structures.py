"""Structures in files: PDB and mmCIF through gemmi, trajectories through mdtraj."""

import gzip
import re
import string
from pathlib import Path

import gemmi
import numpy as np
from jaxtyping import Float

from cryostar_nb.errors import InputError
from cryostar_nb.io.files import existing_file, one_line, refuse, replacing, write_text
from cryostar_nb.structure import NODE_NAMES, Structure, coarse_grain, residue_ranges, standard_name

_PDB_CHAINS, _PDB_ATOMS = 62, 99_999  # the most that fit the format
_LONGEST_LINK = 2.2  # Å, of a peptide or phosphodiester bond
Frames = Float[np.ndarray, "frame atom 3"]  # Å
BFactors = Float[np.ndarray, "frame atom"]  # Å^2
AtomRow = tuple[object, ...]  # the fields of `Structure`


def read_structure(path: Path | str) -> Structure:
    """Read the heavy polymer atoms of the first model of a PDB or mmCIF file (also gzipped).

    Of alternate locations and of atoms given twice, the first is kept. Raises InputError for a file
    that is missing, cannot be parsed, holds no polymer, has a coordinate that is not finite, or
    gives the same residue twice.
    """
    path = existing_file(path, "a PDB or mmCIF file")
    rows: list[AtomRow] = []
    first_of: dict[tuple[str, str], tuple[str, bool]] = {}
    for chain in _read_model(path):
        for place, residue in enumerate(chain):
            if _is_polymer(chain, place) and not _is_alternate(path, chain, residue, first_of):
                rows += _atom_rows(path, chain, residue)
    return _structure(path, rows)


def _structure(path: Path, rows: list[AtomRow]) -> Structure:
    if not rows:
        remedy = "give a model of a protein or nucleic acid"
        refuse(path, "holds no amino acid or nucleotide", None, remedy)
    positions, electrons, *labels = map(np.array, zip(*rows, strict=True))
    return Structure(positions.astype(np.float64), electrons.astype(np.float64), *labels)


def _read_model(path: Path) -> gemmi.Model:
    """The first model of a file, each chain in one piece."""
    suffix = re.search(r"\.(pdb|ent|cif|mmcif)(\.gz)?$", path.name.lower())
    if suffix is None:
        problem = "a structure is read from .pdb, .ent, .cif or .mmcif (also .gz)"
        refuse(path, problem, path.suffix, "convert or rename the file")
    is_pdb = suffix[1] in ("pdb", "ent")
    try:
        if is_pdb:
            document = gemmi.read_pdb(str(path), split_chain_on_ter=True)
        else:
            document = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, UnicodeDecodeError, EOFError, OSError) as error:
        problem = f"cannot be read as a structure ({one_line(error)})"
        raise InputError(problem, file=path, remedy="check that it is complete") from error
    document.merge_chain_parts()
    if is_pdb:
        _check_pdb_coordinates(path)
    if len(document) == 0:
        refuse(path, "holds no atoms", None, "give a PDB or mmCIF file with a model")
    return document[0]


def _check_pdb_coordinates(path: Path) -> None:
    """Raise InputError for an atom whose coordinates are no numbers, which gemmi reads as 0."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="latin-1") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.startswith(("ATOM  ", "HETATM")):
                continue
            for field in (line[30:38], line[38:46], line[46:54]):
                try:
                    float(field)
                except ValueError:
                    problem = f"line {number} has the coordinate {field!r}"
                    refuse(path, problem, field, "give a number")


def _is_polymer(chain: gemmi.Chain, place: int) -> bool:
    """Whether a residue is an amino acid or nucleotide of a chain, not a ligand, water or ion."""
    residue = chain[place]
    known = gemmi.find_tabulated_residue(standard_name(residue.name))
    if known.found():
        return known.is_amino_acid() or known.is_nucleic_acid()
    if residue.het_flag != "H":  # an ATOM record says polymer
        return any(atom.name in NODE_NAMES for atom in residue)
    # Of HETATM records, modified residues are bonded to a neighbour.
    before, after = (chain[i] if 0 <= i < len(chain) else None for i in (place - 1, place + 1))
    return _linked(before, residue) or _linked(residue, after)


def _linked(first: gemmi.Residue | None, second: gemmi.Residue | None) -> bool:
    """Whether a peptide or phosphodiester bond leads from one residue to the next."""
    for leaving, entering in (("C", "N"), ("O3'", "P")):
        left = first.find_atom(leaving, "*") if first is not None else None
        right = second.find_atom(entering, "*") if second is not None else None
        if left is not None and right is not None and left.pos.dist(right.pos) < _LONGEST_LINK:
            return True
    return False


def _is_alternate(
    path: Path,
    chain: gemmi.Chain,
    residue: gemmi.Residue,
    first_of: dict[tuple[str, str], tuple[str, bool]],
) -> bool:
    """Whether a residue shares its place with an earlier one, as alternate locations do.

    `first_of` keeps, by chain and number, the name of the first residue, and whether it has
    alternate locations. Raises InputError for a residue that is there twice.
    """
    key = (chain.name, str(residue.seqid))
    alternate = any(atom.has_altloc() for atom in residue)
    nodes = [atom.name for atom in residue if atom.name in NODE_NAMES and not atom.has_altloc()]
    if key not in first_of and len(nodes) == len(set(nodes)):
        first_of[key] = (residue.name, alternate)
        return False
    first_name, first_alternate = first_of.get(key, (residue.name, False))
    if not (alternate and first_alternate):
        label = f"chain {chain.name} {residue.name} {residue.seqid}"
        problem = f"residue {{value}} is there twice (first as {first_name})"
        refuse(path, problem, label, "delete or renumber one of them")
    return True


def _atom_rows(path: Path, chain: gemmi.Chain, residue: gemmi.Residue) -> list[AtomRow]:
    """The heavy atoms of a residue, each name once."""
    rows: dict[str, AtomRow] = {}
    number, code = int(residue.seqid.num or 0), residue.seqid.icode.strip()
    for atom in residue:
        if atom.is_hydrogen() or atom.name in rows:
            continue
        position, element = atom.pos.tolist(), atom.element
        if not np.isfinite(position).all():
            label = f"{atom.name} of residue chain {chain.name} {residue.name} {residue.seqid}"
            refuse(path, f"atom {label} has coordinates {{value}}", position, "give finite ones")
        labels = (atom.name, element.name, residue.name, number, code, chain.name)
        rows[atom.name] = (position, element.atomic_number, *labels)
    return list(rows.values())


def read_atoms_and_nodes(path: Path | str) -> tuple[Structure, Structure]:
    """Read a structure file; return it, and one node for each of its residues."""
    atoms = read_structure(path)
    try:
        return atoms, coarse_grain(atoms)
    except InputError as error:
        error.file = Path(path)
        raise


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


def _residues_of_chains(structure: Structure) -> dict[str, list[tuple[int, int]]]:
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
    for name, residues in _residues_of_chains(structure).items():
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


def write_trajectory(path: Path | str, structure: Structure, frames: Frames) -> None:
    """Write frames as DCD or XTC, by the suffix; viewers also ask for a PDB of the same atoms."""
    import mdtraj  # slow to import, and needed here alone

    path = Path(path)
    if path.suffix not in (".dcd", ".xtc"):
        problem, remedy = "a trajectory is written as .dcd or .xtc", "choose one of these suffixes"
        refuse(path, problem, path.suffix, remedy)
    topology = mdtraj.Topology()
    for residues in _residues_of_chains(structure).values():
        chain = topology.add_chain()
        for first, last in residues:
            name, number = structure.residue_names[first], structure.residue_numbers[first]
            residue = topology.add_residue(str(name), chain, int(number))
            for i in range(first, last):
                element = mdtraj.element.get_by_symbol(str(structure.elements[i]))
                topology.add_atom(str(structure.atom_names[i]), element, residue)
    trajectory = mdtraj.Trajectory(np.asarray(frames) / 10, topology)  # mdtraj works in nm
    with replacing(path) as temporary:
        trajectory.save(str(temporary))


def chain_name(index: int) -> str:
    """A name for the chain of this number: A ... Z, a ... z, 0 ... 9, then AA, AB, ..."""
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits
    before = chain_name(index // len(letters) - 1) if index >= len(letters) else ""
    return before + letters[index % len(letters)]


def read_trajectory(path: Path | str, topology: Path | str) -> tuple[Structure, Frames]:
    """Read the heavy polymer atoms of a trajectory that mdtraj knows (DCD, XTC, PDB, ...), in Å.

    Raises InputError when a file is missing or the two do not belong together.
    """
    import mdtraj

    path = existing_file(path, "a trajectory")
    topology = existing_file(topology, "its topology (PDB, PSF, ...)")
    try:
        trajectory = mdtraj.load(str(path), top=str(topology))
    except (ValueError, OSError, TypeError, RuntimeError) as error:
        problem = f"cannot be read with the topology {topology} ({one_line(error)})"
        raise InputError(problem, file=path, remedy="check that they belong together") from error
    rows: list[AtomRow] = []
    atoms: list[int] = []
    # mdtraj drops insertion codes: residues of one number get A, B, ... in their order.
    same_number: dict[tuple[str, int], list[int]] = {}
    for atom in trajectory.topology.atoms:
        residue, element = atom.residue, atom.element
        name = standard_name(residue.name)
        known = gemmi.find_tabulated_residue(name)
        heavy = element is not None and element.symbol not in ("H", "VS")
        if not heavy or not (known.is_amino_acid() or known.is_nucleic_acid()):
            continue
        chain = residue.segment_id or residue.chain.chain_id or chain_name(residue.chain.index)
        copies = same_number.setdefault((chain, residue.resSeq), [])
        if residue.index not in copies:
            copies.append(residue.index)
        code = " ABCDEFGHIJKLMNOPQRSTUVWXYZ"[copies.index(residue.index)].strip()
        labels = (atom.name, element.symbol, name, residue.resSeq, code, chain)
        rows.append((trajectory.xyz[0, atom.index], element.number, *labels))
        atoms.append(atom.index)
    frames = trajectory.xyz[:, atoms].astype(np.float64) * 10  # mdtraj works in nm
    return _structure(topology, rows).with_positions(frames[0]), frames
