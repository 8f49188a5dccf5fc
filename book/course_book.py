"""The book for a course, without solutions: `make book-course` builds it into `_build/course`.

    python book/course_book.py

The contents are those of `book/_toc.yml` without the pages of solutions, so that
`_ext/solutions_beside.py` finds none to put beside the exercises. Notebooks that ran for the whole
book are not run again.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "_build" / "course"


def without_solutions(contents: dict[str, Any]) -> dict[str, Any]:
    """The contents of a book, without its part *Solutions*."""
    return contents | {
        "parts": [part for part in contents["parts"] if part["caption"] != "Solutions"]
    }


def main() -> None:
    """Build it."""
    contents = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    path, cache = BUILT / "_toc.yml", ROOT / "_build" / ".jupyter_cache"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(without_solutions(contents)), encoding="utf-8")
    if cache.exists():
        shutil.copytree(cache, BUILT / "_build" / ".jupyter_cache", dirs_exist_ok=True)
    command = ["build", ROOT, "--toc", path, "--path-output", BUILT, "-W", "--keep-going"]
    subprocess.run([Path(sys.executable).with_name("jupyter-book"), *command], check=True)


if __name__ == "__main__":
    main()
