"""Refined poses are written in place of the given ones, and nothing else of a file changes."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from refusals import refused

from cryostar_nb.cli import parse
from cryostar_nb.config import ModelConfig, TrainConfig
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.metadata import Poses
from cryostar_nb.io.options import Reading
from cryostar_nb.io.reading import read_particles
from cryostar_nb.prepare.options import Choice
from cryostar_nb.prepare.select import select_particles
from cryostar_nb.runs import folder
from cryostar_nb.runs.run_config import Grid, InputFiles, RunConfig

COUNT = 6
ROWS = [0, 2, 4]
OLD = """data_

loop_
_rlnImageName #1
_rlnOriginX #2
_rlnAngleRot #3
_rlnAngleTilt #4
_rlnAnglePsi #5
_rlnOriginY #6
_rlnDefocusU #7
_rlnDefocusV #8
_rlnDefocusAngle #9
_rlnVoltage #10
_rlnSphericalAberration #11
_rlnAmplitudeContrast #12
_rlnDetectorPixelSize #13
_rlnMagnification #14
_rlnAngleTiltPrior #15
"""
OLD_ROWS = "".join(
    f"{row + 1:06d}@stack.mrcs  1.5 {row} 20 30\t-2.25   1.2e4 1.1e+04 5 300 2.7 0.1 15. 1e5"
    f" {row}.0\n"
    for row in range(COUNT)
)


@pytest.fixture
def refined(rng):
    """Poses of all particles that no file has."""
    shifts = torch.from_numpy(rng.uniform(-9, 9, (COUNT, 2)))
    return Poses(torch.from_numpy(random_rotations(COUNT, rng)), shifts, None)


@pytest.fixture
def chosen(tmp_path):
    """Every second particle."""
    np.save(tmp_path / "rows.npy", ROWS)
    return Choice(indices=str(tmp_path / "rows.npy"))


def assert_poses(path, refined, rows=ROWS, **reading):
    particles = read_particles(path, Reading(**reading))
    np.testing.assert_allclose(particles.rotations, refined.rotations[rows], atol=1e-6)
    np.testing.assert_allclose(particles.shifts, refined.shifts[rows], atol=1e-4)


def gaps_and_values(path):
    """The rows of particles, cut before and after every value."""
    lines = [line for line in path.read_text().splitlines() if "@stack" in line]
    return [re.split(r"""('[^']*'|"[^"]*"|\S+)""", line) for line in lines]


def test_relion_3_1_has_angles_in_their_columns_and_origins_in_new_ones(
    star, refined, chosen, tmp_path
):
    out = tmp_path / "out.star"
    _, _, remark = select_particles(star, out, chosen, poses=refined)
    assert "but rlnAngleRot, rlnAngleTilt, rlnAnglePsi, rlnOriginXAngst, rlnOriginYAngst" in remark
    assert_poses(out, refined)
    select_particles(star, tmp_path / "given.star", chosen)
    before, after = gaps_and_values(tmp_path / "given.star"), gaps_and_values(out)
    angles = {5, 7, 9}  # gaps stand between values
    for old, new in zip(before, after, strict=True):
        assert all(
            (a == b) == (place not in angles)
            for place, (a, b) in enumerate(zip(old[:-1], new, strict=False))
        )
        assert len(new) == len(old) + 4 and [new[-5], new[-3], new[-1]] == [" ", " ", old[-1]]
    text = out.read_text()
    assert "_rlnOwnColumn #10\n_rlnOriginXAngst #11\n_rlnOriginYAngst #12\n000001@" in text
    others = [
        [line for line in name.read_text().splitlines() if "@" not in line and "Origin" not in line]
        for name in (out, tmp_path / "given.star")
    ]
    assert others[0] == others[1]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_columns_of_origins_that_are_there_are_filled(star, refined, chosen, ending, tmp_path):
    select_particles(star, tmp_path / "once.star", Choice(indices=":"), poses=refined)
    text = (tmp_path / "once.star").read_text()
    star.write_bytes(text.replace("\n", ending).encode())
    other = Poses(refined.rotations.flip(0), refined.shifts.flip(0), None)
    select_particles(star, tmp_path / "out.star", chosen, poses=other)
    assert_poses(tmp_path / "out.star", other)
    written = (tmp_path / "out.star").read_bytes().decode()
    assert written.count("_rlnOriginXAngst") == 1 and "#13" not in written
    assert written.count("\r") == (written.count("\n") if ending == "\r\n" else 0)


@pytest.mark.parametrize("pixel_size", [None, 3.0])
def test_relion_3_0_has_origins_in_pixels(star, refined, chosen, pixel_size, tmp_path):
    """Of the file's pixel size, 1.5 Å, or of the one that it was read with."""
    old, out, reading = tmp_path / "old.star", tmp_path / "out.star", Reading(pixel_size=pixel_size)
    old.write_text(OLD + OLD_ROWS)
    _, _, remark = select_particles(old, out, chosen, reading=reading, poses=refined)
    assert "rlnOriginX, rlnOriginY, which are refined" in remark
    assert "rlnAngleTiltPrior are still of the poses before" in remark
    assert_poses(out, refined, pixel_size=pixel_size)
    before, after = gaps_and_values(old), gaps_and_values(out)
    changed = {3, 5, 7, 9, 11}
    for row, new in zip(ROWS, after, strict=True):
        places = {
            place for place, (a, b) in enumerate(zip(before[row], new, strict=True)) if a != b
        }
        assert places == changed
        pixels = -refined.shifts[row, 0].item() / (pixel_size or 1.5)
        assert float(new[3]) == pytest.approx(pixels, abs=1e-6)
    assert out.read_text().startswith(OLD)


def test_a_file_of_relion_3_0_without_origins_gets_them_in_pixels(star, refined, tmp_path):
    header, rows = OLD.replace("rlnOriginX", "rlnA").replace("rlnOriginY", "rlnB"), OLD_ROWS
    star.write_text(header + rows)
    select_particles(star, tmp_path / "out.star", Choice(indices="1:3"), poses=refined)
    assert_poses(tmp_path / "out.star", refined, rows=[1, 2])
    assert "_rlnOriginX #16" in (tmp_path / "out.star").read_text()


def test_origins_in_both_units_stay_of_one_mind(star, refined, tmp_path):
    header = f"{OLD}_rlnOriginXAngst #16\n_rlnOriginYAngst #17\n"
    star.write_text(header + OLD_ROWS.replace(".0\n", ".0 7 8\n"))
    select_particles(star, tmp_path / "out.star", Choice(indices=":"), poses=refined)
    for row in gaps_and_values(tmp_path / "out.star"):
        values = row[1::2]
        origins = [float(values[place]) for place in (1, 5)]
        in_angstroms = [float(value) for value in values[-2:]]
        np.testing.assert_allclose(np.array(origins) * 1.5, in_angstroms, atol=2e-6)


def test_a_row_with_too_few_values_is_refused(star, refined, tmp_path):
    text = star.read_text().replace("\tb.mrc", "\t'b.mrc'").replace("5 1 'two words'", "5 1")
    star.write_text(text)
    with refused("in.star", row=2, value=9):
        select_particles(star, tmp_path / "out.star", Choice(indices=":"), poses=refined)


def test_only_pose_and_shift_of_a_cs_file_change(cs, refined, chosen, tmp_path):
    main, passthrough = cs
    reading, out = Reading(passthrough=passthrough), tmp_path / "out.cs"
    _, _, remark = select_particles(main, out, chosen, reading=reading, poses=refined)
    assert "but alignments3D/pose, alignments3D/shift, which are refined;" in remark
    assert_poses(out, refined, passthrough=tmp_path / "out_passthrough.cs")
    before, after = np.load(main)[ROWS], np.load(out)
    assert before.dtype == after.dtype
    for name in set(before.dtype.names) - {"alignments3D/pose", "alignments3D/shift"}:
        assert before[name].tobytes() == after[name].tobytes()
    given = tmp_path / "given.cs"
    select_particles(main, given, chosen, reading=reading)
    beside = [tmp_path / f"{name}_passthrough.cs" for name in ("out", "given")]
    assert beside[0].read_bytes() == beside[1].read_bytes()
    assert given.read_bytes() != out.read_bytes()


def test_poses_of_the_passthrough_file_change_there(cs, refined, chosen, write_cs_table, tmp_path):
    """Without a size of their pixels, shifts are in those of the images."""
    tables = [np.load(path) for path in cs]
    fields = {name: table[name] for table in tables for name in table.dtype.names}
    order = {uid: row for row, uid in enumerate(tables[1]["uid"])}
    to_rest = np.argsort([order[uid] for uid in tables[0]["uid"]])
    moved = {f"alignments3D/{name}" for name in ("pose", "shift", "odd")}
    rest = {name: fields[name] for name in tables[1].dtype.names}
    rest |= {name: fields[name][to_rest] for name in moved}
    main = write_cs_table(tmp_path / "main.cs", {"uid": tables[0]["uid"]})
    beside = write_cs_table(tmp_path / "rest.cs", rest)
    out = tmp_path / "out.cs"
    reading = Reading(passthrough=beside)
    select_particles(main, out, chosen, reading=reading, poses=refined)
    assert_poses(out, refined, passthrough=tmp_path / "out_passthrough.cs")
    written = np.load(tmp_path / "out_passthrough.cs")["alignments3D/shift"]
    np.testing.assert_allclose(written, -refined.shifts[ROWS] / 1.5, rtol=1e-6)


def test_fields_that_hold_no_fractions_or_are_missing_are_refused(
    cs, refined, write_cs_table, tmp_path
):
    main, passthrough = cs
    table = np.load(main)
    fields = {name: table[name] for name in table.dtype.names}
    reading, choice = Reading(passthrough=passthrough), Choice(indices=":")
    for shift in (np.zeros((COUNT, 2), dtype=np.int32), None):
        changed = {**fields, "alignments3D/shift": shift}
        path = write_cs_table(
            tmp_path / "bad.cs", {name: v for name, v in changed.items() if v is not None}
        )
        with refused("bad.cs", value="alignments3D/shift"):
            select_particles(path, tmp_path / "out.cs", choice, reading=reading, poses=refined)


@pytest.mark.parametrize("name", ["out.star", "out.cs"])
def test_refined_poses_go_to_the_other_format(name, star, cs, refined, chosen, tmp_path):
    source = star if name == "out.cs" else cs[0]
    if name == "out.cs":
        select_particles(star, tmp_path / "distinct.star", Choice(indices=":"), poses=refined)
        source = tmp_path / "distinct.star"
    reading = Reading(passthrough=cs[1]) if name == "out.star" else Reading()
    _, _, remark = select_particles(source, tmp_path / name, chosen, reading=reading, poses=refined)
    assert remark.startswith("images, refined poses and CTFs")
    assert_poses(tmp_path / name, refined)


# Runs


@pytest.fixture
def run(star, tmp_path, monkeypatch):
    """A run folder; what `open_run` makes of it is set by the test."""
    inputs = InputFiles(star, tmp_path / "model.pdb", reading=Reading())
    RunConfig(inputs, Grid(8, 1.5, COUNT), TrainConfig(), ModelConfig()).write(tmp_path / "run")
    opened = SimpleNamespace(inputs=inputs, poses=None, quality=None)
    monkeypatch.setattr(folder, "open_run", lambda path: opened)
    return opened


def select(tmp_path, words):
    return parse(
        ["select", f"{tmp_path}/run", "--out", f"{tmp_path}/out.star", *words.split()]
    ).run()


def test_the_refined_poses_of_a_run_are_written_when_asked_for(run, star, refined, tmp_path):
    run.poses = refined
    select(tmp_path, "--indices : --poses refined")
    assert_poses(tmp_path / "out.star", refined, rows=slice(None))
    select(tmp_path, "--indices : --overwrite")
    assert sorted((tmp_path / "out.star").read_text()) == sorted(star.read_text())


def test_what_a_run_does_not_have_is_refused(run, star, refined, tmp_path):
    with refused("run"):
        select(tmp_path, "--indices : --poses refined")
    with refused("run"):
        select(tmp_path, "--quality 0.5")
    with refused("in.star"):
        parse(["select", str(star), "--out", f"{tmp_path}/out.star", "--poses", "refined"]).run()
    with refused("in.star"):
        parse(["select", str(star), "--out", f"{tmp_path}/out.star", "--quality", "0.5"]).run()
    run.poses, run.quality = None, None
    with refused("run"):
        select(tmp_path, "--indices : --poses refined")
    run.poses = refined
    with refused(value=2.0):
        select(tmp_path, "--indices : --poses refined --pixel-size 2")
    run.poses = Poses(refined.rotations[:4], refined.shifts[:4], None)
    with refused("in.star", value=COUNT):
        select(tmp_path, "--indices : --poses refined")
    assert not (tmp_path / "out.star").exists()


def test_particles_that_are_probably_good_are_chosen(run, tmp_path):
    run.quality = np.array([0.9, 0.1, 0.5, 0.49, 1.0, 0.0])
    assert select(tmp_path, "--quality 0.5")[:2] == (3, COUNT)
    names = [row[1][:6] for row in gaps_and_values(tmp_path / "out.star")]
    assert names == ["000001", "000003", "000005"]
    assert select(tmp_path, "--quality 0.5 --indices 4: --overwrite")[0] == 1
    run.quality = run.quality[:5]
    with refused("in.star", value=COUNT):
        select(tmp_path, "--quality 0.5 --overwrite")
