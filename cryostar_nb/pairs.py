"""Sums over pairs of nodes, made in one pass over a batch of structures: what the structural losses need of them.

The distances themselves, (batch, pair), are never stored: for a spliceosome they are 11 million numbers a step. On the CPU
the loops are Numba's; on a GPU, PyTorch's own operations and a Triton kernel.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryostar_nb import cpu_kernels, kernels
from cryostar_nb.cpu_kernels import in_parallel
from cryostar_nb.geometry import pair_distances


def length_change_sums(
    positions: Float[Tensor, "batch atom 3"], pairs: Int[Tensor, "pair 2"], lengths: Float[Tensor, " pair"]
) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]:
    """Sum over the batch of each pair's change of length, in Å, and of its square, in Å^2, as float64.

    With b structures, squares / b is the mean squared change of equations 2 and 6, and squares / b - (sums / b)^2 the
    variance of the distance of equation 7. Differentiable in the positions.
    """
    if positions.device.type == "cpu":
        return _LengthChangeSums.apply(positions, pairs, lengths)
    changes = pair_distances(positions, pairs) - lengths
    return changes.sum(0, dtype=torch.float64), changes.square().sum(0, dtype=torch.float64)


class _LengthChangeSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, pairs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        positions = positions.permute(1, 2, 0).contiguous()  # (atom, 3, batch)
        lengths = lengths.to(positions)
        sums, squares = positions.new_empty(2, len(pairs), dtype=torch.float64)
        arrays = [tensor.detach().numpy() for tensor in (positions, pairs, lengths, sums, squares)]
        in_parallel(cpu_kernels.length_changes, len(pairs), *arrays)
        ctx.save_for_backward(positions, pairs, lengths)
        return sums, squares

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        positions, pairs, lengths = ctx.saved_tensors
        gradients = torch.empty_like(positions)
        of_sums, of_squares = (gradient.to(positions.dtype).contiguous() for gradient in of_outputs)
        arrays = [tensor.numpy() for tensor in (positions, pairs, lengths, of_sums, of_squares, gradients)]
        in_parallel(cpu_kernels.length_changes_gradient, positions.shape[2], *arrays)
        return gradients.permute(2, 0, 1), None, None


def clash_sums(
    positions: Float[Tensor, "batch atom 3"], bonded: Bool[Tensor, " atom"], threshold: float
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Squared depth below `threshold`, in Å^2, summed over the clashing pairs of each structure, and the number of those pairs.

    Every pair of nodes counts, of any chains, but for a node and the next one where `bonded` is True for the first. Cells of
    the size of the threshold find them in O(atoms), anew in every call. Differentiable in the positions.
    """
    return _ClashSums.apply(positions, bonded, threshold)


class _ClashSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, bonded: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        penalties, counts, gradients = kernels.clashes(positions.detach().contiguous(), bonded, threshold)
        ctx.save_for_backward(gradients)
        ctx.mark_non_differentiable(counts)
        return penalties, counts

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return of_outputs[0][:, None, None] * gradients, None, None
