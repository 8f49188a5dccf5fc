"""The book for a course has no solutions, and the whole book has them beside the exercises."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from course_book import without_solutions

ROOT = Path(__file__).parents[2]
LESSON = "07_train_cryostar"


def test_the_contents_lack_solutions_alone():
    contents = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    left = without_solutions(contents)
    files = [chapter["file"] for part in left["parts"] for chapter in part["chapters"]]
    assert not any("solutions" in name for name in files) and len(files) > 30
    assert len(left["parts"]) == len(contents["parts"]) - 1


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_solutions_are_below_their_checks_where_the_book_has_them(tmp_path):
    for name in ("book/_ext", "book/_static", "book/solutions"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / f"{LESSON}.ipynb", tmp_path / "notebooks")
    (tmp_path / "book" / "intro.md").write_text("# Book\n")
    (tmp_path / "book" / "references.bib").write_text("")
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    config = config.replace("execute_notebooks: cache", "execute_notebooks: 'off'")
    (tmp_path / "_config.yml").write_text(config)
    chapters = [{"file": f"notebooks/{LESSON}"}, {"file": "book/solutions/07"}]
    pages = []
    for count in (2, 1):
        contents = {"format": "jb-book", "root": "book/intro", "chapters": chapters[:count]}
        (tmp_path / "toc.yml").write_text(yaml.safe_dump(contents))
        command = ["build", tmp_path, "--toc", tmp_path / "toc.yml", "--all"]
        jupyter_book = Path(sys.executable).with_name("jupyter-book")
        subprocess.run([jupyter_book, *command], check=True, capture_output=True)
        pages.append((tmp_path / "_build" / "html" / "notebooks" / f"{LESSON}.html").read_text())
    whole, course = pages
    assert whole.count('class="dropdown solution admonition"') == whole.count("tag_check") >= 3
    first = whole[whole.index("tag_check") :]
    assert first.index("Solution 1") < first.index("Exercise 2.")
    assert "solution admonition" not in course and "Solution 1" not in course
