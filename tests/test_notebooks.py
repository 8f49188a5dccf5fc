"""Every notebook runs from top to bottom with small settings, as papermill runs it, and is stored clean."""

from pathlib import Path

import nbformat
import papermill
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SMOKE = {
    "00_tour": {"n_particles": 300, "steps": 30},
    "01_atoms_to_density": {"box_size": 96, "pixel_size": 1.0},
    "02_projection_and_ctf": {"seed": 2},
    "04_fit_one_structure": {"n_images": 40, "steps": 40},
}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_every_notebook_has_smoke_values():
    assert {path.stem for path in NOTEBOOKS} == set(SMOKE)


@pytest.mark.filterwarnings("default")  # papermill and the kernel's client warn about themselves
def test_it_runs(notebook, tmp_path):
    parameters = SMOKE[notebook.stem]
    assert set(parameters) <= set(papermill.inspect_notebook(str(notebook))), "papermill would only warn of an unknown parameter"
    papermill.execute_notebook(
        str(notebook), str(tmp_path / notebook.name), parameters, kernel_name="python3", cwd=str(notebook.parent), progress_bar=False
    )


def test_it_is_stored_without_outputs_and_with_one_cell_of_parameters(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1


def test_its_cells_can_be_read(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    assert max(len(cell.source.splitlines()) for cell in cells if cell.cell_type == "code") <= 45
