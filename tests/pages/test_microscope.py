"""The microscope of a page makes the images that the library makes."""

import re
from pathlib import Path

import chromium
import numpy as np
import torch
from chromium import APPEND, new_page, wait_until

import cryostar_nb as cs
from cryostar_nb import fourier
from cryostar_nb.pages import views
from cryostar_nb.pages.microscope import SHOWN, SIZE

pytestmark = chromium.MARKS
DATA = Path(__file__).parents[2] / "data"
GREYS = """canvas => Array.from(
    canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
).filter((_, i) => i % 4 == 0)"""


def greys(page, name):
    values = np.array(page.locator(f".{name}").evaluate(GREYS), dtype=float)
    return values.reshape(SHOWN, SHOWN)[::-1]  # y upwards


def alike(picture, made):
    """Correlation with an image, whose greys are cut off as the page does."""
    middle = slice((SIZE - SHOWN) // 2, (SIZE + SHOWN) // 2)
    image = made[middle, middle].numpy()
    image = image.clip(*np.percentile(image, (1, 99.8)))
    return np.corrcoef(picture.ravel(), image.ravel())[0, 1]


def test_projection_and_image_are_those_of_the_library(browser):
    atoms = cs.read_structure(DATA / "1ake.pdb")
    html = views.microscope(atoms)._repr_html_()
    pixel = float(re.search(r'"pixel":([\d.]+)', html)[1])
    page, faults = new_page(browser)
    page.emulate_media(reduced_motion="reduce")  # it stands still: the pose is none
    page.set_content("<!doctype html><html><body></body></html>")
    page.evaluate(APPEND, html)
    assert wait_until(lambda: page.locator(".microscope[data-ready]").count() == 1, 120), faults

    nodes = cs.coarse_grain(atoms)
    projection = cs.project_real(
        torch.from_numpy(nodes.positions - nodes.positions.mean(axis=0)),
        torch.from_numpy(nodes.electrons),
        torch.tensor(pixel, dtype=torch.float64),
        box_size=SIZE,
        pixel_size=pixel,
    )
    assert alike(greys(page, "projection"), projection) > 0.999
    for defocus in (0.8, 3.0):
        page.locator(".defocus").fill(str(defocus))
        frequencies = fourier.frequency_grid(SIZE, pixel)
        lens = cs.CTFParameters(1e4 * defocus)
        transfer = cs.contrast_transfer_function(frequencies, lens)
        image = fourier.centred_ifft(fourier.centred_fft(projection, 2) * transfer, 2)
        assert alike(greys(page, "image"), image) > 0.999
    clean = greys(page, "image")
    page.locator(".snr").fill("4")  # 0.1
    assert page.locator(".ratio").text_content() == "0.1"
    assert 0.2 < np.corrcoef(clean.ravel(), greys(page, "image").ravel())[0, 1] < 0.4
    assert faults == []
    page.context.close()
