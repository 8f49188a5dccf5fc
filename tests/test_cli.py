"""The command line from two PDB files to a report, and its answers to bad input: one line, exit code 2, nothing half-written."""

import dataclasses
import json
import os
import pickle
import re
import shlex
import shutil
import sys
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch

from cryostar_nb import __main__ as start
from cryostar_nb.cli import main, parse
from cryostar_nb.density import model_density
from cryostar_nb.geometry import rmsd
from cryostar_nb.io.maps import DensityMap, write_map
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.star import write_star
from cryostar_nb.io.structures import read_structure, write_structure
from cryostar_nb.latents import ENDS, traverse
from cryostar_nb.runs.folder import open_run

DATA = Path(__file__).parent.parent / "data"
CLOSED, OPEN = str(DATA / "1ake.pdb"), str(DATA / "4ake.pdb")
SMALL = [
    "--n-particles",
    "160",
    "--box-size",
    "32",
    "--pixel-size",
    "4",
    "--states",
    "5",
    "--snr",
    "1",
]
QUICK = ["--low-pass", "9", "--batch-size", "16"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line; return exit code, standard output and standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["cryostar-nb", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A simulation, and a short run on it that was evaluated and analysed."""
    folder = tmp_path_factory.mktemp("cli")
    for arguments in (
        ["simulate", "--closed", CLOSED, "--open", OPEN, "--out", f"{folder}/sim", *SMALL],
        [
            "train",
            f"{folder}/sim/particles.star",
            "--reference",
            CLOSED,
            "--out",
            f"{folder}/run",
            "--steps",
            "60",
            *QUICK,
        ],
        ["evaluate", f"{folder}/run", "--truth", f"{folder}/sim/truth.npz"],
        ["analyse", f"{folder}/run"],
    ):
        parse(arguments).run()
    return folder


def complain(result, *expected):
    """Assert that a result is one clear line with these words, exit code 2 and no traceback."""
    code, _, error = result
    assert code == 2
    assert len(error.strip().splitlines()) == 1 and "Traceback" not in error
    for words in expected:
        assert words in error, error


def test_simulate_writes_particles_that_read_back(finished):
    particles = read_particles(finished / "sim" / "particles.star")
    assert (len(particles), particles.box_size, particles.pixel_size) == (160, 32, 4.0)
    truth = np.load(finished / "sim" / "truth.npz")
    assert (
        truth["positions"].shape == (5, 214, 3) and np.bincount(truth["state"]).tolist() == [32] * 5
    )


def test_evaluation_has_the_promised_numbers_and_they_are_the_predictions_errors(finished):
    result = json.loads((finished / "run" / "evaluation.json").read_text())
    assert len(result["rmsd_per_state"]) == len(result["rmsd_std_per_state"]) == 5
    assert result["rmsd_mean"] == pytest.approx(np.mean(result["rmsd_per_state"]), rel=1e-6)
    assert {"bond_error", "local_error", "seconds_per_step"} <= set(result)
    closed, opened = (read_structure(path) for path in (CLOSED, OPEN))
    ca = closed.atom_names == "CA"
    distance = np.sqrt(np.square(closed.positions[ca] - opened.positions[ca]).sum(-1).mean())
    assert result["do_nothing_per_state"][-1] == pytest.approx(distance, rel=1e-4)


def test_analyse_writes_every_promised_file(finished):
    latents = np.load(finished / "run" / "latents.npy")
    assert latents.shape == (160, 8)
    table = (finished / "run" / "pca.csv").read_text().splitlines()
    assert len(table) == 161 and table[0].startswith("particle,pc1,pc2")
    frames = mdtraj.load(
        str(finished / "run" / "traversal_pc1.dcd"), top=str(finished / "run" / "traversal_pc1.pdb")
    )
    models = mdtraj.load(str(finished / "run" / "traversal_pc1.pdb"))
    assert frames.n_frames == models.n_frames == 21
    np.testing.assert_allclose(frames.xyz, models.xyz, atol=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_all_that_is_said_of_the_first_component_leads_away_from_the_reference(
    sign, finished, run, tmp_path, monkeypatch
):
    """Whatever sign the components come with: scores, traversal, explorer and selection agree."""
    decompose = torch.linalg.svd

    def turned(matrix, **options):
        left, values, right = decompose(matrix, **options)
        return sign * left, values, sign * right

    monkeypatch.setattr("torch.linalg.svd", turned)
    shutil.copytree(finished / "run", tmp_path / "run")
    opened = open_run(tmp_path / "run")
    assert run("analyse", tmp_path / "run")[0] == 0
    frames = torch.from_numpy(mdtraj.load(str(tmp_path / "run" / "traversal_pc1.pdb")).xyz) * 10
    from_reference = rmsd(frames[[0, -1]], opened.reference)
    assert from_reference[0] < from_reference[1]
    scores = torch.from_numpy(
        np.loadtxt(tmp_path / "run" / "pca.csv", delimiter=",", skiprows=1)[:, 1]
    )
    expected = traverse(opened.model.decoder, opened.latents(), scores, torch.tensor(ENDS))
    torch.testing.assert_close(frames[[0, -1]], expected, atol=0.01, rtol=0)
    labels = re.findall(
        r"(\d+): PC1 (-?[\d.]+), PC2", (tmp_path / "run" / "report.html").read_text()
    )
    assert labels
    for particle, score in labels:
        assert float(score) == pytest.approx(float(scores[int(particle) - 1]), abs=0.006)
    assert run("select", tmp_path / "run", "--out", tmp_path / "high.star", "--above", "90")[0] == 0
    high = read_particles(tmp_path / "high.star", root=finished / "sim").image_in_stack
    assert set(high.tolist()) == set(scores.argsort(descending=True)[:16].tolist())


@pytest.mark.parametrize("page", ["report.html", "latents.html"])
def test_pages_need_no_network(finished, page):
    text = (finished / "run" / page).read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)\s*=\s*['\"]?(https?:)?//", text)


def test_the_report_holds_the_moving_structure(finished):
    text = (finished / "run" / "report.html").read_text()
    assert (
        text.count("MODEL ") >= 21 and "backAndForth" in text and text.count("data:image/png") == 4
    )


def test_a_run_without_particles_in_the_most_open_states_is_analysed(finished, run, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    truth = dict(np.load(finished / "sim" / "truth.npz"))
    np.savez(
        tmp_path / "truth.npz", **(truth | {"positions": np.concatenate([truth["positions"]] * 2)})
    )  # five more, in which none is
    assert run("evaluate", tmp_path / "run", "--truth", tmp_path / "truth.npz")[0] == 0
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["rmsd_most_open"] is None
    assert run("analyse", tmp_path / "run")[0] == 0
    row = re.search(
        "at the five most open states</th><td>(.*?)</td>",
        (tmp_path / "run" / "report.html").read_text(),
    )
    assert row.group(1) == "no particle"


@pytest.mark.parametrize("whole", [0, 1, 2])
def test_a_last_line_of_the_log_that_was_cut_is_left_out(whole, finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    log = tmp_path / "run" / "metrics.csv"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:whole]) + lines[whole][:3])
    assert open_run(tmp_path / "run").metrics().get("step") == ([50.0] if whole == 2 else None)


def test_a_run_that_was_stopped_before_its_first_line_is_analysed(finished, run, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    (tmp_path / "run" / "metrics.csv").write_text("")
    assert run("analyse", tmp_path / "run")[0] == 0
    headings = [
        re.findall("<h2>(.*?)</h2>", (folder / "run" / "report.html").read_text())
        for folder in (finished, tmp_path)
    ]
    assert headings[0] == [*headings[1], "Training"]


def test_resume_takes_settings_from_the_run_and_lets_flags_override(finished):
    command = parse(["train", "--resume", "--out", str(finished / "run"), "--steps", "70"])
    assert (command.config.steps, command.config.batch_size, command.config.low_pass) == (
        70,
        16,
        9.0,
    )
    assert command.particles == (finished / "sim" / "particles.star").resolve()


def test_a_preset_sets_defaults_and_flags_override_them():
    command = parse(
        [
            "train",
            "x.star",
            "--reference",
            "y.pdb",
            "--out",
            "z",
            "--preset",
            "ours",
            "--steps",
            "7",
        ]
    )
    assert command.config.final_elastic_weight == 0.005 and command.config.steps == 7


def test_normal_modes_go_from_particles_to_a_report(finished, run, tmp_path, monkeypatch):
    out = tmp_path / "nma"
    particles = finished / "sim" / "particles.star"
    options = ["--method", "nma", "--modes", "5", "--steps", "20", *QUICK]
    assert run("train", particles, "--reference", CLOSED, "--out", out, *options)[0] == 0
    monkeypatch.delattr(
        "cryostar_nb.training.normal_modes"
    )  # from here on they are read, not computed
    opened = open_run(out)
    assert opened.model.decoder.modes.shape == (5, 214, 3)
    np.testing.assert_allclose(opened.model.decoder.modes.square().sum((1, 2)), 214, rtol=1e-5)
    assert run("train", "--resume", "--out", out, "--steps", "30")[0] == 0
    assert run("evaluate", out, "--truth", finished / "sim" / "truth.npz")[0] == 0
    result = json.loads((out / "evaluation.json").read_text())
    assert (result["method"], result["steps"]) == ("nma", 30) and np.isfinite(result["rmsd_mean"])
    assert run("analyse", out)[0] == 0
    assert (out / "report.html").exists()


def test_more_modes_than_the_reference_has_are_refused(finished, run, tmp_path):
    out = tmp_path / "run"
    options = ["--method", "nma", "--modes", "637", *QUICK]
    complain(
        run(
            "train", finished / "sim/particles.star", "--reference", CLOSED, "--out", out, *options
        ),
        "modes = 637",
        "636",
    )
    assert not out.exists()


def test_a_run_is_never_overwritten(finished, run):
    before = (finished / "run" / "checkpoint.pt").read_bytes()
    complain(
        run(
            "train",
            finished / "sim/particles.star",
            "--reference",
            CLOSED,
            "--out",
            finished / "run",
        ),
        "--resume",
        "--out",
    )
    assert (finished / "run" / "checkpoint.pt").read_bytes() == before


def test_a_resumed_run_goes_on_counting(finished, run, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    assert run("train", "--resume", "--out", tmp_path / "run", "--steps", "80")[0] == 0
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    steps, seconds = zip(*[line.split(",")[:2] for line in lines[1:]], strict=True)
    assert [int(step) for step in steps] == [50, 60, 80]
    assert list(map(float, seconds)) == sorted(map(float, seconds))


def test_only_a_new_an_empty_or_an_unfinished_folder_takes_a_run(finished, run, tmp_path):
    """A folder of a run that was killed before its first checkpoint is used again; one with somebody's files is not."""
    words = [
        "train",
        finished / "sim/particles.star",
        "--reference",
        CLOSED,
        *QUICK,
        "--steps",
        "2",
    ]
    (tmp_path / "notes.txt").write_text("mine")
    complain(run(*words, "--out", tmp_path), "holds notes.txt, and no run", "--out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text('{"mine": 1}')
    complain(run(*words, "--out", tmp_path / "mine"), "config.json", "--out")
    assert (tmp_path / "mine" / "config.json").read_text() == '{"mine": 1}'
    shutil.copytree(finished / "run", tmp_path / "run")
    for name in ("checkpoint.pt", "latents.npy"):
        (tmp_path / "run" / name).unlink()
    assert run(*words, "--out", tmp_path / "run")[0] == 0
    assert open_run(tmp_path / "run").step == 2


def words_of(command, particles):
    """What a command that writes needs, but for --out."""
    return {
        "simulate": ["--closed", CLOSED, "--open", OPEN, *SMALL],
        "preprocess": [particles],
        "select": [particles, "--indices", ":"],
        "doctor": [particles, "--reference", CLOSED],
        "dock": [CLOSED, particles],
        "train": [particles, "--reference", CLOSED],
    }[command]


@pytest.mark.parametrize("command", ["simulate", "preprocess", "select", "doctor", "dock"])
def test_what_is_there_is_replaced_when_it_is_said_and_what_is_read_is_not(
    command, finished, run, tmp_path, monkeypatch
):
    out = {"select": tmp_path / "particles.star", "dock": tmp_path / "reference.cif"}.get(
        command, tmp_path
    )
    particles = tmp_path / "in" / "particles.star"
    shutil.copytree(finished / "sim", tmp_path / "in")
    words = words_of(command, particles)
    mine = tmp_path / ("reference.cif" if command in ("dock", "doctor") else "particles.star")
    mine.write_text("mine")
    complain(run(command, *words, "--out", out), mine.name, "is there already", "--overwrite")
    assert mine.read_text() == "mine"
    # A file that is read is named by any of its names, and never replaced.
    mine.unlink()
    mine.symlink_to(CLOSED if command in ("dock", "doctor", "simulate") else particles)
    complain(run(command, *words, "--out", out, "--overwrite"), "is a file that is read", "--out")
    mine.unlink()
    if command in ("preprocess", "select"):
        mine.write_text("mine")
        assert run(command, *words, "--out", out, "--overwrite")[0] == 0
        assert (
            len(read_particles(mine, root=tmp_path if command == "preprocess" else tmp_path / "in"))
            == 160
        )


@pytest.mark.parametrize("command", ["simulate", "preprocess", "select", "doctor", "dock", "train"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("file/deeper/out", "is a file"),
        ("x" * 300, "too long"),
        ("locked/out", "may not be changed"),
    ],
)
def test_an_out_that_cannot_be_is_said_before_the_work(
    command, name, said, finished, run, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    (tmp_path / "locked").mkdir()
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: "locked" not in str(path) and access(path, mode)
    )  # root may write anywhere
    particles = finished / "sim" / "particles.star"
    words = words_of(command, particles)
    suffix = {"select": ".star", "dock": ".cif"}.get(command, "")
    complain(
        run(command, *words, "--out", tmp_path / (name + suffix)), said, "choose another --out"
    )


def test_a_run_is_not_trained_onto_its_own_reference(finished, run, tmp_path):
    shutil.copy(finished / "run" / "reference.cif", tmp_path)
    result = run(
        "train",
        finished / "sim/particles.star",
        "--reference",
        tmp_path / "reference.cif",
        "--out",
        tmp_path,
        *QUICK,
    )
    complain(result, "reference.cif", "is a file that is read", "--out")


def other_references(folder):
    atoms = read_structure(CLOSED)
    renamed = dataclasses.replace(atoms, chains=np.full(len(atoms), "B"))
    moved = atoms.with_positions(atoms.positions + np.array([0.0, 0.5, 0.0]))
    for name, structure in {
        "shorter": atoms[atoms.residue_numbers < 200],
        "renamed": renamed,
        "moved": moved,
    }.items():
        write_structure(folder / f"{name}.cif", structure)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shorter", "214 nodes, not 199"),
        ("renamed", "node 1 is chain A MET 1, not chain B MET 1"),
        ("moved", "up to 0.5 Å from these"),
    ],
)
def test_a_run_is_not_resumed_with_another_reference_and_keeps_its_files(
    name, said, finished, run, tmp_path
):
    other_references(tmp_path)
    before = {path.name: path.read_bytes() for path in (finished / "run").iterdir()}
    complain(
        run(
            "train",
            "--resume",
            "--out",
            finished / "run",
            "--reference",
            tmp_path / f"{name}.cif",
            "--steps",
            "90",
        ),
        said,
        "--out",
    )
    assert {path.name: path.read_bytes() for path in (finished / "run").iterdir()} == before


def test_a_run_is_not_resumed_with_other_particles_nor_back_nor_with_a_preset(
    finished, run, tmp_path
):
    write_star(
        tmp_path / "fewer.star",
        read_particles(finished / "sim" / "particles.star").select(np.arange(100)),
        root=finished / "sim",
    )
    resume = ["train", "--resume", "--out", finished / "run"]
    fewer = ["--particles", tmp_path / "fewer.star", "--root", finished / "sim"]
    complain(
        run("train", tmp_path / "fewer.star", *resume[1:], *fewer[2:], "--steps", "90"),
        "160 particles, not on 100",
        "--out",
    )
    complain(run(*resume, "--steps", "50"), "is at step 60 already", "--steps")
    complain(run(*resume, "--steps", "90", "--preset", "ours"), "--preset ours", "leave it out")
    assert json.loads((finished / "run" / "config.json").read_text())["train"]["steps"] == 60


def test_a_resumed_run_says_what_is_not_as_it_was(finished, run, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    code, out, _ = run("train", "--resume", "--out", tmp_path / "run", "--seed", "5")
    assert code == 0 and "is at its last step, 60, already" in out
    assert (
        tmp_path / "run" / "config.json"
    ).read_bytes() == before  # nothing was trained, with that seed or another
    code, out, _ = run(
        "train", "--resume", "--out", tmp_path / "run", "--steps", "62", "--clash-weight", "0.5"
    )
    assert code == 0
    assert (
        "from step 61 on, steps = 62, not 60" in out
        and "from step 61 on, clash_weight = 0.5, not 1.0" in out
    )
    assert open_run(tmp_path / "run").config.clash_weight == 0.5


def test_a_detail_that_the_pixels_do_not_hold_is_said(finished, run, tmp_path):
    words = [
        "train",
        finished / "sim/particles.star",
        "--reference",
        CLOSED,
        "--out",
        tmp_path / "run",
        "--steps",
        "1",
    ]
    code, out, _ = run(*words, "--low-pass", "4", "--batch-size", "16")
    assert code == 0 and "hold no detail of 4 Å; images are compared down to 8 Å" in out


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ((), "stopped"),
        (("stopped at step 3 of 9; go on with: x",), "stopped at step 3 of 9; go on with: x"),
    ],
)
def test_ctrl_c_says_where_it_stopped(message, said, run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt(*message)

    monkeypatch.setattr("cryostar_nb.cli.inspect_particles", stop)
    assert run("info", "x.star") == (130, "", f"cryostar-nb: {said}\n")


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


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("train", "low_pass", None),
        ("train", "steps", "many"),
        ("train", "steps", True),
        ("train", "method", "stars"),
        ("train", "elastic_between_chains", 1),
        ("grid", "box_size", "x"),
        ("grid", "n_particles", "all"),
        ("inputs", "reading", 3),
    ],
)
def test_a_damaged_configuration_is_named_and_kept(part, name, value, finished, run, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    settings = json.loads(path.read_text())
    settings[part][name] = value
    path.write_text(json.dumps(settings))
    before = path.read_bytes()
    complain(
        run("train", "--resume", "--out", tmp_path / "run", "--steps", "90"),
        "config.json: is not a configuration",
        "--out",
    )
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_network_is_not_called_damaged(finished, run, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace("512", "500"))
    complain(
        run("analyse", tmp_path / "run"),
        "does not fit the network that config.json beside it describes",
    )


def test_a_run_without_its_checkpoint_or_its_particles_says_what_can_be_done(
    finished, run, tmp_path
):
    shutil.copytree(finished / "run", tmp_path / "run")
    shutil.copytree(finished / "sim", tmp_path / "sim")
    words = [tmp_path / "sim/particles.star", "--reference", CLOSED, *QUICK, "--steps", "60"]
    assert run("train", *words, "--out", tmp_path / "other")[0] == 0
    (tmp_path / "sim").rename(tmp_path / "moved")
    complain(
        run("train", "--resume", "--out", tmp_path / "other", "--steps", "62"),
        "sim/particles.star: there is no such file",
        "PARTICLES",
    )
    assert (
        run(
            "train",
            tmp_path / "moved/particles.star",
            "--resume",
            "--out",
            tmp_path / "other",
            "--steps",
            "62",
        )[0]
        == 0
    )
    (tmp_path / "run" / "checkpoint.pt").unlink()
    complain(
        run("train", "--resume", "--out", tmp_path / "run"),
        "has no checkpoint yet",
        "without --resume",
    )
    complain(
        run("train", tmp_path / "moved/particles.star", *words[1:], "--out", tmp_path / "run"),
        "checkpoint.pt is gone",
        "--out",
    )


def test_a_run_is_not_resumed_with_another_band_and_keeps_its_settings(finished, run):
    before = (finished / "run" / "config.json").read_bytes()
    complain(
        run("train", "--resume", "--out", finished / "run", "--low-pass", "12"),
        "32 pixels of 4 Å down to 9 Å, not of 32 pixels of 4 Å down to 12 Å",
        "--out",
    )
    assert (finished / "run" / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value", "was"),
    [
        ("--encoder-input", "structure", "image"),
        ("--method", "nma", "star"),
        ("--modes", "9", "16"),
        ("--density", "atoms", "nodes"),
    ],
)
def test_a_run_is_not_resumed_with_another_network_and_keeps_its_settings(
    option, value, was, finished, run
):
    before = (finished / "run" / "config.json").read_bytes()
    name = option.removeprefix("--").replace("-", "_")
    complain(
        run("train", "--resume", "--out", finished / "run", option, value),
        f"{name} = {was}, not {value}",
        "--out",
    )
    assert (finished / "run" / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "command", ["simulate", "info", "preprocess", "select", "train", "evaluate", "analyse"]
)
def test_every_subcommand_explains_itself(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0 and "write" in out.lower() and len(out) > 300


def test_training_on_cs_and_on_pickles_is_training_on_star(finished, run, tmp_path):
    particles = read_particles(finished / "sim" / "particles.star")
    assert (
        run(
            "select",
            finished / "sim/particles.star",
            "--out",
            finished / "sim/particles.cs",
            "--indices",
            ":",
        )[0]
        == 0
    )
    poses = (
        particles.rotations.numpy(),
        -particles.shifts.numpy() / (particles.box_size * particles.pixel_size),
    )
    columns = (
        "defocus_u",
        "defocus_v",
        "defocus_angle_deg",
        "voltage_kv",
        "spherical_aberration_mm",
        "amplitude_contrast",
        "phase_shift_deg",
    )
    ctf = np.stack(
        [
            np.full(160, 32.0),
            np.full(160, 4.0),
            *(getattr(particles.ctf, name).numpy() for name in columns),
        ],
        axis=1,
    )
    for name, content in (("pose.pkl", poses), ("ctf.pkl", ctf)):
        (tmp_path / name).write_bytes(pickle.dumps(content))
    pickles = ["--poses-pkl", tmp_path / "pose.pkl", "--ctf-pkl", tmp_path / "ctf.pkl"]
    settings = ["--reference", CLOSED, "--steps", "20", *QUICK]
    latents = []
    for name, options in {
        "particles.star": [],
        "particles.cs": [],
        "particles.mrcs": pickles,
    }.items():
        out = tmp_path / f"from_{name}"
        assert run("train", finished / "sim" / name, *options, "--out", out, *settings)[0] == 0
        latents.append(np.load(out / "latents.npy"))
    np.testing.assert_allclose(latents[1], latents[0], atol=1e-3)
    np.testing.assert_allclose(latents[2], latents[0], atol=1e-3)
    assert latents[0].std() > 0.01
    again = parse(
        ["train", "--resume", "--out", str(out)]
    )  # the run remembers how its particles were read
    assert (
        again.reading.poses_pkl == (tmp_path / "pose.pkl").resolve() and again.reading.root is None
    )
    assert run("select", out, "--out", tmp_path / "high.star", "--pc", "2", "--above", "90")[
        1
    ].startswith(f"wrote {tmp_path}/high.star: 16 of 160")


def test_a_missing_reference_leaves_no_run_folder(finished, run, tmp_path):
    result = run(
        "train",
        finished / "sim/particles.star",
        "--reference",
        "absent.pdb",
        "--out",
        tmp_path / "run",
    )
    complain(result, "absent.pdb", "no such file")
    assert not (tmp_path / "run").exists()


def test_a_reference_outside_the_box_is_refused(finished, run, tmp_path):
    atoms = read_structure(CLOSED)
    write_structure(tmp_path / "far.pdb", atoms.with_positions(atoms.positions + 100))
    result = run(
        "train",
        finished / "sim/particles.star",
        "--reference",
        tmp_path / "far.pdb",
        "--out",
        tmp_path / "run",
    )
    complain(result, "far.pdb", "outside")


def test_structures_that_do_not_match_are_refused_and_nothing_is_written(run, tmp_path):
    atoms = read_structure(OPEN)
    write_structure(tmp_path / "short.pdb", atoms[atoms.residue_numbers < 200])
    result = run(
        "simulate",
        "--closed",
        CLOSED,
        "--open",
        tmp_path / "short.pdb",
        "--out",
        tmp_path / "sim",
        *SMALL,
    )
    complain(result, "chain A", "absent")
    assert not (tmp_path / "sim").exists()


def test_the_truth_of_another_simulation_is_refused(finished, run, tmp_path):
    truth = dict(np.load(finished / "sim" / "truth.npz"))
    np.savez(tmp_path / "other.npz", **(truth | {"state": truth["state"][:100]}))
    complain(
        run("evaluate", finished / "run", "--truth", tmp_path / "other.npz"), "100 particles", "160"
    )


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_a_broken_truth_is_refused(finished, run, tmp_path, content):
    (tmp_path / "truth.npz").write_bytes(content)
    complain(run("evaluate", finished / "run", "--truth", tmp_path / "truth.npz"), "truth.npz")


def test_a_broken_checkpoint_is_refused(finished, run, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    whole = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    complain(run("analyse", tmp_path / "run"), "checkpoint.pt")
    complain(run("train", "--resume", "--out", tmp_path / "run"), "checkpoint.pt")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--steps", "0"),
        ("--batch-size", "-1"),
        ("--relaxation-percentile", "120"),
        ("--low-pass", "0"),
        ("--clash-weight", "-2"),
        ("--final-elastic-weight", "0"),
        ("--device", "abacus"),
    ],
)
def test_impossible_settings_are_refused(finished, run, tmp_path, flag, value):
    result = run(
        "train",
        finished / "sim/particles.star",
        "--reference",
        CLOSED,
        "--out",
        tmp_path / "run",
        flag,
        value,
    )
    complain(result, flag.strip("-").replace("-", "_"), value)


def test_more_particles_in_a_batch_than_there_are_is_refused(finished, run, tmp_path):
    result = run(
        "train",
        finished / "sim/particles.star",
        "--reference",
        CLOSED,
        "--out",
        tmp_path / "run",
        "--batch-size",
        "161",
    )
    complain(result, "161", "160", "--batch-size")
    assert not (tmp_path / "run").exists()


def test_a_trajectory_gives_the_states(run, tmp_path):
    atoms = read_structure(CLOSED)
    frames = np.stack([atoms.positions + 0.1 * frame for frame in range(6)])
    write_structure(tmp_path / "path.pdb", atoms, frames)
    result = run(
        "simulate",
        "--closed",
        CLOSED,
        "--trajectory",
        tmp_path / "path.pdb",
        "--out",
        tmp_path / "sim",
        *SMALL,
    )
    assert result[0] == 0
    moved = np.diff(np.load(tmp_path / "sim" / "truth.npz")["positions"].mean(axis=(1, 2)))
    np.testing.assert_allclose(moved.sum(), 0.5, atol=1e-3)


def test_the_doctor_finds_nothing_wrong_and_says_what_is(finished, run, tmp_path, monkeypatch):
    monkeypatch.setattr("cryostar_nb.doctor.docking.ROTATIONS", 800)
    particles = read_particles(finished / "sim" / "particles.star")
    options = ["--reference", CLOSED, "--n-particles", "60", "--out", tmp_path / "out"]
    code, out, _ = run("doctor", finished / "sim" / "particles.star", *options, "--json")
    result = json.loads(out)
    assert (
        code == 0
        and result["verdict"] == "ok"
        and result["n_particles"] == 60
        and result["train_flags"] == []
    )
    names = {row["name"]: row for row in result["hypotheses"]}
    assert {
        "ok",
        "contrast sign",
        "transpose",
        "hand",
        "CTF off",
        "CTF sign",
        "phase flipped",
        "pixel size",
    } <= set(names)
    assert names["transpose"]["z"] < -2.5 and names["ok"]["z"] == 0
    page = (tmp_path / "out" / "doctor.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)\s*=\s*['\"]?(https?:)?//", page)
    write_star(
        tmp_path / "wrong.star", dataclasses.replace(particles, rotations=particles.rotations.mT)
    )
    code, out, _ = run(
        "doctor", tmp_path / "wrong.star", *options, "--overwrite", "--root", finished / "sim"
    )
    assert code == 0 and "verdict: transpose\n" in out
    words = shlex.split(out.splitlines()[-1].removeprefix("train with: cryostar-nb "))
    assert words[:2] == ["train", str(tmp_path / "out" / "particles.star")]
    words[words.index("--out") + 1] = tmp_path / "run"
    assert run(*words, "--steps", "2", *QUICK)[0] == 0
    corrected = read_particles(tmp_path / "out" / "particles.star", root=finished / "sim")
    assert torch.allclose(corrected.rotations, particles.rotations, atol=1e-6)


def test_docking_prints_what_it_gained(run, tmp_path, monkeypatch):
    monkeypatch.setattr("cryostar_nb.doctor.docking.ROTATIONS", 800)
    atoms = read_structure(CLOSED)
    values = model_density(
        torch.from_numpy(atoms.positions),
        torch.from_numpy(atoms.electrons),
        1.5,
        box_size=36,
        pixel_size=2.5,
    )
    write_map(tmp_path / "map.mrc", DensityMap(values, 2.5, np.array([10.0, -20.0, 30.0])))
    code, out, _ = run("dock", CLOSED, tmp_path / "map.mrc", "--out", tmp_path / "docked.cif")
    assert code == 0 and re.search(r"FSC falls to 0.5 at.*Å", out) and "mirror image" in out
    place = (
        np.array([10.0, -20.0, 30.0]) + 18 * 2.5
    )  # of the centre voxel, where the model's origin belongs
    np.testing.assert_allclose(
        read_structure(tmp_path / "docked.cif").positions, atoms.positions + place, atol=0.3
    )


def test_a_map_without_a_voxel_size_and_a_doctor_without_a_reference_complain(
    finished, run, tmp_path
):
    write_map(tmp_path / "map.mrc", DensityMap(torch.zeros(8, 8, 8), 0.0, np.zeros(3)))
    complain(
        run("dock", CLOSED, tmp_path / "map.mrc", "--out", tmp_path / "x.cif"),
        "map.mrc",
        "voxel size of 0",
        "--pixel-size",
    )
    complain(run("doctor", finished / "sim" / "particles.star"), "--reference", "--map")
    complain(
        run(
            "train",
            "p.star",
            "--reference",
            CLOSED,
            "--out",
            tmp_path / "run",
            "--low-pass",
            "auto",
        ),
        "--low-pass auto",
        "--map",
    )
    assert not (tmp_path / "x.cif").exists() and not (tmp_path / "run").exists()
