"""The doctor on ten real particles of TRPV1, and docking into a map without a voxel size."""

import dataclasses

import numpy as np
import pytest
import torch
from faults import IN_THE_FILE, spoil_images, spoil_particles, verdict

from cryostar_nb.doctor.diagnosis import diagnose
from cryostar_nb.doctor.placing import dock_into_map
from cryostar_nb.errors import InputError
from cryostar_nb.io.maps import read_map
from cryostar_nb.io.options import Reading
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.structures import read_nodes


@pytest.fixture
def trpv1(external_data, tmp_path, write_stack):
    """Ten particles, with what is wrong with them; and the map."""
    source = external_data / "trpv1"
    in_star = tmp_path / "batch_0_restacked.mrc"  # the name in the STAR file
    in_star.symlink_to(source / "trpv1_small_stack.mrcs")

    def make(*faults):
        particles = read_particles(source / "trpv1_small_stack.star", Reading(root=tmp_path))
        images = spoil_images(particles.images(slice(None)), particles, faults)
        stack = write_stack(
            tmp_path / "spoilt.mrcs", images.numpy(), pixel_size=particles.pixel_size
        )
        return dataclasses.replace(spoil_particles(particles, faults), stacks=(stack,)), read_map(
            source / "trpv1_volume.mrc"
        )

    return make


@pytest.mark.parametrize("fault", [None, "contrast sign", *IN_THE_FILE])
def test_ten_real_particles_show_what_is_wrong_with_them(trpv1, fault):
    faults = () if fault is None else (fault,)
    particles, density_map = trpv1(*faults)
    rotations = 4608 if fault is None else 0  # docking takes longer, and the verdict is the same
    diagnosis = diagnose(particles, density_map=density_map, rotations=rotations)
    assert diagnosis.verdict == verdict(faults)
    assert diagnosis.needed <= 10


def test_at_20_angstrom_they_name_the_right_convention(trpv1):
    particles, density_map = trpv1()
    diagnosis = diagnose(particles, density_map=density_map, resolution=20.0)
    assert diagnosis.verdict == "ok"
    assert "phase flipped" in diagnosis.indifferent  # down to 20 Å their CTF has one sign


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_map_is_of_the_other_hand(trpv1, axis):
    particles, density_map = trpv1()
    n = density_map.box_size
    turned = torch.from_numpy((2 * (n // 2) - np.arange(n)) % n)
    mirrored = dataclasses.replace(
        density_map, values=density_map.values.index_select(axis, turned)
    )
    assert diagnose(particles, density_map=mirrored, rotations=0).verdict == "hand"


def test_the_spliceosome_is_docked_into_a_map_of_it(external_data):
    path = external_data / "spliceosome" / "state1_64px.mrc"
    with pytest.raises(InputError) as caught:
        read_map(path)
    assert caught.value.file == path and "voxel size" in str(caught.value)
    nodes = read_nodes(external_data / "spliceosome" / "5nrl_rebuilt.cif.gz")
    docked = dock_into_map(nodes, read_map(path, pixel_size=8.495))
    assert docked.frame == "map" and docked.angle < 3  # the map is in the orientation of the model
    assert docked.after > 0.55 > 0.1 > docked.before and docked.after > 3 * docked.mirrored
    at_30 = int((docked.frequencies - 1 / 30).abs().argmin())
    assert docked.fsc_after[at_30] > 0.6 > 0.2 > docked.fsc_before[at_30]
