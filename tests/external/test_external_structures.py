"""Structures as the wwPDB holds them."""

import pytest
import torch

from cryostar_nb.geometry import rmsd
from cryostar_nb.io.structures import read_nodes
from cryostar_nb.io.trajectories import read_trajectory
from cryostar_nb.structure import bonds


def count(nodes, name):
    return int((nodes.atom_names == name).sum())


def test_adenylate_kinase_has_214_residues_in_one_unbroken_chain(external_data):
    for name in ("pdb1ake.pdb", "4akeA_alg_fixed.pdb"):
        nodes = read_nodes(external_data / "adk" / name)
        assert (len(nodes), count(nodes, "CA"), len(bonds(nodes))) == (214, 214, 213)


def test_closed_and_open_adenylate_kinase_are_seven_angstrom_apart(external_data):
    closed, open_ = (
        read_nodes(external_data / "adk" / name).positions
        for name in ("pdb1ake.pdb", "4akeA_alg_fixed.pdb")
    )
    assert float(rmsd(torch.from_numpy(closed), torch.from_numpy(open_))) == pytest.approx(
        7.13, abs=0.01
    )


def test_the_deposited_mmcif_holds_both_chains_without_inhibitor_and_water(external_data):
    nodes = read_nodes(external_data / "adk" / "mmcif_1ake_chimerax.cif")
    assert set(nodes.chains) == {"A", "B"}
    assert (len(nodes), len(bonds(nodes))) == (428, 426)


def test_a_nucleotide_without_phosphate_stands_at_its_sugar_and_the_cofactor_is_left_out(
    external_data,
):
    nodes = read_nodes(
        external_data / "complex" / "pdb3mht.pdb"
    )  # a methyltransferase, DNA, and S-adenosylhomocysteine
    assert [count(nodes, name) for name in ("CA", "P", "C1'")] == [327, 24, 1]


def test_a_complex_keeps_its_chains_and_leaves_out_its_nucleotides_that_are_ligands(external_data):
    nodes = read_nodes(
        external_data / "complex" / "pdb7pbl.pdb.gz"
    )  # RuvB with ATP-gamma-S on a Holliday junction
    assert [count(nodes, name) for name in ("CA", "P", "C1'")] == [1918, 30, 0]
    assert len(set(nodes.chains)) == 9


def test_the_spliceosome_has_13936_nodes_in_58_chains(external_data):
    nodes = read_nodes(external_data / "spliceosome" / "5nrl_rebuilt.cif.gz")
    assert (len(nodes), len(set(nodes.chains))) == (13_936, 58)


def test_every_frame_of_a_trajectory_has_the_residues_of_the_structure(external_data):
    atoms, frames = read_trajectory(
        external_data / "adk" / "adk_dims.dcd", external_data / "adk" / "adk.psf"
    )
    assert frames.shape == (98, len(atoms), 3)
    assert int((atoms.atom_names == "CA").sum()) == 214
    assert len(bonds(atoms[atoms.atom_names == "CA"])) == 213
