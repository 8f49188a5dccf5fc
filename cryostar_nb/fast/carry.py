"""Gaussians carried by the frames of nodes: from positions of nodes to centres, and gradients back.

The frame of a node is made of three neighbouring nodes, before, here and after:

    e1 = unit(after - before),  e2 = unit(o - (o . e1) e1) with o = here - before,  e3 = e1 x e2,

and a Gaussian of the node at x lies at x + a e1 + b e2 + c e3, where (a, b, c) is its offset. On
the CPU two loops do this without storing a frame (`carry_cpu`); elsewhere PyTorch's own operations
do.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from cryostar_nb.fast import carry_cpu
from cryostar_nb.fast.grid_cpu import in_parallel


def carry(
    positions: Float[Tensor, "batch node 3"],
    frame_nodes: Int[Tensor, "node 3"],
    framed: Bool[Tensor, " node"],
    offsets: Float[Tensor, "gaussian 3"],
    node_of: Int[Tensor, " gaussian"],
    *,
    loops: bool = True,
) -> Float[Tensor, "batch gaussian 3"]:
    """Centres of Gaussians, in Å, sorted by the node that carries them; differentiable.

    Where `framed` is False the axes are x, y and z. Without `loops`, PyTorch's operations do it on
    a CPU, too.
    """
    offsets = offsets.to(positions)
    if loops and positions.device.type == "cpu":
        return _Carry.apply(positions, frame_nodes, framed, offsets, node_of)
    centres = positions.index_select(-2, node_of)
    axes = frames(positions, frame_nodes, framed).unbind(-1)
    for offset, axis in zip(offsets.unbind(-1), axes, strict=True):
        centres = centres + offset[:, None] * axis.index_select(-2, node_of)
    return centres


def frames(
    positions: Float[Tensor, "*batch node 3"],
    frame_nodes: Int[Tensor, "node 3"],
    framed: Bool[Tensor, " node"],
) -> Float[Tensor, "*batch node 3 3"]:
    """Rotation matrices whose columns are the axes of each node's frame."""
    before, here, after = (positions.index_select(-2, i) for i in frame_nodes.unbind(-1))
    along, outward = normalize(after - before, dim=-1), here - before
    outward = normalize(outward - (outward * along).sum(-1, keepdim=True) * along, dim=-1)
    axes = torch.stack([along, outward, torch.linalg.cross(along, outward)], dim=-1)
    identity = torch.eye(3, dtype=axes.dtype, device=axes.device)
    return torch.where(framed[:, None, None], axes, identity)


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, *fixed: Tensor) -> Tensor:
        positions, gaussians = positions.contiguous(), len(fixed[-1])
        centres = positions.new_empty(len(positions), gaussians, 3)
        arrays = [tensor.detach().numpy() for tensor in (positions, *fixed, centres)]
        in_parallel(carry_cpu.centres, len(positions), *arrays, nanoseconds=10 * gaussians)
        ctx.save_for_backward(positions, *fixed)
        return centres

    @staticmethod
    def backward(ctx: Any, *of_centres: Tensor) -> tuple[Tensor | None, ...]:
        positions, *fixed = ctx.saved_tensors
        gradients = torch.zeros_like(positions)
        tensors = (positions, *fixed, of_centres[0].contiguous(), gradients)
        arrays, gaussians = [tensor.detach().numpy() for tensor in tensors], len(fixed[-1])
        in_parallel(carry_cpu.gradients, len(positions), *arrays, nanoseconds=20 * gaussians)
        return gradients, None, None, None, None
