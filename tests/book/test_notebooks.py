"""Every notebook runs from top to bottom with small settings, and is stored clean."""

import re
from pathlib import Path

import nbformat
import papermill
import pytest
from colab import cell_text
from smoke import SMOKE
from student import exercise_of, read_solutions, teacher_version

ROOT = Path(__file__).parents[2]

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def tagged(cells, tag):
    return [cell for cell in cells if tag in cell.metadata.get("tags", [])]


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def test_every_notebook_has_smoke_values():
    assert {path.stem for path in NOTEBOOKS} == set(SMOKE)


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # papermill and the kernel's client warn about themselves
def test_it_runs_and_its_checks_tell_an_answer_from_none(notebook, executed):
    known = set(papermill.inspect_notebook(str(notebook)))
    assert set(SMOKE[notebook.stem]) <= known, "papermill would only warn of an unknown parameter"
    cells = nbformat.read(executed(notebook), as_version=4).cells
    assert [
        printed(cell) for cell in tagged(cells, "check") if ": no answer yet." not in printed(cell)
    ] == []
    assert [
        printed(cell) for cell in tagged(cells, "check-answer") if ": right." not in printed(cell)
    ] == []


def test_every_exercise_has_its_check_and_its_solution(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    exercises = [tag for cell in cells if (tag := exercise_of(cell))]
    assert (
        exercises == [f"exercise-{number + 1}" for number in range(len(exercises))]
        and len(exercises) >= 3
    )
    assert set(read_solutions(notebook)) == set(exercises)
    assert len(tagged(cells, "check")) == len(exercises)


def test_checks_that_compute_an_answer_are_folded(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    open_ones = [
        cell.source
        for cell in tagged(cells, "check")
        if len(cell.source.splitlines()) > 1
        and not (
            cell.metadata.get("jupyter", {}).get("source_hidden")  # JupyterLab
            and cell.metadata.get("cellView") == "form"  # Colab
            and cell.source.startswith("# @title Check of exercise ")
            and "hide-input" in cell.metadata.tags  # the built book
        )
    ]
    assert open_ones == []


def test_its_head_adds_up_the_minutes_of_its_exercises(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    minutes = re.findall(r"^\*\*Exercise \d+.*?\*\([●○]{3}, (\d+) minutes, ", text, re.M)
    assert len(minutes) == sum(bool(exercise_of(cell)) for cell in cells)
    assert f"exercises {sum(map(int, minutes))}" in cells[0].source


def test_the_teachers_version_has_the_answers(notebook):
    cells, solutions = nbformat.read(notebook, as_version=4), read_solutions(notebook)
    answers = [cell.source for cell in teacher_version(cells, solutions).cells if exercise_of(cell)]
    assert answers == [code for code, _ in solutions.values()]


def test_no_notebook_points_to_the_solutions(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    assert not any("Solutions:" in cell.source or "solutions/" in cell.source for cell in cells)


def test_it_is_stored_without_outputs_and_with_one_cell_of_parameters(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert len(tagged(cells, "parameters")) == 1


def test_it_starts_in_colab_with_the_projects_address(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    assert [cell.source for cell in tagged(cells, "colab")] == [cell_text()], "run: make colab"
    assert exercise_of(cells[0]) is None and next(
        c for c in cells if c.cell_type == "code"
    ) in tagged(cells, "colab")


def test_its_cells_can_be_read(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    assert max(len(cell.source.splitlines()) for cell in cells if cell.cell_type == "code") <= 45


def test_its_set_up_is_one_import_and_twelve_lines(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    set_up = next(cell for cell in code if cell not in tagged(cells, "colab"))
    assert len(set_up.source.splitlines()) <= 12
    assert "import cryostar_nb as cs" in set_up.source
