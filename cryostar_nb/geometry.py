"""Rotations, superposition and distances between structures.

Rotation matrices left-multiply xyz column vectors: `x_view = R @ x_ref`.
"""

import warnings

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor


def rotations_from_relion_angles(
    rot_deg: ArrayLike, tilt_deg: ArrayLike, psi_deg: ArrayLike
) -> Float[np.ndarray, "*particle 3 3"]:
    """Pose matrices from RELION's Euler angles, in degrees.

    The angles are `rlnAngleRot`, `rlnAngleTilt` and `rlnAnglePsi`; the matrices are those of
    RELION's `Euler_angles2matrix`: transposes of the intrinsic ZYZ rotations.
    """
    angles = np.stack(np.broadcast_arrays(rot_deg, tilt_deg, psi_deg), axis=-1).astype(np.float64)
    return np.swapaxes(Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix(), -1, -2)


def relion_angles_from_rotations(rotations: ArrayLike) -> Float[np.ndarray, "*particle 3"]:
    """RELION's (rot, tilt, psi) in degrees, the inverse of `rotations_from_relion_angles`."""
    transposed = np.swapaxes(np.asarray(rotations, dtype=np.float64), -1, -2)
    with warnings.catch_warnings():
        # At tilt 0 and 180 only rot + psi counts, and scipy says that it sets one of them to 0.
        warnings.filterwarnings("ignore", message="Gimbal lock")
        return np.asarray(Rotation.from_matrix(transposed).as_euler("ZYZ", degrees=True))


def rotations_from_vectors(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation about each vector by its length in radians, counter-clockwise seen from its tip.

    Rodrigues: R = I + sin(a)/a K + (1 - cos(a))/a^2 K^2, where a = |v| and K x is the cross product
    of v with x. Differentiable, also at 0.
    """
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    squared = vectors.square().sum(-1)[..., None, None]
    small = squared < 1e-6  # there, by series: a root has no derivative at 0
    angle = torch.where(small, 1.0, squared).sqrt()
    first = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    second = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / angle.square())
    identity = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return identity + first * cross + second * (cross @ cross)


def rotations_from_columns(columns: Float[Tensor, "*batch 2 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotations whose first two columns are these vectors, made orthonormal, one after the other.

    Unlike three numbers, six have no angle at which they jump (Zhou et al., CVPR 2019). The vectors
    must not be parallel.
    """
    first = torch.nn.functional.normalize(columns[..., 0, :], dim=-1)
    second = columns[..., 1, :]
    second = second - (first * second).sum(-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


def random_rotations(count: int, rng: np.random.Generator) -> Float[np.ndarray, "count 3 3"]:
    """Rotation matrices drawn uniformly from SO(3), by Gaussian quaternions (Marsaglia 1972)."""
    return np.asarray(Rotation.from_quat(rng.standard_normal((count, 4))).as_matrix())


def kabsch(
    mobile: Float[np.ndarray, "atom 3"], target: Float[np.ndarray, "atom 3"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Rotation `R` and translation `t` of the least RMSD between `mobile @ R.T + t` and `target`.

    `R` has determinant +1, also where a reflection would fit better (Kabsch, Acta Cryst. A 1976).
    """
    mobile_centre, target_centre = mobile.mean(axis=0), target.mean(axis=0)
    u, _, vt = np.linalg.svd((target - target_centre).T @ (mobile - mobile_centre))
    handedness = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ handedness @ vt
    return rotation, target_centre - rotation @ mobile_centre


def superpose(
    mobile: Float[np.ndarray, "atom 3"], target: Float[np.ndarray, "atom 3"]
) -> Float[np.ndarray, "atom 3"]:
    """`mobile` moved onto `target` as a rigid body, with the least RMSD."""
    rotation, translation = kabsch(mobile, target)
    return mobile @ rotation.T + translation


def rmsd(
    positions: Float[Tensor, "*#batch atom 3"], target: Float[Tensor, "*#batch atom 3"]
) -> Float[Tensor, "*batch"]:
    """Root of the mean squared distance between matching atoms, in Å, *without* alignment."""
    return (positions - target).square().sum(-1).mean(-1).sqrt()


def pair_distances(
    positions: Float[Tensor, "*batch atom 3"], pairs: Tensor | NDArray[np.int64]
) -> Float[Tensor, "*batch pair"]:
    """Distance between the two atoms of each pair, in Å; `pairs` has shape (pair, 2).

    Coinciding atoms give 1e-6 Å and no gradient.
    """
    pairs = torch.as_tensor(pairs, device=positions.device)
    difference = positions.index_select(-2, pairs[:, 0]) - positions.index_select(-2, pairs[:, 1])
    squared = difference.square().sum(-1)
    # The clamp keeps the gradient of the root finite where two atoms coincide.
    return squared.clamp(min=1e-12).sqrt()
