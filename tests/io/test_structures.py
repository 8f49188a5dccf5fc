"""Reading structures, from PDB files that are written here, line by line."""

import gzip

import gemmi
import numpy as np
import pytest
from pdb_lines import BACKBONE, atom_line, residue_lines
from refusals import refused

from cryostar_nb.io.structures import read_nodes, read_structure, write_structure
from cryostar_nb.structure import bonds

# What is read


def test_one_node_stands_for_each_residue_at_its_calpha(pdb):
    path = pdb(*residue_lines("GLY", 5), *residue_lines("ALA", 6, x=3.8))
    assert len(read_structure(path)) == 8
    nodes = read_nodes(path)
    np.testing.assert_allclose(nodes.positions, [[1.5, 0, 0], [5.3, 0, 0]])
    assert nodes.atom_names.tolist() == ["CA", "CA"]
    assert nodes.residue_names.tolist() == ["GLY", "ALA"]
    assert nodes.residue_keys == [("A", 5, ""), ("A", 6, "")]


def test_of_alternate_locations_the_first_is_kept(pdb):
    path = pdb(
        atom_line("N", "SER", 1),
        atom_line("CA", "SER", 1, (1.0, 0.0, 0.0), altloc="A"),
        atom_line("CA", "SER", 1, (2.0, 0.0, 0.0), altloc="B"),
        atom_line("CB", "SER", 1, (3.0, 0.0, 0.0), altloc="B"),
    )
    atoms = read_structure(path)
    assert atoms.atom_names.tolist() == ["N", "CA", "CB"]
    assert atoms.positions[1].tolist() == [1, 0, 0]


def test_of_two_residues_in_one_place_the_first_is_kept(pdb):
    path = pdb(
        *residue_lines("SER", 1, altloc="A"),
        *residue_lines("ALA", 1, altloc="B"),
        *residue_lines("GLY", 2, x=3.8),
    )
    assert read_nodes(path).residue_names.tolist() == ["SER", "GLY"]


def test_of_an_atom_given_twice_the_first_is_kept(pdb):
    path = pdb(
        *residue_lines("ARG", 167),
        atom_line("CD", "ARG", 167, (4.0, 0.0, 0.0)),
        atom_line("CD", "ARG", 167, (5.0, 0.0, 0.0)),
    )
    atoms = read_structure(path)
    assert atoms.atom_names.tolist() == ["N", "CA", "C", "O", "CD"]
    assert atoms.positions[-1].tolist() == [4, 0, 0]


def test_hydrogens_waters_ions_and_ligands_are_left_out(pdb):
    path = pdb(
        *residue_lines("GLY", 1),
        atom_line("HA2", "GLY", 1, element="H"),
        atom_line("D", "GLY", 1, element="D"),
        atom_line("O", "HOH", 201, record="HETATM"),
        atom_line("MG", "MG", 202, element="MG", record="HETATM"),
        atom_line("CA", "CA", 203, element="CA", record="HETATM"),  # calcium, not an alpha carbon
        atom_line("S", "SO4", 204, record="HETATM"),
        atom_line("C1'", "ATP", 205, element="C", record="HETATM"),
    )
    assert read_structure(path).atom_names.tolist() == ["N", "CA", "C", "O"]


@pytest.mark.parametrize("ligand", ["GTP", "AMP", "AGS", "SAH"])
def test_a_ligand_with_a_sugar_is_left_out_too(ligand, pdb):
    ligand_atoms = {
        "PA": (0.0, 0.0, 0.0),
        "C1'": (4.0, 0.0, 0.0),
        **(BACKBONE if ligand == "SAH" else {}),
    }
    path = pdb(
        *residue_lines("GLY", 1),
        "TER",
        *residue_lines(ligand, 301, atoms=ligand_atoms, record="HETATM"),
    )
    assert read_nodes(path).residue_names.tolist() == ["GLY"]


def test_modified_residues_are_part_of_the_chain(pdb):
    known = [
        *residue_lines("MSE", 1, record="HETATM"),
        *residue_lines("SEP", 2, x=3.3, record="HETATM"),
    ]
    unknown = [
        *residue_lines("XYZ", 3, x=6.6, record="HETATM"),
        *residue_lines("XYY", 4, x=9.9),
    ]  # C to N: 1.9 Å
    nodes = read_nodes(pdb(*known, *unknown))
    assert nodes.residue_names.tolist() == ["MSE", "SEP", "XYZ", "XYY"]
    assert len(bonds(nodes)) == 3


def test_a_nucleotide_stands_at_its_phosphorus_and_without_it_at_c1(pdb):
    sugar = {"O5'": (0.0, 0.0, 0.0), "C1'": (2.0, 0.0, 0.0)}
    path = pdb(
        *residue_lines("DA", 1, atoms=sugar),
        *residue_lines("DC", 2, x=5.5, atoms={"C1'": (2.0, 0.0, 0.0), "P": (0.0, 0.0, 0.0)}),
    )
    nodes = read_nodes(path)
    assert nodes.atom_names.tolist() == ["C1'", "P"]
    assert nodes.positions[:, 0].tolist() == [2.0, 5.5]
    assert bonds(nodes).tolist() == [[0, 1]]


def test_only_the_first_model_is_read(pdb):
    lines = [
        ["MODEL        1", *residue_lines("GLY", 1), "ENDMDL"],
        ["MODEL        2", *residue_lines("GLY", 1, x=9.0), "ENDMDL"],
    ]
    assert read_nodes(pdb(*lines[0], *lines[1])).positions.tolist() == [[1.5, 0, 0]]


def test_residues_that_differ_in_their_insertion_code_are_distinct(pdb):
    path = pdb(
        *residue_lines("GLY", 52),
        *residue_lines("ALA", 52, x=3.8, icode="A"),
        *residue_lines("SER", 53, x=7.6),
    )
    nodes = read_nodes(path)
    assert nodes.residue_keys == [("A", 52, ""), ("A", 52, "A"), ("A", 53, "")]
    assert len(bonds(nodes)) == 2
    assert nodes.residue_label(1) == "chain A ALA 52A"


def test_a_chain_goes_on_after_its_neighbours_in_the_file(pdb):
    path = pdb(
        *residue_lines("GLY", 1),
        *residue_lines("ALA", 1, chain="B"),
        "TER",
        *residue_lines("MSE", 2, x=3.8, record="HETATM"),
    )
    nodes = read_nodes(path)
    assert nodes.residue_keys == [("A", 1, ""), ("A", 2, ""), ("B", 1, "")]
    assert bonds(nodes).tolist() == [[0, 1]]


def test_a_gzipped_file_is_read(pdb):
    path = pdb(*residue_lines("GLY", 1))
    packed = path.with_suffix(".pdb.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert len(read_nodes(packed)) == 1


def test_a_node_has_the_electrons_of_the_whole_residue_however_much_is_modelled(pdb):
    nodes = read_nodes(
        pdb(
            *residue_lines("GLY", 1),
            *residue_lines("ALA", 2, x=3.8),
            atom_line("P", "DA", 3, (7.6, 0.0, 0.0)),
        )
    )
    # GLY 12 + 3 + 7 + 8, ALA 18 + 5 + 7 + 8, DA 60 + 12 + 35 + 40 + 15
    assert nodes.electrons.tolist() == [30, 38, 162]


def test_an_unusual_residue_has_the_electrons_of_its_atoms_and_hydrogens_in_the_chain(pdb):
    # Phosphoserine C3H8NO6P without the oxygen that leaves: 18 + 7 + 40 + 15, and 8 - 2 hydrogens.
    names = {"CB": "C", "OG": "O", "P": "P", "O1P": "O", "O2P": "O", "O3P": "O"}
    side_chain = [atom_line(name, "SEP", 1, element=element) for name, element in names.items()]
    nodes = read_nodes(pdb(*residue_lines("SEP", 1), *side_chain))
    assert nodes.electrons.tolist() == [18 + 7 + 40 + 15 + 6]
    assert nodes.atom_names.tolist() == ["CA"]  # not its phosphorus


def test_atoms_carry_their_own_electrons(pdb):
    assert read_structure(pdb(*residue_lines("GLY", 1))).electrons.tolist() == [7, 6, 6, 8]


# Errors name the file, the residue and the remedy


def test_a_missing_file_is_named(tmp_path):
    with refused("absent.pdb") as caught:
        read_structure(tmp_path / "absent.pdb")
    assert "PDB or mmCIF" in caught.value.remedy


def test_a_folder_is_refused(tmp_path):
    with refused(tmp_path.name) as caught:
        read_structure(tmp_path)
    assert "PDB or mmCIF" in caught.value.remedy


def test_another_suffix_is_refused(tmp_path):
    (tmp_path / "model.txt").write_text("")
    with refused("model.txt", value=".txt"):
        read_structure(tmp_path / "model.txt")


def test_a_broken_mmcif_is_refused(tmp_path):
    (tmp_path / "model.cif").write_text("data_x\nloop_\n_atom_site.id\n'1\n")
    with refused("model.cif"):
        read_structure(tmp_path / "model.cif")


def test_a_cut_gzip_is_refused(pdb):
    path = pdb(*residue_lines("GLY", 1))
    packed = path.with_suffix(".pdb.gz")
    packed.write_bytes(gzip.compress(path.read_bytes())[:-20])
    with refused("model.pdb.gz"):
        read_structure(packed)


def test_a_damaged_gzip_is_refused(pdb):
    packed = pdb(*residue_lines("GLY", 1)).with_suffix(".pdb.gz")
    content = bytearray(gzip.compress(packed.with_suffix("").read_bytes()))
    content[20:40] = bytes(20)
    packed.write_bytes(content)
    with refused("model.pdb.gz"):
        read_structure(packed)


WATER = [atom_line("O", "HOH", 1, record="HETATM")]


@pytest.mark.parametrize("lines", [[], WATER], ids=["empty", "water only"])
def test_a_file_without_polymer_is_refused(lines, pdb):
    with refused("model.pdb"):
        read_structure(pdb(*lines))


def test_a_residue_given_twice_is_refused(pdb):
    path = pdb(*residue_lines("GLY", 7, icode="B"), *residue_lines("ALA", 7, icode="B"))
    with refused("model.pdb", value="chain A ALA 7B"):
        read_structure(path)


@pytest.mark.parametrize("between", [["TER"], []], ids=["with TER", "without TER"])
def test_two_chains_of_one_name_are_refused(between, pdb):
    first, second = (
        [line for i in (1, 2) for line in residue_lines("GLY", i, x=x + 3.8 * i)]
        for x in (0.0, 50.0)
    )
    with refused("model.pdb", value="chain A GLY 1"):
        read_structure(pdb(*first, *between, *second))


def test_a_residue_without_an_atom_to_stand_for_it_is_refused(pdb):
    path = pdb(*residue_lines("GLY", 1), atom_line("N", "LYS", 2, chain="B"))
    with refused("model.pdb", value="chain B LYS 2"):
        read_nodes(path)


@pytest.mark.parametrize("value", ["     nan", "     inf"])
def test_a_coordinate_that_is_not_finite_is_refused(value, pdb):
    path = pdb(*residue_lines("GLY", 1), atom_line("CA", "ALA", 2, (1.0, value, 0.0)))
    with refused("model.pdb", value=[1.0, float(value), 0.0]):
        read_structure(path)


@pytest.mark.parametrize("value", ["********", "        ", "   1_0.0"])
def test_a_coordinate_that_is_no_number_is_refused(value, pdb):
    path = pdb(*residue_lines("GLY", 1), atom_line("CA", "ALA", 2, (1.0, value, 0.0)))
    with refused("model.pdb", value=value):
        read_structure(path)


@pytest.mark.parametrize("suffix", ["pdb", "cif"])
def test_b_factors_are_written_model_by_model(suffix, pdb, tmp_path):
    nodes = read_nodes(pdb(*residue_lines("GLY", 5), *residue_lines("ALA", 6, x=3.8)))
    frames = np.stack([nodes.positions, nodes.positions + 1])
    path = tmp_path / f"models.{suffix}"
    write_structure(path, nodes, frames, np.array([[1.0, 2.0], [30.0, 40.5]]))
    found = [[cra.atom.b_iso for cra in model.all()] for model in gemmi.read_structure(str(path))]
    assert found == [[1.0, 2.0], [30.0, 40.5]]
    write_structure(path, nodes)
    assert [cra.atom.b_iso for cra in gemmi.read_structure(str(path))[0].all()] == [0, 0]
