"""The benchmark of faults: its table, on a run as small as can be."""

import json
from pathlib import Path

import numpy as np
import pytest

from cryostar_nb.simulation.options import REALISTIC, not_default

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def bench(import_benchmark):
    return import_benchmark("robustness")


def test_every_part_of_what_is_realistic_is_a_fault_by_itself(bench):
    alone = [names for fault, names in bench.FAULTS.items() if not fault.startswith("all")]
    settings = [name for names in alone for name in names]
    assert sorted(settings) == sorted(not_default(REALISTIC))
    assert sorted(bench.FAULTS["all"]) == sorted(settings)


def test_cells_are_made_once_on_new_particles_and_go_on_where_they_stopped(
    bench, tmp_path, monkeypatch, capsys
):
    flags = "--systems adk --snr 0.1 --particles 70 --new 20 --steps 2 --box-size 64 --keep"
    words = f"{flags} --work {tmp_path} --results {tmp_path}".split()
    chosen = ["--faults", "perfect", "all, reference", "--methods", "default"]
    bench.main([*words, *chosen])
    found = json.loads((tmp_path / "robustness.json").read_text())
    assert found["particles"] == 70 and "commit" in found["provenance"]
    by_fault = {cell["fault"]: cell for cell in found["cells"]}
    assert set(by_fault) == {"perfect", "all, reference"}
    for name, count in (("trained", 70), ("new", 20)):
        scores = {fault: cell["scores"][name] for fault, cell in by_fault.items()}
        assert {s["n_particles"] + s["n_junk"] for s in scores.values()} == {count}
        assert scores["perfect"]["pose_errors_given"]["rotation_error_deg"] < 0.01
        assert 2 < scores["all, reference"]["pose_errors_given"]["rotation_error_deg"] < 5
    folder = next((tmp_path / "particles").glob("adk_perfect*"))
    with np.load(folder / "truth.npz") as all_, np.load(folder / "new.npz") as new:
        assert np.array_equal(new["state"], all_["state"][70:])

    next((tmp_path / "cells").glob("adk_perfect*")).unlink()
    bench.main([*words, *chosen])  # the run is there, and is opened
    again = json.loads((tmp_path / "robustness.json").read_text())["cells"]
    assert {cell["fault"]: cell["scores"] for cell in again} == {
        fault: cell["scores"] for fault, cell in by_fault.items()
    }

    trained = []
    monkeypatch.setattr(bench, "make", lambda cell, options: trained.append(cell.method))
    bench.main([*words, *chosen[:3], "--methods", "default", "paper"])
    assert trained == ["paper"] * 2  # the others are there
    assert len(json.loads((tmp_path / "robustness.json").read_text())["cells"]) == 2
    capsys.readouterr()
    bench.main([*words, *chosen, "--list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["done"] * 2

    error = by_fault["perfect"]["scores"]["new"]
    table = (tmp_path / "robustness.md").read_text()
    assert f"| perfect | {error['rmsd_in_gauge']:.2f} / {error['rmsd_superposed']:.2f} |" in table


def test_the_table_has_means_over_seeds_and_a_place_for_what_is_missing(bench, tmp_path):
    def cell(fault, method, seed, error):
        errors = {"rmsd_in_gauge": error, "rmsd_superposed": 0.5}
        idle = {f"do_nothing_{name}": 3.0 for name in ("in_gauge", "superposed")}
        about = {"system": "adk", "snr": 0.1, "fault": fault, "method": method, "seed": seed}
        about["commit"] = "c-dirty"
        return about | {"scores": {"new": errors | idle}}

    made = {"machine": "M", "version": "1", "commit": "c", "date": "d"}
    cells = [cell("pose", "default", seed, 1.0 + seed) for seed in (0, 1)]
    cells.append(cell("perfect", "paper", 0, 0.75))
    sizes = {"particles": 7000, "new": 9, "steps": 5}
    order = {"methods": list(bench.METHODS), "faults": list(bench.FAULTS)}
    found = {"provenance": made, "cells": cells} | sizes | order
    (tmp_path / "robustness.json").write_text(json.dumps(found))
    bench.main(["--table", "--results", str(tmp_path)])
    lines = (tmp_path / "robustness.md").read_text().splitlines()
    assert lines[0] == (
        "7,000 particles to train on, 9 new ones, 5 steps; 2 seeds; M; version 1 (c), d."
    )
    assert lines[-2:] == [
        "| perfect | – | 0.75 / 0.50 | 3.00 / 3.00 |",
        "| pose | 1.50 ± 0.71 / 0.50 | – | 3.00 / 3.00 |",
    ]


def test_the_table_in_the_repository_is_that_of_its_results(bench, tmp_path):
    kept = BENCHMARKS / "results"
    if (kept / "robustness.json").exists():
        (tmp_path / "robustness.json").write_bytes((kept / "robustness.json").read_bytes())
    bench.write_tables(tmp_path)
    assert (tmp_path / "robustness.md").read_bytes() == (kept / "robustness.md").read_bytes()
