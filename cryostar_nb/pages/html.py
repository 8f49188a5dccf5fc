"""Pages that need no network: pictures, styles and scripts are inside the HTML.

The templates are in `cryostar_nb/assets`. Plain strings are escaped; `Markup` is HTML already.
"""

import base64
import gzip
import io
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure


class Fragment(str):
    """HTML that a notebook shows."""

    def _repr_html_(self) -> str:
        return self

    def __repr__(self) -> str:  # a notebook stores it beside the HTML
        return f"<HTML, {len(self):,} characters>"

    @classmethod
    def with_3dmol(cls, html: Markup) -> "Fragment":
        """HTML that needs 3Dmol.js, and carries it: in Colab every output is a page of its own."""
        return cls(own_3dmol() + html)


def asset(name: str) -> Markup:
    """A style or a script of `cryostar_nb/assets`, as it stands."""
    return Markup((files("cryostar_nb") / "assets" / name).read_text(encoding="utf-8"))


_TEMPLATES = Environment(
    loader=PackageLoader("cryostar_nb", "assets"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals["asset"] = asset
_TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":")}


def render(template: str, **values: object) -> Markup:
    """HTML from a template of `cryostar_nb/assets`."""
    return Markup(_TEMPLATES.get_template(template).render(values))


@cache
def own_3dmol() -> Markup:
    """A script that loads 3Dmol.js from a copy inside it (0.2 MB), where it is not yet loaded.

    Each output of Colab is a page of its own, and JupyterLab draws outputs in any order. So every
    output with a 3D view begins with this.
    """
    script = (files("cryostar_nb") / "assets" / "3Dmol-min.js").read_bytes()
    packed = base64.b64encode(gzip.compress(script, mtime=0)).decode()
    return render("own_3dmol.html", packed=packed)


def picture(figure: Figure, description: str) -> Markup:
    """A figure, with a description for readers who cannot see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    png = base64.b64encode(buffer.getvalue()).decode()
    return render("picture.html", png=png, description=description)


def section(title: str, body: str, caption: str) -> Markup:
    """A heading, a body and a caption."""
    return render("section.html", title=title, body=body, caption=caption)


def table(rows: Iterable[tuple[str, ...]], headings: Sequence[str] = ()) -> Markup:
    """A table whose first column names the rows."""
    return render("table.html", rows=rows, headings=headings)


def page(title: str, kind: str, body: str, *, with_3dmol: bool = False) -> Markup:
    """The whole page; `with_3dmol` for a page that has 3D views."""
    return render("page.html", title=title, kind=kind, body=body, with_3dmol=with_3dmol)
