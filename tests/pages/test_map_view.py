"""What a page holds of a run's maps: where the contours lie, and how much of it there is."""

import base64
import itertools
import json
import re

import gemmi
import numpy as np
import pytest
from refusals import refused

from cryostar_nb.io.structures import read_structure
from cryostar_nb.pages import map_view as module
from cryostar_nb.pages.map_view import map_view
from cryostar_nb.structure import residue_formula


def data_of(html):
    """The data that the script is called with."""
    call = r"showMaps\(document.getElementById\(\"[\w-]+\"\), (\{.*\}),\s*window"
    return json.loads(re.search(call, html).group(1))


def volume(data, number):
    """A map of the page, x outermost."""
    values = np.frombuffer(base64.b64decode(data["maps"][number]["values"]), np.uint8)
    return values.reshape(data["size"]).astype(float)


def places(data):
    """Where the page has its voxels, in Å."""
    indices = np.stack(np.indices(data["size"]), axis=-1)
    return np.array(data["origin"]) + data["voxel"] * indices


def model(data, number):
    packed = np.frombuffer(base64.b64decode(data["structures"]), np.int16)
    return packed.reshape(len(data["maps"]), -1, 3)[number] * data["step"]


def density(positions, electrons, at):
    """Gaussians of 2 Å at these places."""
    squares = np.square(at[..., None, :] - positions).sum(-1)
    return np.exp(-squares / (2 * 2.0**2)) @ electrons


def alike(first, second):
    return np.corrcoef(first.ravel(), second.ravel())[0, 1]


@pytest.mark.parametrize(
    ("resolution", "grid", "origin"),
    [
        (6.0, {"box_size": 32, "pixel_size": 2.0}, (0, 0, 0)),
        (3.3, {"box_size": 33, "pixel_size": 2.0}, (0, 0, 0)),  # finer than the map
        (9.0, {"box_size": 47, "pixel_size": 1.5}, (0, 0, 0)),  # coarser
        (6.0, {"box_size": 32, "pixel_size": 2.0}, (40.5, -13.0, 7.25)),
    ],
)
def test_the_map_of_the_page_lies_on_its_model(resolution, grid, origin, make_maps, helix_nodes):
    data = data_of(map_view(make_maps(resolution, origin=origin, **grid)))
    assert data["voxel"] == pytest.approx(resolution / 3, rel=0.1)
    for number in range(2):
        found, at, atoms = volume(data, number), places(data), model(data, number)
        own = alike(found, density(atoms, helix_nodes.electrons, at))
        assert own > 0.995
        for axis in range(3):
            step = data["voxel"] * np.eye(3)[axis]
            for moved in (at + step, at - step):
                assert alike(found, density(atoms, helix_nodes.electrons, moved)) < own - 0.005
        for axes in itertools.permutations(range(3)):
            swapped = (at - origin)[..., axes] + origin
            if axes != (0, 1, 2):
                assert alike(found, density(atoms, helix_nodes.electrons, swapped)) < own - 0.05
        other = alike(found, density(model(data, 1 - number), helix_nodes.electrons, at))
        assert other < own - 0.1


def test_models_are_those_of_the_files_with_room_around_them(make_maps):
    maps = make_maps()
    data = data_of(map_view(maps))
    for number in range(2):
        nodes = read_structure(maps.path(number).with_suffix(".cif"))
        assert np.abs(model(data, number) - nodes.positions).max() < 0.01
        low, high = places(data)[0, 0, 0], places(data)[-1, -1, -1]
        assert (nodes.positions.min(0) - low > 5.9).all()
        assert (high - nodes.positions.max(0) > 5.9).all()
    assert [atom[0].strip() for atom in data["atoms"]] == nodes.atom_names.tolist()


def test_the_contour_starts_at_the_volume_of_the_molecules_mass(make_maps, helix_nodes):
    mass = sum(
        gemmi.Element(element).weight * count
        for name in helix_nodes.residue_names
        for element, count in residue_formula(name).items()
    )
    data = data_of(map_view(make_maps()))
    assert data["volume"] == pytest.approx(1.21 * mass, rel=0.02)


def test_residues_that_disagree_or_are_not_in_the_box_are_marked(make_maps):
    residues = [0.9] * 20 + [0.2, None, float("nan"), 0.5]
    data = data_of(map_view(make_maps(residues=residues)))
    assert data["maps"][0]["apart"] == [20, 21, 22]


def test_many_maps_are_coarser(make_maps, monkeypatch):
    maps = make_maps(3.0)
    fine = data_of(map_view(maps))
    monkeypatch.setattr(module, "MOST_VOXELS", 20_000)
    coarse = data_of(map_view(maps))
    assert 2 * np.prod(fine["size"]) > 60_000
    assert 10_000 < 2 * np.prod(coarse["size"]) < 28_000  # whole voxels at every edge
    assert alike(volume(coarse, 0), density(model(coarse, 0), np.ones(24), places(coarse))) > 0.95


def test_without_a_resolution_the_grid_is_coarse(make_maps):
    data = data_of(map_view(make_maps(None)))
    assert data["voxel"] == pytest.approx(4.0) and "half-maps none" in data["maps"][0]["name"]


def test_a_map_that_is_gone_is_refused_by_name(make_maps):
    maps = make_maps()
    maps.path(1).unlink()
    with refused(file="pc1_2.mrc"):
        maps.view()
