"""Sphinx extension: below the check of each exercise, its solution, folded.

The solutions are those of the pages `book/solutions/NN`. A build whose contents leave these pages
out, for a course, has none beside the exercises either.
"""

import copy
from pathlib import PurePosixPath

from docutils import nodes
from sphinx.application import Sphinx

EXERCISE, CHECK = "tag_exercise-", "tag_check"  # classes of cells


def page_of(docname: str) -> str | None:
    """The page with the solutions of a notebook; None for other pages."""
    path = PurePosixPath(docname)
    lesson = path.name.split("_")[0]
    return f"book/solutions/{lesson}" if path.parent.name == "notebooks" else None


def watch(app: Sphinx, docname: str, source: list[str]) -> None:
    """Have a notebook written anew when its solutions change."""
    page = page_of(docname)
    if page in app.env.found_docs:
        app.env.note_dependency(app.env.doc2path(page, base=False))


def solved(page: nodes.document, number: str) -> list[nodes.Node]:
    """What stands under `## Exercise N` of a page of solutions."""
    for section in page.findall(nodes.section):
        if f"exercise-{number}" in section["ids"]:
            return list(section.children[1:])
    return []


def add_solutions(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put each solution below the cell that checks its exercise."""
    page = page_of(docname)
    if page not in app.env.found_docs or "of_solutions" in doctree:
        return
    solutions = app.env.get_doctree(page)
    solutions["of_solutions"] = True  # resolving references emits this event, too
    app.env.resolve_references(solutions, docname, app.builder)
    number = ""
    for cell in list(doctree.findall(nodes.container)):
        classes = cell.get("classes", [])
        exercise = next((name for name in classes if name.startswith(EXERCISE)), "")
        number = exercise.removeprefix(EXERCISE) or number
        if CHECK in classes and number:
            box = nodes.admonition(classes=["dropdown", "solution"])
            box += nodes.title("", f"Solution {number}")
            box += copy.deepcopy(solved(solutions, number))
            cell.parent.insert(cell.parent.index(cell) + 1, box)
            number = ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Listen to reading and to writing."""
    app.connect("source-read", watch)
    app.connect("doctree-resolved", add_solutions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
