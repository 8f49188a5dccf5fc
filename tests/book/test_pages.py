"""The book in a browser without a network, and a notebook in JupyterLab.

The book is built from notebooks that ran with small values.
"""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import chromium
import nbformat
import numpy as np
import pytest
from chromium import (
    PATIENCE,
    PlaywrightError,
    all_drawn,
    bring_near,
    is_drawn,
    new_page,
    open_page,
    pixels,
    show,
    wait_until,
)
from smoke import SMOKE

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# The outcomes of predictions are folded.
OPEN_ALL = "document.querySelectorAll('details').forEach(details => { details.open = true; })"

pytestmark = chromium.MARKS


@pytest.fixture(scope="module")
def site(tmp_path_factory, executed):
    """The built book, warnings being errors, without the solved cells of the exercises."""
    folder = tmp_path_factory.mktemp("book")
    for name in (
        "_config.yml",
        "book",
        "notebooks",
        "cryostar_nb",
        "pyproject.toml",
        "benchmarks",
        "data",
    ):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for path in reversed(NOTEBOOKS):  # another process may be running the first ones
        notebook = nbformat.read(executed(path), as_version=4)
        notebook.cells = [
            cell
            for cell in notebook.cells
            if not {"answer", "check-answer"} & set(cell.metadata.get("tags", []))
        ]
        nbformat.write(notebook, folder / "notebooks" / path.name)
    config = folder / "_config.yml"
    config.write_text(
        config.read_text().replace("execute_notebooks: cache", "execute_notebooks: 'off'")
    )
    for script in ("vendor.py", "make_reference.py"):
        subprocess.run([sys.executable, folder / "book" / script], check=True, capture_output=True)
    command = [
        Path(sys.executable).with_name("jupyter-book"),
        "build",
        folder,
        "--toc",
        folder / "book" / "_toc.yml",
        "-W",
        "--keep-going",
    ]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder / "_build" / "html"


@pytest.fixture
def visit(browser):
    """Open a page; it is closed after the test, because pages that move keep a core busy."""
    contexts = []

    def visit_page(path):
        page, faults = open_page(browser, path)
        contexts.append(page.context)
        return page, faults

    yield visit_page
    for context in contexts:
        context.close()


def pages(site):
    """The pages that are read; the first one, index.html, only leads to the introduction."""
    others = {"_static", "genindex.html", "search.html", "index.html"}
    return sorted(path for path in site.rglob("*.html") if not others & {*path.parts, path.name})


def test_the_first_page_leads_to_the_introduction(site, visit):
    page, wrong = visit(site / "index.html")
    page.wait_for_url("**/book/intro.html")
    assert wrong == []


@pytest.fixture(scope="module")
def visited(site, browser):
    """Each page, opened once: what went wrong, where its links lead, how wide it is on a phone."""
    found = {}
    for path in pages(site):
        page, wrong = open_page(browser, path)
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(300)
        anchors = "[...document.querySelectorAll('main a[href], nav a[href]')].map(a => a.href)"
        links = page.evaluate(anchors)
        page.set_viewport_size({"width": 390, "height": 800})
        page.wait_for_timeout(100)
        width = page.evaluate("document.documentElement.scrollWidth")
        found[path.name] = (list(wrong), links, width)
        page.context.close()
    return found


def test_every_page_opens_without_an_error_or_a_request_to_the_network(visited):
    assert {name: wrong for name, (wrong, _, _) in visited.items() if wrong} == {}
    assert len(visited) > len(NOTEBOOKS) + 5


def test_the_book_is_no_larger_than_60_megabytes(site):
    """Without the sources: here they are the notebooks with their outputs, in the book without."""
    files = (path for path in site.rglob("*") if path.is_file() and "_sources" not in path.parts)
    assert 10e6 < sum(path.stat().st_size for path in files) < 60e6


def test_every_link_inside_the_book_leads_somewhere(visited):
    broken = set()
    for name, (_, links, _) in visited.items():
        for link in links:
            target, _, anchor = link.partition("#")
            if not link.startswith("file:"):
                continue
            file = Path(target.removeprefix("file://").split("?")[0].replace("%20", " "))
            text = file.read_text(encoding="utf-8") if file.suffix == ".html" else ""
            if not file.exists() or (anchor and text and f'id="{anchor}"' not in text):
                broken.add((name, link.rsplit("/", 1)[-1]))
    assert broken == set()


def test_no_page_is_wider_than_a_phone(visited):
    assert {name: width for name, (_, _, width) in visited.items() if width > 391} == {}


def elements(site, browser, mark, selector):
    """What a selector finds on each page whose text has the mark, with the page's name."""
    for path in pages(site):
        if mark in path.read_text(encoding="utf-8"):
            page, _ = open_page(browser, path)
            page.evaluate(OPEN_ALL)
            for element in page.query_selector_all(selector):
                yield path.name, element
            page.context.close()


def test_molecules_are_drawn(site, browser):
    blank, seen = [], 0
    for name, stage in elements(site, browser, "3dmolviewer_", '[id^="3dmolviewer_"]'):
        bring_near(stage)
        seen += 1
        if not wait_until(lambda stage=stage: is_drawn(stage)):
            blank.append((name, stage.get_attribute("id")))
    assert blank == [] and seen >= 5


def test_a_motion_moves_while_it_is_in_sight(site, visit):
    """The softest normal mode of adenylate kinase, which no training has to find first."""
    page, _ = visit(site / "notebooks" / "08_baselines_and_interlock.html")
    stage = next(
        s
        for s in page.query_selector_all('[id^="3dmolviewer_"]')
        if "loop" in s.evaluate("s => s.parentNode.innerHTML")
    )

    def moves(seconds):
        before = pixels(stage)
        return wait_until(lambda: np.abs(pixels(stage) - before).max() > 30, seconds)

    bring_near(stage)
    assert wait_until(lambda: is_drawn(stage))
    assert moves(PATIENCE)
    page.evaluate("window.scrollTo(0, 0)")
    assert wait_until(lambda: not moves(5), 60), "out of sight it rests"
    bring_near(stage)
    assert moves(PATIENCE)


def test_plotly_figures_are_drawn(site, browser):
    empty, seen = [], 0
    for name, figure in elements(site, browser, 'class="plotly-figure"', ".plotly-figure"):
        seen += 1
        if not wait_until(lambda figure=figure: figure.query_selector(".main-svg") is not None):
            empty.append(name)
    assert empty == [] and seen > 0


def test_the_explorer_shows_another_structure_where_one_clicks(site, visit):
    page, wrong = visit(site / "notebooks" / "00_tour.html")
    root = page.query_selector(".latent-explorer")
    bring_near(root)
    assert wait_until(lambda: root.get_attribute("data-ready") == "yes")
    map_, molecule, picture = (
        root.query_selector(f".{name}") for name in ("map", "molecule", "particle")
    )
    assert wait_until(lambda: is_drawn(molecule))
    first = root.get_attribute("data-chosen"), pixels(picture)
    box = map_.bounding_box()
    page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"])
    assert wait_until(lambda: root.get_attribute("data-chosen") != first[0])
    assert wait_until(lambda: np.abs(first[1] - pixels(picture)).max() > 30), (
        "another particle is shown"
    )
    second = [root.get_attribute("data-chosen")]
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.5 * box["height"])
    assert root.get_attribute("data-chosen") == second[0], "a particle that was clicked is held"
    map_.focus()
    page.keyboard.press("ArrowLeft")
    assert root.get_attribute("data-chosen") != second[0]
    assert wrong == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_3d_output_is_drawn_alone_in_an_empty_page(path, executed, browser):
    """As in Colab, where every output is a page of its own."""
    for cell in nbformat.read(executed(path), as_version=4).cells:
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            if "3dmolviewer_" in html:
                page, faults = show(browser, html)
                assert wait_until(lambda page=page: all_drawn(page)) and faults == []
                page.context.close()


def test_a_notebook_runs_from_top_to_bottom_in_jupyterlab(browser, tmp_path, monkeypatch):
    name = "00_tour"
    for folder in ("data", "book/images"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "notebooks").mkdir()
    file = tmp_path / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(ROOT / "notebooks" / file.name, as_version=4)
    parameters = next(
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    )
    parameters.source += "".join(
        f"\n{key} = {value!r}" for key, value in (SMOKE[name] | {"live": True}).items()
    )
    nbformat.write(notebook, file)
    for variable in (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
    ):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    jupyter = Path(sys.executable).with_name("jupyter")
    announcements = "@jupyterlab/apputils-extension:announcements"  # its window takes the clicks
    subprocess.run(
        [jupyter, "labextension", "disable", announcements], check=True, capture_output=True
    )
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = [
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={tmp_path}",
    ]
    server = subprocess.Popen(
        [jupyter, "lab", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    page, faults = new_page(browser)
    try:

        def opens():
            try:
                return page.goto(f"http://localhost:{port}/lab/tree/notebooks/{file.name}").ok
            except PlaywrightError:  # the server is not up yet
                return False

        assert wait_until(opens)
        page.wait_for_selector("text=Python 3 (ipykernel) | Idle")  # the kernel is there
        page.click("text=Run >> nth=0")
        page.click("text=Run All Cells >> nth=0")

        def has_run():
            page.keyboard.press("Control+s")
            page.wait_for_timeout(1000)
            text = file.read_text(encoding="utf-8")
            if not text:  # it is being written
                return False
            cells = nbformat.reads(text, as_version=4).cells
            return all(cell.execution_count for cell in cells if cell.cell_type == "code")

        assert wait_until(has_run)
        outputs = [
            output
            for cell in nbformat.read(file, as_version=4).cells
            for output in cell.get("outputs", [])
        ]
        assert [output.ename for output in outputs if output.output_type == "error"] == []
        assert len(outputs) > 5
        assert file.stat().st_size < 5e6  # bytes, of which 0.6 MB are copies of 3Dmol.js
        stages = page.locator('[id^="3dmolviewer_"]').all()
        assert len(stages) == 4  # two structures, the microscope and the explorer
        for stage in stages:
            bring_near(stage)
            assert wait_until(lambda stage=stage: stage.locator("canvas").count())
            assert wait_until(lambda stage=stage: is_drawn(stage)), faults
        canvases = page.locator('.jp-OutputArea canvas:not([id^="3dmolviewer_"] canvas)')
        for canvas in canvases.all()[-2:]:  # of the player and of the sliders
            bring_near(canvas)
            assert wait_until(lambda canvas=canvas: is_drawn(canvas))
        figure = page.locator(".main-svg").first
        bring_near(figure)
        assert wait_until(lambda: figure.is_visible())
        label = page.locator(".widget-label", has_text="particle ").first
        before = label.inner_text()
        page.locator(".widget-slider", has_text="PC1").locator(".noUi-handle").focus()
        page.keyboard.press("End")
        assert wait_until(lambda: label.inner_text() != before), "another particle is chosen"
    finally:
        page.context.close()  # its molecules move, and take all the processors
        server.terminate()
        server.wait()
