"""Loops over nodes and the Gaussians that they carry, compiled as those of `grid_cpu`."""

import math

from cryostar_nb.fast.grid_cpu import compiled, inlined


@inlined
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inlined
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@inlined
def _sum(a, scale, b):
    """The vector a, and scale times b added to it."""
    return a[0] + scale * b[0], a[1] + scale * b[1], a[2] + scale * b[2]


@inlined
def _apart(x, i, j):
    """Vector from node j to node i."""
    return x[i, 0] - x[j, 0], x[i, 1] - x[j, 1], x[i, 2] - x[j, 2]


@inlined
def _over_length(a, tiny, one):
    """One over the length of a vector, bounded as in PyTorch's `normalize`."""
    return one / max(math.sqrt(_dot(a, a)), tiny)


@inlined
def _rotation(t, one):
    """Rows of the rotation of a turn, about it by 2 atan(|t| / 2), and 1 / (1 + |t / 2|^2)."""
    half = one / (one + one)
    x, y, z = half * t[0], half * t[1], half * t[2]
    scale = one / (one + x * x + y * y + z * z)
    twice = scale + scale
    row_1 = (one - twice * (y * y + z * z), twice * (x * y - z), twice * (x * z + y))
    row_2 = (twice * (x * y + z), one - twice * (x * x + z * z), twice * (y * z - x))
    row_3 = (twice * (x * z - y), twice * (y * z + x), one - twice * (x * x + y * y))
    return row_1, row_2, row_3, scale


@inlined
def _combined(a, b, c, e1, e2, e3):
    """The sum a e1 + b e2 + c e3."""
    return (
        a * e1[0] + b * e2[0] + c * e3[0],
        a * e1[1] + b * e2[1] + c * e3[1],
        a * e1[2] + b * e2[2] + c * e3[2],
    )


@inlined
def _frame(x, nodes, framed, tiny, one):
    """The axes of a node's frame, and what they are made with: o, o . e1, and one over two lengths.

    `nodes` are those before, here and after.
    """
    zero = one - one
    nothing = (zero, zero, zero)
    e1, e2, e3 = (one, zero, zero), (zero, one, zero), (zero, zero, one)
    o, along, over_d, over_p = nothing, zero, zero, zero
    if framed:
        d, o = _apart(x, nodes[2], nodes[0]), _apart(x, nodes[1], nodes[0])
        over_d = _over_length(d, tiny, one)
        e1 = _sum(nothing, over_d, d)
        along = _dot(o, e1)
        p = _sum(o, -along, e1)
        over_p = _over_length(p, tiny, one)
        e2 = _sum(nothing, over_p, p)
        e3 = _cross(e1, e2)
    return e1, e2, e3, o, along, over_d, over_p


@inlined
def _of_frame(e1, e2, o, along, over_d, over_p, of_1, of_2, of_3, one):
    """The gradients in `after - before` and in `here - before`, from those in the axes."""
    zero = one - one
    nothing = (zero, zero, zero)
    of_1, of_2 = _sum(of_1, one, _cross(e2, of_3)), _sum(of_2, one, _cross(of_3, e1))
    of_p = _sum(nothing, over_p, _sum(of_2, -_dot(of_2, e2), e2))
    of_o = _sum(of_p, -_dot(of_p, e1), e1)
    of_1 = _sum(_sum(of_1, -along, of_p), -_dot(of_p, e1), o)
    return _sum(nothing, over_d, _sum(of_1, -_dot(of_1, e1), e1)), of_o


@inlined
def _of_turn(t, e1, e2, e3, of_1, of_2, of_3, one):
    """The gradient in a turn, and those in the axes before it, from those in the turned axes."""
    m1, m2, m3, scale = _rotation(t, one)
    g1 = (_dot(e1, of_1), _dot(e2, of_1), _dot(e3, of_1))
    g2 = (_dot(e1, of_2), _dot(e2, of_2), _dot(e3, of_2))
    g3 = (_dot(e1, of_3), _dot(e2, of_3), _dot(e3, of_3))
    torque = _cross((m1[0], m2[0], m3[0]), g1)
    torque = _sum(torque, one, _cross((m1[1], m2[1], m3[1]), g2))
    torque = _sum(torque, one, _cross((m1[2], m2[2], m3[2]), g3))
    twist = _sum(torque, one / (one + one), _cross(torque, (t[0], t[1], t[2])))
    return (
        (scale * twist[0], scale * twist[1], scale * twist[2]),
        _combined(m1[0], m1[1], m1[2], of_1, of_2, of_3),
        _combined(m2[0], m2[1], m2[2], of_1, of_2, of_3),
        _combined(m3[0], m3[1], m3[2], of_1, of_2, of_3),
    )


@compiled
def centres(positions, turns, frame_nodes, framed, offsets, node_of, filled, first, last):
    """Fill in the centres (batch, gaussian, 3) of structures `first` to `last`."""
    real = positions.dtype.type
    tiny, one = real(1e-12), real(1)
    for image in range(first, last):
        x, gaussian = positions[image], 0
        for node in range(x.shape[0]):
            if gaussian == node_of.shape[0] or node_of[gaussian] != node:
                continue  # without a Gaussian
            nodes = (frame_nodes[node, 0], frame_nodes[node, 1], frame_nodes[node, 2])
            e1, e2, e3, _, _, _, _ = _frame(x, nodes, framed[node], tiny, one)
            if turns.shape[1]:
                m1, m2, m3, _ = _rotation(turns[image, node], one)
                e1, e2, e3 = (
                    _combined(m1[0], m2[0], m3[0], e1, e2, e3),
                    _combined(m1[1], m2[1], m3[1], e1, e2, e3),
                    _combined(m1[2], m2[2], m3[2], e1, e2, e3),
                )
            while gaussian < node_of.shape[0] and node_of[gaussian] == node:
                a, b, c = offsets[gaussian, 0], offsets[gaussian, 1], offsets[gaussian, 2]
                for axis in range(3):
                    turned = a * e1[axis] + b * e2[axis] + c * e3[axis]
                    filled[image, gaussian, axis] = x[node, axis] + turned
                gaussian += 1


@compiled
def gradients(
    positions,
    turns,
    frame_nodes,
    framed,
    offsets,
    node_of,
    given,
    filled,
    filled_turns,
    first,
    last,
):
    """Add to the gradients (batch, node, 3) of structures `first` to `last` what those `given` in
    the centres say: the chain rule through the lines of `centres`, from the last to the first. The
    gradients in the turns are filled in.
    """
    real = positions.dtype.type
    tiny, one, zero = real(1e-12), real(1), real(0)
    nothing = (zero, zero, zero)
    for image in range(first, last):
        x, into, gaussian = positions[image], filled[image], 0
        for node in range(x.shape[0]):
            total, of_1, of_2, of_3 = nothing, nothing, nothing, nothing
            start = gaussian
            while gaussian < node_of.shape[0] and node_of[gaussian] == node:
                g = (
                    given[image, gaussian, 0],
                    given[image, gaussian, 1],
                    given[image, gaussian, 2],
                )
                total = _sum(total, one, g)
                of_1 = _sum(of_1, offsets[gaussian, 0], g)
                of_2 = _sum(of_2, offsets[gaussian, 1], g)
                of_3 = _sum(of_3, offsets[gaussian, 2], g)
                gaussian += 1
            if gaussian == start:
                continue
            for axis in range(3):
                into[node, axis] += total[axis]
            nodes = (frame_nodes[node, 0], frame_nodes[node, 1], frame_nodes[node, 2])
            e1, e2, e3, o, along, over_d, over_p = _frame(x, nodes, framed[node], tiny, one)
            if turns.shape[1]:
                t = turns[image, node]
                of_t, of_1, of_2, of_3 = _of_turn(t, e1, e2, e3, of_1, of_2, of_3, one)
                for axis in range(3):
                    filled_turns[image, node, axis] = of_t[axis]
            if framed[node]:
                of_d, of_o = _of_frame(e1, e2, o, along, over_d, over_p, of_1, of_2, of_3, one)
                for axis in range(3):
                    into[nodes[2], axis] += of_d[axis]
                    into[nodes[1], axis] += of_o[axis]
                    into[nodes[0], axis] -= of_d[axis] + of_o[axis]
