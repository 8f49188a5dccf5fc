"""The command line: what it says of itself, what it takes and refuses, and its way to a report."""

import argparse
import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import gemmi
import mdtraj
import numpy as np
import pytest
import torch

from cryostar_nb import __main__ as start
from cryostar_nb import __version__, cli, commands
from cryostar_nb.density import model_density
from cryostar_nb.doctor import docking
from cryostar_nb.doctor.docking import even_rotations
from cryostar_nb.errors import InputError
from cryostar_nb.evaluation import ErrorPerState
from cryostar_nb.geometry import rmsd
from cryostar_nb.io.maps import DensityMap, write_map
from cryostar_nb.io.options import Reading
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.star import write_star
from cryostar_nb.io.structures import read_structure, write_structure
from cryostar_nb.latents import ENDS, traverse
from cryostar_nb.runs.folder import open_run

DATA = Path(__file__).parents[1] / "data"
START, END = DATA / "1ake.pdb", DATA / "4ake.pdb"
SMALL = "--n-particles 160 --box-size 32 --pixel-size 4 --states 5 --snr 1"
QUICK = "--low-pass 9 --batch-size 16"
NAMES = [command.__name__.lower() for command in commands.COMMANDS]
BY_PLACE = {"particles", "source", "model", "target", "run_folder"}
SLOW_IMPORTS = {"torch", "scipy", "matplotlib", "pandas", "plotly"}
LINES_OF_A_MOMENT = [
    "",
    "--version",
    *(f"{name} --help" for name in NAMES),
    "train x.star --reference y.pdb --out z --wings 2",
    "train x.star --reference y.pdb --out z --steps 0",
    "simulate --start x.pdb --end y.pdb --out z --box-size -3",
]
RUN_LINES = """
import contextlib, io, json, sys
from cryostar_nb.__main__ import main
answers = {}
for line in json.loads(sys.argv[1]):
    said, sys.argv[1:] = io.StringIO(), line.split()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
    answers[line] = [code, said.getvalue(), list(sys.modules)]
print(json.dumps(answers))
"""


def parse(line):
    """The command that a line means."""
    return cli.parse(shlex.split(line))


def settings_of(command):
    """Every setting of a command, also those in its groups: name and description."""
    for name, kind in get_type_hints(command).items():
        if dataclasses.is_dataclass(kind):
            yield from settings_of(kind)
        else:
            yield name, command.__pydantic_fields__[name].description


def plain(text):
    """A help text without its frames and line breaks."""
    return " ".join(re.sub("[╭╮╰╯│─]", " ", text).split())


@pytest.fixture(scope="module")
def answers():
    """Exit code, text and imported modules of the lines that are answered in a moment."""
    words = [sys.executable, "-c", RUN_LINES, json.dumps(LINES_OF_A_MOMENT)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


@pytest.fixture
def few_rotations(monkeypatch):
    """Docking that searches 800 rotations, in place of thousands."""
    monkeypatch.setattr(docking, "even_rotations", lambda _: even_rotations(800))


@pytest.mark.parametrize("line", LINES_OF_A_MOMENT)
def test_help_and_mistakes_are_answered_without_slow_imports(line, answers):
    code, text, modules = answers[line]
    mistake = "x.star" in line or "x.pdb" in line
    assert (code, bool(text)) == (2 if mistake else 0, True)
    assert not SLOW_IMPORTS & set(modules)


def test_the_bare_program_prints_its_help(shell):
    answer = shell("")
    assert (answer.code, answer.error) == (0, "")
    assert answer.out == shell("--help").out and all(name in answer.out for name in NAMES)


def test_no_words_are_a_mistake_of_the_shells_kind(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.parse([])
    assert stop.value.code == 2 and capsys.readouterr().err


def test_the_version_is_printed(shell):
    assert shell("--version").out == f"cryostar-nb {__version__}\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_stands_in_the_help_with_its_description(name, shell, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    answer = shell(f"{name} --help")
    text, command = plain(answer.out), cli.SUBCOMMANDS[name]
    assert answer.code == 0 and plain(command.__doc__) in text
    for setting, description in settings_of(command):
        assert description and plain(description) in text, setting
        flag = f"--{setting.replace('_', '-')}"
        assert setting in BY_PLACE or re.search(rf"{flag}[ ,]", text), flag


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--steps", 0),
        ("--batch-size", -1),
        ("--relaxation-percentile", 120.0),
        ("--low-pass", 0.0),
        ("--clash-weight", -2.0),
        ("--final-elastic-weight", 0.0),
        ("--elastic-weight", 0.0),
        ("--pixel-size", 0.0),
        ("--memory-gb", -1.0),
    ],
)
def test_a_value_out_of_bounds_is_named(flag, value, refused):
    line = f"train x.star --reference y.pdb --out z {flag} {value}"
    with pytest.raises(InputError) as caught:
        parse(line)
    setting = flag.strip("-").replace("-", "_")
    assert caught.value.value == value and setting in caught.value.problem
    refused(line, setting, f"{value:g}")


def test_a_value_of_another_kind_and_an_unknown_flag_are_exit_code_2(shell):
    for words in ("--steps many", "--wings 2", "--preset"):
        answer = shell(f"train x.star --reference y.pdb --out z {words}")
        assert answer.code == 2 and words.split()[0] in answer.error and answer.out == ""
        assert "cryostar-nb train --help" in answer.error


def test_a_device_that_is_not_there_is_refused(small_run, refused, tmp_path):
    particles = small_run / "sim" / "particles.star"
    line = f"train {particles} --reference {START} --out {tmp_path}/run --device abacus"
    refused(line, "device = abacus")


@pytest.mark.parametrize(
    ("preset", "density", "encoder_input", "final"),
    [
        ("", "groups", "structure", 0.005),
        ("--preset standard", "groups", "structure", 0.005),
        ("--preset paper", "nodes", "image", None),
        ("--preset=paper", "nodes", "image", None),
    ],
)
def test_a_preset_sets_defaults_and_flags_override_them(preset, density, encoder_input, final):
    config = parse(f"train x.star --reference y.pdb --out z {preset} --steps 7").config
    assert (config.density, config.encoder_input, config.final_elastic_weight) == (
        density,
        encoder_input,
        final,
    )
    assert (config.steps, config.batch_size) == (7, 64)


@pytest.mark.parametrize("with_truth", [True, False])
def test_the_papers_preset_says_so_and_what_it_has_for_experimental_data(
    with_truth, shell, tmp_path, monkeypatch
):
    monkeypatch.setattr("cryostar_nb.runs.start.start_run", lambda *_, **__: None)
    if with_truth:
        (tmp_path / "truth.npz").write_bytes(b"")
    line = f"train {tmp_path}/x.star --reference {START} --out {tmp_path}/run"
    said = shell(f"{line} --preset paper").out
    assert "paper" in said
    assert ("p = 95" in said, "96,000 steps" in said) == (not with_truth, not with_truth)
    assert shell(line).out == ""


def test_simulate_writes_particles_that_read_back(small_run):
    particles = read_particles(small_run / "sim" / "particles.star")
    assert (len(particles), particles.box_size, particles.pixel_size) == (160, 32, 4.0)
    truth = np.load(small_run / "sim" / "truth.npz")
    assert truth["positions"].shape == (5, 214, 3)
    assert np.bincount(truth["state"]).tolist() == [32] * 5


def test_a_trajectory_gives_the_states(shell, tmp_path):
    atoms = read_structure(START)
    frames = np.stack([atoms.positions + 0.1 * frame for frame in range(6)])
    write_structure(tmp_path / "path.pdb", atoms, frames)
    trajectory = f"--start {START} --trajectory {tmp_path}/path.pdb"
    assert shell(f"simulate {trajectory} --out {tmp_path}/sim {SMALL}").code == 0
    moved = np.diff(np.load(tmp_path / "sim" / "truth.npz")["positions"].mean(axis=(1, 2)))
    np.testing.assert_allclose(moved.sum(), 0.5, atol=1e-3)


def test_realistic_particles_and_a_wrong_reference_are_made_in_the_shell(shell, tmp_path):
    line = f"simulate --start {START} --end {END} --out {tmp_path}/sim {SMALL} --n-particles 16"
    answer = shell(f"{line} --realistic --snr 0.5 --box-size 48 --reference-gap 5")
    assert answer.code == 0 and answer.out.startswith(f"wrote {tmp_path}/sim/particles.star, ")
    assert "particles.mrcs, reference.cif and truth.npz" in answer.out
    truth = np.load(tmp_path / "sim" / "truth.npz")
    asked = json.loads(str(truth["faults"]))
    assert (asked["reference_gap"], asked["rotation_error"], truth["snr"]) == (5, 2.0, 0.5)
    assert len(read_structure(tmp_path / "sim" / "reference.cif")) < len(read_structure(START))
    told = read_particles(tmp_path / "sim" / "particles.star")
    assert not np.allclose(told.rotations, truth["rotations"], atol=1e-3)


def test_structures_that_do_not_match_are_refused_and_nothing_is_written(refused, tmp_path):
    atoms = read_structure(END)
    write_structure(tmp_path / "short.pdb", atoms[atoms.residue_numbers < 200])
    line = f"simulate --start {START} --end {tmp_path}/short.pdb --out {tmp_path}/sim {SMALL}"
    refused(line, "chain A")
    assert not (tmp_path / "sim").exists()


def test_evaluation_has_the_promised_numbers_and_they_are_the_predictions_errors(small_run):
    result = json.loads((small_run / "run" / "evaluation.json").read_text())
    assert len(result["rmsd_per_state"]) == len(result["rmsd_std_per_state"]) == 5
    assert result["rmsd_mean"] == pytest.approx(np.mean(result["rmsd_per_state"]), rel=1e-6)
    assert {"bond_error", "local_error", "seconds_per_step"} <= set(result)
    first, last = (read_structure(path) for path in (START, END))
    ca = first.atom_names == "CA"
    distance = np.sqrt(np.square(first.positions[ca] - last.positions[ca]).sum(-1).mean())
    assert result["do_nothing_per_state"][-1] == pytest.approx(distance, rel=1e-4)


def test_evaluate_shows_each_state_beside_doing_nothing(small_run):
    command = parse(f"evaluate {small_run}/run --truth {small_run}/sim/truth.npz")
    idle = ErrorPerState(3.25, 5.0, [0.0, 6.5], [0.0, 0.0], 3.0, 5.5, 2.75)
    errors = ErrorPerState(1.5, 2.0, [1.0, 2.0], [0.1, 0.2], 1.25, 1.75, 0.75)
    score = argparse.Namespace(**vars(errors), idle=idle, bond_error=0.125, n_junk=12)
    score.pose_errors_given = {"rotation_error_deg": 3.5, "shift_error": 1.25}
    score.pose_errors_refined = None
    score.posterior = score.volumes = None
    text = cli.describe(command, score)
    rows = [re.findall(r"\d+\.\d+", line) for line in text.splitlines()[1:]]
    assert rows == [
        ["1.00", "0.10", "0.00"],
        ["2.00", "0.20", "6.50"],
        ["1.50", "3.25"],
        ["1.25", "3.00"],
        ["0.75", "2.75"],
        ["0.125"],
        ["3.50", "1.25"],
        [],
        [],
    ]
    assert "12 images without a good particle" in text
    assert text.endswith(str(small_run / "run" / "evaluation.json"))
    command = parse(f"evaluate {small_run}/run --truth t.npz --particles new.star")
    assert "evaluation.json" not in cli.describe(command, score)


def test_evaluate_shows_how_alike_volumes_and_neighbourhoods_are(small_run):
    from cryostar_nb.pages.terminal import describe_volumes

    result = json.loads((small_run / "run" / "evaluation.json").read_text())["volumes"]
    assert 0 < result["fsc_auc_per_conformation"] < result["fsc_auc_highest"] < 0.5
    names = ("per_image", "per_conformation", "do_nothing")
    areas = {f"fsc_auc_{name}": 0.1 * n for n, name in enumerate(names, start=1)}
    areas |= {f"{name}_sd": 0.01 for name in areas} | {"fsc_auc_highest": 0.49}
    near = {"neighbourhoods": [0.01, 0.05], "neighbourhood_similarity": [0.12, 0.5]}
    text = "\n".join(describe_volumes(areas | near))
    numbers = ["0.490", "0.100", "0.010", "0.200", "0.010", "0.300"]
    assert re.findall(r"\d\.\d+", text) == numbers
    assert text.endswith("12% (chance 1%), 50% (chance 5%)")


def test_evaluate_shows_how_sure_posteriors_are_and_how_often_rightly():
    from cryostar_nb.pages.terminal import describe_posterior

    told = {"rmsd_mean": 0.5, "sd": 0.25, "levels": [0.5, 0.9, 0.95]}
    told |= {"coverage_along": [0.4, 0.8, 0.9], "coverage_residues": [0.3, 0.6, 0.7]}
    lines = describe_posterior(told)
    assert re.findall(r"[\d.]+", lines[0]) == ["0.50", "0.25"]
    assert [line.split(": ")[1] for line in lines[1:]] == ["40%, 80%, 90%", "30%, 60%, 70%"]
    told["coverage_along_with_shared"] = [0.5, 0.9, 1.0]
    assert "with shared errors: 50%, 90%, 100%" in "\n".join(describe_posterior(told))


def test_analyse_writes_every_promised_file(small_run):
    folder = small_run / "run"
    assert np.load(folder / "latents.npy").shape == (160, 8)
    table = (folder / "pca.csv").read_text().splitlines()
    assert len(table) == 161 and table[0].startswith("particle,pc1,pc2")
    models = mdtraj.load(str(folder / "traversal_pc1.pdb"))
    frames = mdtraj.load(str(folder / "traversal_pc1.dcd"), top=str(folder / "traversal_pc1.pdb"))
    assert frames.n_frames == models.n_frames == 21
    np.testing.assert_allclose(frames.xyz, models.xyz, atol=1e-4)
    assert "bonds between residues off by" in (folder / "report.html").read_text()
    for number in (1, 2, 3):
        models = gemmi.read_structure(str(folder / f"atoms_pc{number}.cif"))
        assert len(models) == 5
        assert models[0].count_atom_sites() == len(read_structure(folder / "atoms.cif"))


@pytest.mark.parametrize("sign", [1, -1])
def test_all_that_is_said_of_the_first_component_leads_away_from_the_reference(
    sign, small_run, run_copy, shell, tmp_path, monkeypatch
):
    """Whatever sign the components come with: scores, traversal, explorer and selection agree."""
    decompose = torch.linalg.svd

    def turned(matrix, **options):
        left, values, right = decompose(matrix, **options)
        return sign * left, values, sign * right

    monkeypatch.setattr("torch.linalg.svd", turned)
    opened = open_run(run_copy)
    assert shell(f"analyse {run_copy}").code == 0
    frames = torch.from_numpy(mdtraj.load(str(run_copy / "traversal_pc1.pdb")).xyz) * 10
    from_reference = rmsd(frames[[0, -1]], opened.reference)
    assert from_reference[0] < from_reference[1]
    scores = np.loadtxt(run_copy / "pca.csv", delimiter=",", skiprows=1)[:, 1]
    scores = torch.from_numpy(scores)
    expected = traverse(opened.model.decoder, opened.latents, scores, torch.tensor(ENDS))
    expected = opened.gauge.apply(expected)
    torch.testing.assert_close(frames[[0, -1]], expected, atol=0.01, rtol=0)
    report = (run_copy / "report.html").read_text()
    labels = re.findall(r"(\d+): PC1 (-?[\d.]+), PC2", report)
    assert labels
    for particle, score in labels:
        assert float(score) == pytest.approx(float(scores[int(particle) - 1]), abs=0.006)
    answer = shell(f"select {run_copy} --out {tmp_path}/high.star --above 90")
    assert (answer.code, "16 of 160 particles" in answer.out) == (0, True)
    high = read_particles(tmp_path / "high.star", Reading(root=small_run / "sim"))
    assert set(high.image_in_stack.tolist()) == set(scores.argsort(descending=True)[:16].tolist())


@pytest.mark.parametrize("page", ["report.html", "latents.html"])
def test_pages_need_no_network(small_run, page):
    text = (small_run / "run" / page).read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)\s*=\s*['\"]?(https?:)?//", text)


def test_the_report_holds_the_moving_structure(small_run):
    text = (small_run / "run" / "report.html").read_text()
    assert text.count("MODEL ") >= 21 and "backAndForth" in text
    assert text.count("data:image/png") == 4


def words_of(command, particles):
    """What a command that writes needs, but for --out."""
    return {
        "simulate": f"--start {START} --end {END} {SMALL}",
        "preprocess": f"{particles}",
        "select": f"{particles} --indices :",
        "doctor": f"{particles} --reference {START}",
        "dock": f"{START} {particles}",
        "train": f"{particles} --reference {START}",
    }[command]


@pytest.mark.parametrize("command", ["simulate", "preprocess", "select", "doctor", "dock"])
def test_what_is_there_is_replaced_when_it_is_said_and_what_is_read_is_not(
    command, small_run, shell, refused, tmp_path
):
    files = {"select": tmp_path / "particles.star", "dock": tmp_path / "reference.cif"}
    shutil.copytree(small_run / "sim", tmp_path / "in")
    particles = tmp_path / "in" / "particles.star"
    line = f"{command} {words_of(command, particles)} --out {files.get(command, tmp_path)}"
    there = tmp_path / ("reference.cif" if command in ("dock", "doctor") else "particles.star")
    there.write_text("notes")
    refused(line, there, "--overwrite")
    assert there.read_text() == "notes"
    # A file that is read is named by any of its names, and never replaced.
    there.unlink()
    there.symlink_to(START if command in ("dock", "doctor", "simulate") else particles)
    refused(f"{line} --overwrite", there, "--out")
    there.unlink()
    if command in ("preprocess", "select"):
        there.write_text("notes")
        assert shell(f"{line} --overwrite").code == 0
        root = tmp_path if command == "preprocess" else tmp_path / "in"
        assert len(read_particles(there, Reading(root=root))) == 160


@pytest.mark.parametrize("command", ["simulate", "preprocess", "select", "doctor", "dock", "train"])
@pytest.mark.parametrize("name", ["file/deeper/out", "x" * 300, "locked/out"])
def test_an_out_that_cannot_be_is_said_before_the_work(
    command, name, small_run, refused, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    (tmp_path / "locked").mkdir()
    access = os.access  # root may write anywhere
    monkeypatch.setattr(os, "access", lambda p, mode: "locked" not in str(p) and access(p, mode))
    out = tmp_path / (name + {"select": ".star", "dock": ".cif"}.get(command, ""))
    words = words_of(command, small_run / "sim" / "particles.star")
    refused(f"{command} {words} --out {out}", tmp_path / name.split("/")[0], "--out")


@pytest.mark.parametrize(
    ("message", "said"), [((), "stopped"), (("stopped at step 3",), "stopped at step 3")]
)
def test_ctrl_c_says_where_it_stopped(message, said, shell, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt(*message)

    monkeypatch.setattr("cryostar_nb.prepare.info.inspect_particles", stop)
    answer = shell("info x.star")
    assert (answer.code, answer.out, answer.error) == (130, "", f"cryostar-nb: {said}\n")


def test_ctrl_c_while_the_libraries_are_read_is_one_line_too(monkeypatch, capsys):
    class Stop:
        def find_spec(self, name, *_):
            if name == "cryostar_nb.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "cryostar_nb.cli")
    monkeypatch.setattr(sys, "meta_path", [Stop(), *sys.meta_path])
    with pytest.raises(SystemExit) as stop:
        start.main()
    assert stop.value.code == 130 and capsys.readouterr().err == "cryostar-nb: stopped\n"


def test_the_shell_gets_the_same_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cryostar-nb", "info", "nowhere.star"])
    with pytest.raises(SystemExit) as stop:
        start.main()
    assert stop.value.code == 2 and "nowhere.star" in capsys.readouterr().err


def test_info_prints_lines_or_one_json_object(small_run, shell):
    particles = small_run / "sim" / "particles.star"
    facts = json.loads(shell(f"info {particles} --json").out)
    text = shell(f"info {particles}").out
    assert facts["problems"] == [] and len(text.splitlines()) > 5 and str(particles) in text


@pytest.mark.slow
def test_the_doctor_finds_nothing_wrong_and_says_what_is(small_run, shell, few_rotations, tmp_path):
    sim, out = small_run / "sim", tmp_path / "out"
    particles = read_particles(sim / "particles.star")
    options = f"--reference {START} --n-particles 60 --out {out}"
    answer = shell(f"doctor {sim}/particles.star {options} --json")
    result = json.loads(answer.out)
    assert (answer.code, result["verdict"], result["n_particles"]) == (0, "ok", 60)
    assert result["train_flags"] == []
    names = {row["name"]: row for row in result["hypotheses"]}
    faults = {"contrast sign", "transpose", "hand", "pixel size"}
    assert faults | {"ok", "CTF off", "CTF sign", "phase flipped"} <= set(names)
    assert names["transpose"]["z"] < -2.5 and names["ok"]["z"] == 0
    page = (out / "doctor.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)\s*=\s*['\"]?(https?:)?//", page)
    turned = dataclasses.replace(particles, rotations=particles.rotations.mT)
    write_star(tmp_path / "wrong.star", turned)
    answer = shell(f"doctor {tmp_path}/wrong.star {options} --overwrite --root {sim}")
    assert answer.code == 0 and "verdict: transpose\n" in answer.out
    line = answer.out.splitlines()[-1].removeprefix("train with: cryostar-nb ")
    words = shlex.split(line)
    assert words[:2] == ["train", str(out / "particles.star")]
    words[words.index("--out") + 1] = str(tmp_path / "run")
    assert shell(f"{shlex.join(words)} --steps 2 {QUICK}").code == 0
    corrected = read_particles(out / "particles.star", Reading(root=sim))
    assert torch.allclose(corrected.rotations, particles.rotations, atol=1e-6)


def test_docking_prints_what_it_gained(shell, few_rotations, tmp_path):
    atoms, origin = read_structure(START), np.array([10.0, -20.0, 30.0])
    positions, electrons = torch.from_numpy(atoms.positions), torch.from_numpy(atoms.electrons)
    values = model_density(positions, electrons, 1.5, box_size=36, pixel_size=2.5)
    write_map(tmp_path / "map.mrc", DensityMap(values, 2.5, origin))
    answer = shell(f"dock {START} {tmp_path}/map.mrc --out {tmp_path}/docked.cif")
    assert answer.code == 0 and re.search(r"FSC falls to 0.5 at.*Å", answer.out)
    assert "mirror image" in answer.out
    centre = origin + 18 * 2.5  # of the centre voxel, where the model's origin belongs
    docked = read_structure(tmp_path / "docked.cif").positions
    np.testing.assert_allclose(docked, atoms.positions + centre, atol=0.3)


def test_a_map_without_a_voxel_size_and_a_doctor_without_a_reference_complain(
    small_run, refused, tmp_path
):
    write_map(tmp_path / "map.mrc", DensityMap(torch.zeros(8, 8, 8), 0.0, np.zeros(3)))
    line = f"dock {START} {tmp_path}/map.mrc --out {tmp_path}/x.cif"
    refused(line, tmp_path / "map.mrc", "--pixel-size")
    refused(f"doctor {small_run}/sim/particles.star", "--reference", "--map")
    assert not (tmp_path / "x.cif").exists()
