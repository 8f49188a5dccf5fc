"""The live widgets, without a browser: what they would send to it."""

import dataclasses
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from cryostar_nb.pages.widgets import latent_sliders, trajectory_player

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_the_player_has_the_frames_in_order(helix_nodes):
    frames = helix_nodes.positions + np.arange(5.0)[:, None, None]
    view = trajectory_player(helix_nodes, frames)
    assert view.max_frame == 4
    view.frame = 3
    np.testing.assert_allclose(view._coordinates_dict[0], frames[3])


def test_in_colab_widgets_of_others_are_enabled(helix_nodes, monkeypatch):
    asked, names = [], ("google", "google.colab", "google.colab.output")
    google, colab, output = (ModuleType(name) for name in names)
    google.colab, colab.output = colab, output
    output.enable_custom_widget_manager = lambda: asked.append(True)
    for name, module in zip(names, (google, colab, output), strict=True):
        monkeypatch.setitem(sys.modules, name, module)
    trajectory_player(helix_nodes, helix_nodes.positions[None])
    assert asked == [True]


def test_the_structure_follows_the_slider_from_particle_to_particle(run):
    latents = torch.tensor([[float(i), 0.1 * (i % 2)] for i in range(11)])
    box = latent_sliders(dataclasses.replace(run, latents=latents), components=2)
    slider, _, label, view = box.children
    for percentile, particle in ((100, 10), (0, 0)):  # the first component leads away from 0
        slider.value = percentile
        assert label.value == f"particle {particle + 1}"
        moved = view._coordinates_dict[0] - run.nodes.positions
        np.testing.assert_allclose(moved[-6:, 0], 10.0 * particle, atol=0.01)
        np.testing.assert_allclose(moved[:-6], 0, atol=0.01)  # what does not move stays still
