"""Folders for a course: `make student` writes `student/` and `teacher/`.

    python book/student.py [--out FOLDER] [--execute NN [NN ...]]

In a stored notebook a cell tagged `exercise-N` waits for an answer, and the next cell tagged
`check` judges it. The answers are the code blocks of `book/solutions/NN.md`, under `## Exercise N`.
`student/` stands alone: notebooks, data, recorded results, pages without solutions, a wheel of the
toolkit and how to begin. Its exercises and checks are marked for nbgrader. `teacher/` has each
answer in its cell, and the words of the solutions page below the check; `--execute` runs these
notebooks (all: `--execute all`) as they are, which takes minutes each, and stores their outputs.
"""

import argparse
import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHARED = ("data", "book/results", "benchmarks/results", "book/images", "book/project")
FILES = ("requirements.txt", "constraints.txt", "LICENSE", "book/make_turning_pair.py")
BEGIN = """# The course

Python 3.11 to 3.13 is needed. In this folder:

```bash
python3 -m venv .venv
.venv/bin/pip install -r requirements.txt -c constraints.txt
.venv/bin/pip install --no-deps {wheel}
.venv/bin/jupyter lab
```

Begin with `notebooks/00_tour.ipynb`. In Colab, upload the wheel beside a notebook and write its
name into `REPOSITORY`, in the first cell. The pages that notebooks point to are in `book/`.
"""


def lesson_of(notebook: Path) -> str:
    """The number of a notebook, with its letter where there is one: 06b of 06b_kl.ipynb."""
    return notebook.stem.split("_")[0]


def read_solutions(notebook: Path) -> dict[str, tuple[str, str]]:
    """Tag of each exercise to its answer: the code, and the words about it.

    Raises ValueError for a section without a code block.
    """
    page = ROOT / "book" / "solutions" / f"{lesson_of(notebook)}.md"
    text, solutions = page.read_text(encoding="utf-8"), {}
    sections = re.findall(r"^## Exercise (\d+)\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    for number, section in sections:
        parts = re.fullmatch(r"(.*?)^```python\n(.*?)^```\n?(.*)", section, re.M | re.S)
        if parts is None:
            raise ValueError(f"{page}: exercise {number} has no answer; give it a block of Python")
        before, code, after = parts.groups()
        words = f"{before.strip()}\n\n{after.strip()}".strip()
        solutions[f"exercise-{number}"] = (code.rstrip("\n"), words)
    return solutions


def exercise_of(cell: NotebookNode) -> str | None:
    """The tag `exercise-N` of a cell that waits for an answer."""
    return next((tag for tag in cell.metadata.get("tags", []) if tag.startswith("exercise-")), None)


def student_version(notebook: NotebookNode, lesson: str) -> NotebookNode:
    """The notebook with nbgrader's marks: an exercise is to be answered, its check gives a point.

    A check is locked. It fails, for nbgrader, where CRYOSTAR_GRADE is set (`cs.course.check`).
    """
    notebook, number = copy.deepcopy(notebook), ""
    for cell in notebook.cells:
        exercise = exercise_of(cell)
        number = exercise or number
        if exercise:
            cell.metadata["nbgrader"] = nbgrader_mark(f"{lesson}-{exercise}", check=False)
        elif number and "check" in cell.metadata.get("tags", []):
            cell.metadata["nbgrader"] = nbgrader_mark(f"{lesson}-{number}-check", check=True)
            number = ""
    return notebook


def nbgrader_mark(name: str, *, check: bool) -> dict[str, Any]:
    """Metadata of a cell, as nbgrader's schema 3 has them."""
    points = {"points": 1} if check else {}
    kind = {"grade": check, "solution": not check, "locked": check, "task": False}
    return {"schema_version": 3, "grade_id": name, **kind, **points}


def teacher_version(notebook: NotebookNode, solutions: dict[str, tuple[str, str]]) -> NotebookNode:
    """The notebook with every answer in its cell and the words about it after its check."""
    notebook, cells, words = copy.deepcopy(notebook), [], ""
    for cell in notebook.cells:
        exercise = exercise_of(cell)
        if exercise:
            cell.source, words = solutions[exercise]
        cells.append(cell)
        if "check" in cell.metadata.get("tags", []) and words:
            cells.append(new_markdown_cell(f"*Solution.* {words}", id=f"solution-{len(cells)}"))
            words = ""
    notebook.cells = cells
    return notebook


def with_both(notebook: NotebookNode, solutions: dict[str, tuple[str, str]]) -> NotebookNode:
    """The notebook with each exercise unsolved, then solved.

    After each check stand the answer, tagged `answer`, and the check again, tagged `check-answer`.
    """
    notebook, cells, exercise = copy.deepcopy(notebook), [], None
    for cell in notebook.cells:
        cells.append(cell)
        exercise = exercise_of(cell) or exercise
        if exercise and "check" in cell.metadata.get("tags", []):
            solved = {"answer": solutions[exercise][0], "check-answer": cell.source}
            cells += [
                new_code_cell(source, id=f"{tag}-{exercise}", metadata={"tags": [tag]})
                for tag, source in solved.items()
            ]
            exercise = None
    notebook.cells = cells
    return notebook


def write_student(folder: Path) -> None:
    """A folder with all that a student needs."""
    for name in SHARED:
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    pages = (path for path in (ROOT / "book").glob("*.md") if path.name != "teaching.md")
    for path in (*map(ROOT.joinpath, FILES), *pages):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for path in NOTEBOOKS:
        version = student_version(nbformat.read(path, as_version=4), lesson_of(path))
        write(version, folder / "notebooks" / path.name)
    (folder / "README.md").write_text(BEGIN.format(wheel=wheel(folder).name), encoding="utf-8")


def wheel(folder: Path) -> Path:
    """The toolkit, as one file in this folder, in place of older ones."""
    for old in folder.glob("cryostar_nb-*.whl"):
        old.unlink()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    subprocess.run([*command, ROOT], check=True)
    return next(folder.glob("cryostar_nb-*.whl"))


def write_teacher(folder: Path, execute: list[str]) -> None:
    """Notebooks with their answers; of the lessons to `execute`, with their outputs, too.

    A notebook that ran before is left as it is while its cells are the same.
    """
    for path in NOTEBOOKS:
        target = folder / path.name
        version = teacher_version(nbformat.read(path, as_version=4), read_solutions(path))
        if {lesson_of(path), "all"} & set(execute):
            write(version, target)
            papermill.execute_notebook(str(target), str(target), cwd=str(ROOT / "notebooks"))
        elif not target.exists() or sources(nbformat.read(target, 4)) != sources(version):
            write(version, target)


def sources(notebook: NotebookNode) -> list[str]:
    """The text of all cells."""
    return [cell.source for cell in notebook.cells]


def write(notebook: NotebookNode, target: Path) -> None:
    """Write a notebook, and say where."""
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    print(target)


def main() -> None:
    """Write both folders."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("--out", type=Path, default=ROOT, help="parent of both folders")
    parser.add_argument("--execute", nargs="+", default=[], help="lessons to run, or all")
    options = parser.parse_args()
    write_student(options.out / "student")
    write_teacher(options.out / "teacher", options.execute)


if __name__ == "__main__":
    main()
