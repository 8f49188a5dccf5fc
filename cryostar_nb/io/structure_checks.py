"""Second statements of a structure file, which what is read is compared with.

A contradiction is refused. What may be meant, as a choice among models or a sequence that is longer
than its model, is said in one line.
"""

from collections import Counter
from pathlib import Path

import gemmi
import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

from cryostar_nb.geometry import superpose
from cryostar_nb.io.elements import is_known
from cryostar_nb.io.files import refuse, tell
from cryostar_nb.io.polymer import Polymer
from cryostar_nb.structure import (
    NODE_NAMES,
    Structure,
    residue_formula,
    residue_ranges,
    standard_name,
)

SAME_SHAPE, APART = 0.05, 1.0  # Å rms: of copies after superposition, and before
SHORTEST_BOND = 0.6  # Å between heavy atoms: 1.2 at least, half of it for poor models
ELECTRONS_OFF = 0.01  # of the electrons of a chain's complete residues
Residues = dict[tuple[str, str, str], gemmi.Position]


def check_models(path: Path, document: gemmi.Structure) -> None:
    """Say that the first of several models is read.

    Raises InputError where they are parts of one assembly: models of other chains or residues, and
    copies that are moved as a whole.
    """
    remedy = "make one model of the parts, each chain with a name of its own, or keep one model"
    count = len(document)
    first = _residues(document[0]) if count > 1 else {}
    for number, model in enumerate(list(document)[1:], start=2):
        other = _residues(model)
        if first.keys() != other.keys():
            chains = [sorted({key[0] for key in keys}) for keys in (first, other)]
            what = "chains" if chains[0] != chains[1] else "residues"
            problem = f"holds {{value}} models, and model {number} has other {what} than the first"
            refuse(path, problem, count, remedy)
        if _is_moved_copy([*first.values()], [other[key] for key in first]):
            problem = f"holds {{value}} models, and model {number} is the first one moved elsewhere"
            refuse(path, problem, count, remedy)
    if count > 1:
        tell([f"{path}: the first of {count} models is read"])
    announced = document.info["NUMMDL"] if "NUMMDL" in document.info else str(count)
    if announced != str(count):
        tell([f"{path}: {announced} models are announced (NUMMDL), and {count} found"])


def _residues(model: gemmi.Model) -> Residues:
    """The node of each amino acid and nucleotide, by chain, number and name."""
    residues: Residues = {}
    for chain in model:
        for residue in (residue for residue in chain if is_known(residue.name)):
            node = next((atom for atom in residue if atom.name in NODE_NAMES), residue[0])
            residues.setdefault((chain.name, str(residue.seqid), residue.name), node.pos)
    return residues


def _is_moved_copy(first: list[gemmi.Position], second: list[gemmi.Position]) -> bool:
    here, there = (np.array([place.tolist() for place in places]) for places in (first, second))
    difference = there - here
    if len(here) < 4 or not np.isfinite(difference).all() or _rms(difference) < APART:
        return False
    return _rms(superpose(here, there) - there) < SAME_SHAPE


def _rms(difference: Float[np.ndarray, "atom 3"]) -> float:
    return float(np.sqrt((difference**2).sum(axis=-1).mean()))


def check_unit(path: Path, atoms: Structure) -> None:
    """Raise InputError for atoms that are far nearer to each other than bonds are long."""
    if len(atoms) < 2:
        return
    nearest = cKDTree(atoms.positions).query(atoms.positions, k=2)[0][:, 1]
    bond = float(np.median(nearest))
    if 0 < bond < SHORTEST_BOND:
        problem = "half of its atoms are less than {value} Å from another: this is no Å"
        refuse(path, problem, round(bond, 3), "coordinates in nm are to be multiplied by 10")


def check_electrons(path: Path, atoms: Structure) -> None:
    """Raise InputError for a chain whose atoms have other electrons than its residues have by name.

    Residues with as many heavy atoms as their formula count: others may be cut or modified.
    """
    found: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for first, last in residue_ranges(atoms):
        formula = residue_formula(str(atoms.residue_names[first]))
        formula.pop("H", None)
        if formula and sum(formula.values()) == last - first:
            chain = str(atoms.chains[first])
            found[chain] += int(atoms.electrons[first:last].sum())
            expected[chain] += sum(gemmi.Element(el).atomic_number * n for el, n in formula.items())
    for chain, electrons in expected.items():
        if abs(found[chain] - electrons) > ELECTRONS_OFF * electrons:
            problem = f"chain {chain} has {{value}} electrons by atoms and {electrons} by residues"
            refuse(path, problem, found[chain], "correct the elements, or the residues' names")


def describe_polymer(document: gemmi.Structure, polymer: Polymer) -> list[str]:
    """What a user should know of the choice of residues, a line each."""
    lines = []
    alone = polymer.alone if len(polymer.alone) < len(polymer.residues) else []
    kinds = {
        "bonded to no neighbour and left out": polymer.left_out,
        "bonded to no neighbour and read all the same": alone,
        "of unknown names and read without hydrogens": [
            residue for _, residue in polymer.residues if not is_known(residue.name)
        ],
    }
    for what, residues in kinds.items():
        names = sorted({residue.name for residue in residues})
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        if residues:
            count = "1 residue is" if len(residues) == 1 else f"{len(residues):,} residues are"
            lines.append(f"{count} {what} ({shown})")
    return lines + _out_of_order(polymer) + _against_sequences(document, polymer)


def _out_of_order(polymer: Polymer) -> list[str]:
    """Chains whose residues do not stand in the order of their numbers."""
    numbers: dict[str, list[int]] = {}
    for chain, residue in polymer.residues:
        numbers.setdefault(chain.name, []).append(int(residue.seqid.num or 0))
    return [
        f"residues of chain {name} do not stand in the order of their numbers: those that stand"
        " side by side are taken for neighbours"
        for name, of_chain in numbers.items()
        if of_chain != sorted(of_chain)
    ]


def _against_sequences(document: gemmi.Structure, polymer: Polymer) -> list[str]:
    """Chains that the file announces and are not read, and residues that no sequence holds."""
    sequences = _sequences(document)
    read: dict[str, Counter[str]] = {}
    for chain, _, name in {(c.name, str(r.seqid), r.name) for c, r in polymer.residues}:
        read.setdefault(chain, Counter())[standard_name(name)] += 1
    lines = []
    if absent := sorted(sequences.keys() - read.keys()):
        chains = f"chain{'s' if len(absent) > 1 else ''} {', '.join(absent[:5])}"
        more = ", ..." if len(absent) > 5 else ""
        lines.append(f"a sequence is given for {chains}{more}, and no residues are read")
    for chain in sorted(sequences.keys() & read.keys()):
        extra = (read[chain] - sequences[chain]).total()
        if extra:
            total = read[chain].total()
            lines.append(f"{extra} of {total} residues of chain {chain} are not in its sequence")
    return lines


def _sequences(document: gemmi.Structure) -> dict[str, Counter[str]]:
    """The residues of each chain by its sequence (SEQRES, or entity_poly_seq in mmCIF)."""
    is_pdb = document.input_format == gemmi.CoorFormat.Pdb
    chain_of = {r.subchain: chain.name for chain in document[0] for r in chain if not is_pdb}
    sequences: dict[str, Counter[str]] = {}
    for entity in document.entities:
        names = [name for names in entity.full_sequence for name in names.split(",")]
        for chain in [entity.name] if is_pdb else entity.subchains:
            if names:
                counts = sequences.setdefault(chain_of.get(chain, chain), Counter())
                counts.update(map(standard_name, names))
    return sequences
