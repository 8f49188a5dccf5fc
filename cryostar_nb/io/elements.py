"""Elements of atoms: a standard residue and the name of its atom tell them, whatever a file says.

The PDB format has columns for the element, 77 and 78, which older and simpler programs leave empty.
Its names are aligned, so that column 13 is empty where the element has one letter: " CA " is an
alpha carbon and "CA  " calcium. Programs that align names to the left break this.
"""

import re
from functools import cache
from pathlib import Path

import gemmi

from cryostar_nb.io.files import refuse
from cryostar_nb.structure import residue_formula, standard_name

UNKNOWN = gemmi.Element("X")
_OF_POLYMERS = "CNOPSHD"  # what standard residues are made of, selenium aside
_BACKBONE = ("N", "CA", "C", "O", "CB")  # of every amino acid
# Names whose first letter is the element: remoteness in Greek letters, and those of nucleotides.
_CODED = re.compile(r"[CNOS][ABGDEZH]?([0-9]+[A-Z]?)?|OXT|[CO][0-9]['*]|OP[0-9]|O[0-9]P|P|[HD].*")


@cache
def is_known(residue: str) -> bool:
    """Whether this is the name of an amino acid or nucleotide."""
    known = gemmi.find_tabulated_residue(standard_name(residue))
    return known.found() and (known.is_amino_acid() or known.is_nucleic_acid())


@cache
def element_by_name(residue: str, atom: str) -> gemmi.Element:
    """The element of an atom of an amino acid or nucleotide; X where the name does not tell it."""
    letters = atom.upper().lstrip("0123456789")
    if letters.startswith("SE"):
        return gemmi.Element("Se") if residue in ("MSE", "SEC") else UNKNOWN
    coded = bool(residue_formula(residue)) or _CODED.fullmatch(letters)
    return gemmi.Element(letters[0]) if coded and letters[:1] in tuple(_OF_POLYMERS) else UNKNOWN


def is_left_aligned(line: str) -> bool:
    """Whether an atom record has no element, and its name stands where those of metals do."""
    name, residue = line[12:16], line[17:20].strip()
    if line[76:78].strip() or name[:1] in ("", " ") or len(name.strip()) == 4:
        return False
    return is_known(residue) and element_by_name(residue, name.strip()).name in tuple(_OF_POLYMERS)


def complete_elements(path: Path, document: gemmi.Structure) -> None:
    """Fill in the elements that a file does not give.

    Raises InputError for an atom of a standard residue, or of the backbone of another one, whose
    element contradicts its name.
    """
    for model in document:
        for chain in model:
            for residue in chain:
                if is_known(residue.name):
                    _complete(path, chain, residue)
                elif len(residue) == 1 and len(residue.name) <= 2:  # an ion is named by its element
                    if residue[0].element == UNKNOWN:
                        residue[0].element = gemmi.Element(residue.name)


def _complete(path: Path, chain: gemmi.Chain, residue: gemmi.Residue) -> None:
    name = standard_name(residue.name)
    standard = bool(residue_formula(name))
    for atom in residue:
        element, stated = element_by_name(name, atom.name), atom.element
        if element == UNKNOWN or stated == element or (stated.is_hydrogen and element.is_hydrogen):
            continue
        # "HG" may be read as mercury, but not in an amino acid
        if stated == UNKNOWN or (element.is_hydrogen and stated.name.startswith("H")):
            atom.element = element
        elif standard or atom.name in _BACKBONE:
            label = f"{atom.name} of chain {chain.name} {residue.name} {residue.seqid}"
            problem = f"atom {label} has the element {{value}}, and by its name {element.name}"
            refuse(path, problem, stated.name, "correct the element column, or leave it empty")
