"""Each interactive output, alone in an empty page without a network: as in Colab, where every
output is a page of its own.
"""

import re
from importlib.resources import files

import chromium
import numpy as np
import plotly.io
import pytest
from chromium import all_drawn, new_page, show, wait_until

from cryostar_nb.pages import figures, views
from cryostar_nb.pages.html import own_3dmol
from cryostar_nb.runs.run import Run

pytestmark = chromium.MARKS
FRAGMENTS = (
    "structure",
    "motion",
    "coloured",
    "side by side",
    "arrows",
    "density",
    "explorer",
    "microscope",
    "maps",
)


def fragment(name, run, make_maps=None):
    """The HTML that a notebook's cell would put out."""
    nodes, still = run.nodes, run.reference.numpy()
    blob = np.exp(-np.square(np.indices((16, 16, 16)) - 8.0).sum(0) / 8)
    match name:
        case "structure":
            return views.structure(nodes)._repr_html_()
        case "motion":
            return views.structure(nodes, run.traverse(frames=5), ghost=still)._repr_html_()
        case "coloured":
            return views.coloured(nodes, still, np.arange(float(len(nodes))))._repr_html_()
        case "side by side":
            panel = (still, still + 5, np.arange(len(nodes)) < 3)
            return views.side_by_side(nodes, {"one": panel, "two": panel})._repr_html_()
        case "arrows":
            return views.arrows(still, still + 5, view=views.structure(nodes))._repr_html_()
        case "density":
            return views.density(blob, 2.0, 0.3)._repr_html_()
        case "explorer":
            return Run.explorer(run, points=4)._repr_html_()
        case "microscope":
            return views.microscope(nodes)._repr_html_()
        case "maps":
            return make_maps().view()._repr_html_()


@pytest.mark.parametrize("name", FRAGMENTS)
def test_a_fragment_is_drawn_alone_and_without_a_network(name, run, make_maps, browser):
    html = fragment(name, run, make_maps)
    assert not re.search(r"https?://", html)
    assert len(html) < 400_000, "a notebook holds several of them"
    page, faults = show(browser, html)
    assert wait_until(lambda: all_drawn(page), 120), faults
    assert faults == []
    page.context.close()


def test_fragments_of_one_page_share_3dmol(run, browser):
    """In JupyterLab all outputs are in one page."""
    page, faults = show(browser, fragment("structure", run) + fragment("explorer", run))
    assert wait_until(lambda: all_drawn(page), 120), faults
    assert page.locator("head script").count() == 1 and faults == []
    page.context.close()


def test_a_loader_of_modules_does_not_take_3dmol_away(run, browser):
    """Classic notebooks have require.js, with which 3Dmol.js would register instead."""
    loader = "<script>window.define = () => {}; define.amd = {};</script>"
    page, faults = show(browser, fragment("structure", run), loader)
    assert wait_until(lambda: all_drawn(page), 120), faults
    page.context.close()


def test_a_plotly_figure_of_colab_loads_the_plotly_that_it_names(rng, browser):
    """What plotly puts out in Colab is not ours. It names its script, which is at hand here."""
    figure = figures.latent_scatter(rng.normal(size=(50, 3)), [0.6, 0.3, 0.1])
    html = plotly.io.renderers["colab"].to_mimebundle(figure.to_dict())["text/html"]
    page, _ = new_page(browser)
    script = (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    headers = {"access-control-allow-origin": "*", "content-type": "text/javascript"}
    page.context.route("**/plotly-*.js", lambda route: route.fulfill(body=script, headers=headers))
    page.set_content(f"<!doctype html><html><body>{html}</body></html>")
    assert wait_until(lambda: page.locator(".main-svg").count() > 0, 120)
    page.context.close()


def test_the_copy_is_made_once_and_is_small():
    assert own_3dmol() is own_3dmol()
    assert len(own_3dmol()) < 250_000
