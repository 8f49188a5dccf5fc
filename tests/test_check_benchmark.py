"""The benchmark of `check`: its faults are the ones that they are said to be."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cryostar_nb.fourier import Band
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.vectors import load_band_vectors
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import simulate

ROOT = Path(__file__).parent.parent
BAND = Band(32, 4.0, resolution=10.0)


@pytest.fixture
def bench(import_benchmark):
    return import_benchmark("check")


@pytest.fixture
def star(tmp_path):
    config = SimulationConfig(n_particles=12, box_size=32, pixel_size=4.0, states=4, snr=10.0)
    simulate(config, start=ROOT / "data/1ake.pdb", end=ROOT / "data/4ake.pdb", out=tmp_path)
    return tmp_path / "particles.star"


def likeness(first, second):
    """Correlation of the vectors of each particle."""
    vectors = (load_band_vectors(particles, BAND) for particles in (first, second))
    return torch.cosine_similarity(*vectors)


def test_images_of_faults_are_right_when_they_are_read_right(bench, star):
    good = read_particles(star)
    bad = read_particles(bench.with_fault("origins with the wrong sign", star))
    right = dataclasses.replace(bad, shifts=-bad.shifts)
    assert likeness(good, right).min() > 0.98 and likeness(good, bad).mean() < 0.7
    bad = read_particles(bench.with_fault("phase-flipped", star))
    right = dataclasses.replace(bad, phase_flipped=True)
    assert likeness(good, right).min() > 0.98 and likeness(good, bad).mean() < 0.9
    bad = read_particles(bench.with_fault("rotations transposed", star))
    torch.testing.assert_close(bad.rotations, good.rotations.mT)
    assert bench.with_fault("domain missing", star) == star


def test_references_have_the_faults_of_their_cases(bench, tmp_path):
    good = bench.cs.read_structure(bench.KINASE)
    lid = (good.residue_numbers >= 118) & (good.residue_numbers <= 160)

    def of(case):
        return bench.cs.read_structure(bench.reference_of(case, tmp_path))

    moved = of("reference displaced by 10 Å").positions - good.positions
    np.testing.assert_allclose(moved, np.broadcast_to([10.0, 0, 0], moved.shape), atol=2e-3)
    turned = of("domain turned by 90°").positions
    np.testing.assert_allclose(turned[~lid], good.positions[~lid], atol=2e-3)
    assert np.linalg.norm(turned[lid] - good.positions[lid], axis=-1).mean() > 8
    assert len(of("domain missing")) == (~lid).sum()
    assert bench.reference_of("closed reference", tmp_path) == bench.KINASE


def test_the_table_counts_right_verdicts_and_says_what_was_found(bench):
    motion = {"extent": 4.0, "halves": [3.9, 4.1], "doubts": []}
    made = {"machine": "M", "version": "1", "commit": "c", "date": "d"}
    seconds = {"train": 10.0, "check": 60.0}
    cells = [
        {"case": "x", "right": True, "symptoms": [], "motions": [motion], "seconds": seconds},
        {"case": "y", "right": False, "symptoms": ["part"], "motions": [], "seconds": seconds},
    ]
    lines = bench.table([cell | made for cell in cells]).splitlines()
    assert lines[0] == "1 of 2 verdicts are right. M; version 1 (c), d."
    assert lines[-2:] == [
        "| x | yes | none | 4.0 ± 0.1 (survives) | 10, 60 |",
        "| y | no | part | not tried | 10, 60 |",
    ]


def test_the_table_in_the_repository_is_that_of_its_results(bench):
    kept = ROOT / "benchmarks" / "results"
    cells = json.loads((kept / "check.json").read_text(encoding="utf-8"))["cells"]
    assert (kept / "check.md").read_text(encoding="utf-8") == bench.table(cells)
