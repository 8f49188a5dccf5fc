"""Loops over pairs of nodes, compiled for the CPU as those of `grid_cpu` are: changes of length, and the search for clashes."""

import math

import numpy as np

from cryostar_nb.fast.grid_cpu import compiled, inlined


@compiled
def length_changes(positions, pairs, lengths, sums, squares, first, last):
    """Sum over the batch of each pair's change of length, and of its square, in float64, for pairs `first` to `last`.

    positions (atom, 3, batch): the same operations on neighbouring numbers, which the processor does many at a time.
    """
    for pair in range(first, last):
        i, j, length = pairs[pair, 0], pairs[pair, 1], lengths[pair]
        total, total_of_squares = 0.0, 0.0
        for image in range(positions.shape[2]):
            x = positions[i, 0, image] - positions[j, 0, image]
            y = positions[i, 1, image] - positions[j, 1, image]
            z = positions[i, 2, image] - positions[j, 2, image]
            change = np.float64(math.sqrt(x * x + y * y + z * z) - length)
            total += change
            total_of_squares += change * change
        sums[pair], squares[pair] = total, total_of_squares


@compiled
def length_changes_gradient(positions, pairs, lengths, of_sums, of_squares, gradients, first, last):
    """Gradient in the positions, given that in the two sums of `length_changes`, for images `first` to `last`.

    positions and gradients are (atom, 3, batch). Coinciding atoms get no gradient.
    """
    gradients[:, :, first:last] = 0
    tiny = positions.dtype.type(1e-12)
    pull = np.empty((3, positions.shape[2]), positions.dtype)
    start, stop = np.uint64(first), np.uint64(last)
    for pair in range(pairs.shape[0]):
        i, j, length = pairs[pair, 0], pairs[pair, 1], lengths[pair]
        of_sum, of_square = of_sums[pair], 2 * of_squares[pair]
        if of_sum == 0 and of_square == 0:
            continue
        for image in range(start, stop):
            x = positions[i, 0, image] - positions[j, 0, image]
            y = positions[i, 1, image] - positions[j, 1, image]
            z = positions[i, 2, image] - positions[j, 2, image]
            distance = math.sqrt(max(x * x + y * y + z * z, tiny))
            strength = (of_sum + of_square * (distance - length)) / distance
            pull[0, image], pull[1, image], pull[2, image] = (
                strength * x,
                strength * y,
                strength * z,
            )
        for axis in range(3):
            for image in range(start, stop):
                gradients[i, axis, image] += pull[axis, image]
            for image in range(start, stop):
                gradients[j, axis, image] -= pull[axis, image]


@inlined
def _hash(x, y, z):
    return np.uint64(x * 73856093 ^ y * 19349663 ^ z * 83492791)


@inlined
def _cell(place, edge):
    return (
        int(np.floor(place / edge)) if abs(place / edge) < 1e9 else 0
    )  # an atom that is nowhere is near to nothing


@compiled
def _clash_pair(positions, i, j, threshold, limit, penalties, counts, gradients, start, stop):
    """Look at one pair of atoms in images `start` to `stop`: first in all of them at once, and where that finds any, in each."""
    found = 0
    for image in range(start, stop):
        x = positions[i, 0, image] - positions[j, 0, image]
        y = positions[i, 1, image] - positions[j, 1, image]
        z = positions[i, 2, image] - positions[j, 2, image]
        found += x * x + y * y + z * z < limit
    if found == 0:
        return
    for image in range(start, stop):
        x = positions[i, 0, image] - positions[j, 0, image]
        y = positions[i, 1, image] - positions[j, 1, image]
        z = positions[i, 2, image] - positions[j, 2, image]
        squared = x * x + y * y + z * z
        if squared < limit:
            length = math.sqrt(squared)
            depth = threshold - length
            penalties[image] += depth * depth
            counts[image] += 1
            pull = -2 * depth / max(length, 1e-6)
            gradients[i, 0, image] += pull * x
            gradients[i, 1, image] += pull * y
            gradients[i, 2, image] += pull * z
            gradients[j, 0, image] -= pull * x
            gradients[j, 1, image] -= pull * y
            gradients[j, 2, image] -= pull * z


@compiled
def clashes(
    positions,
    centres,
    halves,
    order,
    bonded,
    threshold,
    edge,
    penalties,
    counts,
    gradients,
    first,
    last,
):
    """Find the pairs nearer than `threshold`, and sum their squared depth in each structure, for images `first` to `last`.

    positions (atom, 3, batch). A box around all the places that an atom has in the batch, with its `centres` and half edges
    `halves`, both (atom, 3), says which pairs cannot come near in any image; the few others are looked at in all images at
    once. Atoms are put into cells, those with small boxes first (`order`); each new one looks for earlier ones, whose boxes
    are no larger than its own, so a pair is met once. `bonded` (atom,) is True where an atom is bonded to the next one: such
    pairs do not count. penalties and counts (batch,), and gradients (atom, 3, batch) of the penalties, are overwritten.
    """
    atoms, limit = positions.shape[0], threshold * threshold
    buckets = 1
    while buckets < 2 * atoms:
        buckets *= 2
    mask = np.uint64(buckets - 1)
    newest, previous = np.full(buckets, -1, np.int64), np.empty(atoms, np.int64)
    start, stop = np.uint64(first), np.uint64(last)
    gradients[:, :, first:last] = 0
    penalties[first:last] = 0
    counts[first:last] = 0
    low, high, cells = np.empty(3, np.int64), np.empty(3, np.int64), np.empty((atoms, 3), np.int64)
    for turn in range(atoms):
        atom = order[turn]
        reach = threshold + 2 * max(halves[atom, 0], halves[atom, 1], halves[atom, 2])
        visits = 1
        for axis in range(3):
            low[axis], high[axis] = (
                _cell(centres[atom, axis] - reach, edge),
                _cell(centres[atom, axis] + reach, edge),
            )
            cells[atom, axis] = _cell(centres[atom, axis], edge)
            visits = min(visits * (high[axis] - low[axis] + 1), atoms)
        everywhere = visits >= turn  # no more earlier atoms than cells: look at all of them
        if everywhere:
            low[:], high[:] = 0, 0
        for cx in range(low[0], high[0] + 1):
            for cy in range(low[1], high[1] + 1):
                for cz in range(low[2], high[2] + 1):
                    step = 0
                    other = (
                        (order[0] if turn else -1)
                        if everywhere
                        else newest[_hash(cx, cy, cz) & mask]
                    )
                    while other >= 0:
                        # Cells may share a bucket: an atom counts in its own cell only.
                        if everywhere or (
                            cells[other, 0] == cx
                            and cells[other, 1] == cy
                            and cells[other, 2] == cz
                        ):
                            gap = 0.0
                            for axis in range(3):
                                apart = (
                                    abs(centres[atom, axis] - centres[other, axis])
                                    - halves[atom, axis]
                                    - halves[other, axis]
                                )
                                if apart > 0:
                                    gap += apart * apart
                            if gap < limit and not bonded[min(atom, other)] * (
                                abs(atom - other) == 1
                            ):
                                _clash_pair(
                                    positions,
                                    atom,
                                    other,
                                    threshold,
                                    limit,
                                    penalties,
                                    counts,
                                    gradients,
                                    start,
                                    stop,
                                )
                        step += 1
                        other = (
                            (order[step] if step < turn else -1) if everywhere else previous[other]
                        )
        bucket = _hash(cells[atom, 0], cells[atom, 1], cells[atom, 2]) & mask
        previous[atom] = newest[bucket]
        newest[bucket] = atom
