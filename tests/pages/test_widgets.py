"""The live widgets, without a browser: what they would send to it."""

import numpy as np
import pytest
import torch
from torch import nn

from cryostar_nb.latents import principal_components
from cryostar_nb.pages.widgets import latent_sliders, trajectory_player

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Along(nn.Module):
    """A decoder that moves the structure by 10 Å along x for each unit of the first latent."""

    def __init__(self, reference):
        super().__init__()
        self.reference = reference

    def forward(self, latents):
        return self.reference + 10 * latents[:, :1, None] * torch.tensor([1.0, 0.0, 0.0])


def test_the_player_has_the_frames_in_order(helix_nodes):
    frames = helix_nodes.positions + np.arange(5.0)[:, None, None]
    view = trajectory_player(helix_nodes, frames)
    assert view.max_frame == 4
    view.frame = 3
    np.testing.assert_allclose(view._coordinates_dict[0], frames[3])


def test_the_structure_follows_the_slider_from_particle_to_particle(helix_nodes):
    reference = torch.from_numpy(helix_nodes.positions).float()
    latents = torch.tensor([[float(i), 0.1 * (i % 2)] for i in range(11)])
    box = latent_sliders(Along(reference), latents, helix_nodes, components=2)
    slider, _, label, view = box.children
    sign = float(torch.sign(principal_components(latents).components[0, 0]))
    for percentile, particle in ((100, 10), (0, 0)):
        slider.value = percentile if sign > 0 else 100 - percentile
        assert label.value == f"particle {particle + 1}"
        moved = view._coordinates_dict[0] - helix_nodes.positions
        np.testing.assert_allclose(moved[:, 0], 10.0 * particle, atol=1e-4)
