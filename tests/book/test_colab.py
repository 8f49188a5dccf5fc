"""The first cells of notebooks in a place like Colab: an environment without the project, whose
kernel knows `google.colab`, in an empty folder. The project comes by address, zip or wheel.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import nbformat
import pytest
from colab import cell_text
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from smoke import SMOKE

ROOT = Path(__file__).parents[2]
PARTS = ("book", "notebooks", "cryostar_nb", "data", "pyproject.toml", "README.md", "LICENSE")
OUTPUT = "def enable_custom_widget_manager():\n    pass\n"
pytestmark = [
    pytest.mark.notebook,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, as an archive of it holds it."""
    folder = tmp_path_factory.mktemp("archive") / "cryostar_nb-main"
    passed_over = shutil.ignore_patterns("__pycache__", "_build", "reference", "*.min.js")
    folder.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=passed_over)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def as_zip(project, content):
    shutil.make_archive(content / "cryostar_nb", "zip", project.parent, project.name)
    return "cryostar_nb.zip"


def as_wheel(project, content):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    copy = shutil.copytree(project, content.parent / "to_build")
    subprocess.run([*build, "--wheel-dir", content, copy], check=True)
    return next(content.glob("*.whl")).name


def as_address(project, content):
    copy = shutil.copytree(project, content.parent / "repository")
    name = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    for words in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=copy, check=True)
    return copy.as_uri()


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """Run cells in a place like Colab; returns what each of them put out.

    Its packages are those of the tests, but for the project; pip reaches no index.
    """
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    (packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("cryostar_nb", "__editable__", "google")):
            (packages / path.name).symlink_to(path)
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").write_text("from google.colab import output\n")
    (packages / "google" / "colab" / "output.py").write_text(OUTPUT)
    kernel = tmp_path / "jupyter" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    started = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": started, "display_name": "Colab", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(about))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for name, value in {
        "JUPYTER_PATH": str(tmp_path / "jupyter"),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(tmp_path / "env"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # which turns isolation off
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }.items():
        monkeypatch.setenv(name, value)
    content = tmp_path / "content"
    content.mkdir()

    def run(*sources):
        cells = [new_code_cell(source) for source in ("import google.colab", *sources)]
        place = {"metadata": {"path": str(content)}}
        client = NotebookClient(
            new_notebook(cells=cells), kernel_name="colab", timeout=900, resources=place
        )
        done = client.execute().cells[1:]
        return ["".join(output.get("text", "") for output in cell.outputs) for cell in done]

    run.content = content
    return run


def with_repository(value):
    """The cell for Colab, as a student sets it."""
    return re.sub('REPOSITORY = ".*?"', f'REPOSITORY = "{value}"', cell_text(), count=1)


def first_cells(name, count):
    """The first cells of a notebook after the one for Colab, with small values."""
    (path,) = (ROOT / "notebooks").glob(f"{name}*.ipynb")
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    sources = []
    for cell in cells[1 : 1 + count]:
        small = "parameters" in cell.metadata.get("tags", [])
        values = SMOKE[path.stem] if small else {}
        sources.append(cell.source + "".join(f"\n{k} = {v!r}" for k, v in values.items()))
    return sources


@pytest.mark.parametrize("arrives", [as_zip, as_wheel, as_address])
def test_notebooks_start_from_what_the_student_gives(arrives, project, colab):
    given = arrives(project, colab.content)
    cell = with_repository(given)
    simulates = arrives is as_zip  # once: a new installation compiles for a minute
    tour, training = first_cells("00", 3), first_cells("07", 3 if simulates else 2)
    where = "print(cs.__file__, data, (data.parent / 'book' / 'results').exists())"
    texts = colab(cell, *tour, where, *training)
    assert "214 residues; closed to open: 7.13 Å RMSD" in texts[3]
    assert f"Python {sys.version.split()[0]}" in texts[-3 if simulates else -2]
    assert ("300 particles" in texts[-1]) == simulates
    assert str(ROOT) not in texts[4] and "True" in texts[4]
    if arrives is as_wheel:
        assert "share/cryostar_nb/data" in texts[4]


def test_without_an_address_the_cell_says_in_words_what_to_set(colab):
    (words,) = colab(with_repository(""))
    for part in ("REPOSITORY is empty", "address", "zip", "wheel", "make colab"):
        assert part in words


def test_what_does_not_hold_the_project_is_named(colab):
    shutil.make_archive(colab.content / "other", "zip", ROOT / "data")
    (words,) = colab(with_repository("other.zip"))
    assert "other.zip does not hold the project" in words
