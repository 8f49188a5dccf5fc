"""Structures and trajectories come back from the files that they are written to."""

import dataclasses

import gemmi
import numpy as np
import pytest
from pdb_lines import residue_lines
from refusals import refused

from cryostar_nb.io.structures import read_nodes, read_structure, write_structure
from cryostar_nb.io.trajectories import read_trajectory, write_trajectory
from cryostar_nb.structure import coarse_grain, node_atoms

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
    frames = mixed.positions * np.array([1.0, 0.5, 0.25])[:, None, None]
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
    with refused("out.pdb") as caught:
        write_structure(tmp_path / "out.pdb", nodes)
    assert ".cif" in caught.value.remedy and list(tmp_path.iterdir()) == []
    write_structure(tmp_path / "out.cif", nodes)
    assert len(set(read_nodes(tmp_path / "out.cif").chains)) == 63


def test_more_than_99999_atoms_are_refused_for_pdb(make_nodes, tmp_path):
    with refused("out.pdb", value=100_000):
        write_structure(tmp_path / "out.pdb", make_nodes(np.zeros((100_000, 3))))


def test_other_suffixes_are_refused_for_writing(make_nodes, tmp_path):
    nodes = make_nodes(np.zeros((1, 3)))
    with refused("out.xyz", value=".xyz"):
        write_structure(tmp_path / "out.xyz", nodes)
    with refused("out.xyz", value=".xyz"):
        write_trajectory(tmp_path / "out.xyz", nodes, np.zeros((1, 1, 3)))


def test_a_trajectory_of_another_molecule_is_refused(make_nodes, tmp_path):
    nodes = make_nodes(np.zeros((3, 3)))
    write_trajectory(tmp_path / "out.dcd", nodes, np.zeros((2, 3, 3)))
    write_structure(tmp_path / "topology.pdb", nodes[:2])
    with refused("out.dcd") as caught:
        read_trajectory(tmp_path / "out.dcd", tmp_path / "topology.pdb")
    assert "topology.pdb" in caught.value.problem


def test_a_missing_trajectory_or_topology_is_named(make_nodes, tmp_path):
    write_trajectory(tmp_path / "out.dcd", make_nodes(np.zeros((1, 3))), np.zeros((2, 1, 3)))
    with refused("absent.dcd"):
        read_trajectory(tmp_path / "absent.dcd", tmp_path / "absent.pdb")
    with refused("absent.pdb"):
        read_trajectory(tmp_path / "out.dcd", tmp_path / "absent.pdb")
