"""Maps of a run's particles: which particles, in which frame, in which files."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused

from cryostar_nb.density import model_density
from cryostar_nb.io.maps import read_map
from cryostar_nb.io.structures import read_structure
from cryostar_nb.runs import maps as module
from cryostar_nb.runs.folder import open_run
from cryostar_nb.runs.maps import Maps, insert_particles
from cryostar_nb.runs.parts import half_sets, parts_of
from cryostar_nb.runs.posteriors import infer
from cryostar_nb.runs.run_config import MapConfig

DATA = Path(__file__).parents[2] / "data"
COUNT, BOX, PIXEL = 96, 32, 4.0


@pytest.fixture(scope="module")
def finished(train_briefly, tmp_path_factory):
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("maps") / "run"
    train_briefly(folder)
    return folder


@pytest.fixture
def run(finished):
    return open_run(finished)


@pytest.fixture
def good(monkeypatch):
    """Say of each particle how probable it is that it is a good one."""

    def say(run, quality):
        monkeypatch.setattr(type(run), "quality", property(lambda _: np.array(quality)))

    return say


def alike(first, second):
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def whole(run, out, **choice):
    """The map of all particles."""
    return read_map(run.maps(indices=f"0:{COUNT}", quality=0.0, out=out, **choice).path(0)).values


def test_the_command_writes_maps_half_maps_models_and_a_table(shell, finished, tmp_path):
    answer = shell(f"reconstruct {finished} --bins 2 --quality 0 --out {tmp_path}/maps")
    assert answer.code == 0, answer.error
    assert f"wrote 2 maps to {tmp_path}/maps" in answer.out and "pc1_2" in answer.out
    names = ["pc1_{}.cif", "pc1_{}.mrc", "pc1_{}_half1.mrc", "pc1_{}_half2.mrc"]
    expected = sorted([name.format(n) for name in names for n in (1, 2)] + ["pc1.json"])
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == expected
    table = json.loads((tmp_path / "maps" / "pc1.json").read_text())
    assert [one["particles"] for one in table["maps"]] == [48, 48]
    assert table["halves"] == "at random" and table["left_out"] == 0 and table["masked"] is None
    one = table["maps"][0]
    assert len(one["frequencies"]) == len(one["fsc_halves"]) == len(one["fsc_model"])
    assert len(one["residues"]) == 214


def test_map_and_model_lie_upon_each_other(run, tmp_path):
    maps = run.maps(bins=2, quality=0.0, out=tmp_path)
    for number in range(2):
        density = read_map(maps.path(number))
        assert (density.box_size, density.voxel_size) == (BOX, PIXEL)
        np.testing.assert_allclose(density.centre, 0, atol=1e-4)
        atoms = read_structure(tmp_path / f"pc1_{number + 1}.cif")
        positions, electrons = map(torch.from_numpy, (atoms.positions, atoms.electrons))
        size = {"box_size": BOX, "pixel_size": PIXEL}
        model = model_density(positions, electrons.float(), 3.0, **size)
        own = alike(density.values, model)
        assert own > 0.88
        for axis in range(3):
            mirrored = density.values[1:, 1:, 1:].flip(axis)
            assert alike(mirrored, model[1:, 1:, 1:]) < own - 0.05
        halves = [read_map(maps.path(number, f"half{half}")).values for half in (1, 2)]
        assert 0.3 < alike(*halves) < 0.99
        assert np.nanmean(maps.maps[number].residues) > 0.5


def test_what_is_read_again_is_what_was_made(run, tmp_path):
    made = run.maps(clusters=2, quality=0.0, mask_radius=50.0, out=tmp_path)
    assert Maps.read(tmp_path / "clusters.json") == made
    assert sum(one.particles for one in made.maps) == COUNT


def test_maps_of_a_run_are_forgotten_with_its_checkpoint(run_copy):
    run = open_run(run_copy)
    assert Maps.of(run) == []
    made = run.maps(bins=1, quality=0.0)
    assert made.folder == run_copy / "maps" and Maps.of(run) == [made]
    later = (run_copy / "maps" / "pc1.json").stat().st_mtime + 10
    os.utime(run_copy / "checkpoint.pt", (later, later))
    assert Maps.of(run) == []


# Which particles


def test_bins_hold_equally_many_particles_in_the_order_of_their_scores(run):
    kind, weights = parts_of(run, MapConfig(pc=2, bins=4))
    assert kind == "pc2" and weights.sum(0).tolist() == [24] * 4
    assert torch.equal(weights.sum(1), torch.ones(COUNT))
    scores = run.components().scores[:, 1]
    means = (weights * scores[:, None]).sum(0) / weights.sum(0)
    assert (means.diff() > 0).all()
    assert scores[weights[:, 0] > 0].max() <= scores[weights[:, 1] > 0].min()


def test_clusters_are_apart_and_in_order(run):
    kind, weights = parts_of(run, MapConfig(clusters=3))
    assert kind == "clusters" and torch.equal(weights.sum(1), torch.ones(COUNT))
    centres = (weights.T @ run.latents) / weights.sum(0)[:, None]
    assert torch.equal(torch.cdist(run.latents, centres).argmin(1), weights.argmax(1))
    along = centres @ run.components().components[0]
    assert (along.diff() > 0).all()
    assert torch.equal(parts_of(run, MapConfig(clusters=3))[1], weights)


def test_indices_choose_particles(run, tmp_path):
    np.save(tmp_path / "some.npy", np.array([3, 5, 7, 11]))
    kind, weights = parts_of(run, MapConfig(indices=str(tmp_path / "some.npy")))
    assert kind == "chosen"
    assert torch.nonzero(weights[:, 0]).flatten().tolist() == [3, 5, 7, 11]


def test_a_posterior_shares_a_particle_out(run_copy):
    run = open_run(run_copy)
    infer(run, draws=8)
    _, weights = parts_of(run, MapConfig(bins=3))
    said, pca = run.posterior(), run.components()
    assert ((weights > 0) & (weights < 1)).any() and weights.max() <= 1 + 1e-6
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)), atol=0.03, rtol=0)
    assert weights.sum(0).max() - weights.sum(0).min() < 0.1 * len(weights)
    places = (said.latents - pca.mean) @ pca.components[0]
    means = (said.weights * places).sum(1)
    of_parts = (weights.mT @ means) / weights.sum(0)
    assert of_parts[0] < of_parts[1] < of_parts[2]


def test_particles_that_are_probably_bad_are_left_out(run, good, tmp_path):
    good(run, [0.9] * 60 + [0.1] * 36)
    maps = run.maps(indices=f"0:{COUNT}", out=tmp_path)
    assert (maps.left_out, maps.maps[0].particles) == (36, 60)
    some = run.maps(indices="0:60", quality=0.0, out=tmp_path / "some")
    same = torch.equal(read_map(maps.path(0)).values, read_map(some.path(0)).values)
    assert same and some.left_out == 0


def test_half_sets_are_those_of_the_file_where_it_has_them(run, tmp_path):
    drawn, source = half_sets(run)
    assert source == "at random" and drawn.sum() == COUNT // 2
    assert torch.equal(half_sets(run)[0], drawn)
    text = run.inputs.particles.read_text().splitlines()
    rows = [line for line in text if "@" in line]
    last = max(n for n, line in enumerate(text) if line.startswith("_rln"))
    number = int(text[last].split("#")[1]) + 1
    head = [*text[: last + 1], f"_rlnRandomSubset #{number}"]
    lines = [f"{line} {1 + (n % 3 == 0)}" for n, line in enumerate(rows)]
    star = tmp_path / "particles.star"
    star.write_text("\n".join([*head, *lines, ""]))
    shutil.copy(run.inputs.particles.with_suffix(".mrcs"), tmp_path)
    inputs = dataclasses.replace(run.inputs, particles=star)
    settings = dataclasses.replace(run.settings, inputs=inputs)
    half, source = half_sets(dataclasses.replace(run, settings=settings))
    assert source == "as in rlnRandomSubset"
    assert half.tolist() == [int(n % 3 == 0) for n in range(COUNT)]


# How


def test_the_poses_are_those_that_the_run_corrected(run, tmp_path, monkeypatch):
    before = whole(run, tmp_path / "before")
    given, step = run.particles, torch.tensor([PIXEL, 0.0, 0.0], dtype=torch.float64)
    shifts = given.shifts + (given.rotations @ step)[:, :2]
    corrected = dataclasses.replace(given, shifts=shifts)
    monkeypatch.setattr(type(run), "refined_particles", property(lambda _: corrected))
    after = whole(run, tmp_path / "after")
    assert alike(after, before) < 0.9
    assert alike(after[..., :-1], before[..., 1:]) > 0.93  # the content is a voxel to the left


def test_dark_protein_becomes_bright(run, tmp_path):
    inputs = dataclasses.replace(run.inputs, invert=True)
    other = dataclasses.replace(run, settings=dataclasses.replace(run.settings, inputs=inputs))
    found, inverted = whole(run, tmp_path / "a"), whole(other, tmp_path / "b")
    torch.testing.assert_close(inverted, -found, rtol=1e-4, atol=1e-4)


def test_flipped_phases_make_the_same_map(run, tmp_path, monkeypatch):
    """Where images were multiplied by the sign of their CTF, reading flips them back."""
    plain = whole(run, tmp_path / "a")
    flipped = dataclasses.replace(run.particles, phase_flipped=True)
    monkeypatch.setattr(type(run), "refined_particles", property(lambda _: flipped))
    assert alike(whole(run, tmp_path / "b"), plain) < 0.9  # these images were not


def test_parts_that_do_not_fit_into_memory_take_several_passes(run, tmp_path, monkeypatch):
    passes = []
    monkeypatch.setattr(
        module,
        "insert_particles",
        lambda *arguments: passes.append(1) or insert_particles(*arguments),
    )
    once = run.maps(bins=3, quality=0.0, out=tmp_path / "once")
    assert len(passes) == 1
    size = module.Slices.bytes_of(module._band(run, None))
    monkeypatch.setattr(module, "available_memory", lambda: 6 * size)
    several = run.maps(bins=3, quality=0.0, out=tmp_path / "several")
    assert len(passes) == 4
    for number in range(3):
        first, second = (read_map(maps.path(number)).values for maps in (once, several))
        assert torch.equal(first, second)
    assert dataclasses.replace(once, folder=several.folder) == several


def test_a_resolution_limits_the_detail_of_a_map(run, tmp_path):
    values = whole(run, tmp_path, resolution=20.0)
    spectrum = torch.fft.fftn(values).abs()
    frequency = torch.fft.fftfreq(BOX, PIXEL)
    radius = (frequency[:, None, None] ** 2 + frequency[:, None] ** 2 + frequency**2).sqrt()
    assert spectrum[radius > 1 / 14].max() < 0.05 * spectrum.max()


@pytest.mark.parametrize(
    "choice, value",
    [
        ({"pc": 99}, 99),
        ({"clusters": 97}, 97),
        ({"clusters": 2, "indices": "0:9"}, 2),
        ({"bins": 96}, 0),
        ({"indices": "0:1"}, 0),
    ],
)
def test_maps_that_cannot_be_made_are_refused_before_anything_is_written(
    choice, value, run, tmp_path
):
    with refused(value=value):
        run.maps(**choice, quality=0.0, out=tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


def test_a_map_that_memory_does_not_hold_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: 4_000_000)
    needed = 2 * module.Slices.bytes_of(module._band(run, None))
    with refused(value=float(f"{needed / 1e9:.3g}")) as caught:
        run.maps(quality=0.0, out=tmp_path / "maps")
    assert "--resolution" in caught.value.remedy
