"""Interactive 3D views of structures and densities, for notebooks and pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import py3Dmol
import torch
from jaxtyping import Bool, Float
from markupsafe import Markup
from torch import Tensor

from cryostar_nb.backbone import in_helix
from cryostar_nb.io.structures import pdb_text
from cryostar_nb.pages.figures import COLOURS
from cryostar_nb.pages.html import Fragment, own_3dmol
from cryostar_nb.pages.microscope import microscope_page
from cryostar_nb.structure import Structure

BOHR = 0.529177210903  # Å
_TUBE = {"style": "trace", "thickness": 0.6}
_THIN_GREY = {"thickness": 0.3, "color": "#bbbbbb"}
_RIBBON = {"thickness": 0.5}
_FAINT_GREY = {"color": "#bbbbbb", "opacity": 0.85}
_LABEL = {"position": {"x": 4, "y": 4, "z": 0}, "useScreen": True, "fontSize": 14}
# Readable on a dark page, too.
_LABEL |= {"fontColor": "#222222", "backgroundColor": "white", "backgroundOpacity": 0.85}

Positions: TypeAlias = Float[np.ndarray | Tensor, "atom 3"]


class View(py3Dmol.view):  # type: ignore[misc]  # no types
    """A py3Dmol view that carries 3Dmol.js, and so needs neither a network nor another output.

    It takes all that a py3Dmol view takes: `view.zoom(1.2)`, `view.spin(True)`, `view.show()`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(js="", **options)

    def within_page(self) -> Markup:
        """Its HTML for a page that has 3Dmol.js."""
        return Markup(super()._make_html())

    def _make_html(self) -> str:
        return own_3dmol() + self.within_page()

    def _repr_html_(self) -> str:
        return self._make_html()

    def show(self) -> None:
        """Show it as the output of a notebook's cell."""
        from IPython.display import HTML, display  # notebooks have it; a run does not need it

        display(HTML(self._make_html()))


def structure(
    nodes: Structure,
    frames: Float[np.ndarray | Tensor, "frame atom 3"] | None = None,
    *,
    colour: Any = "spectrum",
    ghost: Positions | None = None,
    width: int | str = 640,
    height: int = 420,
    interval_ms: int = 80,
) -> View:
    """A view of a structure, or of frames that play to and fro; positions in Å.

    `ghost` adds a still, grey structure for comparison. Nodes without side chains are drawn as a
    tube through Cα or P; full structures as cartoons.
    """
    view = View(width=width, height=height)
    frames = nodes.positions[None] if frames is None else np.asarray(frames)
    coarse = len(nodes) == len(set(nodes.residue_keys))
    cartoon: dict[str, Any] = _TUBE if coarse else {}
    view.addModelsAsFrames(pdb_text(nodes, frames), "pdb")
    view.setStyle({"model": -1}, {"cartoon": cartoon | {"color": colour}})
    if ghost is not None:
        view.addModel(pdb_text(nodes, np.asarray(ghost)[None]), "pdb")
        view.setStyle({"model": -1}, {"cartoon": cartoon | _THIN_GREY})
    view.setBackgroundColor("white", 0)
    view.zoomTo()
    if len(frames) > 1:
        view.animate({"loop": "backAndForth", "interval": interval_ms})
    return view


def coloured(
    nodes: Structure,
    positions: Positions,
    values: Float[np.ndarray, " atom"],
    *,
    width: int | str = 640,
    height: int = 420,
) -> View:
    """A view of one structure, coloured by a number of each node: blue is low, red is high."""
    view = View(width=width, height=height)
    text = pdb_text(nodes, np.asarray(positions)[None], np.asarray(values, np.float64)[None])
    view.addModel(text, "pdb")
    ends = {"min": float(values.max()), "max": float(values.min())}
    scheme = {"colorscheme": {"prop": "b", "gradient": "rwb"} | ends}
    view.setStyle({"cartoon": _TUBE | scheme})
    view.setBackgroundColor("white", 0)
    view.zoomTo()
    return view


def side_by_side(
    nodes: Structure,
    panels: Mapping[str, tuple[Positions, Positions, Bool[np.ndarray, " atom"]]],
    *,
    columns: int = 3,
    width: int | str = "100%",
    row_height: int = 270,
) -> View:
    """A grid of views that turn together: ribbons through Cα, wide where there is a helix.

    `panels` maps a title to the positions of the nodes, those of a grey ghost (both in Å), and the
    nodes to mark by colour. A chain is drawn as far as its nodes are joined; a helix is one where
    `in_helix` finds it in the positions.
    """
    rows = -(-len(panels) // columns)
    view = View(width=width, height=row_height * rows, viewergrid=(rows, columns))
    for number, (title, (positions, ghost, marked)) in enumerate(panels.items()):
        place = divmod(number, columns)
        for frame in (positions, ghost):
            view.addModel(_ribbon_text(nodes, np.asarray(frame, np.float64)), "pdb", viewer=place)
        colours = {
            2 * node + atom: COLOURS["accent" if mark else "cryoSTAR"]
            for node, mark in enumerate(marked)
            for atom in (1, 2)  # Cα and O
        }
        scheme = {"colorscheme": {"prop": "serial", "map": colours}}
        view.setStyle({"model": 0}, {"cartoon": _RIBBON | scheme}, viewer=place)
        view.setStyle({"model": 1}, {"cartoon": _RIBBON | _FAINT_GREY}, viewer=place)
        view.addLabel(title, _LABEL, viewer=place)
    view.setBackgroundColor("white", 0)
    view.zoomTo()
    return view


def _ribbon_text(nodes: Structure, positions: Float[np.ndarray, "atom 3"]) -> str:
    """PDB text for a ribbon through nodes: each Cα with an O, and a record for each helix.

    3Dmol.js turns a ribbon towards O. In a helix O points along the axis, which is the direction of
    the cross product of the steps to and from a Cα; in a strand it turns from residue to residue.
    """
    steps = np.diff(positions, axis=0)
    across = np.cross(steps[:-1], steps[1:])
    across = np.concatenate([across[:1], across, across[-1:]])
    length = np.linalg.norm(across, axis=-1, keepdims=True)
    oxygens = positions + 2.0 * across / np.maximum(length, 1e-6)
    keys = list(dict.fromkeys(map(str, nodes.chains)))
    chains = ["ABCDEFGHIJKLMNOPQRSTUVWXYZ"[keys.index(str(name)) % 26] for name in nodes.chains]
    numbers = [int(number) % 10_000 for number in nodes.residue_numbers]
    helical = in_helix(torch.from_numpy(positions), nodes).numpy()
    lines, ends = [], np.flatnonzero(np.diff(np.r_[0, helical, 0]))
    for number, (first, last) in enumerate(zip(ends[::2], ends[1::2] - 1, strict=True), start=1):
        name = f"HELIX  {number % 1000:3d} {number % 1000:3d} ALA "
        start = f"{chains[first]} {numbers[first]:4d}  ALA "
        lines.append(f"{name}{start}{chains[last]} {numbers[last]:4d}  1")
    for node, (chain, number) in enumerate(zip(chains, numbers, strict=True)):
        atoms = {"CA": positions[node], "O": oxygens[node]}
        if nodes.atom_names[node] != "CA":
            atoms = {str(nodes.atom_names[node]): positions[node]}
        for k, (name, place) in enumerate(atoms.items(), start=1):
            x, y, z = place
            head = f"ATOM  {(2 * node + k) % 100_000:5d}  {name:<3s} ALA {chain}{number:4d}    "
            lines.append(f"{head}{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {name[0]:>2s}")
    return "\n".join(lines)


def arrows(
    starts: Positions,
    ends: Positions,
    *,
    colour: str = COLOURS["accent"],
    shortest: float = 1.0,
    radius: float = 0.6,
    view: View | None = None,
) -> View:
    """Arrows from positions to positions, in Å, added to `view` or in a new one.

    A displacement below `shortest` Å gets none: points that stand still would hide those that move.
    """
    view = View(width=640, height=420) if view is None else view
    pairs = np.stack([np.asarray(starts), np.asarray(ends)], axis=1).astype(float)
    moved = np.linalg.norm(pairs[:, 1] - pairs[:, 0], axis=-1) >= shortest
    for start, end in pairs[moved].round(2).tolist():
        places = {"start": dict(zip("xyz", start, strict=True))}
        places["end"] = dict(zip("xyz", end, strict=True))
        view.addArrow(places | {"radius": radius, "radiusRatio": 2.2, "mid": 0.7, "color": colour})
    view.zoomTo()
    return view


def density(
    volume: Float[np.ndarray, "z y x"],
    pixel_size: float,
    level: float,
    *,
    colour: str = "#56B4E9",
    opacity: float = 0.7,
    view: View | None = None,
) -> View:
    """An isosurface of a density, added to `view` or in a new one.

    The centre voxel, `size // 2` along each axis, is the origin; `pixel_size` is in Å.
    """
    view = View(width=640, height=420) if view is None else view
    cube = _cube_text(np.asarray(volume), pixel_size)
    view.addVolumetricData(cube, "cube", {"isoval": level, "color": colour, "opacity": opacity})
    view.zoomTo()
    return view


def microscope(atoms: Structure) -> Fragment:
    """A molecule that turns, beside its projection and the image behind the lens.

    Sliders set the defocus and the SNR; the page computes the images itself.
    """
    return Fragment.with_3dmol(microscope_page(atoms))


def _cube_text(volume: Float[np.ndarray, "z y x"], pixel_size: float) -> str:
    """A Gaussian cube file, the text format of densities that 3Dmol.js reads; lengths in Bohr."""
    step = pixel_size / BOHR
    corner = " ".join(f"{-(size // 2) * step:.6f}" for size in volume.shape[::-1])
    lines = ["density", "x outer loop", f"1 {corner}"]
    for axis, size in enumerate(volume.shape[::-1]):
        edge = " ".join(f"{step if axis == other else 0.0:.6f}" for other in range(3))
        lines.append(f"{size} {edge}")
    lines.append("1 0.0 0.0 0.0 0.0")
    lines.append(" ".join(f"{value:.4g}" for value in volume.transpose(2, 1, 0).ravel()))
    return "\n".join(lines)
