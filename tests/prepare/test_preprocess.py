"""A new stack from an old one: each operation against its law, and poses that stay true."""

import dataclasses

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from refusals import refused

from cryostar_nb.cli import parse
from cryostar_nb.ctf import contrast_transfer_function
from cryostar_nb.fourier import (
    Band,
    centred_fft,
    centred_ifft,
    fourier_crop,
    frequency_grid,
    shift_images,
)
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.options import Reading
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.star import write_star
from cryostar_nb.prepare import preprocess as module
from cryostar_nb.prepare.options import Preprocessing
from cryostar_nb.prepare.preprocess import preprocess, soft_step
from cryostar_nb.projector import project_real, rotate

BOX, PIXEL, COUNT = 24, 1.5, 10


@pytest.fixture
def particles(tmp_path, rng, write_stack, microscope):
    """Ten particles of noise with their metadata, in a folder of their own."""
    (tmp_path / "in").mkdir()
    images = 3 + 0.5 * rng.standard_normal((COUNT, BOX, BOX))
    made = Particles(
        source=tmp_path / "in" / "particles.star",
        stacks=(write_stack(tmp_path / "in" / "stack.mrcs", images),),
        stack_of=np.zeros(COUNT, dtype=np.int64),
        image_in_stack=rng.permutation(COUNT),
        box_size=BOX,
        pixel_size=PIXEL,
        rotations=torch.from_numpy(random_rotations(COUNT, rng)),
        shifts=torch.from_numpy(rng.uniform(-3, 3, (COUNT, 2))),
        ctf=microscope(
            defocus_u=rng.uniform(8e3, 2e4, COUNT), defocus_v=rng.uniform(8e3, 2e4, COUNT)
        ),
    )
    write_star(made.source, made)
    return made


def images_of(particles):
    return particles.images(slice(None))


NOTHING = Preprocessing(normalise=False)


def test_without_any_operation_the_images_stay_and_come_in_order(particles, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 3 * BOX**2)
    made = preprocess(particles, tmp_path / "out", NOTHING)
    assert torch.equal(images_of(made), images_of(particles))
    again = read_particles(tmp_path / "out" / "particles.star")
    assert torch.equal(images_of(again), images_of(particles))
    np.testing.assert_allclose(again.rotations, particles.rotations, atol=1e-7)
    np.testing.assert_allclose(again.shifts, particles.shifts, atol=1e-7)
    np.testing.assert_allclose(again.ctf.defocus_u, particles.ctf.defocus_u, rtol=1e-8)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "particles.mrcs",
        "particles.star",
    ]


@pytest.mark.parametrize(("old", "new"), [(48, 24), (48, 25), (49, 24), (49, 25), (48, 48)])
def test_cropping_gives_the_same_nodes_on_larger_pixels(old, new, asymmetric):
    positions, amplitudes = asymmetric
    sigma = torch.full((5,), 3.0, dtype=torch.float64)  # wide enough for the larger pixels
    before = project_real(positions, amplitudes, sigma, box_size=old, pixel_size=1.0)
    after = project_real(positions, amplitudes, sigma, box_size=new, pixel_size=old / new)
    assert (fourier_crop(before[None], new, 2)[0] - after).abs().max() < 2e-3 * after.max()


def test_poses_and_ctf_stay_true_of_cropped_images(
    asymmetric, microscope, tmp_path, write_stack, rng
):
    positions, amplitudes = asymmetric
    rotations = torch.from_numpy(random_rotations(3, rng))
    shifts = torch.from_numpy(rng.uniform(-4, 4, (3, 2)))
    ctf = microscope(defocus_u=[9e3, 1.2e4, 2e4], defocus_v=[9e3, 1.0e4, 2e4])
    sigma = torch.full((5,), 4.0, dtype=torch.float64)

    def make(box_size, pixel_size):
        views = rotate(positions, rotations)
        clean = project_real(views, amplitudes, sigma, box_size=box_size, pixel_size=pixel_size)
        shifted = shift_images(clean, shifts, pixel_size=pixel_size)
        factors = contrast_transfer_function(frequency_grid(box_size, pixel_size), ctf)
        return centred_ifft(centred_fft(shifted, 2) * factors, 2)

    made = Particles(
        source=tmp_path / "x.star",
        stacks=(write_stack(tmp_path / "x.mrcs", make(64, 1.0).numpy()),),
        stack_of=np.zeros(3, dtype=np.int64),
        image_in_stack=np.arange(3),
        box_size=64,
        pixel_size=1.0,
        rotations=rotations,
        shifts=shifts,
        ctf=ctf,
    )
    cropped = preprocess(made, tmp_path / "out", Preprocessing(box_size=32, normalise=False))
    expected = make(32, 2.0)
    assert (cropped.box_size, cropped.pixel_size) == (32, 2.0)
    difference = images_of(cropped).double() - expected
    assert difference.square().sum() < 1e-4 * expected.square().sum()
    assert torch.equal(cropped.shifts, shifts)


def test_a_low_pass_keeps_what_is_coarser_and_removes_what_is_finer(particles, tmp_path):
    made = images_of(
        preprocess(particles, tmp_path / "out", dataclasses.replace(NOTHING, low_pass=6.0))
    ).double()
    before, after = centred_fft(images_of(particles).double(), 2), centred_fft(made, 2)
    frequency = frequency_grid(BOX, PIXEL).norm(dim=-1)
    kept, gone = frequency <= 1 / 6, frequency >= 1 / 6 + 2 / (BOX * PIXEL)
    assert (after - before)[:, kept].abs().max() < 1e-3
    assert after[:, gone].abs().max() < 1e-3 < before[:, gone].abs().max()


def test_inverting_changes_the_sign_alone(particles, tmp_path):
    assert torch.equal(
        images_of(
            preprocess(particles, tmp_path / "out", dataclasses.replace(NOTHING, invert=True))
        ),
        -images_of(particles),
    )


@pytest.mark.parametrize(
    ("config", "box_size"),
    [({}, BOX), ({"box_size": 16}, 16), ({"low_pass": 5.0, "background_radius": 12.0}, BOX)],
)
def test_the_background_of_what_is_written_has_mean_zero_and_deviation_one(
    config, box_size, particles, tmp_path
):
    made = preprocess(particles, tmp_path / "out", Preprocessing(**config))
    pixel = BOX * PIXEL / box_size
    axis = (np.arange(box_size) - box_size // 2) * pixel
    outside = np.hypot(axis, axis[:, None]) > config.get("background_radius", BOX * PIXEL / 2)
    background = images_of(made).numpy()[:, outside].astype(np.float64)
    np.testing.assert_allclose(background.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(background.std(axis=1, ddof=1), 1, atol=1e-5)


def test_a_mask_leaves_the_inside_and_fades_to_nothing(particles, tmp_path):
    config = dataclasses.replace(NOTHING, mask_radius=9.0, mask_edge=6.0)
    made, before = images_of(preprocess(particles, tmp_path / "out", config)), images_of(particles)
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    distance = torch.from_numpy(np.hypot(axis, axis[:, None]))
    assert torch.equal(made[:, distance <= 9], before[:, distance <= 9])
    assert made[:, distance >= 15].abs().max() < 1e-6
    half = distance == 12.0  # where the edge is half way
    assert half.any() and torch.allclose(made[:, half], before[:, half] / 2)


def test_the_step_is_flat_on_both_sides_and_falls_between():
    values = soft_step(torch.linspace(0, 10, 1001, dtype=torch.float64), 4, 3)
    assert (
        (values[:401] == 1).all()
        and values[700:].abs().max() < 1e-12
        and (values.diff() <= 0).all()
    )


def test_flipped_phases_are_flipped_back(particles, tmp_path, write_stack):
    band = Band(BOX, PIXEL, 2.1 * PIXEL)  # without Nyquist, whose phase a real image cannot hold
    plain = band.decode(band.encode(images_of(particles).double()))
    signs = contrast_transfer_function(frequency_grid(BOX, PIXEL), particles.ctf).sign()
    write_stack(particles.stacks[0], centred_ifft(centred_fft(plain, 2) * signs, 2).numpy())
    flipped = dataclasses.replace(particles, image_in_stack=np.arange(COUNT), phase_flipped=True)
    made = preprocess(flipped, tmp_path / "out", NOTHING)
    assert (
        not made.phase_flipped
        and "PhaseFlipped" not in (tmp_path / "out" / "particles.star").read_text()
    )
    torch.testing.assert_close(images_of(made).double(), plain, atol=1e-5, rtol=0)
    assert (images_of(flipped).double() - plain).abs().max() > 0.1


def test_columns_that_are_still_true_are_carried_over(particles, tmp_path):
    tables = starfile.read(particles.source)
    tables["particles"]["rlnRandomSubset"] = [1, 2] * 5
    tables["particles"]["rlnMicrographName"] = [f"m{i}.mrc" for i in range(COUNT)]
    tables["particles"]["rlnOriginX"] = 1.0  # in pixels that are no more
    starfile.write(tables, particles.source, float_format="%.12g")
    np.save(tmp_path / "chosen.npy", [7, 2])
    parse(
        [
            "preprocess",
            str(particles.source),
            "--out",
            f"{tmp_path}/out",
            "--box-size",
            "12",
            "--indices",
            f"{tmp_path}/chosen.npy",
        ]
    ).run()
    written = starfile.read(tmp_path / "out" / "particles.star")
    assert written["particles"]["rlnRandomSubset"].tolist() == [2, 1]
    assert written["particles"]["rlnMicrographName"].tolist() == ["m7.mrc", "m2.mrc"]
    assert "rlnOriginX" not in written["particles"]
    assert (written["optics"]["rlnImageSize"][0], written["optics"]["rlnImagePixelSize"][0]) == (
        12,
        3.0,
    )
    np.testing.assert_allclose(
        read_particles(tmp_path / "out" / "particles.star").shifts,
        particles.shifts[[7, 2]],
        atol=1e-6,
    )


def test_the_same_command_gives_the_same_bytes(particles, tmp_path):
    for name in ("a", "b"):
        preprocess(particles, tmp_path / name, Preprocessing(box_size=16))
    for name in ("particles.mrcs", "particles.star"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with mrcfile.open(tmp_path / "a" / "particles.mrcs") as handle:
        assert handle.is_image_stack() and float(handle.voxel_size.x) == 2.25


def test_a_failure_half_way_leaves_nothing(particles, tmp_path, write_stack, monkeypatch):
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 2 * BOX**2)
    images = images_of(particles).numpy()
    images[6, 3, 3] = np.nan
    write_stack(particles.stacks[0], images)
    particles = dataclasses.replace(particles, image_in_stack=np.arange(COUNT))
    with refused("particles.star", row=7, value=np.nan):
        preprocess(particles, tmp_path / "out", Preprocessing())
    assert list((tmp_path / "out").iterdir()) == []


def test_an_image_without_contrast_is_named(particles, tmp_path, write_stack):
    images = images_of(particles).numpy()
    images[2] = 1.25
    write_stack(particles.stacks[0], images)
    row = int(np.flatnonzero(particles.image_in_stack == 2)[0])
    with refused("particles.star", row=row + 1) as caught:
        preprocess(particles, tmp_path / "out", Preprocessing())
    assert "(image 3@" in caught.value.problem and caught.value.value == pytest.approx(1.25)


def test_the_input_is_never_overwritten(particles):
    (particles.source.parent / "stack.mrcs").rename(particles.source.parent / "particles.mrcs")
    moved = dataclasses.replace(particles, stacks=(particles.source.parent / "particles.mrcs",))
    before = moved.stacks[0].read_bytes()
    with refused("in"):
        preprocess(moved, particles.source.parent, Preprocessing())
    assert moved.stacks[0].read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"box_size": 0}, {"low_pass": -3.0}, {"mask_edge": 0.0}, {"mask_radius": 0.0}]
)
def test_impossible_settings_are_refused(change):
    with refused(value=next(iter(change.values()))):
        Preprocessing(**change)


@pytest.mark.parametrize("change", [{"box_size": BOX + 1}, {"background_radius": 99.0}])
def test_settings_that_do_not_fit_the_images_are_refused(change, particles, tmp_path):
    with refused("particles.star", value=next(iter(change.values()))):
        preprocess(particles, tmp_path / "out", Preprocessing(**change))
    assert not (tmp_path / "out").exists()


def test_flags_reach_the_reader(particles, tmp_path):
    command = parse(
        [
            "preprocess",
            "x.mrcs",
            "--out",
            "o",
            "--poses-pkl",
            "p.pkl",
            "--phase-flipped",
            "--low-pass",
            "8",
            "--no-normalise",
        ]
    )
    assert command.reading == Reading(poses_pkl=command.reading.poses_pkl, phase_flipped=True)
    assert (command.config.low_pass, command.config.normalise) == (8.0, False)
