"""The reference that is not quite the molecule: as it was asked for, and as the truth says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused

import cryostar_nb as cs
from cryostar_nb.backbone import in_helix
from cryostar_nb.io.structures import read_atoms_and_nodes, read_nodes, read_structure
from cryostar_nb.simulation.imperfect import BACKBONE, make_reference
from cryostar_nb.simulation.options import ImperfectReference
from cryostar_nb.simulation.paths import linear_morph, matching_atoms
from cryostar_nb.structure import bonds, node_atoms, residue_ranges

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def kinase():
    """Adenylate kinase and its path of three states."""
    start, end = matching_atoms(*(read_structure(DATA / f"{n}.pdb") for n in ("1ake", "4ake")))
    return start, linear_morph(start=start.positions, end=end.positions, states=3)


def made(kinase, seed=0, **settings):
    return make_reference(*kinase, ImperfectReference(**settings), seed)


def moved_by(kinase, reference, state=0):
    return np.linalg.norm(reference.atoms.positions - kinase[1][state], axis=-1)


def test_the_perfect_reference_is_the_first_state(kinase):
    reference = made(kinase)
    assert not moved_by(kinase, reference).any() and reference.state == 1
    np.testing.assert_array_equal(reference.nodes, np.arange(214))
    assert len(reference.turned) == len(reference.moved) == 0


def test_another_state_may_be_the_reference(kinase):
    assert not moved_by(kinase, made(kinase, reference_state=2), 1).any()
    last = made(kinase, reference_state="last")
    assert not moved_by(kinase, last, 2).any() and last.state == 3
    with refused(value=4):
        made(kinase, reference_state=4)


def test_side_chains_turn_by_120_degrees_about_the_bond_of_ca_and_cb(kinase):
    reference = made(kinase, reference_rotamers=0.5)
    atoms, distance = kinase[0], moved_by(kinase, reference)
    assert not distance[np.isin(atoms.atom_names, BACKBONE)].any()
    ranges = residue_ranges(atoms)
    changed = [i for i, (a, b) in enumerate(ranges) if distance[a:b].max() > 0]
    np.testing.assert_array_equal(changed, reference.turned)
    able = sum(
        str(atoms.residue_names[a]) not in ("GLY", "ALA", "PRO")
        and bool(set(atoms.atom_names[a:b].tolist()) - set(BACKBONE))
        for a, b in ranges
    )
    assert len(reference.turned) == round(0.5 * able)
    for node in reference.turned.tolist():
        first, last = ranges[node]
        names = atoms.atom_names[first:last].tolist()
        alpha, beta = (kinase[1][0][first + names.index(name)] for name in ("CA", "CB"))
        axis = (beta - alpha) / np.linalg.norm(beta - alpha)
        far = first + int(distance[first:last].argmax())
        arm = np.cross(axis, kinase[1][0][far] - beta)
        chord = 2 * np.linalg.norm(arm) * np.sin(np.deg2rad(60))
        assert distance[far] == pytest.approx(chord, rel=1e-6)


def test_a_gap_is_a_loop_away_from_the_ends_and_its_place_is_the_seeds(kinase):
    for seed in range(3):
        reference = made(kinase, seed, reference_gap=6)
        missing = np.setdiff1d(np.arange(214), reference.nodes)
        assert len(missing) == 6 == np.ptp(missing) + 1
        assert missing.min() >= 5 and missing.max() < 209
        nodes = kinase[0][node_atoms(kinase[0])]
        assert not in_helix(torch.from_numpy(nodes.positions), nodes)[missing].any()
        kept = reference.atoms
        np.testing.assert_array_equal(
            kept.residue_numbers[node_atoms(kept)], nodes.residue_numbers[reference.nodes]
        )
        assert len(bonds(kept[node_atoms(kept)])) == len(bonds(nodes)) - 7
    again = made(kinase, 2, reference_gap=6)
    np.testing.assert_array_equal(again.nodes, reference.nodes)
    with refused(value=300):
        made(kinase, reference_gap=300)


def test_the_domain_that_moves_most_is_moved_as_it_is(kinase):
    reference = made(kinase, reference_shift=5.0)
    shift = reference.atoms.positions - kinase[1][0]
    of_nodes = shift[node_atoms(kinase[0])]
    assert np.linalg.norm(reference.displacement) == pytest.approx(5.0)
    np.testing.assert_allclose(
        of_nodes[reference.moved],
        np.tile(reference.displacement, (len(reference.moved), 1)),
        atol=1e-9,
    )
    assert not np.delete(of_nodes, reference.moved, axis=0).any()
    lid = np.arange(122, 160) - 1
    assert np.isin(lid, reference.moved).mean() > 0.9
    path = kinase[1][:, node_atoms(kinase[0])]
    moves = np.linalg.norm(path[-1] - path[0], axis=-1)
    assert moves.argmax() in reference.moved and np.ptp(reference.moved) + 1 == len(reference.moved)
    assert moves[reference.moved].mean() > 1.5 * moves.mean() and 10 <= len(reference.moved) < 107


def test_a_path_without_motion_still_has_a_domain(kinase):
    still = kinase[0], kinase[1][:1]
    assert len(made(still, reference_shift=2.0).moved) == 10


def test_the_file_is_the_reference_that_the_truth_describes(tmp_path):
    settings = {"reference_rotamers": 0.3, "reference_gap": 7, "reference_shift": 4.0}
    settings |= {"reference_state": "last"}
    small = {"n_particles": 8, "box_size": 32, "pixel_size": 4.0, "states": 3}
    ends = {"start": DATA / "1ake.pdb", "end": DATA / "4ake.pdb"}
    cs.simulate(**ends, out=tmp_path, **small, **settings)
    truth = np.load(tmp_path / "truth.npz")
    atoms, nodes = read_atoms_and_nodes(tmp_path / "reference.cif")
    assert len(nodes) == len(truth["reference_nodes"]) == 207 and truth["reference_state"] == 3
    expected = truth["positions"][2].copy()
    expected[truth["reference_moved"]] += truth["reference_displacement"]
    np.testing.assert_allclose(nodes.positions, expected[truth["reference_nodes"]], atol=2e-3)
    assert json.loads(str(truth["faults"])) == settings
    assert len(truth["reference_turned"]) > 30 and len(atoms) > 1500
    true = read_nodes(DATA / "1ake.pdb")
    assert truth["positions"].shape == (3, len(true), 3)
    with refused("particles.star"):
        cs.simulate(**ends, out=tmp_path, **small, **settings)


def test_a_reference_that_is_there_is_not_replaced(tmp_path):
    (tmp_path / "reference.cif").write_text("notes")
    ends = {"start": DATA / "1ake.pdb", "end": DATA / "4ake.pdb"}
    with refused("reference.cif"):
        cs.simulate(**ends, out=tmp_path, reference_gap=5)
