"""Particles in two populations, and under the poses and CTFs of a STAR file."""

import dataclasses

import numpy as np
import pytest
import starfile
import torch
from refusals import ANY, refused

from cryostar_nb.fourier import Band, shift_band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.star import read_poses, write_star
from cryostar_nb.io.structures import write_structure
from cryostar_nb.io.vectors import load_band_vectors
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import draw_poses, draw_states, new_particles, simulate


def config(**changes):
    values = {
        "n_particles": 20,
        "box_size": 32,
        "pixel_size": 3.0,
        "states": 5,
        "resolution": 6.0,
        "snr": 1e9,
    }
    return SimulationConfig(**values | changes)


@pytest.fixture
def model(helix_nodes, tmp_path):
    write_structure(tmp_path / "helix.pdb", helix_nodes)
    return {"start": tmp_path / "helix.pdb", "end": tmp_path / "helix.pdb"}


@pytest.fixture
def given(tmp_path, rng):
    """Write 25 particles with shifts and astigmatism; their images do not exist."""

    def write(shifts=None):
        source = tmp_path / "given.star"
        settings = config(n_particles=25)
        poses = draw_poses(settings, np.random.default_rng(1))
        particles = new_particles(settings, source, poses)
        ctf = dataclasses.replace(
            particles.ctf,
            defocus_v=particles.ctf.defocus_u - 500,
            defocus_angle_deg=torch.arange(25).double(),
        )
        shifts = torch.from_numpy(5 * rng.uniform(-1, 1, (25, 2))) if shifts is None else shifts
        write_star(source, dataclasses.replace(particles, shifts=shifts, ctf=ctf))
        return source

    return write


def test_two_populations_lie_about_20_and_80_percent_of_the_path():
    settings = config(n_particles=20_000, states=101, populations="two")
    state = draw_states(settings, np.random.default_rng(0))
    low, high = state[state < 50], state[state > 50]
    assert abs(len(low) - len(high)) < 50
    for side, centre in ((low, 20), (high, 80)):
        assert side.mean() == pytest.approx(centre, abs=0.3)
        assert side.std() == pytest.approx(7, abs=0.3)
    assert state.min() >= 0 and state.max() <= 100
    np.testing.assert_array_equal(state, draw_states(settings, np.random.default_rng(0)))
    assert set(draw_states(config(states=1, populations="two"), np.random.default_rng(0))) == {0}


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_first_of_two_populations_has_the_share_that_is_asked_for(share):
    settings = config(n_particles=1000, states=101, populations="two", first_share=share)
    drawn = draw_states(settings, np.random.default_rng(0))
    assert np.mean(drawn < 50) == share
    assert np.mean(drawn[:500] < 50) == pytest.approx(share, abs=0.07)  # in random order


def test_uniform_draws_come_in_the_old_order(model, tmp_path):
    settings = config(seed=3)
    simulate(settings, **model, out=tmp_path / "out")
    rng = np.random.default_rng(3)
    rotations, defocus = random_rotations(20, rng), 1e4 * rng.lognormal(1.0, 0.3, 20)
    particles = read_particles(tmp_path / "out" / "particles.star")
    np.testing.assert_allclose(particles.rotations, rotations, atol=1e-7)
    np.testing.assert_allclose(particles.ctf.defocus_u, defocus, rtol=1e-8)
    np.testing.assert_array_equal(
        np.load(tmp_path / "out" / "truth.npz")["state"], rng.permutation(np.arange(20) % 5)
    )


def test_poses_are_those_of_the_first_rows(given, model, tmp_path):
    poses = read_poses(given())
    simulate(config(), **model, out=tmp_path / "out", poses=tmp_path / "given.star")
    made = read_particles(tmp_path / "out" / "particles.star")
    assert (len(poses), len(made)) == (25, 20)
    torch.testing.assert_close(made.rotations, poses.rotations[:20], atol=1e-7, rtol=0)
    torch.testing.assert_close(made.shifts, poses.shifts[:20], atol=1e-7, rtol=0)
    for field in dataclasses.fields(made.ctf)[:-1]:  # without aberrations
        torch.testing.assert_close(
            getattr(made.ctf, field.name), getattr(poses.ctf, field.name)[:20], rtol=1e-8, atol=1e-8
        )


def test_an_image_with_a_shift_is_the_shifted_image(given, model, tmp_path):
    shifts = torch.tensor([[9.0, -6.0]], dtype=torch.float64).repeat(
        25, 1
    )  # +3 pixels in x, -2 in y
    images = []
    for name, values in (("still", torch.zeros(25, 2).double()), ("moved", shifts)):
        simulate(config(), **model, out=tmp_path / name, poses=given(values))
        images.append(
            read_particles(tmp_path / name / "particles.star").images(slice(None)).double()
        )
    still, moved = images
    scale = still.abs().max()
    assert (moved - torch.roll(still, (-2, 3), dims=(1, 2))).abs().max() < 1e-3 * scale
    band = Band(32, 3.0, 6.0)
    assert (
        moved - band.decode(shift_band(band.encode(still), shifts[:20], band))
    ).abs().max() < 1e-2 * scale


def test_poses_that_cannot_serve_are_refused(given, model, tmp_path):
    far = torch.zeros(25, 2).double()
    far[7, 1] = -40.0
    for settings, source, row, value in (
        (config(n_particles=26), given(), None, 25),
        (config(), given(far), 8, 40.0),
        (config(), tmp_path / "absent.star", None, ANY),
    ):
        with refused(source.name, row=row, value=value):
            simulate(settings, **model, out=tmp_path / "out", poses=source)
    assert not (tmp_path / "out").exists()


def test_aberrations_of_given_poses_are_in_the_images(given, model, tmp_path):
    """Read with them the images are those of a perfect microscope, but for pixels and CTF."""
    centred = torch.zeros(25, 2, dtype=torch.float64)
    star = given(centred)
    tables = starfile.read(star, always_dict=True)
    tables["optics"]["rlnBeamTiltX"], tables["optics"]["rlnBeamTiltY"] = 6.0, -8.0
    starfile.write(tables, star)
    simulate(config(snr=1e6), **model, out=tmp_path / "tilted", poses=star)
    made = read_particles(tmp_path / "tilted" / "particles.star")
    assert made.aberrations is not None and made.aberrations.odd.abs().max() > 1
    simulate(config(snr=1e6), **model, out=tmp_path / "plain", poses=given(centred))
    plain = read_particles(tmp_path / "plain" / "particles.star")
    band = Band(made.box_size, made.pixel_size, 2.5 * made.pixel_size)
    seen, expected = (
        torch.nn.functional.normalize(load_band_vectors(particles, band), dim=1)
        for particles in (made, plain)
    )
    assert (seen * expected).sum(1).min() > 0.999
    ignored = dataclasses.replace(made, ctf=plain.ctf)
    ignored = torch.nn.functional.normalize(load_band_vectors(ignored, band), dim=1)
    assert (ignored * expected).sum(1).mean() < 0.99
