"""Changes to the atoms of PDB files: elements, names, alternate locations, order.

Left out, because no reader can know it: atoms of zero occupancy, which are part of the model.
"""

import gzip

from cryostar_nb.io.structures import pdb_text
from silence_kinds.scene import Scene, Trial, kind
from silence_kinds.structures import (
    atoms_of,
    column,
    each_atom,
    is_atom,
    left_aligned,
    of_pdb,
    places,
)


@of_pdb("unchanged", sound=True)
def unchanged(lines, atoms, scene):
    return lines, atoms


@of_pdb("CRLF", sound=True)
def crlf(lines, atoms, scene):
    return "".join(f"{line}\r\n" for line in lines).encode(), atoms


@of_pdb("byte-order mark")
def byte_order_mark(lines, atoms, scene):
    kept = lines if scene.rng.integers(2) else lines[places(lines)[0] :]
    return ("\ufeff" + "\n".join(kept) + "\n").encode(), atoms


@kind("PDB: compressed")
def compressed(scene):
    atoms, path = atoms_of(scene), scene.folder / "model.pdb.gz"
    path.write_bytes(gzip.compress(pdb_text(atoms).encode()))
    return Trial(path, atoms, what="structure", sound=True)


@of_pdb("gzipped content")
def gzipped(lines, atoms, scene):
    return gzip.compress("\n".join(lines).encode()), atoms


@of_pdb("remarks, empty lines, anisotropic displacements", sound=True)
def remarks(lines, atoms, scene):
    place = scene.choose(*places(lines))
    more = scene.choose(
        "", "REMARK 999 a remark of José", "ANISOU" + lines[place][6:28] + "    100" * 6, "# x"
    )
    return [*lines[: place + 1], more, *lines[place + 1 :]], atoms


@of_pdb("records in lower case")
def lower_case(lines, atoms, scene):
    return each_atom(lines, lambda line: line[:6].lower() + line[6:]), atoms


@of_pdb("no element")
def no_element(lines, atoms, scene):
    return each_atom(lines, lambda line: line[: scene.choose(66, 70)]), atoms


@of_pdb("no element, names aligned left")
def no_element_left(lines, atoms, scene):
    return each_atom(lines, lambda line: left_aligned(line)[:66]), atoms


@of_pdb("names aligned left", sound=True)
def names_left(lines, atoms, scene):
    return each_atom(lines, left_aligned), atoms


of_pdb("unknown elements")(column(76, 78, " ?"))
of_pdb("elements X")(column(76, 78, " X"))


@of_pdb("elements shifted by a column or two")
def shifted_element(lines, atoms, scene):
    by = scene.choose(-1, 1, 2)
    if by < 0:
        return each_atom(lines, lambda line: line[:75] + line[76:]), atoms
    return each_atom(lines, lambda line: line[:76] + " " * by + line[76:]), atoms


@of_pdb("elements that are names")
def elements_are_names(lines, atoms, scene):
    """CA for every Cα: calcium."""
    return each_atom(
        lines, lambda line: line[:76] + f"{line[12:16].strip()[:2]:>2}" + line[78:]
    ), atoms


@of_pdb("elements in lower case")
def lower_elements(lines, atoms, scene):
    return each_atom(lines, lambda line: line[:76] + line[76:78].lower() + line[78:]), atoms


@of_pdb("hydrogens")
def hydrogens(lines, atoms, scene):
    return with_hydrogens(lines, scene, element=True), atoms


@of_pdb("hydrogens without elements, names aligned left")
def bare_hydrogens(lines, atoms, scene):
    return with_hydrogens(lines, scene, element=False), atoms


def with_hydrogens(lines: list[str], scene: Scene, *, element: bool) -> list[str]:
    """After each Cα some hydrogens, by names that could be of metals."""
    out = []
    for line in lines:
        out.append(line)
        if is_atom(line) and line[12:16].strip() == "CA":
            for name in scene.rng.choice(("HA", "HG", "HE2", "HO", "1HB", "HG21", "HB3"), 2, False):
                symbol = scene.choose("H", "D") if element else " "
                x = float(line[30:38]) + 0.9
                tail = f"{x:8.3f}{line[38:76]}{symbol:>2}"
                out.append(f"{line[:12]}{name:<4}{line[16:30]}{tail}")
    return out


@of_pdb("atoms of a residue in another order", sound=True)
def atoms_permuted(lines, atoms, scene):
    key = {i: line[17:27] for i, line in enumerate(lines) if is_atom(line)}
    order = sorted(key, key=lambda i: (min(j for j in key if key[j] == key[i]), scene.rng.random()))
    shuffled = iter([lines[i] for i in order])
    return [next(shuffled) if i in key else line for i, line in enumerate(lines)], atoms


@of_pdb("residues in another order")
def residues_permuted(lines, atoms, scene):
    chosen = [line for line in lines if is_atom(line)]
    keys = list(dict.fromkeys(line[17:27] for line in chosen))
    order = {key: n for key, n in zip(keys, scene.rng.permutation(len(keys)), strict=True)}
    return [*sorted(chosen, key=lambda line: (line[21], order[line[17:27]])), "END"], atoms


@of_pdb("a chain in two pieces", sound=True)
def chain_in_pieces(lines, atoms, scene):
    of_a = [line for line in lines if is_atom(line) and line[21] == "A"]
    rest = [line for line in lines if is_atom(line) and line[21] != "A"]
    cut = next(i for i, line in enumerate(of_a) if line[22:26] != of_a[0][22:26])
    return [*of_a[:cut], *rest, *of_a[cut:], "END"], atoms


@of_pdb("alternate locations")
def alternates(lines, atoms, scene):
    """Of one residue, one after the other, or in turns; the first is kept."""
    key = scene.choose(*{line[17:27] for line in lines if is_atom(line) and line[21] == "A"})
    first, second = scene.choose("AB", "12", "BA")
    of_it = [i for i in places(lines) if lines[i][17:27] == key]

    def moved(line):
        x = float(line[30:38]) + 0.8
        return line[:16] + second + line[17:30] + f"{x:8.3f}" + line[38:]

    b = [moved(lines[i]) for i in of_it]
    a = [lines[i][:16] + first + lines[i][17:] for i in of_it]
    both = [line for pair in zip(a, b, strict=True) for line in pair]
    both = both if scene.rng.integers(2) else a + b
    return [*lines[: of_it[0]], *both, *lines[of_it[-1] + 1 :]], atoms


@of_pdb("alternate residues of two types")
def alternate_types(lines, atoms, scene):
    key = scene.choose(*{line[17:27] for line in lines if is_atom(line) and line[21] == "A"})
    of_it = [i for i in places(lines) if lines[i][17:27] == key]
    other = "GLY" if key[:3] != "GLY" else "ALA"
    a = [lines[i][:16] + "A" + lines[i][17:] for i in of_it]
    b = [line[:16] + "B" + other + line[20:] for line in a[:4]]
    return [*lines[: of_it[0]], *a, *b, *lines[of_it[-1] + 1 :]], atoms
