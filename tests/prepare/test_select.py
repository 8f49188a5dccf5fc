"""A selection keeps every column of what was chosen, byte for byte where the format stays."""

import numpy as np
import pytest
import starfile
import torch
from refusals import refused

from cryostar_nb.cli import parse
from cryostar_nb.config import ModelConfig, TrainConfig
from cryostar_nb.io.options import Reading
from cryostar_nb.io.reading import read_particles
from cryostar_nb.latents import principal_components
from cryostar_nb.prepare.options import Choice
from cryostar_nb.prepare.select import select_particles
from cryostar_nb.runs.run_config import Grid, InputFiles, RunConfig

COUNT = 6


def rows_of(text):
    return [line for line in text.splitlines() if "@stack.mrcs" in line]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_star_file_keeps_every_byte_but_the_rows_that_were_not_chosen(ending, star, tmp_path):
    star.write_bytes(star.read_text().replace("\n", ending).encode())
    np.save(tmp_path / "i.npy", [4, 0, 2])
    chosen, count, remark = select_particles(
        star, tmp_path / "out.star", Choice(indices=str(tmp_path / "i.npy"))
    )
    assert (chosen, count) == (3, COUNT)
    assert remark == f"every column and table as it was; image names start from {tmp_path}"
    dropped = {rows_of(star.read_text())[row] for row in (1, 3, 5)}
    expected = [line for line in star.read_bytes().decode().split(ending) if line not in dropped]
    assert sorted((tmp_path / "out.star").read_bytes().decode().split(ending)) == sorted(expected)
    assert rows_of((tmp_path / "out.star").read_text()) == [
        rows_of(star.read_text())[row] for row in (0, 2, 4)
    ]
    before, after = starfile.read(star), starfile.read(tmp_path / "out.star")
    assert list(before) == list(after) and before["optics"].equals(after["optics"])
    assert before["particles"].iloc[[0, 2, 4]].reset_index(drop=True).equals(after["particles"])


def test_a_selection_of_everything_is_the_file(star, tmp_path):
    select_particles(star, tmp_path / "out.star", Choice(indices=":"))
    text = star.read_text()
    for gap in ("\n000003@", "# between the rows\n"):  # what lies between rows comes after them
        assert gap in text
    assert sorted(text.splitlines()) == sorted((tmp_path / "out.star").read_text().splitlines())
    assert rows_of(text) == rows_of((tmp_path / "out.star").read_text())


def test_the_last_row_may_lack_the_end_of_its_line(star, tmp_path):
    optics_last = star.read_text().rstrip("\n")
    head, tail = optics_last.split("data_particles")
    particles, optics = tail.split("data_optics")
    star.write_text(f"{head}data_optics{optics}\n\ndata_particles{particles.rstrip()}")
    np.save(tmp_path / "i.npy", [5, 1])
    select_particles(star, tmp_path / "out.star", Choice(indices=str(tmp_path / "i.npy")))
    rows = rows_of(star.read_text())
    assert rows_of((tmp_path / "out.star").read_text()) == [rows[1], rows[5]]
    select_particles(star, tmp_path / "one.star", Choice(indices="5:"))
    assert rows_of((tmp_path / "one.star").read_text()) == [rows_of(star.read_text())[5]]


def test_an_optics_group_is_chosen(star, tmp_path):
    chosen, _, _ = select_particles(star, tmp_path / "out.star", Choice(optics_group="2"))
    assert chosen == 2 and read_particles(tmp_path / "out.star").ctf.voltage_kv.tolist() == [
        200,
        200,
    ]
    with refused("in.star", value="3"):
        select_particles(star, tmp_path / "none.star", Choice(optics_group="3"))


def test_repeats_are_left_out(star, tmp_path):
    with refused("in.star", row=6):
        read_particles(star)
    assert select_particles(star, tmp_path / "out.star", Choice(unique=True))[0] == 5
    assert len(read_particles(tmp_path / "out.star")) == 5


def test_images_need_not_exist_to_be_chosen(star, tmp_path):
    (tmp_path / "stack.mrcs").unlink()
    assert select_particles(star, tmp_path / "out.star", Choice(indices="1:3"))[0] == 2


def test_nothing_chosen_is_refused_and_nothing_is_written(star, tmp_path):
    with refused("in.star"):
        select_particles(star, tmp_path / "out.star", Choice(indices="0:1", optics_group="1"))
    assert not (tmp_path / "out.star").exists()


def test_the_input_is_never_overwritten(star):
    before = star.read_bytes()
    with refused("in.star"):
        select_particles(star, star, Choice(indices="0:2"))
    assert star.read_bytes() == before


def test_another_suffix_is_refused(star, tmp_path):
    with refused("out.txt", value=".txt"):
        select_particles(star, tmp_path / "out.txt", Choice(indices="0:2"))


# cryoSPARC


def test_a_cs_file_keeps_every_field_of_the_rows_that_were_chosen(cs, tmp_path):
    main, passthrough = cs
    reading = Reading(passthrough=passthrough)
    choice = Choice(indices="2:5")
    _, _, remark = select_particles(main, tmp_path / "out.cs", choice, reading=reading)
    assert "out_passthrough.cs" in remark
    before, after = np.load(main), np.load(tmp_path / "out.cs")
    assert before.dtype == after.dtype and before[2:5].tobytes() == after.tobytes()
    rest, written = np.load(passthrough), np.load(tmp_path / "out_passthrough.cs")
    assert rest.dtype == written.dtype and written["uid"].tolist() == after["uid"].tolist()
    by_uid = {row["uid"]: row.tobytes() for row in rest}
    assert [row.tobytes() for row in written] == [by_uid[uid] for uid in after["uid"]]
    chosen = read_particles(
        tmp_path / "out.cs", Reading(passthrough=tmp_path / "out_passthrough.cs")
    )
    every = read_particles(main, Reading(passthrough=passthrough))
    assert torch.equal(chosen.images(slice(None)), every.images(slice(2, 5))) and torch.equal(
        chosen.shifts, every.shifts[2:5]
    )


def test_each_format_becomes_the_other_with_what_a_refinement_needs(cs, tmp_path):
    main, passthrough = cs
    every = read_particles(main, Reading(passthrough=passthrough))
    _, _, remark = select_particles(
        main,
        tmp_path / "out.star",
        Choice(indices="1:4"),
        reading=Reading(passthrough=passthrough),
    )
    assert "2 other columns have no place" in remark  # uid and alignments3D/odd
    select_particles(tmp_path / "out.star", tmp_path / "back.cs", Choice(indices=":"))
    for name in ("out.star", "back.cs"):
        some = read_particles(tmp_path / name)
        assert torch.equal(some.images(slice(None)), every.images(slice(1, 4)))
        np.testing.assert_allclose(some.rotations, every.rotations[1:4], atol=1e-6)
        np.testing.assert_allclose(some.shifts, every.shifts[1:4], atol=1e-5)
        np.testing.assert_allclose(some.ctf.defocus_u, every.ctf.defocus_u[1:4], rtol=1e-6)
        np.testing.assert_allclose(
            some.ctf.defocus_angle_deg, every.ctf.defocus_angle_deg[1:4], rtol=1e-6
        )


def test_flipped_phases_are_refused_where_the_format_cannot_say_so(star, tmp_path):
    select_particles(star, tmp_path / "once.star", Choice(unique=True))
    reading = Reading(phase_flipped=True)
    with refused("out.cs"):
        select_particles(
            tmp_path / "once.star", tmp_path / "out.cs", Choice(indices=":"), reading=reading
        )


# Runs


def write_run(folder, particles, reading=None):
    """A run folder that says what it was trained on, and holds nothing else."""
    inputs = InputFiles(particles, folder / "model.pdb", reading=reading or Reading())
    RunConfig(inputs, Grid(8, 1.5, COUNT), TrainConfig(), ModelConfig()).write(folder / "run")
    return folder / "run"


@pytest.fixture
def scored(star, tmp_path, rng):
    """Five particles, and scores that are known but for the signs of the components."""
    select_particles(star, tmp_path / "once.star", Choice(unique=True))
    latents = np.column_stack([[0.0, 40, 10, 30, 20], 0.01 * rng.standard_normal(5)])
    return tmp_path / "once.star", principal_components(torch.from_numpy(latents)).scores.numpy()


def test_a_percentile_of_a_component_is_chosen(scored, tmp_path):
    particles, scores = scored

    def chosen(**limits):
        select_particles(particles, tmp_path / "a.star", Choice(**limits), scores=scores)
        return {row.split("@")[0] for row in rows_of((tmp_path / "a.star").read_text())}

    high, low = chosen(above=60.0), chosen(below=40.0)
    assert {frozenset(low), frozenset(high)} == {
        frozenset({"000002", "000004"}),
        frozenset({"000001", "000003"}),
    }
    assert chosen(above=30.0, below=70.0) == {"000005"}


def test_impossible_components_are_refused(scored, star, tmp_path):
    particles, scores = scored
    with refused(value=3):
        select_particles(particles, tmp_path / "a.star", Choice(pc=3, above=50.0), scores=scores)
    with refused(value=101.0):
        Choice(above=101.0)
    with refused("in.star", value=COUNT):
        select_particles(star, tmp_path / "a.star", Choice(above=50.0), scores=scores)
    with refused("in.star"):
        select_particles(star, tmp_path / "a.star", Choice(above=50.0))


def test_indices_of_a_run_need_no_checkpoint(star, tmp_path):
    words = ["--out", f"{tmp_path}/a.star", "--indices", "1:3"]
    parse(["select", str(write_run(tmp_path, star)), *words]).run()
    assert len(rows_of((tmp_path / "a.star").read_text())) == 2


def test_what_is_said_of_the_reading_of_a_run_comes_before_what_the_run_knows(star, tmp_path):
    select_particles(star, tmp_path / "once.star", Choice(unique=True))
    (tmp_path / "moved").mkdir()
    (tmp_path / "stack.mrcs").rename(tmp_path / "moved" / "stack.mrcs")
    folder = write_run(
        tmp_path, tmp_path / "once.star", Reading(root=tmp_path / "gone", pixel_size=2.0)
    )
    root, reading = tmp_path / "moved", Reading(root=tmp_path / "moved")
    for name, pixel_size, more in (("2.cs", 2.0, ()), ("3.cs", 3.0, ("--pixel-size", "3"))):
        words = ["--out", f"{tmp_path / name}", "--indices", ":", "--root", str(root), *more]
        parse(["select", str(folder), *words]).run()
        chosen = read_particles(tmp_path / name, reading)
        assert len(chosen) == 5 and chosen.pixel_size == pixel_size


def test_no_file_that_a_run_reads_is_replaced(cs, tmp_path):
    main, passthrough = cs
    passthrough = passthrough.rename(tmp_path / "high_passthrough.cs")
    before = passthrough.read_bytes()
    folder = write_run(tmp_path, main, Reading(passthrough=passthrough))
    words = ["--out", f"{tmp_path}/high.cs", "--indices", "0:2", "--overwrite"]
    with refused("high_passthrough.cs"):
        parse(["select", str(folder), *words]).run()
    assert passthrough.read_bytes() == before and not (tmp_path / "high.cs").exists()
