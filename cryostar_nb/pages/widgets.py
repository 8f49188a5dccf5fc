"""Widgets for live work in JupyterLab: a player for a motion, and sliders through a latent space. They need a running kernel."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryostar_nb.io.structures import pdb_text
from cryostar_nb.latents import components_from_reference
from cryostar_nb.structure import Structure


def trajectory_player(nodes: Structure, frames: Float[np.ndarray, "frame atom 3"]) -> Any:
    """An nglview widget that plays frames, positions in Å, with a button and a slider below it."""
    import nglview  # here, and below: it is slow to import

    class Motion(nglview.Structure, nglview.Trajectory):  # type: ignore[misc]  # nglview has no types
        """What nglview asks for: the atoms as text, and their positions in each frame."""

        n_frames = len(frames)

        def get_structure_string(self) -> str:
            return pdb_text(nodes.with_positions(frames[0]))

        def get_coordinates(self, index: int) -> Float[np.ndarray, "atom 3"]:
            return frames[index]

    return _as_tube(nglview.NGLWidget(Motion(), default_representation=False))


def latent_sliders(
    decoder: nn.Module,
    latents: Float[Tensor, "particle latent"],
    nodes: Structure,
    *,
    components: int = 3,
) -> Any:
    """A structure that follows sliders: the percentile of the particles along each of the first principal components.

    Shown is the particle whose scores are nearest to those of the sliders, in units of each component's standard deviation:
    what is decoded is always the latent of a particle, never of a place where there is none.
    """
    import ipywidgets
    import nglview

    reference = torch.from_numpy(nodes.positions).float()
    scores = components_from_reference(decoder, latents, reference).scores[:, :components]
    spread = scores.std(0).clamp(min=1e-12)
    sliders = [
        ipywidgets.IntSlider(50, 0, 100, description=f"PC{number + 1} (%)")
        for number in range(scores.shape[1])
    ]
    label = ipywidgets.Label()

    def chosen() -> Float[np.ndarray, "atom 3"]:
        wanted = torch.stack(
            [
                torch.quantile(score, slider.value / 100)
                for score, slider in zip(scores.T, sliders, strict=True)
            ]
        )
        particle = int(((scores - wanted) / spread).square().sum(-1).argmin())
        label.value = f"particle {particle + 1}"
        with torch.no_grad():
            return decoder(latents[[particle]])[0].numpy()

    first = nglview.TextStructure(pdb_text(nodes.with_positions(chosen())))
    view = _as_tube(nglview.NGLWidget(first, default_representation=False))
    for slider in sliders:
        slider.observe(lambda _: view.set_coordinates({0: chosen()}), names="value")
    return ipywidgets.VBox([*sliders, label, view])


def _as_tube(view: Any) -> Any:
    view.add_representation("tube", radius=0.6, color="residueindex")
    view.center()
    return view
