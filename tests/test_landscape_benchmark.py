"""The benchmark of populations, on a run as small as can be."""

import json

import pytest


@pytest.fixture
def bench(import_benchmark):
    return import_benchmark("landscape")


@pytest.mark.slow
def test_shares_stand_beside_the_truth_and_what_is_done_is_not_done_again(
    bench, tmp_path, monkeypatch
):
    sizes = "--snr 1 --share 0.25 --particles 128 --steps 20"
    words = f"{sizes} --work {tmp_path / 'work'} --results {tmp_path}".split()
    bench.main(words)
    (cell,) = json.loads((tmp_path / "landscape.json").read_text())["cells"]
    assert cell["true"] == 0.25 and 0 <= cell["found"] <= 1 and cell["error"] > 0
    assert len(cell["populations"]) == len(cell["displacement"]) >= 2 and "commit" in cell
    page = (tmp_path / "landscape.md").read_text()
    assert cell["error_with_other"] >= cell["error"] and 0 <= cell["by_other"] <= 1
    assert f"| 1 | 25.0 | {100 * cell['found']:.1f} |" in page
    assert not (tmp_path / "work" / "snr1_share0.25").exists()
    monkeypatch.setattr(bench, "measure", pytest.fail)
    bench.main(words)
    assert (tmp_path / "landscape.md").read_text() == page
