"""The batches of training: the order of the particles, and their vectors on the device."""

from collections.abc import Generator, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryostar_nb.errors import InputError


def held_out_rows(count: int, fraction: float, *, seed: int) -> Int[Tensor, " row"]:
    """Numbers of the particles, in ascending order, that are not trained on: at least two, drawn at
    random, the same for the same count and seed; none for a fraction of 0.
    """
    held_out = max(2, round(fraction * count)) if fraction > 0 else 0
    generator = torch.Generator().manual_seed(seed * 1_000_003 - 1)  # of no epoch of `batch_rows`
    return torch.randperm(count, generator=generator)[:held_out].sort().values


def batch_rows(
    count: int, batch_size: int, *, seed: int, start: int = 0
) -> Iterator[Int[Tensor, " batch"]]:
    """Endless batches of particle numbers, from step `start` on.

    Every epoch is a permutation of its own, the same for the same seed; particles that do not fill
    a batch wait for another epoch.
    """
    per_epoch = count // batch_size
    epoch, first = divmod(start, per_epoch)
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator)
        yield from order[first * batch_size : per_epoch * batch_size].split(batch_size)
        epoch, first = epoch + 1, 0


def resident(
    table: Float[Tensor, "particle number"],
    device: torch.device,
    *others: Tensor,
) -> Float[Tensor, "particle number"]:
    """The table on the GPU, if it fits into half of its free memory; else as it is.

    `others` have their part of that half already, where they lie there.
    """
    if device.type != "cuda":
        return table
    free, _ = torch.cuda.mem_get_info(device)
    taken = sum(other.nbytes for other in others if other.device.type == "cuda")
    if taken + table.nbytes > (free + taken) // 2:
        return table
    placed = torch.empty_like(table, device=device)
    for target, part in zip(placed.split(1024), table.split(1024), strict=True):
        target.copy_(part)
    return placed


def share_of(batch_size: int, rank: int, world_size: int) -> slice:
    """The part of a batch that is process number `rank`'s of `world_size`.

    Raises InputError for a batch size that is no multiple of `world_size`.
    """
    if batch_size % world_size:
        raise InputError(
            f"batch_size = {{value}} cannot be shared by {world_size} processes",
            value=batch_size,
            remedy=f"give a multiple of {world_size}",
        )
    return slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)


def batches_from(
    vectors: Float[Tensor, "particle band"],
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    among: Int[Tensor, " row"] | None = None,
) -> Generator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch band"]], None, None]:
    """For every step from `start` on: its particles, on the CPU, and their vectors, on the device.

    They are drawn among the particles `among`, all by default, in the order of `batch_rows`, and
    vectors stay as they are stored, at half precision. Of the `world_size` processes that share
    every batch, number `rank` gets its part. Raises InputError for a batch size that is no multiple
    of `world_size`.
    """
    part = share_of(batch_size, rank, world_size)
    among = torch.arange(len(vectors)) if among is None else among
    batches = batch_rows(len(among), batch_size, seed=seed, start=start)
    chosen = (among[places[part]] for places in batches)
    return ((rows, gather(vectors, rows, device)) for rows in chosen)


def gather(
    vectors: Float[Tensor, "particle band"], rows: Int[Tensor, " batch"], device: torch.device
) -> Float[Tensor, "batch band"]:
    """These vectors on the device.

    Memory for what goes to a GPU is page-locked: the copy then waits for no kernel, and PyTorch
    uses the memory again when the copy is done.
    """
    if vectors.device.type == device.type:
        return vectors.index_select(0, rows.to(vectors.device))
    locked = device.type == "cuda"
    batch = torch.empty(len(rows), vectors.shape[1], dtype=vectors.dtype, pin_memory=locked)
    torch.index_select(vectors, 0, rows, out=batch)
    return batch.to(device, non_blocking=True)
