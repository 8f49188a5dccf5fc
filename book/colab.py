"""Give every notebook the cell with which it starts in Colab: `make colab`.

    python book/colab.py

In Colab a notebook stands alone. Its first code cell, tagged `colab`, fetches the project and
installs what is missing, keeping Colab's own PyTorch. It takes the project from the address in
`_config.yml`, or from a file that was uploaded: a zip of the project, or a wheel. Without either it
says what to do. Anywhere else the cell does nothing. The address stands in `_config.yml` alone;
after changing it there, run this. A test compares every notebook's cell with this one.
"""

from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).parent.parent
CELL = """# For Colab: fetch the project and what it needs. Elsewhere this does nothing.
import importlib.util
import shutil
import sys
from pathlib import Path

REPOSITORY = "{address}"  # an address, or an uploaded file: .zip or .whl
in_colab = "google.colab" in sys.modules
missing = in_colab and importlib.util.find_spec("cryostar_nb") is None
if missing and not REPOSITORY:
    print("REPOSITORY is empty, so the project is not here. In this cell,")
    print("* set it to the address of the project; or")
    print("* upload a zip of the project, or a wheel (Files, on the left),")
    print('  and set it to the name of the file, such as "cryostar_nb.zip".')
    print("Then run the cell again. To give every notebook the address, put")
    print("it into _config.yml, and run `make colab` in the project.")
elif missing:
    %pip install --quiet --no-deps nglview==4.0
    if REPOSITORY.endswith(".whl"):
        %pip install --quiet {{REPOSITORY}}
    else:
        shutil.rmtree("project", ignore_errors=True)
        if REPOSITORY.endswith(".zip"):
            shutil.unpack_archive(REPOSITORY, "project")
        else:
            !git clone --quiet --depth 1 {{REPOSITORY}} project
        places = sorted(Path("project").resolve().rglob("pyproject.toml"))
        if not places:
            print(f"{{REPOSITORY}} does not hold the project: set it anew.")
        else:
            project = places[0].parent
            %pip install --quiet {{project}}
            sys.path.insert(0, str(project))
            %cd {{project}}/notebooks"""


def cell_text() -> str:
    """The cell, with the address of the repository."""
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return CELL.format(address=settings["repository"]["url"])


def main() -> None:
    """Write the cell into each notebook; where there is none, before the first code cell."""
    text = cell_text()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        present = [cell for cell in notebook.cells if "colab" in cell.metadata.get("tags", [])]
        if present and present[0].source == text:
            continue
        if present:
            present[0].source = text
        else:
            first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
            tags = {"tags": ["colab", "remove-cell"]}
            notebook.cells.insert(first, new_code_cell(text, id="colab", metadata=tags))
        nbformat.write(notebook, path)
        print(path.name)


if __name__ == "__main__":
    main()
