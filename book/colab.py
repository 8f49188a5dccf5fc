"""Give every notebook the cell with which it starts in Colab: `make colab`.

    python book/colab.py

In Colab a notebook stands alone. Its first code cell, tagged `colab`, fetches the project from the
address in `_config.yml` and installs what is missing, keeping Colab's own PyTorch. Without an
address it says what to do. Anywhere else the cell does nothing. The address stands in `_config.yml`
alone; after changing it there, run this. A test compares every notebook's cell with this one.
"""

from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).parent.parent
CELL = """# For Colab: fetch the project and what it needs. Elsewhere this does nothing.
import importlib.util
import sys

REPOSITORY = "{address}"
in_colab = "google.colab" in sys.modules
missing = in_colab and importlib.util.find_spec("cryostar_nb") is None
if missing and not REPOSITORY:
    print("Set REPOSITORY in this cell to the project's address and run it")
    print("again; or upload a wheel and the folder `data`, and run:")
    print("%pip install cryostar_nb-*.whl")
elif missing:
    !git clone --quiet --depth 1 {{REPOSITORY}} /content/cryostar_nb
    %pip install --quiet --no-deps nglview==4.0
    %pip install --quiet /content/cryostar_nb
    sys.path.insert(0, "/content/cryostar_nb")
    %cd /content/cryostar_nb/notebooks"""


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
