"""The door, `import cryostar_nb as cs`: its names, its commands as functions, and what lessons need
before they begin.
"""

import dataclasses
import importlib.util
import inspect
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import cryostar_nb as cs
import cryostar_nb.doctor.docking
import cryostar_nb.normal_modes
from cryostar_nb import commands, course
from cryostar_nb.errors import InputError

ROOT = Path(__file__).parents[1]
COMMANDS = [
    commands.Simulate,
    commands.Info,
    commands.Preprocess,
    commands.Select,
    commands.Doctor,
    commands.Dock,
    commands.Train,
]
EMPTY = inspect.Parameter.empty


def function_of(command):
    """The function of the door that is a command."""
    return getattr(cs, command.__name__.lower())


def settings_of(command):
    """Name and default of every setting of a command, also of those in its groups."""
    for name, kind in get_type_hints(command).items():
        if dataclasses.is_dataclass(kind):
            yield from settings_of(kind)
        else:
            default = command.__dataclass_fields__[name].default
            yield name, EMPTY if default is dataclasses.MISSING else default


def run_python(code):
    """Standard output of a program."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_door_has_about_fifty_names_and_all_are_there():
    assert 40 <= len(cs.__all__) <= 65 and len(set(cs.__all__)) == len(cs.__all__)
    assert set(cs.__all__) <= set(dir(cs))


@pytest.mark.parametrize("name", cs.__all__)
def test_every_name_of_the_door_is_documented(name):
    value = getattr(cs, name)
    assert inspect.getdoc(value)
    is_module = inspect.ismodule(value)
    assert is_module == (name in ("course", "doctor", "plot", "view"))


def test_the_door_opens_without_numpy_or_torch():
    code = "import sys, cryostar_nb as cs; dir(cs); cs.InputError, cs.TrainConfig, cs.doctor"
    code += "; print(callable(cs.doctor), {'numpy', 'torch', 'scipy'} & set(sys.modules))"
    assert run_python(code) == "True set()"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="telescope"):
        cs.telescope  # noqa: B018


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_a_function_with_the_names_and_defaults_of_its_flags(command):
    function = function_of(command)
    parameters = inspect.signature(function).parameters
    assert {name: p.default for name, p in parameters.items()} == dict(settings_of(command))
    hints = get_type_hints(command, include_extras=True)
    by_place = [name for name, hint in hints.items() if "Positional" in repr(hint)]
    kinds = {name: p.kind for name, p in parameters.items()}
    assert [name for name in kinds if kinds[name] is not inspect.Parameter.KEYWORD_ONLY] == by_place
    if command is not commands.Doctor:  # a module that is called has the module's words
        assert function.__name__ == command.__name__.lower()
        assert all(f"    {name}: " in function.__doc__ for name in parameters)


def test_the_doctor_is_called_by_its_name_also_after_a_module_of_it_was_imported(tmp_path):
    assert cs.doctor is cryostar_nb.doctor and callable(cs.doctor)
    with pytest.raises(InputError) as caught:
        cs.doctor(tmp_path / "absent.star", reference=ROOT / "data" / "1ake.pdb")
    assert caught.value.file == tmp_path / "absent.star"


def test_a_function_keeps_its_name_also_after_the_module_of_that_name_was_imported():
    assert inspect.ismodule(sys.modules["cryostar_nb.normal_modes"])
    code = "from cryostar_nb.models import make_network; import cryostar_nb.normal_modes"
    code += "; import cryostar_nb as cs; print(cs.normal_modes.__class__.__name__)"
    assert run_python(code) == "function"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_and_a_missing_argument_are_type_errors(command):
    needed = {name: "x" for name, default in settings_of(command) if default is EMPTY}
    with pytest.raises(TypeError, match="wings"):
        function_of(command)(**needed, wings=2)
    with pytest.raises(TypeError):
        function_of(command)()


@pytest.mark.parametrize(
    ("call", "name", "value"),
    [
        (lambda: cs.train("x.star", reference="y.pdb", out="z", steps=0), "steps", 0),
        (
            lambda: cs.train("x.star", reference="y.pdb", out="z", low_pass="fine"),
            "low_pass",
            "fine",
        ),
        (lambda: cs.train("x.star", reference="y.pdb", out="z", preset="ours"), "preset", "ours"),
        (lambda: cs.train("x.star", reference="y.pdb", out="z", device=3), "device", 3),
        (lambda: cs.simulate(start="x.pdb", out="z", snr=-1.0), "snr", -1.0),
        (lambda: cs.simulate(start="x.pdb", out="z", realistic="yes"), "realistic", "yes"),
        (lambda: cs.simulate(start="x.pdb", out="z", mtf=1.5), "mtf", 1.5),
        (lambda: cs.select("x.star", out="y.star", above=120), "above", 120),
        (lambda: cs.preprocess("x.star", out="z", normalise="no way"), "normalise", "no way"),
        (lambda: cs.info("x.star", pixel_size=0), "pixel_size", 0),
        (lambda: cs.doctor("x.star", n_particles=0), "n_particles", 0),
        (lambda: cs.dock("x.pdb", "y.mrc", out="z.cif", frame="door"), "frame", "door"),
    ],
)
def test_a_bad_value_is_an_input_error(call, name, value):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.value == value and name in caught.value.problem


def test_a_missing_file_is_an_input_error_with_its_name():
    with pytest.raises(InputError) as caught:
        cs.info("nowhere.star")
    assert caught.value.file == Path("nowhere.star")


def test_the_example_of_the_door(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    work = tmp_path
    tiny = {"n_particles": 160, "snr": 1.0, "box_size": 32, "pixel_size": 4, "states": 5}
    quick = {"steps": 20, "batch_size": 16, "low_pass": 9}

    cs.simulate(start="data/1ake.pdb", end="data/4ake.pdb", out=work, **tiny)
    run = cs.train(work / "particles.star", reference="data/1ake.pdb", out=work / "run", **quick)
    score = run.evaluate(work / "truth.npz")  # a dataclass; score.idle is doing nothing
    figure = cs.plot.rmsd({"this run": score, "doing nothing": score.idle})
    structures = run.decode(run.latents[:4])
    images = run.project(structures, run.particles[:4])
    explorer = run.explorer()

    assert isinstance(run, cs.Run) and dataclasses.is_dataclass(score)
    assert (run.step, run.config) == (20, dataclasses.replace(cs.TrainConfig(), **quick))
    assert (structures.shape, images.shape) == ((4, 214, 3), (4, 32, 32))
    assert np.isfinite(score.rmsd_mean) and images.std() > 0 and "<" in explorer._repr_html_()
    assert isinstance(figure, Figure)
    labels = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert labels == {"this run", "doing nothing"}
    again = cs.open_run(work / "run")
    assert torch.equal(again.latents, run.latents)
    assert torch.equal(again.decode(again.latents[:4]), structures)
    (work / "run" / "latents.npy").unlink()  # inferred anew
    torch.testing.assert_close(cs.open_run(work / "run").latents, run.latents)


def test_train_resumes_with_the_settings_of_its_folder(small_run, run_copy):
    before = cs.open_run(small_run / "run")
    run = cs.train(out=run_copy, resume=True, steps=61)
    assert run.config == dataclasses.replace(before.config, steps=61) and run.step == 61
    assert run.inputs == before.inputs
    with pytest.raises(InputError) as caught:
        cs.train(out=run_copy, resume=True, preset="paper")
    assert caught.value.value == "paper"


def test_the_papers_preset_is_an_argument(tmp_path, monkeypatch, capsys):
    given = {}
    monkeypatch.setattr(
        "cryostar_nb.runs.start.start_run",
        lambda inputs, config, out, **_: given.update(config=config),
    )
    cs.train(tmp_path / "x.star", reference="y.pdb", out="z", preset="paper", steps=5)
    assert given["config"] == dataclasses.replace(cs.PRESETS["paper"], steps=5)
    assert "paper" in capsys.readouterr().out


def test_a_run_of_the_command_line_is_opened_in_python(small_run):
    run = cs.open_run(small_run / "run")
    assert run.step == 60 and run.latents.shape == (160, 8) and run.evaluation["steps"] == 60
    np.testing.assert_array_equal(run.latents, np.load(small_run / "run" / "latents.npy"))


def test_the_version_is_kept_in_every_run(small_run):
    settings = json.loads((small_run / "run" / "config.json").read_text())
    assert settings["version"] == cs.__version__


@pytest.mark.parametrize("start", [".", "notebooks", "book/images", "tests"])
def test_the_data_are_found_from_any_folder_of_the_project(start, monkeypatch):
    assert course.data_folder(ROOT / start) == ROOT / "data"
    monkeypatch.chdir(ROOT / start)
    assert cs.course.data_folder() == ROOT / "data"


def test_the_data_are_found_where_a_wheel_puts_them(tmp_path, monkeypatch):
    installed = tmp_path / "share" / "cryostar_nb" / "data"
    shutil.copytree(ROOT / "data", installed)
    monkeypatch.setattr(course, "__file__", str(tmp_path / "lib" / "cryostar_nb" / "course.py"))
    monkeypatch.setattr(course.sysconfig, "get_path", lambda name: str(tmp_path))
    start = tmp_path / "content"
    start.mkdir()
    assert course.data_folder(start) == installed


def test_a_lesson_says_where_it_runs_and_how_long_it_took(capsys, monkeypatch):
    for part in (cs.__version__, torch.__version__, platform.python_version()):
        assert part in course.machine()
    with course.timed("30 steps"):
        time.sleep(0.06)  # which is shown as 0.1 s
    said = capsys.readouterr().out
    assert float(re.fullmatch(r"30 steps: (.*) s on .*\n", said).group(1)) >= 0.1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some GPU")
    assert course.device().type == "cuda" and course.machine().endswith("on some GPU")


def test_the_data_are_found_beside_the_package_or_the_sentence_says_what_to_do(tmp_path):
    assert course.data_folder(tmp_path) == ROOT / "data"
    copy = tmp_path / "elsewhere" / "cryostar_nb" / "course.py"
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / "cryostar_nb" / "course.py", copy)
    spec = importlib.util.spec_from_file_location("course_without_data", copy)
    without_data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without_data)
    with pytest.raises(InputError) as caught:
        without_data.data_folder(tmp_path)
    assert caught.value.file == tmp_path.resolve() and caught.value.remedy
    assert str(caught.value).count("\n") == 0 and "1ake.pdb" in str(caught.value)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1ake.pdb").write_text("")
    assert without_data.data_folder(copy.parent) == tmp_path / "data"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "Exercise 1: no answer yet. Fill in the cell above.\n"),
        (4, "Exercise 1: right. It is even.\n"),
        (3, "Exercise 1: not right yet. Divide by two.\n"),
        (np.array([4]), "Exercise 1: right. It is even.\n"),
    ],
)
def test_an_answer_is_judged(answer, said, capsys):
    course.check("Exercise 1", answer, lambda n: n % 2 == 0, "Divide by two.", "It is even.")
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("answer", ["four", [4], np.array([2, 4])])
def test_an_answer_of_another_kind_gets_the_hint(answer, capsys):
    course.check("Exercise 1", answer, lambda n: n % 2 == 0, "Divide by two.")
    said = capsys.readouterr().out
    assert said.startswith("Exercise 1: ") and "Divide by two." in said and "right." not in said
    assert said.count("\n") == 1
