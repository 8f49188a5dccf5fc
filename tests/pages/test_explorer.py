"""The latent explorer holds what the run holds, and particles that stand for all."""

import base64
import dataclasses
import json
import re

import numpy as np
import pytest

from cryostar_nb.errors import InputError
from cryostar_nb.pages.explorer import latent_explorer, representatives


def data_of(html):
    """The data that the explorer's script is called with."""
    call = r"exploreLatents\(document.getElementById\(\"[\w-]+\"\), (\{.*\}),\s*window"
    return json.loads(re.search(call, html).group(1))


def unpacked(text, kind, *shape):
    return np.frombuffer(base64.b64decode(text), dtype=kind).reshape(shape)


def test_representatives_lie_where_the_particles_are(rng):
    two = np.concatenate([rng.normal(0, 1, (300, 2)), rng.normal(20, 1, (100, 2))])
    chosen = representatives(two, 40)
    assert (np.diff(chosen) > 0).all() and 20 < len(chosen) <= 40
    assert (chosen < 300).sum() > 5 and (chosen >= 300).sum() > 5
    nearest = np.linalg.norm(two[:, None] - two[chosen][None], axis=-1).min(axis=1)
    assert np.median(nearest) < 0.6  # of clouds whose points are 1 from their centre


def test_few_particles_are_all_shown(rng):
    assert representatives(rng.normal(size=(7, 2)), 100).tolist() == list(range(7))


def test_the_page_holds_the_structures_of_the_run_and_asks_for_nothing_else(run):
    html = latent_explorer(run, points=10)
    assert not re.search(r"https?://|src=|href=|@import|url\(", html)
    data = data_of(html)
    rows = [int(label.split(":")[0].replace(",", "")) - 1 for label in data["labels"]]
    assert 1 < len(rows) <= 10
    packed = unpacked(data["structures"], np.int16, len(rows), len(run.nodes), 3)
    shown = run.gauge.apply(run.decode(run.latents[rows])).numpy()  # what is still stays
    assert np.abs(packed * data["step"] - shown).max() < 0.01  # Å
    pictures = unpacked(data["particles"], np.uint8, len(rows), data["side"], data["side"])
    assert (pictures.std(axis=(1, 2)) > 10).all()
    assert np.sum(data["density"]) == len(run.latents)


def test_it_says_how_far_each_structure_is_from_the_reference(run):
    data = data_of(latent_explorer(run, points=10))
    shape = (len(data["points"]), len(run.nodes), 3)
    moved = unpacked(data["structures"], np.int16, *shape) * data["step"]
    reference = unpacked(data["reference"], np.int16, *shape[1:]) * data["step"]
    apart = np.sqrt(((moved - reference) ** 2).sum(-1).mean(-1))
    np.testing.assert_allclose(data["apart"], apart, atol=0.01)
    assert "states" not in data


def write_truth(path, run, count):
    states = np.arange(count) % 5
    np.savez(path, state=states, positions=np.zeros((5, len(run.nodes), 3)))
    return states


def test_points_have_the_colours_of_their_true_states(run, tmp_path):
    states = write_truth(tmp_path / "truth.npz", run, len(run.latents))
    html = latent_explorer(run, points=10, truth=tmp_path / "truth.npz")
    data = data_of(html)
    rows = [int(label.split(":")[0].replace(",", "")) - 1 for label in data["labels"]]
    assert data["states"] == (states[rows] + 1).tolist() and "true state" in html
    alike = {state: colour for state, colour in zip(data["states"], data["colours"], strict=True)}
    assert len(set(alike.values())) == len(alike) > 1
    assert [alike[state] for state in data["states"]] == data["colours"]


def test_an_image_without_a_good_particle_has_no_state(run, tmp_path):
    states = write_truth(tmp_path / "truth.npz", run, len(run.latents))
    junk = (np.arange(len(states)) % 2).astype(int)
    positions = np.zeros((5, len(run.nodes), 3))
    np.savez(tmp_path / "truth.npz", state=states, positions=positions, junk=junk)
    data = data_of(latent_explorer(run, points=10, truth=tmp_path / "truth.npz"))
    rows = [int(label.split(":")[0].replace(",", "")) - 1 for label in data["labels"]]
    assert data["states"] == np.where(junk[rows], 0, states[rows] + 1).tolist()
    assert [c == "#ffffff" for c in data["colours"]] == (junk[rows] == 1).tolist()


def test_the_truth_of_other_particles_is_refused(run, tmp_path):
    write_truth(tmp_path / "truth.npz", run, len(run.latents) + 1)
    count = len(run.latents)
    message = rf"truth\.npz: the truth holds state of {count + 1} particles; compared are {count}"
    with pytest.raises(InputError, match=message):
        latent_explorer(run, points=10, truth=tmp_path / "truth.npz")


def test_two_explorers_of_a_page_have_names_of_their_own(run):
    first, second = (latent_explorer(run, points=3) for _ in range(2))
    assert re.search(r'id="(.*?)"', first).group(1) != re.search(r'id="(.*?)"', second).group(1)


@pytest.mark.parametrize(
    ("box_size", "pixel_size", "resolution"),
    [(48, 2.0, 4.0), (32, 3.0, 4.0), (33, 3.0, 4.0), (72, 1.5, 2.0)],
)
def test_pictures_are_of_one_size_whatever_the_box(box_size, pixel_size, resolution, make_run):
    data = data_of(latent_explorer(make_run(box_size, pixel_size, resolution), points=4))
    for name in ("predictions", "particles"):
        assert len(base64.b64decode(data[name])) == len(data["points"]) * data["side"] ** 2


def test_a_picture_shows_the_projection_at_its_place(make_run):
    """Every other pixel of a picture of 64 pixels is a pixel of a particle of 32."""
    run = make_run(32, 3.0, 8.0)
    data = data_of(latent_explorer(run, points=4))
    rows = [int(label.split(":")[0]) - 1 for label in data["labels"]]
    pictures = unpacked(data["predictions"], np.uint8, len(rows), 64, 64)[:, ::2, ::2]
    images = run.project(run.decode(run.latents[rows]), run.particles[rows]).numpy()
    for picture, image in zip(pictures, images, strict=True):
        assert np.corrcoef(picture.ravel(), image.ravel())[0, 1] > 0.98


def test_a_chain_without_a_name_takes_its_column(run):
    nameless = dataclasses.replace(run.nodes, chains=np.full(len(run.nodes), ""))
    atoms = data_of(latent_explorer(dataclasses.replace(run, nodes=nameless), points=4))["atoms"]
    assert [chain for _, _, chain, _ in atoms] == [" "] * len(run.nodes)


def test_no_name_of_a_residue_ends_the_script(run):
    names = np.full(len(run.nodes), "</s")
    hostile = dataclasses.replace(run, nodes=dataclasses.replace(run.nodes, residue_names=names))
    html = latent_explorer(hostile, points=3)
    assert "</s" not in html.replace("</style>", "").replace("</script>", "").replace(
        "</section>", ""
    )
    assert data_of(html)["atoms"][0][1] == "</s"
