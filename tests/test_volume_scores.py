"""How alike densities are, and neighbours: where the answer is known."""

import numpy as np
import pytest
import torch
from tiny import Line

from cryostar_nb.density import model_density, node_density
from cryostar_nb.volume_scores import (
    NEIGHBOURHOODS,
    correlation_area,
    neighbourhood_similarity,
    volume_scores,
)

STATES, EACH = 6, 20


@pytest.fixture
def line(helix_nodes):
    """A decoder that moves all nodes along x, the states that it can reach, and their latents."""
    reference = torch.from_numpy(helix_nodes.positions).float()
    decoder, steps = Line(reference), torch.arange(STATES).float()
    states = torch.arange(STATES).repeat_interleave(EACH)
    latents = torch.stack([steps[states], torch.zeros(len(states))], dim=1)
    positions = decoder(torch.stack([steps, steps], dim=1))
    return decoder, latents, states, positions, reference


def scores(line, latents, nodes, **changes):
    decoder, _, states, positions, reference = line
    size = {"box_size": 48, "pixel_size": 1.5} | changes
    density = node_density(nodes, 2.0)
    return volume_scores(decoder, latents, states, positions, reference, density=density, **size)


def test_the_area_of_two_equal_maps_is_nearly_a_half_and_that_of_others_is_less(asymmetric):
    positions, electrons = asymmetric
    size = {"box_size": 32, "pixel_size": 1.0}
    first = model_density(positions, electrons, 2.0, **size)
    other = model_density(positions.flip(0), electrons, 2.0, **size)
    assert correlation_area(first, first) == pytest.approx(15 / 32, abs=1e-4)
    assert correlation_area(first, 5 * first) == pytest.approx(15 / 32, abs=1e-4)
    assert correlation_area(first, other) < 0.3
    assert correlation_area(first, -first) == pytest.approx(-14 / 32, abs=1e-4)  # 1 at 0, as always


def test_the_right_structures_have_the_highest_areas(line, helix_nodes):
    found = scores(line, line[1], helix_nodes)
    highest = found["fsc_auc_highest"]
    assert found["fsc_auc_per_image"] == pytest.approx(highest, abs=1e-3)
    assert found["fsc_auc_per_conformation"] == pytest.approx(highest, abs=1e-3)
    assert found["fsc_auc_do_nothing"] < highest - 0.1


def test_an_image_may_be_wrong_where_its_conformation_is_right(line, helix_nodes):
    """Errors that differ from image to image are averaged out of a conformation."""
    latents = line[1].clone()
    latents[::2, 0] += 1.5
    latents[1::2, 0] -= 1.5
    found = scores(line, latents, helix_nodes)
    assert found["fsc_auc_per_conformation"] > found["fsc_auc_per_image"] + 0.05


def test_the_box_is_cut_to_the_molecule_and_says_the_same(line, helix_nodes):
    first, second = (scores(line, line[1] + 0.3, helix_nodes, box_size=n) for n in (64, 256))
    assert first["fsc_auc_per_image"] == pytest.approx(second["fsc_auc_per_image"], abs=0.01)


def test_neighbours_are_all_true_in_the_right_order_and_by_chance_in_any(rng):
    count = 400
    states, steps = torch.arange(count), torch.arange(float(count))
    distances = (steps[:, None] - steps).abs()
    right = torch.stack([steps, 0.001 * steps], 1)
    for part in NEIGHBOURHOODS:
        assert neighbourhood_similarity(right, distances, states, part) > 0.94
        shuffled = right[torch.from_numpy(rng.permutation(count))]
        found = neighbourhood_similarity(shuffled, distances, states, part)
        assert found == pytest.approx(part, abs=0.03)


def test_particles_of_one_state_are_equally_near(rng):
    """Of the nineteen others of a state any ten are as right."""
    states = torch.arange(STATES).repeat_interleave(EACH)
    steps = torch.arange(float(STATES))
    distances = (steps[:, None] - steps).abs()
    latents = torch.stack([states.float(), torch.from_numpy(0.01 * rng.random(len(states)))], 1)
    part = 10 / (len(states) - 1)
    found = neighbourhood_similarity(latents.float(), distances, states, part)
    assert found == pytest.approx(10 / 19, abs=1e-6)
    whole = 19 / (len(states) - 1)
    assert neighbourhood_similarity(latents.float(), distances, states, whole) == pytest.approx(1)
    assert np.isfinite(found)
