"""The loops of `grid_cpu` and `pairs_cpu` for a GPU, in Triton, which comes with PyTorch for CUDA.

Imported only where it is needed. TRITON_INTERPRET=1 runs the kernels on the CPU, which is how the
tests compare the two.
"""

import inspect
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cryostar_nb.fast.grid_cpu import DEGREE, WINDOW

BLOCK = 32  # nodes of one program
_SIZES = {"WINDOW": WINDOW, "DEGREE": DEGREE, "BLOCK": BLOCK}


def _jit(kernel: Any) -> Any:
    """Compile a kernel, without what tests wrap around functions."""
    return triton.jit(inspect.unwrap(kernel))


@_jit
def _window(place, polynomials, lane, WINDOW: tl.constexpr, DEGREE: tl.constexpr):
    """Values (BLOCK, WINDOW) of polynomials (DEGREE + 1, WINDOW) at `place` (BLOCK,)."""
    highest = tl.load(polynomials + DEGREE * WINDOW + lane)
    values = tl.zeros((place.shape[0], WINDOW), tl.float32) + highest
    for power in tl.static_range(1, DEGREE + 1):
        coefficients = tl.load(polynomials + (DEGREE - power) * WINDOW + lane)
        values = values * place[:, None] + coefficients[None, :]
    return values


@_jit
def _grid_place(positions, scale, size, inside):
    """Grid point at or below a coordinate, and the place after it, in -1/2 ... 1/2."""
    place = tl.load(positions, mask=inside, other=0.0) * scale
    place = place - tl.floor(place / size) * size
    point = place.to(tl.int32)
    return point, place - point - 0.5


@_jit
def _window_places(row, column, lane, size, WINDOW: tl.constexpr):
    """Places, (BLOCK, WINDOW, WINDOW) in the grid of an image, of each window's points."""
    columns = (column[:, None] + lane[None, :] + size - (WINDOW // 2 - 1)) % size
    rows = (row[:, None] + lane[None, :] + size - (WINDOW // 2 - 1)) % size
    return rows[:, :, None] * size + columns[:, None, :]


@_jit
def _load_xyz(array, node, inside):
    """Three neighbouring numbers of each node."""
    x = tl.load(array + node, mask=inside, other=0)
    y = tl.load(array + node + 1, mask=inside, other=0)
    return x, y, tl.load(array + node + 2, mask=inside, other=0)


@_jit
def _store_xyz(array, node, inside, x, y, z):
    tl.store(array + node, x, mask=inside)
    tl.store(array + node + 1, y, mask=inside)
    tl.store(array + node + 2, z, mask=inside)


@_jit
def _next_cell(x, cell, threshold):
    """Along an axis, the nearer neighbour of a node's cell."""
    return tl.where(x / (2 * threshold) - cell < 0.5, cell - 1, cell + 1)


@_jit
def _spread(
    positions, amplitudes, polynomials, grid, scale, atoms, size,
    WINDOW: tl.constexpr, DEGREE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    atom = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, WINDOW)
    inside = atom < atoms
    node = positions + (image * atoms + atom) * 3
    column, u = _grid_place(node, scale, size, inside)
    row, v = _grid_place(node + 1, scale, size, inside)
    amplitude = tl.load(amplitudes + atom, mask=inside, other=0.0)
    wx = _window(u, polynomials, lane, WINDOW, DEGREE)
    wy = _window(v, polynomials, lane, WINDOW, DEGREE) * amplitude[:, None]
    place = image * size * size + _window_places(row, column, lane, size, WINDOW)
    products = wy[:, :, None] * wx[:, None, :]
    tl.atomic_add(grid + place, products, mask=inside[:, None, None], sem="relaxed")


@_jit
def _interpolate(
    field, positions, polynomials, slopes, values, gradients, scale, atoms, size,
    WINDOW: tl.constexpr, DEGREE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    atom = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, WINDOW)
    inside = atom < atoms
    node = (image * atoms + atom) * 3
    column, u = _grid_place(positions + node, scale, size, inside)
    row, v = _grid_place(positions + node + 1, scale, size, inside)
    wx = _window(u, polynomials, lane, WINDOW, DEGREE)
    wy = _window(v, polynomials, lane, WINDOW, DEGREE)
    dx = _window(u, slopes, lane, WINDOW, DEGREE - 1)
    dy = _window(v, slopes, lane, WINDOW, DEGREE - 1)
    place = image * size * size + _window_places(row, column, lane, size, WINDOW)
    points = tl.load(field + place, mask=inside[:, None, None], other=0.0)
    sums, slope_sums = tl.sum(points * wx[:, None, :], axis=2), tl.sum(points * dx[:, None, :], 2)
    tl.store(values + image * atoms + atom, tl.sum(sums * wy, axis=1), mask=inside)
    along_x, along_y = tl.sum(slope_sums * wy, axis=1) * scale, tl.sum(sums * dy, axis=1) * scale
    _store_xyz(gradients, node, inside, along_x, along_y, tl.zeros((BLOCK,), tl.float32))


@_jit
def _clashes(
    positions, cells, order, starts, bonded, penalties, counts, gradients, threshold, atoms,
    buckets, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    atom = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = atom < atoms
    node = (image * atoms + atom) * 3
    x, y, z = _load_xyz(positions, node, inside)
    before = tl.load(bonded + atom - 1, mask=inside & (atom > 0), other=0) != 0
    after = tl.load(bonded + atom, mask=inside, other=0) != 0
    cell_x, cell_y, cell_z = _load_xyz(cells, node, inside)
    next_x = _next_cell(x, cell_x, threshold)
    next_y = _next_cell(y, cell_y, threshold)
    next_z = _next_cell(z, cell_z, threshold)
    zero = tl.zeros((BLOCK,), tl.float32)
    penalty, count, pull_x, pull_y, pull_z = zero, zero, zero, zero, zero
    for corner in range(8):
        cx = tl.where((corner & 1) > 0, next_x, cell_x)
        cy = tl.where((corner & 2) > 0, next_y, cell_y)
        cz = tl.where((corner & 4) > 0, next_z, cell_z)
        bucket = image * buckets + ((cx * 73856093 ^ cy * 19349663 ^ cz * 83492791) & (buckets - 1))
        first = tl.load(starts + bucket, mask=inside, other=0)
        last = tl.load(starts + bucket + 1, mask=inside, other=0)
        for step in range(tl.max(last - first)):
            filled = inside & (first + step < last)
            other = tl.load(order + first + step, mask=filled, other=0)  # counted over the batch
            other_x, other_y, other_z = _load_xyz(cells, other * 3, filled)
            filled &= (other_x == cx) & (other_y == cy) & (other_z == cz)
            other_x, other_y, other_z = _load_xyz(positions, other * 3, filled)
            dx, dy, dz = x - other_x, y - other_y, z - other_z
            length = tl.sqrt(dx * dx + dy * dy + dz * dz)
            offset = other - image * atoms - atom
            tied = (offset == 0) | ((offset == -1) & before) | ((offset == 1) & after)
            depth = tl.where(filled & (length < threshold) & (tied == 0), threshold - length, 0.0)
            penalty += depth * depth
            count += tl.where(depth > 0, 1.0, 0.0)
            pull = -2 * depth / tl.maximum(length, 1e-6)
            pull_x, pull_y, pull_z = pull_x + pull * dx, pull_y + pull * dy, pull_z + pull * dz
    _store_xyz(gradients, node, inside, pull_x, pull_y, pull_z)
    tl.atomic_add(penalties + image, 0.5 * tl.sum(penalty))  # a pair is met from both of its ends
    tl.atomic_add(counts + image, 0.5 * tl.sum(count))


def spread(
    positions: Tensor, amplitudes: Tensor, polynomials: Tensor, scale: float, size: int
) -> Tensor:
    """See `dispatch.spread`. The order of the additions, and so the last digit, may vary."""
    batch, atoms, _ = positions.shape
    grid = positions.new_zeros(batch, size, size)
    blocks = (triton.cdiv(atoms, BLOCK), batch)
    _spread[blocks](positions, amplitudes, polynomials, grid, scale, atoms, size, **_SIZES)
    return grid


def interpolate(
    field: Tensor, positions: Tensor, polynomials: Tensor, slopes: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """See `dispatch.interpolate`."""
    batch, atoms, _ = positions.shape
    values, gradients = torch.empty_like(positions[..., 0]), torch.empty_like(positions)
    arrays = (field, positions, polynomials, slopes, values, gradients)
    blocks = (triton.cdiv(atoms, BLOCK), batch)
    _interpolate[blocks](*arrays, scale, atoms, field.shape[1], **_SIZES)
    return values, gradients


def clashes(positions: Tensor, bonded: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """See `dispatch.clashes`; positions and gradients are (batch, atom, 3).

    The nodes are sorted by bucket, so that those of a bucket are neighbours in memory.
    """
    batch, atoms, _ = positions.shape
    buckets = 1 << (2 * atoms - 1).bit_length()
    cells = torch.floor(positions / (2 * threshold)).clamp(-(2.0**20), 2.0**20).nan_to_num().int()
    x, y, z = cells.unbind(-1)
    bucket = (x * 73856093 ^ y * 19349663 ^ z * 83492791) & (buckets - 1)
    bucket = bucket.long() + buckets * torch.arange(batch, device=positions.device)[:, None]
    ordered, order = bucket.flatten().sort()
    starts = torch.searchsorted(ordered, torch.arange(batch * buckets + 1, device=positions.device))
    results = positions.new_zeros(batch), positions.new_zeros(batch), torch.empty_like(positions)
    arrays = (positions, cells, order, starts, bonded.to(torch.int8), *results)
    _clashes[triton.cdiv(atoms, BLOCK), batch](*arrays, threshold, atoms, buckets, BLOCK=BLOCK)
    return results
