"""The page that shows the house names what stands there: every module, and nothing else."""

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "cryostar_nb"
PAGE = (ROOT / "book" / "how_it_works.md").read_text(encoding="utf-8")
DRAWING = (ROOT / "book" / "images" / "flow.svg").read_text(encoding="utf-8")
WINGS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def modules(folder):
    return {path.stem for path in folder.glob("*.py")} - {"__init__"}


def rows(pattern):
    """Name to last cell of every row of the tables whose first cell is of this form."""
    return dict(re.findall(rf"^\| `{pattern}` \|(?:.*\|)? (.*) \|$", PAGE, re.MULTILINE))


def test_the_tables_of_files_name_every_module_of_the_core_and_the_door():
    assert set(rows(r"(\w+)\.py")) == modules(PACKAGE)


def test_the_table_of_wings_has_every_wing():
    assert set(rows(r"(\w+)/")) == {wing.name for wing in WINGS}


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.name)
def test_a_wing_names_its_modules(wing):
    named = re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", rows(r"(\w+)/")[wing.name]))
    assert sorted(named) == sorted(modules(wing))


def test_every_module_that_the_page_or_its_drawing_names_exists():
    files = re.findall(r"`(\w+\.py)`", PAGE)
    wings = "|".join(wing.name for wing in WINGS)
    files += [f"{w}/{m}.py" for w, m in re.findall(rf"\b({wings})\.(\w+)\b", PAGE + DRAWING)]
    labels = re.findall(r'class="s">([a-z, .]+)</text>', DRAWING)
    files += [f"{name.replace('.', '/')}.py" for label in labels for name in label.split(", ")]
    assert [file for file in files if not (PACKAGE / file).exists()] == []


def test_the_step_on_the_page_is_that_of_the_loop():
    quoted = re.search(r"```python\n(def one_step.*?)```", PAGE, re.DOTALL).group(1)
    source = (PACKAGE / "training.py").read_text(encoding="utf-8")
    assert textwrap.indent(quoted, "    ", lambda line: line.strip() != "") in source
