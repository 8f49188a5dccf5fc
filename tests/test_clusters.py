"""Clusters of latents: three blobs with noise between them, and clusters that are not there."""

import numpy as np
import pytest
import torch
from refusals import refused

from cryostar_nb import clusters
from cryostar_nb.clusters import Clusters, density_clusters, kmeans, middle

CENTRES = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [-4.0, 0.0, 0.0]])


@pytest.fixture
def blobs(generator):
    """Three blobs of 300 particles, and 60 particles anywhere; the blob of each, 3: of none."""
    of_blob = torch.arange(3).repeat_interleave(300)
    inside = CENTRES[of_blob] + 0.4 * torch.randn(900, 3, generator=generator)
    noise = 12 * torch.rand(60, 3, generator=generator) - 6
    return torch.cat([inside, noise]), torch.cat([of_blob, torch.full((60,), 3)]).numpy()


def agrees(found, truth):
    """Whether the blobs are the clusters 3, 2 and 1, for they are ordered along the first axis."""
    return [np.mean(found.labels[truth == blob] == 3 - blob) for blob in range(3)]


def test_kmeans_finds_three_blobs_in_the_order_of_the_first_component(blobs):
    latents, truth = blobs
    found = kmeans(latents[:900], 3, along=latents[:900, 0])
    assert agrees(found, truth[:900]) == [1, 1, 1]
    assert found.count == 3 and found.sizes == [0, 300, 300, 300]
    torch.testing.assert_close(found.centres(latents), CENTRES.flip(0), atol=0.1, rtol=0)
    again = kmeans(latents[:900], 3, along=latents[:900, 0])
    assert np.array_equal(found.labels, again.labels)


def test_density_finds_three_blobs_and_leaves_the_noise_out(blobs):
    latents, truth = blobs
    found = density_clusters(latents)
    assert found.count == 3 and min(agrees(found, truth)) > 0.95
    assert np.mean(found.labels[truth == 3] == 0) > 0.7 > 5 * np.mean(found.labels[:900] == 0)


def test_of_many_particles_some_are_clustered_and_the_others_go_with_them(blobs, monkeypatch):
    monkeypatch.setattr(clusters, "MOST_CLUSTERED", 480)
    latents, truth = blobs
    found = density_clusters(latents)
    assert found.count == 3 and min(agrees(found, truth)) > 0.9


def test_one_blob_has_no_clusters_by_density(generator):
    found = density_clusters(torch.randn(1500, 3, generator=generator))
    assert found.count == 0 and found.sizes == [1500]


def test_the_middle_of_a_ring_lies_on_the_ring(generator):
    angle = 2 * torch.pi * torch.rand(500, generator=generator)
    ring = torch.stack([angle.cos(), angle.sin()], dim=1)
    assert ring.mean(0).norm() < 0.15
    assert middle(ring).norm() > 0.98
    both = Clusters(np.repeat([1, 2], 250))
    assert (both.middles(ring).norm(dim=1) > 0.98).all()


def test_clusters_that_are_not_there_are_refused(blobs):
    latents, _ = blobs
    found = Clusters(np.array([1, 2, 2, 1]))
    assert found.rows(2).tolist() == [1, 2]
    with refused(value=3):
        found.rows(3)
    with refused(value=0):  # nobody is in none
        found.rows(0)
    with refused(value=0):
        kmeans(latents, 0, along=latents[:, 0])
    with refused(value=3):
        kmeans(latents[:2].repeat(5, 1), 3, along=latents[:2, 0].repeat(5))
