"""Normal modes of an elastic network: the softest ways for a structure to move (section 3.1, NMA).

The anisotropic network model (Atilgan et al., Biophys. J. 2001) joins nodes nearer than a cutoff by
equal springs at rest. The eigenvectors of its Hessian with the smallest eigenvalues, but for the
rigid-body motions, are the normal modes.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float
from scipy.spatial import cKDTree

from cryostar_nb.errors import InputError

# In units of the spring constant: motions of smaller eigenvalues stretch no spring.
LEAST_EIGENVALUE = 1e-6
SIGN_SEED = 47_815  # gives adenylate kinase's modes the signs of the book's recorded runs
LARGEST_RESIDUAL = 1e-4  # of the eigenvalue, whose own error is quadratic in it
DENSE_BELOW = 600  # coordinates: the whole spectrum of a smaller Hessian is faster than iteration
LANCZOS_VECTORS = 4  # for each mode


@dataclass(frozen=True)
class NormalModes:
    """The softest modes, softest first, with the signs of `normal_modes`."""

    eigenvalues: Float[np.ndarray, " mode"]  # in units of the spring constant
    vectors: Float[np.ndarray, "mode atom 3"]  # orthonormal over all coordinates


def network_hessian(
    positions: Float[np.ndarray, "atom 3"], cutoff: float = 12.0
) -> scipy.sparse.csc_matrix:
    """Sparse Hessian, (3 atoms, 3 atoms), of unit springs between all nodes up to `cutoff` Å apart.

    For i != j the 3 x 3 block is -(d d^T) / |d|^2 with d = x_i - x_j, and each diagonal block is
    minus the sum of the others in its row. Raises InputError for two nodes at one place: their
    spring has no direction.
    """
    count = len(positions)
    pairs = cKDTree(positions).query_pairs(cutoff, output_type="ndarray")
    apart = positions[pairs[:, 0]] - positions[pairs[:, 1]]
    squared = np.square(apart).sum(-1)
    if not squared.all():
        raise InputError(
            "nodes {value}, counted from 0, are at the same place",
            value="{} and {}".format(*pairs[squared.argmin()]),
            remedy="remove one of them",
        )
    blocks = -apart[:, :, None] * apart[:, None, :] / squared[:, None, None]
    diagonal = np.zeros((count, 3, 3))
    for end in range(2):
        np.subtract.at(diagonal, pairs[:, end], blocks)
    rows = np.concatenate([pairs[:, 0], pairs[:, 1], np.arange(count)])
    columns = np.concatenate([pairs[:, 1], pairs[:, 0], np.arange(count)])
    order = np.lexsort((columns, rows))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))])
    values = np.concatenate([blocks, blocks, diagonal])[order]  # a block is its own transpose
    return scipy.sparse.bsr_matrix((values, columns[order], starts)).tocsc()


def normal_modes(
    positions: Float[np.ndarray, "atom 3"], count: int = 16, cutoff: float = 12.0
) -> NormalModes:
    """The `count` softest modes of a structure's network that stretch a spring.

    The sign of an eigenvector is arbitrary: here it is that of its overlap with a fixed random
    direction, so that a trained network meets the same modes again. Raises InputError for a
    structure with fewer modes.
    """
    hessian = network_hessian(positions, cutoff)
    values, vectors, stretchless = _softest(hessian, count)
    residual = (np.linalg.norm(hessian @ vectors - vectors * values, axis=0) / values).max()
    softer = _count_below(hessian, values[-1] * (1 - 1e-6)) - stretchless
    if not residual < LARGEST_RESIDUAL or softer >= count:
        raise RuntimeError(
            f"the normal modes have not converged: their largest residual is {residual:.1e} of the "
            f"eigenvalue, and {softer} modes are softer than mode {count}"
        )
    direction = np.random.default_rng(SIGN_SEED).standard_normal(len(vectors))
    signs = np.copysign(1, direction @ vectors)
    return NormalModes(values, (vectors * signs).T.reshape(count, -1, 3))


def _softest(
    hessian: scipy.sparse.csc_matrix, count: int
) -> tuple[Float[np.ndarray, " mode"], Float[np.ndarray, "coordinate mode"], int]:
    """Eigenvalues and vectors of the softest modes, and the number of motions without a spring.

    Lanczos iteration on (H - shift)^-1, with a shift below the softest mode by less than a factor
    of ten: there the softest modes have the largest eigenvalues, and motions that stretch no
    spring, of rigid bodies and of loose ends, have negative ones.
    """
    size, shift = hessian.shape[0], LEAST_EIGENVALUE
    stretchless = _count_below(hessian, shift)
    if size - stretchless < count:
        raise InputError(
            f"count = {{value}}: the network has only {size - stretchless} modes",
            value=count,
            remedy="give a smaller count or a larger cutoff",
        )
    if size < max(DENSE_BELOW, LANCZOS_VECTORS * count):
        values, vectors = np.linalg.eigh(hessian.toarray())
        modes = slice(stretchless, stretchless + count)
        return values[modes], vectors[:, modes], stretchless
    while _count_below(hessian, 10 * shift) == stretchless:
        shift *= 10
    solve = _factorise(hessian, shift).solve
    inverse = scipy.sparse.linalg.LinearOperator(hessian.shape, matvec=solve)
    start, ncv = np.random.default_rng(0).standard_normal(size), LANCZOS_VECTORS * count
    values, vectors = scipy.sparse.linalg.eigsh(
        hessian, count, sigma=shift, which="LA", OPinv=inverse, v0=start, ncv=ncv, tol=1e-10
    )
    order = np.argsort(values)
    return values[order], vectors[:, order], stretchless


def _count_below(hessian: scipy.sparse.csc_matrix, value: float) -> int:
    """Number of eigenvalues below a value: the negative pivots (Sylvester's law of inertia)."""
    return int((_factorise(hessian, value).U.diagonal() < 0).sum())


def _factorise(hessian: scipy.sparse.csc_matrix, shift: float) -> scipy.sparse.linalg.SuperLU:
    """LU factors of H - shift; without pivoting, which a symmetric matrix hardly needs."""
    shifted = (hessian - shift * scipy.sparse.identity(hessian.shape[0], format="csc")).tocsc()
    return scipy.sparse.linalg.splu(
        shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
