"""The loops of `grid_cpu` and `pairs_cpu` for a GPU, in Triton, which comes with PyTorch's CUDA builds. Imported only where it is needed.

TRITON_INTERPRET=1 runs them on the CPU, which is how the tests compare the two.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

from cryostar_nb.fast.grid_cpu import DEGREE, WINDOW

BLOCK = 32  # nodes of one program
_SIZES = {"WINDOW": WINDOW, "DEGREE": DEGREE, "BLOCK": BLOCK}


@triton.jit
def _window(place, polynomials, lane, WINDOW: tl.constexpr, DEGREE: tl.constexpr):
    """Values (BLOCK, WINDOW) of polynomials (DEGREE + 1, WINDOW) at `place` (BLOCK,)."""
    values = tl.zeros((place.shape[0], WINDOW), tl.float32) + tl.load(
        polynomials + DEGREE * WINDOW + lane
    )
    for power in tl.static_range(1, DEGREE + 1):
        values = (
            values * place[:, None]
            + tl.load(polynomials + (DEGREE - power) * WINDOW + lane)[None, :]
        )
    return values


@triton.jit
def _grid_place(positions, scale, size, inside):
    """Grid point at or below a coordinate, and where between it and the next one, in -1/2 ... 1/2."""
    place = tl.load(positions, mask=inside, other=0.0) * scale
    place = place - tl.floor(place / size) * size
    point = place.to(tl.int32)
    return point, place - point - 0.5


@triton.jit
def _window_places(row, column, lane, size, WINDOW: tl.constexpr):
    """Places (BLOCK, WINDOW, WINDOW) in its image's grid of the points that each node's window lies on."""
    columns = (column[:, None] + lane[None, :] + size - (WINDOW // 2 - 1)) % size
    rows = (row[:, None] + lane[None, :] + size - (WINDOW // 2 - 1)) % size
    return rows[:, :, None] * size + columns[:, None, :]


@triton.jit
def _spread(
    positions,
    amplitudes,
    polynomials,
    grid,
    scale,
    atoms,
    size,
    WINDOW: tl.constexpr,
    DEGREE: tl.constexpr,
    BLOCK: tl.constexpr,
):
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
    tl.atomic_add(
        grid + place, wy[:, :, None] * wx[:, None, :], mask=inside[:, None, None], sem="relaxed"
    )


@triton.jit
def _interpolate(
    field,
    positions,
    polynomials,
    slopes,
    values,
    gradients,
    scale,
    atoms,
    size,
    WINDOW: tl.constexpr,
    DEGREE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    atom = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, WINDOW)
    inside = atom < atoms
    node = (image * atoms + atom) * 3
    column, u = _grid_place(positions + node, scale, size, inside)
    row, v = _grid_place(positions + node + 1, scale, size, inside)
    wx, wy = (
        _window(u, polynomials, lane, WINDOW, DEGREE),
        _window(v, polynomials, lane, WINDOW, DEGREE),
    )
    dx, dy = (
        _window(u, slopes, lane, WINDOW, DEGREE - 1),
        _window(v, slopes, lane, WINDOW, DEGREE - 1),
    )
    place = image * size * size + _window_places(row, column, lane, size, WINDOW)
    seen = tl.load(field + place, mask=inside[:, None, None], other=0.0)
    across, across_dx = tl.sum(seen * wx[:, None, :], axis=2), tl.sum(seen * dx[:, None, :], axis=2)
    tl.store(values + image * atoms + atom, tl.sum(across * wy, axis=1), mask=inside)
    tl.store(gradients + node, tl.sum(across_dx * wy, axis=1) * scale, mask=inside)
    tl.store(gradients + node + 1, tl.sum(across * dy, axis=1) * scale, mask=inside)
    tl.store(gradients + node + 2, tl.zeros((BLOCK,), tl.float32), mask=inside)


@triton.jit
def _clashes(
    positions,
    cells,
    order,
    starts,
    bonded,
    penalties,
    counts,
    gradients,
    threshold,
    atoms,
    buckets,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    atom = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = atom < atoms
    node = (image * atoms + atom) * 3
    x, y, z = (
        tl.load(positions + node, mask=inside, other=0.0),
        tl.load(positions + node + 1, mask=inside, other=0.0),
        tl.load(positions + node + 2, mask=inside, other=0.0),
    )
    before = tl.load(bonded + atom - 1, mask=inside & (atom > 0), other=0) != 0
    after = tl.load(bonded + atom, mask=inside, other=0) != 0
    own_x, own_y, own_z = (
        tl.load(cells + node, mask=inside, other=0),
        tl.load(cells + node + 1, mask=inside, other=0),
        tl.load(cells + node + 2, mask=inside, other=0),
    )
    next_x = tl.where(x / (2 * threshold) - own_x < 0.5, own_x - 1, own_x + 1)
    next_y = tl.where(y / (2 * threshold) - own_y < 0.5, own_y - 1, own_y + 1)
    next_z = tl.where(z / (2 * threshold) - own_z < 0.5, own_z - 1, own_z + 1)
    penalty, count = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    pull_x, pull_y, pull_z = (
        tl.zeros((BLOCK,), tl.float32),
        tl.zeros((BLOCK,), tl.float32),
        tl.zeros((BLOCK,), tl.float32),
    )
    for corner in range(8):
        cx = tl.where((corner & 1) > 0, next_x, own_x)
        cy = tl.where((corner & 2) > 0, next_y, own_y)
        cz = tl.where((corner & 4) > 0, next_z, own_z)
        bucket = image * buckets + ((cx * 73856093 ^ cy * 19349663 ^ cz * 83492791) & (buckets - 1))
        first, last = (
            tl.load(starts + bucket, mask=inside, other=0),
            tl.load(starts + bucket + 1, mask=inside, other=0),
        )
        for step in range(tl.max(last - first)):
            filled = inside & (first + step < last)
            other = tl.load(
                order + first + step, mask=filled, other=0
            )  # counted over the whole batch
            filled &= tl.load(cells + other * 3, mask=filled, other=0) == cx
            filled &= tl.load(cells + other * 3 + 1, mask=filled, other=0) == cy
            filled &= tl.load(cells + other * 3 + 2, mask=filled, other=0) == cz
            dx = x - tl.load(positions + other * 3, mask=filled, other=0.0)
            dy = y - tl.load(positions + other * 3 + 1, mask=filled, other=0.0)
            dz = z - tl.load(positions + other * 3 + 2, mask=filled, other=0.0)
            length = tl.sqrt(dx * dx + dy * dy + dz * dz)
            offset = other - image * atoms - atom
            tied = (offset == 0) | ((offset == -1) & before) | ((offset == 1) & after)
            depth = tl.where(filled & (length < threshold) & (tied == 0), threshold - length, 0.0)
            penalty += depth * depth
            count += tl.where(depth > 0, 1.0, 0.0)
            pull = -2 * depth / tl.maximum(length, 1e-6)
            pull_x, pull_y, pull_z = pull_x + pull * dx, pull_y + pull * dy, pull_z + pull * dz
    tl.store(gradients + node, pull_x, mask=inside)
    tl.store(gradients + node + 1, pull_y, mask=inside)
    tl.store(gradients + node + 2, pull_z, mask=inside)
    tl.atomic_add(penalties + image, 0.5 * tl.sum(penalty))  # a pair is met from both of its ends
    tl.atomic_add(counts + image, 0.5 * tl.sum(count))


def spread(
    positions: Float[Tensor, "batch atom 3"],
    amplitudes: Float[Tensor, " atom"],
    polynomials: Tensor,
    scale: float,
    size: int,
) -> Float[Tensor, "batch y x"]:
    """See `fast.grid_cpu.spread`. The order of the additions, and so the last digit, may differ from one call to the next."""
    grid = positions.new_zeros(len(positions), size, size)
    blocks = (triton.cdiv(positions.shape[1], BLOCK), len(positions))
    _spread[blocks](
        positions, amplitudes, polynomials, grid, scale, positions.shape[1], size, **_SIZES
    )
    return grid


def interpolate(
    field: Float[Tensor, "batch y x"],
    positions: Float[Tensor, "batch atom 3"],
    polynomials: Tensor,
    slopes: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """See `fast.grid_cpu.interpolate`: values (batch, atom) and gradients (batch, atom, 3)."""
    values, gradients = torch.empty_like(positions[..., 0]), torch.empty_like(positions)
    blocks = (triton.cdiv(positions.shape[1], BLOCK), len(positions))
    _interpolate[blocks](
        field,
        positions,
        polynomials,
        slopes,
        values,
        gradients,
        scale,
        positions.shape[1],
        field.shape[1],
        **_SIZES,
    )
    return values, gradients


def clashes(
    positions: Float[Tensor, "batch atom 3"], bonded: Bool[Tensor, " atom"], threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See `fast.pairs_cpu.clashes`: penalties (batch,), counts (batch,) and gradients (batch, atom, 3).

    The nodes are sorted by bucket, so that those of a bucket stand together.
    """
    batch, atoms, _ = positions.shape
    buckets = 1 << (2 * atoms - 1).bit_length()
    cells = torch.floor(positions / (2 * threshold)).clamp(-(2.0**20), 2.0**20).nan_to_num().int()
    x, y, z = cells.unbind(-1)
    bucket = (x * 73856093 ^ y * 19349663 ^ z * 83492791) & (buckets - 1)
    bucket = bucket.long() + buckets * torch.arange(batch, device=positions.device)[:, None]
    ordered, order = bucket.flatten().sort()
    starts = torch.searchsorted(ordered, torch.arange(batch * buckets + 1, device=positions.device))
    penalties, counts, gradients = (
        positions.new_zeros(batch),
        positions.new_zeros(batch),
        torch.empty_like(positions),
    )
    blocks = (triton.cdiv(atoms, BLOCK), batch)
    flags = bonded.to(torch.int8)
    _clashes[blocks](
        positions,
        cells,
        order,
        starts,
        flags,
        penalties,
        counts,
        gradients,
        threshold,
        atoms,
        buckets,
        BLOCK=BLOCK,
    )
    return penalties, counts, gradients
