"""Sphinx extension: how the built pages show what JupyterLab shows live.

* A plotly figure is JSON in the notebook, which JupyterLab and Colab draw by themselves. On a page
  it becomes a `div` and a call of the local plotly.js. (Plotly's own HTML asks a CDN for MathJax.)
* Progress bars are live widgets; a page leaves them out.
* 3Dmol.js and plotly.js are loaded only by the pages that use them; the copies of 3Dmol.js that
  outputs carry (`html.own_3dmol`) are left out. Jupyter Book adds Thebe, for
  kernels in the cloud, to every page. The book does not use it, and its settings come twice, which
  is an error in the browser: Thebe is not loaded.
* The buttons to Colab, Binder and the repository appear once _config.yml has an address; without
  one the theme fails on them.
"""

import json
import os
import re
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
OWN_3DMOL = re.compile(r'<script class="own-3dmol">.*?</script>', re.DOTALL)
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
            # Without a node, the text behind the widget would appear.
            return [nodes.raw(text="", format="html")]
        if data.mime_type == "text/html" and OWN_3DMOL.search(data.string):
            html = OWN_3DMOL.sub("", data.string)
            return [nodes.raw(text=html, format="html", classes=["output", "text_html"])]
        if data.mime_type != PLOTLY:
            return None
        figure = data.content if isinstance(data.content, dict) else json.loads(data.content)
        name = f"plotly-figure-{next(_numbers)}"
        config = json.dumps({"responsive": True, "displaylogo": False})
        values = ", ".join(
            json.dumps(figure.get(part, empty)).replace("</", "<\\/")
            for part, empty in (("data", []), ("layout", {}))
        )
        draw = f'() => Plotly.newPlot("{name}", {values}, {config})'
        script = f'<script>document.addEventListener("DOMContentLoaded", {draw});</script>'
        html = f'<div id="{name}" class="plotly-figure"></div>{script}'
        return [nodes.raw(text=html, format="html", classes=["output", "text_html"])]


def add_scripts(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Load the scripts of the viewers on this page, and leave Thebe's out."""
    scripts = context["script_files"]
    scripts[:] = [script for script in scripts if not is_thebe(script)]
    for mark, names in SCRIPTS.items():
        if mark in context.get("body", ""):
            for number, name in enumerate(names):
                # plotly.js is large: the page is drawn before it is read, and its figures after.
                later = {"loading_method": "defer"} if name.startswith("plotly") else {}
                app.add_js_file(name, priority=100 + number, **later)


def is_thebe(script: object) -> bool:
    """Whether a script, an asset of Sphinx or its name, belongs to Thebe."""
    name, attributes = getattr(script, "filename", script), getattr(script, "attributes", "")
    return "thebe" in f"{name} {attributes}".lower()


def place_buttons(app: Sphinx, config: Config) -> None:
    """Leave out the buttons to the repository while it has no address."""
    options = config.html_theme_options
    has_address = bool(options.get("repository_url"))
    options["use_repository_button"] = has_address
    if not has_address:
        options["launch_buttons"] = {}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, and ask plotly in the kernels for JSON alone."""
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"
    load_mime_renders().append(LiveOutputs)  # the list is cached: myst-nb uses this one
    app.connect("config-inited", place_buttons)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
