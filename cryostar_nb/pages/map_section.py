"""The part of a run's report about its maps: how they agree with themselves, and with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.figure import Figure

from cryostar_nb.fourier import FSC_LEVEL
from cryostar_nb.pages import figures
from cryostar_nb.pages.html import picture, render, table
from cryostar_nb.pages.map_view import map_view
from cryostar_nb.pages.terminal import angstroms
from cryostar_nb.reconstruction import DISAGREES, HALVES_LEVEL

if TYPE_CHECKING:
    from cryostar_nb.runs.maps import Maps

HEADINGS = (
    "map",
    "particles",
    "half-maps agree to",
    "model and map agree to",
    "residues that disagree",
)
PARTS = {"clusters": "clusters of the latents", "chosen": "chosen particles"}  # else bins
LEVELS = (HALVES_LEVEL, FSC_LEVEL)  # of half-maps, and of model and map


def map_section(maps: Maps, chains: Shaped[np.ndarray, " residue"]) -> Markup:
    """A table of the maps, their 3D view where the files are still there, and pictures of how they
    agree, by shell and by residue.
    """
    rows = [
        (
            one.name,
            f"{one.particles:,.0f}",
            angstroms(one.resolution),
            angstroms(one.model_resolution),
            f"{len(one.disagreeing)} of {len(one.residues)}",
        )
        for one in maps.maps
    ]
    files = [maps.path(n).with_suffix(s) for n in range(len(rows)) for s in (".mrc", ".cif")]
    return render(
        "map_section.html",
        maps=maps,
        parts=PARTS.get(maps.kind, f"bins along {maps.kind.upper()}"),
        rows=table(rows, HEADINGS),
        view=map_view(maps) if all(path.exists() for path in files) else None,
        curves=picture(shell_agreement(maps), "Fourier shell correlation of half-maps and model"),
        local=picture(residue_agreement(maps, chains), "correlation of model and map by residue"),
    )


def residue_agreement(maps: Maps, chains: Shaped[np.ndarray, " residue"]) -> Figure:
    """How model and map agree about each residue, chain after chain; low is where they do not."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    ax = figure.add_subplot()
    ax.axhspan(-1, DISAGREES, color=figures.COLOURS["accent"], alpha=0.12, linewidth=0)
    lowest = DISAGREES - 0.2
    for number, one in enumerate(maps.maps):
        values = np.array(one.residues, dtype=float)  # None, as in JSON, is NaN: no value
        colour = colormaps["viridis"](0.9 * number / max(1, len(maps.maps) - 1))
        ax.plot(np.arange(1, len(values) + 1), values, color=colour, linewidth=1, label=one.name)
        lowest = min(lowest, float(np.nanmin(values, initial=1.0)))
    for place in np.flatnonzero(chains[1:] != chains[:-1]):
        ax.axvline(place + 1.5, color="0.6", linewidth=0.8)
    ax.set(xlabel="residue", ylabel="local correlation", ylim=(lowest - 0.05, 1.02))
    ax.set_xlim(0.5, len(chains) + 0.5)
    ax.legend(frameon=False, ncols=5, fontsize=8)
    return figure


def shell_agreement(maps: Maps) -> Figure:
    """FSC of the half-maps, and of model and map, of each map."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    titles = ("half-maps", "model and map")
    names = ("fsc_halves", "fsc_model")
    for ax, name, title, level in zip(figure.subplots(1, 2), names, titles, LEVELS, strict=True):
        curves = {one.name: getattr(one, name) for one in maps.maps}
        figures.fsc(maps.maps[0].frequencies, curves, level=level, ax=ax)
        ax.set_title(title, fontsize=10)
        ax.legend(frameon=False, fontsize=7)
    return figure
