"""The maps of a page in Chromium: contours are about the atoms, and sliders move them."""

import re

import chromium
import numpy as np
import pytest
from chromium import all_drawn, pixels, show, wait_until
from scipy.spatial import cKDTree

from cryostar_nb.pages.html import own_3dmol
from cryostar_nb.pages.map_view import map_view

pytestmark = chromium.MARKS
KEEP = """() => { const make = $3Dmol.createViewer;
  window.$3Dmol = { ...$3Dmol, createViewer: (...given) => (window.viewer = make(...given)) }; }"""
VERTICES = """() => viewer.shapes[0].geo.geometryGroups.flatMap(
  (group) => Array.from(group.vertexArray.slice(0, 3 * group.vertices)))"""
ATOMS = "() => viewer.selectedAtoms({}).map((atom) => [atom.x, atom.y, atom.z])"
MOVE = "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }"


@pytest.fixture
def drawn(make_maps, browser):
    """A page with the view of two maps, whose viewer is `window.viewer`."""
    page, faults = show(browser, own_3dmol())
    page.evaluate("() => $3Dmolpromise")
    page.evaluate(KEEP)
    page.evaluate(chromium.APPEND, map_view(make_maps(residues=[0.9] * 20 + [0.1] * 4)))
    page.wait_for_selector(".map-view[data-ready=yes]")
    yield page
    assert faults == []
    page.context.close()


def surface(page):
    """Vertices of the contour, and the atoms of the model, in Å."""
    return np.reshape(page.evaluate(VERTICES), (-1, 3)), np.array(page.evaluate(ATOMS))


def test_sliders_change_map_model_and_contour(drawn):
    view, molecule = drawn.locator(".map-view"), drawn.locator(".molecule")
    assert wait_until(lambda: all_drawn(drawn), 120)
    pictures, atoms = [pixels(molecule)], [surface(drawn)[1]]
    assert "pc1_1: 1,234 particles, half-maps 6.00 Å, 4 residues disagree" in view.inner_text()
    assert "100 % of the molecule's volume" in view.inner_text()
    for slider, value in (("part", 1), ("enclosed", 250)):
        drawn.locator(f".{slider}").evaluate(MOVE, value)
        assert wait_until(lambda: np.abs(pixels(molecule) - pictures[-1]).max() > 50, 60), slider
        pictures.append(pixels(molecule))
        atoms.append(surface(drawn)[1])
    assert np.abs(atoms[1] - atoms[0]).max() > 5 and np.array_equal(atoms[1], atoms[2])
    assert re.search(r"pc1_2: .*250 % of the molecule's volume", view.inner_text(), re.DOTALL)


@pytest.mark.parametrize("part", [0, 1])
def test_the_contour_is_about_the_atoms(part, drawn):
    drawn.locator(".part").evaluate(MOVE, part)
    vertices, atoms = surface(drawn)
    assert len(atoms) == 24 and len(vertices) > 150
    np.testing.assert_allclose(vertices.mean(0), atoms.mean(0), atol=0.7)
    distances = cKDTree(atoms).query(vertices)[0]
    assert 1 < distances.mean() < 5 and distances.max() < 8
    moved = cKDTree(atoms + np.array([0, 4, 0])).query(vertices)[0]
    assert moved.std() > 1.3 * distances.std()
    drawn.locator(".enclosed").evaluate(MOVE, 300)
    wider = cKDTree(atoms).query(surface(drawn)[0])[0]
    assert wider.mean() > distances.mean() + 0.5


def test_the_first_contour_encloses_the_volume_that_it_says(drawn):
    """By the divergence theorem, from the triangles that are drawn."""
    triangles = """() => viewer.shapes[0].geo.geometryGroups.flatMap((group) =>
      Array.from(group.faceArray.slice(0, group.faceidx)))"""
    corners = surface(drawn)[0][np.reshape(drawn.evaluate(triangles), (-1, 3))]
    enclosed = abs(np.linalg.det(corners).sum() / 6)
    expected = 24 * 57.05 * 1.21  # Å^3 of glycine
    assert 0.75 * expected < enclosed < 1.1 * expected  # smoothing takes a little away


def test_residues_that_disagree_are_in_another_colour(drawn):
    colours = drawn.evaluate("() => viewer.selectedAtoms({}).map((a) => a.style.cartoon.color)")
    assert colours == ["#0072B2"] * 20 + ["#D55E00"] * 4
