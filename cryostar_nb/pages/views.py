"""Interactive 3D views of structures and densities, for notebooks and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from cryostar_nb.io.structures import pdb_text
from cryostar_nb.pages.figures import COLOURS
from cryostar_nb.structure import Structure

if TYPE_CHECKING:
    import py3Dmol


def view_structure(
    structure: Structure,
    frames: Float[np.ndarray, "frame atom 3"] | None = None,
    *,
    colour: Any = "spectrum",
    ghost: Float[np.ndarray, "atom 3"] | None = None,
    width: int | str = 640,
    height: int = 420,
    interval_ms: int = 80,
) -> py3Dmol.view:
    """A py3Dmol view of a structure, or of frames that play to and fro; `ghost` adds a still, grey structure for comparison.

    Nodes without side chains are drawn as a tube through Cα or P; full structures as cartoons.
    """
    import py3Dmol

    view = py3Dmol.view(width=width, height=height)
    frames = structure.positions[None] if frames is None else np.asarray(frames)
    coarse = len(structure) == len(set(structure.residue_keys))
    cartoon: dict[str, Any] = {"style": "trace", "thickness": 0.6} if coarse else {}
    view.addModelsAsFrames(pdb_text(structure, frames), "pdb")
    view.setStyle({"model": -1}, {"cartoon": cartoon | {"color": colour}})
    if ghost is not None:
        view.addModel(pdb_text(structure, np.asarray(ghost)[None]), "pdb")
        view.setStyle({"model": -1}, {"cartoon": cartoon | {"color": "#bbbbbb", "thickness": 0.3}})
    view.setBackgroundColor("white", 0)
    view.zoomTo()
    if len(frames) > 1:
        view.animate({"loop": "backAndForth", "interval": interval_ms})
    return view


def view_side_by_side(
    structure: Structure,
    panels: Mapping[
        str,
        tuple[Float[np.ndarray, "atom 3"], Float[np.ndarray, "atom 3"], Bool[np.ndarray, " atom"]],
    ],
    *,
    columns: int = 3,
    width: int | str = "100%",
    row_height: int = 270,
) -> py3Dmol.view:
    """A grid of py3Dmol views that turn together. `panels` maps a title to positions of a coarse-grained structure, those of a
    grey ghost, and the nodes to mark by colour.
    """
    import py3Dmol

    rows = -(-len(panels) // columns)
    view = py3Dmol.view(width=width, height=row_height * rows, viewergrid=(rows, columns))
    for number, (title, (positions, ghost, marked)) in enumerate(panels.items()):
        place = divmod(number, columns)
        for frame in (positions, ghost):
            view.addModel(pdb_text(structure, np.asarray(frame)[None]), "pdb", viewer=place)
        colours = {
            serial: COLOURS["accent"] if mark else COLOURS["star"]
            for serial, mark in enumerate(marked, start=1)
        }
        trace = {
            "style": "trace",
            "thickness": 0.6,
            "colorscheme": {"prop": "serial", "map": colours},
        }
        view.setStyle({"model": 0}, {"cartoon": trace}, viewer=place)
        view.setStyle(
            {"model": 1},
            {"cartoon": {"style": "trace", "thickness": 0.3, "color": "#bbbbbb"}},
            viewer=place,
        )
        label = {
            "position": {"x": 4, "y": 4, "z": 0},
            "useScreen": True,
            "fontColor": "#222222",
            "fontSize": 14,
        }
        label |= {
            "backgroundColor": "white",
            "backgroundOpacity": 0.85,
        }  # readable on a dark page, too
        view.addLabel(title, label, viewer=place)
    view.setBackgroundColor("white", 0)
    view.zoomTo()
    return view


def view_density(
    volume: Float[np.ndarray, "z y x"],
    pixel_size: float,
    level: float,
    *,
    colour: str = "#56B4E9",
    opacity: float = 0.7,
    view: py3Dmol.view | None = None,
) -> py3Dmol.view:
    """An isosurface of a density whose centre voxel is the origin, added to `view` or in a new one."""
    import py3Dmol

    view = py3Dmol.view(width=640, height=420) if view is None else view
    lowest = [-(size // 2) * pixel_size for size in volume.shape[::-1]]
    cube = _cube_text(np.asarray(volume), pixel_size, lowest)
    view.addVolumetricData(cube, "cube", {"isoval": level, "color": colour, "opacity": opacity})
    view.zoomTo()
    return view


def _cube_text(
    volume: Float[np.ndarray, "z y x"], pixel_size: float, lowest: Sequence[float]
) -> str:
    """A Gaussian cube file, the text format of densities that 3Dmol.js reads; its lengths are in Bohr."""
    bohr = 0.529177210903
    size = volume.shape[::-1]
    step = pixel_size / bohr
    lines = ["density", "x outer loop", "1 " + " ".join(f"{value / bohr:.6f}" for value in lowest)]
    lines += [
        f"{size[axis]} " + " ".join(f"{step if axis == other else 0.0:.6f}" for other in range(3))
        for axis in range(3)
    ]
    lines.append("1 0.0 0.0 0.0 0.0")
    lines.append(" ".join(f"{value:.4g}" for value in volume.transpose(2, 1, 0).ravel()))
    return "\n".join(lines)


def script_3dmol() -> str:
    """The text of 3Dmol.js, which ships with this package, for pages that must work without a network."""
    return (files("cryostar_nb") / "assets" / "3Dmol-min.js").read_text(encoding="utf-8")
