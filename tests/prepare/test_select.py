"""A selection keeps every column of what was chosen, byte for byte where the format stays."""

import types

import numpy as np
import pytest
import starfile
import torch

from cryostar_nb.cli import parse
from cryostar_nb.config import ModelConfig, TrainConfig
from cryostar_nb.errors import InputError
from cryostar_nb.io.reading import Reading, read_particles
from cryostar_nb.latents import principal_components
from cryostar_nb.prepare import select as module
from cryostar_nb.prepare.select import Choice, select_particles
from cryostar_nb.runs.config import InputFiles, RunConfig

COUNT = 6
STAR = """# version 30001

data_general
_rlnRefinedBy  'somebody else'

# version 30001
data_particles

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnAngleRot #3
_rlnAngleTilt #4
_rlnAnglePsi #5
_rlnDefocusU #6
_rlnDefocusV #7
_rlnDefocusAngle #8
_rlnOpticsGroup #9
_rlnOwnColumn #10
000001@stack.mrcs  "a name.mrc"   010.000000   20.1   30.123456789012345 1.2e4 1.1e+04 5 2 007
000002@stack.mrcs\tb.mrc\t11 21 31 12001 11001 5 1 'two words'

000003@stack.mrcs  c.mrc   12 22 32 12002 11002 5 2 nan
# between the rows
000004@stack.mrcs  d.mrc   13 23 33 12003 11003 5 1 <NA>
000005@stack.mrcs  e.mrc   14 24 34 12004 11004 5 1 -
000005@stack.mrcs  e.mrc   14 24 34 12004 11004 5 1 again

data_optics

loop_
_rlnOpticsGroup #1
_rlnVoltage #2
_rlnSphericalAberration #3
_rlnAmplitudeContrast #4
_rlnImagePixelSize #5
_rlnMtfFileName #6
1 300.000000 2.700000 0.100000 1.5000 mtf one.star
2 200.000000 2.700000 0.100000 1.5000 mtf_two.star
"""


@pytest.fixture
def star(tmp_path, rng, write_stack):
    write_stack(tmp_path / "stack.mrcs", rng.standard_normal((COUNT, 8, 8)))
    (tmp_path / "in.star").write_text(STAR.replace("mtf one.star", "mtf_one.star"))
    return tmp_path / "in.star"


def rows_of(text):
    return [line for line in text.splitlines() if "@stack.mrcs" in line]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_star_file_keeps_every_byte_but_the_rows_that_were_not_chosen(ending, star, tmp_path):
    star.write_bytes(star.read_text().replace("\n", ending).encode())
    np.save(tmp_path / "i.npy", [4, 0, 2])
    chosen, count, remark = select_particles(
        star, tmp_path / "out.star", Choice(indices=str(tmp_path / "i.npy"))
    )
    assert (chosen, count) == (3, COUNT) and f"start from {tmp_path}" in remark
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
    with pytest.raises(InputError, match=r"in\.star: has no optics group 3; it has 1, 2"):
        select_particles(star, tmp_path / "none.star", Choice(optics_group="3"))


def test_repeats_are_left_out(star, tmp_path):
    with pytest.raises(
        InputError, match=r"in\.star: particle 6 is particle 5 again .*select --unique"
    ):
        read_particles(star)
    assert select_particles(star, tmp_path / "out.star", Choice(unique=True))[0] == 5
    assert len(read_particles(tmp_path / "out.star")) == 5


def test_images_need_not_exist_to_be_chosen(star, tmp_path):
    (tmp_path / "stack.mrcs").unlink()
    assert select_particles(star, tmp_path / "out.star", Choice(indices="1:3"))[0] == 2


def test_nothing_chosen_is_refused_and_nothing_is_written(star, tmp_path):
    with pytest.raises(InputError, match=r"in\.star: no particle of 6 is chosen; loosen"):
        select_particles(star, tmp_path / "out.star", Choice(indices="0:1", optics_group="1"))
    assert not (tmp_path / "out.star").exists()


def test_the_input_is_never_overwritten(star):
    before = star.read_bytes()
    with pytest.raises(
        InputError, match=r"in\.star: is the file that is read; write to another one"
    ):
        select_particles(star, star, Choice(indices="0:2"))
    assert star.read_bytes() == before


def test_another_suffix_is_refused(star, tmp_path):
    with pytest.raises(InputError, match=r"out\.txt: particles are written as \.star or \.cs"):
        select_particles(star, tmp_path / "out.txt", Choice(indices="0:2"))


# cryoSPARC


@pytest.fixture
def cs(star, tmp_path, rng, write_cs_table):
    """A .cs file and its passthrough file, whose rows come in another order."""
    ones = np.ones(COUNT, dtype=np.float32)
    uid = rng.integers(1, 2**63, COUNT).astype(np.uint64)
    main = {
        "uid": uid,
        "alignments3D/pose": rng.standard_normal((COUNT, 3)).astype(np.float32),
        "alignments3D/shift": rng.standard_normal((COUNT, 2)).astype(np.float32),
        "alignments3D/psize_A": 3 * ones,
        "alignments3D/odd": rng.integers(0, 9, (COUNT, 2, 2)).astype(np.int16),
    }
    order = rng.permutation(COUNT)
    rest = {
        "uid": uid,
        "blob/path": np.array([b"stack.mrcs"] * COUNT),
        "blob/idx": np.arange(COUNT, dtype=np.uint32),
        "blob/shape": np.full((COUNT, 2), 8, dtype=np.uint32),
        "blob/psize_A": 1.5 * ones,
        **{
            f"ctf/{name}": value * ones
            for name, value in {
                "accel_kv": 300,
                "cs_mm": 2.7,
                "amp_contrast": 0.1,
                "df_angle_rad": 0.5,
            }.items()
        },
        **{
            f"ctf/{name}": rng.uniform(1e4, 2e4, COUNT).astype(np.float32)
            for name in ("df1_A", "df2_A")
        },
    }
    passthrough = write_cs_table(
        tmp_path / "pass.cs", {name: values[order] for name, values in rest.items()}
    )
    return write_cs_table(tmp_path / "in.cs", main), passthrough


def test_a_cs_file_keeps_every_field_of_the_rows_that_were_chosen(cs, tmp_path):
    main, passthrough = cs
    reading = Reading(passthrough=passthrough)
    _, _, remark = select_particles(main, tmp_path / "out.cs", Choice(indices="2:5"), reading)
    assert "out_passthrough.cs" in remark
    before, after = np.load(main), np.load(tmp_path / "out.cs")
    assert before.dtype == after.dtype and before[2:5].tobytes() == after.tobytes()
    rest, written = np.load(passthrough), np.load(tmp_path / "out_passthrough.cs")
    assert rest.dtype == written.dtype and written["uid"].tolist() == after["uid"].tolist()
    by_uid = {row["uid"]: row.tobytes() for row in rest}
    assert [row.tobytes() for row in written] == [by_uid[uid] for uid in after["uid"]]
    chosen = read_particles(tmp_path / "out.cs", passthrough=tmp_path / "out_passthrough.cs")
    every = read_particles(main, passthrough=passthrough)
    assert torch.equal(chosen.images(slice(None)), every.images(slice(2, 5))) and torch.equal(
        chosen.shifts, every.shifts[2:5]
    )


def test_each_format_becomes_the_other_with_what_a_refinement_needs(cs, tmp_path):
    main, passthrough = cs
    every = read_particles(main, passthrough=passthrough)
    _, _, remark = select_particles(
        main, tmp_path / "out.star", Choice(indices="1:4"), Reading(passthrough=passthrough)
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
    with pytest.raises(
        InputError,
        match=r"out\.cs: particles with flipped phases cannot be written as \.cs, which has no field",
    ):
        select_particles(
            tmp_path / "once.star",
            tmp_path / "out.cs",
            Choice(indices=":"),
            Reading(phase_flipped=True),
        )


# Runs


def write_run(folder, particles, reading=None):
    """A run folder that says what it was trained on, and holds nothing else."""
    inputs = InputFiles(particles, folder / "model.pdb", reading=reading or Reading())
    RunConfig(inputs, TrainConfig(), ModelConfig(), 8, 1.5, COUNT).write(folder / "run")
    return folder / "run"


@pytest.fixture
def a_run(star, tmp_path, monkeypatch, rng):
    """A run on the particles, with latents that are known."""
    select_particles(star, tmp_path / "once.star", Choice(unique=True))
    latents = torch.from_numpy(
        np.column_stack([[0.0, 40, 10, 30, 20], 0.01 * rng.standard_normal(5)])
    )
    monkeypatch.setattr(
        module,
        "open_run",
        lambda folder: types.SimpleNamespace(components=lambda: principal_components(latents)),
    )
    return write_run(tmp_path, tmp_path / "once.star")


def test_a_percentile_of_a_component_is_chosen(a_run, tmp_path):
    low, high = (
        {row.split("@")[0] for row in rows_of((tmp_path / name).read_text())}
        for name, choice in {"a.star": Choice(above=60), "b.star": Choice(below=40)}.items()
        if select_particles(a_run, tmp_path / name, choice)
    )
    assert {frozenset(low), frozenset(high)} == {
        frozenset({"000002", "000004"}),
        frozenset({"000001", "000003"}),
    }
    middle = select_particles(a_run, tmp_path / "c.star", Choice(above=30, below=70))
    assert middle[0] == 1 and rows_of((tmp_path / "c.star").read_text())[0].startswith("000005")


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice(pc=3, above=50), "pc = 3: the run has components 1 to 2"),
        (Choice(above=101), "above = 101: a percentile is 0 to 100"),
    ],
)
def test_impossible_components_are_refused(choice, words, a_run, tmp_path):
    with pytest.raises(InputError, match=words):
        select_particles(a_run, tmp_path / "a.star", choice)


def test_indices_of_a_run_need_no_checkpoint(star, tmp_path):
    assert (
        select_particles(write_run(tmp_path, star), tmp_path / "a.star", Choice(indices="1:3"))[0]
        == 2
    )


def test_what_is_said_of_the_reading_of_a_run_comes_before_what_the_run_knows(star, tmp_path):
    select_particles(star, tmp_path / "once.star", Choice(unique=True))
    (tmp_path / "moved").mkdir()
    (tmp_path / "stack.mrcs").rename(tmp_path / "moved" / "stack.mrcs")
    folder = write_run(
        tmp_path, tmp_path / "once.star", Reading(root=tmp_path / "gone", pixel_size=2.0)
    )
    parse(
        [
            "select",
            str(folder),
            "--out",
            f"{tmp_path}/out.cs",
            "--indices",
            ":",
            "--root",
            f"{tmp_path}/moved",
        ]
    ).run()
    chosen = read_particles(tmp_path / "out.cs", root=tmp_path / "moved")
    assert len(chosen) == 5 and chosen.pixel_size == 2.0
    parse(
        [
            "select",
            str(folder),
            "--out",
            f"{tmp_path}/3.cs",
            "--indices",
            ":",
            "--root",
            f"{tmp_path}/moved",
            "--pixel-size",
            "3",
        ]
    ).run()
    assert read_particles(tmp_path / "3.cs", root=tmp_path / "moved").pixel_size == 3.0


def test_no_file_that_a_run_reads_is_replaced(cs, tmp_path):
    main, passthrough = cs
    mine = passthrough.rename(tmp_path / "high_passthrough.cs")
    before, folder = mine.read_bytes(), write_run(tmp_path, main, Reading(passthrough=mine))
    with pytest.raises(InputError, match=r"high_passthrough\.cs: is a file that is read"):
        parse(
            [
                "select",
                str(folder),
                "--out",
                f"{tmp_path}/high.cs",
                "--indices",
                "0:2",
                "--overwrite",
            ]
        ).run()
    assert mine.read_bytes() == before and not (tmp_path / "high.cs").exists()


def test_particles_alone_have_no_components(star, tmp_path):
    with pytest.raises(
        InputError, match=r"principal components are a run's; give the folder of one"
    ):
        select_particles(star, tmp_path / "a.star", Choice(above=50))


def test_the_command_says_what_it_wrote(star, tmp_path, capsys):
    parse(["select", str(star), "--out", f"{tmp_path}/out.star", "--indices", "1:3"]).run()
    assert capsys.readouterr().out.startswith(
        f"wrote {tmp_path}/out.star: 2 of 6 particles; every column and table as it was"
    )
