"""`config.json`: what is written reads back the same; what another version wrote, where it can."""

import dataclasses
import json
from pathlib import Path

import pytest

from cryostar_nb import __version__
from cryostar_nb.config import PRESETS, ModelConfig, TrainConfig
from cryostar_nb.errors import InputError
from cryostar_nb.io.options import Reading
from cryostar_nb.runs.run_config import Grid, InputFiles, RunConfig, particles_of, read_config


@pytest.fixture
def settings(tmp_path):
    """Settings that are not the defaults, with relative and absolute paths."""
    reading = Reading(root=tmp_path, poses_pkl=Path("poses.pkl"), pixel_size=1.25)
    return RunConfig(
        InputFiles(
            Path("particles.mrcs"),
            tmp_path / "sub" / ".." / "model.pdb",
            invert=True,
            map=Path("map.mrc"),
            map_pixel_size=2.0,
            reading=reading,
        ),
        Grid(64, 1.25, 1000),
        TrainConfig(method="cont", steps=7, kl_weight=None, final_elastic_weight=None, low_pass=6),
        ModelConfig(encoder_widths=(8, 4), latent_dim=3),
    )


@pytest.fixture
def change(settings, tmp_path):
    """Write config.json, changed in its text by a function of its values, and return the folder."""

    def make(edit):
        settings.write(tmp_path)
        values = json.loads((tmp_path / "config.json").read_text())
        edit(values)
        (tmp_path / "config.json").write_text(json.dumps(values))
        return tmp_path

    return make


def refusal(folder):
    with pytest.raises(InputError) as caught:
        read_config(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def test_what_is_written_reads_back(settings, tmp_path):
    settings.write(tmp_path)
    stored = read_config(tmp_path)
    assert stored.grid == settings.grid and stored.version == __version__
    assert stored.train == settings.train
    assert stored.train.kl_weight is None and stored.train.final_elastic_weight is None
    assert stored.model == settings.model and stored.model.encoder_widths == (8, 4)
    reading = Reading(root=tmp_path, poses_pkl=Path.cwd() / "poses.pkl", pixel_size=1.25)
    assert stored.inputs == InputFiles(
        Path.cwd() / "particles.mrcs",
        tmp_path / "model.pdb",
        invert=True,
        map=Path.cwd() / "map.mrc",
        map_pixel_size=2.0,
        reading=reading,
    )


def test_reading_and_writing_again_changes_nothing(settings, tmp_path):
    settings.write(tmp_path)
    first = (tmp_path / "config.json").read_text()
    read_config(tmp_path).write(tmp_path)
    assert (tmp_path / "config.json").read_text() == first


@pytest.mark.parametrize("preset", PRESETS)
def test_the_presets_read_back(preset, settings, tmp_path):
    dataclasses.replace(settings, train=PRESETS[preset]).write(tmp_path)
    assert read_config(tmp_path).train == PRESETS[preset]


def test_the_first_version_noted_neither_itself_nor_a_map(settings, change):
    def as_in_0_1_0(values):
        del values["version"], values["inputs"]["map"], values["inputs"]["map_pixel_size"]

    stored = read_config(change(as_in_0_1_0))
    assert stored.version == "0.1.0 or older" and stored.inputs.map is None
    assert (stored.train, stored.model) == (settings.train, settings.model)


def test_runs_that_held_no_particle_out_did_not_note_it(change):
    def as_before(values):
        del values["train"]["held_out"], values["train"]["stop_early"]

    assert TrainConfig().held_out == 0.05
    assert read_config(change(as_before)).train.held_out == 0.0


@pytest.mark.parametrize("part", ["inputs", "grid", "train", "model", None])
def test_an_unknown_setting_is_refused_and_the_version_that_wrote_it_is_named(part, change):
    def add(values):
        values["version"] = "9.1"
        (values if part is None else values[part])["halo"] = 3

    error = refusal(change(add))
    assert error.value == "9.1" and error.file.name == "config.json"
    assert "9.1" in str(error) and "halo" in str(error)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("train", "steps", 0),
        ("train", "steps", "many"),
        ("train", "method", "stars"),
        ("grid", "pixel_size", None),
        ("grid", "box_size", 12.5),
        ("model", "encoder_widths", [8, -4]),
        ("inputs", "particles", None),
        ("inputs", "reading", []),
    ],
)
def test_a_value_that_does_not_fit_is_refused(part, name, value, change):
    error = refusal(change(lambda values: values[part].update({name: value})))
    assert name in str(error) and error.value == __version__


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"train": {}}'])
def test_a_file_that_is_no_configuration_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert refusal(tmp_path).file == tmp_path / "config.json"


def test_a_folder_without_a_configuration_is_no_run(tmp_path):
    assert refusal(tmp_path).file == tmp_path


def test_what_changed_is_said_a_line_each(settings):
    now = dataclasses.replace(
        settings,
        train=dataclasses.replace(settings.train, steps=9),
        inputs=dataclasses.replace(settings.inputs, invert=False),
    )
    assert now.changes_from(settings) == ["steps = 9, not 7", "invert = False, not True"]
    assert settings.changes_from(settings) == []


def test_particles_are_read_as_the_run_read_them_but_for_what_is_given(settings, tmp_path):
    settings.write(tmp_path)
    path, reading = particles_of(tmp_path, Reading(pixel_size=3.0))
    assert path == Path.cwd() / "particles.mrcs"
    assert reading == dataclasses.replace(read_config(tmp_path).inputs.reading, pixel_size=3.0)
    assert particles_of(Path("a.star"), Reading()) == (Path("a.star"), Reading())
