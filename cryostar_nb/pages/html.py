"""Pages that need no network: pictures, tables and scripts are inside the HTML."""

import base64
import html
import io
from collections.abc import Sequence

from matplotlib.figure import Figure

from cryostar_nb.pages.views import script_3dmol


def picture(figure: Figure, description: str) -> str:
    """A figure, with words for those who cannot see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return f"<img alt='{html.escape(description)}' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def section(title: str, body: str, caption: str) -> str:
    """A heading, HTML, and a caption in HTML."""
    return f"<section><h2>{title}</h2>{body}<p class='caption'>{caption}</p></section>"


def table(rows: Sequence[tuple[str, ...]], headings: Sequence[str] = ()) -> str:
    """A table whose first column names the rows."""
    head = (
        "<tr>" + "".join(f"<th scope='col'>{heading}</th>" for heading in headings) + "</tr>"
        if headings
        else ""
    )
    cells = "".join(
        f"<tr><th scope='row'>{name}</th>"
        + "".join(f"<td>{value}</td>" for value in values)
        + "</tr>"
        for name, *values in rows
    )
    return f"<table>{head}{cells}</table>"


def page(title: str, kind: str, body: str, *, with_3dmol: bool = False) -> str:
    """The whole page; `with_3dmol` for one that has 3D views."""
    title = html.escape(title)
    scripts = (
        f"<script>{script_3dmol()}</script><script>var $3Dmolpromise = Promise.resolve();</script>"
        if with_3dmol
        else ""
    )
    head = f"{_META}<title>{title} - {kind}</title>\n{_STYLE}\n{scripts}"
    return f"<!doctype html>\n<html lang='en'><head>{head}\n</head><body><h1>{title}</h1>{body}</body></html>\n"


_META = """<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
"""
_STYLE = """<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto; max-width: 60rem; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; font-weight: normal; } th { color: #555; }
img { max-width: 100%; } .caption { color: #555; max-width: 46rem; margin: .4rem 0; }
section > div[id] { border: 1px solid #ddd; border-radius: 6px; } section > .latent-explorer { border: 0; }
</style>"""
