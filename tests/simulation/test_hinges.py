"""Domains that turn about hinges stay rigid, the rest does not move, and linkers keep bonds."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from refusals import refused
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist, pdist
from scipy.spatial.transform import Rotation

from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.structures import read_nodes, read_structure
from cryostar_nb.simulation.hinges import clear_hinge, hinge_path, linkers, propose_hinge
from cryostar_nb.structure import bonds

ROOT = Path(__file__).parents[2]
ANGLES = np.array([0.0, 10.0, -25.0, 90.0])


@pytest.fixture
def cloud(rng):
    """Fifty atoms, the first twenty of which are the domain."""
    return 10 * rng.standard_normal((50, 3)), np.arange(50) < 20


def turned(positions, domain, angles=ANGLES, axis=(1.0, 2.0, -2.0), pivot=(3.0, -1.0, 0.5)):
    return hinge_path(
        positions, domain, axis=np.array(axis), pivot=np.array(pivot), angles_deg=angles
    )


def test_the_domain_stays_rigid_and_keeps_its_hand(cloud):
    positions, domain = cloud
    path = turned(positions, domain)
    volume = np.linalg.det(positions[:3] - positions[3])
    for state in path:
        np.testing.assert_allclose(pdist(state[domain]), pdist(positions[domain]), atol=1e-9)
        assert np.linalg.det(state[:3] - state[3]) == pytest.approx(volume)


def test_the_rest_does_not_move_and_angle_0_is_the_reference(cloud):
    positions, domain = cloud
    path = turned(positions, domain)
    np.testing.assert_array_equal(path[:, ~domain], np.broadcast_to(positions[~domain], (4, 30, 3)))
    np.testing.assert_allclose(path[0], positions, atol=1e-12)


def test_y_turned_about_x_through_a_pivot_becomes_z():
    path = turned(
        np.array([[5.0, 2.0, 1.0]]),
        np.array([True]),
        np.array([90.0]),
        axis=(3.0, 0.0, 0.0),
        pivot=(0.0, 1.0, 1.0),
    )
    np.testing.assert_allclose(path[0, 0], [5.0, 1.0, 2.0], atol=1e-12)


def test_two_turns_about_one_hinge_add_up(cloud):
    positions, domain = cloud
    once = turned(positions, domain, np.array([40.0]))[0]
    np.testing.assert_allclose(
        turned(once, domain, np.array([-15.0]))[0],
        turned(positions, domain, np.array([25.0]))[0],
        atol=1e-9,
    )


def test_an_atom_of_part_one_half_turns_by_half_the_angle(cloud):
    positions, domain = cloud
    half = turned(positions, 0.5 * domain, np.array([30.0]))
    np.testing.assert_allclose(half, turned(positions, domain, np.array([15.0])), atol=1e-9)


def test_an_axis_without_direction_is_refused(cloud):
    with refused(value=[0.0, 0.0, 0.0]):
        turned(*cloud, axis=(0.0, 0.0, 0.0))


# Hinges from the structure


@pytest.fixture
def bent(rng):
    """Two blobs that touch at the origin, one along x, the other (the domain) along y."""
    blob = np.array(
        [
            [4.0 * i, 4.0 * j, 4.0 * k]
            for i in range(-1, 2)
            for j in range(-1, 2)
            for k in range(-1, 2)
        ]
    )
    positions = np.concatenate(
        [blob + np.array(centre) for centre in ((8.0, 0.0, 0.0), (0.0, 8.0, 0.0))]
    )
    return positions + 0.1 * rng.standard_normal(positions.shape), np.arange(54) >= 27


def test_the_axis_is_a_unit_vector_across_the_arm(bent):
    positions, domain = bent
    hinge = propose_hinge(positions, domain)
    assert np.linalg.norm(hinge.axis) == pytest.approx(1)
    assert hinge.axis @ (positions[domain].mean(axis=0) - hinge.pivot) == pytest.approx(0, abs=1e-9)


def test_positive_angles_lead_away_from_the_rest(bent):
    positions, domain = bent
    rest, hinge = positions[~domain].mean(axis=0), propose_hinge(positions, domain)
    path = hinge_path(
        positions,
        domain,
        axis=hinge.axis,
        pivot=hinge.pivot,
        angles_deg=np.array([-10.0, 0.0, 10.0]),
    )
    distances = np.linalg.norm(path[:, domain].mean(axis=1) - rest, axis=-1)
    assert (np.diff(distances) > 0).all()


def test_the_proposal_turns_with_the_structure(bent, rng):
    positions, domain = bent
    rotation = Rotation.from_rotvec(rng.standard_normal(3)).as_matrix()
    hinge, turned_hinge = (
        propose_hinge(positions, domain),
        propose_hinge(positions @ rotation.T + 5.0, domain),
    )
    np.testing.assert_allclose(turned_hinge.axis, rotation @ hinge.axis, atol=1e-9)
    np.testing.assert_allclose(turned_hinge.pivot, rotation @ hinge.pivot + 5.0, atol=1e-9)


def test_a_straight_line_has_a_hinge_too():
    positions = np.array([[0.0, 0.0, 4.0 * i] for i in range(10)])
    hinge = propose_hinge(positions, np.arange(10) >= 5)
    assert np.linalg.norm(hinge.axis) == pytest.approx(1)
    assert hinge.axis[2] == 0


def test_domains_without_a_hinge_are_refused(bent):
    positions, domain = bent
    with refused(value=54):
        propose_hinge(positions, np.ones(54, dtype=bool))
    with refused() as caught:
        propose_hinge(positions + 100 * domain[:, None], domain)
    assert caught.value.value > 100


@pytest.fixture
def wedged():
    """A domain above a plate that has a step, half as high as the domain, at one side of it."""
    square = np.array([[4.0 * i, 4.0 * j, 0.0] for i in range(-8, 9) for j in range(-8, 9)])
    step = np.array(
        [
            [4.0 * i, 4.0 * j, 4.0 * k]
            for i in range(4, 9)
            for j in range(-8, 9)
            for k in range(1, 4)
        ]
    )
    domain = np.array(
        [
            [4.0 * i, 4.0 * j, 4.5 + 4.0 * k]
            for i in range(-3, 3)
            for j in range(-3, 4)
            for k in range(6)
        ]
    )
    return np.concatenate([square, step, domain]), np.arange(
        len(square) + len(step) + len(domain)
    ) >= len(square) + len(step)


def closest_approach(positions, domain, hinge, angle):
    path = hinge_path(
        positions, domain, axis=hinge.axis, pivot=hinge.pivot, angles_deg=np.linspace(0, angle, 13)
    )
    return min(cdist(state[domain], state[~domain]).min() for state in path)


def test_a_clear_hinge_keeps_the_domain_out_of_the_rest(wedged):
    positions, domain = wedged
    assert closest_approach(positions, domain, propose_hinge(positions, domain), 25.0) < 2.0
    hinge = clear_hinge(positions, domain, 25.0)
    assert closest_approach(positions, domain, hinge, 25.0) > 3.9
    arm = positions[domain].mean(axis=0) - propose_hinge(positions, domain).pivot
    assert np.linalg.norm(hinge.axis) == pytest.approx(1)
    assert hinge.axis @ arm == pytest.approx(0, abs=1e-9)


def test_where_nothing_is_in_the_way_the_clear_hinge_is_the_proposed_one(bent):
    positions, domain = bent
    apart = positions + 3.0 * domain[:, None] * [0, 1, 0]
    proposed, clear = propose_hinge(apart, domain), clear_hinge(apart, domain, 2.0)
    np.testing.assert_allclose(clear.axis, proposed.axis)
    np.testing.assert_allclose(clear.pivot, proposed.pivot)


# Linkers


def test_linkers_are_a_ramp_across_each_border(make_nodes, helix):
    nodes = make_nodes(helix(20))
    part = linkers(nodes, nodes.residue_numbers > 10, 5)
    np.testing.assert_allclose(part, [0] * 8 + [0.2, 0.4, 0.6, 0.8] + [1] * 8, atol=1e-12)
    np.testing.assert_array_equal(
        linkers(nodes, nodes.residue_numbers > 10, 1), nodes.residue_numbers > 10
    )


def test_no_linker_leads_across_a_gap_or_to_another_chain(make_nodes, helix):
    positions = helix(20)
    gap = make_nodes(positions + 20.0 * (np.arange(20) >= 10)[:, None])
    other_chain = make_nodes(positions, chains=["A"] * 10 + ["B"] * 10)
    for nodes in (gap, other_chain):
        np.testing.assert_array_equal(
            linkers(nodes, nodes.residue_numbers > 10, 5), nodes.residue_numbers > 10
        )


def test_linkers_keep_the_bonds_of_adenylate_kinase_and_the_core_rigid():
    atoms, nodes = (
        read_structure(ROOT / "data" / "4ake.pdb"),
        read_nodes(ROOT / "data" / "4ake.pdb"),
    )
    lid = (nodes.residue_numbers >= 122) & (nodes.residue_numbers <= 159)
    hinge, pairs = propose_hinge(nodes.positions, lid), bonds(nodes)
    sideways = np.cross(nodes.positions[lid].mean(axis=0) - hinge.pivot, hinge.axis)

    def stretch(part):
        angles = np.linspace(-30, 30, 7)
        path = hinge_path(
            nodes.positions, part, axis=sideways, pivot=hinge.pivot, angles_deg=angles
        )
        first, second = path[:, pairs[:, 0]], path[:, pairs[:, 1]]
        lengths = np.linalg.norm(first - second, axis=-1)
        return np.abs(lengths - lengths[3]).max(), path  # 3: an angle of 0

    (broken, _), (kept, path) = stretch(lid), stretch(linkers(nodes, lid, 7))
    assert kept < 0.5 < 1 < broken
    core = (nodes.residue_numbers >= 126) & (nodes.residue_numbers <= 155)
    for state in path:
        np.testing.assert_allclose(pdist(state[core]), pdist(nodes.positions[core]), atol=1e-9)
    every_atom = linkers(atoms, (atoms.residue_numbers >= 122) & (atoms.residue_numbers <= 159), 7)
    np.testing.assert_array_equal(every_atom[atoms.atom_names == "CA"], linkers(nodes, lid, 7))


def test_impossible_linkers_are_refused(make_nodes, helix):
    nodes = make_nodes(helix(20))
    with refused(value=4):
        linkers(nodes, nodes.residue_numbers > 10, 4)
    nodes.residue_numbers[1] = 1
    with refused() as caught:
        linkers(nodes, np.arange(20) == 0, 3)
    assert "chain A GLY 1" in caught.value.problem


# The complex that ships


def test_the_complex_is_whole_and_about_the_origin():
    nodes, atoms = (
        read_nodes(ROOT / "data" / "7pbl.pdb.gz"),
        read_structure(ROOT / "data" / "7pbl.pdb.gz"),
    )
    assert [int((nodes.atom_names == name).sum()) for name in ("CA", "P")] == [1918, 30]
    assert list(dict.fromkeys(nodes.chains.tolist())) == list("ABCDEFGUV")
    np.testing.assert_allclose(atoms.positions.mean(axis=0), 0, atol=1e-3)


@pytest.mark.slow
def test_the_complex_is_simulated_in_two_populations_by_its_script(tmp_path):
    command = [
        sys.executable,
        ROOT / "book" / "make_complex.py",
        "--out",
        tmp_path,
        "--n-particles",
        "40",
        "--box-size",
        "48",
    ]
    done = subprocess.run(
        [*command, "--pixel-size", "4"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "chains C: 309 residues turn by 25°" in done.stdout
    truth, nodes = np.load(tmp_path / "truth.npz"), read_nodes(ROOT / "data" / "7pbl.pdb.gz")
    assert len(read_particles(tmp_path / "particles.star")) == 40
    moved = np.linalg.norm(truth["positions"][-1] - truth["positions"][0], axis=-1)
    assert moved[nodes.chains == "C"].mean() > 8
    assert moved[nodes.chains != "C"].max() < 1e-3
    beside = [
        cKDTree(state[nodes.chains != "C"]).query(state[nodes.chains == "C"])[0].min()
        for state in truth["positions"]
    ]
    assert min(beside) > beside[0] - 1e-3  # nowhere nearer to the rest than where it starts
