"""Electrons of residues, bonds and elastic edges."""

import numpy as np
import pytest

from cryostar_nb.structure import bonds, elastic_edges, residue_electrons

# Electrons

ATOMIC_NUMBERS = {"C": 6, "H": 1, "N": 7, "O": 8, "P": 15, "S": 16, "Se": 34}
# The free molecules of the textbook, (C, H, N, O) and what else there is. A residue of a chain is
# one water less.
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
    molecule = 6 * carbon + hydrogen + 7 * nitrogen + 8 * oxygen
    molecule += sum(ATOMIC_NUMBERS[element] for element in other)
    assert residue_electrons(name, heavy_atom_electrons=0.0) == molecule - 10


@pytest.mark.parametrize("name", ["HSD", "HSE", "HSP", "HID", "HIE", "HIP"])
def test_histidine_counts_the_same_whatever_its_protonation_is_called(name):
    assert residue_electrons(name, heavy_atom_electrons=0.0) == 72  # C6H7N3O: 36 + 7 + 21 + 8


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
