"""The benchmark of a full circle: its molecule, what a ring is, and a run as small as can be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cryostar_nb.structure import bonds, coarse_grain

ROOT = Path(__file__).parent.parent
SETTINGS = ["default", "along chains, stiff"]


@pytest.fixture
def bench(import_benchmark):
    return import_benchmark("circle")


@pytest.fixture
def molecule(bench):
    return bench.make_turning_pair.molecule()


def test_one_copy_turns_a_full_circle_clear_of_the_other(bench, molecule):
    atoms, path = molecule
    about = bench.make_turning_pair.report(atoms, path)
    assert about["least_distance"] > 7 and about["diameter_of_end"] > 60
    steps = np.linalg.norm(np.roll(path, -1, axis=0) - path, axis=-1).mean(1)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)  # the last one closes the circle
    still = (np.ptp(path, axis=0) < 1e-9).all(-1)
    assert (
        still[atoms.residue_numbers <= 214].all() and not still[atoms.residue_numbers > 224].any()
    )


def test_the_molecule_is_one_chain_of_left_handed_residues_whose_bonds_are_kept(molecule):
    atoms, path = molecule
    nodes = coarse_grain(atoms)
    pairs = bonds(nodes)
    assert len(nodes) == 437 and len(pairs) == 436
    is_node = atoms.atom_names == "CA"
    lengths = np.linalg.norm(np.diff(path[:, is_node], axis=1), axis=-1)
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), atol=1e-6)
    here = atoms.residue_numbers == 216
    n, ca, c, cb = (
        atoms.positions[here & (atoms.atom_names == name)][0] for name in ("N", "CA", "C", "CB")
    )
    assert np.linalg.det([n - ca, c - ca, cb - ca]) > 0  # of an L amino acid


@pytest.mark.parametrize(
    ("turn", "expected"),
    [(lambda a: a, 1), (lambda a: -a + 1, 1), (lambda a: 0.8 * (a - np.pi).abs(), 0)],
    ids=["ring", "backwards", "out and back"],
)
def test_a_ring_winds_once_and_a_line_does_not(bench, turn, expected, generator):
    states = torch.arange(3000) % 50
    angles = turn(states * (2 * np.pi / 50))
    points = torch.stack([5 * angles.cos(), 4 * angles.sin(), 0 * angles], dim=-1)
    points = points + 0.3 * torch.randn(points.shape, generator=generator)
    found = bench.ring(points, states, 50)
    assert found["winding"] == expected
    assert found["order"] > 0.95 if expected else found["order"] < 0.8


@pytest.mark.slow
def test_errors_stand_beside_doing_nothing_and_what_is_done_is_not_done_again(
    bench, tmp_path, monkeypatch
):
    sizes = "--particles 200 --steps 20 --snr 1 --box 32 --pixel 6"
    words = f"{sizes} --work {tmp_path / 'work'} --results {tmp_path}".split()
    words += ["--settings", *SETTINGS]
    bench.main(words)
    cells = json.loads((tmp_path / "circle.json").read_text())["cells"]
    assert [cell["setting"] for cell in cells] == SETTINGS
    assert all(len(cell["rmsd_per_state"]) == 100 and "commit" in cell for cell in cells)
    page = (tmp_path / "circle.md").read_text()
    assert f"| doing nothing | {cells[0]['idle']:.1f} |" in page
    assert not (tmp_path / "work" / "particles").exists()
    monkeypatch.setattr(bench, "measure", pytest.fail)
    bench.main(words)
    assert (tmp_path / "circle.md").read_text() == page
