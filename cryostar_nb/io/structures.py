"""Structures in files: PDB and mmCIF through gemmi, trajectories through mdtraj."""

import gzip
import re
import string
from pathlib import Path

import gemmi
import numpy as np
from jaxtyping import Float

from cryostar_nb.errors import InputError
from cryostar_nb.io.files import existing_file, replacing, write_text
from cryostar_nb.structure import NODE_NAMES, Structure, coarse_grain, residue_ranges, standard_name

_PDB_CHAINS, _PDB_ATOMS = 62, 99_999


def read_structure(path: Path | str) -> Structure:
    """Read the heavy polymer atoms of the first model of a PDB or mmCIF file (also gzipped).

    Of alternate locations and of atoms given twice, the first is kept. Raises InputError for a file that is missing, cannot
    be parsed, holds no polymer, has a coordinate that is not finite, or gives the same residue twice.
    """
    path = existing_file(path, "a PDB or mmCIF file")
    if not re.search(r"\.(pdb|ent|cif|mmcif)(\.gz)?$", path.name, re.IGNORECASE):
        raise InputError(
            f"{path}: a structure is read from .pdb, .ent, .cif or .mmcif (also .gz); convert or rename the file"
        )
    is_pdb = re.search(r"\.(pdb|ent)(\.gz)?$", path.name, re.IGNORECASE) is not None
    try:
        document = (
            gemmi.read_pdb(str(path), split_chain_on_ter=True)
            if is_pdb
            else gemmi.read_structure(str(path))
        )
    except (RuntimeError, ValueError, UnicodeDecodeError, EOFError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as a structure ({' '.join(str(error).split())}); check that it is complete"
        ) from error
    document.merge_chain_parts()
    if is_pdb:
        _check_pdb_coordinates(path)
    if len(document) == 0:
        raise InputError(f"{path}: holds no atoms; give a PDB or mmCIF file with a model")
    rows: list[tuple[object, ...]] = []
    seen: dict[tuple[str, int, str], tuple[str, bool]] = {}
    for chain in document[0]:
        for place, residue in enumerate(chain):
            if not _is_polymer(chain, place):
                continue
            key = (chain.name, int(residue.seqid.num or 0), residue.seqid.icode.strip())
            alternate = any(atom.has_altloc() for atom in residue)
            nodes = [
                atom.name for atom in residue if atom.name in NODE_NAMES and not atom.has_altloc()
            ]
            if key in seen or len(nodes) > len(set(nodes)):
                first_name, first_alternate = seen.get(key, (residue.name, False))
                if alternate and first_alternate:  # two residues share a place; the first stays
                    continue
                raise InputError(
                    f"{path}: residue chain {key[0]} {residue.name} {key[1]}{key[2]} is there twice (first as {first_name}); delete or renumber one of them"
                )
            seen[key] = (residue.name, alternate)
            taken: set[str] = set()
            for atom in residue:
                if atom.is_hydrogen() or atom.name in taken:
                    continue
                taken.add(atom.name)
                if not all(map(np.isfinite, atom.pos.tolist())):
                    raise InputError(
                        f"{path}: atom {atom.name} of residue chain {key[0]} {residue.name} {key[1]} has coordinates {atom.pos.tolist()}; give finite ones"
                    )
                rows.append(
                    (
                        *atom.pos.tolist(),
                        atom.element.atomic_number,
                        atom.name,
                        atom.element.name,
                        residue.name,
                        key[1],
                        key[2],
                        key[0],
                    )
                )
    if not rows:
        raise InputError(
            f"{path}: holds no amino acid or nucleotide; give a model of a protein or nucleic acid"
        )
    x, y, z, electrons, atom_names, elements, residue_names, numbers, insertion_codes, chains = map(
        np.array, zip(*rows, strict=True)
    )
    return Structure(
        np.stack([x, y, z], axis=-1).astype(np.float64), electrons.astype(np.float64), atom_names, elements, residue_names, numbers, insertion_codes, chains
    )  # fmt: skip


def _check_pdb_coordinates(path: Path) -> None:
    """Raise InputError for an atom whose coordinates are no numbers, which gemmi would read as 0."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="latin-1") as lines:
        for number, line in enumerate(lines, start=1):
            if line.startswith(("ATOM  ", "HETATM")):
                for field in (line[30:38], line[38:46], line[46:54]):
                    try:
                        float(field)
                    except ValueError:
                        raise InputError(
                            f"{path}: line {number} has the coordinate {field!r}; give a number"
                        ) from None


def _is_polymer(chain: gemmi.Chain, place: int) -> bool:
    """Whether a residue is an amino acid or nucleotide of a chain, not a ligand, water or ion."""
    residue = chain[place]
    known = gemmi.find_tabulated_residue(standard_name(residue.name))
    if known.found():
        return known.is_amino_acid() or known.is_nucleic_acid()
    if (
        residue.het_flag != "H"
    ):  # an ATOM record says polymer; of HETATM records, modified residues are bonded to a neighbour
        return any(atom.name in NODE_NAMES for atom in residue)
    before, after = (chain[i] if 0 <= i < len(chain) else None for i in (place - 1, place + 1))
    return _linked(before, residue) or _linked(residue, after)


def _linked(first: gemmi.Residue | None, second: gemmi.Residue | None) -> bool:
    """Whether a peptide or phosphodiester bond leads from one residue to the next."""
    for leaving, entering in (("C", "N"), ("O3'", "P")):
        left = first.find_atom(leaving, "*") if first is not None else None
        right = second.find_atom(entering, "*") if second is not None else None
        if left is not None and right is not None and left.pos.dist(right.pos) < 2.2:
            return True
    return False


def read_atoms_and_nodes(path: Path | str) -> tuple[Structure, Structure]:
    """Read a structure file; return it, and one node for each of its residues. Errors name the file."""
    atoms = read_structure(path)
    try:
        return atoms, coarse_grain(atoms)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_nodes(path: Path | str) -> Structure:
    """Read a structure file and coarse-grain it; errors name the file."""
    return read_atoms_and_nodes(path)[1]


def structure_path(path: Path | str, structure: Structure | None = None) -> Path:
    """The path of a structure to be written. Raises InputError for a suffix other than .pdb and .cif, and for one that cannot hold it."""
    path = Path(path)
    if path.suffix not in (".pdb", ".cif"):
        raise InputError(
            f"{path}: a structure is written as .pdb or .cif; choose one of these suffixes"
        )
    if path.suffix == ".pdb" and structure is not None and not fits_pdb(structure):
        chains = len(set(structure.chains.tolist()))
        raise InputError(
            f"{path}: {chains} chains and {len(structure)} atoms do not fit a PDB file; write .cif"
        )
    return path


def write_structure(
    path: Path | str, structure: Structure, frames: Float[np.ndarray, "frame atom 3"] | None = None
) -> None:
    """Write a PDB or mmCIF file (by the suffix), one model per frame; `frames` default to the structure's own positions.

    Raises InputError where PDB cannot hold the structure (more than 62 chains or 99,999 atoms): use .cif then.
    """
    path = structure_path(path, structure)
    if path.suffix == ".pdb":
        write_text(path, pdb_text(structure, frames))
    else:
        write_text(path, _document(structure, frames).make_mmcif_document().as_string())


def fits_pdb(structure: Structure) -> bool:
    """Whether the PDB format can hold this many chains and atoms."""
    return len(set(structure.chains.tolist())) <= _PDB_CHAINS and len(structure) <= _PDB_ATOMS


def pdb_text(structure: Structure, frames: Float[np.ndarray, "frame atom 3"] | None = None) -> str:
    """The structure in PDB format, one model per frame; chain names of several letters are shortened to one."""
    document = _document(structure, frames)
    document.shorten_chain_names()
    return document.make_pdb_string(gemmi.PdbWriteOptions(cryst1_record=False))


def _document(
    structure: Structure, frames: Float[np.ndarray, "frame atom 3"] | None
) -> gemmi.Structure:
    document = gemmi.Structure()
    for number, positions in enumerate(
        structure.positions[None] if frames is None else frames, start=1
    ):
        document.add_model(_gemmi_model(structure, positions, number))
    document.setup_entities()
    return document


def _gemmi_model(
    structure: Structure, positions: Float[np.ndarray, "atom 3"], number: int
) -> gemmi.Model:
    model = gemmi.Model(number)
    ranges = residue_ranges(structure)
    for name in dict.fromkeys(structure.chains.tolist()):
        chain = gemmi.Chain(name)
        for first, last in ranges:
            if structure.chains[first] != name:
                continue
            residue = gemmi.Residue()
            residue.name = str(structure.residue_names[first])
            residue.het_flag = "A"
            residue.seqid = gemmi.SeqId(
                int(structure.residue_numbers[first]), str(structure.insertion_codes[first]) or " "
            )
            for i in range(first, last):
                atom = gemmi.Atom()
                atom.name, atom.element = (
                    str(structure.atom_names[i]),
                    gemmi.Element(str(structure.elements[i])),
                )
                atom.pos = gemmi.Position(*map(float, positions[i]))
                atom.occ = 1.0
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
    return model


def write_trajectory(
    path: Path | str, structure: Structure, frames: Float[np.ndarray, "frame atom 3"]
) -> None:
    """Write frames as DCD or XTC (by the suffix); a PDB of the same atoms is the topology that viewers ask for."""
    import mdtraj  # slow to import, and needed here alone

    path = Path(path)
    if path.suffix not in (".dcd", ".xtc"):
        raise InputError(
            f"{path}: a trajectory is written as .dcd or .xtc; choose one of these suffixes"
        )
    topology = mdtraj.Topology()
    for name in dict.fromkeys(structure.chains.tolist()):
        chain = topology.add_chain()
        for first, last in residue_ranges(structure):
            if structure.chains[first] == name:
                residue = topology.add_residue(
                    str(structure.residue_names[first]),
                    chain,
                    int(structure.residue_numbers[first]),
                )
                for i in range(first, last):
                    topology.add_atom(
                        str(structure.atom_names[i]),
                        mdtraj.element.get_by_symbol(str(structure.elements[i])),
                        residue,
                    )
    trajectory = mdtraj.Trajectory(np.asarray(frames) / 10, topology)  # mdtraj works in nm
    with replacing(path) as temporary:
        trajectory.save(str(temporary))


def chain_name(index: int) -> str:
    """A name for the chain of this number: A ... Z, a ... z, 0 ... 9, then AA, AB, ..."""
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits
    return (
        letters[index]
        if index < len(letters)
        else chain_name(index // len(letters) - 1) + letters[index % len(letters)]
    )


def read_trajectory(
    path: Path | str, topology: Path | str
) -> tuple[Structure, Float[np.ndarray, "frame atom 3"]]:
    """Read the heavy polymer atoms of any trajectory that mdtraj knows (DCD, XTC, TRR, multi-model PDB ...), in Å.

    Raises InputError when a file is missing or the two do not belong together.
    """
    import mdtraj

    path, topology = (
        existing_file(path, "a trajectory"),
        existing_file(topology, "its topology (PDB, PSF, ...)"),
    )
    try:
        trajectory = mdtraj.load(str(path), top=str(topology))
    except (ValueError, OSError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path}: cannot be read with the topology {topology} ({' '.join(str(error).split())}); check that they belong together"
        ) from error
    rows = []
    chain_names = [
        chain.chain_id or chain_name(chain.index) for chain in trajectory.topology.chains
    ]
    copies: dict[
        tuple[str, int], list[int]
    ] = {}  # mdtraj drops insertion codes: residues of one number, in order
    for atom in trajectory.topology.atoms:
        residue = atom.residue
        name = standard_name(residue.name)
        known = gemmi.find_tabulated_residue(name)
        if (
            atom.element is None
            or atom.element.symbol in ("H", "VS")
            or not (known.is_amino_acid() or known.is_nucleic_acid())
        ):
            continue
        chain = residue.segment_id or chain_names[residue.chain.index]
        same_number = copies.setdefault((chain, residue.resSeq), [])
        if residue.index not in same_number:
            same_number.append(residue.index)
        insertion_code = " ABCDEFGHIJKLMNOPQRSTUVWXYZ"[same_number.index(residue.index)].strip()
        rows.append(
            (
                atom.index,
                atom.element.number,
                atom.name,
                atom.element.symbol,
                name,
                residue.resSeq,
                insertion_code,
                chain,
            )
        )
    if not rows:
        raise InputError(
            f"{topology}: holds no amino acid or nucleotide; give the topology of a protein or nucleic acid"
        )
    index, *columns = map(np.array, zip(*rows, strict=True))
    frames = trajectory.xyz[:, index].astype(np.float64) * 10
    return Structure(frames[0], columns[0].astype(np.float64), *columns[1:]), frames
