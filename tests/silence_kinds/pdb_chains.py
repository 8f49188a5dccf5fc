"""Changes to the models, chains, residues and columns of PDB files.

Left out, because no reader can know them from the file, or need not: a mirrored model (the doctor
asks the images), residues that SEQRES lists and the model lacks, copies that BIOMT makes of the
atoms, a file that ends between two atoms without END.
"""

from dataclasses import replace

import numpy as np

from cryostar_nb.io.structures import mmcif_text, pdb_text
from silence_kinds.structures import each_atom, is_atom, of_pdb, places


@of_pdb("an atom twice")
def atom_twice(lines, atoms, scene):
    place = scene.choose(*places(lines))
    x = float(lines[place][30:38]) + 5
    again = lines[place][:30] + f"{x:8.3f}" + lines[place][38:]
    return [*lines[: place + 1], again, *lines[place + 1 :]], None


@of_pdb("a residue twice")
def residue_twice(lines, atoms, scene):
    key = lines[places(lines)[0]][17:27]
    of_it = [line for line in lines if is_atom(line) and line[17:27] == key]
    last = places(lines)[-1]
    return [*lines[: last + 1], *of_it, *lines[last + 1 :]], None


def models(lines: list[str], numbers: tuple[int, ...], end: str = "ENDMDL") -> list[str]:
    """Models of these numbers, each moved."""
    out, kept = [], [line for line in lines if is_atom(line) or line.startswith("TER")]
    for place, number in enumerate(numbers):
        moved = each_atom(
            kept,
            lambda line, x=20 * place: line[:30] + f"{float(line[30:38]) + x:8.3f}" + line[38:],
        )
        out += [f"MODEL     {number:4d}", *moved, *([end] if end else [])]
    return [*out, "END"]


@of_pdb("one model of another number", sound=True)
def model_number(lines, atoms, scene):
    return models(lines, (int(scene.choose(0, 3, 99)),)), atoms


@of_pdb("two models")
def two_models(lines, atoms, scene):
    return models(lines, scene.choose((1, 2), (2, 1), (3, 4))), None


@of_pdb("two models without ENDMDL")
def no_endmdl(lines, atoms, scene):
    return models(lines, (1, 2), ""), None


@of_pdb("two files joined")
def joined(lines, atoms, scene):
    """One with chain A, one with the others; the first may end in END."""
    kept = [line for line in lines if is_atom(line)]
    a, rest = ([x for x in kept if (x[21] == "A") == is_a] for is_a in (True, False))
    return [*a, *scene.choose(["END"], ["TER", "END"], ["ENDMDL"]), *rest, "END"], atoms


@of_pdb("other names of chains", sound=True)
def chain_names(lines, atoms, scene):
    new = dict(zip("ABR", scene.choose("bBx", "1aA", "Zz9"), strict=True))
    chains = np.array([new[c] for c in atoms.chains.tolist()])
    return each_atom(lines, lambda line: line[:21] + new[line[21]] + line[22:]), replace(
        atoms, chains=chains
    )


@of_pdb("two chains of one name")
def one_name(lines, atoms, scene):
    return each_atom(lines, lambda line: line[:21] + line[21].replace("B", "A") + line[22:]), None


@of_pdb("chains without names")
def no_names(lines, atoms, scene):
    return each_atom(lines, lambda line: line[:21] + " " + line[22:]), None


@of_pdb("chains named in the segment alone")
def segments(lines, atoms, scene):
    return each_atom(
        lines, lambda line: line[:21] + " " + line[22:72] + f"{line[21]:<4}" + line[76:]
    ), atoms


@of_pdb("insertion codes or negative numbers", sound=True)
def insertion(lines, atoms, scene):
    numbers = np.where(atoms.chains == "A", atoms.residue_numbers - 9, atoms.residue_numbers)
    codes = np.where(atoms.residue_numbers == 6, "C", "")
    return pdb_text(replace(atoms, residue_numbers=numbers, insertion_codes=codes)).splitlines(), (
        replace(atoms, residue_numbers=numbers, insertion_codes=codes)
    )


@of_pdb("residue numbers of five digits")
def five_digits(lines, atoms, scene):
    """Written over the column of the insertion code, as several programs do."""
    true = replace(atoms, residue_numbers=atoms.residue_numbers + 12_340)
    return each_atom(
        lines, lambda line: f"{line[:22]}{int(line[22:26]) + 12_340:5d}{line[27:]}"
    ), true


@of_pdb("residue numbers beyond 9,999 as hybrid-36", sound=True)
def hybrid_36(lines, atoms, scene):
    """A000 is 10,000; the digits after the letter count in base 36."""
    true = replace(atoms, residue_numbers=atoms.residue_numbers + 9_990)

    def change(line):
        number = int(line[22:26]) + 9_990 - 10_000
        if number < 0:
            return f"{line[:22]}{number + 10_000:4d}{line[26:]}"
        return f"{line[:22]}A00{'0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ'[number]}{line[26:]}"

    return each_atom(lines, change), true


@of_pdb("serial numbers that overflow")
def serial(lines, atoms, scene):
    text = scene.choose("*****", "186a0", "99999")
    return each_atom(lines, lambda line: line[:6] + text + line[11:]), atoms


@of_pdb("serial numbers of six digits that shift the line")
def shifted_by_serial(lines, atoms, scene):
    return each_atom(lines, lambda line: line[:6] + "100000" + line[11:]), atoms


@of_pdb("a coordinate too wide, which shifts the line")
def wide(lines, atoms, scene):
    place = scene.choose(*places(lines))
    line = lines[place]
    lines[place] = line[:30] + f"{float(line[30:38]) - 12_000:.3f}" + line[38:]
    return lines, None


@of_pdb("a coordinate that is no number")
def no_coordinate(lines, atoms, scene):
    place = scene.choose(*places(lines))
    line, text = lines[place], scene.choose("     nan", "        ", "********", "  12,345")
    lines[place] = line[:30] + text + line[38:]
    return lines, None


@of_pdb("a line cut in its coordinates")
def cut(lines, atoms, scene):
    place = places(lines)[-1]
    return [*lines[:place], lines[place][: scene.choose(34, 40, 48, 52)]], None


@of_pdb("coordinates in nm")
def nanometres(lines, atoms, scene):
    def change(line):
        xyz = (0.1 * float(line[i : i + 8]) for i in (30, 38, 46))
        return line[:30] + "".join(f"{x:8.3f}" for x in xyz) + line[54:]

    return each_atom(lines, change), None


@of_pdb("tabs or single blanks between the columns")
def free_format(lines, atoms, scene):
    return each_atom(lines, lambda line: scene.choose("\t", " ").join(line.split())), None


@of_pdb("HETATM for residues of the chain", sound=True)
def hetatm(lines, atoms, scene):
    return each_atom(lines, lambda line: "HETATM" + line[6:]), atoms


def renamed(atoms, true_names):
    """The lines of atoms whose residues have other names."""
    names = np.array([true_names.get(name, name) for name in atoms.residue_names.tolist()])
    return pdb_text(replace(atoms, residue_names=names)).splitlines()


@of_pdb("histidines by their protonation", sound=True)
def histidines(lines, atoms, scene):
    return renamed(atoms, {"HIS": scene.choose("HIE", "HID", "HIP", "HSD", "HSP")}), atoms


@of_pdb("names of amino acids in force fields")
def amino_acids(lines, atoms, scene):
    """Amber's, for states of protonation and disulphides."""
    return renamed(atoms, {"CYS": "CYX", "ASP": "ASH", "GLU": "GLH", "LYS": "LYN"}), atoms


@of_pdb("names of nucleotides in force fields")
def force_field(lines, atoms, scene):
    return renamed(atoms, scene.choose({"A": "ADE", "G": "GUA"}, {"A": "RA", "G": "RG"})), atoms


@of_pdb("names of residues of four letters")
def four_letters(lines, atoms, scene):
    """As CHARMM and Amber write them, up to the column of the chain."""
    return each_atom(
        lines, lambda line: f"{line[:17]}{'N' + line[17:20].strip():<4}{line[21:]}"
    ), None


LIGANDS = {  # atoms of what is no part of a chain, far from everything, and their elements
    "POP": (("C1", "C"), ("P", "P"), ("O11", "O"), ("O12", "O"), ("C2", "C")),
    "GLU": (("N", "N"), ("CA", "C"), ("C", "C"), ("O", "O"), ("CB", "C")),
    "CA": (("CA", "CA"),),
    "CAL": (("CAL", "CA"),),
    "ATP": (("PG", "P"), ("C1'", "C"), ("N9", "N")),
    "HOH": (("O", "O"),),
    "SOL": (("OW", "O"),),
    "TIP3": (("OH2", "O"),),
}


def ligand_lines(name: str, record: str, chain: str) -> list[str]:
    lines = []
    for i, (atom, element) in enumerate(LIGANDS[name]):
        padded = f"{atom:<4}" if len(element) == 2 or len(atom) == 4 else f" {atom:<3}"
        start = f"{record:<6}{900 + i:5d} {padded} {name:>3.4}{'' if len(name) > 3 else ' '}{chain}"
        place = f"{501:4d}    {60 + 1.4 * i:8.3f}{60.0:8.3f}{60.0:8.3f}  1.00  0.00"
        lines.append(f"{start}{place}          {element:>2}")
    return lines


for what, record, names in (
    ("a lipid or nucleotide in ATOM records", "ATOM", ("POP", "ATP")),
    ("a lipid or nucleotide in HETATM records", "HETATM", ("POP", "ATP")),
    ("a free amino acid", "HETATM", ("GLU",)),
    ("ions and water", "", ("CA", "CAL", "HOH", "SOL", "TIP3")),
):

    @of_pdb(what)
    def ligand(lines, atoms, scene, record=record, names=names):
        kind = record or scene.choose("ATOM", "HETATM")
        more = ligand_lines(scene.choose(*names), kind, scene.choose("A", "X"))
        last = places(lines)[-1]
        return [*lines[: last + 1], *more, *lines[last + 1 :]], atoms


@of_pdb("the content of an mmCIF file")
def content_of_cif(lines, atoms, scene):
    return mmcif_text(atoms).splitlines(), atoms
