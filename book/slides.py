"""Slides for a course, out of notebooks that ran: `make slides` writes `teacher/slides/`.

    python book/slides.py [--notebooks FOLDER] [--out FOLDER]

A slide is the figure of a cell tagged `slide`: under the heading that it stands below, with its
alternative text. Each week of the course in `book/teaching.md` is one page for a browser, without a
network; arrow keys turn it, and printing it makes one sheet a slide. The notebooks are those of
`make student`, run with `--execute`.
"""

import argparse
import html
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from student import lesson_of

from cryostar_nb.errors import InputError
from cryostar_nb.io.files import write_text

ROOT = Path(__file__).parent.parent
WEEKS = {
    "1 Images": ("00", "01", "02", "03", "03b"),
    "2 Physics backwards": ("04", "05"),
    "3 Learning": ("06", "06b", "06c", "07", "08"),
    "4 Judgement": ("09", "10", "12", "13", "14", "15", "16"),
}
REMEDY = "python book/student.py --execute all"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>
html {{ scroll-snap-type: y mandatory; font: 1.6rem system-ui, sans-serif; }}
body {{ margin: 0; }}
section {{ height: 100vh; box-sizing: border-box; padding: 4vh 5vw; scroll-snap-align: start;
  display: flex; flex-direction: column; break-after: page; }}
img {{ flex: 1; min-height: 0; object-fit: contain; }}
h1, h2 {{ margin: 0 0 2vh; }} h1 {{ margin: auto; }}
p {{ font-size: 1.2rem; color: #444; margin: 2vh 0 0; }}
</style><body>{slides}<script>
addEventListener("keydown", (event) => {{
  const step = {{ ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1 }}[event.key];
  if (step) {{ scrollBy(0, step * innerHeight); event.preventDefault(); }}
}});
</script></body></html>
"""


def figures(path: Path) -> Iterator[str]:
    """The slides of a notebook. Raises InputError for a cell tagged `slide` without a figure."""
    heading = ""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+ (.+)$", cell.source, re.M) or [heading])[-1]
        elif "slide" in cell.metadata.get("tags", []):
            pictures = [
                o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})
            ]
            if not pictures:
                problem = "a slide has no figure"
                raise InputError(problem, file=path.name, value=heading, remedy=REMEDY)
            text = html.escape(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", ""))
            source = f"data:image/png;base64,{pictures[-1].strip()}"
            yield (
                f'<section><h2>{html.escape(heading)}</h2><img alt="{text}" src="{source}">'
                f"<p>{lesson_of(path)} · {text}</p></section>"
            )


def write_slides(notebooks: Path, out: Path) -> None:
    """A page for each week. Raises InputError where a lesson's notebook is not there."""
    for week, lessons in WEEKS.items():
        slides = [f"<section><h1>Week {html.escape(week)}</h1></section>"]
        for lesson in lessons:
            found = sorted(notebooks.glob(f"{lesson}_*.ipynb"))
            if not found:
                problem = f"has no executed notebook of lesson {lesson}"
                raise InputError(problem, file=notebooks, remedy=REMEDY)
            slides += figures(found[0])
        page = PAGE.format(title=f"Week {week}", slides="".join(slides))
        write_text(out / f"week_{week[0]}.html", page)
        print(f"{out / f'week_{week[0]}.html'}: {len(slides) - 1} figures")


def main() -> None:
    """Write the pages of all weeks."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("--notebooks", type=Path, default=ROOT / "teacher")
    parser.add_argument("--out", type=Path, default=ROOT / "teacher" / "slides")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    write_slides(options.notebooks, options.out)


if __name__ == "__main__":
    main()
