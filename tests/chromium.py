"""Pages in Chromium with no network, for tests; those that import it are skipped without Chromium.

Every wait ends when the thing has happened; a slow machine may take minutes.
"""

import base64
import io
import shutil
import time

import numpy as np
import pytest

EXECUTABLE = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
PlaywrightError = playwright_api.Error
PATIENCE = 600  # seconds that anything may take
LOCAL = ("file:", "data:", "blob:", "about:", "http://localhost:")
APPEND = "html => document.body.append(document.createRange().createContextualFragment(html))"
PICTURE = """element => {
  const canvas = element.matches("canvas") ? element : element.querySelector("canvas");
  const { width, height } = canvas ? canvas.getBoundingClientRect() : {};
  if (!width || !height || !canvas.checkVisibility()) return "";
  const copy = Object.assign(document.createElement("canvas"), { width, height });
  const context = copy.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(canvas, 0, 0, width, height);
  return copy.toDataURL();
}"""
MARKS = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium here: the pages are not looked at"),
    pytest.mark.filterwarnings("default"),
]


def launch(playwright):
    return playwright.chromium.launch(
        executable_path=EXECUTABLE, args=["--no-sandbox", "--disable-gpu"]
    )


def new_page(browser, width=1200, height=900):
    """A page with no network; returns it, and the list of what goes wrong on it."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(1000 * PATIENCE)
    context.set_default_navigation_timeout(1000 * PATIENCE)
    page, faults = context.new_page(), []
    page.on(
        "console",
        lambda message: faults.append(message.text) if message.type == "error" else None,
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
    context.route(lambda url: not url.startswith(LOCAL), lambda route: route.abort())
    return page, faults


def open_page(browser, path, width=1200, height=900):
    """Open a file with no network; returns the page, and what went wrong on it."""
    page, faults = new_page(browser, width, height)
    page.goto(path.as_uri(), wait_until="load")
    return page, faults


def show(browser, html, head=""):
    """A page that holds this and nothing else; scripts are run one by one, as notebooks do."""
    page, faults = new_page(browser)
    page.set_content(f"<!doctype html><html><head>{head}</head><body></body></html>")
    page.evaluate(APPEND, html)
    return page, faults


def bring_near(element):
    """Scroll to an element. Playwright's own way waits for frames, which moving molecules delay."""
    element.evaluate("element => element.scrollIntoView({ block: 'center' })")


def pixels(element):
    """What the canvas holds that an element is, or has, on white; nothing where it has no size.

    A screenshot shows the same, and waits for tens of frames; a moving molecule takes half a second
    for each where there is no GPU.
    """
    from PIL import Image

    picture = element.evaluate(PICTURE)
    if not picture:
        return np.zeros((1, 1, 3))
    data = base64.b64decode(picture.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)


def is_drawn(element):
    """Whether there is something to see."""
    return pixels(element).std() > 3


def all_drawn(page):
    """Whether every stage of the page has a picture, not 3Dmol's warning, or nothing."""
    stages = page.locator('[id^="3dmolviewer_"]').all()
    return stages != [] and all(s.locator("canvas").count() and is_drawn(s) for s in stages)


def wait_until(happens, seconds=PATIENCE):
    """Whether something happens within this time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happens():
            return True
        time.sleep(0.2)
    return False
