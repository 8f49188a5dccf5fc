"""Particles in and out of RELION STAR files, and the vectors that training reads."""

import mrcfile
import numpy as np
import pytest
import torch
from refusals import refused

from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations, rotations_from_relion_angles
from cryostar_nb.io.options import Reading
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.star import write_star
from cryostar_nb.io.vectors import load_band_vectors
from cryostar_nb.projector import project_real

CTF_FIELDS = {
    "defocus_u": "rlnDefocusU",
    "defocus_v": "rlnDefocusV",
    "defocus_angle_deg": "rlnDefocusAngle",
    "voltage_kv": "rlnVoltage",
    "spherical_aberration_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
    "phase_shift_deg": "rlnPhaseShift",
    "b_factor": "rlnCtfBfactor",
}


def particle_columns():
    """Three particles of two stacks, as RELION 3.1 writes them."""
    return {
        "rlnImageName": ["000002@stack.mrcs", "000001@more/stack.mrcs", "000001@stack.mrcs"],
        "rlnAngleRot": [10.0, -120.0, 33.3],
        "rlnAngleTilt": [80.0, 20.0, 140.0],
        "rlnAnglePsi": [-5.0, 170.0, 0.0],
        "rlnOriginXAngst": [1.5, 0.0, -4.25],
        "rlnOriginYAngst": [-2.0, 3.0, 0.5],
        "rlnDefocusU": [15_000.0, 21_000.5, 9_000.0],
        "rlnDefocusV": [14_000.0, 20_000.0, 9_000.0],
        "rlnDefocusAngle": [30.0, -60.0, 0.0],
        "rlnOpticsGroup": [1, 1, 1],
    }


def optics_columns():
    return {
        "rlnOpticsGroupName": ["opticsGroup1"],
        "rlnOpticsGroup": [1],
        "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
        "rlnImagePixelSize": [1.25],
    }


@pytest.fixture
def stacks(tmp_path, rng, write_stack):
    """Images of `stack.mrcs` and `more/stack.mrcs`."""
    (tmp_path / "more").mkdir()
    images = rng.standard_normal((3, 8, 8)).astype(np.float32)
    write_stack(tmp_path / "stack.mrcs", images[:2])
    write_stack(tmp_path / "more" / "stack.mrcs", images[2:])
    return images


@pytest.fixture
def star(tmp_path, stacks, write_table):
    """Write a STAR file of three particles: changed columns, without those that are None."""

    def write(particles=None, optics=None, *, order=("optics", "particles")):
        def changed(columns, changes):
            return {
                name: values
                for name, values in (columns | (changes or {})).items()
                if values is not None
            }

        blocks = {
            "optics": changed(optics_columns(), optics),
            "particles": changed(particle_columns(), particles),
        }
        return write_table(tmp_path / "particles.star", {name: blocks[name] for name in order})

    return write


def one_table(**changes):
    """Changes that put everything into the particle table, as RELION 3.0 did."""
    columns = {
        name: values * 3
        for name, values in optics_columns().items()
        if name.startswith(("rlnV", "rlnS", "rlnA"))
    }
    return (
        columns
        | {
            "rlnOpticsGroup": None,
            "rlnMagnification": [50_000.0] * 3,
            "rlnDetectorPixelSize": [6.25] * 3,
        }
        | changes
    )


# Reading


def test_poses_shifts_and_ctf_are_read_row_by_row(star):
    particles, columns = read_particles(star()), particle_columns()
    assert (len(particles), particles.box_size, particles.pixel_size) == (3, 8, 1.25)
    angles = [columns[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")]
    np.testing.assert_allclose(
        particles.rotations, rotations_from_relion_angles(*angles), atol=1e-12
    )
    np.testing.assert_allclose(
        particles.shifts,
        -np.stack([columns["rlnOriginXAngst"], columns["rlnOriginYAngst"]], axis=-1),
    )
    for field, column in CTF_FIELDS.items():
        expected = (columns | {name: values * 3 for name, values in optics_columns().items()}).get(
            column, [0, 0, 0]
        )
        assert getattr(particles.ctf, field).tolist() == expected, column


def test_images_come_from_their_stacks_in_the_order_of_the_table(star, stacks):
    particles = read_particles(star())
    np.testing.assert_array_equal(particles.images(slice(None)), stacks[[1, 2, 0]])
    np.testing.assert_array_equal(particles.images(np.array([2, 0])), stacks[[0, 1]])
    assert particles.images(slice(1, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    "rows", [np.array([2, 0]), torch.tensor([2, 0]), slice(None, None, -2)], ids=type
)
def test_a_selection_of_particles_keeps_what_belongs_together(rows, star, stacks):
    particles = read_particles(star())
    some = particles[rows]
    np.testing.assert_array_equal(some.images(slice(None)), stacks[[0, 1]])
    assert torch.equal(some.rotations, particles.rotations[[2, 0]])
    assert torch.equal(some.shifts, particles.shifts[[2, 0]])
    assert some.ctf.defocus_u.tolist() == [9_000.0, 15_000.0]


def test_the_tables_may_come_in_either_order(star):
    particles = read_particles(star(order=("particles", "optics")))
    assert particles.ctf.voltage_kv.tolist() == [300.0] * 3


def test_each_optics_group_has_its_own_microscope(star):
    optics = {
        "rlnOpticsGroupName": ["late", "early"],
        "rlnOpticsGroup": [7, 2],
        "rlnVoltage": [200.0, 300.0],
        "rlnSphericalAberration": [1.4, 2.7],
        "rlnAmplitudeContrast": [0.07, 0.1],
        "rlnImagePixelSize": [1.25, 1.25],
    }
    ctf = read_particles(star({"rlnOpticsGroup": [2, 7, 2]}, optics)).ctf
    assert ctf.voltage_kv.tolist() == [300.0, 200.0, 300.0]
    assert ctf.spherical_aberration_mm.tolist() == [2.7, 1.4, 2.7]
    assert ctf.amplitude_contrast.tolist() == [0.1, 0.07, 0.1]


def test_relion_3_0_has_one_table_and_a_magnification(star):
    particles = read_particles(star(one_table(), order=("particles",)))
    assert particles.pixel_size == pytest.approx(1e4 * 6.25 / 50_000)
    assert particles.ctf.voltage_kv.tolist() == [300.0] * 3


def test_origins_of_relion_3_0_are_in_pixels(star):
    origins = {
        "rlnOriginXAngst": None,
        "rlnOriginYAngst": None,
        "rlnOriginX": [2.0, 0.0, -1.0],
        "rlnOriginY": [0.5, -4.0, 0.0],
    }
    particles = read_particles(star(origins))
    np.testing.assert_allclose(
        particles.shifts, -1.25 * np.array([[2.0, 0.5], [0.0, -4.0], [-1.0, 0.0]])
    )


def test_without_origins_the_particles_are_centred(star):
    particles = read_particles(star({"rlnOriginXAngst": None, "rlnOriginYAngst": None}))
    assert torch.equal(particles.shifts, torch.zeros(3, 2, dtype=torch.float64))


def test_phase_shift_and_b_factor_are_read_where_they_are_given(star):
    ctf = read_particles(
        star({"rlnPhaseShift": [90.0, 0.0, 45.0], "rlnCtfBfactor": [50.0, 0.0, 1.0]})
    ).ctf
    assert ctf.phase_shift_deg.tolist() == [90.0, 0.0, 45.0]
    assert ctf.b_factor.tolist() == [50.0, 0.0, 1.0]


def test_the_pixel_size_can_be_given(star):
    origins = {
        "rlnOriginXAngst": None,
        "rlnOriginYAngst": None,
        "rlnOriginX": [2.0, 0.0, -1.0],
        "rlnOriginY": [0.0, 0.0, 0.0],
    }
    particles = read_particles(star(origins, {"rlnImagePixelSize": None}), Reading(pixel_size=3.0))
    assert particles.pixel_size == 3.0
    assert particles.shifts[0].tolist() == [-6.0, 0.0]


def test_image_names_are_relative_to_the_root_that_is_given(star, stacks, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    path = star().rename(tmp_path / "elsewhere" / "particles.star")
    for name in ("stack.mrcs", "more"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    (tmp_path / "job").mkdir()
    path = path.rename(tmp_path / "job" / "particles.star")
    with refused("particles.star", row=1, value="stack.mrcs"):
        read_particles(path)
    particles = read_particles(path, Reading(root=tmp_path / "elsewhere"))
    np.testing.assert_array_equal(particles.images(slice(None)), stacks[[1, 2, 0]])


def test_the_project_root_is_the_nearest_folder_above_that_has_the_images(
    star, stacks, tmp_path, write_stack
):
    job = tmp_path / "Refine3D" / "job012"
    job.mkdir(parents=True)
    path = star().rename(job / "run_data.star")
    np.testing.assert_array_equal(read_particles(path).images(slice(None)), stacks[[1, 2, 0]])
    (tmp_path / "Refine3D" / "more").mkdir()
    write_stack(tmp_path / "Refine3D" / "stack.mrcs", stacks[:2] + 1)
    write_stack(tmp_path / "Refine3D" / "more" / "stack.mrcs", stacks[2:] + 1)
    np.testing.assert_array_equal(read_particles(path).images(slice(None)), stacks[[1, 2, 0]] + 1)


@pytest.mark.parametrize("way", ["../stack.mrcs", "more/../../stack.mrcs", "absolute"])
def test_an_image_outside_the_root_is_refused_unless_allowed(
    way, star, stacks, tmp_path, write_stack
):
    outside = write_stack(tmp_path.parent / "stack.mrcs", stacks[:1] + 5)
    name = str(outside) if way == "absolute" else way
    path = star({"rlnImageName": ["1@stack.mrcs", f"1@{name}", "2@stack.mrcs"]})
    with refused("particles.star", row=2, value=name) as caught:
        read_particles(path)
    assert "--allow-outside" in caught.value.remedy
    particles = read_particles(path, Reading(allow_outside=True))
    np.testing.assert_array_equal(particles.images(slice(1, 2)), stacks[:1] + 5)
    inside = ["1@stack.mrcs", f"1@{tmp_path}/more/stack.mrcs", "2@more/../stack.mrcs"]
    assert len(read_particles(star({"rlnImageName": inside}))) == 3


def test_a_single_image_needs_no_number(star, stacks, tmp_path, write_stack):
    write_stack(tmp_path / "one.mrc", stacks[1])
    particles = read_particles(star({"rlnImageName": ["one.mrc", "1@stack.mrcs", "one.mrc"]}))
    np.testing.assert_array_equal(particles.images(slice(None)), stacks[[1, 0, 1]])


def test_a_stack_without_the_mark_of_the_format_is_read(star, stacks, tmp_path):
    with (tmp_path / "stack.mrcs").open("r+b") as handle:
        handle.seek(208)  # 'MAP ' and the machine stamp, which some programs leave out
        handle.write(bytes(8))
    np.testing.assert_array_equal(read_particles(star()).images(slice(None)), stacks[[1, 2, 0]])


@pytest.mark.parametrize("dtype", [">f4", "<i2", "<f2", "<u2", "<i1"])
def test_other_number_types_and_an_extended_header_are_read(dtype, star, stacks, tmp_path):
    images = (10 * stacks[:2]).round().clip(0).astype(dtype)
    with mrcfile.new(tmp_path / "stack.mrcs", overwrite=True) as handle:
        handle.set_data(images)
        handle.set_image_stack()
        handle.set_extended_header(np.zeros(130, dtype="V1"))
    particles = read_particles(star())
    np.testing.assert_array_equal(particles.images(slice(None)), [images[1], stacks[2], images[0]])


@pytest.mark.parametrize("flag", [0, 1])
def test_the_flag_of_flipped_phases_is_read_and_written(flag, star, tmp_path):
    particles = read_particles(star(optics={"rlnCtfDataArePhaseFlipped": [flag]}))
    assert particles.phase_flipped is bool(flag)
    write_star(tmp_path / "again.star", particles)
    assert read_particles(tmp_path / "again.star").phase_flipped is bool(flag)


def test_flipped_phases_of_some_particles_are_refused(star):
    with refused("particles.star", row=3, value=1):
        read_particles(star({"rlnCtfDataArePhaseFlipped": [0, 0, 1]}))


def test_a_corrected_file_is_read_anew_after_it_failed(star):
    """starfile reads lines through a cache, and leaves them there when it fails."""
    path = star()
    sound = path.read_text()
    path.write_text(sound.replace("_rlnAngleTilt", "_rlnAngleRot").replace(" 80.0 ", " 80.0 1 2 "))
    with pytest.raises(InputError):
        read_particles(path)
    path.write_text(sound)
    assert len(read_particles(path)) == 3


def test_a_stack_that_is_written_anew_is_read_anew(star, stacks, tmp_path, write_stack):
    path = star()
    read_particles(path).images(slice(None))
    write_stack(tmp_path / "new.mrcs", stacks[:2] + 1)
    (tmp_path / "new.mrcs").replace(tmp_path / "stack.mrcs")
    np.testing.assert_array_equal(read_particles(path).images(np.array([2])), stacks[:1] + 1)


# Writing


def make_particles(folder, count, rng, ctf, stack="stack.mrcs"):
    return Particles(
        source=folder / "source.star",
        stacks=(folder / stack,),
        stack_of=np.zeros(count, dtype=np.int64),
        image_in_stack=rng.permutation(count),
        box_size=8,
        pixel_size=1.37,
        rotations=torch.from_numpy(random_rotations(count, rng)),
        shifts=torch.from_numpy(rng.uniform(-9, 9, (count, 2))),
        ctf=ctf,
    )


@pytest.mark.parametrize(
    "voltages", [[300.0] * 4, [300.0, 200.0, 300.0, 120.0]], ids=["one microscope", "several"]
)
@pytest.mark.parametrize("folder", ["", "elsewhere"], ids=["beside its stack", "elsewhere"])
def test_particles_come_back_from_their_star_file(
    voltages, folder, tmp_path, rng, microscope, write_stack
):
    defocus = rng.uniform(5_000, 30_000, (2, 4))
    ctf = microscope(
        defocus_u=defocus[0],
        defocus_v=defocus[1],
        defocus_angle_deg=rng.uniform(-90, 90, 4),
        voltage_kv=voltages,
        phase_shift_deg=rng.uniform(0, 90, 4),
        b_factor=rng.uniform(0, 99, 4),
    )
    particles = make_particles(tmp_path, 4, rng, ctf)
    write_stack(particles.stacks[0], rng.standard_normal((4, 8, 8)))
    path = tmp_path / folder / "written.star"
    write_star(path, particles)
    read = read_particles(path, Reading(allow_outside=folder != ""))
    assert path.read_text().count("\nopticsGroup") == len(set(voltages))

    assert read.pixel_size == pytest.approx(particles.pixel_size)
    assert read.image_in_stack.tolist() == particles.image_in_stack.tolist()
    np.testing.assert_array_equal(read.images(slice(None)), particles.images(slice(None)))
    np.testing.assert_allclose(read.rotations, particles.rotations, atol=1e-7)
    np.testing.assert_allclose(read.shifts, particles.shifts, atol=1e-7)
    for field in CTF_FIELDS:
        np.testing.assert_allclose(
            getattr(read.ctf, field), getattr(particles.ctf, field), rtol=1e-8, err_msg=field
        )


def test_particles_without_a_ctf_cannot_be_written(tmp_path, rng):
    with refused("out.star"):
        write_star(tmp_path / "out.star", make_particles(tmp_path, 2, rng, None))


# Errors carry the file, the particle and the value; `bad_inputs` has their wording


@pytest.mark.parametrize("column", ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"])
def test_a_missing_angle_is_named(column, star):
    with refused("particles.star", value=column):
        read_particles(star({column: None}))


@pytest.mark.parametrize(
    "column",
    [name for name in CTF_FIELDS.values() if name not in ("rlnPhaseShift", "rlnCtfBfactor")],
)
def test_a_missing_ctf_column_is_named(column, star):
    with refused("particles.star", value=column):
        read_particles(star({column: None}, {column: None}))


def test_a_stack_shorter_than_its_star_file_is_named(star):
    names = ["000002@stack.mrcs", "000009@stack.mrcs", "000001@stack.mrcs"]
    with refused("particles.star", row=2, value=9):
        read_particles(star({"rlnImageName": names}))


def test_an_oblong_image_is_refused(star, tmp_path, write_stack):
    path = star()
    write_stack(tmp_path / "stack.mrcs", np.zeros((2, 8, 9)))
    with refused("stack.mrcs", value=(2, 8, 9)):
        read_particles(path)


def test_mixed_boxes_are_refused(star, tmp_path, write_stack):
    path = star()
    write_stack(tmp_path / "more" / "stack.mrcs", np.zeros((1, 9, 9)))
    with refused("particles.star", row=2, value=9):
        read_particles(path)


def test_a_missing_stack_is_named(star, tmp_path):
    path = star()
    (tmp_path / "more" / "stack.mrcs").unlink()
    with refused("particles.star", row=2, value="more/stack.mrcs"):
        read_particles(path)


def test_a_cut_stack_is_named(star, tmp_path):
    path = star()
    content = (tmp_path / "stack.mrcs").read_bytes()
    (tmp_path / "stack.mrcs").write_bytes(content[:-100])
    with refused("stack.mrcs", value=len(content) - 100):
        read_particles(path)


def test_a_file_that_is_no_stack_is_named(star, tmp_path):
    path = star()
    (tmp_path / "stack.mrcs").write_text("no image")
    with refused("stack.mrcs", value=8):
        read_particles(path)


def test_a_missing_star_file_is_named(tmp_path):
    with refused("absent.star"):
        read_particles(tmp_path / "absent.star")


@pytest.mark.parametrize(
    "content", ["", "no star\n", "data_x\n\nloop_\n_rlnVoltage\n300\n", "\x00\xff\x00"]
)
def test_a_file_without_particles_is_named(content, tmp_path):
    (tmp_path / "odd.star").write_text(content, encoding="latin-1")
    with refused("odd.star"):
        read_particles(tmp_path / "odd.star")


NUMBER_COLUMNS = pytest.mark.parametrize(
    "column", ["rlnAngleTilt", "rlnOriginYAngst", "rlnDefocusU"]
)


@NUMBER_COLUMNS
def test_text_in_a_column_of_numbers_is_named(column, star):
    with refused("particles.star", row=2, value="abc") as caught:
        read_particles(star({column: [1.0, "abc", 2.0]}))
    assert column in caught.value.problem


@NUMBER_COLUMNS
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_number_that_is_not_finite_is_named(column, value, star):
    with refused("particles.star", row=2, value=float(value)) as caught:
        read_particles(star({column: [1.0, value, 2.0]}))
    assert column in caught.value.problem


def test_an_unknown_optics_group_is_named(star):
    with refused("particles.star", row=3, value=4):
        read_particles(star({"rlnOpticsGroup": [1, 1, 4]}))


def test_a_particle_table_without_optics_groups_is_named(star):
    with refused("particles.star", value="rlnOpticsGroup"):
        read_particles(star({"rlnOpticsGroup": None}))


@pytest.mark.parametrize("name", ["0@stack.mrcs", "-1@stack.mrcs", "x@stack.mrcs", "@stack.mrcs"])
def test_a_bad_image_name_is_named(name, star):
    with refused("particles.star", row=2, value=name):
        read_particles(star({"rlnImageName": ["1@stack.mrcs", name, "2@stack.mrcs"]}))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("rlnVoltage", 0.0),
        ("rlnVoltage", -300.0),
        ("rlnAmplitudeContrast", 10.0),
        ("rlnImagePixelSize", 0.0),
        ("rlnImagePixelSize", -1.0),
    ],
)
def test_an_impossible_value_of_the_microscope_is_named(column, value, star):
    with refused("particles.star", row=1, value=value):
        read_particles(star(optics={column: [value]}))


def test_pixel_sizes_that_are_far_apart_are_refused(star):
    optics = {name: values * 2 for name, values in optics_columns().items()}
    optics |= {"rlnOpticsGroup": [1, 2], "rlnImagePixelSize": [1.25, 1.32]}
    with refused("particles.star", row=2, value=1.32):
        read_particles(star({"rlnOpticsGroup": [1, 2, 1]}, optics))


def test_a_magnification_of_zero_is_refused(star):
    columns = one_table(rlnMagnification=[50_000.0, 0.0, 50_000.0])
    with refused("particles.star", row=2, value=0.0):
        read_particles(star(columns, order=("particles",)))


def test_without_any_pixel_size_the_remedy_is_named(star):
    with refused("particles.star") as caught:
        read_particles(star(optics={"rlnImagePixelSize": None}))
    assert "--pixel-size" in caught.value.remedy


# What training reads


@pytest.fixture
def noisy(tmp_path, rng, star, write_stack):
    """Write images into the two stacks of the STAR file, and read its particles."""

    def write(images):
        write_stack(tmp_path / "stack.mrcs", images[[2, 0]])
        write_stack(tmp_path / "more" / "stack.mrcs", images[[1]])
        return read_particles(star())

    return write


@pytest.fixture
def big_star(tmp_path, write_stack, write_table):
    """Read these images as particles with these shifts, in pixels of 1.5 Å."""

    def write(images, shifts=None):
        count = len(images)
        shifts = np.zeros((count, 2)) if shifts is None else shifts
        write_stack(tmp_path / "big.mrcs", images)
        columns = {name: [0.0] * count for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")}
        columns |= {
            "rlnImageName": [f"{i + 1}@big.mrcs" for i in range(count)],
            "rlnImagePixelSize": [1.5] * count,
        }
        columns |= {"rlnOriginXAngst": -1.5 * shifts[:, 0], "rlnOriginYAngst": -1.5 * shifts[:, 1]}
        for name, value in {"DefocusU": 1e4, "DefocusV": 1e4, "DefocusAngle": 0.0}.items():
            columns[f"rln{name}"] = [value] * count
        for name, value in {"Voltage": 300, "SphericalAberration": 2.7}.items():
            columns[f"rln{name}"] = [value] * count
        columns["rlnAmplitudeContrast"] = [0.1] * count
        return read_particles(write_table(tmp_path / "big.star", {"": columns}))

    return write


def test_white_noise_of_any_strength_becomes_noise_of_unit_variance(big_star, rng):
    images = rng.standard_normal((200, 32, 32)) * rng.uniform(0.1, 50, (200, 1, 1)) + 7
    vectors = load_band_vectors(big_star(images), Band(32, 1.5, 3.0))
    assert float(vectors.var()) == pytest.approx(1, abs=0.03)
    assert float(vectors.mean()) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("box_size", [32, 33])
def test_particles_are_moved_to_the_centre_and_scaled_by_their_background(box_size, big_star, rng):
    shifts = np.array([[3.0, -2.0], [-4.5, 0.25]])
    nodes = (
        torch.tensor([[0.0, 0.0, 0.0], [6.0, 1.5, 0.0]]),
        torch.tensor([9.0, 4.0]),
        torch.tensor(2.5),
    )

    def image(shift):
        positions = nodes[0] + 1.5 * torch.tensor([*shift, 0.0]).float()
        return project_real(positions, *nodes[1:], box_size=box_size, pixel_size=1.5).numpy()

    noise = 1e-4 * rng.standard_normal((2, box_size, box_size))
    images = np.stack([image(shift) for shift in shifts]) + noise
    band = Band(box_size, 1.5, 3.0)
    vectors = load_band_vectors(big_star(images, shifts), band)
    centred = band.encode(torch.from_numpy(image([0.0, 0.0])))
    axis = np.arange(box_size) - box_size // 2
    outside = axis**2 + axis[:, None] ** 2 > (box_size / 2) ** 2
    for vector, raw in zip(vectors, images, strict=True):
        expected = centred / raw[outside].std(ddof=1)
        assert (vector - expected).norm() < 0.02 * expected.norm()


def test_inverting_changes_the_sign_alone(big_star, rng):
    particles, band = big_star(rng.standard_normal((3, 16, 16))), Band(16, 1.5, 3.0)
    assert torch.equal(
        load_band_vectors(particles, band, invert=True), -load_band_vectors(particles, band)
    )


def test_it_does_not_matter_how_many_are_read_at_once(big_star, rng, monkeypatch):
    particles, band = (
        big_star(rng.standard_normal((7, 16, 16)), rng.uniform(-3, 3, (7, 2))),
        Band(16, 1.5, 3.0),
    )
    together = load_band_vectors(particles, band)
    monkeypatch.setattr("cryostar_nb.io.vectors.PIXELS_AT_ONCE", 3 * 16**2)
    assert torch.allclose(load_band_vectors(particles, band), together, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pixel_that_is_not_finite_is_named(value, noisy, rng, monkeypatch):
    monkeypatch.setattr("cryostar_nb.io.vectors.PIXELS_AT_ONCE", 1)
    images = rng.standard_normal((3, 8, 8))
    images[1, 4, 4] = value
    with refused("particles.star", row=2, value=value) as caught:
        load_band_vectors(noisy(images), Band(8, 1.25, 2.5))
    assert "more/stack.mrcs" in caught.value.problem


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
def test_an_image_without_contrast_is_named(value, noisy, rng):
    images = rng.standard_normal((3, 8, 8))
    images[2] = value
    with refused("particles.star", row=3):
        load_band_vectors(noisy(images), Band(8, 1.25, 2.5))
