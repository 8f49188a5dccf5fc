"""Sphinx extension: how the built pages show what JupyterLab shows live.

* Plotly figures keep to their JSON form in the notebook, which JupyterLab and Colab draw by themselves; here they become a
  `div` and a call of the local plotly.js. (Plotly's own HTML asks a CDN for MathJax.)
* Progress bars are live widgets; a page leaves them out.
* 3Dmol.js and plotly.js are loaded by the pages that use them, not by all. Thebe, which Jupyter Book adds to every page for
  kernels in the cloud, is not loaded: it is not used, and its settings come twice, which is an error in the browser.
* The buttons to Colab, Binder and the repository appear once _config.yml has an address; the theme fails on them before.
"""

import json
import os
from itertools import count
from typing import Any, ClassVar

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer, load_mime_renders
from sphinx.application import Sphinx
from sphinx.config import Config

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
SCRIPTS = {
    "3dmolviewer_": ("3Dmol-min.js", "book_init.js"),
    'class="plotly-figure"': ("plotly.min.js",),
}
_numbers = count(1)


class LiveOutputs:
    """A renderer of outputs, as myst-nb's MimeRenderPlugin describes it."""

    mime_priority_overrides: ClassVar[list[tuple[str, str, int | None]]] = [("html", PLOTLY, 5)]

    @staticmethod
    def handle_mime(
        renderer: NbElementRenderer, data: MimeData, inline: bool
    ) -> list[nodes.Element] | None:
        """Nodes for a plotly figure, an empty one for a widget, and None for what others draw."""
        if data.mime_type == WIDGET:
            return [
                nodes.raw(text="", format="html")
            ]  # no nodes at all would bring out the text behind the widget
        if data.mime_type != PLOTLY:
            return None
        figure = data.content if isinstance(data.content, dict) else json.loads(data.content)
        name = f"plotly-figure-{next(_numbers)}"
        config = json.dumps({"responsive": True, "displaylogo": False})
        values = ", ".join(
            json.dumps(figure.get(part, empty)).replace("</", "<\\/")
            for part, empty in (("data", []), ("layout", {}))
        )
        draw = f'document.addEventListener("DOMContentLoaded", () => Plotly.newPlot("{name}", {values}, {config}));'
        html = f'<div id="{name}" class="plotly-figure"></div><script>{draw}</script>'
        return [nodes.raw(text=html, format="html", classes=["output", "text_html"])]


def add_scripts(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Load the scripts of the viewers that stand on this page, and leave Thebe's out."""
    scripts = context["script_files"]
    scripts[:] = [
        s
        for s in scripts
        if "thebe" not in f"{getattr(s, 'filename', s)} {getattr(s, 'attributes', '')}".lower()
    ]
    body = context.get("body", "")
    for mark, names in SCRIPTS.items():
        if mark in body:
            for number, name in enumerate(names):
                # plotly.js is large: the page is drawn before it is read, and its figures after.
                later = {"loading_method": "defer"} if name.startswith("plotly") else {}
                app.add_js_file(name, priority=100 + number, **later)


def place_buttons(app: Sphinx, config: Config) -> None:
    """Leave the buttons out that lead to a repository without an address."""
    options = config.html_theme_options
    has_address = bool(options.get("repository_url"))
    options["use_repository_button"] = has_address
    if not has_address:
        options["launch_buttons"] = {}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, and ask plotly in the kernels for JSON alone."""
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"
    load_mime_renders().append(LiveOutputs)  # it is cached: this list is the one that myst-nb uses
    app.connect("config-inited", place_buttons)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
