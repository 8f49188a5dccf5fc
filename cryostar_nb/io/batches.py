"""The batches of training: which particles, in which order, and their vectors on the device when they are needed."""

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryostar_nb.errors import InputError
from cryostar_nb.io.vectors import VectorFile

BLOCK = 1024  # neighbours of a file that are read together, at most

T = TypeVar("T")


def epoch_order(count: int, seed: int, epoch: int, window: int) -> Int[Tensor, " particle"]:
    """All particles in the order of an epoch: a permutation, the same for the same seed.

    When a window is less than all, particles come by windows of that many. Blocks of neighbours are permuted, so that a
    window holds some from all over the file, which are read block by block; then each window is shuffled by itself.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    if window >= count:
        return torch.randperm(count, generator=generator)
    blocks = torch.arange(count).split(min(BLOCK, max(1, window // 16)))
    order = torch.cat([blocks[i] for i in torch.randperm(len(blocks), generator=generator)])
    return torch.cat(
        [rows[torch.randperm(len(rows), generator=generator)] for rows in order.split(window)]
    )


def particle_windows(
    count: int, batch_size: int, seed: int, start: int, window: int | None = None
) -> Iterator[Int[Tensor, " row"]]:
    """Endless windows of particle numbers from step `start` on, each a whole number of batches; without a window, epochs.

    An epoch is a fresh permutation, the same for the same seed. With a `window`, every batch lies within one window of about
    that many particles. What does not fill a batch waits for another epoch.
    """
    length = (
        count if window is None or window >= count else max(1, window // batch_size) * batch_size
    )
    per_epoch = count // batch_size
    epoch, place = divmod(start, per_epoch)
    while True:
        order = epoch_order(count, seed, epoch, length)[: per_epoch * batch_size]
        for end in range(length, len(order) + length, length):
            if end > place * batch_size:
                yield order[max(end - length, place * batch_size) : end]
        epoch, place = epoch + 1, 0


def resident(
    vectors: Float[Tensor, "particle band"] | VectorFile, device: torch.device
) -> Float[Tensor, "particle band"] | VectorFile:
    """The vectors on the GPU if they take at most half of its free memory; as they are otherwise, and on a CPU."""
    if device.type != "cuda":
        return vectors
    shape = (len(vectors), vectors.size if isinstance(vectors, VectorFile) else vectors.shape[1])
    free, _ = torch.cuda.mem_get_info(device)
    if shape[0] * shape[1] * 2 > free // 2:
        return vectors
    placed = torch.empty(shape, dtype=torch.float16, device=device)
    for target, part in zip(placed.split(1024), vectors.split(1024), strict=True):
        target.copy_(part)
    return placed


def batches_from(
    vectors: Float[Tensor, "particle band"] | VectorFile,
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    device: torch.device,
    window: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Generator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch band"]], None, None]:
    """For every step from `start` on: the numbers of its particles, on the CPU, and their vectors, on the device as stored.

    Vectors on the device are indexed; others are gathered by a thread, a batch ahead, and a file is read by another, a
    window ahead. `window` is that of `particle_windows`; a file has its own, which is taken when there is none. Of the `world_size`
    processes that share every batch, number `rank` gets its part. Close the generator (`contextlib.closing`) to end the threads.
    """
    if batch_size % world_size:
        raise InputError(
            f"batch_size = {batch_size} cannot be shared by {world_size} processes; give a multiple of {world_size}"
        )
    if window is None and isinstance(vectors, VectorFile):
        window = vectors.window
    share = batch_size // world_size
    windows = (
        rows.reshape(-1, batch_size)[:, rank * share : (rank + 1) * share]
        for rows in particle_windows(len(vectors), batch_size, seed, start, window)
    )
    if isinstance(vectors, Tensor) and vectors.device.type == device.type:
        return ((rows, vectors[rows.to(device)]) for window_rows in windows for rows in window_rows)
    return _read_ahead(vectors, windows, device)


def _read_ahead(
    vectors: Float[Tensor, "particle band"] | VectorFile,
    windows: Iterator[Int[Tensor, "step batch"]],
    device: torch.device,
) -> Generator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch band"]], None, None]:
    """The batches of these windows, from memory or from a file."""
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=2) as pool:
        loaded = _ahead(pool, (partial(_load, vectors, rows, stop) for rows in windows))
        try:
            for rows, batch in _ahead(pool, _gathers(loaded, device)):
                yield rows, batch.to(device, non_blocking=True)
        finally:
            stop.set()


def _ahead(pool: ThreadPoolExecutor, calls: Iterator[Callable[[], T]]) -> Iterator[T]:
    """The results of endless calls, in order; a thread works on the next one while this one is used. Errors come out here."""
    following = pool.submit(next(calls))
    for call in calls:
        result = following.result()
        following = pool.submit(call)
        yield result
        del result  # before the call after next begins: two windows are in memory, not three


def _load(
    vectors: Float[Tensor, "particle band"] | VectorFile,
    rows: Int[Tensor, "step batch"],
    stop: threading.Event,
) -> tuple[Float[Tensor, "row band"], Int[Tensor, "step batch"], Int[Tensor, "step batch"]]:
    """A tensor that holds the rows of a window, the rows, and their places in it."""
    if isinstance(vectors, Tensor):
        return vectors, rows, rows
    ascending, source_of = rows.flatten().sort()
    places = torch.empty_like(source_of)
    places[source_of] = torch.arange(len(places))
    return vectors.read(ascending, stop), rows, places.reshape(rows.shape)


def _gathers(
    loaded: Iterator[tuple[Tensor, Tensor, Tensor]], device: torch.device
) -> Iterator[Callable[[], tuple[Tensor, Tensor]]]:
    """The calls that gather the batches of each window.

    Memory for a GPU's batch is page-locked: its copy needs no waiting, and PyTorch uses it again when the copy is done. It
    is taken here, because a thread of the pool does not know which GPU is this process's.
    """
    for source, window, places_of in loaded:
        for rows, places in zip(window, places_of, strict=True):
            out = torch.empty(
                len(rows), source.shape[1], dtype=source.dtype, pin_memory=device.type == "cuda"
            )
            yield partial(_gather, source, rows, places, out)
        del source


def _gather(
    source: Float[Tensor, "row band"],
    rows: Int[Tensor, " batch"],
    places: Int[Tensor, " batch"],
    out: Float[Tensor, "batch band"],
) -> tuple[Int[Tensor, " batch"], Float[Tensor, "batch band"]]:
    return rows, torch.index_select(source, 0, places, out=out)
