"""The batches of training: their order by laws, and the same particles wherever they lie."""

import itertools

import numpy as np
import pytest
import torch
from refusals import refused

from cryostar_nb.io.batches import batch_rows, batches_from, held_out_rows, resident

CPU = torch.device("cpu")
SETS = pytest.mark.parametrize(("count", "batch"), [(24, 8), (26, 8), (997, 16)])


def take(iterator, count):
    return list(itertools.islice(iterator, count))


@pytest.fixture
def stored(tmp_path, generator):
    """A thousand vectors, in memory and mapped from a file."""
    tensor = torch.randn(1000, 6, generator=generator).half()
    tensor.numpy().tofile(tmp_path / "vectors.f16")
    mapped = np.memmap(tmp_path / "vectors.f16", dtype=np.float16, mode="c", shape=(1000, 6))
    return tensor, torch.from_numpy(mapped)


# The order of the particles


@SETS
def test_an_epoch_has_as_many_whole_batches_as_there_can_be_and_no_particle_twice(count, batch):
    order = batch_rows(count, batch, seed=0)
    epochs = [torch.cat(take(order, count // batch)).tolist() for _ in range(3)]
    assert all(len(set(epoch)) == len(epoch) == count // batch * batch for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@SETS
def test_what_does_not_fill_a_batch_waits_for_another_epoch(count, batch):
    rows = torch.cat(take(batch_rows(count, batch, seed=0), 40 * (count // batch)))
    assert len(rows.unique()) == count


@SETS
@pytest.mark.parametrize("start", [1, 7, 63, 200])
def test_the_order_can_be_taken_up_in_the_middle(count, batch, start):
    every = take(batch_rows(count, batch, seed=5), 260)
    rest = take(batch_rows(count, batch, seed=5, start=start), 260 - start)
    assert all(torch.equal(a, b) for a, b in zip(every[start:], rest, strict=True))


@SETS
def test_the_order_depends_on_the_seed(count, batch):
    first, again, other = (next(batch_rows(count, batch, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_an_epoch_is_one_permutation():
    """The order of a seed is part of a run: it may not change from one version to the next."""
    order = torch.cat(take(batch_rows(100, 16, seed=3, start=12), 6))
    generator = torch.Generator().manual_seed(3 * 1_000_003 + 2)
    assert torch.equal(order, torch.randperm(100, generator=generator)[:96])


# Particles held out


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(1000, 0.05, 50), (30, 0.05, 2), (9, 0.5, 4), (50, 0.0, 0)]
)
def test_a_part_of_the_particles_is_held_out_at_least_two_or_none(count, fraction, expected):
    rows = held_out_rows(count, fraction, seed=0)
    assert len(rows) == len(rows.unique()) == expected
    assert rows.tolist() == sorted(rows.tolist()) and set(rows.tolist()) <= set(range(count))


def test_they_depend_on_the_count_and_the_seed_alone():
    """Which they are is part of a run: it may not change from one version to the next."""
    rows = held_out_rows(1000, 0.05, seed=4)
    torch.rand(3)
    assert torch.equal(held_out_rows(1000, 0.05, seed=4), rows)
    assert not torch.equal(held_out_rows(1000, 0.05, seed=5), rows)
    generator = torch.Generator().manual_seed(4 * 1_000_003 - 1)
    assert torch.equal(rows, torch.randperm(1000, generator=generator)[:50].sort().values)
    counts = torch.bincount(torch.cat([held_out_rows(20, 0.5, seed=seed) for seed in range(400)]))
    assert counts.min() > 160 and counts.max() < 240  # of 200 ± 10


@pytest.mark.parametrize("kind", [0, 1], ids=["memory", "file"])
def test_batches_have_only_the_particles_that_they_are_drawn_from(kind, stored):
    among = torch.arange(3, 1000, 7)
    batches = batches_from(stored[kind], 16, seed=2, start=5, device=CPU, among=among)
    places = batch_rows(len(among), 16, seed=2, start=5)
    for (rows, batch), expected in zip(take(batches, 40), places, strict=False):
        assert torch.equal(rows, among[expected]) and torch.equal(batch, stored[0][rows])


# The same batches, wherever the vectors are


@pytest.mark.parametrize("kind", [0, 1], ids=["memory", "file"])
@pytest.mark.parametrize("start", [0, 1, 61, 130])
def test_batches_are_the_vectors_of_their_rows(start, kind, stored):
    batches = take(batches_from(stored[kind], 16, seed=2, start=start, device=CPU), 150)
    for (rows, batch), ordered in zip(
        batches, batch_rows(1000, 16, seed=2, start=start), strict=False
    ):
        assert torch.equal(rows, ordered) and rows.dtype == torch.int64
        assert batch.dtype == torch.float16 and torch.equal(batch, stored[0][rows])


@pytest.mark.parametrize("kind", [0, 1], ids=["memory", "file"])
def test_the_parts_of_the_processes_are_the_batch(kind, stored):
    every = take(batches_from(stored[0], 12, seed=0, device=CPU), 100)
    parts = [
        take(batches_from(stored[kind], 12, seed=0, device=CPU, rank=rank, world_size=3), 100)
        for rank in range(3)
    ]
    for (rows, batch), *shares in zip(every, *parts, strict=True):
        assert torch.equal(torch.cat([part[0] for part in shares]), rows)
        assert torch.equal(torch.cat([part[1] for part in shares]), batch)


def test_a_batch_that_cannot_be_shared_is_refused(stored):
    with refused(value=64):
        batches_from(stored[0], 64, seed=0, device=CPU, world_size=3)


@pytest.mark.parametrize("kind", [0, 1], ids=["memory", "file"])
def test_vectors_are_sent_to_another_device(kind, stored):
    batches = batches_from(stored[kind], 16, seed=0, device=torch.device("meta"))
    for (rows, batch), ordered in zip(
        take(batches, 70), batch_rows(1000, 16, seed=0), strict=False
    ):
        assert torch.equal(rows, ordered)
        assert batch.device.type == "meta" and batch.shape == (16, 6)


@pytest.mark.parametrize("kind", [0, 1], ids=["memory", "file"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_values(kind, stored):
    device = torch.device("cuda")
    placed = resident(stored[kind], device)
    assert placed.device.type == "cuda" and torch.equal(placed.cpu(), stored[0])
    for source in (stored[kind], placed):
        batches = batches_from(source, 16, seed=0, device=device)
        for rows, batch in take(batches, 200):
            assert batch.device.type == "cuda" and torch.equal(batch.cpu(), stored[0][rows])


def test_on_a_cpu_the_vectors_stay_where_they_are(stored):
    assert all(resident(vectors, CPU) is vectors for vectors in stored)
