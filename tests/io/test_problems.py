"""What a particle file says twice, and poses that are none: refused, or told by every command."""

import re
import shutil

import numpy as np
import pytest
from bad_inputs import STAR, int32, patch, write_cs, write_sound_files
from refusals import refused
from scipy.spatial.transform import Rotation

from cryostar_nb.geometry import (
    random_rotations,
    relion_angles_from_rotations,
    rotations_from_relion_angles,
)
from cryostar_nb.io.options import Reading
from cryostar_nb.io.problems import Unfit, check_views, read_and_tell, understand
from cryostar_nb.io.reading import open_metadata, read_particles
from cryostar_nb.prepare.options import Choice
from cryostar_nb.prepare.select import select_particles

ROWS = STAR.partition("#10\n")[2]


@pytest.fixture
def folder(tmp_path):
    write_sound_files(tmp_path)
    return tmp_path


def changed(folder, *changes):
    """The sound STAR file with other text; returns its path."""
    path, text = folder / "particles.star", STAR
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def range_of(values):
    return float(values.min()), float(values.max()), float(values.mean())


# Tables


def test_two_tables_of_one_name_are_refused(folder):
    path = folder / "particles.star"
    path.write_text(STAR + "\n" + STAR)
    for read in (read_particles, lambda path: select_particles(path, path, Choice(indices="0:1"))):
        with refused("particles.star", value="optics") as caught:
            read(path)
        assert "lines 1 and" in str(caught.value)
    particles = STAR[STAR.index("data_particles") :]
    path.write_text(STAR + "\n" + particles)
    with refused("particles.star", value="particles"):
        read_particles(path)


def test_particles_in_two_tables_of_other_names_are_refused(folder):
    particles = STAR[STAR.index("data_particles") :]
    path = folder / "particles.star"
    path.write_text(STAR + "\n" + particles.replace("data_particles", "data_more"))
    with refused("particles.star", value="more"):
        read_particles(path)


@pytest.mark.parametrize(
    "change",
    [
        # each lost rows without a word, or gave them to the wrong table
        lambda text: text.replace("\n", "\r\r\n"),
        lambda text: text.replace("2@stack.mrcs 11", "2@stack.mrcs '11").replace(
            "3@stack.mrcs 12 22", "3@stack.mrcs 12' 22"
        ),
        lambda text: text.replace("3@stack.mrcs", "data_3@stack.mrcs") + text[: len(text) // 3],
        lambda text: text.replace("2@stack.mrcs", "loop_\n_rlnImageName #1\n2@stack.mrcs"),
    ],
    ids=["line ends", "quotation marks", "a value like a table", "a table in a table"],
)
def test_every_line_of_a_table_is_read_or_the_file_refused(change, folder):
    (folder / "particles.star").write_text(change(STAR), newline="")
    with refused("particles.star"):
        read_particles(folder / "particles.star")


def test_a_comment_after_a_row_is_no_value(folder):
    path = changed(folder, ("15001 14501 5 1", "15001 14501 5 1  # the second"))
    assert len(read_particles(path)) == 4


def test_a_comment_sign_in_the_last_column_is_named(folder):
    lines = [line.split() for line in ROWS.splitlines()]
    rows = "".join(" ".join([*line[1:], line[0]]) + "\n" for line in lines)
    rows = rows.replace("@stack", "@st#ack")
    names = re.findall(r"_rln\w+ #\d+\n", STAR[STAR.index("data_particles") :])
    header = STAR[: STAR.index("data_particles")] + "data_particles\n\nloop_\n"
    path = folder / "particles.star"
    path.write_text(header + "".join([*names[1:], names[0]]) + rows)
    with refused("particles.star", row=1, value="1@st#ack.mrcs"):
        read_particles(path)


def test_a_byte_order_mark_is_no_part_of_the_first_table(folder):
    path = folder / "particles.star"
    path.write_text(STAR, encoding="utf-8-sig")
    assert read_particles(path).pixel_size == 1.5


def test_an_optics_table_without_loop_is_its_one_group(folder):
    optics = "data_optics\n\n_rlnOpticsGroup 1\n_rlnVoltage 300\n_rlnSphericalAberration 2.7\n"
    optics += "_rlnAmplitudeContrast 0.1\n_rlnImagePixelSize 1.5\n_rlnImageSize 8\n\n"
    particles = STAR[STAR.index("data_particles") :].replace(" 5 2\n", " 5 1\n")
    path = folder / "particles.star"
    path.write_text(optics + particles)
    read = read_particles(path)
    assert read.pixel_size == 1.5 and read.ctf.voltage_kv.tolist() == [300] * 4
    path.write_text(changed(folder, ("data_optics\n\nloop_\n", "data_optics\n\n")).read_text())
    with refused("particles.star") as caught:
        read_particles(path)
    assert "data_optics has no line loop_" in str(caught.value)


# Two statements of one thing


@pytest.mark.parametrize("value", ["3.0", "1.6"])
def test_two_pixel_sizes_of_one_particle_are_refused(value, folder):
    rows = ROWS.replace(" 1\n", f" 1 {value}\n").replace(" 2\n", f" 2 {value}\n")
    path = changed(
        folder, ("_rlnOpticsGroup #10\n", "_rlnOpticsGroup #10\n_rlnImagePixelSize #11\n")
    )
    path.write_text(path.read_text().replace(ROWS, rows))
    with refused("particles.star", row=1, value=float(value)) as caught:
        read_particles(path)
    assert "1.5 in the optics table" in str(caught.value)
    path.write_text(path.read_text().replace(f" {value}\n", " 1.5\n"))
    assert read_particles(path).pixel_size == 1.5


def test_a_magnification_that_contradicts_the_pixel_size_is_refused(folder):
    def optics(detector):
        return (
            (
                "_rlnImageSize #6\n",
                "_rlnImageSize #6\n_rlnDetectorPixelSize #7\n_rlnMagnification #8\n",
            ),
            ("0.1 1.5 8\n", f"0.1 1.5 8 {detector} 100000\n"),
        )

    path = changed(folder, *optics(30))
    with refused("particles.star", row=1, value=1.5) as caught:
        read_particles(path)
    assert "3 Å by rlnDetectorPixelSize" in str(caught.value)
    assert read_particles(path, Reading(pixel_size=1.5)).pixel_size == 1.5
    assert read_particles(changed(folder, *optics(15))).pixel_size == 1.5


def test_a_magnification_of_0_is_refused(folder):
    names = "_rlnDetectorPixelSize #5\n_rlnMagnification #6\n"
    path = changed(
        folder,
        ("_rlnImagePixelSize #5\n_rlnImageSize #6\n", names),
        ("0.1 1.5 8\n", "0.1 1.5 0\n"),
        ("XAngst", "X"),
        ("YAngst", "Y"),
    )
    choice = Choice(indices="0:2", unique=True)
    for read in (read_particles, lambda path: select_particles(path, folder / "o.star", choice)):
        with refused("particles.star", row=1, value=0.0):
            read(path)


def test_the_voxel_size_of_the_stack_is_compared(folder, write_stack, rng, capsys):
    path = folder / "particles.star"
    for size, told in ((3.0, True), (1.5, False), (1.0, False), (0.0, False)):
        write_stack(folder / "stack.mrcs", rng.standard_normal((4, 8, 8)), size)
        read_and_tell(path)
        assert ("stack.mrcs: its header has pixels of 3 Å" in capsys.readouterr().err) == told
    write_stack(folder / "stack.mrcs", rng.standard_normal((4, 8, 8)), 3.0)
    read_and_tell(path, Reading(pixel_size=1.5))  # it was decided
    assert "pixels of 3" not in capsys.readouterr().err


def test_a_stack_of_unsigned_bytes_is_read_as_such_and_told(folder, rng, capsys):
    grey = np.clip(rng.normal(130, 30, (4, 8, 8)), 0, 255).round().astype(np.uint8)
    header = (folder / "stack.mrcs").read_bytes()[:1024]
    (folder / "stack.mrcs").write_bytes(header + grey.tobytes())
    patch(folder / "stack.mrcs", 12, int32(0))
    patch(folder / "stack.mrcs", 76, np.array(range_of(grey), dtype="<f4").tobytes())
    images = read_and_tell(folder / "particles.star").images(slice(None))
    np.testing.assert_array_equal(images, grey)
    assert "stack.mrcs holds unsigned bytes" in capsys.readouterr().err


# Poses


@pytest.fixture
def stale(folder, rng):
    """An ab-initio job's own file, a passthrough file with a refinement's poses, and both poses."""
    own, other = (Rotation.random(4, random_state=rng).as_rotvec().astype("f4") for _ in range(2))
    shift = np.zeros((4, 2), dtype="f4")
    none = dict.fromkeys(f"alignments3D/{name}" for name in ("pose", "shift", "psize_A"))
    write_cs(
        folder / "own.cs",
        none | {"alignments_class_0/pose": own, "alignments_class_0/shift": shift},
    )
    write_cs(folder / "through.cs", {"alignments3D/pose": other, "alignments3D/shift": shift + 3})
    return own, other


def vectors(particles):
    return Rotation.from_matrix(particles.rotations.mT.numpy()).as_rotvec()


def test_the_poses_are_the_jobs_own(folder, stale, capsys):
    own, _ = stale
    particles = read_and_tell(folder / "own.cs", Reading(passthrough=folder / "through.cs"))
    np.testing.assert_allclose(vectors(particles), own, atol=1e-6)
    assert not particles.shifts.any()
    said = capsys.readouterr().err
    assert "own.cs: poses are alignments_class_0/pose of this file, not alignments3D/pose" in said


@pytest.mark.parametrize(("shift", "notes"), [(3, 0), (4, 1)])
def test_both_files_with_one_alignment_are_worth_a_note_where_they_differ(
    shift, notes, folder, stale
):
    _, other = stale
    shifts = np.full((4, 2), shift, dtype="f4")
    write_cs(folder / "own.cs", {"alignments3D/pose": other, "alignments3D/shift": shifts})
    file = open_metadata(folder / "own.cs", Reading(passthrough=folder / "through.cs"))
    assert len(file.notes()) == notes
    np.testing.assert_allclose(file.shifts(None), -1.5 * shifts)


def test_shifts_are_never_of_another_job_than_rotations(folder, stale):
    """The own file has the pose alone; the passthrough file's shift is another alignment's."""
    own, _ = stale
    write_cs(
        folder / "own.cs",
        {"alignments3D/pose": own, "alignments3D/shift": None, "alignments3D/psize_A": None},
    )
    particles = read_particles(folder / "own.cs", Reading(passthrough=folder / "through.cs"))
    assert not particles.shifts.any()


def test_poses_of_the_passthrough_file_are_taken_where_the_job_has_none_and_told(folder, stale):
    _, other = stale
    none = dict.fromkeys(f"alignments3D/{name}" for name in ("pose", "shift", "psize_A"))
    reading = Reading(passthrough=folder / "through.cs")
    for fields, notes in (({}, 0), ({"alignments2D/pose": np.ones(4, dtype="f4")}, 1)):
        write_cs(folder / "own.cs", none | fields)
        np.testing.assert_allclose(
            vectors(read_particles(folder / "own.cs", reading)), other, atol=1e-6
        )
        assert len(open_metadata(folder / "own.cs", reading).notes()) == notes


def rotations(*parts):
    return np.concatenate([part.as_matrix().reshape(-1, 3, 3) for part in parts])


def test_one_direction_of_view_is_no_set_of_poses(rng, tmp_path):
    file = tmp_path / "x.star"
    spin = Rotation.from_euler("ZYZ", [[0, 0, a] for a in range(40)], degrees=True)
    side = Rotation.from_euler("ZYZ", [[0, 90, a] for a in range(40)], degrees=True)
    good = Rotation.from_matrix(random_rotations(360, rng))
    for poses, row, count in (
        (rotations(spin.inv()), 1, 40),  # after a 2D classification
        (rotations(side.inv()), 1, 40),  # of helices
        (rotations(good, spin.inv()), 361, 40),  # a tenth of them without a pose
    ):
        with refused("x.star", row=row, value=count) as caught:
            check_views(file, poses)
        assert isinstance(caught.value, Unfit)


def test_poses_on_a_grid_and_preferred_views_are_poses(rng, tmp_path):
    file = tmp_path / "x.star"
    grid = random_rotations(50, rng)
    check_views(file, grid[np.minimum(rng.geometric(0.2, 2000), 50) - 1])  # a fifth share one
    check_views(file, random_rotations(2000, rng))
    tilt = Rotation.from_euler("ZYZ", rng.normal(0, 3, (2000, 3)), degrees=True)
    check_views(file, rotations(tilt))


def test_one_origin_for_all_is_told(folder):
    problems = understand(open_metadata(folder / "particles.star")).problems
    assert [at.value for at in problems if "as all are" in str(at)] == [[-0.5, 0.5]]


def test_a_few_particles_without_a_pose_are_told(rng, tmp_path):
    poses = random_rotations(200, rng)
    spin = Rotation.from_euler("z", [[10], [50], [70]], degrees=True).as_matrix()
    for none in (np.eye(3), spin):
        poses[[7, 9, 11]] = none
        with refused("x.star", row=8, value=3) as caught:
            check_views(tmp_path / "x.star", poses)
        assert not isinstance(caught.value, Unfit)


def test_angles_in_radians_look_from_one_side_and_are_told(rng, tmp_path):
    angles = relion_angles_from_rotations(random_rotations(200, rng))
    check_views(tmp_path / "x.star", rotations_from_relion_angles(*angles.T))
    with refused("x.star") as caught:
        check_views(tmp_path / "x.star", rotations_from_relion_angles(*np.deg2rad(angles).T))
    assert not isinstance(caught.value, Unfit) and "degrees" in caught.value.remedy


def test_pickles_of_identity_matrices_are_no_poses(folder):
    reading = Reading(poses_pkl=folder / "pose.pkl", ctf_pkl=folder / "ctf.pkl")
    with refused("stack.mrcs", row=1, value=4):
        read_and_tell(folder / "stack.mrcs", reading)


# Units


def test_rotation_vectors_in_degrees_are_refused(folder, rng):
    pose = np.rad2deg(Rotation.random(4, random_state=rng).as_rotvec()).astype("f4")
    write_cs(folder / "own.cs", {"alignments3D/pose": pose})
    with refused("own.cs", row=1):
        read_particles(folder / "own.cs")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ctf/df_angle_rad": 50.0}, "ctf/df_angle_rad = 50"),
        ({"ctf/df1_A": 1700.0, "ctf/df2_A": 1500.0}, "1600 Å; check its unit"),
    ],
)
def test_units_of_the_ctf_are_told(fields, words, folder, rng, capsys):
    pose = Rotation.random(4, random_state=rng).as_rotvec().astype("f4")
    values = {name: np.full(4, value, dtype="f4") for name, value in fields.items()}
    write_cs(folder / "own.cs", {"alignments3D/pose": pose} | values)
    read_and_tell(folder / "own.cs")
    assert words in capsys.readouterr().err


# Commands


@pytest.fixture
def flat(folder):
    """Particles of a 2D classification: no tilt, no rotation but in the plane."""
    changes = [(f"mrcs 1{i} 2{i}", "mrcs 0 0") for i in range(4)]
    return changed(folder, *changes)


@pytest.fixture
def in_micrometres(folder):
    return changed(folder, *((f"1500{i} 1450{i}", f"1.500{i} 1.450{i}") for i in range(4)))


@pytest.mark.parametrize(("fault", "words"), [("flat", "view of 4 of 4"), ("in_micrometres", "µm")])
def test_every_command_says_or_refuses_it(fault, words, folder, request, refused, shell):
    path, model = request.getfixturevalue(fault), folder.parent / "1ake.pdb"
    shutil.copy(f"{request.config.rootpath}/data/1ake.pdb", model)
    refused(f"train {path} --reference {model} --out {folder}/run", words)
    refused(f"doctor {path} --reference {model}", words)
    refused(f"dock {model} {path} --out {folder}/docked.cif", words)
    assert words in shell(f"info {path}").out
    for line in (
        f"select {path} --indices 0:2 --out {folder}/some.star",
        f"preprocess {path} --out {folder}/made",
    ):
        answer = shell(line)
        assert answer.code == 0
        assert len([said for said in answer.error.splitlines() if words in said]) == 1
