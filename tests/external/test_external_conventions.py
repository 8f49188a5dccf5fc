"""Conventions on images that others made: the right one correlates, every wrong one does worse.

The maps are projected by splines (see conftest.py), independently of the package; shifts, CTF and
band are the package's.
"""

import numpy as np
import pytest
import torch

from cryostar_nb.ctf import contrast_transfer_function
from cryostar_nb.fourier import Band, shift_band
from cryostar_nb.io.cryodrgn import read_pickle
from cryostar_nb.io.options import Reading
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.star import StarFile
from cryostar_nb.projector import make_images, project_band, rotate


def correlations(observed, predicted):
    return torch.nn.functional.cosine_similarity(observed.flatten(1), predicted.flatten(1), dim=-1)


@pytest.fixture
def score(project_map):
    """Mean correlation of images with projections of a map, in a band and, if given, a circle."""

    def mean_correlation(images, density, band, rotations, *, shifts=None, ctf=None, mask=None):
        """Centre the images and blur the projections; `mask` multiplies both in real space."""
        shifts = torch.zeros(len(images), 2) if shifts is None else shifts
        observed = shift_band(band.encode(torch.as_tensor(images).double()), -shifts.double(), band)
        predicted = band.encode(
            torch.from_numpy(
                np.stack([project_map(density, rotation) for rotation in np.asarray(rotations)])
            )
        )
        if ctf is not None:
            predicted = predicted * band.per_coefficient(
                contrast_transfer_function(band.frequencies, ctf)
            )
        if mask is not None:
            observed, predicted = band.decode(observed) * mask, band.decode(predicted) * mask
        return correlations(observed, predicted).mean().item()

    return mean_correlation


def soft_circle(box_size, radius, edge):
    """One within `radius` pixels of the centre, falling to zero over `edge` pixels."""
    axis = torch.arange(box_size) - box_size // 2
    distance = (axis[:, None] ** 2 + axis**2).sqrt()
    return 0.5 + 0.5 * torch.cos(torch.pi * ((distance - radius) / edge).clamp(0, 1))


# 24 images by RELION's own projector: a point mass, shifted, times the CTF


@pytest.fixture
def relion(external_data, read_map):
    particles = read_particles(external_data / "relion_project" / "relion_proj_batch.star")
    return (
        particles,
        particles.images(slice(None)).double(),
        read_map(external_data / "relion_project" / "pointmass.mrc"),
    )


def test_relions_images_of_a_point_mass_are_our_images_of_a_node(relion):
    particles, images, density = relion
    index = np.argwhere(density)
    positions = torch.from_numpy(
        (index[:, ::-1] - particles.box_size // 2) * particles.pixel_size
    )  # z, y, x to x, y, z
    amplitudes, point = (
        torch.from_numpy(density[tuple(index.T)]),
        torch.tensor(0.0, dtype=torch.float64),
    )
    band = Band(particles.box_size, particles.pixel_size, 2 * particles.pixel_size)
    observed = band.encode(images)

    def score(positions=positions, rotations=particles.rotations, shifts=particles.shifts, sign=1):
        batch = positions.expand(len(images), -1, -1)
        made = make_images(
            batch, amplitudes, point, band, rotations=rotations, shifts=shifts, ctf=particles.ctf
        )
        return correlations(observed, sign * made).mean().item()

    assert score() > 0.98
    assert score(positions=-positions) < 0.2
    assert score(rotations=particles.rotations.mT) < 0.2
    assert score(shifts=-particles.shifts) < 0.2
    assert score(shifts=0 * particles.shifts) < 0.2
    assert score(sign=-1) < -0.98


def test_relions_images_are_projections_of_its_map(relion, score):
    particles, images, density = relion
    every = np.arange(0, len(particles), 3)
    particles, images = particles[every], images[every]
    band = Band(particles.box_size, particles.pixel_size, 10.0)
    poses = {"rotations": particles.rotations, "shifts": particles.shifts, "ctf": particles.ctf}
    assert score(images, density, band, **poses) > 0.97
    assert score(images, density, band, **poses | {"rotations": particles.rotations.mT}) < 0.2
    assert score(images, density, band, **poses | {"shifts": -particles.shifts}) < 0.2


# Ten real particles of TRPV1 and a map of it


def test_real_particles_of_trpv1_correlate_with_its_map(
    external_data, tmp_path, read_map, mirror, score
):
    source = external_data / "trpv1"
    (tmp_path / "batch_0_restacked.mrc").symlink_to(
        source / "trpv1_small_stack.mrcs"
    )  # the name in the STAR file
    particles = read_particles(source / "trpv1_small_stack.star", Reading(root=tmp_path))
    density, images = read_map(source / "trpv1_volume.mrc"), particles.images(slice(None))
    band = Band(particles.box_size, particles.pixel_size, 20.0)
    right = {
        "rotations": particles.rotations,
        "shifts": particles.shifts,
        "ctf": particles.ctf,
        "mask": soft_circle(48, 18, 4),
    }

    assert score(images, density, band, **right) > 0.37
    assert score(images, mirror(density), band, **right) < 0.20
    assert score(images, density, band, **right | {"shifts": -particles.shifts}) < 0.05
    assert (
        score(images, density, band, **right | {"rotations": particles.rotations.mT}) < 0.33
    )  # four-fold symmetry helps it
    assert score(-images, density, band, **right) < -0.37


# The ribosome of tomoDRGN, without CTF, in the STAR format of RELION 3.0


def test_tomodrgns_clean_images_correlate_with_their_map(external_data, read_map, mirror, score):
    source = external_data / "tomodrgn"
    images = read_map(source / "10076_classE_32_clean.mrcs")
    density = read_map(source / "10076_classE_32.mrc")
    metadata = StarFile(source / "10076_classE_32_clean.star")
    assert metadata.image_names().image_in_file.tolist() == list(range(len(images)))
    poses = metadata.poses(13.1, ctf=False)

    every = slice(0, len(images), 15)
    band = Band(32, 13.1, 40.0)
    right = {"rotations": poses.rotations[every], "shifts": poses.shifts[every]}
    assert score(images[every], density, band, **right) > 0.99
    assert score(images[every], mirror(density), band, **right) < 0.9
    assert score(images[every], density, band, **right | {"rotations": right["rotations"].mT}) < 0.9
    assert score(images[every], density, band, **right | {"shifts": -right["shifts"]}) < 0.4
    assert score(images[every], density, band, **right | {"shifts": None}) < 0.7


def test_tomodrgns_pickles_are_its_star_file(external_data, tmp_path):
    source = external_data / "tomodrgn"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "10076_classE_32_sim.mrcs").symlink_to(
        source / "10076_classE_32_sim.mrcs"
    )  # the name in the STAR file
    star = read_particles(
        source / "10076_classE_32_sim.star", Reading(root=tmp_path, pixel_size=13.1)
    )
    pickles = Reading(poses_pkl=source / "pose_classE.pkl", ctf_pkl=source / "ctf_classE.pkl")
    pickled = read_particles(source / "10076_classE_32_sim.mrcs", pickles)
    assert (pickled.pixel_size, pickled.box_size) == (pytest.approx(13.1), 32)
    assert torch.equal(pickled.images(slice(None)), star.images(slice(None)))
    np.testing.assert_allclose(pickled.rotations, star.rotations, atol=1e-6)
    np.testing.assert_allclose(pickled.shifts, star.shifts, atol=1e-4)
    for name in (
        "defocus_u",
        "defocus_v",
        "voltage_kv",
        "spherical_aberration_mm",
        "amplitude_contrast",
        "phase_shift_deg",
    ):
        np.testing.assert_allclose(
            getattr(pickled.ctf, name), getattr(star.ctf, name), rtol=1e-6, err_msg=name
        )


# The toy model of cryoDRGN, with rotations as matrices


def test_cryodrgns_toy_images_correlate_with_their_map(external_data, read_map, mirror, score):
    source = external_data / "cryodrgn"
    density = read_map(source / "toymodel_small_nocenter.mrc")
    pickles = Reading(poses_pkl=source / "toy_rot_trans.pkl", ctf_pkl=source / "test_ctf.pkl")
    particles = read_particles(source / "toy_projections.mrcs", pickles)
    assert (len(particles), particles.box_size, particles.pixel_size) == (1000, 30, 1.0)
    every, band = slice(0, len(particles), 20), Band(30, 1.0, 2.0)
    images, rotations = particles.images(every).numpy(), particles.rotations[every].numpy()
    assert (
        score(images, density, band, rotations) > 0.99
    )  # the pickled translations are not those of these images, which are centred
    assert score(images, mirror(density), band, rotations) < 0.5
    assert score(images, density, band, rotations.transpose(0, 2, 1)) < 0.6

    index = np.argwhere(density)
    nodes = torch.from_numpy(index[:, ::-1] - 15.0)
    point = torch.tensor(0.0, dtype=torch.float64)
    projections = project_band(
        rotate(nodes, torch.from_numpy(rotations)), torch.ones(len(nodes)).double(), point, band
    )
    assert correlations(band.encode(torch.from_numpy(images)), projections).mean() > 0.99


# Poses that cryoDRGN parsed from a STAR file of RELION 3.0


def test_cryodrgn_reads_the_same_poses_from_relions_star_file(external_data):
    parsers = external_data / "parsers"
    star = StarFile(parsers / "FinalRefinement-OriginalParticles-PfCRT.star")
    poses = star.poses(ctf=False)
    # translations: RELION's origins over the box of 300
    rotations, translations = read_pickle(parsers / "pose.star.pkl", "poses")
    assert star.pixel_size() == pytest.approx(1.035)
    np.testing.assert_allclose(poses.rotations, rotations, atol=1e-7)
    np.testing.assert_allclose(poses.shifts, -translations * 300 * 1.035, atol=1e-6)
