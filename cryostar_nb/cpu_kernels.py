"""Loops for which PyTorch has no fast operation, compiled for the CPU by Numba: they need no C compiler, only the first call waits.

Arrays are NumPy's, C-contiguous, of one floating type. A kernel works on images `first` up to `last` of the batch (or on
that range of edges), so that `in_parallel` can share it out; no two ranges write to the same place, so the result does not
depend on the number of threads.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch

WINDOW = 6  # grid points, along an axis, that a node is spread onto
DEGREE = 7  # of the polynomials that give the window's values there

_compiled: Callable[[Callable[..., None]], Callable[..., None]] = numba.njit(nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz"}, cache=True)
_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None  # its threads do not exist in a forked child


os.register_at_fork(after_in_child=_forget_pool)


def in_parallel(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """Call `kernel(*arguments, first, last)` for ranges that cover `count` items, one range a thread (as many as torch uses)."""
    global _pool
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        kernel(*arguments, 0, count)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(max(os.cpu_count() or 1, threads) - 1, thread_name_prefix="cryostar_nb")
    cuts = [count * thread // threads for thread in range(threads + 1)]
    pending = [_pool.submit(kernel, *arguments, cuts[thread], cuts[thread + 1]) for thread in range(1, threads)]
    try:
        kernel(*arguments, 0, cuts[1])
    finally:
        for range_ in pending:
            range_.result()


@numba.njit(nogil=True, cache=True, inline="always")
def _window(place, polynomials, weights):  # type: ignore[no-untyped-def]
    """Evaluate the window's polynomials by Horner's rule at `place`, in -1/2 ... 1/2 between two grid points."""
    last = polynomials.shape[0] - 1
    for j in range(WINDOW):
        weights[j] = polynomials[last, j]
    for power in range(last - 1, -1, -1):
        for j in range(WINDOW):
            weights[j] = weights[j] * place + polynomials[power, j]


@_compiled
def spread(positions, amplitudes, polynomials, scale, grid, first, last):  # type: ignore[no-untyped-def]
    """Add each node's window, times its amplitude, to the periodic grid of its image.

    positions (batch, atom, 3), amplitudes (atom,), polynomials (degree + 1, WINDOW); grid (batch, y, x) is overwritten.
    `scale` turns positions into grid points. The window lies on grid points floor(u) - WINDOW/2 + 1 and the following.
    """
    size, margin = grid.shape[1], WINDOW // 2 - 1
    wx, wy = np.empty(WINDOW, grid.dtype), np.empty(WINDOW, grid.dtype)
    padded = np.empty((size + WINDOW, size + WINDOW), grid.dtype)
    for image in range(first, last):
        padded[:] = 0
        for atom in range(positions.shape[1]):
            u, v = positions[image, atom, 0] * scale, positions[image, atom, 1] * scale
            u, v = u - math.floor(u / size) * size, v - math.floor(v / size) * size
            if not (u <= size and v <= size):  # not a number
                u, v = u * 0, v * 0
                padded[0, 0] = np.nan
                continue
            column, row = int(u), int(v)
            _window(u - column - grid.dtype.type(0.5), polynomials, wx)
            _window(v - row - grid.dtype.type(0.5), polynomials, wy)
            for i in range(WINDOW):
                weight = amplitudes[atom] * wy[i]
                for j in range(WINDOW):
                    padded[row + i, column + j] += weight * wx[j]
        # The margins belong to the other side of the periodic grid: first those of the columns, then those of the rows.
        for i in range(size + WINDOW):
            for j in range(margin):
                padded[i, size + j] += padded[i, j]
            for j in range(margin, WINDOW):
                padded[i, j] += padded[i, size + j]
        for i in range(margin):
            padded[size + i] += padded[i]
        for i in range(margin, WINDOW):
            padded[i] += padded[size + i]
        grid[image] = padded[margin : size + margin, margin : size + margin]


@_compiled
def interpolate(field, positions, polynomials, slopes, scale, values, gradients, first, last):  # type: ignore[no-untyped-def]
    """The adjoint of `spread`: the field of each image (batch, y, x) seen through every node's window, and its gradient.

    values (batch, atom) and gradients (batch, atom, 3), per Å, are overwritten; the gradient along z is 0. `slopes`
    (degree, WINDOW) are the derivatives of the polynomials.
    """
    size, margin = field.shape[1], WINDOW // 2 - 1
    wx, wy = np.empty(WINDOW, field.dtype), np.empty(WINDOW, field.dtype)
    dx, dy = np.empty(WINDOW, field.dtype), np.empty(WINDOW, field.dtype)
    padded = np.empty((size + WINDOW, size + WINDOW), field.dtype)
    for image in range(first, last):
        padded[margin : size + margin, margin : size + margin] = field[image]
        for i in range(margin):
            padded[i] = padded[size + i]
        for i in range(margin, WINDOW):
            padded[size + i] = padded[i]
        for i in range(size + WINDOW):
            for j in range(margin):
                padded[i, j] = padded[i, size + j]
            for j in range(margin, WINDOW):
                padded[i, size + j] = padded[i, j]
        for atom in range(positions.shape[1]):
            u, v = positions[image, atom, 0] * scale, positions[image, atom, 1] * scale
            u, v = u - math.floor(u / size) * size, v - math.floor(v / size) * size
            gradients[image, atom, 2] = 0
            if not (u <= size and v <= size):  # not a number
                values[image, atom] = gradients[image, atom, 0] = gradients[image, atom, 1] = np.nan
                continue
            column, row = int(u), int(v)
            u, v = u - column - field.dtype.type(0.5), v - row - field.dtype.type(0.5)
            _window(u, polynomials, wx)
            _window(v, polynomials, wy)
            _window(u, slopes, dx)
            _window(v, slopes, dy)
            value = along_x = along_y = field.dtype.type(0)
            for i in range(WINDOW):
                seen = seen_dx = field.dtype.type(0)
                for j in range(WINDOW):
                    seen += padded[row + i, column + j] * wx[j]
                    seen_dx += padded[row + i, column + j] * dx[j]
                value += wy[i] * seen
                along_x += wy[i] * seen_dx
                along_y += dy[i] * seen
            values[image, atom] = value
            gradients[image, atom, 0], gradients[image, atom, 1] = along_x * scale, along_y * scale


@_compiled
def length_changes(positions, pairs, lengths, sums, squares, first, last):  # type: ignore[no-untyped-def]
    """Sum over the batch of each pair's change of length, and of its square, in float64; pairs `first` to `last`."""
    sums[first:last] = 0
    squares[first:last] = 0
    for image in range(positions.shape[0]):
        for pair in range(first, last):
            i, j = pairs[pair, 0], pairs[pair, 1]
            x = positions[image, i, 0] - positions[image, j, 0]
            y = positions[image, i, 1] - positions[image, j, 1]
            z = positions[image, i, 2] - positions[image, j, 2]
            change = math.sqrt(x * x + y * y + z * z) - lengths[pair]
            sums[pair] += change
            squares[pair] += change * change


@_compiled
def length_changes_gradient(positions, pairs, lengths, of_sums, of_squares, gradients, first, last):  # type: ignore[no-untyped-def]
    """Gradient in the positions, given that in the two sums of `length_changes`; gradients (batch, atom, 3) is overwritten."""
    for image in range(first, last):
        gradients[image] = 0
        for pair in range(pairs.shape[0]):
            if of_sums[pair] == 0 and of_squares[pair] == 0:
                continue
            i, j = pairs[pair, 0], pairs[pair, 1]
            x = positions[image, i, 0] - positions[image, j, 0]
            y = positions[image, i, 1] - positions[image, j, 1]
            z = positions[image, i, 2] - positions[image, j, 2]
            length = math.sqrt(x * x + y * y + z * z)
            if length == 0:
                continue
            pull = (of_sums[pair] + 2 * of_squares[pair] * (length - lengths[pair])) / length
            gradients[image, i, 0] += pull * x
            gradients[image, i, 1] += pull * y
            gradients[image, i, 2] += pull * z
            gradients[image, j, 0] -= pull * x
            gradients[image, j, 1] -= pull * y
            gradients[image, j, 2] -= pull * z


@_compiled
def clashes(positions, bonded, threshold, penalties, counts, gradients, first, last):  # type: ignore[no-untyped-def]
    """Find the pairs nearer than `threshold`, in O(atoms), and sum their squared depth in each structure.

    Nodes are put one after the other into cells of edge 2 thresholds, kept in a hash table; each new one looks for earlier
    ones in the eight cells that it may touch, so a pair is met once. `bonded` (atom,) is True where a node is bonded to the
    next one: such pairs do not count. penalties (batch,), counts (batch,) and gradients (batch, atom, 3), those of the
    penalties, are overwritten.
    """
    atoms = positions.shape[1]
    buckets = 1
    while buckets < 2 * atoms:
        buckets *= 2
    newest, previous = np.empty(buckets, np.int32), np.empty(atoms, np.int32)
    cells, around = np.empty((atoms, 3), np.int32), np.empty((2, 3), np.int64)
    for image in range(first, last):
        newest[:] = -1
        gradients[image] = 0
        penalty, count = 0.0, 0
        for atom in range(atoms):
            for axis in range(3):
                place = positions[image, atom, axis] / (2 * threshold)
                cell = math.floor(place) if abs(place) < 2**30 else 0  # not a number: its distances are none either
                around[0, axis] = cells[atom, axis] = cell
                around[1, axis] = cell - 1 if place - cell < 0.5 else cell + 1
            for corner in range(8):
                cx, cy, cz = around[corner & 1, 0], around[(corner >> 1) & 1, 1], around[corner >> 2, 2]
                other = newest[(cx * 73856093 ^ cy * 19349663 ^ cz * 83492791) & (buckets - 1)]
                while other >= 0:
                    x = positions[image, atom, 0] - positions[image, other, 0]
                    y = positions[image, atom, 1] - positions[image, other, 1]
                    z = positions[image, atom, 2] - positions[image, other, 2]
                    squared = x * x + y * y + z * z
                    if squared < threshold * threshold and not (other == atom - 1 and bonded[other]):
                        # Two of the eight cells may share a bucket: a node counts in its own cell only.
                        if cells[other, 0] == cx and cells[other, 1] == cy and cells[other, 2] == cz:
                            length = math.sqrt(squared)
                            depth = threshold - length
                            penalty += depth * depth
                            count += 1
                            pull = -2 * depth / max(length, 1e-6)
                            gradients[image, atom, 0] += pull * x
                            gradients[image, atom, 1] += pull * y
                            gradients[image, atom, 2] += pull * z
                            gradients[image, other, 0] -= pull * x
                            gradients[image, other, 1] -= pull * y
                            gradients[image, other, 2] -= pull * z
                    other = previous[other]
            bucket = (cells[atom, 0] * 73856093 ^ cells[atom, 1] * 19349663 ^ cells[atom, 2] * 83492791) & (buckets - 1)
            previous[atom] = newest[bucket]
            newest[bucket] = atom
        penalties[image] = penalty
        counts[image] = count
