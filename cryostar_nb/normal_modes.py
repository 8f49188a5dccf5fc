"""Normal modes of an elastic network: the softest ways for a structure to move (the NMA baseline of section 3.1).

The anisotropic network model (Atilgan et al., Biophys. J. 2001) joins nodes nearer than a cutoff by equal springs at rest.
Its Hessian's eigenvectors of the smallest eigenvalues, but for the six rigid-body motions, are the normal modes.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float
from scipy.spatial import cKDTree

from cryostar_nb.errors import InputError

ZERO = 1e-6  # eigenvalues below this, in units of the spring constant, belong to motions that stretch no spring
DENSE_BELOW = 600  # coordinates: smaller Hessians are solved whole, faster than by iteration
SURPLUS = 8  # vectors in the block beyond those wanted: the last few of a block converge last


@dataclass(frozen=True)
class NormalModes:
    """The softest modes, softest first."""

    eigenvalues: Float[np.ndarray, " mode"]  # in units of the spring constant
    vectors: Float[np.ndarray, "mode atom 3"]  # orthonormal over all coordinates


def network_hessian(
    positions: Float[np.ndarray, "atom 3"], cutoff: float = 12.0
) -> scipy.sparse.csc_matrix:
    """Hessian, (3 atoms, 3 atoms) and sparse, of springs of unit strength between all nodes up to `cutoff` Å apart.

    For i != j the 3 x 3 block is -(d d^T) / |d|^2 with d = x_i - x_j, and each diagonal block is minus the sum of the
    others in its row. Raises InputError for two nodes at one place: their spring has no direction.
    """
    count = len(positions)
    pairs = cKDTree(positions).query_pairs(cutoff, output_type="ndarray")
    apart = positions[pairs[:, 0]] - positions[pairs[:, 1]]
    squared = np.square(apart).sum(-1)
    if not squared.all():
        first, second = pairs[squared.argmin()]
        raise InputError(
            f"nodes {first} and {second}, counted from 0, are at the same place; remove one of them"
        )
    blocks = -apart[:, :, None] * apart[:, None, :] / squared[:, None, None]
    own = np.zeros((count, 3, 3))
    for end in range(2):
        np.subtract.at(own, pairs[:, end], blocks)
    rows = np.concatenate([pairs[:, 0], pairs[:, 1], np.arange(count)])
    columns = np.concatenate([pairs[:, 1], pairs[:, 0], np.arange(count)])
    order = np.lexsort((columns, rows))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))])
    values = np.concatenate([blocks, blocks, own])[order]  # a block is its own transpose
    return scipy.sparse.bsr_matrix(
        (values, columns[order], starts), shape=(3 * count, 3 * count)
    ).tocsc()


def rigid_body_modes(
    positions: Float[np.ndarray, "atom 3"], hessian: scipy.sparse.csc_matrix
) -> Float[np.ndarray, "coordinate mode"]:
    """An orthonormal basis, as columns, of the motions of a structure as a rigid body: six, or six for each of its parts.

    Parts that no spring joins to each other move freely (a residue with no neighbour within the cutoff is one: it has three).
    """
    joined = (
        hessian[::3, ::3].astype(bool)
        + hessian[1::3, 1::3].astype(bool)
        + hessian[2::3, 2::3].astype(bool)
    )
    parts, part_of = scipy.sparse.csgraph.connected_components(joined, directed=False)
    columns = []
    for part in range(parts):
        mine = (part_of == part)[:, None]
        centred = np.where(mine, positions - positions[mine[:, 0]].mean(axis=0), 0)
        moves = [mine * axis for axis in np.eye(3)] + [
            np.cross(axis, centred) for axis in np.eye(3)
        ]
        basis, scale, _ = np.linalg.svd(
            np.stack([move.reshape(-1) for move in moves], axis=-1), full_matrices=False
        )
        columns.append(basis[:, scale > 1e-6 * scale[0]])
    return np.concatenate(columns, axis=-1)


def normal_modes(
    positions: Float[np.ndarray, "atom 3"], count: int = 16, cutoff: float = 12.0
) -> NormalModes:
    """The `count` softest modes of a structure's network, without the motions that stretch no spring.

    A sparse factorisation of the Hessian, a little above zero, serves as the preconditioner of a block eigensolver (LOBPCG,
    Knyazev 2001) that keeps orthogonal to the rigid-body motions. Raises InputError for a structure with fewer modes.
    """
    hessian = network_hessian(positions, cutoff)
    size, rigid = hessian.shape[0], rigid_body_modes(positions, hessian)
    block = size if size < DENSE_BELOW else count + _stretchless(hessian) - rigid.shape[1] + SURPLUS
    if 5 * block > size - rigid.shape[1]:  # LOBPCG's own limit
        values, vectors = np.linalg.eigh(hessian.toarray())
    else:
        factors = _factorise(hessian, 1e-3)
        inverse = scipy.sparse.linalg.LinearOperator(
            hessian.shape, matvec=factors.solve, matmat=factors.solve
        )
        start = np.random.default_rng(0).standard_normal((size, block))
        with (
            warnings.catch_warnings()
        ):  # it warns where it ends within a hair of its tolerance; the check below is ours
            warnings.simplefilter("ignore")
            values, vectors = scipy.sparse.linalg.lobpcg(
                hessian, start, M=inverse, Y=rigid, tol=1e-9, maxiter=100, largest=False
            )
    order = [place for place in np.argsort(values) if values[place] > ZERO][:count]
    if len(order) < count:
        raise InputError(
            f"count = {count}: the network has only {len(order)} modes that stretch a spring; give a smaller count or a larger cutoff"
        )
    values, vectors = values[order], vectors[:, order]
    error = (np.linalg.norm(hessian @ vectors - vectors * values, axis=0) / values).max()
    if (
        error > 1e-4
    ):  # an eigenvalue is better than that by as much again: its error is quadratic in the residual
        raise RuntimeError(
            f"the normal modes have not converged: their largest residual is {error:.1e} of the eigenvalue"
        )
    return NormalModes(values, vectors.T.reshape(count, -1, 3))


def _stretchless(hessian: scipy.sparse.csc_matrix) -> int:
    """Number of eigenvalues below ZERO, loose ends' included: the negative pivots of H - ZERO (Sylvester's law of inertia)."""
    return int((_factorise(hessian, -ZERO).U.diagonal() < 0).sum())


def _factorise(hessian: scipy.sparse.csc_matrix, shift: float) -> scipy.sparse.linalg.SuperLU:
    """LU factors of the shifted Hessian, without pivoting, which a symmetric matrix hardly needs."""
    shifted = (hessian + shift * scipy.sparse.identity(hessian.shape[0], format="csc")).tocsc()
    return scipy.sparse.linalg.splu(
        shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
