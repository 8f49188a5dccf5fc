"""The conventions that the core implements, each against an independent computation.

Box sizes are odd and even.
"""

import numpy as np
import pytest
import torch
from scipy import constants

from cryostar_nb.ctf import contrast_transfer_function, electron_wavelength
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import rotations_from_relion_angles
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.vectors import load_band_vectors
from cryostar_nb.projector import gaussian_density, make_images, project_band, project_real

BOXES = pytest.mark.parametrize("box_size", [32, 33])
PIXEL = 1.7
SIGMA = torch.tensor(2.0, dtype=torch.float64)


def one_node(x, y, z):
    """A node of ten electrons, its position counted in pixels."""
    return PIXEL * torch.tensor([[x, y, z]], dtype=torch.float64), torch.tensor(
        [10.0], dtype=torch.float64
    )


def peak(image):
    """Index of the brightest pixel or voxel."""
    return tuple(int(i) for i in np.unravel_index(int(image.argmax()), image.shape))


def both_projections(positions, amplitudes, box_size):
    band = Band(box_size, PIXEL, 2 * PIXEL)
    yield project_real(positions, amplitudes, SIGMA, box_size=box_size, pixel_size=PIXEL)
    yield band.decode(project_band(positions, amplitudes, SIGMA, band))


# Axes and the centre


@BOXES
def test_a_node_at_the_origin_peaks_at_the_centre_pixel(box_size):
    for image in both_projections(*one_node(0, 0, 0), box_size):
        assert peak(image) == (box_size // 2, box_size // 2)


@BOXES
def test_x_runs_along_columns_and_y_along_rows_and_z_is_integrated(box_size):
    for image in both_projections(*one_node(3, -5, 4), box_size):
        assert peak(image) == (box_size // 2 - 5, box_size // 2 + 3)


@BOXES
def test_a_volume_is_indexed_z_y_x_from_its_centre(box_size):
    density = gaussian_density(*one_node(3, -5, 4), SIGMA, box_size=box_size, pixel_size=PIXEL)
    assert peak(density) == (box_size // 2 + 4, box_size // 2 - 5, box_size // 2 + 3)


# Poses

QUARTER_TURNS = {
    "about z, x becomes y": ([[0, -1, 0], [1, 0, 0], [0, 0, 1]], (5, 0, 0), (0, 5)),
    "about z, y becomes -x": ([[0, -1, 0], [1, 0, 0], [0, 0, 1]], (0, 5, 0), (-5, 0)),
    "about y, z becomes x": ([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], (0, 0, 5), (5, 0)),
    "about y, x goes along the beam": ([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], (5, 0, 0), (0, 0)),
    "about x, y goes along the beam": ([[1, 0, 0], [0, 0, -1], [0, 1, 0]], (0, 5, 0), (0, 0)),
    "about x, z becomes -y": ([[1, 0, 0], [0, 0, -1], [0, 1, 0]], (0, 0, 5), (0, -5)),
}


@BOXES
@pytest.mark.parametrize(
    ("rotation", "node", "seen"), QUARTER_TURNS.values(), ids=QUARTER_TURNS.keys()
)
def test_a_pose_left_multiplies_the_reference(box_size, rotation, node, seen):
    band = Band(box_size, PIXEL, 2 * PIXEL)
    image = band.decode(
        make_images(
            *one_node(*node), SIGMA, band, rotations=torch.tensor(rotation, dtype=torch.float64)
        )
    )
    assert peak(image) == (box_size // 2 + seen[1], box_size // 2 + seen[0])


@BOXES
def test_an_asymmetric_object_is_rotated_then_integrated_along_z(
    box_size, asymmetric, blackboard_image
):
    positions, amplitudes = asymmetric
    rotation = rotations_from_relion_angles([25.0], [70.0], [-130.0])[0]
    band = Band(box_size, 1.25, 2.5)
    image = band.decode(
        make_images(positions, amplitudes, SIGMA, band, rotations=torch.from_numpy(rotation))
    )
    view = np.array([rotation @ position for position in positions.numpy()])
    expected = blackboard_image(view, amplitudes.numpy(), 2.0, box_size, 1.25)
    assert torch.allclose(image, expected - expected.mean(), atol=1e-5 * float(expected.max()))


def relion_euler_angles_to_matrix(rot, tilt, psi):
    """RELION's Euler_angles2matrix (euler.cpp), element by element."""
    (sa, sb, sg), (ca, cb, cg) = (
        np.sin(np.deg2rad([rot, tilt, psi])),
        np.cos(np.deg2rad([rot, tilt, psi])),
    )
    return np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    )


def test_relion_angles_give_relions_matrix(rng):
    angles = rng.uniform([-180, 0, -180], [180, 180, 180], (50, 3))
    expected = [relion_euler_angles_to_matrix(*row) for row in angles]
    np.testing.assert_allclose(rotations_from_relion_angles(*angles.T), expected, atol=1e-14)


# Shifts


@BOXES
def test_a_shift_says_where_the_particle_sits(box_size):
    band = Band(box_size, PIXEL, 2 * PIXEL)
    shift = PIXEL * torch.tensor([4.0, -3.0], dtype=torch.float64)
    image = band.decode(
        make_images(
            *one_node(0, 0, 0),
            SIGMA,
            band,
            rotations=torch.eye(3, dtype=torch.float64),
            shifts=shift,
        )
    )
    assert peak(image) == (box_size // 2 - 3, box_size // 2 + 4)


@BOXES
def test_the_rotation_comes_before_the_shift(box_size):
    band = Band(box_size, PIXEL, 2 * PIXEL)
    about_z = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    shift = PIXEL * torch.tensor([4.0, 0.0], dtype=torch.float64)
    image = band.decode(
        make_images(*one_node(5, 0, 0), SIGMA, band, rotations=about_z, shifts=shift)
    )
    assert peak(image) == (box_size // 2 + 5, box_size // 2 + 4)


@BOXES
@pytest.mark.parametrize(
    "origin",
    [
        {"rlnOriginXAngst": [-3 * PIXEL], "rlnOriginYAngst": [2 * PIXEL]},
        {"rlnOriginX": [-3], "rlnOriginY": [2]},
    ],
    ids=["RELION 3.1, in angstrom", "RELION 3.0, in pixels"],
)
def test_a_relion_origin_moves_the_image_to_its_centre(
    box_size, origin, tmp_path, rng, write_stack, write_table
):
    x, y = 3, -2  # the particle sits at minus the origin
    image = project_real(*one_node(x, y, 0), SIGMA, box_size=box_size, pixel_size=PIXEL).numpy()
    assert peak(torch.from_numpy(image)) == (box_size // 2 + y, box_size // 2 + x)
    write_stack(
        tmp_path / "stack.mrcs", (image + 1e-4 * rng.standard_normal(image.shape))[None], PIXEL
    )
    columns = {
        "rlnImageName": ["1@stack.mrcs"],
        "rlnAngleRot": [0],
        "rlnAngleTilt": [0],
        "rlnAnglePsi": [0],
    }
    columns |= {"rlnDetectorPixelSize": [PIXEL], "rlnMagnification": [10_000], **origin}
    columns |= {"rlnDefocusU": [10_000], "rlnDefocusV": [10_000], "rlnDefocusAngle": [0]}
    columns |= {"rlnVoltage": [300], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1]}
    particles = read_particles(write_table(tmp_path / "particles.star", {"": columns}))
    np.testing.assert_allclose(particles.shifts, [[x * PIXEL, y * PIXEL]], atol=1e-12)

    band = Band(box_size, PIXEL, 2 * PIXEL)
    assert peak(band.decode(load_band_vectors(particles, band)[0])) == (
        box_size // 2,
        box_size // 2,
    )


# CTF


def relativistic_wavelength(kv):
    """In Å, from the CODATA constants: h / p, with (pc)^2 = E^2 + 2 E mc^2."""
    energy, rest = kv * 1e3 * constants.e, constants.m_e * constants.c**2
    return 1e10 * constants.h * constants.c / np.sqrt(energy**2 + 2 * energy * rest)


def textbook_ctf(kx, ky, *, u, v, angle_deg, kv, cs_mm, w, phase_deg, b):
    """sqrt(1 - w^2) sin(chi) + w cos(chi), the weak-phase object, chi from U cos^2 + V sin^2."""
    wavelength, angle = relativistic_wavelength(kv), np.deg2rad(angle_deg)
    along, across = kx * np.cos(angle) + ky * np.sin(angle), ky * np.cos(angle) - kx * np.sin(angle)
    k2 = kx**2 + ky**2
    chi = np.pi * wavelength * (
        u * along**2 + v * across**2 - 0.5 * cs_mm * 1e7 * wavelength**2 * k2**2
    ) + np.deg2rad(phase_deg)
    return (np.sqrt(1 - w**2) * np.sin(chi) + w * np.cos(chi)) * np.exp(-b / 4 * k2)


@pytest.mark.parametrize(
    ("u", "v", "angle_deg", "kv", "cs_mm", "w", "phase_deg", "b"),
    [
        (18_000, 18_000, 0, 300, 2.7, 0.1, 0, 0),
        (21_000, 15_000, 37, 300, 2.7, 0.07, 0, 0),
        (12_000, 9_000, -65, 200, 1.4, 0.1, 0, 0),
        (6_000, 5_500, 120, 300, 2.7, 0.07, 90, 0),
        (30_000, 25_000, 10, 120, 6.3, 0.2, 33, 80),
        (-8_000, -9_000, 20, 300, 0.01, 1.0, 0, -20),
    ],
    ids=["plain", "astigmatic", "200 kV", "phase plate", "everything", "overfocus"],
)
def test_the_ctf_is_that_of_the_textbook_in_relions_sign(
    u, v, angle_deg, kv, cs_mm, w, phase_deg, b, rng, microscope
):
    frequencies = rng.uniform(-0.25, 0.25, (500, 2))
    parameters = microscope(
        defocus_u=u,
        defocus_v=v,
        defocus_angle_deg=angle_deg,
        voltage_kv=kv,
        spherical_aberration_mm=cs_mm,
        amplitude_contrast=w,
        phase_shift_deg=phase_deg,
        b_factor=b,
    )
    expected = textbook_ctf(
        *frequencies.T,
        u=u,
        v=v,
        angle_deg=angle_deg,
        kv=kv,
        cs_mm=cs_mm,
        w=w,
        phase_deg=phase_deg,
        b=b,
    )
    # The rounded constants of the wavelength give 1e-5 of a phase of some hundred radians.
    np.testing.assert_allclose(
        contrast_transfer_function(torch.from_numpy(frequencies), parameters), expected, atol=1e-3
    )


def test_the_ctf_at_zero_is_plus_the_amplitude_contrast(microscope):
    for w in (0.0, 0.07, 0.1, 1.0):
        value = contrast_transfer_function(
            torch.zeros(2, dtype=torch.float64), microscope(amplitude_contrast=w)
        )
        assert float(value) == pytest.approx(w, abs=1e-12)


@BOXES
def test_protein_is_bright_on_a_dark_ground(box_size, microscope):
    band = Band(box_size, PIXEL, 2 * PIXEL)
    phase_plate = microscope(defocus_u=500.0, defocus_v=500.0, phase_shift_deg=90.0)
    image = band.decode(
        make_images(
            *one_node(0, 0, 0),
            SIGMA,
            band,
            rotations=torch.eye(3, dtype=torch.float64),
            ctf=phase_plate,
        )
    )
    assert peak(image) == (box_size // 2, box_size // 2)
    assert image.max() > 2 * image.min().abs()


def test_defocus_u_lies_along_its_angle_from_the_x_axis(microscope):
    k, angle = 0.05, np.deg2rad(30)
    along = torch.tensor([k * np.cos(angle), k * np.sin(angle)])
    across = torch.tensor([-k * np.sin(angle), k * np.cos(angle)])
    astigmatic = microscope(defocus_u=20_000.0, defocus_v=10_000.0, defocus_angle_deg=30.0)
    for direction, defocus in ((along, 20_000.0), (across, 10_000.0)):
        round_ = microscope(defocus_u=defocus, defocus_v=defocus)
        expected = contrast_transfer_function(direction, round_)
        assert float(contrast_transfer_function(direction, astigmatic)) == pytest.approx(
            float(expected), abs=1e-9
        )


@pytest.mark.parametrize(("kv", "textbook"), [(100, 0.03701), (200, 0.02508), (300, 0.01969)])
def test_the_wavelength_is_the_relativistic_one(kv, textbook):
    value = float(electron_wavelength(torch.tensor(kv, dtype=torch.float64)))
    assert value == pytest.approx(textbook, abs=1e-5)
    assert value == pytest.approx(
        relativistic_wavelength(kv), rel=1e-5
    )  # RELION's constants are rounded


# Gaussians


@BOXES
@pytest.mark.parametrize("width", [1.5, 2.0, 3.5])
def test_a_gaussian_carries_its_electrons_whatever_its_width(box_size, width):
    positions, amplitudes = (
        torch.tensor([[0.4, -1.3, 0.7], [3.0, 2.0, -1.0]]).double(),
        torch.tensor([38.0, 87.0]).double(),
    )
    sigma = torch.tensor(width).double()
    image = project_real(positions, amplitudes, sigma, box_size=box_size, pixel_size=PIXEL)
    density = gaussian_density(positions, amplitudes, sigma, box_size=box_size, pixel_size=PIXEL)
    assert float(image.sum()) * PIXEL**2 == pytest.approx(125.0, rel=1e-3)
    assert float(density.sum()) * PIXEL**3 == pytest.approx(125.0, rel=1e-3)


def direct_transform(image, frequencies, pixel_size):
    """Fourier integral of an image, pixel by pixel: no FFT, so no convention of one."""
    axis = (np.arange(len(image)) - len(image) // 2) * pixel_size
    along_x, along_y = (np.exp(-2j * np.pi * np.outer(frequencies[:, i], axis)) for i in (0, 1))
    return np.einsum("ky,yx,kx->k", along_y, image, along_x, optimize=True) * pixel_size**2


@BOXES
def test_the_fourier_projector_is_exact_where_pixels_are_too_coarse_for_the_gaussian(
    box_size, asymmetric
):
    positions, amplitudes = asymmetric
    pixel_size, sigma, fine = 4.25, torch.tensor(2.0, dtype=torch.float64), 7
    band = Band(box_size, pixel_size, 2 * pixel_size)
    vector = project_band(positions, amplitudes, sigma, band)
    transform = torch.complex(*vector.chunk(2)).numpy() * box_size / np.sqrt(2) * pixel_size**2

    k = band.frequencies.numpy()
    phases = np.exp(-2j * np.pi * k @ positions.numpy()[:, :2].T)
    analytic = np.exp(-2 * np.pi**2 * 4.0 * (k**2).sum(-1)) * (phases @ amplitudes.numpy())
    np.testing.assert_allclose(transform, analytic, atol=1e-12)

    sampled_finely = project_real(
        positions, amplitudes, sigma, box_size=fine * box_size, pixel_size=pixel_size / fine
    )
    np.testing.assert_allclose(
        transform, direct_transform(sampled_finely.numpy(), k, pixel_size / fine), atol=1e-9
    )

    sampled_coarsely = band.encode(
        project_real(positions, amplitudes, sigma, box_size=box_size, pixel_size=pixel_size)
    )
    assert (
        sampled_coarsely - vector
    ).norm() > 0.02 * vector.norm()  # what the pixels alone would give
