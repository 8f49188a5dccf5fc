"""Reading, coarse-graining and writing structures. The PDB files are written here, line by line."""

import dataclasses
import gzip

import gemmi
import numpy as np
import pytest

from cryostar_nb.errors import InputError
from cryostar_nb.io.structures import (
    read_nodes,
    read_structure,
    read_trajectory,
    write_structure,
    write_trajectory,
)
from cryostar_nb.structure import bonds, coarse_grain, elastic_edges, node_atoms, residue_electrons

BACKBONE = {"N": (0.0, 0.0, 0.0), "CA": (1.5, 0.0, 0.0), "C": (2.0, 1.4, 0.0), "O": (1.2, 2.3, 0.0)}


def atom_line(
    name,
    residue,
    number,
    xyz=(0.0, 0.0, 0.0),
    *,
    chain="A",
    icode="",
    altloc="",
    element="",
    record="ATOM",
):
    """An atom in the columns of the PDB format; a coordinate may be text."""
    element = element or name[0]
    padded = f"{name:<4}" if len(element) == 2 or len(name) == 4 else f" {name:<3}"
    place = f"{residue:>3} {chain}{number:4d}{icode or ' '}"
    coordinates = "".join(value if isinstance(value, str) else f"{value:8.3f}" for value in xyz)
    return f"{record:<6}    1 {padded}{altloc or ' '}{place}   {coordinates}  1.00  0.00          {element:>2}"


def residue_lines(residue, number, *, x=0.0, atoms=BACKBONE, **options):
    return [
        atom_line(name, residue, number, (x + dx, y, z), **options)
        for name, (dx, y, z) in atoms.items()
    ]


@pytest.fixture
def pdb(tmp_path):
    """Write lines as a PDB file and return its path."""

    def write(*lines, name="model.pdb"):
        path = tmp_path / name
        path.write_text("\n".join([*lines, "END", ""]))
        return path

    return write


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


# Electrons

ATOMIC_NUMBERS = {"C": 6, "H": 1, "N": 7, "O": 8, "P": 15, "S": 16, "Se": 34}
# The free molecules of the textbook, (C, H, N, O) and what else there is; a residue of a chain is one water less.
FREE = {
    **{
        "GLY": (2, 5, 1, 2),
        "ALA": (3, 7, 1, 2),
        "SER": (3, 7, 1, 3),
        "THR": (4, 9, 1, 3),
        "VAL": (5, 11, 1, 2),
    },
    **{
        "LEU": (6, 13, 1, 2),
        "ILE": (6, 13, 1, 2),
        "PRO": (5, 9, 1, 2),
        "PHE": (9, 11, 1, 2),
        "TYR": (9, 11, 1, 3),
    },
    **{
        "TRP": (11, 12, 2, 2),
        "ASP": (4, 7, 1, 4),
        "GLU": (5, 9, 1, 4),
        "ASN": (4, 8, 2, 3),
        "GLN": (5, 10, 2, 3),
    },
    **{"LYS": (6, 14, 2, 2), "ARG": (6, 14, 4, 2), "HIS": (6, 9, 3, 2)},
    **{"CYS": (3, 7, 1, 2, "S"), "MET": (5, 11, 1, 2, "S"), "MSE": (5, 11, 1, 2, "Se")},
    **{
        "A": (10, 14, 5, 7, "P"),
        "C": (9, 14, 3, 8, "P"),
        "G": (10, 14, 5, 8, "P"),
        "U": (9, 13, 2, 9, "P"),
    },
    **{
        "DA": (10, 14, 5, 6, "P"),
        "DC": (9, 14, 3, 7, "P"),
        "DG": (10, 14, 5, 7, "P"),
        "DT": (10, 15, 2, 8, "P"),
    },
}


@pytest.mark.parametrize("name", FREE)
def test_a_residue_has_the_electrons_of_its_molecule_less_one_water(name):
    carbon, hydrogen, nitrogen, oxygen, *other = FREE[name]
    expected = (
        6 * carbon
        + hydrogen
        + 7 * nitrogen
        + 8 * oxygen
        + sum(ATOMIC_NUMBERS[element] for element in other)
        - 10
    )
    assert residue_electrons(name, heavy_atom_electrons=0.0) == expected


def test_the_electrons_of_a_node_are_those_of_the_whole_residue_however_much_is_modelled(pdb):
    nodes = read_nodes(
        pdb(
            *residue_lines("GLY", 1),
            *residue_lines("ALA", 2, x=3.8),
            atom_line("P", "DA", 3, (7.6, 0.0, 0.0)),
        )
    )
    # GLY C2H3NO: 12 + 3 + 7 + 8. ALA C3H5NO: 18 + 5 + 7 + 8. DA C10H12N5O5P: 60 + 12 + 35 + 40 + 15.
    assert nodes.electrons.tolist() == [30, 38, 162]


def test_the_electrons_of_an_unusual_residue_are_those_of_its_atoms_and_of_its_hydrogens_in_the_chain(
    pdb,
):
    # Phosphoserine C3H8NO6P, all heavy atoms there but the one that leaves: 18 + 7 + 40 + 15, and 8 - 2 hydrogens.
    names = {"CB": "C", "OG": "O", "P": "P", "O1P": "O", "O2P": "O", "O3P": "O"}
    side_chain = [atom_line(name, "SEP", 1, element=element) for name, element in names.items()]
    nodes = read_nodes(pdb(*residue_lines("SEP", 1), *side_chain))
    assert nodes.electrons.tolist() == [18 + 7 + 40 + 15 + 6]
    assert nodes.atom_names.tolist() == ["CA"]  # not its phosphorus


def test_atoms_carry_their_own_electrons(pdb):
    assert read_structure(pdb(*residue_lines("GLY", 1))).electrons.tolist() == [7, 6, 6, 8]


# Bonds and edges


def test_a_gap_in_the_chain_makes_no_bond(make_nodes):
    x = np.array([0.0, 3.8, 7.6, 16.0, 19.8])
    assert bonds(make_nodes(np.stack([x, 0 * x, 0 * x], axis=-1))).tolist() == [
        [0, 1],
        [1, 2],
        [3, 4],
    ]


def test_chains_are_never_bonded(make_nodes):
    x = 3.8 * np.arange(4.0)
    assert bonds(
        make_nodes(np.stack([x, 0 * x, 0 * x], axis=-1), chains=list("AABB"))
    ).tolist() == [[0, 1], [2, 3]]


def test_nucleotides_have_longer_bonds_than_amino_acids_and_none_with_them(make_nodes):
    x = np.array([0.0, 6.5, 13.0, 16.8, 23.3])
    names = ["C1'", "P", "CA", "CA", "CA"]
    assert bonds(make_nodes(np.stack([x, 0 * x, 0 * x], axis=-1), atom_names=names)).tolist() == [
        [0, 1],
        [2, 3],
    ]


def test_a_single_node_has_no_bonds(make_nodes):
    assert bonds(make_nodes([[0.0, 0.0, 0.0]])).shape == (0, 2)


def test_elastic_edges_are_the_near_pairs_of_each_chain(make_nodes, rng):
    positions, chains = rng.uniform(0, 30, (60, 3)), rng.choice(list("ABC"), 60)
    expected = [
        [i, j]
        for i in range(60)
        for j in range(i + 1, 60)
        if chains[i] == chains[j] and np.linalg.norm(positions[i] - positions[j]) < 12.0
    ]
    assert elastic_edges(make_nodes(positions, chains), 12.0).tolist() == expected


def test_elastic_edges_between_chains_are_those_of_one_chain_of_all(make_nodes, rng):
    positions = rng.uniform(0, 30, (40, 3))
    chains = np.array(["A"] * 15 + ["B"] * 25)
    joined = elastic_edges(make_nodes(positions, chains), 12.0, between_chains=True)
    np.testing.assert_array_equal(
        joined, elastic_edges(make_nodes(positions, np.array(["A"] * 40)), 12.0)
    )
    assert len(joined) > len(elastic_edges(make_nodes(positions, chains), 12.0))


# Writing, and reading again


@pytest.fixture
def mixed(pdb):
    """Atoms of two chains, with an insertion code, a modified residue, and nucleotides."""
    protein = [
        residue_lines("GLY", -1),
        residue_lines("MSE", 52, x=3.8, record="HETATM"),
        residue_lines("SER", 52, x=7.6, icode="A"),
    ]
    dna = residue_lines(
        "DA", 1, x=20.0, atoms={"P": (0.0, 0.0, 0.0), "C1'": (2.0, 1.0, -1234.567)}, chain="b"
    )
    return read_structure(pdb(*protein[0], *protein[1], *protein[2], "TER", *dna))


def assert_same(first, second, tolerance):
    np.testing.assert_allclose(first.positions, second.positions, atol=tolerance)
    for field in dataclasses.fields(first):
        if field.name != "positions":
            assert getattr(first, field.name).tolist() == getattr(second, field.name).tolist(), (
                field.name
            )


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
@pytest.mark.parametrize("reduce", [lambda atoms: atoms, coarse_grain], ids=["atoms", "nodes"])
def test_a_structure_comes_back_from_its_file(suffix, reduce, mixed, tmp_path):
    structure = reduce(mixed)
    write_structure(tmp_path / f"out{suffix}", structure)
    read = read_structure(tmp_path / f"out{suffix}")
    if reduce is coarse_grain:
        read = coarse_grain(read)
        read = dataclasses.replace(
            read,
            electrons=np.where(read.residue_names == "MSE", structure.electrons, read.electrons),
        )
    assert_same(read, structure, 5e-4)


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_the_node_of_an_unknown_residue_comes_back_from_its_file(suffix, pdb, tmp_path):
    nodes = read_nodes(pdb(*residue_lines("GLY", 1), *residue_lines("XYZ", 2, x=3.8)))
    write_structure(tmp_path / f"out{suffix}", nodes)
    assert len(read_nodes(tmp_path / f"out{suffix}")) == len(nodes) == 2


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_each_frame_is_a_model(suffix, mixed, tmp_path):
    frames = mixed.positions + np.array([0.0, 5.0, -3.0])[:, None, None]
    path = tmp_path / f"out{suffix}"
    write_structure(path, mixed, frames)
    assert_same(read_structure(path), mixed, 5e-4)  # the first model
    models = [
        [site.atom.pos.tolist() for site in model.all()]
        for model in gemmi.read_structure(str(path))
    ]
    np.testing.assert_allclose(models, frames, atol=5e-4)


@pytest.mark.parametrize(("suffix", "tolerance"), [(".dcd", 1e-3), (".xtc", 6e-3)])
def test_a_trajectory_comes_back_from_its_file(suffix, tolerance, mixed, tmp_path):
    frames = (
        mixed.positions[mixed.positions[:, 2] > -1000] + np.array([0.0, 5.0, -3.0])[:, None, None]
    )
    atoms = mixed[mixed.positions[:, 2] > -1000]
    write_structure(tmp_path / "topology.pdb", atoms)
    write_trajectory(tmp_path / f"out{suffix}", atoms, frames)
    read_atoms, read = read_trajectory(tmp_path / f"out{suffix}", tmp_path / "topology.pdb")
    np.testing.assert_allclose(read, frames, atol=tolerance)
    for field in ("atom_names", "elements", "residue_names", "residue_numbers", "electrons"):
        assert getattr(read_atoms, field).tolist() == getattr(atoms, field).tolist()


def test_insertion_codes_survive_in_a_trajectory(mixed, tmp_path):
    write_structure(tmp_path / "out.pdb", mixed)
    atoms, _ = read_trajectory(tmp_path / "out.pdb", tmp_path / "out.pdb")
    assert len(node_atoms(atoms)) == len(node_atoms(mixed)) == 4


def test_chains_stay_apart_in_a_trajectory(make_nodes, tmp_path):
    chains = [chr(ord("A") + i) for i in range(26)] + ["a", "b"]
    positions = np.zeros((28, 3))
    positions[:, 0] = 5 * np.arange(28)
    write_structure(tmp_path / "out.pdb", make_nodes(positions, chains))
    nodes, _ = read_trajectory(tmp_path / "out.pdb", tmp_path / "out.pdb")
    assert len(set(nodes.chains)) == 28


def test_chain_names_of_several_letters_are_shortened_for_pdb_alone(make_nodes, tmp_path):
    nodes = make_nodes(np.zeros((4, 3)), chains=["AA", "AA", "AB", "AB"])
    for suffix in (".pdb", ".cif"):
        write_structure(tmp_path / f"out{suffix}", nodes)
    read = {
        suffix: read_nodes(tmp_path / f"out{suffix}").chains.tolist() for suffix in (".pdb", ".cif")
    }
    assert read[".cif"] == ["AA", "AA", "AB", "AB"]
    assert [len(name) for name in read[".pdb"]] == [1, 1, 1, 1]
    assert len(set(read[".pdb"])) == 2


def test_more_than_62_chains_are_refused_for_pdb_and_written_as_mmcif(make_nodes, tmp_path):
    nodes = make_nodes(np.zeros((63, 3)), chains=[f"C{i}" for i in range(63)])
    with pytest.raises(
        InputError, match=r"out\.pdb: 63 chains and 63 atoms do not fit a PDB file; write \.cif"
    ):
        write_structure(tmp_path / "out.pdb", nodes)
    assert list(tmp_path.iterdir()) == []
    write_structure(tmp_path / "out.cif", nodes)
    assert len(set(read_nodes(tmp_path / "out.cif").chains)) == 63


def test_more_than_99999_atoms_are_refused_for_pdb(make_nodes, tmp_path):
    with pytest.raises(
        InputError, match=r"1 chains and 100000 atoms do not fit a PDB file; write \.cif"
    ):
        write_structure(tmp_path / "out.pdb", make_nodes(np.zeros((100_000, 3))))


# Errors name the file, the residue and the remedy


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        InputError,
        match=r"absent\.pdb: there is no such file; give the path of a PDB or mmCIF file",
    ):
        read_structure(tmp_path / "absent.pdb")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="this is a folder; give the path of a PDB or mmCIF file"):
        read_structure(tmp_path)


def test_another_suffix_is_refused(tmp_path):
    (tmp_path / "model.txt").write_text("")
    with pytest.raises(
        InputError, match=r"model\.txt: a structure is read from \.pdb, .* convert or rename"
    ):
        read_structure(tmp_path / "model.txt")


def test_a_broken_mmcif_is_refused(tmp_path):
    (tmp_path / "model.cif").write_text("data_x\nloop_\n_atom_site.id\n'1\n")
    with pytest.raises(
        InputError, match=r"model\.cif: cannot be read as a structure .* check that it is complete"
    ):
        read_structure(tmp_path / "model.cif")


def test_a_cut_gzip_is_refused(pdb):
    path = pdb(*residue_lines("GLY", 1))
    packed = path.with_suffix(".pdb.gz")
    packed.write_bytes(gzip.compress(path.read_bytes())[:-20])
    with pytest.raises(InputError, match=r"model\.pdb\.gz: "):
        read_structure(packed)


@pytest.mark.parametrize(
    "lines", [[], [atom_line("O", "HOH", 1, record="HETATM")]], ids=["empty", "water only"]
)
def test_a_file_without_polymer_is_refused(lines, pdb):
    with pytest.raises(
        InputError, match=r"model\.pdb: holds no (atoms|amino acid or nucleotide); give a"
    ):
        read_structure(pdb(*lines))


def test_a_residue_given_twice_is_refused(pdb):
    path = pdb(*residue_lines("GLY", 7, icode="B"), *residue_lines("ALA", 7, icode="B"))
    with pytest.raises(
        InputError,
        match=r"model\.pdb: residue chain A ALA 7B is there twice \(first as GLY\); delete or renumber",
    ):
        read_structure(path)


@pytest.mark.parametrize("between", [["TER"], []], ids=["with TER", "without TER"])
def test_two_chains_of_one_name_are_refused(between, pdb):
    first, second = (
        [line for i in (1, 2) for line in residue_lines("GLY", i, x=x + 3.8 * i)]
        for x in (0.0, 50.0)
    )
    with pytest.raises(InputError, match="twice"):
        read_structure(pdb(*first, *between, *second))


def test_a_residue_without_an_atom_to_stand_for_it_is_refused(pdb):
    path = pdb(*residue_lines("GLY", 1), atom_line("N", "LYS", 2, chain="B"))
    with pytest.raises(
        InputError,
        match=r"model\.pdb: residue chain B LYS 2 has no CA, P or C1' atom; complete the residue or delete it",
    ):
        read_nodes(path)


@pytest.mark.parametrize("value", ["     nan", "     inf"])
def test_a_coordinate_that_is_not_finite_is_refused(value, pdb):
    path = pdb(*residue_lines("GLY", 1), atom_line("CA", "ALA", 2, (1.0, value, 0.0)))
    with pytest.raises(
        InputError,
        match=r"model\.pdb: atom CA of residue chain A ALA 2 has coordinates .*; give finite ones",
    ):
        read_structure(path)


@pytest.mark.parametrize("value", ["********", "        "])
def test_a_coordinate_that_is_no_number_is_refused(value, pdb):
    with pytest.raises(InputError):
        read_structure(pdb(*residue_lines("GLY", 1), atom_line("CA", "ALA", 2, (1.0, value, 0.0))))


def test_other_suffixes_are_refused_for_writing(make_nodes, tmp_path):
    nodes = make_nodes(np.zeros((1, 3)))
    with pytest.raises(InputError, match=r"out\.xyz: a structure is written as \.pdb or \.cif"):
        write_structure(tmp_path / "out.xyz", nodes)
    with pytest.raises(InputError, match=r"out\.xyz: a trajectory is written as \.dcd or \.xtc"):
        write_trajectory(tmp_path / "out.xyz", nodes, np.zeros((1, 1, 3)))


def test_a_trajectory_of_another_molecule_is_refused(make_nodes, tmp_path):
    nodes = make_nodes(np.zeros((3, 3)))
    write_trajectory(tmp_path / "out.dcd", nodes, np.zeros((2, 3, 3)))
    write_structure(tmp_path / "topology.pdb", nodes[:2])
    with pytest.raises(
        InputError,
        match=r"out\.dcd: cannot be read with the topology .*topology\.pdb .*check that they belong together",
    ):
        read_trajectory(tmp_path / "out.dcd", tmp_path / "topology.pdb")


def test_a_missing_trajectory_or_topology_is_named(make_nodes, tmp_path):
    write_trajectory(tmp_path / "out.dcd", make_nodes(np.zeros((1, 3))), np.zeros((2, 1, 3)))
    with pytest.raises(
        InputError, match=r"absent\.dcd: there is no such file; give the path of a trajectory"
    ):
        read_trajectory(tmp_path / "absent.dcd", tmp_path / "absent.pdb")
    with pytest.raises(
        InputError, match=r"absent\.pdb: there is no such file; give the path of its topology"
    ):
        read_trajectory(tmp_path / "out.dcd", tmp_path / "absent.pdb")


@pytest.mark.parametrize("name", ["HSD", "HSE", "HSP", "HID", "HIE", "HIP"])
def test_histidine_counts_the_same_whatever_its_protonation_is_called(name, pdb):
    assert read_nodes(pdb(*residue_lines(name, 1))).electrons.tolist() == [
        72.0
    ]  # C6H7N3O: 36 + 7 + 21 + 8
