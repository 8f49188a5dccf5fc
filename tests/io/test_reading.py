"""The same particles from RELION, cryoSPARC and cryoDRGN, and files of indices."""

import contextlib
import dataclasses
import pickle
import pickletools
import re
import tracemalloc

import numpy as np
import pytest
import torch
from bad_inputs import write_sound_files
from refusals import refused
from scipy.spatial.transform import Rotation

from cryostar_nb.errors import InputError
from cryostar_nb.io.cryodrgn import read_pickle
from cryostar_nb.io.cryosparc import write_cs
from cryostar_nb.io.options import Reading
from cryostar_nb.io.reading import open_metadata, read_indices, read_particles
from cryostar_nb.io.star import write_star

COUNT, BOX, PIXEL = 7, 12, 1.5


@pytest.fixture
def truth(rng):
    """Seven particles in no format: rotations, origins in pixels, CTFs in RELION's units."""
    return {
        "rotation": Rotation.random(COUNT, random_state=rng),
        "origin": rng.uniform(-2, 2, (COUNT, 2)),
        "defocus_u": rng.uniform(8e3, 2e4, COUNT),
        "defocus_v": rng.uniform(8e3, 2e4, COUNT),
        "defocus_angle_deg": rng.uniform(-90, 90, COUNT),
        "phase_shift_deg": rng.uniform(0, 90, COUNT),
        "images": rng.standard_normal((COUNT, BOX, BOX)).astype(np.float32),
    }


@pytest.fixture
def stack(tmp_path, truth, write_stack):
    return write_stack(tmp_path / "stack.mrcs", truth["images"])


@pytest.fixture
def star(tmp_path, truth, stack, write_table):
    angles = truth["rotation"].inv().as_euler("ZYZ", degrees=True)
    columns = {
        "rlnImageName": [f"{i + 1}@stack.mrcs" for i in range(COUNT)],
        **dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T, strict=True)),
        "rlnOriginXAngst": truth["origin"][:, 0] * PIXEL,
        "rlnOriginYAngst": truth["origin"][:, 1] * PIXEL,
        "rlnDefocusU": truth["defocus_u"],
        "rlnDefocusV": truth["defocus_v"],
        "rlnDefocusAngle": truth["defocus_angle_deg"],
        "rlnPhaseShift": truth["phase_shift_deg"],
        "rlnOpticsGroup": [1] * COUNT,
    }
    optics = {
        "rlnOpticsGroup": [1],
        "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
    }
    return write_table(
        tmp_path / "particles.star",
        {"particles": columns, "optics": optics | {"rlnImagePixelSize": [PIXEL]}},
    )


@pytest.fixture
def cs_fields(truth, stack):
    """Fields of a .cs file, aligned on images of half the box: pixels are twice as large there."""
    return {
        "uid": np.arange(COUNT, dtype=np.uint64) * 17 + 3,
        "blob/path": np.array([b">stack.mrcs"] * COUNT),
        "blob/idx": np.arange(COUNT, dtype=np.uint32),
        "blob/shape": np.full((COUNT, 2), BOX, dtype=np.uint32),
        "blob/psize_A": np.full(COUNT, PIXEL, dtype=np.float32),
        "blob/sign": np.full(COUNT, -1, dtype=np.float32),
        "ctf/accel_kv": np.full(COUNT, 300, dtype=np.float32),
        "ctf/cs_mm": np.full(COUNT, 2.7, dtype=np.float32),
        "ctf/amp_contrast": np.full(COUNT, 0.1, dtype=np.float32),
        "ctf/df1_A": truth["defocus_u"].astype(np.float32),
        "ctf/df2_A": truth["defocus_v"].astype(np.float32),
        "ctf/df_angle_rad": np.deg2rad(truth["defocus_angle_deg"]).astype(np.float32),
        "ctf/phase_shift_rad": np.deg2rad(truth["phase_shift_deg"]).astype(np.float32),
        "alignments3D/pose": truth["rotation"].inv().as_rotvec().astype(np.float32),
        "alignments3D/shift": (truth["origin"] / 2).astype(np.float32),
        "alignments3D/psize_A": np.full(COUNT, 2 * PIXEL, dtype=np.float32),
    }


@pytest.fixture
def pickled(tmp_path, truth, stack):
    """cryoDRGN's files, parsed from images of twice the box."""
    ctf = np.empty((COUNT, 9))
    ctf[:, :2] = 2 * BOX, PIXEL / 2
    ctf[:, 2], ctf[:, 3], ctf[:, 4] = (
        truth["defocus_u"],
        truth["defocus_v"],
        truth["defocus_angle_deg"],
    )
    ctf[:, 5:8] = 300, 2.7, 0.1
    ctf[:, 8] = truth["phase_shift_deg"]
    poses = (truth["rotation"].as_matrix().astype(np.float32), truth["origin"] / BOX)
    for name, content in (("pose.pkl", poses), ("ctf.pkl", ctf)):
        (tmp_path / name).write_bytes(pickle.dumps(content))
    return Reading(poses_pkl=tmp_path / "pose.pkl", ctf_pkl=tmp_path / "ctf.pkl")


def assert_same(particles, truth, atol=1e-5):
    """All that `truth` says, and not what another format would say."""
    assert (len(particles), particles.box_size, particles.pixel_size) == (
        COUNT,
        BOX,
        pytest.approx(PIXEL),
    )
    np.testing.assert_array_equal(particles.images(slice(None)), truth["images"])
    np.testing.assert_allclose(particles.rotations, truth["rotation"].as_matrix(), atol=atol)
    np.testing.assert_allclose(particles.shifts, -PIXEL * truth["origin"], atol=atol)
    for name in ("defocus_u", "defocus_v", "defocus_angle_deg", "phase_shift_deg"):
        np.testing.assert_allclose(
            getattr(particles.ctf, name), truth[name], rtol=1e-6, err_msg=name
        )
    microscope = torch.stack(
        [
            particles.ctf.voltage_kv,
            particles.ctf.spherical_aberration_mm,
            particles.ctf.amplitude_contrast,
        ]
    )
    np.testing.assert_allclose(microscope.T, [[300, 2.7, 0.1]] * COUNT, rtol=1e-6)
    assert particles.ctf.b_factor.tolist() == [0] * COUNT


def test_star_cs_and_pickles_of_the_same_particles_are_the_same(
    truth, star, stack, cs_fields, pickled, tmp_path, write_cs_table
):
    assert_same(read_particles(star), truth, atol=1e-12)
    assert_same(read_particles(write_cs_table(tmp_path / "particles.cs", cs_fields)), truth)
    assert_same(read_particles(stack, pickled), truth)


def test_what_is_written_is_read_as_it_was(truth, star, tmp_path):
    particles = read_particles(star)
    write_cs(tmp_path / "again.cs", particles)
    assert_same(read_particles(tmp_path / "again.cs"), truth)
    write_star(tmp_path / "again.star", read_particles(tmp_path / "again.cs"))
    assert_same(read_particles(tmp_path / "again.star"), truth)


def test_uids_are_distinct_and_depend_on_the_image_alone(star, tmp_path):
    particles = read_particles(star)
    write_cs(tmp_path / "all.cs", particles)
    write_cs(tmp_path / "some.cs", particles[np.array([4, 2])])
    uids = np.load(tmp_path / "all.cs")["uid"]
    assert len(np.unique(uids)) == COUNT
    assert np.load(tmp_path / "some.cs")["uid"].tolist() == uids[[4, 2]].tolist()


@pytest.mark.parametrize("name", ["particles.txt", "particles", "particles.star.gz"])
def test_another_suffix_is_refused(name, tmp_path):
    with refused(name):
        read_particles(tmp_path / name)


def test_options_of_another_format_are_refused(star, stack, pickled, tmp_path):
    with refused("particles.star", value=pickled.poses_pkl):
        read_particles(star, Reading(poses_pkl=pickled.poses_pkl))
    with refused("stack.mrcs", value=tmp_path / "x.cs"):
        read_particles(stack, dataclasses.replace(pickled, passthrough=tmp_path / "x.cs"))


def test_the_columns_that_were_used_and_ignored_are_told(
    star, cs_fields, tmp_path, write_cs_table, stack, pickled
):
    particles = read_particles(star)
    assert {
        "rlnImageName",
        "rlnAngleTilt",
        "rlnOriginXAngst",
        "rlnVoltage",
        "rlnImagePixelSize",
    } <= set(particles.columns_used)
    assert particles.columns_ignored == ("rlnOpticsGroup",)
    particles = read_particles(write_cs_table(tmp_path / "particles.cs", cs_fields))
    assert particles.columns_ignored == ("uid", "blob/sign")
    assert len(read_particles(stack, pickled).columns_used) == 2 + 9


# cryoSPARC


def test_a_passthrough_file_gives_what_is_missing_by_uid(
    truth, cs_fields, tmp_path, write_cs_table, rng
):
    in_refinement = {
        name: values
        for name, values in cs_fields.items()
        if name == "uid" or name.startswith("align")
    }
    order = np.append(rng.permutation(COUNT), 3)  # one more, which the refinement has not
    rest = {
        name: values[order] for name, values in cs_fields.items() if not name.startswith("align")
    }
    rest["uid"][-1] = 1_000_000
    main = write_cs_table(tmp_path / "J30_particles.cs", in_refinement)
    passthrough = write_cs_table(tmp_path / "J30_passthrough_particles.cs", rest)
    assert_same(read_particles(main, Reading(passthrough=passthrough)), truth)
    with refused("J30_particles.cs", value="blob/path") as caught:
        read_particles(main)
    assert f"--passthrough {passthrough}" in caught.value.remedy


def test_where_both_files_have_a_field_the_first_one_counts(
    truth, cs_fields, tmp_path, write_cs_table
):
    main = write_cs_table(tmp_path / "particles.cs", cs_fields)
    passthrough = write_cs_table(
        tmp_path / "passthrough.cs", cs_fields | {"ctf/df1_A": np.zeros(COUNT, dtype=np.float32)}
    )
    assert_same(read_particles(main, Reading(passthrough=passthrough)), truth)


def abinitio(fields, *posteriors):
    """Fields with a class of an ab-initio job for each posterior; all but the first are turned."""
    rest = {name: values for name, values in fields.items() if not name.startswith("align")}
    for number, posterior in enumerate(posteriors):
        rest |= {
            f"alignments_class_{number}/{name}": fields[f"alignments3D/{name}"] + number
            for name in ("pose", "shift", "psize_A")
        }
        rest[f"alignments_class_{number}/class_posterior"] = np.asarray(posterior, dtype=np.float32)
    return rest


def test_the_poses_of_an_ab_initio_job_are_read(truth, cs_fields, tmp_path, write_cs_table):
    path = write_cs_table(tmp_path / "one.cs", abinitio(cs_fields, np.ones(COUNT)))
    assert_same(read_particles(path), truth)
    path = write_cs_table(
        tmp_path / "best.cs", abinitio(cs_fields, np.full(COUNT, 0.7), np.full(COUNT, 0.3))
    )
    assert_same(read_particles(path), truth)


def test_particles_of_several_ab_initio_classes_are_refused(cs_fields, tmp_path, write_cs_table):
    first = np.array([0.9, 0.9, 0.2, 0.9, 0.9, 0.9, 0.9])
    path = write_cs_table(tmp_path / "two.cs", abinitio(cs_fields, first, 1 - first))
    with refused("two.cs", row=3, value="alignments_class_1"):
        read_particles(path)


def test_without_a_pixel_size_of_the_alignment_shifts_are_in_pixels_of_the_images(
    truth, cs_fields, tmp_path, write_cs_table
):
    fields = {name: values for name, values in cs_fields.items() if name != "alignments3D/psize_A"}
    fields["alignments3D/shift"] = fields["alignments3D/shift"] * 2
    assert_same(read_particles(write_cs_table(tmp_path / "particles.cs", fields)), truth)


def test_no_rotation_is_the_identity(cs_fields, tmp_path, write_cs_table):
    fields = cs_fields | {"alignments3D/pose": np.zeros((COUNT, 3), dtype=np.float32)}
    rotations = read_particles(write_cs_table(tmp_path / "particles.cs", fields)).rotations
    assert torch.equal(rotations, torch.eye(3, dtype=torch.float64).expand(COUNT, 3, 3))


def test_only_what_is_asked_of_a_cs_file_is_read(cs_fields, tmp_path, write_cs_table):
    metadata = open_metadata(write_cs_table(tmp_path / "particles.cs", cs_fields))
    assert isinstance(metadata.table, np.memmap)
    metadata.pixel_sizes()
    assert metadata.used == ("blob/psize_A",)


# cryoDRGN


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_from_every_protocol(protocol, tmp_path, rng):
    content = (
        rng.standard_normal((4, 3, 3)),
        np.asfortranarray(rng.standard_normal((4, 2)).astype(">f4")),
        np.arange(3, dtype=np.int16),
    )
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    for read, written in zip(read_pickle(tmp_path / "a.pkl", "arrays"), content, strict=True):
        assert read.dtype == written.dtype
        np.testing.assert_array_equal(read, written)


def test_rotations_may_come_without_translations(truth, stack, pickled, tmp_path):
    pickled.poses_pkl.write_bytes(pickle.dumps(truth["rotation"].as_matrix()))
    particles = read_particles(stack, pickled)
    np.testing.assert_allclose(particles.rotations, truth["rotation"].as_matrix(), atol=1e-12)
    assert torch.equal(particles.shifts, torch.zeros(COUNT, 2, dtype=torch.float64))


def test_without_ctfs_the_pixel_size_is_given(truth, stack, pickled):
    poses_alone = dataclasses.replace(pickled, ctf_pkl=None)
    with refused("stack.mrcs") as caught:
        read_particles(stack, poses_alone)
    assert "--ctf-pkl" in caught.value.remedy and "--pixel-size" in caught.value.remedy
    shifts = open_metadata(stack, poses_alone).shifts(PIXEL)
    np.testing.assert_allclose(shifts, -PIXEL * truth["origin"], atol=1e-12)
    with refused("stack.mrcs") as caught:
        read_particles(stack, dataclasses.replace(poses_alone, pixel_size=PIXEL))
    assert "--ctf-pkl" in caught.value.remedy


class Evil:
    """What a pickle must not be able to do."""

    def __reduce__(self):
        return (open, ("made_by_a_pickle", "w"))


@pytest.mark.parametrize(
    "content",
    [Evil(), (np.zeros((7, 3, 3)), Evil()), [{"a": Evil()}]],
    ids=["alone", "beside", "deep"],
)
def test_a_pickle_runs_nothing(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(content))
    with refused("evil.pkl") as caught:
        read_pickle(tmp_path / "evil.pkl", "arrays")
    assert re.search(r"it asks for (_io|io)\.open", caught.value.problem)
    assert not (tmp_path / "made_by_a_pickle").exists()


@pytest.mark.parametrize(
    "module",
    [
        "os.system",
        "builtins.eval",
        "numpy.load",
        "numpy.lib.npyio.load",
        "numpyx.ndarray",
        "numpy.f2py.ndarray.x",
    ],
)
def test_nothing_can_be_called_by_name(module, tmp_path):
    module, _, name = module.rpartition(".")
    (tmp_path / "evil.pkl").write_bytes(f"c{module}\n{name}\n(S'x'\ntR.".encode())
    with refused("evil.pkl"):
        read_pickle(tmp_path / "evil.pkl", "arrays")


def test_a_pickle_takes_no_more_memory_than_it_has_bytes(tmp_path):
    for name, program in {
        "array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I300000000\ntS'b'\ntR.",
        "memo": b"\x80\x04K\x01r\xff\xff\xff\x00.",
        "bytearray": b"\x80\x05\x96" + (3 * 10**8).to_bytes(8, "little") + b"x.",
        "bytes": b"\x80\x04\x8e" + (3 * 10**8).to_bytes(8, "little") + b"x.",
    }.items():
        (tmp_path / "large.pkl").write_bytes(program)
        tracemalloc.start()
        with contextlib.suppress(InputError):
            read_pickle(tmp_path / "large.pkl", "arrays")
        assert tracemalloc.get_traced_memory()[1] < 1e6, name
        tracemalloc.stop()


def test_objects_in_an_array_are_refused(tmp_path):
    content = np.array([1, "x", None], dtype=object)
    assert any(
        operation.name == "BUILD" for operation, *_ in pickletools.genops(pickle.dumps(content))
    )
    (tmp_path / "objects.pkl").write_bytes(pickle.dumps(content))
    with refused("objects.pkl"):
        read_pickle(tmp_path / "objects.pkl", "arrays")


# Indices


@pytest.mark.parametrize(
    "name", ["npy", "mask", "txt", "pkl", "csv of indices", "csv of particles"]
)
def test_indices_are_read_from_files(name, tmp_path):
    wanted = np.array([5, 0, 3])
    path = tmp_path / {"npy": "i.npy", "mask": "i.npy", "txt": "i.txt", "pkl": "i.pkl"}.get(
        name, "i.csv"
    )
    if name == "npy":
        np.save(path, wanted)
    elif name == "mask":
        np.save(path, np.isin(np.arange(COUNT), wanted))
        wanted = np.sort(wanted)
    elif name == "txt":
        path.write_text("5\n0\n3\n")
    elif name == "pkl":
        path.write_bytes(pickle.dumps(wanted))
    elif name == "csv of indices":
        path.write_text("index,pc1\n5,0.1\n0,0.2\n3,0.3\n")
    else:
        path.write_text("particle,pc1\n6,0.1\n1,0.2\n4,0.3\n")
    assert read_indices(path, COUNT).tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0:3", [0, 1, 2]), (":2", [0, 1]), ("5:", [5, 6]), ("6:100", [6]), (":", list(range(COUNT)))],
)
def test_a_range_needs_no_file(text, expected):
    assert read_indices(text, COUNT).tolist() == expected


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ([0, 7], 7),
        ([-1], -1),
        ([1, 2, 1], 1),
        ([0.5], (1,)),
        ([], (0,)),
        ([False] * 7, None),
        ([True, False], (2,)),
        ([[1, 2]], (1, 2)),
        (np.array([1, None]), None),
    ],
)
def test_bad_indices_are_named(content, value, tmp_path):
    np.save(tmp_path / "i.npy", content)
    with refused("i.npy", value=value):
        read_indices(tmp_path / "i.npy", COUNT)


@pytest.mark.parametrize("text", ["pc1\n0.5\n", "index\n", "particle\nx\n", "particle\n1.5\n"])
def test_a_table_without_indices_is_refused(text, tmp_path):
    (tmp_path / "i.csv").write_text(text)
    with refused("i.csv"):
        read_indices(tmp_path / "i.csv", COUNT)


def test_a_pickle_of_unequal_rows_is_no_indices(tmp_path):
    (tmp_path / "i.pkl").write_bytes(pickle.dumps([[1, 2], 3]))
    with refused("i.pkl"):
        read_indices(tmp_path / "i.pkl", COUNT)


def test_an_empty_range_is_refused():
    with refused(value="9:12"):
        read_indices("9:12", COUNT)


@pytest.mark.parametrize("pixel_size", [-2.0, 0.0, 1e4, float("nan")])
def test_a_pixel_size_that_cannot_be_is_not_blamed_on_a_file(pixel_size):
    with refused(value=pixel_size):
        Reading(pixel_size=pixel_size)


def test_a_root_that_is_no_folder_is_not_blamed_on_the_particles(tmp_path):
    write_sound_files(tmp_path)
    with refused("nowhere"):
        read_particles(tmp_path / "particles.star", Reading(root="nowhere"))
