"""What the Sphinx extension makes of outputs."""

import runpy
from pathlib import Path

from myst_nb.core.render import MimeData

from cryostar_nb.pages import views
from cryostar_nb.pages.html import own_3dmol

EXTENSION = runpy.run_path(str(Path(__file__).parents[2] / "book" / "_ext" / "live_outputs.py"))


def test_a_page_of_the_book_leaves_out_the_copies_of_3dmol(helix_nodes):
    """It loads 3Dmol.js once, and its views are what they were without a copy."""
    view = views.structure(helix_nodes)
    html = view._repr_html_()
    (node,) = EXTENSION["LiveOutputs"].handle_mime(None, MimeData("text/html", html), False)
    assert own_3dmol() in html and "own-3dmol" not in node.astext()
    assert 'id="3dmolviewer_' in node.astext() and len(node.astext()) < 20_000
    assert EXTENSION["LiveOutputs"].handle_mime(None, MimeData("text/html", "<b>"), False) is None
