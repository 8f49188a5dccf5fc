"""Molecular structures: read them, reduce them to one node per residue, write them; bonds and elastic edges.

A `Structure` is a table of atoms; a coarse-grained one has a single atom per residue, the *node*: Cα of an amino acid, P of
a nucleotide (C1' where P is missing), carrying the electrons of the whole residue.
"""

import dataclasses
import gzip
import itertools
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from cryostar_nb.errors import InputError
from cryostar_nb.files import existing_file, replacing, write_text

# Residues inside a chain: the free molecule less one water per bond. IUPAC formulas.
_FORMULAS = {
    **{"GLY": "C2H3NO", "ALA": "C3H5NO", "SER": "C3H5NO2", "PRO": "C5H7NO", "VAL": "C5H9NO", "THR": "C4H7NO2"},
    **{"CYS": "C3H5NOS", "ILE": "C6H11NO", "LEU": "C6H11NO", "ASN": "C4H6N2O2", "ASP": "C4H5NO3", "GLN": "C5H8N2O2"},
    **{"LYS": "C6H12N2O", "GLU": "C5H7NO3", "MET": "C5H9NOS", "HIS": "C6H7N3O", "PHE": "C9H9NO", "ARG": "C6H12N4O"},
    **{"TYR": "C9H9NO2", "TRP": "C11H10N2O", "MSE": "C5H9NOSe"},
    **{"A": "C10H12N5O6P", "C": "C9H12N3O7P", "G": "C10H12N5O7P", "U": "C9H11N2O8P"},
    **{"DA": "C10H12N5O5P", "DC": "C9H12N3O6P", "DG": "C10H12N5O6P", "DT": "C10H13N2O7P"},
}
_NODE_NAMES = ("CA", "P", "C1'")  # in this order
_PDB_CHAINS, _PDB_ATOMS = 62, 99_999
# Longest distance between bonded nodes, in Å: Cα-Cα is 3.8 (2.9 for cis), P-P up to 7.5.
_LONGEST_BOND = {"CA": 4.5, "P": 8.5, "C1'": 8.5}


@dataclass(frozen=True)
class Structure:
    """Atoms, one entry each in every field. Hydrogens, waters, ions and ligands are left out when a file is read."""

    positions: Float[np.ndarray, "atom 3"]  # Å
    electrons: Float[np.ndarray, " atom"]
    atom_names: np.ndarray  # str
    elements: np.ndarray  # str
    residue_names: np.ndarray  # str
    residue_numbers: Int[np.ndarray, " atom"]
    insertion_codes: np.ndarray  # str, empty for most
    chains: np.ndarray  # str

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, selection: np.ndarray | slice | Sequence[int]) -> "Structure":
        return Structure(*(getattr(self, field.name)[selection] for field in dataclasses.fields(self)))

    def with_positions(self, positions: Float[np.ndarray, "atom 3"]) -> "Structure":
        """The same atoms elsewhere."""
        return dataclasses.replace(self, positions=np.asarray(positions, dtype=np.float64))

    def residue_label(self, atom: int) -> str:
        """The residue of an atom as people write it, for example 'chain A GLY 12'."""
        number = f"{self.residue_numbers[atom]}{self.insertion_codes[atom]}"
        return f"chain {self.chains[atom]} {self.residue_names[atom]} {number}"

    @property
    def residue_keys(self) -> list[tuple[str, int, str]]:
        """Chain, number and insertion code of the residue of each atom."""
        return list(zip(self.chains.tolist(), self.residue_numbers.tolist(), self.insertion_codes.tolist(), strict=True))


def read_structure(path: Path | str) -> Structure:
    """Read the heavy polymer atoms of the first model of a PDB or mmCIF file (also gzipped).

    Of alternate locations and of atoms given twice, the first is kept. Raises InputError for a file that is missing, cannot
    be parsed, holds no polymer, has a coordinate that is not finite, or gives the same residue twice.
    """
    path = existing_file(path, "a PDB or mmCIF file")
    if not re.search(r"\.(pdb|ent|cif|mmcif)(\.gz)?$", path.name, re.IGNORECASE):
        raise InputError(f"{path}: a structure is read from .pdb, .ent, .cif or .mmcif (also .gz); convert or rename the file")
    is_pdb = re.search(r"\.(pdb|ent)(\.gz)?$", path.name, re.IGNORECASE) is not None
    try:
        document = gemmi.read_pdb(str(path), split_chain_on_ter=True) if is_pdb else gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, UnicodeDecodeError, EOFError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a structure ({' '.join(str(error).split())}); check that it is complete") from error
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
            if key in seen:
                first_name, first_alternate = seen[key]
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
                    (*atom.pos.tolist(), atom.element.atomic_number, atom.name, atom.element.name, residue.name, key[1], key[2], key[0])
                )
    if not rows:
        raise InputError(f"{path}: holds no amino acid or nucleotide; give a model of a protein or nucleic acid")
    x, y, z, electrons, atom_names, elements, residue_names, numbers, insertion_codes, chains = map(np.array, zip(*rows, strict=True))
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
                        raise InputError(f"{path}: line {number} has the coordinate {field!r}; give a number") from None


def _is_polymer(chain: gemmi.Chain, place: int) -> bool:
    """Whether a residue is an amino acid or nucleotide of a chain, not a ligand, water or ion."""
    residue = chain[place]
    known = gemmi.find_tabulated_residue(residue.name)
    if known.found():
        return known.is_amino_acid() or known.is_nucleic_acid()
    if residue.het_flag != "H":  # an ATOM record says polymer; of HETATM records, modified residues are bonded to a neighbour
        return any(atom.name in _NODE_NAMES for atom in residue)
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


def residue_electrons(name: str, heavy_atom_electrons: float) -> float:
    """Electrons of a whole residue inside a chain, hydrogens included.

    Standard residues come from their formula, so atoms missing from the model count too; any other residue counts its heavy
    atoms and the hydrogens that its dictionary entry lists.
    """
    if name in _FORMULAS:
        parts = re.findall(r"([A-Z][a-z]?)(\d*)", _FORMULAS[name])
        return float(sum(gemmi.Element(symbol).atomic_number * int(count or 1) for symbol, count in parts))
    known = gemmi.find_tabulated_residue(name)
    return heavy_atom_electrons + (max(known.hydrogen_count - 2, 0) if known.found() else 0)


def node_atoms(atoms: Structure) -> Int[np.ndarray, " residue"]:
    """Index of the atom that stands for each residue: CA, else P, else C1'. Raises InputError where there is none."""
    nodes = []
    for first, last in residue_ranges(atoms):
        names = atoms.atom_names[first:last].tolist()
        node = next((names.index(name) for name in _NODE_NAMES if name in names), None)
        if node is None:
            raise InputError(f"residue {atoms.residue_label(first)} has no CA, P or C1' atom; complete the residue or delete it")
        nodes.append(first + node)
    return np.array(nodes)


def coarse_grain(atoms: Structure) -> Structure:
    """One node per residue (see `node_atoms`), with the electrons of the whole residue."""
    electrons = [
        residue_electrons(str(atoms.residue_names[first]), float(atoms.electrons[first:last].sum()))
        for first, last in residue_ranges(atoms)
    ]
    return dataclasses.replace(atoms[node_atoms(atoms)], electrons=np.array(electrons))


def read_nodes(path: Path | str) -> Structure:
    """Read a structure file and coarse-grain it; errors name the file."""
    atoms = read_structure(path)
    try:
        return coarse_grain(atoms)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def residue_ranges(atoms: Structure) -> list[tuple[int, int]]:
    """First atom, and one past the last, of each residue."""
    keys = atoms.residue_keys
    starts = [0, *(i for i in range(1, len(keys)) if keys[i] != keys[i - 1]), len(keys)]
    return list(itertools.pairwise(starts))


def bonds(nodes: Structure) -> Int[np.ndarray, "bond 2"]:
    """Pairs of nodes that are neighbours in their chain *and* in space; missing residues leave a gap without a bond."""
    left = np.arange(len(nodes) - 1)
    length = np.linalg.norm(np.diff(nodes.positions, axis=0), axis=-1)
    longest = np.array([_LONGEST_BOND.get(name, 4.5) for name in nodes.atom_names.tolist()])
    protein = nodes.atom_names == "CA"
    bonded = (nodes.chains[:-1] == nodes.chains[1:]) & (protein[:-1] == protein[1:]) & (length <= longest[:-1])
    return np.stack([left[bonded], left[bonded] + 1], axis=-1)


def elastic_edges(nodes: Structure, cutoff: float = 12.0) -> Int[np.ndarray, "edge 2"]:
    """P_EN of eq. 5: pairs of nodes of the same chain nearer than `cutoff` Å in the reference, each pair once, i < j."""
    pairs = cKDTree(nodes.positions).query_pairs(cutoff, output_type="ndarray")
    pairs = np.sort(pairs, axis=-1)
    pairs = pairs[nodes.chains[pairs[:, 0]] == nodes.chains[pairs[:, 1]]]
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].astype(np.int64)


def write_structure(path: Path | str, structure: Structure, frames: Float[np.ndarray, "frame atom 3"] | None = None) -> None:
    """Write a PDB or mmCIF file (by the suffix), one model per frame; `frames` default to the structure's own positions.

    Raises InputError where PDB cannot hold the structure (more than 62 chains or 99,999 atoms): use .cif then.
    """
    path = Path(path)
    if path.suffix not in (".pdb", ".cif"):
        raise InputError(f"{path}: a structure is written as .pdb or .cif; choose one of these suffixes")
    chains = len(set(structure.chains.tolist()))
    if path.suffix == ".pdb" and (chains > _PDB_CHAINS or len(structure) > _PDB_ATOMS):
        raise InputError(f"{path}: {chains} chains and {len(structure)} atoms do not fit a PDB file; write .cif")
    if path.suffix == ".pdb":
        write_text(path, pdb_text(structure, frames))
    else:
        write_text(path, _document(structure, frames).make_mmcif_document().as_string())


def pdb_text(structure: Structure, frames: Float[np.ndarray, "frame atom 3"] | None = None) -> str:
    """The structure in PDB format, one model per frame; chain names of several letters are shortened to one."""
    document = _document(structure, frames)
    document.shorten_chain_names()
    return document.make_pdb_string(gemmi.PdbWriteOptions(cryst1_record=False))


def _document(structure: Structure, frames: Float[np.ndarray, "frame atom 3"] | None) -> gemmi.Structure:
    document = gemmi.Structure()
    for number, positions in enumerate(structure.positions[None] if frames is None else frames, start=1):
        document.add_model(_gemmi_model(structure, positions, number))
    document.setup_entities()
    return document


def _gemmi_model(structure: Structure, positions: Float[np.ndarray, "atom 3"], number: int) -> gemmi.Model:
    model = gemmi.Model(number)
    ranges = residue_ranges(structure)
    for name in dict.fromkeys(structure.chains.tolist()):
        chain = gemmi.Chain(name)
        for first, last in ranges:
            if structure.chains[first] != name:
                continue
            residue = gemmi.Residue()
            residue.name = str(structure.residue_names[first])
            residue.seqid = gemmi.SeqId(int(structure.residue_numbers[first]), str(structure.insertion_codes[first]) or " ")
            for i in range(first, last):
                atom = gemmi.Atom()
                atom.name, atom.element = str(structure.atom_names[i]), gemmi.Element(str(structure.elements[i]))
                atom.pos = gemmi.Position(*map(float, positions[i]))
                atom.occ = 1.0
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
    return model


def write_trajectory(path: Path | str, structure: Structure, frames: Float[np.ndarray, "frame atom 3"]) -> None:
    """Write frames as DCD or XTC (by the suffix); a PDB of the same atoms is the topology that viewers ask for."""
    import mdtraj  # slow to import, and needed here alone

    path = Path(path)
    if path.suffix not in (".dcd", ".xtc"):
        raise InputError(f"{path}: a trajectory is written as .dcd or .xtc; choose one of these suffixes")
    topology = mdtraj.Topology()
    for name in dict.fromkeys(structure.chains.tolist()):
        chain = topology.add_chain()
        for first, last in residue_ranges(structure):
            if structure.chains[first] == name:
                residue = topology.add_residue(str(structure.residue_names[first]), chain, int(structure.residue_numbers[first]))
                for i in range(first, last):
                    topology.add_atom(str(structure.atom_names[i]), mdtraj.element.get_by_symbol(str(structure.elements[i])), residue)
    trajectory = mdtraj.Trajectory(np.asarray(frames) / 10, topology)  # mdtraj works in nm
    with replacing(path) as temporary:
        trajectory.save(str(temporary))


def chain_name(index: int) -> str:
    """A name for the chain of this number: A ... Z, a ... z, 0 ... 9, then AA, AB, ..."""
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits
    return letters[index] if index < len(letters) else chain_name(index // len(letters) - 1) + letters[index % len(letters)]


def read_trajectory(path: Path | str, topology: Path | str) -> tuple[Structure, Float[np.ndarray, "frame atom 3"]]:
    """Read the heavy polymer atoms of any trajectory that mdtraj knows (DCD, XTC, TRR, multi-model PDB ...), in Å.

    Raises InputError when a file is missing or the two do not belong together.
    """
    import mdtraj

    path, topology = existing_file(path, "a trajectory"), existing_file(topology, "its topology (PDB, PSF, ...)")
    try:
        trajectory = mdtraj.load(str(path), top=str(topology))
    except (ValueError, OSError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path}: cannot be read with the topology {topology} ({' '.join(str(error).split())}); check that they belong together"
        ) from error
    rows = []
    chain_names = [chain.chain_id or chain_name(chain.index) for chain in trajectory.topology.chains]
    copies: dict[tuple[str, int], list[int]] = {}  # mdtraj drops insertion codes: residues of one number, in order
    for atom in trajectory.topology.atoms:
        residue = atom.residue
        name = "HIS" if residue.name in ("HSD", "HSE", "HSP") else residue.name  # CHARMM's names for histidine
        known = gemmi.find_tabulated_residue(name)
        if atom.element is None or atom.element.symbol in ("H", "VS") or not (known.is_amino_acid() or known.is_nucleic_acid()):
            continue
        chain = residue.segment_id or chain_names[residue.chain.index]
        same_number = copies.setdefault((chain, residue.resSeq), [])
        if residue.index not in same_number:
            same_number.append(residue.index)
        insertion_code = " ABCDEFGHIJKLMNOPQRSTUVWXYZ"[same_number.index(residue.index)].strip()
        rows.append((atom.index, atom.element.number, atom.name, atom.element.symbol, name, residue.resSeq, insertion_code, chain))
    if not rows:
        raise InputError(f"{topology}: holds no amino acid or nucleotide; give the topology of a protein or nucleic acid")
    index, *columns = map(np.array, zip(*rows, strict=True))
    frames = trajectory.xyz[:, index].astype(np.float64) * 10
    return Structure(frames[0], columns[0].astype(np.float64), *columns[1:]), frames
