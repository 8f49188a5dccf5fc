"""Three loops over nodes for which PyTorch has no operation, by Numba on a CPU, Triton on a GPU."""

import importlib.util

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryostar_nb.fast import grid_cpu, pairs_cpu
from cryostar_nb.fast.grid_cpu import in_parallel

HAS_TRITON = importlib.util.find_spec("triton") is not None


def uses_gpu(tensor: Tensor) -> bool:
    """Whether the Triton kernels serve this tensor."""
    return tensor.device.type == "cuda" and tensor.dtype == torch.float32 and HAS_TRITON


def available(tensor: Tensor) -> bool:
    """Whether there are kernels for the device of this tensor, and in its precision."""
    return tensor.device.type == "cpu" or uses_gpu(tensor)


def spread(
    positions: Float[Tensor, "batch atom 3"],
    amplitudes: Float[Tensor, " atom"],
    polynomials: Tensor,
    scale: float,
    size: int,
) -> Float[Tensor, "batch y x"]:
    """Add each node's window, times its amplitude, to a periodic grid of `size` x `size` points.

    `scale` is the number of points to an Å; `polynomials` are those of the window (`nufft.Plan`).
    """
    if uses_gpu(positions):
        from cryostar_nb.fast import gpu

        return gpu.spread(positions, amplitudes, polynomials, scale, size)
    grid = positions.new_empty(len(positions), size, size)
    arrays = [tensor.numpy() for tensor in (positions, amplitudes, polynomials)]
    in_parallel(grid_cpu.spread, len(positions), *arrays, arrays[0].dtype.type(scale), grid.numpy())
    return grid


def interpolate(
    field: Float[Tensor, "batch y x"],
    positions: Float[Tensor, "batch atom 3"],
    polynomials: Tensor,
    slopes: Tensor,
    scale: float,
) -> tuple[Float[Tensor, "batch atom"], Float[Tensor, "batch atom 3"]]:
    """The adjoint of `spread`: the field's sum under each node's window, and its gradient per Å."""
    if uses_gpu(positions):
        from cryostar_nb.fast import gpu

        return gpu.interpolate(field, positions, polynomials, slopes, scale)
    device, positions = positions.device, positions.cpu()
    values, gradients = torch.empty_like(positions[..., 0]), torch.empty_like(positions)
    arrays = [tensor.cpu().numpy() for tensor in (field, positions, polynomials, slopes)]
    arrays += [arrays[0].dtype.type(scale), values.numpy(), gradients.numpy()]
    in_parallel(grid_cpu.interpolate, len(positions), *arrays)
    return values.to(device), gradients.to(device)


def clashes(
    positions: Float[Tensor, "atom 3 batch"], bonded: Bool[Tensor, " atom"], threshold: float
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, "atom 3 batch"]]:
    """Sum of the squared depth below `threshold` of each structure's clashing pairs, their number,
    and the gradient of the sum. Where a GPU has no kernels the search runs on the CPU.
    """
    if uses_gpu(positions):
        from cryostar_nb.fast import gpu

        by_image = positions.permute(2, 0, 1).contiguous()
        penalties, counts, gradients = gpu.clashes(by_image, bonded, threshold)
        return penalties, counts, gradients.permute(1, 2, 0)
    host = positions.cpu()
    low, high = host.aminmax(dim=2)
    halves, batch = (high - low) / 2, host.shape[2]
    # A cell of this size lets most atoms look into eight cells.
    edge = 1.5 * threshold + 3 * float(halves.nan_to_num(0, 0, 0).mean())
    inputs = [host, (high + low) / 2, halves, halves.amax(1).argsort(stable=True), bonded.cpu()]
    outputs = [host.new_empty(batch), host.new_empty(batch), torch.empty_like(host)]
    arrays = [[tensor.numpy() for tensor in tensors] for tensors in (inputs, outputs)]
    sizes = [host.numpy().dtype.type(size) for size in (threshold, edge)]
    arguments = (*arrays[0], *sizes, *arrays[1])
    in_parallel(pairs_cpu.clashes, batch, *arguments, nanoseconds=30 * len(host))
    penalties, counts, gradients = (tensor.to(positions.device) for tensor in outputs)
    return penalties, counts, gradients
