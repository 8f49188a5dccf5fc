"""The benchmark of posteriors, on a run as small as can be."""

import json

import pytest


@pytest.fixture
def bench(import_benchmark):
    return import_benchmark("posterior")


def test_the_table_is_of_new_particles_and_what_is_done_is_not_done_again(
    bench, tmp_path, monkeypatch
):
    sizes = "--snr 1 --particles 128 --new 20 --steps 20 --keep"
    words = f"{sizes} --work {tmp_path / 'work'} --results {tmp_path}".split()
    bench.main(words)
    cell = json.loads((tmp_path / "posterior.json").read_text())["cells"][0]
    assert cell["snr"] == 1 and "commit" in cell
    assert len(cell["node_sd"]) == len(cell["node_shared_sd"]) == 214
    assert sum(cell["information"]) <= 128 and cell["seconds"]["infer"] > 0
    assert len(cell["posterior"]["coverage_along_with_shared"]) == 3
    page = (tmp_path / "posterior.md").read_text()
    for encoder in (cell["encoder"], cell["second_encoder"]):
        assert f"{encoder['mean']:.3f} / {encoder['most_open']:.3f}" in page
    monkeypatch.setattr(bench, "measure", pytest.fail)
    bench.main(words)
    assert (tmp_path / "posterior.md").read_text() == page
