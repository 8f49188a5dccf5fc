"""Changes to mmCIF files."""

import gzip
from dataclasses import replace

import gemmi
import numpy as np

from cryostar_nb.io.structures import mmcif_text, pdb_text
from silence_kinds.scene import Trial, kind
from silence_kinds.structures import atoms_of, by_gemmi


def of_cif(what: str, *, sound: bool = False):
    """A kind that changes a gemmi block; it returns the atoms that it now describes."""

    def add(change):
        @kind(f"mmCIF: {what}")
        def run(scene):
            atoms, path = atoms_of(scene), scene.folder / "model.cif"
            text = by_gemmi(pdb_text(atoms), ".cif") if scene.rng.integers(2) else mmcif_text(atoms)
            block = gemmi.cif.read_string(text).sole_block()
            true = change(block, atoms, scene)
            document = gemmi.cif.Document()
            document.add_copied_block(block)
            path.write_text(document.as_string())
            return Trial(path, true, what="structure", sound=sound)

        return change

    return add


def atom_site(block) -> gemmi.cif.Table:
    return block.find_mmcif_category("_atom_site.")


def set_column(block, tag: str, value) -> None:
    """Give a column other values: a value for all, or a function of the old one."""
    for row, old in enumerate(values := block.find_loop(f"_atom_site.{tag}")):
        values[row] = value(old) if callable(value) else value


@of_cif("unchanged", sound=True)
def cif_unchanged(block, atoms, scene):
    return atoms


@kind("mmCIF: line ends, byte-order mark or compression")
def cif_bytes(scene):
    atoms, text = atoms_of(scene), mmcif_text(atoms_of(scene))
    text = mmcif_text(atoms)
    content = scene.choose(
        text.replace("\n", "\r\n").encode(),
        ("\ufeff" + text).encode(),
        gzip.compress(text.encode()),
    )
    path = scene.folder / scene.choose("model.cif", "model.cif.gz")
    path.write_bytes(content)
    return Trial(path, atoms, what="structure")


@kind("mmCIF: the content of a PDB file")
def content_of_pdb(scene):
    atoms, path = atoms_of(scene), scene.folder / "model.cif"
    path.write_text(pdb_text(atoms))
    return Trial(path, atoms, what="structure")


@kind("mmCIF: two files joined")
def cif_joined(scene):
    atoms, path = atoms_of(scene), scene.folder / "model.cif"
    of_a = atoms.chains == "A"
    first, rest = mmcif_text(atoms[of_a]), mmcif_text(atoms[~of_a])
    path.write_text(first + rest.replace("data_", scene.choose("data_", "data_second_"), 1))
    return Trial(path, atoms, what="structure")


@of_cif("columns in another order", sound=True)
def cif_columns(block, atoms, scene):
    table = atom_site(block)
    tags = scene.rng.permutation(list(table.tags)).tolist()
    rows = [[row[list(table.tags).index(tag)] for tag in tags] for row in table]
    table.erase()
    loop = block.init_loop("", tags)
    for row in rows:
        loop.add_row(row)
    return atoms


@of_cif("rows in another order")
def cif_rows(block, atoms, scene):
    loop = block.find_loop("_atom_site.id").get_loop()
    width = loop.width()
    rows = [loop.values[i : i + width] for i in range(0, len(loop.values), width)]
    order = scene.rng.permutation(len(rows))
    by_tag = zip(*(rows[i] for i in order), strict=True)
    loop.set_all_values([list(values) for values in by_tag])
    return atoms


@of_cif("tags in upper case")
def cif_upper(block, atoms, scene):
    table = atom_site(block)
    tags, rows = [tag.upper() for tag in table.tags], [list(row) for row in table]
    table.erase()
    loop = block.init_loop("", tags)
    for row in rows:
        loop.add_row(row)
    return atoms


@of_cif("unknown elements")
def cif_unknown(block, atoms, scene):
    set_column(block, "type_symbol", scene.choose("?", ".", "X"))
    return atoms


@of_cif("elements that are names")
def cif_names(block, atoms, scene):
    names = [name.strip('"') for name in block.find_loop("_atom_site.label_atom_id")]
    column = block.find_loop("_atom_site.type_symbol")
    for row, name in enumerate(names):
        column[row] = name[:2].strip("'")
    return atoms


@of_cif("a column that is missing")
def cif_missing(block, atoms, scene):
    """Without what the other columns do not say, it cannot be read."""
    tag = scene.choose("type_symbol", "Cartn_x", "label_atom_id", "label_comp_id", "auth_seq_id")
    block.find_loop(f"_atom_site.{tag}").get_loop().remove_column(f"_atom_site.{tag}")
    return None if tag == "Cartn_x" else atoms


@of_cif("label and author names of chains and numbers", sound=True)
def cif_labels(block, atoms, scene):
    set_column(block, "label_asym_id", lambda old: {"A": "C", "B": "A", "R": "B"}.get(old[0], old))
    set_column(block, "label_seq_id", "1")
    return atoms


@of_cif("names of chains of several letters", sound=True)
def cif_chains(block, atoms, scene):
    name = scene.choose("NA", "AAA", "007", "LongName")
    for tag in ("auth_asym_id", "label_asym_id"):
        set_column(block, tag, lambda old: name if old.startswith("A") else old)
    return replace(atoms, chains=np.where(atoms.chains == "A", name, atoms.chains.astype("U9")))


@of_cif("one model of another number", sound=True)
def cif_model(block, atoms, scene):
    set_column(block, "pdbx_PDB_model_num", scene.choose("2", "7"))
    return atoms


@of_cif("two models")
def cif_models(block, atoms, scene):
    loop = block.find_loop("_atom_site.id").get_loop()
    place, x = (
        loop.tags.index("_atom_site.pdbx_PDB_model_num"),
        loop.tags.index("_atom_site.Cartn_x"),
    )
    width = loop.width()
    rows = [list(loop.values[i : i + width]) for i in range(0, len(loop.values), width)]
    for row in rows:
        again = list(row)
        again[place], again[x] = "2", f"{float(row[x]) + 20:.3f}"
        loop.add_row(again)


@of_cif("every other atom in a second model")
def cif_split(block, atoms, scene):
    column = block.find_loop("_atom_site.pdbx_PDB_model_num")
    for row in range(0, len(column), 2):
        column[row] = "2"


@of_cif("coordinates with their errors")
def cif_errors(block, atoms, scene):
    for tag in ("Cartn_x", "Cartn_y", "Cartn_z"):
        set_column(block, tag, lambda old: f"{float(old):.3f}(12)")
    return atoms


@of_cif("a coordinate that is no number")
def cif_no_number(block, atoms, scene):
    column = block.find_loop(f"_atom_site.{scene.choose('Cartn_x', 'Cartn_z')}")
    column[int(scene.rng.integers(len(column)))] = scene.choose("?", ".", "nan", "1,5", "x")


@of_cif("coordinates in nm")
def cif_nanometres(block, atoms, scene):
    for tag in ("Cartn_x", "Cartn_y", "Cartn_z"):
        set_column(block, tag, lambda old: f"{0.1 * float(old):.4f}")


@of_cif("alternate locations")
def cif_alternates(block, atoms, scene):
    loop = block.find_loop("_atom_site.id").get_loop()
    width = loop.width()
    rows = [list(loop.values[i : i + width]) for i in range(0, len(loop.values), width)]
    at = {tag.split(".")[1]: i for i, tag in enumerate(loop.tags)}
    out, last = [], scene.choose("", "at the end")
    for row in rows:
        chain, number = row[at["auth_asym_id"]], row[at["auth_seq_id"]]
        if chain == "B" and number == "7":
            other = list(row)
            row[at["label_alt_id"]], other[at["label_alt_id"]] = scene.choose("AB", "AC")
            other[at["Cartn_x"]] = f"{float(row[at['Cartn_x']]) + 0.8:.3f}"
            out += [row, other]
        else:
            out.append(row)
    if last:
        out.sort(key=lambda row: row[at["label_alt_id"]] in "BC")
    loop.set_all_values([list(values) for values in zip(*out, strict=True)])
    return atoms
