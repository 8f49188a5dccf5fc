"""What a structure file says is compared with what else it says: read right, or refused."""

import gzip
from pathlib import Path

import gemmi
import numpy as np
import pytest
from pdb_lines import atom_line, residue_lines
from refusals import refused

from cryostar_nb.doctor.docking import IDENTITY
from cryostar_nb.doctor.placing import move_structure
from cryostar_nb.io.structures import read_nodes, read_structure, write_structure
from cryostar_nb.io.trajectories import read_trajectory, write_trajectory
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import load_path
from cryostar_nb.structure import bonds, coarse_grain

ADK = Path(__file__).parents[2] / "data" / "1ake.pdb"
LIPID = {"N": (0, 0, 0), "C12": (0, 0, 1.5), "P": (0, 0, 3.0), "O13": (0, 0, 4.5), "CA": (0, 0, 6)}
FREE = {
    "N": (0.0, 0.0, 0.0),
    "CA": (1.5, 0.0, 0.0),
    "C": (2.0, 1.4, 0.0),
    "O": (1.2, 2.3, 0.0),
    "OXT": (3.2, 1.5, 0.0),
}


def chain(count=5, *, x=0.0, **options):
    """Residues bonded to each other: 1.9 Å from C to N, 3.3 Å from node to node."""
    return [
        line for i in range(count) for line in residue_lines("GLY", i + 1, x=x + 3.3 * i, **options)
    ]


def adk_lines(change=lambda line: line):
    """Adenylate kinase, each of its atoms changed."""
    return [change(line) for line in ADK.read_text().splitlines() if line.startswith("ATOM")]


def without_element(line):
    return line[:66]


def left_aligned(line):
    return f"{line[:12]}{line[12:16].strip():<4}{line[16:66]}"


def assert_same_atoms(first, second):
    for field in ("positions", "electrons", "atom_names", "elements", "residue_names", "chains"):
        assert getattr(first, field).tolist() == getattr(second, field).tolist(), field


# Elements


@pytest.mark.parametrize("change", [without_element, left_aligned])
def test_elements_come_from_names_where_no_column_gives_them(change, pdb):
    assert_same_atoms(read_structure(pdb(*adk_lines(change))), read_structure(ADK))


@pytest.mark.parametrize("residue", ["GLY", "UNK", "SEP", "HSD"])
def test_an_alpha_carbon_is_never_calcium(residue, pdb):
    lines = [*residue_lines(residue, 1), *residue_lines(residue, 2, x=3.3)]
    atoms = read_structure(pdb(*map(left_aligned, lines)))
    assert atoms.elements.tolist() == 2 * ["N", "C", "C", "O"]


def test_types_that_an_mmcif_file_leaves_open_come_from_names(tmp_path):
    block = gemmi.read_structure(str(ADK)).make_mmcif_document()
    loop = block[0].find_loop("_atom_site.type_symbol").get_loop()
    column = loop.tags.index("_atom_site.type_symbol")
    for row in range(loop.length()):
        loop[row, column] = "?"
    block.write_file(str(tmp_path / "open.cif"))
    assert_same_atoms(read_structure(tmp_path / "open.cif"), read_structure(ADK))
    loop.remove_column("_atom_site.type_symbol")
    block.write_file(str(tmp_path / "none.cif"))
    assert_same_atoms(read_structure(tmp_path / "none.cif"), read_structure(ADK))


def as_mmcif(text):
    return gemmi.read_pdb_string(text).make_mmcif_document().as_string()


@pytest.mark.parametrize("suffix", ["pdb", "cif", "pdb.gz"])
@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: f"#\xe9\n{text}".encode("latin-1"),
    ],
    ids=["byte-order mark", "UTF-16", "CRLF", "CR", "Latin-1"],
)
def test_the_encoding_of_a_file_does_not_matter(suffix, encode, tmp_path):
    text = ADK.read_text()
    content = encode(as_mmcif(text) if suffix == "cif" else text)
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    assert_same_atoms(read_structure(path), read_structure(ADK))


def test_letters_that_move_columns_are_refused(pdb):
    path = pdb("REMARK   1 µ", *chain(3))
    assert len(read_nodes(path)) == 3
    path.write_text(path.read_text().replace(" CA  GLY A   2", "µCA  GLY A   2"))
    with refused("model.pdb", value=7):
        read_nodes(path)


def test_numbers_of_lines_are_no_elements(pdb):
    lines = (f"{line[:66]}      1AKE{i:4d}" for i, line in enumerate(adk_lines(), start=97))
    assert_same_atoms(read_structure(pdb(*lines)), read_structure(ADK))


def test_an_element_that_contradicts_the_name_is_refused(pdb):
    lines = [*chain(3), atom_line("CB", "ALA", 4), atom_line("CA", "ALA", 4, element="CA")]
    with refused("model.pdb", value="Ca") as caught:
        read_structure(pdb(*lines))
    assert "CA of chain A ALA 4" in caught.value.problem and "by its name C" in caught.value.problem


def test_an_atom_of_no_element_is_refused(pdb):
    lines = [*chain(2), *residue_lines("SEP", 3, x=6.6), atom_line("CL", "SEP", 3, element="X")]
    with refused("model.pdb", value="CL of residue chain A SEP 3"):
        read_structure(pdb(*lines))


def test_a_docked_file_says_no_element_that_the_model_did_not(pdb, tmp_path):
    lines = [*chain(3), atom_line("CA", "CA", 9, (9, 9, 9.0), record="HETATM")]
    lines += [atom_line("CD", "LIG", 10, (19, 9, 9.0), record="HETATM")]
    source = pdb(*map(left_aligned, lines))
    move_structure(source, tmp_path / "moved.pdb", IDENTITY)
    moved = gemmi.read_structure(str(tmp_path / "moved.pdb"))
    elements = [site.atom.element.name for site in moved[0].all()]
    assert elements == [*3 * ["N", "C", "C", "O"], "Ca", "X"]


def test_electrons_of_atoms_are_compared_with_those_of_residues(pdb):
    cysteines = [
        line
        for i in range(4)
        for line in [
            *residue_lines("SER", i + 1, x=3.3 * i),
            atom_line("CB", "SER", i + 1),
            atom_line("SG", "SER", i + 1),
        ]
    ]
    # C3, N, O and O, or S: 18 + 7 + 8 + 8, or + 16
    with refused("model.pdb", value=4 * 49) as caught:
        read_structure(pdb(*cysteines))
    assert f"{4 * 41} by residues" in caught.value.problem


# Models


def models(*parts):
    numbered = enumerate(parts, start=1)
    return [line for i, part in numbered for line in (f"MODEL     {i:4d}", *part, "ENDMDL")]


def bent(x):
    """A chain of another shape."""
    lines = [residue_lines("GLY", i + 1, x=x + 3.3 * i - 0.1 * i * i) for i in range(5)]
    return [line for residue in lines for line in residue]


@pytest.mark.parametrize("x", [0.0, 30.0], ids=["in place", "drifting"])
def test_the_first_of_an_ensemble_is_read_and_said(x, pdb, capsys):
    path = pdb(*models(chain(), bent(x), bent(2 * x)))
    assert_same_atoms(read_structure(path), read_structure(pdb(*chain(), name="first.pdb")))
    assert capsys.readouterr().err == f"note: {path}: the first of 3 models is read\n"


@pytest.mark.parametrize(
    ("second", "what"),
    [
        (chain(x=40.0), "the first one moved elsewhere"),
        (chain(chain="B", x=40.0), "other chains"),
        (chain(4), "other residues"),
    ],
    ids=["moved copy", "another chain", "other residues"],
)
@pytest.mark.parametrize("suffix", ["pdb", "cif"])
def test_an_assembly_in_models_is_refused(second, what, suffix, pdb, tmp_path):
    path = pdb(*models(chain(), second))
    if suffix == "cif":
        path.with_suffix(".cif").write_text(as_mmcif(path.read_text()))
    with refused(f"model.{suffix}", value=2) as caught:
        read_structure(path.with_suffix(f".{suffix}"))
    assert what in caught.value.problem and "one model" in caught.value.remedy


def test_a_model_that_is_not_read_may_lack_coordinates(pdb):
    broken = [f"{line[:30]}     nan{line[38:]}" for line in chain()]
    assert len(read_nodes(pdb(*models(chain(), broken)))) == 5


def test_models_that_are_announced_and_absent_are_said(pdb, capsys):
    path = pdb("NUMMDL    20", *chain())
    read_structure(path)
    assert (
        capsys.readouterr().err == f"note: {path}: 20 models are announced (NUMMDL), and 1 found\n"
    )


# What is no part of a chain


@pytest.mark.parametrize("record", ["ATOM", "HETATM"])
def test_lipids_are_no_nucleotides(record, pdb, capsys):
    lipids = [
        line
        for i in range(3)
        for line in residue_lines(
            "POP", i + 1, x=20.0 + 7 * i, atoms=LIPID, chain="L", record=record
        )
    ]
    path = pdb(*chain(), "TER", *lipids)
    nodes = read_nodes(path)
    assert set(nodes.residue_names) == {"GLY"} and len(bonds(nodes)) == 4
    said = f"note: {path}: 3 residues are bonded to no neighbour and left out (POP)\n"
    assert capsys.readouterr().err == (said if record == "ATOM" else "")


@pytest.mark.parametrize("name", ["A", "L"], ids=["in the chain", "in a chain of its own"])
@pytest.mark.parametrize("record", ["ATOM", "HETATM"])
def test_a_free_amino_acid_is_a_ligand(record, name, pdb, capsys):
    free = residue_lines("GLY", 401, x=30.0, atoms=FREE, chain=name, record=record)
    path = pdb(*chain(), "TER", *free, name="holo.pdb")
    assert len(read_nodes(path)) == 5
    said = f"note: {path}: 1 residue is bonded to no neighbour and left out (GLY)\n"
    assert capsys.readouterr().err == said
    apo = pdb(*chain(x=1.0), name="apo.pdb")
    atoms, _ = load_path(SimulationConfig(n_particles=1), apo, path)
    assert len(atoms) == 20


@pytest.mark.parametrize("record", ["ATOM", "HETATM"])
def test_a_free_amino_acid_may_stand_before_its_chain(record, pdb):
    free = residue_lines("GLY", 401, x=-30.0, atoms=FREE, record=record)
    assert len(read_nodes(pdb(*free, *chain()))) == 5


def test_a_fragment_that_is_bonded_to_none_is_read_and_said(pdb, capsys):
    path = pdb(*chain(), *residue_lines("GLY", 9, x=40.0))
    assert len(read_nodes(path)) == 6
    assert "1 residue is bonded to no neighbour and read" in capsys.readouterr().err


@pytest.mark.parametrize("record", ["ATOM", "HETATM"])
def test_an_amino_acid_between_two_gaps_stays(record, pdb, capsys):
    last = residue_lines("GLY", 9, x=40.0) + residue_lines("GLY", 10, x=43.3)
    path = pdb(*chain(), *residue_lines("MSE", 7, x=25.0, record=record), *last)
    nodes = read_nodes(path)
    assert nodes.residue_numbers.tolist() == [1, 2, 3, 4, 5, 7, 9, 10]
    assert capsys.readouterr().err == ""


def test_modified_residues_at_the_end_of_the_file_go_back_into_their_chain(pdb):
    first, second = chain(8)[:8], chain(8)[16:]
    modified = [
        line
        for i, name in ((3, "MSE"), (4, "XYZ"))
        for line in residue_lines(name, i, x=3.3 * (i - 1), record="HETATM")
    ]
    nodes = read_nodes(pdb(*first, *second, "TER", *modified))
    assert nodes.residue_numbers.tolist() == list(range(1, 9)) and len(bonds(nodes)) == 7


def test_a_cap_of_a_chain_is_left_out(pdb):
    cap = {"N": (0.0, 0.0, 0.0), "C": (1.4, 0.0, 0.0)}
    path = pdb(*chain(), *residue_lines("NME", 6, x=16.5, atoms=cap, record="HETATM"))
    assert set(read_nodes(path).residue_names) == {"GLY"}


def test_an_unknown_residue_inside_a_chain_without_a_node_is_refused(pdb):
    middle = {"N": (0.0, 0.0, 0.0), "CX": (1.5, 0.0, 0.0), "C": (2.0, 1.4, 0.0)}
    lines = chain(5)
    lines[8:12] = residue_lines("XYZ", 3, x=6.6, atoms=middle)
    with refused("model.pdb", value="chain A XYZ 3"):
        read_nodes(pdb(*lines))


@pytest.mark.parametrize(
    ("name", "standard"), [("CYX", "CYS"), ("ASH", "ASP"), ("RA5", "A"), ("DG3", "DG")]
)
def test_names_of_force_fields_have_the_electrons_of_the_residue(name, standard, pdb):
    electrons = [
        read_nodes(pdb(*residue_lines(residue, 1), *residue_lines(residue, 2, x=3.3))).electrons
        for residue in (name, standard)
    ]
    assert electrons[0].tolist() == electrons[1].tolist()


def test_residues_whose_hydrogens_are_not_known_are_said(pdb, capsys):
    path = pdb(*chain(2), *residue_lines("XYZ", 3, x=6.6))
    read_structure(path)
    said = "1 residue is of unknown names and read without hydrogens (XYZ)"
    assert capsys.readouterr().err == f"note: {path}: {said}\n"


# Records, chains and sequences


def test_coordinates_in_nm_are_refused(pdb):
    def in_nm(line):
        fields = (float(line[a : a + 8]) / 10 for a in (30, 38, 46))
        return line[:30] + "".join(f"{value:8.3f}" for value in fields) + line[54:]

    with refused("model.pdb") as caught:
        read_structure(pdb(*adk_lines(in_nm)))
    assert "nm" in caught.value.remedy and 0.1 < caught.value.value < 0.2


def test_a_residue_number_of_five_digits_is_refused(pdb):
    lines = [f"{line[:22]}1234{line[25]}{line[27:]}" for line in chain(3)]
    with refused("model.pdb", value=1):
        read_structure(pdb(*lines))


def test_atoms_after_the_end_are_refused(pdb):
    with refused("model.pdb", value=21):
        read_structure(pdb(*chain(), "END", *chain(chain="B", x=40.0)))


def test_two_blocks_with_atoms_are_refused(pdb, tmp_path):
    text = as_mmcif(pdb(*chain()).read_text())
    (tmp_path / "both.cif").write_text(text + text.replace("data_", "data_2"))
    with refused("both.cif", value=2):
        read_structure(tmp_path / "both.cif")


def test_the_block_with_the_atoms_is_found(pdb, tmp_path):
    path = pdb(*chain())
    (tmp_path / "late.cif").write_text(f"data_first\n_entry.id first\n{as_mmcif(path.read_text())}")
    assert_same_atoms(read_structure(tmp_path / "late.cif"), read_structure(path))


@pytest.mark.parametrize("segments", [("", ""), ("PROA", "PROB")])
def test_chains_without_names_are_named_as_the_cause(segments, pdb):
    first, second = (
        [f"{line[:72]}{segment:<4}{line[76:]}" for line in chain(chain=" ", x=x)]
        for x, segment in zip((0.0, 40.0), segments, strict=True)
    )
    with refused("model.pdb", value="GLY 1") as caught:
        read_structure(pdb(*first, "TER", *second))
    assert "without a name" in caught.value.problem and "column 22" in caught.value.remedy
    assert ("PROA and PROB" in caught.value.problem) == bool(segments[0])


def test_segments_of_one_chain_are_named_as_the_cause(pdb):
    first, second = (
        [f"{line[:72]}{segment:<4}{line[76:]}" for line in chain(x=x)]
        for x, segment in ((0.0, "P1"), (40.0, "P2"))
    )
    with refused("model.pdb", value="chain A GLY 1") as caught:
        read_structure(pdb(*first, "TER", *second))
    assert "segments P1 and P2" in caught.value.problem


def test_sequences_are_compared_with_what_is_read(pdb, capsys):
    gap = [line for line in chain(8) if not 3 <= int(line[22:26]) <= 4]
    sequence = " ".join(["GLY"] * 8)
    read_structure(pdb(f"SEQRES   1 A    8  {sequence}", *gap))
    assert capsys.readouterr().err == ""  # a gap is none of it
    path = pdb("SEQRES   1 A    2  GLY GLY", "SEQRES   1 B    2  ALA ALA", *gap)
    read_structure(path)
    assert capsys.readouterr().err == (
        f"note: {path}: a sequence is given for chain B, and no residues are read\n"
        f"note: {path}: 4 of 6 residues of chain A are not in its sequence\n"
    )


# Paths and trajectories


def test_folders_may_have_any_name(pdb, tmp_path):
    folder = tmp_path / "Zelle-µ-données 分子"
    folder.mkdir()
    source = pdb(*chain())
    topology = folder / "modèle.pdb"
    topology.write_bytes(source.read_bytes())
    atoms = read_structure(topology)
    frames = atoms.positions + np.array([0.0, 1.0])[:, None, None]
    for name in ("frames.dcd", "frames.xtc", "Bewegung-µ.dcd", "Bewegung-µ.xtc"):
        write_trajectory(folder / name, atoms, frames)
        _, read = read_trajectory(folder / name, topology)
        np.testing.assert_allclose(read, frames, atol=6e-3)
    assert len(list(folder.iterdir())) == 5  # nothing is left behind


def test_a_topology_is_read_as_a_structure_is(pdb, tmp_path, capsys):
    lipid = residue_lines("POP", 1, x=40.0, atoms=LIPID, chain="L")
    free = residue_lines("GLY", 401, x=60.0, atoms=FREE, chain="M")
    path = pdb(*map(left_aligned, [*chain(), "TER", *lipid, "TER", *free]))
    whole = [tuple(site.atom.pos) for site in gemmi.read_structure(str(path))[0].all()]
    everything = read_structure(pdb(*chain(30), name="other.pdb"))[: len(whole)]
    write_trajectory(tmp_path / "out.dcd", everything, np.array([whole, whole]))
    atoms, frames = read_trajectory(tmp_path / "out.dcd", path)
    assert_same_atoms(atoms.with_positions(np.round(atoms.positions, 3)), read_structure(path))
    assert frames.shape == (2, 20, 3)
    assert "2 residues are bonded to no neighbour and left out" in capsys.readouterr().err


def test_what_is_read_from_nodes_is_what_was_written(pdb, tmp_path):
    """A file of nodes has no bonds between atoms: its ATOM records are all nodes."""
    lines = [*chain(4), *residue_lines("XYZ", 5, x=13.2), *residue_lines("GLY", 9, x=60.0)]
    nodes = coarse_grain(read_structure(pdb(*lines)))
    for suffix in ("pdb", "cif"):
        write_structure(tmp_path / f"nodes.{suffix}", nodes)
        assert len(read_nodes(tmp_path / f"nodes.{suffix}")) == len(nodes) == 6


def test_residues_out_of_order_are_said(pdb, capsys):
    lines = list(chain())
    number = {line: int(line[22:26]) for line in lines}
    in_disorder = sorted(lines, key=lambda line: (number[line] == 2, number[line]))
    path = pdb(*in_disorder)
    assert len(read_nodes(path)) == 5
    assert "residues of chain A do not stand in the order of their numbers" in (
        capsys.readouterr().err
    )
    read_nodes(pdb(*lines, name="in_order.pdb"))
    assert capsys.readouterr().err == ""


def test_an_atom_that_is_there_twice_far_apart_is_said(pdb, capsys):
    """As the side chain of residue 167 in 1AKE, without names of alternate locations."""
    lines = list(chain())
    again = lines[0][:30] + f"{float(lines[0][30:38]) + 5:8.3f}" + lines[0][38:]
    path = pdb(lines[0], again, *lines[1:])
    assert len(read_nodes(path)) == 5
    assert "is there twice, 5.0 Å apart; the first is kept" in capsys.readouterr().err
