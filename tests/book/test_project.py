"""The project kit: its notebook runs, and pairs of proteins are made of files."""

import importlib
from pathlib import Path

import numpy as np
import papermill
import pytest

import cryostar_nb as cs
from cryostar_nb.io.structures import write_structure

ROOT = Path(__file__).parents[2]
KIT = ROOT / "book" / "project"


@pytest.fixture
def kit(monkeypatch):
    """A script of the kit, by name."""
    monkeypatch.syspath_prepend(str(KIT))
    return importlib.import_module


def test_the_example_report_has_the_numbers_of_the_recorded_runs(kit, capsys):
    kit("example_numbers").main()
    report = (KIT / "example_report.md").read_text(encoding="utf-8")
    lines = capsys.readouterr().out.splitlines()
    rows = [row for row in map(str.split, lines) if row[0] in {"0", "1", "2"}]
    assert len(rows) == 3
    for seed, standard, paper, ratio in rows:
        assert f"| {seed} | {standard} | {paper} | {float(ratio):.2f} |" in report


def test_a_pair_is_laid_on_each_other_about_the_origin(kit, tmp_path):
    atoms, closed = (cs.read_structure(ROOT / "data" / f"{name}.pdb") for name in ("4ake", "1ake"))
    turned = closed.with_positions(closed.positions[:, [1, 2, 0]] + 50.0)
    write_structure(tmp_path / "a.pdb", atoms)
    write_structure(tmp_path / "b.pdb", turned[turned.residue_numbers > 3])
    apart = kit("hinges").write_pair("adk", tmp_path / "a.pdb", tmp_path / "b.pdb", tmp_path)
    first, last = (cs.read_nodes(tmp_path / f"adk_{end}.pdb") for end in ("open", "closed"))
    assert len(first) == len(last) == 211
    assert np.abs(cs.read_structure(tmp_path / "adk_open.pdb").positions.mean(0)).max() < 1e-2
    rmsd = np.sqrt(((first.positions - last.positions) ** 2).sum(-1).mean())
    assert rmsd == pytest.approx(apart, abs=1e-2) and apart < 7.2


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_starter_runs(tmp_path):
    small = {"n_particles": 140, "n_new": 20, "steps": 5, "draws": 2}
    ran = papermill.execute_notebook(
        str(KIT / "starter.ipynb"), str(tmp_path / "out.ipynb"), small, cwd=str(KIT)
    )
    outputs = [output for cell in ran.cells for output in cell.get("outputs", [])]
    assert any("half / all:" in output.get("text", "") for output in outputs)
