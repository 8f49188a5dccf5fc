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


@compiled
def centres(positions, frame_nodes, framed, offsets, node_of, filled, first, last):
    """Fill in the centres (batch, gaussian, 3) of structures `first` to `last`."""
    real = positions.dtype.type
    tiny, one, zero = real(1e-12), real(1), real(0)
    for image in range(first, last):
        x, gaussian = positions[image], 0
        for node in range(x.shape[0]):
            if gaussian == node_of.shape[0] or node_of[gaussian] != node:
                continue  # without a Gaussian
            e1, e2, e3 = (one, zero, zero), (zero, one, zero), (zero, zero, one)
            if framed[node]:
                before, here = frame_nodes[node, 0], frame_nodes[node, 1]
                d, o = _apart(x, frame_nodes[node, 2], before), _apart(x, here, before)
                e1 = _sum((zero, zero, zero), _over_length(d, tiny, one), d)
                p = _sum(o, -_dot(o, e1), e1)
                e2 = _sum((zero, zero, zero), _over_length(p, tiny, one), p)
                e3 = _cross(e1, e2)
            while gaussian < node_of.shape[0] and node_of[gaussian] == node:
                a, b, c = offsets[gaussian, 0], offsets[gaussian, 1], offsets[gaussian, 2]
                for axis in range(3):
                    turned = a * e1[axis] + b * e2[axis] + c * e3[axis]
                    filled[image, gaussian, axis] = x[node, axis] + turned
                gaussian += 1


@compiled
def gradients(positions, frame_nodes, framed, offsets, node_of, of_centres, filled, first, last):
    """Add to the gradients (batch, node, 3) of structures `first` to `last` what those in the
    centres say: the chain rule through the lines of `centres`, from the last to the first.
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
                g = of_centres[image, gaussian]
                given = (g[0], g[1], g[2])
                total = _sum(total, one, given)
                of_1 = _sum(of_1, offsets[gaussian, 0], given)
                of_2 = _sum(of_2, offsets[gaussian, 1], given)
                of_3 = _sum(of_3, offsets[gaussian, 2], given)
                gaussian += 1
            if gaussian == start:
                continue
            for axis in range(3):
                into[node, axis] += total[axis]
            if not framed[node]:
                continue
            before, here, after = frame_nodes[node, 0], frame_nodes[node, 1], frame_nodes[node, 2]
            d, o = _apart(x, after, before), _apart(x, here, before)
            over_d = _over_length(d, tiny, one)
            e1 = _sum(nothing, over_d, d)
            along = _dot(o, e1)
            p = _sum(o, -along, e1)
            over_p = _over_length(p, tiny, one)
            e2 = _sum(nothing, over_p, p)
            of_1, of_2 = _sum(of_1, one, _cross(e2, of_3)), _sum(of_2, one, _cross(of_3, e1))
            of_p = _sum(nothing, over_p, _sum(of_2, -_dot(of_2, e2), e2))
            of_o = _sum(of_p, -_dot(of_p, e1), e1)
            of_1 = _sum(_sum(of_1, -along, of_p), -_dot(of_p, e1), o)
            of_d = _sum(nothing, over_d, _sum(of_1, -_dot(of_1, e1), e1))
            for axis in range(3):
                into[after, axis] += of_d[axis]
                into[here, axis] += of_o[axis]
                into[before, axis] -= of_d[axis] + of_o[axis]
