"""The benchmark of maps: its other way of inserting slices, and its page."""

import pytest
import torch

from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.reconstruction import Slices


@pytest.fixture
def bench(import_benchmark):
    return import_benchmark("reconstruct")


def test_index_add_fills_the_same_grid_as_the_compiled_loop(bench, generator, rng):
    band, count = Band(20, 1.5, 3.5), 9
    vectors = torch.randn(count, band.size, generator=generator)
    transfers = torch.randn(count, len(band.indices), generator=generator)
    rotations = torch.from_numpy(random_rotations(count, rng)).float()
    compiled, other = Slices.none(band, 1), Slices.none(band, 1)
    compiled.add(vectors, transfers, rotations, torch.ones(count, 1))
    bench.by_index_add(other, vectors, transfers, rotations)
    torch.testing.assert_close(compiled.grid, other.grid, rtol=1e-4, atol=1e-4)


def test_the_page_has_a_row_for_each_bin(bench):
    one = {
        "mean_state": 5.5,
        "best_state": 6,
        "halves": 2.5,
        "truth": 2.25,
        "consensus_to_truth": None,
        "model": 2.75,
        "disagreeing": 3,
    }
    on = {"device": "CPU", "processor": "P", "cores": 2, "threads": 1, "memory_gib": 4.0}
    on |= {"torch": "2", "numba": "0", "date": "today", "load_average": 0.5}
    cell = {
        "system": "adk",
        "particles": 50_000,
        "box_size": 128,
        "pixel_size": 1.0,
        "snr": 0.1,
        "steps": 20,
        "rmsd_mean": 0.5,
        "do_nothing": 3.5,
        "version": "1",
        "commit": "c",
        "date": "today",
        "bins": [one, one],
        "seconds": {"one map of all": {"wall": 30.0, "cores": 58.0}},
        "on": on,
    }
    page = bench.table([cell], {"times": {"compiled": 0.625}, "on": on})
    row = "| 5.5 | 6 | 2.50 Å | 2.25 Å | none | 2.75 Å | 3 |"
    assert f"| 1 {row}" in page and f"| 2 {row}" in page
    assert (
        "50,000 particles" in page and "one map of all 30 s, of which cores computed 58 s" in page
    )
    assert "compiled 0.62 ms" in page
