"""Pixel sizes, magnification and aberrations, against formulas that are written out anew."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from cryostar_nb.aberrations import (
    EVEN_ZERNIKE,
    ODD_ZERNIKE,
    Aberrations,
    coma,
    tetrafoil,
    to_zernike,
    trefoil,
)
from cryostar_nb.ctf import contrast_transfer_function, ctf_terms, electron_wavelength
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.cryosparc import write_cs
from cryostar_nb.io.cryosparc import write_table as write_cs_table
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.star import write_star
from cryostar_nb.io.vectors import load_band_vectors
from cryostar_nb.projector import make_images

BAND = Band(32, 1.25, 3.0)
COUNT = 5


def zernike(m, n, kx, ky):
    """Z_n^m from the sum over factorials (Born & Wolf 1999, 9.2.1), in polar coordinates."""
    rho, phi, order = np.hypot(kx, ky), np.arctan2(ky, kx), abs(m)
    radial = sum(
        (-1) ** s
        * math.factorial(n - s)
        / math.factorial(s)
        / math.factorial((n + order) // 2 - s)
        / math.factorial((n - order) // 2 - s)
        * rho ** (n - 2 * s)
        for s in range((n - order) // 2 + 1)
    )
    return radial * (np.cos(m * phi) if m >= 0 else np.sin(order * phi))


def orders(parity, highest):
    """(m, n) in RELION's order: by n, and from the lowest m to the highest."""
    return [(m, n) for n in range(parity, highest + 1, 2) for m in range(-n, n + 1, 2)]


@pytest.fixture
def drawn(rng):
    """Aberrations of the size that microscopes have, at random."""

    def normal(*shape):
        return torch.from_numpy(rng.standard_normal((COUNT, *shape)))

    even = 3 * normal(9) * torch.tensor([0.1] + [10.0] * 3 + [300.0] * 5)
    return Aberrations(
        scale=1 + 0.01 * normal(),
        magnification=torch.eye(2, dtype=torch.float64) + 0.01 * normal(2, 2),
        even=even,
        odd=normal(6) * torch.tensor([1.0, 1.0, 50.0, 50.0, 50.0, 50.0]),
        multiplied=torch.zeros(COUNT, dtype=torch.float64),
    )


@pytest.fixture
def molecule(rng):
    """Positions, amplitudes and the width of some Gaussians, and rotations."""
    positions = torch.from_numpy(6 * rng.standard_normal((40, 3)))
    amplitudes = torch.from_numpy(rng.uniform(1, 9, 40))
    rotations = random_rotations(COUNT, rng)
    return positions, amplitudes, torch.tensor(1.3, dtype=torch.float64), torch.tensor(rotations)


def transforms(molecule, places):
    """The Fourier transforms of the rotated molecule at places (particle, frequency, 2), 1/Å."""
    positions, amplitudes, sigma, rotations = (np.asarray(part) for part in molecule)
    seen = positions @ np.swapaxes(rotations, 1, 2)
    waves = np.exp(-2j * math.pi * np.einsum("pfc,pac->pfa", places, seen[..., :2]))
    envelope = np.exp(-2 * (math.pi * sigma) ** 2 * (places**2).sum(-1))
    return envelope * (waves @ amplitudes) * math.sqrt(2) / (32 * 1.25**2)


def as_vectors(values):
    return torch.from_numpy(np.concatenate([values.real, values.imag], axis=-1))


def places_of(aberrations):
    """The molecule's frequency at each of the band's, for each particle."""
    matrix = aberrations.scale[:, None, None] * aberrations.magnification
    return np.einsum("pij,fj->pfi", matrix.numpy(), BAND.frequencies.numpy())


@pytest.mark.parametrize(
    ("matrix", "parity", "highest"), [(EVEN_ZERNIKE, 0, 4), (ODD_ZERNIKE, 1, 3)]
)
def test_matrices_are_zernike_polynomials_in_the_order_of_relion(matrix, parity, highest, rng):
    powers = [(i, n - i) for n in range(parity, highest + 1, 2) for i in range(n, -1, -1)]
    kx, ky = 0.3 * rng.standard_normal((2, 50))
    monomials = np.stack([kx**i * ky**j for i, j in powers])
    expected = np.stack([zernike(m, n, kx, ky) for m, n in orders(parity, highest)])
    np.testing.assert_allclose(matrix @ monomials, expected, atol=1e-12)
    coefficients = rng.standard_normal((3, len(matrix)))
    np.testing.assert_allclose(to_zernike(coefficients @ matrix, matrix), coefficients, atol=1e-12)


def test_a_beam_tilt_is_relions_zernike_coefficients():
    """RELION adds -2/3 and -1/3 of 2 pi Cs lambda^2 tilt to Z(1, 1) and Z(1, 3)."""
    cs, tilt, wavelength = 2.7e7, 0.4e-3, float(electron_wavelength(torch.tensor(300.0).double()))
    whole = 2 * math.pi * cs * wavelength**2 * tilt
    found = to_zernike(coma(np.array([[cs * tilt, 0.0]]), np.array([wavelength])), ODD_ZERNIKE)
    np.testing.assert_allclose(found, [[0, -2 / 3 * whole, 0, 0, -whole / 3, 0]], atol=1e-9 * whole)
    found = to_zernike(coma(np.array([[0.0, cs * tilt]]), np.array([wavelength])), ODD_ZERNIKE)
    np.testing.assert_allclose(found, [[-2 / 3 * whole, 0, 0, -whole / 3, 0, 0]], atol=1e-9 * whole)


def test_trefoil_and_tetrafoil_are_harmonics(rng):
    kx, ky = 0.2 * rng.standard_normal((2, 30))
    k, phi, wavelength = np.hypot(kx, ky), np.arctan2(ky, kx), np.array([0.02])
    odd = np.stack([kx, ky, kx**3, kx**2 * ky, kx * ky**2, ky**3])
    values = trefoil(np.array([[500.0, -300.0]]), wavelength) @ odd
    angle = 500 * np.cos(3 * phi) - 300 * np.sin(3 * phi)
    np.testing.assert_allclose(values[0], -2 * math.pi / 3 * 0.02**2 * k**3 * angle, atol=1e-9)
    even = [kx**4, kx**3 * ky, kx**2 * ky**2, kx * ky**3, ky**4]
    even = np.stack([np.ones(30), kx**2, kx * ky, ky**2, *even])
    values = tetrafoil(1e4 * np.array([[1.0, -2.0, 3.0, -4.0]]), wavelength) @ even
    angle = 2 * (np.cos(2 * phi) - 2 * np.sin(2 * phi))
    angle = angle + 0.5 * (3 * np.cos(4 * phi) - 4 * np.sin(4 * phi))
    np.testing.assert_allclose(values[0], math.pi * 0.02**3 * k**4 * 1e4 * angle, atol=1e-9)


def test_the_ctf_with_aberrations(drawn, microscope, rng):
    parameters = microscope(
        defocus_u=rng.uniform(8e3, 2e4, COUNT),
        defocus_v=rng.uniform(8e3, 2e4, COUNT),
        defocus_angle_deg=rng.uniform(0, 180, COUNT),
        b_factor=rng.uniform(0, 90, COUNT),
        phase_shift_deg=20.0,
    )
    with_them = dataclasses.replace(parameters, aberrations=drawn)
    found = contrast_transfer_function(BAND.frequencies, with_them)
    qx, qy = np.moveaxis(places_of(drawn), -1, 0)
    k2, theta, p = (
        qx**2 + qy**2,
        np.arctan2(qy, qx),
        {
            field.name: np.asarray(getattr(parameters, field.name))[:, None]
            for field in dataclasses.fields(parameters)[:-1]
        },
    )
    wavelength = np.asarray(electron_wavelength(parameters.voltage_kv))[:, None]
    turned = np.cos(2 * (theta - np.deg2rad(p["defocus_angle_deg"])))
    defocus = (p["defocus_u"] + p["defocus_v"] + (p["defocus_u"] - p["defocus_v"]) * turned) / 2
    cs, contrast = 1e7 * p["spherical_aberration_mm"], p["amplitude_contrast"]
    gamma = -math.pi * wavelength * defocus * k2 + math.pi / 2 * cs * wavelength**3 * k2**2
    gamma -= np.deg2rad(20.0) + np.arctan(contrast / np.sqrt(1 - contrast**2))
    coefficients = to_zernike(drawn.even.numpy(), EVEN_ZERNIKE)
    gamma += sum(
        coefficients[:, i, None] * zernike(m, n, qx, qy) for i, (m, n) in enumerate(orders(0, 4))
    )
    expected = -np.sin(gamma) * np.exp(-p["b_factor"] / 4 * k2)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    multiplied = dataclasses.replace(drawn, multiplied=torch.ones_like(drawn.scale))
    squares = dataclasses.replace(parameters, aberrations=multiplied)
    squares = contrast_transfer_function(BAND.frequencies, squares)
    np.testing.assert_allclose(squares, expected**2, atol=1e-8)
    some = contrast_transfer_function(BAND.frequencies, with_them[1:3])
    torch.testing.assert_close(some, found[1:3], atol=1e-12, rtol=0)


def test_none_is_a_perfect_microscope(microscope, molecule):
    parameters = microscope(defocus_u=torch.linspace(9e3, 2e4, COUNT), b_factor=40.0)
    none = dataclasses.replace(parameters, aberrations=Aberrations.none(COUNT))
    positions, amplitudes, sigma, rotations = molecule
    plain, same = (
        make_images(positions, amplitudes, sigma, BAND, rotations=rotations, ctf=ctf)
        for ctf in (parameters, none)
    )
    torch.testing.assert_close(same, plain, atol=1e-10, rtol=0)
    assert ctf_terms(parameters).shape == (COUNT, 6) and ctf_terms(none).shape == (COUNT, 13)


def test_images_with_everything(drawn, molecule, microscope):
    """The transform at the distorted frequencies, times the CTF there and the odd phase."""
    parameters = microscope(defocus_u=torch.linspace(9e3, 2e4, COUNT))
    ctf, places = dataclasses.replace(parameters, aberrations=drawn), places_of(drawn)
    positions, amplitudes, sigma, rotations = molecule
    found = make_images(positions, amplitudes, sigma, BAND, rotations=rotations, ctf=ctf)
    coefficients = to_zernike(drawn.odd.numpy(), ODD_ZERNIKE)
    qx, qy = np.moveaxis(places, -1, 0)
    phase = sum(
        coefficients[:, i, None] * zernike(m, n, qx, qy) for i, (m, n) in enumerate(orders(1, 3))
    )
    assert np.abs(phase).max() > 1
    values = transforms(molecule, places) * np.exp(1j * phase)
    values = values * contrast_transfer_function(BAND.frequencies, ctf).numpy()
    torch.testing.assert_close(found, as_vectors(values), atol=1e-8, rtol=1e-6)


def test_an_image_of_another_pixel_size(molecule, microscope):
    """It is the image of a band with that pixel size, shift and all, but for its brightness."""
    pixel = 1.262
    parameters, shifts = microscope(defocus_u=torch.linspace(9e3, 2e4, COUNT)), torch.ones(COUNT, 2)
    scale = torch.full((COUNT,), BAND.pixel_size / pixel, dtype=torch.float64)
    more = dataclasses.replace(Aberrations.none(COUNT), scale=scale)
    positions, amplitudes, sigma, rotations = molecule
    pose = {"rotations": rotations, "shifts": shifts.double()}
    magnified = dataclasses.replace(parameters, aberrations=more)
    found = make_images(positions, amplitudes, sigma, BAND, **pose, ctf=magnified)
    finer = dataclasses.replace(BAND, pixel_size=pixel, resolution=BAND.resolution * pixel / 1.25)
    assert torch.equal(finer.indices, BAND.indices)
    expected = make_images(positions, amplitudes, sigma, finer, **pose, ctf=parameters)
    torch.testing.assert_close(found, expected * (pixel / 1.25) ** 2, atol=1e-9, rtol=1e-6)


# From files to the vectors of training


def modulated(images, phases):
    """Images with their Fourier coefficients times exp(i phase), by NumPy's transform alone."""
    return np.fft.irfft2(np.fft.rfft2(images) * np.exp(1j * phases), s=images.shape[-2:])


def grid(box, pixel):
    """(kx, ky) of NumPy's real transform, in 1/Å."""
    return np.meshgrid(np.fft.rfftfreq(box, pixel), np.fft.fftfreq(box, pixel))


def wavelength_of(kilovolts):
    volts = 1e3 * kilovolts
    return 12.2643247 / math.sqrt(volts * (1 + 0.978466e-6 * volts))


@pytest.fixture
def written(tmp_path, rng, write_stack, write_table):
    """Write a stack of given images with a STAR file whose optics table has these columns."""

    def write(images, **optics):
        write_stack(tmp_path / "stack.mrcs", np.float32(images))
        count = len(images)
        angles = rng.uniform(0, 180, (3, count)).tolist()
        particles = dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles, strict=True))
        particles |= {
            "rlnImageName": [f"{row + 1}@stack.mrcs" for row in range(count)],
            **dict.fromkeys(("rlnDefocusU", "rlnDefocusV"), [15_000.0] * count),
            "rlnDefocusAngle": [0.0] * count,
            **dict.fromkeys(("rlnOriginXAngst", "rlnOriginYAngst"), [1.25] * count),
            "rlnOpticsGroup": [1 + row % 2 for row in range(count)],
        }
        of_groups = {
            "rlnOpticsGroup": [1, 2],
            "rlnVoltage": [300.0] * 2,
            "rlnSphericalAberration": [2.7] * 2,
            "rlnAmplitudeContrast": [0.1] * 2,
            "rlnImagePixelSize": [1.25, 1.25],
        }
        blocks = {"optics": of_groups | optics, "particles": particles}
        return read_particles(write_table(tmp_path / "particles.star", blocks))

    return write


@pytest.fixture
def pictures(rng):
    """Smooth images of 32 pixels, which a phase does not wrap around."""
    noise = rng.standard_normal((4, 32, 32))
    kx, ky = grid(32, 1.25)
    return np.fft.irfft2(np.fft.rfft2(noise) * np.exp(-40 * (kx**2 + ky**2)), s=(32, 32))


def similar(found, expected):
    """The same vectors but for the background's standard deviation."""
    ratio = (found * expected).sum(1) / expected.square().sum(1)
    assert (ratio - 1).abs().max() < 0.5
    torch.testing.assert_close(found, ratio[:, None] * expected, atol=2e-3, rtol=0)


def test_a_beam_tilt_is_taken_away_when_particles_are_read(written, pictures):
    expected = load_band_vectors(written(pictures), BAND)
    kx, ky = grid(32, 1.25)
    factor = 2 * math.pi * 2.7e7 * wavelength_of(300) ** 2 * (kx**2 + ky**2)
    phases = -factor * (0.8e-3 * kx - 0.5e-3 * ky)  # in the sign of RELION
    assert np.abs(phases).max() > 2
    tilted = modulated(pictures, phases)
    tilts = {"rlnBeamTiltX": [0.8, 0.8], "rlnBeamTiltY": [-0.5, -0.5]}
    similar(load_band_vectors(written(tilted, **tilts), BAND), expected)
    turned = {name: [-value for value in values] for name, values in tilts.items()}
    with pytest.raises(AssertionError):
        similar(load_band_vectors(written(tilted, **turned), BAND), expected)
    with pytest.raises(AssertionError):
        similar(load_band_vectors(written(tilted), BAND), expected)


def test_odd_zernike_terms_are_taken_away_with_the_tilt(written, pictures):
    expected = load_band_vectors(written(pictures), BAND)
    kx, ky = grid(32, 1.25)
    coefficients = [0.3, -0.2, 20.0, 5.0, -8.0, 15.0]
    phases = sum(
        c * zernike(m, n, kx, ky) for c, (m, n) in zip(coefficients, orders(1, 3), strict=True)
    )
    phases -= 2 * math.pi * 2.7e7 * wavelength_of(300) ** 2 * 0.3e-3 * (kx**2 + ky**2) * ky
    optics = {
        "rlnOddZernike": [f"[{','.join(map(str, coefficients))}]"] * 2,
        **{"rlnBeamTiltX": [0.0] * 2, "rlnBeamTiltY": [0.3] * 2},
    }
    similar(load_band_vectors(written(modulated(pictures, phases), **optics), BAND), expected)


def test_optics_tables_are_read_row_by_row(written, pictures):
    particles = written(
        pictures,
        rlnImagePixelSize=[1.25, 1.2625],
        rlnMagMat00=[1.0, 1.004],
        rlnMagMat01=[0.0, 0.002],
        rlnMagMat10=[0.0, 0.003],
        rlnMagMat11=[1.0, 0.997],
        rlnEvenZernike=["[0.1,0.2,0.3,0.4]", "[]"],
        rlnCtfDataAreCtfPremultiplied=[0, 1],
    )
    more = particles.aberrations
    assert particles.pixel_size == 1.25 and more.multiplied.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(particles.pixel_sizes, [1.25, 1.2625] * 2)
    matrix = torch.tensor([[1.004, 0.002], [0.003, 0.997]], dtype=torch.float64)
    torch.testing.assert_close(more.magnification[1], matrix)
    torch.testing.assert_close(more.distortion[3], matrix * 1.25 / 1.2625)
    np.testing.assert_allclose(more.even[0, :4], [0.1 - 0.3, 0.6 + 0.4, 0.4, 0.6 - 0.4])
    assert not more.even[1].any() and not more.odd.any()
    # one pixel of either size is one pixel of the band
    np.testing.assert_allclose(particles.shifts, -1.25)
    np.testing.assert_allclose(particles.band_shifts[:2, 0], [-1.25, -1.25 * 1.25 / 1.2625])


def test_what_is_written_is_what_was_read(written, pictures, tmp_path, drawn):
    particles = written(pictures, rlnImagePixelSize=[1.25, 1.26])
    assert particles.aberrations.magnification.eq(torch.eye(2)).all()
    more = dataclasses.replace(
        drawn[:4],
        scale=particles.aberrations.scale,
        multiplied=torch.tensor([0.0, 1.0, 1.0, 0.0]).double(),
    )
    changed = dataclasses.replace(particles.ctf, aberrations=more)
    write_star(tmp_path / "again.star", dataclasses.replace(particles, ctf=changed))
    again = read_particles(tmp_path / "again.star")
    for field in dataclasses.fields(more):
        values, expected = (getattr(a, field.name) for a in (again.aberrations, more))
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6, err_msg=field.name)
    plain = dataclasses.replace(particles.ctf, aberrations=None)
    write_star(tmp_path / "plain.star", dataclasses.replace(particles, ctf=plain))
    assert read_particles(tmp_path / "plain.star").aberrations is None


def test_the_aberrations_of_cryosparc_are_those_of_relion(written, pictures, tmp_path):
    """A tilt in Å is the spherical aberration times the tilt; the matrix lacks the identity."""
    plain = written(pictures)
    write_cs(tmp_path / "plain.cs", plain)
    table = np.load(tmp_path / "plain.cs")
    more = [("ctf/tilt_A", "<f4", (2,)), ("ctf/anisomag", "<f4", (4,))]
    wide = np.zeros(len(table), dtype=table.dtype.descr + more)
    for name in table.dtype.names:
        wide[name] = table[name]
    wide["ctf/tilt_A"] = [2.7e4 * 0.3, 2.7e4 * -0.1]
    wide["ctf/anisomag"] = [0.004, 0.002, 0.003, -0.003]
    write_cs_table(tmp_path / "more.cs", wide)
    of_cs = read_particles(tmp_path / "more.cs").aberrations
    of_star = written(
        pictures,
        **{"rlnBeamTiltX": [0.3] * 2, "rlnBeamTiltY": [-0.1] * 2},
        **{"rlnMagMat00": [1.004] * 2, "rlnMagMat01": [0.002] * 2},
        **{"rlnMagMat10": [0.003] * 2, "rlnMagMat11": [0.997] * 2},
    ).aberrations
    torch.testing.assert_close(of_cs.odd, of_star.odd, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(of_cs.magnification, of_star.magnification, rtol=1e-6, atol=1e-6)
