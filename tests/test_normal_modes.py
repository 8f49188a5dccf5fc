"""Normal modes by the laws of an elastic network, and against ProDy where it is installed."""

import importlib
import warnings
from pathlib import Path

import numpy as np
import pytest

from cryostar_nb.errors import InputError
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.structures import read_nodes
from cryostar_nb.normal_modes import LEAST_EIGENVALUE, network_hessian, normal_modes

module = importlib.import_module("cryostar_nb.normal_modes")
ADK = Path(__file__).parent.parent / "data" / "1ake.pdb"


@pytest.fixture(scope="module")
def adk():
    return read_nodes(ADK).positions


@pytest.fixture
def cloud(rng):
    """Thirty nodes in a ball, all of them well tied."""
    return rng.standard_normal((30, 3)) * 5


@pytest.fixture(params=["dense", "sparse"])
def solver(request, monkeypatch):
    """Have every structure solved whole, or by iteration where its block allows."""
    monkeypatch.setattr(module, "DENSE_BELOW", 10**9 if request.param == "dense" else 0)
    return request.param


def columns(modes):
    """Vectors (mode, atom, 3) as the columns of a matrix."""
    return modes.reshape(len(modes), -1).T


def least_overlap(first, second):
    """Cosine of the largest angle between the spaces that two sets of orthonormal columns span."""
    return np.linalg.svd(first.T @ second, compute_uv=False).min()


def rigid_motions(positions):
    """Orthonormal columns that span the translations and the rotations of a structure."""
    moves = [np.tile(axis, (len(positions), 1)) for axis in np.eye(3)]
    moves += [np.cross(axis, positions) for axis in np.eye(3)]
    return np.linalg.qr(columns(np.array(moves)))[0]


def elastic_energy(positions, reference, cutoff):
    """Energy of unit springs at rest in the reference: half their squared changes of length."""
    lengths, rest = (np.linalg.norm(x[:, None] - x, axis=-1) for x in (positions, reference))
    first, second = np.triu_indices(len(reference), 1)
    near = rest[first, second] <= cutoff
    return 0.5 * np.square((lengths - rest)[first[near], second[near]]).sum()


# The Hessian


def test_the_hessian_is_the_second_derivative_of_the_elastic_energy(cloud):
    reference, step = cloud[:8], 1e-3
    moves = step * np.eye(24).reshape(24, 8, 3)

    def energy(move):
        return elastic_energy(reference + move, reference, 12.0)

    expected = [
        [energy(a + b) - energy(a - b) - energy(b - a) + energy(-a - b) for a in moves]
        for b in moves
    ]
    np.testing.assert_allclose(
        network_hessian(reference).toarray(), np.array(expected) / (4 * step**2), atol=1e-5
    )


def test_the_hessian_is_symmetric_and_its_rows_of_blocks_sum_to_zero(adk):
    hessian = network_hessian(adk)
    assert abs(hessian - hessian.T).max() == 0
    np.testing.assert_allclose(hessian @ np.tile(np.eye(3), (len(adk), 1)), 0, atol=1e-12)


def test_a_spring_reaches_as_far_as_the_cutoff_and_no_farther():
    line = np.array([[0.0, 0, 0], [10, 0, 0], [22, 0, 0]])
    blocks = network_hessian(line, 12.0).toarray().reshape(3, 3, 3, 3)[:, 0, :, 0]
    np.testing.assert_array_equal(blocks, [[1, -1, 0], [-1, 2, -1], [0, -1, 1]])
    assert network_hessian(line, 11.999).toarray()[3, 6] == 0


def test_nodes_at_one_place_are_refused(cloud):
    cloud[7] = cloud[3]
    with pytest.raises(InputError) as caught:
        normal_modes(cloud)
    assert caught.value.value == "3 and 7" and caught.value.remedy


# Motions that stretch no spring


def test_translations_and_rotations_cost_nothing(adk):
    hessian = network_hessian(adk)
    for axis in np.eye(3):  # about an axis that is not through the centre
        for move in (np.tile(axis, (len(adk), 1)), np.cross(axis, adk + 50)):
            np.testing.assert_allclose(hessian @ move.reshape(-1), 0, atol=1e-9)


def test_every_part_moves_freely(cloud):
    pair = [[0, -300.0, 0], [0, -303.0, 1.0]]
    parts = np.concatenate([cloud, cloud + np.array([200, 0, 0]), [[0, 300.0, 0]], pair])
    values = np.linalg.eigvalsh(network_hessian(parts, 30.0).toarray())
    # A node alone does not turn, nor does a pair about its own line.
    assert (values < LEAST_EIGENVALUE).sum() == 6 + 6 + 3 + 5
    softest = normal_modes(parts, 4, 30.0)
    np.testing.assert_allclose(softest.eigenvalues, values[20:24], rtol=1e-8)


def test_the_modes_of_two_parts_are_those_of_each(adk, solver):
    apart = random_rotations(1, np.random.default_rng(1))[0] @ [300, 0, 0]
    alone = normal_modes(adk, 4)
    both = normal_modes(np.concatenate([adk, adk + apart, [[0, 500.0, 0]]]), 8)
    np.testing.assert_allclose(both.eigenvalues, np.repeat(alone.eigenvalues, 2), rtol=1e-8)
    np.testing.assert_allclose(both.vectors[:, -1], 0, atol=1e-8)
    shared = columns(both.vectors[:, :214]) * 2**0.5
    assert least_overlap(shared, columns(alone.vectors)) > 1 - 1e-6


def test_a_loose_end_is_not_a_mode(adk, solver):
    # The last node swings on one spring, or on two.
    ended = np.concatenate([adk, adk[adk[:, 0].argmax()] + [[11.9, 0, 0]]])
    springs = (np.linalg.norm(ended[-1] - adk, axis=-1) <= 12).sum()
    modes = normal_modes(ended)
    assert springs < 3
    assert modes.eigenvalues[0] > 1e-3
    assert_right(modes, ended)


# The modes


def assert_right(modes, positions, cutoff=12.0):
    hessian, vectors = network_hessian(positions, cutoff), columns(modes.vectors)
    assert (np.diff(modes.eigenvalues) >= -1e-12).all()
    assert modes.eigenvalues[0] > LEAST_EIGENVALUE
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(modes.eigenvalues)), atol=1e-9)
    np.testing.assert_allclose(rigid_motions(positions).T @ vectors, 0, atol=1e-9)
    np.testing.assert_allclose(hessian @ vectors, vectors * modes.eigenvalues, atol=1e-7)


def test_modes_are_orthonormal_sorted_eigenvectors_without_rigid_motions(adk, solver):
    modes = normal_modes(adk)
    assert modes.vectors.shape == (16, 214, 3)
    assert_right(modes, adk)


def test_the_iteration_finds_what_the_whole_solution_finds(adk, monkeypatch):
    monkeypatch.setattr(module, "DENSE_BELOW", 0)
    iterated = normal_modes(adk)
    monkeypatch.setattr(module, "DENSE_BELOW", 10**9)
    whole = normal_modes(adk)
    np.testing.assert_allclose(iterated.eigenvalues, whole.eigenvalues, rtol=1e-9)
    assert least_overlap(columns(iterated.vectors), columns(whole.vectors)) > 1 - 1e-9
    assert not np.array_equal(iterated.vectors, whole.vectors)


def test_both_modes_of_an_equal_pair_are_found(solver):
    turn = 2 * np.pi * np.arange(90) / 90  # a tube of ninety-fold symmetry: modes come in pairs
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    levels = [(radius, np.full((90, 1), z)) for radius in (70, 75) for z in (0.0, 5.0)]
    ring = np.concatenate([np.hstack([radius * circle, z]) for radius, z in levels])
    modes = normal_modes(ring, 12)
    assert_right(modes, ring)
    expected = np.linalg.eigvalsh(network_hessian(ring).toarray())[6:18]
    np.testing.assert_allclose(modes.eigenvalues, expected, rtol=1e-6)
    assert modes.eigenvalues[1] == pytest.approx(modes.eigenvalues[0], rel=1e-6)
    assert modes.eigenvalues[3] == pytest.approx(modes.eigenvalues[2], rel=1e-6)
    assert modes.eigenvalues[4] > 1.01 * modes.eigenvalues[0]


def test_a_turned_and_moved_structure_has_turned_modes(adk, rng, solver):
    rotation = random_rotations(1, rng)[0]
    modes, turned = normal_modes(adk, 5), normal_modes(adk @ rotation.T + [30.0, -20.0, 10.0], 5)
    np.testing.assert_allclose(turned.eigenvalues, modes.eigenvalues, rtol=1e-9)
    assert least_overlap(columns(turned.vectors), columns(modes.vectors @ rotation.T)) > 1 - 1e-9


def test_the_same_structure_gives_the_same_modes(adk, solver):
    first, again = normal_modes(adk), normal_modes(adk)
    np.testing.assert_array_equal(first.vectors, again.vectors)


def test_every_mode_points_along_a_fixed_direction(adk, solver):
    vectors = columns(normal_modes(adk).vectors)
    direction = np.random.default_rng(module.SIGN_SEED).standard_normal(len(vectors))
    assert (direction @ vectors > 0).all()


def test_every_mode_of_a_structure_can_be_had(cloud, adk):
    assert_right(normal_modes(cloud, 84, 30.0), cloud, 30.0)
    assert_right(normal_modes(adk, 300), adk)  # more than the iteration can find


@pytest.mark.parametrize(("count", "nodes"), [(85, 30), (637, 214)])
def test_more_modes_than_there_are_are_refused(count, nodes, cloud, adk):
    with pytest.raises(InputError, match=f"only {3 * nodes - 6} modes") as caught:
        normal_modes(cloud if nodes == 30 else adk, count, 30.0)
    assert caught.value.value == count and "larger cutoff" in caught.value.remedy


def test_nodes_out_of_each_others_reach_have_no_modes(cloud):
    with pytest.raises(InputError, match="only 0 modes"):
        normal_modes(100 * cloud, 1)


def give_up(hessian, count, *, v0, **options):
    """An iteration that stops where it starts."""
    vectors = np.linalg.qr(np.stack([np.roll(v0, shift) for shift in range(count)], axis=-1))[0]
    return np.einsum("ij,ij->j", vectors, hessian @ vectors), vectors


def overlook(hessian, count, **options):
    """An iteration that overlooks the softest mode."""
    values, vectors = np.linalg.eigh(hessian.toarray())
    return values[7 : 7 + count], vectors[:, 7 : 7 + count]


@pytest.mark.parametrize("eigsh", [give_up, overlook])
def test_modes_that_are_not_the_softest_are_not_returned(eigsh, adk, monkeypatch):
    monkeypatch.setattr("scipy.sparse.linalg.eigsh", eigsh)
    with pytest.raises(RuntimeError, match="have not converged"):
        normal_modes(adk)


# ProDy, where it is installed (.ci/run tries to)


@pytest.fixture(scope="module")
def prody():
    with warnings.catch_warnings():  # its own, of the names that it uses
        warnings.simplefilter("ignore")
        package = pytest.importorskip(
            "prody",
            reason="ProDy is not installed: pip install --no-deps prody biopython",
            exc_type=ImportError,
        )
    package.confProDy(verbosity="none")
    return package


def assert_prody_agrees(prody, positions):
    anm = prody.ANM()
    anm.buildHessian(positions, cutoff=12.0)
    np.testing.assert_allclose(network_hessian(positions).toarray(), anm.getHessian(), atol=1e-12)
    anm.calcModes(n_modes=40)  # some belong to loose ends, and it leaves them out
    modes = normal_modes(positions)
    np.testing.assert_allclose(modes.eigenvalues, anm.getEigvals()[:16], rtol=1e-6)
    assert least_overlap(columns(modes.vectors), anm.getEigvecs()[:, :16]) > 1 - 1e-6


def test_prody_finds_the_same_modes_of_adenylate_kinase(prody, adk, solver):
    assert_prody_agrees(prody, adk)


@pytest.mark.slow
def test_prody_finds_the_same_modes_of_a_complex(prody, external_data):
    nodes = read_nodes(external_data / "complex" / "pdb7pbl.pdb.gz")
    three = np.isin(nodes.chains, ["A", "B", "C"])  # ProDy takes a minute for all nine
    assert_prody_agrees(prody, nodes.positions[three])
