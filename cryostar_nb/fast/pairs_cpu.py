"""Loops over pairs of nodes, compiled as those of `grid_cpu`: changes of length, and clashes."""

import math

import numpy as np

from cryostar_nb.fast.grid_cpu import compiled, inlined


@inlined
def _apart(positions, i, j, image):
    """Vector from atom j to atom i."""
    x = positions[i, 0, image] - positions[j, 0, image]
    y = positions[i, 1, image] - positions[j, 1, image]
    return x, y, positions[i, 2, image] - positions[j, 2, image]


@compiled
def length_changes(positions, pairs, lengths, sums, squares, first, last):
    """Batch sums of the change of length, and of its square, of pairs `first` to `last`; float64.

    positions (atom, 3, batch): the same operations on neighbouring numbers, which the processor
    does many at a time.
    """
    for pair in range(first, last):
        i, j, length = pairs[pair, 0], pairs[pair, 1], lengths[pair]
        total, total_of_squares = 0.0, 0.0
        for image in range(positions.shape[2]):
            x, y, z = _apart(positions, i, j, image)
            change = np.float64(math.sqrt(x * x + y * y + z * z) - length)
            total += change
            total_of_squares += change * change
        sums[pair], squares[pair] = total, total_of_squares


@compiled
def length_changes_gradient(positions, pairs, lengths, of_sums, of_squares, gradients, first, last):
    """Gradient in the positions of images `first` to `last`, from that in the two sums.

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
            x, y, z = _apart(positions, i, j, image)
            distance = math.sqrt(max(x * x + y * y + z * z, tiny))
            strength = (of_sum + of_square * (distance - length)) / distance
            pull[0, image], pull[1, image] = strength * x, strength * y
            pull[2, image] = strength * z
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
    # An atom that is nowhere is near to nothing.
    return int(np.floor(place / edge)) if abs(place / edge) < 1e9 else 0


@inlined
def _box_gap(centres, halves, i, j):
    """Squared distance between the boxes of two atoms."""
    gap = 0.0
    for axis in range(3):
        apart = abs(centres[i, axis] - centres[j, axis]) - halves[i, axis] - halves[j, axis]
        if apart > 0:
            gap += apart * apart
    return gap


@inlined
def _cells_in_reach(centres, halves, atom, reach, edge, low, high):
    """First and last cell along each axis within reach of an atom's box, and their number."""
    number = 1
    for axis in range(3):
        low[axis] = _cell(centres[atom, axis] - reach, edge)
        high[axis] = _cell(centres[atom, axis] + reach, edge)
        number = min(number * (high[axis] - low[axis] + 1), len(centres))
    return number


@compiled
def _clash_pair(positions, i, j, threshold, limit, penalties, counts, gradients, start, stop):
    """Look at a pair of atoms, in all images `start` to `stop` at once, then in each if near."""
    near = 0
    for image in range(start, stop):
        x, y, z = _apart(positions, i, j, image)
        near += x * x + y * y + z * z < limit
    if near == 0:
        return
    for image in range(start, stop):
        x, y, z = _apart(positions, i, j, image)
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
    positions, centres, halves, order, bonded, threshold, edge, penalties, counts, gradients,
    first, last,
):  # fmt: skip
    """Sum the squared depth below `threshold` of the pairs of atoms, in images `first` to `last`.

    positions (atom, 3, batch). A box around the places of an atom in the batch, with its `centres`
    and half edges `halves`, (atom, 3), says which pairs never come near; the few others are looked
    at in all images at once. Atoms are put into cells, those with small boxes first (`order`); each
    looks for earlier ones, whose boxes are no larger, so a pair is met once. Pairs of an atom that
    is `bonded` (atom,) to the next one do not count. penalties and counts (batch,), and gradients
    (atom, 3, batch) of the penalties, are overwritten.
    """
    atoms, limit = positions.shape[0], threshold * threshold
    buckets = 1
    while buckets < 2 * atoms:
        buckets *= 2
    mask = np.uint64(buckets - 1)
    newest, previous = np.full(buckets, -1, np.int64), np.empty(atoms, np.int64)
    start, stop = np.uint64(first), np.uint64(last)
    gradients[:, :, first:last] = 0
    penalties[first:last], counts[first:last] = 0, 0
    low, high, cells = np.empty(3, np.int64), np.empty(3, np.int64), np.empty((atoms, 3), np.int64)
    for turn in range(atoms):
        atom = order[turn]
        reach = threshold + 2 * max(halves[atom, 0], halves[atom, 1], halves[atom, 2])
        visits = _cells_in_reach(centres, halves, atom, reach, edge, low, high)
        everywhere = visits >= turn  # no more earlier atoms than cells: look at all of them
        if everywhere:
            low[:], high[:] = 0, 0
        for cx in range(low[0], high[0] + 1):
            for cy in range(low[1], high[1] + 1):
                for cz in range(low[2], high[2] + 1):
                    step, other = 0, newest[_hash(cx, cy, cz) & mask]
                    if everywhere:
                        other = order[0] if turn else -1
                    while other >= 0:
                        # Cells may share a bucket: an atom counts in its own cell only.
                        x, y, z = cells[other, 0], cells[other, 1], cells[other, 2]
                        if everywhere or (x == cx and y == cy and z == cz):
                            tied = bonded[min(atom, other)] * (abs(atom - other) == 1)
                            if not tied and _box_gap(centres, halves, atom, other) < limit:
                                _clash_pair(
                                    positions, atom, other, threshold, limit,
                                    penalties, counts, gradients, start, stop,
                                )  # fmt: skip
                        step += 1
                        other = previous[other]
                        if everywhere:
                            other = order[step] if step < turn else -1
        for axis in range(3):
            cells[atom, axis] = _cell(centres[atom, axis], edge)
        bucket = _hash(cells[atom, 0], cells[atom, 1], cells[atom, 2]) & mask
        previous[atom], newest[bucket] = newest[bucket], atom
