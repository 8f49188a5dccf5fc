"""Loops for which PyTorch has no fast operation, compiled for the CPU by Numba: they need no C compiler, only the first call waits.

Arrays are NumPy's, C-contiguous, of one floating type. A kernel works on images `first` up to `last` of the batch (or on
that range of edges), so that `in_parallel` can share it out; no two ranges write to the same place, so the result does not
depend on the number of threads.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch

WINDOW = (
    8  # grid points, along an axis, that a node is spread onto: the numbers in a vector register
)
DEGREE = 9  # of the polynomials that give the window's values there
# Unsigned: a signed index might be negative, and a check for that would keep loops from being vectorised.
_0, _1, _2, _3, _4, _5, _6, _7 = (np.uint64(lane) for lane in range(WINDOW))

_FAST = {"reassoc", "contract", "arcp", "nsz"}  # all that leaves "not a number" alone
compiled: Callable[[Callable[..., None]], Callable[..., None]] = numba.njit(
    nogil=True, fastmath=_FAST, cache=True
)
inlined: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(
    nogil=True, fastmath=_FAST, inline="always"
)
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
        _pool = ThreadPoolExecutor(
            max(os.cpu_count() or 1, threads) - 1, thread_name_prefix="cryostar_nb"
        )
    cuts = [count * thread // threads for thread in range(threads + 1)]
    pending = [
        _pool.submit(kernel, *arguments, cuts[thread], cuts[thread + 1])
        for thread in range(1, threads)
    ]
    try:
        kernel(*arguments, 0, cuts[1])
    finally:
        for range_ in pending:
            range_.result()


# A window's eight numbers, and its eight lines, are written out one by one: as variables they stay in registers.


@inlined
def _window(place, polynomials):
    """Values of the polynomials (degree + 1, WINDOW) at `place`, in -1/2 ... 1/2 between two grid points: Horner's rule."""
    last = polynomials.shape[0] - 1
    a, b, c, d = (
        polynomials[last, 0],
        polynomials[last, 1],
        polynomials[last, 2],
        polynomials[last, 3],
    )
    e, f, g, h = (
        polynomials[last, 4],
        polynomials[last, 5],
        polynomials[last, 6],
        polynomials[last, 7],
    )
    for power in range(last - 1, -1, -1):
        a, b = a * place + polynomials[power, 0], b * place + polynomials[power, 1]
        c, d = c * place + polynomials[power, 2], d * place + polynomials[power, 3]
        e, f = e * place + polynomials[power, 4], f * place + polynomials[power, 5]
        g, h = g * place + polynomials[power, 6], h * place + polynomials[power, 7]
    return a, b, c, d, e, f, g, h


@inlined
def _add(line, first, weight, window):
    """Add a weighted window to a line of the grid."""
    line[first + _0] += weight * window[0]
    line[first + _1] += weight * window[1]
    line[first + _2] += weight * window[2]
    line[first + _3] += weight * window[3]
    line[first + _4] += weight * window[4]
    line[first + _5] += weight * window[5]
    line[first + _6] += weight * window[6]
    line[first + _7] += weight * window[7]


@inlined
def _dot(first, second):
    """Sum of the products of two windows' numbers."""
    left = first[0] * second[0] + first[1] * second[1] + first[2] * second[2] + first[3] * second[3]
    right = (
        first[4] * second[4] + first[5] * second[5] + first[6] * second[6] + first[7] * second[7]
    )
    return left + right


@inlined
def _seen(line, first, window):
    """What a window sees of a line of the grid."""
    left = (
        line[first + _0] * window[0]
        + line[first + _1] * window[1]
        + line[first + _2] * window[2]
        + line[first + _3] * window[3]
    )
    right = (
        line[first + _4] * window[4]
        + line[first + _5] * window[5]
        + line[first + _6] * window[6]
        + line[first + _7] * window[7]
    )
    return left + right


@inlined
def _seen_by_lines(padded, top, left, window):
    """What a window sees of each of eight lines."""
    a, b = _seen(padded[top + _0], left, window), _seen(padded[top + _1], left, window)
    c, d = _seen(padded[top + _2], left, window), _seen(padded[top + _3], left, window)
    e, f = _seen(padded[top + _4], left, window), _seen(padded[top + _5], left, window)
    g, h = _seen(padded[top + _6], left, window), _seen(padded[top + _7], left, window)
    return a, b, c, d, e, f, g, h


@compiled
def spread(positions, amplitudes, polynomials, scale, grid, first, last):
    """Add each node's window, times its amplitude, to the periodic grid of its image.

    positions (batch, atom, 3), amplitudes (atom,), polynomials (degree + 1, WINDOW); grid (batch, y, x) is overwritten.
    `scale` turns positions into grid points. The window lies on grid points floor(u) - WINDOW/2 + 1 and the following.
    """
    size, margin, length, half = (
        grid.shape[1],
        WINDOW // 2 - 1,
        grid.dtype.type(grid.shape[1]),
        grid.dtype.type(0.5),
    )
    zero = grid.dtype.type(0)
    padded = np.empty((size + WINDOW, size + WINDOW), grid.dtype)
    for image in range(first, last):
        padded[:] = 0
        for atom in range(positions.shape[1]):
            u, v = positions[image, atom, 0] * scale, positions[image, atom, 1] * scale
            u, v = u - np.floor(u / length) * length, v - np.floor(v / length) * length
            if not (-1 <= u and u <= length + 1 and -1 <= v and v <= length + 1):
                padded[0, 0] = np.nan  # an atom that is nowhere
                continue
            # A rounding of the last digit may put a node just outside of the grid, where it is the same as just inside.
            column, row = min(max(np.floor(u), zero), length), min(max(np.floor(v), zero), length)
            wx, wy = _window(u - column - half, polynomials), _window(v - row - half, polynomials)
            top, left = np.uint64(row), np.uint64(column)
            _add(padded[top + _0], left, amplitudes[atom] * wy[0], wx)
            _add(padded[top + _1], left, amplitudes[atom] * wy[1], wx)
            _add(padded[top + _2], left, amplitudes[atom] * wy[2], wx)
            _add(padded[top + _3], left, amplitudes[atom] * wy[3], wx)
            _add(padded[top + _4], left, amplitudes[atom] * wy[4], wx)
            _add(padded[top + _5], left, amplitudes[atom] * wy[5], wx)
            _add(padded[top + _6], left, amplitudes[atom] * wy[6], wx)
            _add(padded[top + _7], left, amplitudes[atom] * wy[7], wx)
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


@compiled
def interpolate(field, positions, polynomials, slopes, scale, values, gradients, first, last):
    """The adjoint of `spread`: the field of each image (batch, y, x) seen through every node's window, and its gradient.

    values (batch, atom) and gradients (batch, atom, 3), per Å, are overwritten; the gradient along z is 0. `slopes`
    (degree, WINDOW) are the derivatives of the polynomials.
    """
    size, margin, length, half = (
        field.shape[1],
        WINDOW // 2 - 1,
        field.dtype.type(field.shape[1]),
        field.dtype.type(0.5),
    )
    zero = field.dtype.type(0)
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
            u, v = u - np.floor(u / length) * length, v - np.floor(v / length) * length
            gradients[image, atom, 2] = 0
            if not (-1 <= u and u <= length + 1 and -1 <= v and v <= length + 1):
                values[image, atom] = gradients[image, atom, 0] = gradients[image, atom, 1] = np.nan
                continue
            # A rounding of the last digit may put a node just outside of the grid, where it is the same as just inside.
            column, row = min(max(np.floor(u), zero), length), min(max(np.floor(v), zero), length)
            wx, wy = _window(u - column - half, polynomials), _window(v - row - half, polynomials)
            dx, dy = _window(u - column - half, slopes), _window(v - row - half, slopes)
            top, left = np.uint64(row), np.uint64(column)
            seen = _seen_by_lines(padded, top, left, wx)
            seen_dx = _seen_by_lines(padded, top, left, dx)
            values[image, atom] = _dot(seen, wy)
            gradients[image, atom, 0] = _dot(seen_dx, wy) * scale
            gradients[image, atom, 1] = _dot(seen, dy) * scale
