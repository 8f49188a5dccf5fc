"""Notebooks for a course: `make student` writes `student/` and `teacher/`.

    python book/student.py [--out FOLDER]

In a stored notebook a cell tagged `exercise-N` waits for an answer, and the next cell tagged
`check` judges it. The answers are the code blocks of `book/solutions/NN.md`, under `## Exercise N`.
The student's version is the notebook without a pointer to the solutions. The teacher's has each
answer in its cell, and the words of the solutions page below the check.
"""

import argparse
import copy
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

ROOT = Path(__file__).parent.parent


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


def student_version(notebook: NotebookNode) -> NotebookNode:
    """The notebook without the sentence that points to the solutions."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r" ?Solutions: page [^\n]*?\)\.", "", cell.source)
    return notebook


def teacher_version(notebook: NotebookNode, solutions: dict[str, tuple[str, str]]) -> NotebookNode:
    """The notebook with every answer in its cell and the words about it after its check."""
    notebook, cells, words = student_version(notebook), [], ""
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


def main() -> None:
    """Write both versions of every notebook."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("--out", type=Path, default=ROOT, help="parent of both folders")
    out = parser.parse_args().out
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        versions = {
            "student": student_version(notebook),
            "teacher": teacher_version(notebook, read_solutions(path)),
        }
        for name, version in versions.items():
            target = out / name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(version, target)
            print(target)


if __name__ == "__main__":
    main()
