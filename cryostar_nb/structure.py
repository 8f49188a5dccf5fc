"""Molecular structures: a table of atoms, reduced to one node per residue; bonds and elastic edges.

A `Structure` is a table of atoms; a coarse-grained one has a single atom per residue, the *node*:
Cα of an amino acid, P of a nucleotide (C1' where P is missing), with the electrons of the whole
residue.
"""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import gemmi
import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from cryostar_nb.errors import InputError

# Residues inside a chain: the free molecule less one water per bond. IUPAC formulas.
_FORMULAS = """
GLY C2H3NO    ALA C3H5NO    SER C3H5NO2    PRO C5H7NO    VAL C5H9NO     THR C4H7NO2  CYS C3H5NOS
ILE C6H11NO   LEU C6H11NO   ASN C4H6N2O2   ASP C4H5NO3   GLN C5H8N2O2   LYS C6H12N2O GLU C5H7NO3
MET C5H9NOS   HIS C6H7N3O   PHE C9H9NO     ARG C6H12N4O  TYR C9H9NO2    TRP C11H10N2O
MSE C5H9NOSe  A C10H12N5O6P C C9H12N3O7P   G C10H12N5O7P U C9H11N2O8P
DA C10H12N5O5P DC C9H12N3O6P DG C10H12N5O6P DT C10H13N2O7P
""".split()
_FORMULA_OF = dict(zip(_FORMULAS[::2], _FORMULAS[1::2], strict=True))
# Residues as force fields name their protonation states, disulfides and ends of strands.
_STANDARD_NAMES = {
    **dict.fromkeys(("HSD", "HSE", "HSP", "HID", "HIE", "HIP"), "HIS"),
    **dict.fromkeys(("CYX", "CYM"), "CYS"),
    **{"ASH": "ASP", "GLH": "GLU", "LYN": "LYS"},
    **{f"D{base}{end}": f"D{base}" for base in "ACGT" for end in "35"},
    **{f"R{base}{end}": base for base in "ACGU" for end in ("", "3", "5")},
}
NODE_NAMES = ("CA", "P", "C1'")  # the first that a residue has is its node
# Longest distance between bonded nodes, in Å: Cα-Cα is 3.8 (2.9 for cis), P-P up to 7.5.
LONGEST_BOND = {"CA": 4.5, "P": 8.5, "C1'": 8.5}


@dataclass(frozen=True)
class Structure:
    """Atoms, one entry each in every field, without hydrogens, waters, ions and ligands."""

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
        columns = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Structure(*(column[selection] for column in columns))

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
        columns = (self.chains, self.residue_numbers, self.insertion_codes)
        return list(zip(*(column.tolist() for column in columns), strict=True))


def standard_name(residue_name: str) -> str:
    """The dictionary's name of a residue, whatever its protonation and its place in a strand."""
    return _STANDARD_NAMES.get(residue_name, residue_name)


def residue_formula(name: str) -> dict[str, int]:
    """Number of atoms of each element of a standard residue inside a chain; empty of any other."""
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", _FORMULA_OF.get(standard_name(name), ""))
    return {element: int(count or 1) for element, count in parts}


def residue_electrons(name: str, heavy_atom_electrons: float) -> float:
    """Electrons of a whole residue inside a chain, hydrogens included.

    Those of a standard residue come from its formula, so atoms missing from the model count too;
    any other residue counts its heavy atoms and the hydrogens that its dictionary entry lists.
    """
    if formula := residue_formula(name):
        counts = ((gemmi.Element(el).atomic_number, count) for el, count in formula.items())
        return float(sum(electrons * count for electrons, count in counts))
    known = gemmi.find_tabulated_residue(standard_name(name))
    return heavy_atom_electrons + (max(known.hydrogen_count - 2, 0) if known.found() else 0)


def node_atoms(atoms: Structure) -> Int[np.ndarray, " residue"]:
    """Index of each residue's node: its CA, else P, else C1' atom. InputError if it has none."""
    nodes = []
    for first, last in residue_ranges(atoms):
        names = atoms.atom_names[first:last].tolist()
        node = next((names.index(name) for name in NODE_NAMES if name in names), None)
        if node is None:
            raise InputError(
                "residue {value} has no CA, P or C1' atom",
                value=atoms.residue_label(first),
                remedy="complete the residue or delete it",
            )
        nodes.append(first + node)
    return np.array(nodes)


def coarse_grain(atoms: Structure) -> Structure:
    """One node per residue (see `node_atoms`), with the electrons of the whole residue."""
    electrons = [
        residue_electrons(str(atoms.residue_names[first]), float(atoms.electrons[first:last].sum()))
        for first, last in residue_ranges(atoms)
    ]
    return dataclasses.replace(atoms[node_atoms(atoms)], electrons=np.array(electrons))


def residue_ranges(atoms: Structure) -> list[tuple[int, int]]:
    """First atom, and one past the last, of each residue."""
    keys = atoms.residue_keys
    starts = [0, *(i for i in range(1, len(keys)) if keys[i] != keys[i - 1]), len(keys)]
    return list(itertools.pairwise(starts))


def shared_residues(first: Structure, second: Structure) -> tuple[list[int], list[int]]:
    """Places, in the one and in the other, of the nodes of residues that both have."""
    places = {key: place for place, key in enumerate(second.residue_keys)}
    both = [(i, places[key]) for i, key in enumerate(first.residue_keys) if key in places]
    return [i for i, _ in both], [j for _, j in both]


def bonds(nodes: Structure) -> Int[np.ndarray, "bond 2"]:
    """Pairs of nodes that are neighbours in their chain *and* in space; a gap makes no bond."""
    left = np.arange(len(nodes) - 1)
    length = np.linalg.norm(np.diff(nodes.positions, axis=0), axis=-1)
    longest = np.array([LONGEST_BOND.get(name, 4.5) for name in nodes.atom_names.tolist()])
    protein = nodes.atom_names == "CA"
    of_a_kind = (nodes.chains[:-1] == nodes.chains[1:]) & (protein[:-1] == protein[1:])
    left = left[of_a_kind & (length <= longest[:-1])]
    return np.stack([left, left + 1], axis=-1)


def elastic_edges(
    nodes: Structure, cutoff: float = 12.0, *, between_chains: bool = False
) -> Int[np.ndarray, "edge 2"]:
    """P_EN of eq. 5: pairs of nodes nearer than `cutoff` Å in the reference, each pair once, i < j.

    Both nodes are of one chain, as in the paper, unless pairs `between_chains` are asked for, too.
    """
    pairs = cKDTree(nodes.positions).query_pairs(cutoff, output_type="ndarray")
    pairs = np.sort(pairs, axis=-1)
    pairs = pairs[between_chains | (nodes.chains[pairs[:, 0]] == nodes.chains[pairs[:, 1]])]
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].astype(np.int64)
