"""What `info` says of particles: right numbers, and each problem in one line, without an error."""

import json
import re

import numpy as np
import pytest
from bad_inputs import write_sound_files
from refusals import refused
from scipy.spatial.transform import Rotation

from cryostar_nb.geometry import random_rotations, relion_angles_from_rotations
from cryostar_nb.io.options import Reading
from cryostar_nb.prepare.info import describe, inspect_particles, pose_coverage

COUNT = 40


@pytest.fixture
def star(tmp_path, rng, write_stack, write_table):
    """Write forty sound particles of two optics groups, but for changes; None drops a column."""
    write_stack(tmp_path / "stack.mrcs", rng.standard_normal((COUNT, 8, 8)))
    angles = relion_angles_from_rotations(random_rotations(COUNT, rng))
    defocus = rng.uniform(9_000, 20_000, COUNT)

    def write(changes=None, optics_changes=None):
        particles = {
            "rlnImageName": [f"{i + 1}@stack.mrcs" for i in range(COUNT)],
            **dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T, strict=True)),
            "rlnOriginXAngst": rng.uniform(-1, 1, COUNT),
            "rlnOriginYAngst": rng.uniform(-1, 1, COUNT),
            "rlnDefocusU": defocus + 200,
            "rlnDefocusV": defocus - 200,
            "rlnDefocusAngle": [0.0] * COUNT,
            "rlnOpticsGroup": [1] * 30 + [2] * 10,
            "rlnMicrographName": ["m.mrc"] * COUNT,
        }
        optics = {
            "rlnOpticsGroup": [1, 2],
            "rlnVoltage": [300.0, 200.0],
            "rlnSphericalAberration": [2.7, 2.7],
            "rlnAmplitudeContrast": [0.1, 0.07],
            "rlnImagePixelSize": [1.5, 1.5],
            "rlnImageSize": [8, 8],
        }
        blocks = {
            "optics": optics | (optics_changes or {}),
            "particles": particles | (changes or {}),
        }
        kept = {
            name: {column: values for column, values in block.items() if values is not None}
            for name, block in blocks.items()
        }
        return write_table(tmp_path / "particles.star", kept), defocus

    return write


def test_sound_particles_have_no_problems_and_the_right_numbers(star):
    path, defocus = star()
    found = json.loads(json.dumps(inspect_particles(path)))
    assert (found["n_particles"], found["box_size"], found["pixel_size"], found["format"]) == (
        COUNT,
        8,
        1.5,
        "RELION STAR",
    )
    assert found["defocus_range"] == pytest.approx([defocus.min(), defocus.max()])
    first, second = found["optics_groups"]
    assert (first["group"], first["n_particles"], first["voltage_kv"]) == ("1", 30, 300)
    assert (second["group"], second["n_particles"], second["amplitude_contrast"]) == ("2", 10, 0.07)
    assert (first["box_size"], first["pixel_size"]) == (8, 1.5)
    assert found["images"] == {"root": str(path.parent), "files": 1, "missing": 0}
    assert "rlnAngleRot" in found["columns_used"] and found["columns_ignored"] == [
        "rlnMicrographName"
    ]
    assert found["phase_flipped"] is False and found["problems"] == []
    assert 0 < found["shifts"]["root_mean_square"] < found["shifts"]["largest"] < 1.5
    assert set(found["pose_coverage"]) == {
        "view_evenness",
        "views_seen",
        "views_expected",
        "in_plane_evenness",
    }


def test_the_text_says_the_same(star):
    out = describe(inspect_particles(star()[0]))
    assert (
        "optics group 2" in out
        and "30 particles, 1.5 Å, 300 kV, Cs 2.7 mm, amplitude contrast 0.1" in out
    )
    assert "columns ignored   rlnMicrographName" in out and "problems          none found" in out


@pytest.mark.parametrize(
    ("changes", "optics", "words"),
    [
        ({"rlnAngleTilt": [0.0] * 7 + ["nan"] + [0.0] * 32}, {}, "particle 8 .*rlnAngleTilt = nan"),
        ({"rlnAngleTilt": None}, {}, "no column rlnAngleTilt"),
        ({"rlnOriginXAngst": [0.0] * 39 + [3.5]}, {}, r"particle 40 .*3\.\d+ Å.* 1 in all"),
        (dict.fromkeys(("rlnDefocusU", "rlnDefocusV"), [-1.0] * COUNT), {}, "1 .*-1 Å.* 40 in all"),
        (
            {"rlnImageName": ["1@stack.mrcs"] * 39 + ["1@gone.mrcs"]},
            {},
            "1 of 2 .*gone.mrcs.*--root",
        ),
        ({"rlnImageName": ["41@stack.mrcs"] * COUNT}, {}, "particle 1 .*image 41 of .*stack.mrcs"),
        (
            {"rlnImageName": ["1@../stack.mrcs"] * COUNT},
            {},
            r"particle 1 .*\.\./stack.*--allow-out",
        ),
        ({}, {"rlnImagePixelSize": [1.5, 1.6]}, r"particle 31 .*1\.6 Å.*1\.5 Å.*--optics-group"),
        ({}, {"rlnImageSize": [8, 16]}, "particle 31 .*16 pixels"),
        ({}, {"rlnVoltage": [0.0, 200.0]}, "particle 1 .*rlnVoltage = 0"),
        ({}, {"rlnBeamTiltX": [0.0, 0.3]}, "no column rlnBeamTiltY.*give both"),
        ({}, {"rlnMagMat00": [1.0, 1.01]}, "no column rlnMagMat01.*all four"),
        ({}, {"rlnOddZernike": ["[0,0.1]", "[0,x]"]}, r"particle 31 .*rlnOddZernike = '\[0,x\]'"),
        ({}, {"rlnOddZernike": ["[0]", "[0,0,0,0,0,0,1]"]}, "particle 31 .* 7 coeff"),
    ],
)
def test_each_problem_is_one_line_and_the_rest_is_still_told(changes, optics, words, star):
    path, _ = star(changes, optics)
    found = inspect_particles(path)
    assert len(found["problems"]) == 1
    (problem,) = found["problems"]
    assert problem.startswith(f"{path}: ") and "\n" not in problem
    assert re.search(words, problem), problem
    assert found["n_particles"] == COUNT


def test_aberrations_are_no_problem(star):
    path, _ = star(
        {},
        {
            "rlnMagMat00": [1.0, 1.01],
            "rlnMagMat01": [0.0, 0.01],
            "rlnMagMat10": [0.0, 0.01],
            "rlnMagMat11": [1.0, 0.99],
            "rlnEvenZernike": ["[0,0.0]", "[0,0,3]"],
            "rlnBeamTiltX": [0.1, 0.0],
            "rlnBeamTiltY": [0.0, 0.0],
            "rlnImagePixelSize": [1.5, 1.51],
        },
    )
    found = inspect_particles(path)
    assert found["problems"] == [] and found["pixel_size"] == 1.5
    assert "rlnBeamTiltX" in found["columns_used"]


def test_repeats_are_counted(star):
    path, _ = star()
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1], lines[-3], ""]))
    (problem,) = inspect_particles(path)["problems"]
    assert re.search("particle 41 .*particle 40, one of 2 .*--unique", problem)


def test_what_is_not_known_is_none(star, tmp_path):
    path, _ = star(
        dict.fromkeys(("rlnAngleRot", "rlnDefocusU")),
        {"rlnImagePixelSize": None, "rlnImageSize": None},
    )
    (tmp_path / "stack.mrcs").unlink()
    found = inspect_particles(path)
    assert all(
        found[key] is None for key in ("box_size", "pixel_size", "defocus_range", "pose_coverage")
    )
    assert len(found["problems"]) == 4  # pixel size, pose, CTF, images
    assert inspect_particles(path, Reading(pixel_size=2.0))["pixel_size"] == 2.0


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path):
    with refused("absent.star"):
        inspect_particles(tmp_path / "absent.star")


# Pose coverage


def test_even_poses_are_even(rng):
    found = pose_coverage(random_rotations(20_000, rng))
    assert found["view_evenness"] > 0.97 and found["in_plane_evenness"] > 0.97
    assert found["views_seen"] == 1 and found["views_expected"] == pytest.approx(1)


def test_cells_are_of_one_area(rng):
    """With few views as many cells are seen as the formula says; unequal cells would give fewer."""
    seen = [pose_coverage(random_rotations(100, rng))["views_seen"] for _ in range(200)]
    assert np.mean(seen) == pytest.approx(1 - 0.99**100, abs=0.01)


def test_side_views_of_one_axis_are_uneven_and_a_single_view_is_most(rng):
    spin = Rotation.from_euler("z", rng.uniform(0, 360, (500, 1)), degrees=True)
    side = pose_coverage(
        (
            spin
            * Rotation.from_euler("x", 90, degrees=True)
            * Rotation.from_euler("z", rng.uniform(0, 360, (500, 1)), degrees=True)
        ).as_matrix()
    )
    assert side["view_evenness"] < 1e-9 and side["in_plane_evenness"] > 0.9
    top = pose_coverage(spin.as_matrix())
    assert top["view_evenness"] < 1e-9 and top["views_seen"] == 0.01
    fixed = pose_coverage(np.broadcast_to(np.eye(3), (5, 3, 3)))
    assert fixed["in_plane_evenness"] == pytest.approx(0)


def test_a_root_that_is_no_folder_is_a_problem_and_not_a_crash(star, tmp_path):
    path, _ = star()
    found = inspect_particles(path, Reading(root=tmp_path / "nowhere"))
    assert (
        any("nowhere: is no folder" in problem for problem in found["problems"])
        and found["n_particles"] == COUNT
    )


@pytest.mark.parametrize(
    ("sign", "said"),
    [
        (-1, "for 4 of 4 .*--invert"),
        ([1, -1, -1, 1], "for 2 of 4 .*--indices"),
        (1, None),
    ],
)
def test_the_sign_of_cryosparc_is_said_to_be_not_followed(sign, said, tmp_path):
    write_sound_files(tmp_path)
    table = np.load(tmp_path / "particles.cs")
    signed = np.empty(len(table), dtype=[*table.dtype.descr, ("blob/sign", "<f4")])
    for name in table.dtype.names:
        signed[name] = table[name]
    signed["blob/sign"] = sign
    with (tmp_path / "signed.cs").open("wb") as handle:
        np.save(handle, signed)
    problems = inspect_particles(tmp_path / "signed.cs")["problems"]
    assert [
        bool(re.search(said or "", problem)) for problem in problems if "blob/sign" in problem
    ] == ([] if said is None else [True])
