"""Which residues of a model are its chains: those that are bonded to a neighbour.

Ligands, waters and ions are not, nor are lipids and free amino acids, whatever their records say.
"""

from dataclasses import dataclass, field

import gemmi

from cryostar_nb.atoms import LINKS
from cryostar_nb.io.elements import is_known
from cryostar_nb.structure import LONGEST_BOND, NODE_NAMES, residue_formula

LONGEST_LINK = 2.4  # Å, of a peptide or phosphodiester bond; atoms without a bond are 3 Å apart
_BACKBONE = {"N", "C"}


@dataclass(frozen=True)
class Polymer:
    """The residues of a model's chains, and others that look like parts of chains."""

    residues: list[tuple[gemmi.Chain, gemmi.Residue]] = field(default_factory=list)
    alone: list[gemmi.Residue] = field(default_factory=list)  # of those, bonded to none at an end
    left_out: list[gemmi.Residue] = field(default_factory=list)


def find_polymer(model: gemmi.Model) -> Polymer:
    """The residues of a model that are bonded to a neighbour in their chain, and what goes along.

    An amino acid or nucleotide without a bond to its neighbours goes along where it lies inside its
    chain, between gaps; where the file itself counts it in a sequence (mmCIF); and where it stands
    in ATOM records and is no molecule of its own. In a file of nodes, one atom for a residue, every
    ATOM record counts.
    """
    chains = [(chain, _in_order(_candidates(chain))) for chain in model]
    only_nodes = all(len(r) == 1 for _, residues in chains for r in residues if r.het_flag != "H")
    polymer = Polymer()
    for chain, residues in chains:
        bonds = _bonds(residues)
        bonded = [i for i, count in enumerate(bonds) if count] or [0]
        for i, (residue, count) in enumerate(zip(residues, bonds, strict=True)):
            stated = residue.label_seq is not None and residue.entity_type.name == "Polymer"
            atom_record = residue.het_flag != "H"
            inside = bonded[0] < i < bonded[-1] and not _is_free(residue)
            part = bool(count) or stated or (atom_record and only_nodes)
            if is_known(residue.name):
                fragment = atom_record and not _is_free(residue)
                stays = part or inside or fragment
                if fragment and not (part or inside):
                    polymer.alone.append(residue)
            else:
                stays = part if _node(residue) else count == 2
            if stays:
                polymer.residues.append((chain, residue))
            elif is_known(residue.name) or (atom_record and _node(residue)):
                polymer.left_out.append(residue)
    return polymer


def _is_free(residue: gemmi.Residue) -> bool:
    """Whether an amino acid or nucleotide has the oxygen that it loses to a bond in a chain."""
    formula = residue_formula(residue.name)
    heavy = {atom.name for atom in residue if not atom.is_hydrogen()}
    whole = sum(count for element, count in formula.items() if element != "H")
    return "OXT" in heavy or (bool(formula) and len(heavy) > whole)


def _candidates(chain: gemmi.Chain) -> list[gemmi.Residue]:
    """The residues that may be part of a chain, by their names or those of their atoms."""
    return [
        residue
        for residue in chain
        if is_known(residue.name) or _node(residue) or {atom.name for atom in residue} >= _BACKBONE
    ]


def _node(residue: gemmi.Residue) -> gemmi.Atom | None:
    """The atom that stands for a residue; an alpha carbon, never calcium."""
    for name in NODE_NAMES:
        for atom in residue:
            if atom.name == name and not (name == "CA" and atom.element.is_metal):
                return atom
    return None


def _in_order(residues: list[gemmi.Residue]) -> list[gemmi.Residue]:
    """The same residues; those of HETATM records at the end of a chain go where they are bonded."""
    of_number = {residue.seqid.num: i for i, residue in reversed(list(enumerate(residues)))}
    order = list(range(len(residues)))
    for i, residue in enumerate(residues):
        place, number = order.index(i) if residue.het_flag == "H" else 0, residue.seqid.num or 0
        if residue.het_flag != "H" or (place and _linked(residues[order[place - 1]], residue)):
            continue
        before, after = of_number.get(number - 1), of_number.get(number + 1)
        if before is not None and _linked(residues[before], residue):
            order.remove(i)
            order.insert(order.index(before) + 1, i)
        elif after is not None and _linked(residue, residues[after]):
            order.remove(i)
            order.insert(order.index(after), i)
    return [residues[i] for i in order]


def _bonds(residues: list[gemmi.Residue]) -> list[int]:
    """To how many of its two neighbours, which have other numbers, each residue is bonded."""
    counts = [0] * len(residues)
    for i, residue in enumerate(residues):
        following = range(i + 1, len(residues))
        after = next((j for j in following if residues[j].seqid != residue.seqid), None)
        if after is not None and _linked(residue, residues[after]):
            counts[i] += 1
            for j in range(after, len(residues)):  # alternates of the next residue
                if residues[j].seqid != residues[after].seqid:
                    break
                counts[j] += 1
    return counts


def _linked(first: gemmi.Residue, second: gemmi.Residue) -> bool:
    """Whether one residue is bonded to the next: by the atoms of the bond, or else by the nodes."""
    for leaving, entering in LINKS:
        left, right = first.find_atom(leaving, "*"), second.find_atom(entering, "*")
        if left is not None and right is not None:
            return bool(left.pos.dist(right.pos) < LONGEST_LINK)
    nodes = _node(first), _node(second)
    plain = all(is_known(residue.name) or len(residue) == 1 for residue in (first, second))
    if nodes[0] is None or nodes[1] is None or not plain:
        return False
    same_kind = (nodes[0].name == "CA") == (nodes[1].name == "CA")
    near = nodes[0].pos.dist(nodes[1].pos) <= LONGEST_BOND[nodes[0].name]
    return bool(same_kind and near)
