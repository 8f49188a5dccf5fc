"""Rotations, superposition and distances."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryostar_nb.geometry import (
    kabsch,
    pair_distances,
    random_rotations,
    relion_angles_from_rotations,
    rmsd,
    rotations_from_columns,
    rotations_from_relion_angles,
    rotations_from_vectors,
    superpose,
)


def test_relion_angles_come_back_from_their_rotations(rng):
    angles = rng.uniform([-180, 1, -180], [180, 179, 180], (50, 3))
    np.testing.assert_allclose(
        relion_angles_from_rotations(rotations_from_relion_angles(*angles.T)), angles, atol=1e-9
    )


def test_rotations_come_back_from_their_relion_angles(rng):
    rotations = random_rotations(50, rng)
    np.testing.assert_allclose(
        rotations_from_relion_angles(*relion_angles_from_rotations(rotations).T),
        rotations,
        atol=1e-12,
    )


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_a_pose_that_looks_along_z_has_relion_angles_too(tilt):
    rotations = rotations_from_relion_angles([20.0, -70.0], tilt, 30.0)
    np.testing.assert_allclose(
        rotations_from_relion_angles(*relion_angles_from_rotations(rotations).T),
        rotations,
        atol=1e-12,
    )


def test_a_rotation_vector_turns_counter_clockwise_about_itself():
    quarter = rotations_from_vectors(torch.tensor([0.0, 0.0, np.pi / 2], dtype=torch.float64))
    x, y, _ = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(quarter @ x, y) and torch.allclose(quarter @ y, -x)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)]
)
@pytest.mark.parametrize("angle", [0.0, 1e-7, 0.9e-3, 1.1e-3, 0.1, 1.0, 3.0, 7.0])
def test_rotations_from_vectors_are_scipys_and_not_their_transposes(
    angle, precision, tolerance, rng
):
    axes = rng.standard_normal((4, 5, 3))
    vectors = angle * axes / np.linalg.norm(axes, axis=-1, keepdims=True)
    rotations = rotations_from_vectors(torch.as_tensor(vectors, dtype=precision))
    assert rotations.shape == (4, 5, 3, 3) and rotations.dtype == precision
    expected = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(4, 5, 3, 3)
    np.testing.assert_allclose(rotations, expected, atol=tolerance)
    np.testing.assert_allclose(
        rotations @ rotations.mT, np.broadcast_to(np.eye(3), rotations.shape), atol=tolerance
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=tolerance)
    if 1e-4 < angle:
        assert np.abs(rotations.mT.numpy() - expected).max() > 1e-3 * min(angle, 1)


def test_rotations_come_back_from_their_first_columns_stretched_and_skewed(rng):
    rotations = torch.from_numpy(random_rotations(20, rng))
    first, second = rotations[..., :2].mT.unbind(-2)
    columns = torch.stack([2 * first, 3 * second + 0.5 * first], dim=-2)
    np.testing.assert_allclose(rotations_from_columns(columns), rotations, atol=1e-12)


@pytest.mark.parametrize("length", [0.0, 1e-8, 1e-4, 2e-3, 1.0, 3.0])
def test_a_rotation_has_the_derivative_of_its_vector_at_zero_too(length, generator):
    vectors = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    vectors = (length * torch.nn.functional.normalize(vectors, dim=-1)).requires_grad_()
    assert torch.autograd.gradcheck(rotations_from_vectors, vectors)


def test_random_rotations_are_uniform(rng):
    rotations = random_rotations(40_000, rng)
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    np.testing.assert_allclose(
        rotations @ rotations.swapaxes(1, 2),
        np.broadcast_to(np.eye(3), rotations.shape),
        atol=1e-12,
    )
    # Haar measure: E[R_ij] = 0, E[R_ij R_kl] = delta_ik delta_jl / 3; a standard error is 0.003.
    np.testing.assert_allclose(rotations.mean(0), 0, atol=0.015)
    entries = rotations.reshape(-1, 9)
    np.testing.assert_allclose(entries.T @ entries / len(entries), np.eye(9) / 3, atol=0.015)
    # The angle of rotation has the density (1 - cos a) / pi, so its mean is pi/2 + 2/pi.
    assert Rotation.from_matrix(rotations).magnitude().mean() == pytest.approx(
        np.pi / 2 + 2 / np.pi, abs=0.02
    )


def test_random_rotations_are_those_of_their_seed():
    first, again = (random_rotations(5, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_kabsch_recovers_a_rigid_motion(rng):
    mobile = rng.standard_normal((30, 3))
    known, shift = random_rotations(1, rng)[0], np.array([4.0, -2.0, 7.0])
    target = np.array([known @ x + shift for x in mobile])
    rotation, translation = kabsch(mobile, target)
    np.testing.assert_allclose(rotation, known, atol=1e-12)
    np.testing.assert_allclose(translation, shift, atol=1e-12)
    np.testing.assert_allclose(superpose(mobile, target), target, atol=1e-12)


@pytest.mark.parametrize("flat", [False, True], ids=["a body", "a plane"])
def test_kabsch_never_reflects(flat, rng):
    mobile = rng.standard_normal((30, 3)) * [3, 2, 0 if flat else 1]
    rotation, _ = kabsch(mobile, mobile * [1, 1, -1] + 5)
    assert np.linalg.det(rotation) == pytest.approx(1)
    rotation, _ = kabsch(mobile, -mobile)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_kabsch_has_the_least_rmsd_of_all_rotations(rng):
    mobile, target = rng.standard_normal((2, 20, 3))
    target -= target.mean(0)
    best = np.square(superpose(mobile, target) - target).sum()
    centred = mobile - mobile.mean(0)
    for rotation in random_rotations(500, rng):
        assert np.square(centred @ rotation.T - target).sum() > best


def test_rmsd_is_the_root_of_the_mean_square_not_the_mean_distance():
    # Distances 0, 3 and 4: the root of (0 + 9 + 16) / 3, not the mean 7 / 3.
    positions = torch.zeros(3, 3)
    target = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, -4.0]])
    assert float(rmsd(positions, target)) == pytest.approx((25 / 3) ** 0.5)


def test_rmsd_does_not_align_and_keeps_the_batch(generator):
    positions = torch.randn(4, 2, 10, 3, generator=generator)
    moved = positions + torch.tensor([0.0, 3.0, 4.0])
    assert torch.allclose(rmsd(moved, positions), torch.full((4, 2), 5.0))


def test_pair_distances_are_those_between_the_atoms_of_each_pair(generator):
    positions = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    pairs = np.array([[0, 3], [4, 1]])
    expected = torch.stack(
        [(positions[:, i] - positions[:, j]).norm(dim=-1) for i, j in pairs], dim=-1
    )
    assert torch.allclose(pair_distances(positions, pairs), expected)
    assert torch.allclose(pair_distances(positions, torch.from_numpy(pairs)), expected)


def test_atoms_that_coincide_have_no_distance_and_a_finite_gradient():
    positions = torch.zeros(2, 3, requires_grad=True)
    distance = pair_distances(positions, np.array([[0, 1]]))
    distance.sum().backward()
    assert distance.item() == pytest.approx(0, abs=1e-5)
    assert torch.equal(positions.grad, torch.zeros(2, 3))
