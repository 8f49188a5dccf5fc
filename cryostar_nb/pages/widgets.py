"""Widgets for JupyterLab and Colab, which need a kernel: a player for a motion, sliders for the
latents.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.io.structures import pdb_text
from cryostar_nb.structure import Structure

if TYPE_CHECKING:
    from cryostar_nb.runs.run import Run


def trajectory_player(nodes: Structure, frames: Float[np.ndarray | Tensor, "frame atom 3"]) -> Any:
    """An nglview widget that plays frames, positions in Å, with a button and a slider below it."""
    import nglview  # here, and below: it is slow to import

    positions = np.asarray(frames)

    class Motion(nglview.Structure, nglview.Trajectory):  # type: ignore[misc]  # no types
        """What nglview asks for: the atoms as text, and their positions in each frame."""

        n_frames = len(positions)

        def get_structure_string(self) -> str:
            return pdb_text(nodes.with_positions(positions[0]))

        def get_coordinates(self, index: int) -> Float[np.ndarray, "atom 3"]:
            return positions[index]

    return _as_tube(nglview.NGLWidget(Motion(), default_representation=False))


def latent_sliders(run: Run, components: int = 3) -> Any:
    """A structure that follows sliders, one for each of the first principal components.

    A slider gives a percentile of the particles along its component. The widget shows the structure
    of the particle whose scores are nearest to those of the sliders, in units of each component's
    standard deviation: the decoder never sees a latent where there is no particle. What does not
    move stays still.
    """
    import ipywidgets
    import nglview

    latents, scores = run.latents, run.components().scores[:, :components]
    spread = scores.std(0).clamp(min=1e-12)
    sliders = [
        ipywidgets.IntSlider(50, 0, 100, description=f"PC{number + 1} (%)")
        for number in range(scores.shape[1])
    ]
    label = ipywidgets.Label()

    def chosen_positions() -> Float[np.ndarray, "atom 3"]:
        pairs = zip(scores.T, sliders, strict=True)
        wanted = [torch.quantile(score, slider.value / 100) for score, slider in pairs]
        distances = ((scores - torch.stack(wanted)) / spread).square().sum(-1)
        particle = int(distances.argmin())
        label.value = f"particle {particle + 1}"
        return run.gauge.apply(run.decode(latents[[particle]]))[0].numpy()

    first = nglview.TextStructure(pdb_text(run.nodes.with_positions(chosen_positions())))
    view = _as_tube(nglview.NGLWidget(first, default_representation=False))
    for slider in sliders:
        slider.observe(lambda _: view.set_coordinates({0: chosen_positions()}), names="value")
    return ipywidgets.VBox([*sliders, label, view])


def _as_tube(view: Any) -> Any:
    if "google.colab" in sys.modules:  # it shows widgets of its own alone, until it is asked
        from google.colab import output

        output.enable_custom_widget_manager()
    view.add_representation("tube", radius=0.6, color="residueindex")
    view.center()
    return view
