"""Slides have the tagged figures, week by week."""

from pathlib import Path

import nbformat
import pytest
import slides
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from cryostar_nb.errors import InputError

ROOT = Path(__file__).parents[2]


def notebook(tag, data):
    output = new_output("display_data", data=data)
    metadata = {"tags": [tag], "mystnb": {"image": {"alt": "A curve < 1 Å"}}}
    cells = [
        new_markdown_cell("# 04 · Fit\n\n## A landscape"),
        new_code_cell("draw()", metadata=metadata, outputs=[output]),
    ]
    return new_notebook(cells=cells)


@pytest.fixture
def two_lessons(monkeypatch):
    monkeypatch.setattr(slides, "WEEKS", {"1 Images": ("05",), "2 Physics backwards": ("04", "05")})


def test_a_week_has_its_tagged_figures_with_heading_and_text(tmp_path, two_lessons):
    nbformat.write(notebook("slide", {"image/png": "QUJD"}), tmp_path / "04_fit.ipynb")
    nbformat.write(notebook("other", {"image/png": "REVG"}), tmp_path / "05_restraints.ipynb")
    slides.write_slides(tmp_path, tmp_path)
    first, second, *_ = (path.read_text() for path in sorted(tmp_path.glob("week_*.html")))
    assert "base64" not in first and second.count("base64") == 1
    assert "<h2>A landscape</h2>" in second and 'alt="A curve &lt; 1 Å"' in second
    assert "base64,QUJD" in second and "http" not in second


def test_a_lesson_that_did_not_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no executed notebook of lesson 00.*--execute all"):
        slides.write_slides(tmp_path, tmp_path)
    assert not list(tmp_path.glob("week_*"))


def test_a_tagged_cell_without_a_figure_is_refused(tmp_path, two_lessons):
    nbformat.write(notebook("other", {"image/png": "REVG"}), tmp_path / "05_restraints.ipynb")
    nbformat.write(notebook("slide", {"text/plain": "1"}), tmp_path / "04_fit.ipynb")
    with pytest.raises(InputError, match=r"04_fit\.ipynb: a slide has no figure"):
        slides.write_slides(tmp_path, tmp_path)


def test_every_week_has_ten_figures():
    notebooks = {path.name.split("_")[0]: path for path in (ROOT / "notebooks").glob("*.ipynb")}
    for lessons in slides.WEEKS.values():
        cells = [c for name in lessons for c in nbformat.read(notebooks[name], as_version=4).cells]
        assert sum("slide" in cell.metadata.get("tags", []) for cell in cells) == 10
