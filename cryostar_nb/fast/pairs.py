"""Sums over pairs of nodes, made in one pass over a batch of structures, for the structural losses.

The distances themselves, (batch, pair), are never stored: for a spliceosome they are 11 million
numbers a step. Structures come as (atom, 3, batch), `positions.permute(1, 2, 0).contiguous()`: what
is done to a pair is done to neighbouring numbers, many at a time. On the CPU the loops are Numba's;
on a GPU, PyTorch's own operations and a Triton kernel.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryostar_nb.fast import dispatch, pairs_cpu
from cryostar_nb.fast.grid_cpu import in_parallel


def length_change_sums(
    positions: Float[Tensor, "atom 3 batch"],
    pairs: Int[Tensor, "pair 2"],
    lengths: Float[Tensor, " pair"],
) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]:
    """Batch sum of each pair's change of length, in Å, and of its square, in Å^2, as float64.

    With b structures, squares / b is the mean squared change of equations 2 and 6, and
    squares / b - (sums / b)^2 the variance of the distance of equation 7. Differentiable in the
    positions.
    """
    if positions.device.type == "cpu":
        return _LengthChangeSums.apply(positions.contiguous(), pairs, lengths.to(positions))
    apart = positions.index_select(0, pairs[:, 0]) - positions.index_select(0, pairs[:, 1])
    changes = apart.square().sum(1).clamp(min=1e-12).sqrt() - lengths[:, None]
    return changes.sum(1, dtype=torch.float64), changes.square().sum(1, dtype=torch.float64)


class _LengthChangeSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, pairs: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        sums, squares = positions.new_empty(2, len(pairs), dtype=torch.float64)
        arrays = [tensor.detach().numpy() for tensor in (positions, pairs, lengths, sums, squares)]
        batch = positions.shape[2]
        in_parallel(pairs_cpu.length_changes, len(pairs), *arrays, nanoseconds=0.7 * batch)
        ctx.save_for_backward(positions, pairs, lengths)
        return sums, squares

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        positions, pairs, lengths = ctx.saved_tensors
        gradients = torch.empty_like(positions)
        incoming = [gradient.to(positions.dtype).contiguous() for gradient in of_outputs]
        tensors = (positions, pairs, lengths, *incoming, gradients)
        arrays = [tensor.numpy() for tensor in tensors]
        kernel, batch = pairs_cpu.length_changes_gradient, positions.shape[2]
        in_parallel(kernel, batch, *arrays, nanoseconds=1.5 * len(pairs))
        return gradients, None, None


def clash_sums(
    positions: Float[Tensor, "atom 3 batch"], bonded: Bool[Tensor, " atom"], threshold: float
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Sum of the squared depth below `threshold`, in Å^2, of a structure's clashes; their number.

    Every pair of nodes counts but a node and the next one where `bonded` is True for the first.
    Cells find the pairs in O(atoms), anew in every call. Differentiable in the positions.
    """
    return _ClashSums.apply(positions.contiguous(), bonded, threshold)


class _ClashSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, positions: Tensor, bonded: Tensor, threshold: float
    ) -> tuple[Tensor, ...]:
        penalties, counts, gradients = dispatch.clashes(positions.detach(), bonded, threshold)
        ctx.save_for_backward(gradients)
        ctx.mark_non_differentiable(counts)
        return penalties, counts

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return of_outputs[0] * gradients, None, None
