"""Every particle file that others wrote is read, or refused for a reason that is right."""

import re

import numpy as np
import pytest

from cryostar_nb.errors import InputError
from cryostar_nb.io.options import Reading
from cryostar_nb.io.reading import read_particles
from cryostar_nb.prepare.info import inspect_particles

ABSENT = r"there is no file"  # of the images: these files came without
NO_POSE = r"has no column (rlnAngleRot|alignments3D/pose), which the pose needs"
NO_PIXEL_SIZE = r"has neither rlnImagePixelSize nor rlnDetectorPixelSize and rlnMagnification"
NO_CTF = r"has no column rln(DefocusU|AmplitudeContrast), which the CTF needs"
NO_GROUP = r"the particle table has no column rlnOpticsGroup although there is an optics table"

# file: particles, and why they cannot be trained on as they are
READ: dict[str, tuple[int, str | None]] = {
    "cryodrgn/empiar_10076_7.cs": (7, NO_POSE),
    "cryodrgn/empiar_10076_7.star": (7, NO_POSE),
    "cryodrgn/relion31.star": (5, None),
    "cryodrgn/toy_projections.star": (1000, NO_PIXEL_SIZE),
    "parsers/FinalRefinement-OriginalParticles-PfCRT.star": (5, NO_CTF),
    "parsers/cryolike_relion_style_particles.star": (106, ABSENT),
    "parsers/cryosparc_J2_particles_exported.cs": (22, NO_POSE),
    "parsers/one_loop.star": (16, NO_CTF),
    "parsers/relion5.star": (17, ABSENT),
    "parsers/sample_particles_relion30.star": (17, ABSENT),
    "parsers/sample_particles_relion31.star": (17, ABSENT),
    "relion_project/relion_proj_batch.star": (24, None),
    "tomodrgn/10076_classE_32_clean.star": (720, NO_PIXEL_SIZE),
    "tomodrgn/10076_classE_32_sim.star": (720, NO_PIXEL_SIZE),
    "trpv1/trpv1_small_stack.star": (10, ABSENT),
}
REFUSED = {
    "parsers/cryosparctools_4k_dataset.cs": r"holds no particles",
    "parsers/rln3.1_data_style.star": r"rlnImageName in the tables data_block_2 and data_block_3",
    "parsers/toy_projections_13.star": NO_GROUP,
}


def test_no_particle_file_is_forgotten(external_data):
    found = {
        str(path.relative_to(external_data))
        for pattern in ("*/*.star", "*/*.cs")
        for path in external_data.glob(pattern)
    }
    assert found == set(READ) | set(REFUSED)


@pytest.mark.parametrize("name", READ)
def test_metadata_are_told_without_images_and_what_is_missing_is_said(name, external_data):
    count, reason = READ[name]
    found = inspect_particles(external_data / name)
    assert found["n_particles"] == count
    said = "\n".join(found["problems"])
    if reason is None:
        assert not said
        assert len(read_particles(external_data / name)) == count
        return
    assert re.search(reason.replace(ABSENT, "image files are missing"), said)
    with pytest.raises(InputError, match=reason):
        read_particles(external_data / name)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(name, external_data):
    with pytest.raises(InputError, match=REFUSED[name]):
        inspect_particles(external_data / name)


def test_numbers_of_relion_5(external_data):
    found = inspect_particles(external_data / "parsers" / "relion5.star")
    assert (found["box_size"], found["pixel_size"]) == (448, 0.89)
    assert (
        found["optics_groups"][0]["voltage_kv"] == 100
        and found["optics_groups"][0]["spherical_aberration_mm"] == 1.6
    )
    for column in ("rlnBeamTiltX", "rlnOddZernike", "rlnEvenZernike", "rlnMagMat00"):
        assert column in found["columns_used"]


def test_many_optics_groups(external_data):
    found = inspect_particles(external_data / "parsers" / "sample_particles_relion31.star")
    assert [(group["n_particles"], group["voltage_kv"]) for group in found["optics_groups"]] == [
        (8, 300),
        (9, 200),
    ]


def test_the_ctf_of_a_cs_file_is_that_of_its_star_file(external_data):
    star, cs = (
        inspect_particles(external_data / "cryodrgn" / f"empiar_10076_7.{suffix}")
        for suffix in ("star", "cs")
    )
    assert (
        star["pixel_size"] == pytest.approx(cs["pixel_size"], rel=1e-5)
        and star["box_size"] == cs["box_size"] == 320
    )
    assert star["defocus_range"] == pytest.approx(cs["defocus_range"], rel=1e-6)


def test_the_ctf_pickle_is_that_of_its_star_file(external_data, tmp_path, write_stack):
    """It was made for a Cs of 0.001 mm and a contrast of 0.1, which the STAR file has not."""
    parsers = external_data / "parsers"
    stack = write_stack(tmp_path / "stack.mrcs", np.zeros((5, 300, 300)))
    pickles = Reading(poses_pkl=parsers / "pose.star.pkl", ctf_pkl=parsers / "ctf1.pkl")
    star, pickled = (
        inspect_particles(parsers / "FinalRefinement-OriginalParticles-PfCRT.star"),
        inspect_particles(stack, pickles),
    )
    assert pickled["pixel_size"] == pytest.approx(star["pixel_size"])
    assert pickled["pose_coverage"] == pytest.approx(star["pose_coverage"])
    assert pickled["shifts"]["mean"] == pytest.approx(star["shifts"]["mean"], abs=1e-6)
