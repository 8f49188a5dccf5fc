"""Loops for which PyTorch has no fast operation, compiled by Numba at their first use.

Arrays are NumPy's, C-contiguous, of one floating type. A kernel works on images `first` up to
`last` of the batch (or on that range of edges), so that `in_parallel` can share it out; no two
ranges write to the same place, so the result does not depend on the number of threads.
"""

import functools
import inspect
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import torch

# Grid points, along an axis, that a node is spread onto: the numbers in a vector register.
WINDOW = 8
DEGREE = 9  # of the polynomials that give the window's values there
# Unsigned: a check whether a signed index is negative would keep loops from being vectorised.
_0, _1, _2, _3, _4, _5, _6, _7 = (np.uint64(lane) for lane in range(WINDOW))

LEAST_SHARE = 300_000  # ns: waking a thread and waiting for it takes a fifth of this
_FAST = {"reassoc", "contract", "arcp", "nsz"}  # all that leaves "not a number" alone


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop for the CPU, on its first call; without what tests wrap around functions."""
    return numba.njit(nogil=True, fastmath=_FAST, cache=True)(inspect.unwrap(loop))


def vectorised(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop so that one instruction does the same to the eight numbers of a window.

    It saves a third of the time. Numba leaves this pass out by default, because LLVM's has had
    faults (numba issue 8705); so only two loops have it, and `nufft.plan` checks what they do.
    """
    kernel, settings = compiled(loop), numba.config

    @functools.wraps(loop)
    def call(*arguments: Any) -> None:
        before = settings.SLP_VECTORIZE  # type: ignore[attr-defined]
        settings.SLP_VECTORIZE = 1  # type: ignore[attr-defined]
        try:
            kernel(*arguments)  # compiled at the first call
        finally:
            settings.SLP_VECTORIZE = before  # type: ignore[attr-defined]

    return call


def inlined(part: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a part of loops into them."""
    return numba.njit(nogil=True, fastmath=_FAST, inline="always")(inspect.unwrap(part))


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="cryostar_nb")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child has no threads


def in_parallel(
    kernel: Callable[..., None], count: int, *arguments: Any, nanoseconds: float = math.inf
) -> None:
    """Call `kernel(*arguments, first, last)` for ranges that cover `count` items.

    There is one range for each thread, and as many threads as torch uses, but no more than have
    `LEAST_SHARE` to do, where an item takes so many `nanoseconds`.
    """
    shares = min(count, count * nanoseconds / LEAST_SHARE)
    threads = min(torch.get_num_threads(), int(shares))
    if threads <= 1:
        kernel(*arguments, 0, count)
        return
    pool = _pool(max(os.cpu_count() or 1, threads) - 1)
    cuts = [count * thread // threads for thread in range(threads + 1)]
    pending = [pool.submit(kernel, *arguments, *cuts[i : i + 2]) for i in range(1, threads)]
    try:
        kernel(*arguments, 0, cuts[1])
    finally:
        for task in pending:
            task.result()


# The eight numbers of a window w, and its eight lines, are written out one by one: as variables
# they stay in registers, in one vector.


@inlined
def _window(place, p):
    """Values of the polynomials p, (degree + 1, WINDOW), at `place`, by Horner's rule.

    `place` is that between two grid points, in -1/2 ... 1/2.
    """
    last = p.shape[0] - 1
    a, b, c, d = p[last, 0], p[last, 1], p[last, 2], p[last, 3]
    e, f, g, h = p[last, 4], p[last, 5], p[last, 6], p[last, 7]
    for power in range(last - 1, -1, -1):
        a, b = a * place + p[power, 0], b * place + p[power, 1]
        c, d = c * place + p[power, 2], d * place + p[power, 3]
        e, f = e * place + p[power, 4], f * place + p[power, 5]
        g, h = g * place + p[power, 6], h * place + p[power, 7]
    return a, b, c, d, e, f, g, h


@inlined
def _add(line, i, weight, w):
    """Add a weighted window to a line of the grid, from its point i on."""
    line[i + _0] += weight * w[0]
    line[i + _1] += weight * w[1]
    line[i + _2] += weight * w[2]
    line[i + _3] += weight * w[3]
    line[i + _4] += weight * w[4]
    line[i + _5] += weight * w[5]
    line[i + _6] += weight * w[6]
    line[i + _7] += weight * w[7]


@inlined
def _dot(v, w):
    """Sum of the products of two windows' numbers."""
    left = v[0] * w[0] + v[1] * w[1] + v[2] * w[2] + v[3] * w[3]
    right = v[4] * w[4] + v[5] * w[5] + v[6] * w[6] + v[7] * w[7]
    return left + right


@inlined
def _times(line, i, weight):
    """Eight points of a line of the grid, from its point i on, times a weight."""
    a, b, c, d = line[i + _0], line[i + _1], line[i + _2], line[i + _3]
    e, f, g, h = line[i + _4], line[i + _5], line[i + _6], line[i + _7]
    left = weight * a, weight * b, weight * c, weight * d
    return *left, weight * e, weight * f, weight * g, weight * h


@inlined
def _plus(v, w):
    """The sum of two windows."""
    left = v[0] + w[0], v[1] + w[1], v[2] + w[2], v[3] + w[3]
    return *left, v[4] + w[4], v[5] + w[5], v[6] + w[6], v[7] + w[7]


@inlined
def _column_sums(padded, top, left, w):
    """The sum of each of eight columns over eight lines, weighted by a window."""
    upper = _plus(
        _plus(_times(padded[top + _0], left, w[0]), _times(padded[top + _1], left, w[1])),
        _plus(_times(padded[top + _2], left, w[2]), _times(padded[top + _3], left, w[3])),
    )
    lower = _plus(
        _plus(_times(padded[top + _4], left, w[4]), _times(padded[top + _5], left, w[5])),
        _plus(_times(padded[top + _6], left, w[6]), _times(padded[top + _7], left, w[7])),
    )
    return _plus(upper, lower)


@vectorised
def spread(positions, amplitudes, polynomials, scale, grid, first, last):
    """Add each node's window, times its amplitude, to the periodic grid of its image.

    positions (batch, atom, 3), amplitudes (atom,), polynomials (degree + 1, WINDOW); grid
    (batch, y, x) is overwritten. `scale` turns positions into grid points; the window of a node at
    point u begins at floor(u) - WINDOW/2 + 1.
    """
    size, margin, real = grid.shape[1], WINDOW // 2 - 1, grid.dtype.type
    length, half, zero = real(size), real(0.5), real(0)
    padded = np.empty((size + WINDOW, size + WINDOW), grid.dtype)
    for image in range(first, last):
        padded[:] = 0
        for atom in range(positions.shape[1]):
            u, v = positions[image, atom, 0] * scale, positions[image, atom, 1] * scale
            u, v = u - np.floor(u / length) * length, v - np.floor(v / length) * length
            if not (-1 <= u and u <= length + 1 and -1 <= v and v <= length + 1):
                padded[0, 0] = np.nan  # an atom that is nowhere
                continue
            # A rounding may put a node just outside of the grid: the same place as just inside.
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
        # The margins, first of the columns, then of the rows, belong to the other side of the grid.
        padded[:, size : size + margin] += padded[:, :margin]
        padded[:, margin:WINDOW] += padded[:, size + margin :]
        padded[size : size + margin] += padded[:margin]
        padded[margin:WINDOW] += padded[size + margin :]
        grid[image] = padded[margin : size + margin, margin : size + margin]


@vectorised
def interpolate(field, positions, polynomials, slopes, scale, values, gradients, first, last):
    """The adjoint of `spread`: sums of the field (batch, y, x) under each window, and gradients.

    values (batch, atom) and gradients (batch, atom, 3), per Å, are overwritten; the gradient along
    z is 0. `slopes` (degree, WINDOW) are the derivatives of the polynomials.
    """
    size, margin, real = field.shape[1], WINDOW // 2 - 1, field.dtype.type
    length, half, zero = real(size), real(0.5), real(0)
    padded = np.empty((size + WINDOW, size + WINDOW), field.dtype)
    for image in range(first, last):
        padded[margin : size + margin, margin : size + margin] = field[image]
        padded[:margin] = padded[size : size + margin]
        padded[size + margin :] = padded[margin:WINDOW]
        padded[:, :margin] = padded[:, size : size + margin]
        padded[:, size + margin :] = padded[:, margin:WINDOW]
        for atom in range(positions.shape[1]):
            u, v = positions[image, atom, 0] * scale, positions[image, atom, 1] * scale
            u, v = u - np.floor(u / length) * length, v - np.floor(v / length) * length
            gradients[image, atom, 2] = 0
            if not (-1 <= u and u <= length + 1 and -1 <= v and v <= length + 1):
                values[image, atom] = gradients[image, atom, 0] = gradients[image, atom, 1] = np.nan
                continue
            # A rounding may put a node just outside of the grid: the same place as just inside.
            column, row = min(max(np.floor(u), zero), length), min(max(np.floor(v), zero), length)
            wx, wy = _window(u - column - half, polynomials), _window(v - row - half, polynomials)
            dx, dy = _window(u - column - half, slopes), _window(v - row - half, slopes)
            top, left = np.uint64(row), np.uint64(column)
            sums = _column_sums(padded, top, left, wy)
            values[image, atom] = _dot(sums, wx)
            gradients[image, atom, 0] = _dot(sums, dx) * scale
            gradients[image, atom, 1] = _dot(_column_sums(padded, top, left, dy), wx) * scale
