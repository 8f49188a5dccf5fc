"""Neighbours and junk: how many, where, and what the images show."""

import numpy as np
import pytest
import torch

from cryostar_nb.io.structures import read_structure
from cryostar_nb.simulation.crowd import draw_crowd, other_molecule
from cryostar_nb.simulation.faults import JUNK_KINDS, draw_junk
from cryostar_nb.simulation.options import SimulationConfig

CLEAN = {"snr": 1e9}
CONFIG = SimulationConfig(n_particles=10_000, box_size=32, pixel_size=3.0)


def crowd_of(junk, neighbours):
    return draw_crowd(junk, neighbours, 3, CONFIG, reach=20.0)


def test_neighbours_are_poisson_and_reach_into_the_box_from_outside_the_particle():
    junk = np.zeros(10_000, dtype=np.int8)
    crowd = crowd_of(junk, 0.8)
    count = crowd.neighbours(junk)
    assert (count.mean(), count.var()) == pytest.approx((0.8, 0.8), rel=0.05)
    distance = crowd.centres.norm(dim=-1)
    assert float(distance.min()) > 20.0
    to_box = (crowd.centres.abs() - 48).clamp(min=0).norm(dim=-1)
    assert float(to_box.max()) < 20.0 and float(to_box.max()) > 19
    assert set(crowd.state.tolist()) == {0, 1, 2}
    assert (np.diff(crowd.image) >= 0).all()
    assert len(crowd_of(junk, 0.0)) == 0


def test_a_neighbour_changes_its_image_alone_and_is_no_signal(simulated):
    alone, made = simulated("alone", config=CLEAN), simulated(neighbours=0.5, config=CLEAN)
    change = (made.images - alone.images).square().mean((1, 2)).sqrt()
    count = made.truth["neighbours"]
    assert 0.3 < count.mean() < 0.7
    assert float(change[count == 0].max()) < 1e-6 * float(alone.images.std())
    assert np.median(change[count > 0]) > 0.05 * float(alone.images.std())
    assert made.truth["snr_measured"] == alone.truth["snr_measured"]
    assert made.truth["noise_sd"] == alone.truth["noise_sd"]


def test_a_neighbour_that_leaves_the_box_does_not_come_in_at_the_other_side(simulated, monkeypatch):
    def at_the_right(count, *_):
        return np.tile([[48.0, 0.0]], (count, 1))

    # Two states of one density, hardly defocused: the image is where the molecule is.
    config = CLEAN | {"defocus_log_mean": -3.0, "amplitude_contrast": 1.0, "box_size": 33}
    alone = simulated("alone", config=config)
    monkeypatch.setattr("cryostar_nb.simulation.crowd._places_beside", at_the_right)
    made = simulated(neighbours=3.0, config=config)
    change = (made.images - alone.images).square().mean((0, 1)).sqrt()  # per column
    assert float(change[-3:].mean()) > 20 * float(change[:11].mean())


def test_junk_has_its_share_in_equal_parts_of_kinds(rng):
    junk = draw_junk(0.2, 1000, rng)
    assert np.bincount(junk).tolist() == [800, 50, 50, 50, 50]
    assert (np.diff(np.flatnonzero(junk)) > 1).any() and junk.dtype == np.int8
    assert np.count_nonzero(draw_junk(0.99, 5, rng)) == 4


def test_junk_shows_what_its_kind_says(simulated):
    good, made = simulated("good", config=CLEAN), simulated(junk=0.4, config=CLEAN)
    junk, power = made.truth["junk"], made.images.square().mean((1, 2)).sqrt()
    assert np.bincount(junk).tolist() == [120, 20, 20, 20, 20]
    kinds = {kind: junk == JUNK_KINDS.index(kind) for kind in JUNK_KINDS}
    typical = float(good.images.std())
    assert float(power[kinds["empty"]].max()) < 1e-3 * typical
    assert torch.allclose(
        made.images[kinds["good"]], good.images[kinds["good"]], atol=1e-3 * typical
    )
    assert power[kinds["aggregate"]].mean() > 1.3 * power[kinds["good"]].mean()
    assert 0.3 < power[kinds["another molecule"]].mean() / power[kinds["good"]].mean() < 3
    likeness = torch.cosine_similarity(made.images.flatten(1), good.images.flatten(1))
    for kind in JUNK_KINDS[2:]:
        assert float(power[kinds[kind]].min()) > 0
        assert float(likeness[kinds[kind]].median()) < 0.8
    off = kinds["off the centre"]
    x = torch.arange(32) - 16
    middle = (x[:, None] ** 2 + x**2).sqrt() < 4
    share = made.images.square()[:, middle].sum(-1) / made.images.square().sum((1, 2))
    assert share[off].median() < 0.5 * share[kinds["good"]].median()
    assert not made.truth["neighbours"].any()
    assert made.truth["snr_measured"] == pytest.approx(1e9, rel=1e-5)


def test_the_other_molecule_is_as_large_and_has_another_shape(helix_ends, rng):
    atoms = read_structure(helix_ends["start"]).positions
    other = other_molecule(atoms, rng)
    assert other.shape == atoms.shape
    np.testing.assert_allclose(other.mean(0), 0, atol=1e-9)
    assert np.linalg.norm(other, axis=-1).max() <= np.linalg.norm(atoms, axis=-1).max() + 1e-9
    own, its = (np.linalg.norm(x - x.mean(0), axis=-1) for x in (atoms, other))
    assert 0.4 < np.sqrt((its**2).mean() / (own**2).mean()) <= 1.001
    assert np.linalg.svd(other - other.mean(0))[1][1] > 2 * np.linalg.svd(atoms)[1][1]
