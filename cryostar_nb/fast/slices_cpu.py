"""The loop of a back-projection: slices are added to volumes in Fourier space, by Numba.

`grid_cpu` says how such loops are shared out; here the items are planes of the volume, so that no
two ranges write to the same place.
"""

import numpy as np

from cryostar_nb.fast.grid_cpu import compiled, inlined

_0, _1, _2, _3, _4, _5 = (np.uint64(number) for number in range(6))


@inlined
def _add(line, i, near, far, real, imaginary, power):
    """Add three numbers to two neighbouring points of a line of the grid, from its number i on."""
    line[i + _0] += near * real
    line[i + _1] += near * imaginary
    line[i + _2] += near * power
    line[i + _3] += far * real
    line[i + _4] += far * imaginary
    line[i + _5] += far * power


@compiled
def insert(vectors, transfers, weights, axes, indices, grid, first, last):
    """Add the coefficients of images, times their transfer, to the volumes, trilinearly.

    vectors (batch, 2 coefficient): real, then imaginary parts; transfers (batch, coefficient);
    weights (batch, volume): how much an image counts in each; axes (batch, 2, 3): grid points that
    a step of kx and of ky leads to along x, y and z; indices (coefficient, 2): kx and ky. In the
    grid (volume, z, y, 3 x), of the half x >= 0, with the origin in the middle of z and y, real
    and imaginary parts of transfer * coefficient are added, and the transfer squared. What a
    coefficient at x < 0 shows is the conjugate of that at the opposite place. One that is beyond
    the grid is left out.
    """
    middle, count = np.float32(grid.shape[1] // 2), indices.shape[0]
    columns, rows = grid.shape[3] // 3 - 1, grid.shape[2] - 1
    one = np.float32(1)
    for image in range(vectors.shape[0]):
        xx, xy, xz = axes[image, 0, 0], axes[image, 0, 1], axes[image, 0, 2]
        yx, yy, yz = axes[image, 1, 0], axes[image, 1, 1], axes[image, 1, 2]
        for volume in range(weights.shape[1]):
            weight = weights[image, volume]
            if weight == 0:
                continue
            for coefficient in range(count):
                kx, ky = indices[coefficient, 0], indices[coefficient, 1]
                x = kx * xx + ky * yx
                sign = one if x >= 0 else -one
                z = (kx * xz + ky * yz) * sign + middle
                plane = np.int64(z)
                if plane + 1 < first or plane >= last or z < 0:
                    continue
                x, y = x * sign, (kx * xy + ky * yy) * sign + middle
                column, row = np.int64(x), np.int64(y)
                if column >= columns or row < 0 or row >= rows or y < 0:
                    continue
                x, y, z = x - np.float32(column), y - np.float32(row), z - np.float32(plane)
                scaled = weight * transfers[image, coefficient]
                real = scaled * vectors[image, coefficient]
                imaginary = scaled * vectors[image, count + coefficient] * sign
                power = scaled * transfers[image, coefficient]
                i, near = np.uint64(3 * column), one - x
                j = np.uint64(row)
                if plane >= first:
                    k, a, b = np.uint64(plane), (one - z) * (one - y), (one - z) * y
                    _add(grid[volume, k, j], i, a * near, a * x, real, imaginary, power)
                    _add(grid[volume, k, j + _1], i, b * near, b * x, real, imaginary, power)
                if plane + 1 < last:
                    k, a, b = np.uint64(plane + 1), z * (one - y), z * y
                    _add(grid[volume, k, j], i, a * near, a * x, real, imaginary, power)
                    _add(grid[volume, k, j + _1], i, b * near, b * x, real, imaginary, power)
