"""The doctor on ten real particles of TRPV1 and its map, and a model docked into a map whose header has no voxel size."""

import dataclasses

import numpy as np
import pytest
import torch
from faults import IN_THE_FILE, spoil_images, spoil_particles, verdict

from cryostar_nb.doctor import verdict as verdict_module
from cryostar_nb.doctor.diagnosis import diagnose
from cryostar_nb.doctor.placing import dock_into_map
from cryostar_nb.errors import InputError
from cryostar_nb.io.maps import read_map
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.structures import read_nodes


@pytest.fixture
def trpv1(external_data, tmp_path, write_stack):
    """Ten particles, with what is wrong with them; and the map."""
    source = external_data / "trpv1"
    (tmp_path / "batch_0_restacked.mrc").symlink_to(
        source / "trpv1_small_stack.mrcs"
    )  # the name in the STAR file

    def make(*faults):
        particles = read_particles(source / "trpv1_small_stack.star", root=tmp_path)
        images = spoil_images(particles.images(slice(None)), particles, faults)
        stack = write_stack(
            tmp_path / "spoilt.mrcs", images.numpy(), pixel_size=particles.pixel_size
        )
        return dataclasses.replace(spoil_particles(particles, faults), stacks=(stack,)), read_map(
            source / "trpv1_volume.mrc"
        )

    return make


@pytest.mark.parametrize("fault", [None, "contrast sign", *IN_THE_FILE])
def test_ten_real_particles_show_what_is_wrong_with_them(trpv1, fault, monkeypatch):
    if fault is not None:  # with docking it takes longer, and the verdict is the same
        monkeypatch.setattr(verdict_module, "docked", lambda sample, reference: [])
    faults = () if fault is None else (fault,)
    particles, density = trpv1(*faults)
    found = diagnose(particles, density=density)
    assert found.verdict == verdict(faults)
    assert found.needed <= 10


def test_at_20_angstrom_they_name_the_right_convention(trpv1):
    particles, density = trpv1()
    found = diagnose(particles, density=density, resolution=20.0)
    assert found.verdict == "ok"
    assert "phase flipped" in found.notes[-1]  # down to 20 Å their CTF has one sign


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_map_is_of_the_other_hand(trpv1, axis, monkeypatch):
    monkeypatch.setattr(verdict_module, "docked", lambda sample, reference: [])
    particles, density = trpv1()
    n = density.box_size
    turned = density.values.index_select(axis, torch.from_numpy((2 * (n // 2) - np.arange(n)) % n))
    assert (
        diagnose(particles, density=dataclasses.replace(density, values=turned)).verdict == "hand"
    )


def test_the_spliceosome_is_docked_into_a_map_of_it(external_data):
    path = external_data / "spliceosome" / "state1_64px.mrc"
    with pytest.raises(InputError, match="voxel size of 0 Å"):
        read_map(path)
    nodes = read_nodes(external_data / "spliceosome" / "5nrl_rebuilt.cif.gz")
    docked = dock_into_map(nodes, read_map(path, pixel_size=8.495))
    assert docked.frame == "map" and docked.angle < 3  # the map is in the orientation of the model
    assert docked.after > 0.55 > 0.1 > docked.before and docked.after > 3 * docked.mirrored
    at_30 = int((docked.frequencies - 1 / 30).abs().argmin())
    assert docked.fsc_after[at_30] > 0.6 > 0.2 > docked.fsc_before[at_30]
