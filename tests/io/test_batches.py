"""The batches of training: their order by laws, and the same particles and values from memory, from a file, and in parts."""

import itertools
import threading
from contextlib import closing

import numpy as np
import pytest
import torch

from cryostar_nb.errors import InputError
from cryostar_nb.io import batches, vectors
from cryostar_nb.io.batches import batches_from, particle_windows, resident
from cryostar_nb.io.vectors import VectorFile

CPU = torch.device("cpu")
SETS = pytest.mark.parametrize(
    ("count", "batch", "window"),
    [
        (24, 8, None),
        (26, 8, None),
        (1000, 8, 64),
        (1000, 8, 70),
        (997, 16, 250),
        (997, 16, 3),
        (997, 16, 5000),
    ],
)


def particle_order(count, batch, seed, start, window=None):
    """The batches of the windows, one after the other."""
    return (
        rows
        for window_rows in particle_windows(count, batch, seed, start, window)
        for rows in window_rows.split(batch)
    )


def take(iterator, count):
    return list(itertools.islice(iterator, count))


@pytest.fixture
def stored(tmp_path, generator, monkeypatch):
    """A thousand vectors, in memory and in a file that is read in small bites."""
    monkeypatch.setattr(vectors, "BYTES_AT_ONCE", 16 * 12)
    tensor = torch.randn(1000, 6, generator=generator).half()
    path = tmp_path / "vectors.f16"
    tensor.numpy().tofile(path)
    return tensor, VectorFile(path, 1000, 6, window=128, modified=path.stat().st_mtime_ns)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


# The order of the particles


@SETS
def test_an_epoch_has_as_many_whole_batches_as_there_can_be_and_no_particle_twice(
    count, batch, window
):
    order = particle_order(count, batch, 0, 0, window)
    epochs = [torch.cat(take(order, count // batch)).tolist() for _ in range(3)]
    assert all(len(set(epoch)) == len(epoch) == count // batch * batch for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@SETS
def test_what_does_not_fill_a_batch_waits_for_another_epoch(count, batch, window):
    assert (
        len(
            torch.cat(
                take(particle_order(count, batch, 0, 0, window), 40 * (count // batch))
            ).unique()
        )
        == count
    )


@SETS
@pytest.mark.parametrize("start", [1, 7, 63, 200])
def test_the_order_can_be_taken_up_in_the_middle(count, batch, window, start):
    whole = take(particle_order(count, batch, 5, 0, window), 260)
    rest = take(particle_order(count, batch, 5, start, window), 260 - start)
    assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


@SETS
def test_the_order_depends_on_the_seed(count, batch, window):
    first, again, other = (
        next(particle_order(count, batch, seed, 0, window)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_without_a_window_an_epoch_is_one_permutation():
    """The order of a seed is part of a run: it may not change from one version to the next."""
    for window in (None, 100, 1000):
        order = torch.cat(take(particle_order(100, 16, 3, 12, window), 6))
        assert torch.equal(
            order,
            torch.randperm(100, generator=torch.Generator().manual_seed(3 * 1_000_003 + 2))[:96],
        )


@pytest.mark.parametrize(
    ("count", "batch", "window"), [(100_000, 64, 4096), (100_000, 64, 40_000), (5000, 64, 100)]
)
def test_a_window_is_of_its_size_and_of_a_few_blocks_from_all_over_the_file(count, batch, window):
    size = window // batch * batch
    block = min(batches.BLOCK, size // 16)
    windows = take(particle_windows(count, batch, 0, 0, window), count // batch * batch // size)
    assert all(len(rows) == size for rows in windows)
    for rows in windows:
        runs = 1 + int((rows.sort().values.diff() > 1).sum())
        assert runs <= size / block + 2  # at each end there may be a part of a block
    spread = np.mean([rows.double().std() for rows in windows])
    assert spread > 0.75 * count / 12**0.5
    assert (windows[0].diff().abs() == 1).float().mean() < 0.1  # shuffled within


# The same batches, wherever the vectors are


@pytest.mark.parametrize("start", [0, 1, 15, 16, 61, 63, 130])
def test_a_file_gives_what_a_tensor_gives(start, stored):
    tensor, file = stored
    with closing(batches_from(file, 16, seed=2, start=start, device=CPU)) as batches:
        found = take(batches, 150)
    expected = take(batches_from(tensor, 16, seed=2, start=start, device=CPU, window=128), 150)
    order = particle_order(1000, 16, 2, start, 128)
    for (rows, batch), (same_rows, same_batch), ordered in zip(
        found, expected, order, strict=False
    ):
        assert torch.equal(rows, same_rows) and torch.equal(rows, ordered)
        assert (
            batch.dtype == torch.float16
            and torch.equal(batch, tensor[rows])
            and torch.equal(batch, same_batch)
        )


@pytest.mark.parametrize("kind", [0, 1], ids=["tensor", "file"])
def test_the_parts_of_the_processes_are_the_batch(kind, stored):
    whole = take(batches_from(stored[0], 12, seed=0, device=CPU, window=128), 100)
    parts = []
    for rank in range(3):
        with closing(
            batches_from(stored[kind], 12, seed=0, device=CPU, window=128, rank=rank, world_size=3)
        ) as batches:
            parts.append(take(batches, 100))
    for (rows, batch), *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([part[0] for part in shares]), rows)
        assert torch.equal(torch.cat([part[1] for part in shares]), batch)


def test_a_batch_that_cannot_be_shared_is_refused(stored):
    with pytest.raises(
        InputError, match="batch_size = 64 cannot be shared by 3 processes; give a multiple of 3"
    ):
        batches_from(stored[0], 64, seed=0, device=CPU, world_size=3)


def test_vectors_in_memory_are_sent_to_another_device(stored):
    with closing(batches_from(stored[0], 16, seed=0, device=torch.device("meta"))) as batches:
        found = take(batches, 70)
    for (rows, batch), ordered in zip(found, particle_order(1000, 16, 0, 0), strict=False):
        assert torch.equal(rows, ordered)
        assert batch.device.type == "meta" and batch.shape == (16, 6)


@pytest.mark.parametrize("kind", [0, 1], ids=["tensor", "file"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_values(kind, stored):
    device = torch.device("cuda")
    placed = resident(stored[kind], device)
    assert placed.device.type == "cuda" and torch.equal(placed.cpu(), stored[0])
    for source in (stored[kind], placed):
        with closing(batches_from(source, 16, seed=0, device=device, window=128)) as batches:
            for rows, batch in take(batches, 200):
                assert batch.device.type == "cuda" and torch.equal(batch.cpu(), stored[0][rows])


def test_on_a_cpu_the_vectors_stay_where_they_are(stored):
    assert all(resident(vectors, CPU) is vectors for vectors in stored)


# Threads


def test_an_error_of_a_thread_comes_out_of_the_loop(stored):
    _, file = stored
    seen = 0
    with pytest.raises(InputError, match=r"vectors\.f16: was written anew while it was in use"):
        for _ in batches_from(file, 16, seed=0, device=CPU):
            seen += 1
            if seen == 3:
                file.path.unlink()
    assert 3 <= seen <= 16 + 8  # the window in use and the one that was being read


def test_closing_does_not_wait_for_a_window_to_be_read(stored, monkeypatch):
    read, reading = VectorFile.read, threading.Event()

    def endless(self, rows, stop):
        if rows[0] != 0:
            reading.set()
            assert stop.wait(10)
        return read(self, rows, stop)

    monkeypatch.setattr(VectorFile, "read", endless)
    windows = iter(torch.arange(144).reshape(3, 3, 16))
    reads = batches._read_ahead(stored[1], windows, CPU)
    next(reads)
    assert reading.wait(10)
    reads.close()


def test_a_loop_that_is_interrupted_ends_its_threads(stored):
    with (
        pytest.raises(KeyboardInterrupt),
        closing(batches_from(stored[1], 16, seed=0, device=CPU)) as batches,
    ):
        for _ in batches:
            raise KeyboardInterrupt


def test_a_loader_that_was_never_started_has_no_threads(stored):
    batches_from(stored[1], 16, seed=0, device=CPU).close()
