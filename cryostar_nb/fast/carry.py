"""Gaussians carried by the frames of nodes: from positions of nodes to centres, and gradients back.

The frame of a node is made of three neighbouring nodes, before, here and after:

    e1 = unit(after - before),  e2 = unit(o - (o . e1) e1) with o = here - before,  e3 = e1 x e2,

and a Gaussian of the node at x lies at x + a e1 + b e2 + c e3, where (a, b, c) is its offset. All
Gaussians of a node may be turned about it: by a vector t in its frame, about the vector and by the
angle 2 atan(|t| / 2), which is |t| where that is small; then R(t) (a, b, c) is the offset. On the
CPU two loops do this without storing a frame (`carry_cpu`); elsewhere PyTorch's own operations do.
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
    turns: Float[Tensor, "batch node 3"] | None = None,
    *,
    loops: bool = True,
) -> Float[Tensor, "batch gaussian 3"]:
    """Centres of Gaussians, in Å, sorted by the node that carries them; differentiable.

    Where `framed` is False the axes are x, y and z. `turns` are of the Gaussians about their nodes.
    Without `loops`, PyTorch's operations do it on a CPU, too.
    """
    offsets = offsets.to(positions)
    if loops and positions.device.type == "cpu":
        if turns is None:
            turns = positions.new_empty(len(positions), 0, 3)
        return _Carry.apply(positions, turns, frame_nodes, framed, offsets, node_of)
    centres = positions.index_select(-2, node_of)
    axes = frames(positions, frame_nodes, framed)
    if turns is not None:
        axes = axes @ rotations_of_turns(turns)
    for offset, axis in zip(offsets.unbind(-1), axes.unbind(-1), strict=True):
        centres = centres + offset[:, None] * axis.index_select(-2, node_of)
    return centres


def rotations_of_turns(turns: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation about each vector t by 2 atan(|t| / 2): the Cayley transform of its cross product.

    Without a sine or a root, and never by more than half a turn.
    """
    x, y, z = (0.5 * turns).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    scale = 2 / (1 + (0.25 * turns.square()).sum(-1))[..., None, None]
    identity = torch.eye(3, dtype=turns.dtype, device=turns.device)
    return identity + scale * (cross + cross @ cross)


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
    def forward(ctx: Any, positions: Tensor, turns: Tensor, *fixed: Tensor) -> Tensor:
        positions, turns = positions.contiguous(), turns.contiguous()
        centres = positions.new_empty(len(positions), len(fixed[-1]), 3)
        arrays = [tensor.detach().numpy() for tensor in (positions, turns, *fixed, centres)]
        in_parallel(carry_cpu.centres, len(positions), *arrays, nanoseconds=10 * centres.shape[1])
        ctx.save_for_backward(positions, turns, *fixed)
        return centres

    @staticmethod
    def backward(ctx: Any, *of_centres: Tensor) -> tuple[Tensor | None, ...]:
        saved, (given,) = ctx.saved_tensors, of_centres
        gradients = [torch.zeros_like(tensor) for tensor in saved[:2]]
        arrays = [tensor.detach().numpy() for tensor in (*saved, given.contiguous(), *gradients)]
        in_parallel(carry_cpu.gradients, len(given), *arrays, nanoseconds=20 * given.shape[1])
        return *gradients, None, None, None, None
