"""The latent explorer: a piece of a page on which a reader walks through the latent space.

Point at the density of the latents, or use the arrow keys: the structure of the nearest particle
moves in 3D, beside its projection and the particle's own image. It needs no kernel; everything but
3Dmol.js is inside the HTML (`html.own_3dmol` carries that into a notebook's output).
"""

from __future__ import annotations

import base64
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from markupsafe import Markup
from scipy.cluster.vq import kmeans2
from scipy.spatial import cKDTree
from torch import Tensor

from cryostar_nb.errors import about_file
from cryostar_nb.evaluation import compared
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import rmsd
from cryostar_nb.io.truth import read_truth
from cryostar_nb.pages.figures import component_labels
from cryostar_nb.pages.html import render
from cryostar_nb.structure import Structure

if TYPE_CHECKING:
    from cryostar_nb.runs.run import Run

SIDE = 64  # pixels of a picture
BINS = (36, 48)  # of the density of particles, upwards and to the right
MOST_NODES = 250_000  # of all structures together: a browser reads them in a second or two
GREY_PERCENTILES = (2, 99.8)  # of a picture's values, drawn black and white
LARGEST_INTEGER = 32_000  # of a coordinate, which is stored in 16 bits
_numbers = itertools.count(1)


def representatives(
    scores: Float[np.ndarray, "particle 2"], count: int, seed: int = 0
) -> Int[np.ndarray, " point"]:
    """Rows of the particles nearest to the centres of `count` clusters (k-means), ascending.

    A particle that is nearest to two centres is there once.
    """
    sd = scores.std(axis=0)
    scaled = scores / np.where(sd > 0, sd, 1)
    centres, _ = kmeans2(scaled, min(count, len(scores)), minit="++", rng=seed)
    return np.unique(cKDTree(scaled).query(centres)[1])


def latent_explorer(
    run: Run, points: int = 100, truth: Path | str | None = None, *, seed: int = 0
) -> Markup:
    """HTML of the explorer of a run, for a page that has 3Dmol.js; `Run.explorer` for notebooks.

    `points` is the largest number of particles that can be reached; their images are read. About
    13 kB a point for a protein of 200 residues; a large complex gets fewer points. With the `truth`
    of a simulation, its `truth.npz`, points have the colours of their true states.

    Raises InputError for the truth of other particles.
    """
    points = max(2, min(points, MOST_NODES // len(run.nodes)))
    pca = run.components()
    scores = pca.scores[:, :2].numpy().astype(np.float64)
    chosen = representatives(scores, points, seed)
    data = {} if truth is None else _states(run, truth, chosen)
    structures = run.decode(run.latents[chosen])
    shown = run.gauge.apply(structures)  # projections are of structures in the frame of the poses
    data |= _map(scores, chosen) | _structures(run, shown) | _pictures(run, chosen)
    data["apart"] = rmsd(shown, run.reference).tolist()  # Å
    axes = component_labels(pca.explained.tolist())[:2]
    name = f"latent-explorer-{next(_numbers)}"
    return render("explorer.html", name=name, data=data, axes=axes)


def _map(
    scores: Float[np.ndarray, "particle 2"], chosen: Int[np.ndarray, " point"]
) -> dict[str, Any]:
    """The density of all particles, and the place, from 0 to 1, and name of those chosen."""
    lowest, highest = scores.min(axis=0), scores.max(axis=0)
    extent = np.where(highest > lowest, highest - lowest, 1)
    density, *_ = np.histogram2d(scores[:, 1], scores[:, 0], bins=BINS)
    named = zip(chosen.tolist(), scores[chosen].tolist(), strict=True)
    return {
        "points": np.round((scores[chosen] - lowest) / extent, 4).tolist(),
        "labels": [f"{row + 1:,}: PC1 {x:.2f}, PC2 {y:.2f}" for row, (x, y) in named],
        "first": int(np.argmin(scores[chosen, 0])),
        "density": density.astype(int).tolist(),
    }


def _states(run: Run, truth: Path | str, chosen: Int[np.ndarray, " point"]) -> dict[str, Any]:
    """The true states, counted from 1, and their colours, from the first state to the last.

    An image without a good particle has the state 0, and is white.
    """
    from matplotlib import colormaps, colors

    with about_file(truth):
        of_good, positions, good = compared(read_truth(truth), len(run.latents), len(run.nodes))
    states = torch.zeros(len(good), dtype=torch.long)
    states[good] = of_good.long() + 1
    shown = states[chosen].tolist()
    shades = colormaps["viridis"](np.linspace(0, 1, len(positions)))
    colours = ["#ffffff", *map(colors.to_hex, shades)]
    return {"states": shown, "colours": [colours[state] for state in shown]}


def _structures(run: Run, structures: Float[Tensor, "point atom 3"]) -> dict[str, Any]:
    """The atoms, and their positions as integers in units of `step`, in Å."""
    step = max(integer_step(xyz) for xyz in (structures, run.reference))
    return {
        "atoms": atom_columns(run.nodes),
        "step": step,
        "structures": packed((structures / step).round().short().numpy()),
        "reference": packed((run.reference / step).round().short().numpy()),
    }


def integer_step(positions: Float[Tensor, "*model atom 3"]) -> float:
    """The unit, in Å, in which coordinates fit into 16 bits."""
    return float(positions.abs().max()) / LARGEST_INTEGER


def atom_columns(nodes: Structure) -> list[tuple[str, str, str, int]]:
    """Atom name, residue name, chain and residue number, as the columns of a PDB file hold them."""
    columns = (nodes.atom_names, nodes.residue_names, nodes.chains, nodes.residue_numbers)
    return [
        (f" {name:<3s}"[:4], f"{residue:>3s}"[-3:], (chain or " ")[-1], number)
        for name, residue, chain, number in zip(*(c.tolist() for c in columns), strict=True)
    ]


def _pictures(run: Run, chosen: Int[np.ndarray, " point"]) -> dict[str, Any]:
    """Projections of the structures and images of their particles, of SIDE x SIDE pixels."""
    particles, latents = run.refined_particles[chosen], run.latents[chosen]
    field_of_view = particles.box_size * particles.pixel_size  # Å
    picture_pixel = field_of_view / SIDE
    # The detail that the band, the particle's pixels and the picture's pixels can all hold.
    resolution = max(run.band.resolution, 2.1 * max(picture_pixel, particles.pixel_size))
    band = Band(particles.box_size, particles.pixel_size, resolution)
    small = Band(SIDE, picture_pixel, resolution)

    def pictures(images: Float[Tensor, "point y x"]) -> str:
        return packed(_grey(small.decode(band.encode(images)).numpy()))

    return {
        "side": SIDE,
        "predictions": pictures(
            run.project(run.decode(latents), particles, band, turns=run.turns(latents))
        ),
        "particles": pictures(run.images(particles, band)),
    }


def _grey(images: Float[np.ndarray, "image y x"]) -> UInt8[np.ndarray, "image y x"]:
    """Each image on its own grey scale, as bytes."""
    low, high = np.percentile(images, GREY_PERCENTILES, axis=(1, 2), keepdims=True)
    grey = ((images - low) / np.where(high > low, high - low, 1)).clip(0, 1)
    return (255 * grey).astype(np.uint8)


def packed(array: Shaped[np.ndarray, "..."]) -> str:
    """The bytes of an array, in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
