"""A run folder through its life, by the command line: new, interrupted, resumed, damaged."""

import dataclasses
import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cryostar_nb import cli
from cryostar_nb.density import model_density
from cryostar_nb.io.maps import DensityMap, write_map
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.star import write_star
from cryostar_nb.io.structures import read_structure, write_structure
from cryostar_nb.runs.folder import open_run

START = Path(__file__).parents[2] / "data" / "1ake.pdb"
QUICK = "--low-pass 9 --batch-size 16"


@pytest.fixture
def train_line(small_run):
    """The line that trains on the small run's particles, but for --out."""
    return f"train {small_run}/sim/particles.star --reference {START} {QUICK}"


def bytes_of(folder):
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_without_particles_in_the_most_open_states_is_analysed(
    small_run, run_copy, shell, tmp_path
):
    truth = dict(np.load(small_run / "sim" / "truth.npz"))
    twice = np.concatenate([truth["positions"]] * 2)  # the second five states have no particle
    np.savez(tmp_path / "truth.npz", **(truth | {"positions": twice}))
    assert shell(f"evaluate {run_copy} --truth {tmp_path}/truth.npz").code == 0
    assert json.loads((run_copy / "evaluation.json").read_text())["rmsd_most_open"] is None
    assert shell(f"analyse {run_copy}").code == 0
    page = (run_copy / "report.html").read_text()
    row = re.search(r"five most open states</t[hd]>\s*<td>(.*?)</td>", page)
    assert row.group(1) == "no particle"


@pytest.mark.parametrize("complete", [0, 1, 2])
def test_a_last_line_of_the_log_that_was_cut_is_left_out(complete, run_copy):
    log = run_copy / "metrics.csv"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:complete]) + lines[complete][:3])
    assert open_run(run_copy).metrics.get("step") == ([50.0] if complete == 2 else None)


def test_a_run_that_was_stopped_before_its_first_line_is_analysed(small_run, run_copy, shell):
    (run_copy / "metrics.csv").write_text("")
    assert shell(f"analyse {run_copy}").code == 0
    pages = [(folder / "report.html").read_text() for folder in (small_run / "run", run_copy)]
    headings = [re.findall("<h2>(.*?)</h2>", page) for page in pages]
    assert headings[0] == [*headings[1], "Training"]


def test_resume_takes_settings_from_the_run_and_lets_flags_override(small_run):
    command = cli.parse(["train", "--resume", "--out", f"{small_run}/run", "--steps", "70"])
    config = command.config
    assert (config.steps, config.batch_size, config.low_pass) == (70, 16, 9.0)
    assert (config.density, config.encoder_input) == ("groups", "structure")
    assert command.particles == (small_run / "sim" / "particles.star").resolve()


def test_normal_modes_go_from_particles_to_a_report(
    small_run, train_line, shell, tmp_path, monkeypatch
):
    out = tmp_path / "nma"
    assert shell(f"{train_line} --out {out} --method nma --modes 5 --steps 20").code == 0
    monkeypatch.delattr("cryostar_nb.models.normal_modes")  # from here on read, not computed
    modes = open_run(out).model.decoder.modes
    assert modes.shape == (5, 214, 3)
    np.testing.assert_allclose(modes.square().sum((1, 2)), 214, rtol=1e-5)
    assert shell(f"train --resume --out {out} --steps 30").code == 0
    assert shell(f"evaluate {out} --truth {small_run}/sim/truth.npz").code == 0
    result = json.loads((out / "evaluation.json").read_text())
    assert (result["method"], result["steps"]) == ("nma", 30) and np.isfinite(result["rmsd_mean"])
    assert shell(f"analyse {out}").code == 0
    assert (out / "report.html").exists()


def test_more_modes_than_the_reference_has_are_refused(train_line, refused, tmp_path):
    refused(f"{train_line} --out {tmp_path}/run --method nma --modes 637", "637", "636", "--modes")
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_overwritten(small_run, train_line, refused):
    before = bytes_of(small_run / "run")
    refused(f"{train_line} --out {small_run}/run", small_run / "run", "--resume", "--out")
    assert bytes_of(small_run / "run") == before


def test_a_resumed_run_goes_on_counting(run_copy, shell):
    assert shell(f"train --resume --out {run_copy} --steps 80").code == 0
    lines = (run_copy / "metrics.csv").read_text().splitlines()
    steps, seconds = zip(*[line.split(",")[:2] for line in lines[1:]], strict=True)
    assert [int(step) for step in steps] == [50, 60, 80]
    assert list(map(float, seconds)) == sorted(map(float, seconds))


def test_only_a_new_an_empty_or_an_unfinished_folder_takes_a_run(
    train_line, run_copy, shell, refused, tmp_path
):
    """The folder of a run that was killed before its first checkpoint is used again; one with
    other files is not.
    """
    notes, other = tmp_path / "notes", tmp_path / "other"
    for folder in (notes, other):
        folder.mkdir()
    (notes / "notes.txt").write_text("words")
    refused(f"{train_line} --out {notes}", notes, "notes.txt", "--out")
    (other / "config.json").write_text('{"other": 1}')
    refused(f"{train_line} --out {other}", other / "config.json", "--out")
    assert (other / "config.json").read_text() == '{"other": 1}'
    for name in ("checkpoint.pt", "latents.npy"):
        (run_copy / name).unlink()
    assert shell(f"{train_line} --out {run_copy} --steps 2").code == 0
    assert open_run(run_copy).step == 2


def test_a_run_is_not_trained_onto_its_own_reference(small_run, refused, tmp_path):
    shutil.copy(small_run / "run" / "reference.cif", tmp_path)
    line = f"train {small_run}/sim/particles.star {QUICK} --out {tmp_path}"
    refused(f"{line} --reference {tmp_path}/reference.cif", tmp_path / "reference.cif", "--out")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shorter", ("214", "199")),
        ("renamed", ("chain A MET 1", "chain B MET 1")),
        ("moved", ("0.5 Å",)),
        ("other side chains", ("0.7 Å",)),
    ],
)
def test_a_run_is_not_resumed_with_another_reference_and_keeps_its_files(
    name, words, small_run, refused, tmp_path
):
    atoms = read_structure(START)
    other = {
        "shorter": atoms[atoms.residue_numbers < 200],
        "renamed": dataclasses.replace(atoms, chains=np.full(len(atoms), "B")),
        "moved": atoms.with_positions(atoms.positions + np.array([0.0, 0.5, 0.0])),
        "other side chains": atoms.with_positions(
            atoms.positions + np.outer(atoms.atom_names == "CB", [0.0, 0.0, 0.7])
        ),
    }[name]
    write_structure(tmp_path / "other.cif", other)
    before = bytes_of(small_run / "run")
    line = f"train --resume --out {small_run}/run --steps 90 --reference {tmp_path}/other.cif"
    refused(line, small_run / "run", *words, "--out")
    assert bytes_of(small_run / "run") == before


def test_a_run_is_not_resumed_with_other_particles_nor_back_nor_with_a_preset(
    small_run, refused, tmp_path
):
    particles = read_particles(small_run / "sim" / "particles.star")
    write_star(tmp_path / "fewer.star", particles[:100], root=small_run / "sim")
    before = bytes_of(small_run / "run")
    options = f"--resume --out {small_run}/run"
    fewer = f"{tmp_path}/fewer.star --root {small_run}/sim"
    refused(f"train {fewer} {options} --steps 90", "160", "100", "--out")
    refused(f"train {options} --steps 50", "60", "50", "--steps")
    refused(f"train {options} --steps 90 --preset paper", "preset", "paper")
    assert bytes_of(small_run / "run") == before


def test_a_resumed_run_says_what_is_not_as_it_was(run_copy, shell):
    before = (run_copy / "config.json").read_bytes()
    answer = shell(f"train --resume --out {run_copy} --clash-weight 0.7")
    assert answer.code == 0 and "last step, 60" in answer.out and "--steps" in answer.out
    assert (run_copy / "config.json").read_bytes() == before  # no step was trained with it
    answer = shell(f"train --resume --out {run_copy} --steps 62 --clash-weight 0.5")
    assert answer.code == 0
    assert "from step 61 on, steps = 62, not 60" in answer.out
    assert "from step 61 on, clash_weight = 0.5, not 1.0" in answer.out
    assert open_run(run_copy).config.clash_weight == 0.5


def test_the_seed_of_a_run_that_holds_no_particle_out_may_change(train_line, shell, tmp_path):
    out = tmp_path / "run"
    assert shell(f"{train_line} --out {out} --steps 1 --held-out 0").code == 0
    assert not (out / "held_out.json").exists() and open_run(out).held_out is None
    assert shell(f"train --resume --out {out} --steps 2 --seed 5").code == 0
    assert open_run(out).config.seed == 5


def test_a_run_that_stopped_early_goes_on_only_when_told_to(
    train_line, shell, tmp_path, monkeypatch
):
    def losses(network, density, band, data, rows, latents):
        return torch.zeros(len(rows))

    monkeypatch.setattr("cryostar_nb.runs.held_out.image_losses", losses)
    out = tmp_path / "run"
    line = f"{train_line} --out {out} --steps 7 --checkpoint-every 1 --stop-early"
    answer = shell(line)
    assert answer.code == 0 and f"{out}: stopped early, at step 4" in answer.out
    run = open_run(out)
    assert run.step == 4 and run.held_out["stopped_early"] and len(run.latents) == 160
    answer = shell(f"train --resume --out {out}")
    assert answer.code == 0 and "--no-stop-early" in answer.out and open_run(out).step == 4
    answer = shell(f"train --resume --out {out} --no-stop-early")
    assert answer.code == 0 and open_run(out).step == 7
    assert not open_run(out).held_out["stopped_early"]


def test_what_the_particles_say_that_were_held_out_is_of_the_last_checkpoint(run_copy):
    found = open_run(run_copy).held_out
    assert (found["step"], found["held_out"], found["particles"]) == (60, 8, 8)
    for line in found["words"]:
        assert f"{line[0].upper()}{line[1:]}." in (run_copy / "report.html").read_text()
    (run_copy / "held_out.json").write_text(json.dumps(found | {"step": 50}))
    assert open_run(run_copy).held_out is None


def test_detail_that_the_pixels_do_not_hold_is_said(train_line, shell, tmp_path):
    answer = shell(f"{train_line} --out {tmp_path}/run --steps 1 --low-pass 4")
    assert answer.code == 0 and re.search("particles.star: .* 4 Å.* 8 Å", answer.out)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("train", "low_pass", None),
        ("train", "steps", "many"),
        ("train", "steps", True),
        ("train", "method", "stars"),
        ("train", "elastic_between_chains", 3),
        ("grid", "box_size", "x"),
        ("grid", "n_particles", "all"),
        ("inputs", "reading", 3),
    ],
)
def test_a_damaged_configuration_is_named_and_kept(part, name, value, run_copy, refused):
    path = run_copy / "config.json"
    settings = json.loads(path.read_text())
    settings[part][name] = value
    path.write_text(json.dumps(settings))
    before = bytes_of(run_copy)
    refused(f"train --resume --out {run_copy} --steps 90", path, "--out")
    assert bytes_of(run_copy) == before


def test_a_checkpoint_of_another_network_is_not_called_damaged(run_copy, refused):
    path = run_copy / "config.json"
    path.write_text(path.read_text().replace("512", "500"))
    refused(f"analyse {run_copy}", run_copy / "checkpoint.pt", "config.json")


def test_a_run_without_its_checkpoint_says_what_can_be_done(train_line, run_copy, refused):
    (run_copy / "checkpoint.pt").unlink()
    refused(f"train --resume --out {run_copy}", run_copy, "without --resume")
    refused(f"{train_line} --out {run_copy}", run_copy, "checkpoint.pt", "--out")


def test_a_run_whose_particles_moved_is_told_where_they_are(small_run, shell, refused, tmp_path):
    shutil.copytree(small_run / "sim", tmp_path / "sim")
    words = f"--reference {START} {QUICK} --steps 2 --out {tmp_path}/run"
    assert shell(f"train {tmp_path}/sim/particles.star {words}").code == 0
    (tmp_path / "sim").rename(tmp_path / "moved")
    resume = f"--resume --out {tmp_path}/run --steps 3"
    refused(f"train {resume}", tmp_path / "sim/particles.star", "PARTICLES")
    assert shell(f"train {tmp_path}/moved/particles.star {resume}").code == 0


def test_a_run_is_not_resumed_with_another_band_and_keeps_its_settings(small_run, refused):
    before = bytes_of(small_run / "run")
    refused(
        f"train --resume --out {small_run}/run --low-pass 12", small_run / "run", "9", "12", "--out"
    )
    assert bytes_of(small_run / "run") == before


@pytest.mark.parametrize(
    ("flag", "value", "was"),
    [
        ("--encoder-input", "image", "structure"),
        ("--method", "nma", "star"),
        ("--modes", "9", "16"),
        ("--density", "nodes", "groups"),
        ("--decoder", "chain", "nodes"),
        ("--group-correlation", "0.99", "0.995"),
        ("--held-out", "0.1", "0.05"),
        ("--held-out", "0.0", "0.05"),
        ("--seed", "3", "0"),  # it chooses the particles held out
    ],
)
def test_a_run_is_not_resumed_with_another_network_and_keeps_its_settings(
    flag, value, was, small_run, refused
):
    before = bytes_of(small_run / "run")
    line = f"train --resume --out {small_run}/run {flag} {value}"
    refused(line, small_run / "run", flag.strip("-").replace("-", "_"), was, value, "--out")
    assert bytes_of(small_run / "run") == before


def test_training_on_cs_and_on_pickles_is_training_on_star(small_run, shell, tmp_path):
    sim = shutil.copytree(small_run / "sim", tmp_path / "sim")
    particles = read_particles(sim / "particles.star")
    assert shell(f"select {sim}/particles.star --out {sim}/particles.cs --indices :").code == 0
    edge = particles.box_size * particles.pixel_size  # in Å: cryoDRGN's shifts are parts of it
    poses = (particles.rotations.numpy(), -particles.shifts.numpy() / edge)
    values = vars(particles.ctf)
    names = [name for name in values if name not in ("b_factor", "aberrations")]
    columns = [np.full(160, 32.0), np.full(160, 4.0), *(values[name].numpy() for name in names)]
    for name, content in (("pose.pkl", poses), ("ctf.pkl", np.stack(columns, axis=1))):
        (tmp_path / name).write_bytes(pickle.dumps(content))
    pickles = f"--poses-pkl {tmp_path}/pose.pkl --ctf-pkl {tmp_path}/ctf.pkl"
    latents = {}
    for suffix, options in {"star": "", "cs": "", "mrcs": pickles}.items():
        line = f"train {sim}/particles.{suffix} {options} --reference {START} --steps 20 {QUICK}"
        assert shell(f"{line} --out {tmp_path}/{suffix}").code == 0
        latents[suffix] = np.load(tmp_path / suffix / "latents.npy")
    np.testing.assert_allclose(latents["cs"], latents["star"], atol=1e-3)
    np.testing.assert_allclose(latents["mrcs"], latents["star"], atol=1e-3)
    assert latents["star"].std() > 0.01
    # The run remembers how its particles were read.
    reading = cli.parse(["train", "--resume", "--out", f"{tmp_path}/mrcs"]).reading
    assert (reading.poses_pkl, reading.root) == ((tmp_path / "pose.pkl").resolve(), None)
    answer = shell(f"select {tmp_path}/mrcs --out {tmp_path}/high.star --pc 2 --above 90")
    assert answer.out.startswith(f"wrote {tmp_path}/high.star: 16 of 160")


def test_a_missing_reference_leaves_no_run_folder(small_run, refused, tmp_path):
    line = f"train {small_run}/sim/particles.star --reference absent.pdb --out {tmp_path}/run"
    refused(line, "absent.pdb")
    assert not (tmp_path / "run").exists()


def test_a_reference_outside_the_box_is_refused(small_run, refused, tmp_path):
    atoms = read_structure(START)
    write_structure(tmp_path / "far.pdb", atoms.with_positions(atoms.positions + 100))
    line = f"train {small_run}/sim/particles.star --out {tmp_path}/run"
    refused(f"{line} --reference {tmp_path}/far.pdb", tmp_path / "far.pdb", "64 Å")


def test_the_truth_of_another_simulation_is_refused(small_run, refused, tmp_path):
    truth = dict(np.load(small_run / "sim" / "truth.npz"))
    np.savez(tmp_path / "other.npz", **(truth | {"state": truth["state"][:100]}))
    refused(f"evaluate {small_run}/run --truth {tmp_path}/other.npz", "100", "160", "truth.npz")


def test_a_truth_whose_arrays_are_of_other_particles_is_refused(small_run, refused, tmp_path):
    truth = dict(np.load(small_run / "sim" / "truth.npz"))
    np.savez(tmp_path / "other.npz", **(truth | {"junk": truth["junk"][:100]}))
    refused(
        f"evaluate {small_run}/run --truth {tmp_path}/other.npz",
        "other.npz: ",
        "100",
        "junk",
        "160",
    )


def test_new_particles_are_evaluated_and_the_run_stays_as_it_is(
    small_run, run_copy, shell, tmp_path
):
    before = bytes_of(run_copy)
    truth = dict(np.load(small_run / "sim" / "truth.npz"))
    rows = {k: v[:20] if v.shape[:1] == (160,) else v for k, v in truth.items()}
    np.savez(tmp_path / "truth.npz", **rows)
    for name in ("particles.star", "particles.mrcs"):
        shutil.copy(small_run / "sim" / name, tmp_path)
    some = f"select {tmp_path}/particles.star --out {tmp_path}/new.star --indices 0:20"
    assert shell(some).code == 0
    line = f"evaluate {run_copy} --truth {tmp_path}/truth.npz --particles {tmp_path}/new.star"
    answer = shell(line)
    assert answer.code == 0 and "all particles" in answer.out and "wrote" not in answer.out
    assert bytes_of(run_copy) == before


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_a_broken_truth_is_refused(content, small_run, refused, tmp_path):
    (tmp_path / "truth.npz").write_bytes(content)
    refused(f"evaluate {small_run}/run --truth {tmp_path}/truth.npz", tmp_path / "truth.npz")


def test_a_broken_checkpoint_is_refused(run_copy, refused):
    path = run_copy / "checkpoint.pt"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(f"analyse {run_copy}", path)
    refused(f"train --resume --out {run_copy}", path)


def test_more_particles_in_a_batch_than_there_are_is_refused(train_line, refused, tmp_path):
    words = ("153", "160 particles, less 8", "--batch-size")
    refused(f"{train_line} --out {tmp_path}/run --batch-size 153", *words)
    assert not (tmp_path / "run").exists()


def test_a_low_pass_of_auto_takes_a_map_and_a_resumed_run_keeps_its_number(
    train_line, small_run, shell, refused, tmp_path
):
    out, line = tmp_path / "run", train_line.replace("--low-pass 9", "--low-pass auto")
    refused(f"{line} --out {out}", "--low-pass auto", "--map")
    assert not out.exists()
    atoms = read_structure(START)
    positions, electrons = torch.from_numpy(atoms.positions), torch.from_numpy(atoms.electrons)
    values = model_density(positions, electrons, 3.0, box_size=32, pixel_size=4.0)
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    values += values.std() * noise.to(values)
    write_map(tmp_path / "map.mrc", DensityMap(values, 4.0, np.zeros(3)))
    answer = shell(f"{line} --out {out} --map {tmp_path}/map.mrc --steps 2")
    assert answer.code == 0
    low_pass = open_run(out).config.low_pass
    assert 9 < low_pass < 30 and f"{low_pass} Å" in answer.out
    assert shell(f"train --resume --out {out} --steps 3").code == 0
    assert shell(f"train --resume --out {out} --steps 4 --low-pass auto").code == 0
    resumed = open_run(out)
    assert (resumed.config.low_pass, resumed.step) == (low_pass, 4)
    assert resumed.inputs.map == (tmp_path / "map.mrc").resolve()
    resume = f"train --resume --out {small_run}/run --steps 90 --low-pass auto"
    refused(resume, "--low-pass auto", "--map")
    refused(f"{resume} --map {tmp_path}/map.mrc", small_run / "run", f"{low_pass:g}")
