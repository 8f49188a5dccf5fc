"""The latent explorer: a piece of a page on which a reader walks through the latent space, without a kernel.

Point at the density of the latents, or use the arrow keys: the structure behind the nearest particle moves in 3D, beside its
projection and the particle's own image. Everything is inside the HTML; 3Dmol.js is the only script it needs.
"""

import base64
import itertools
import json
from importlib.resources import files

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster.vq import kmeans2
from scipy.spatial import cKDTree

from cryostar_nb.fourier import Band
from cryostar_nb.io.vectors import load_band_vectors
from cryostar_nb.projector import make_images
from cryostar_nb.runs.folder import Run

SIDE = 64  # pixels of a picture
BINS = (48, 36)  # of the density
MOST_NODES = 250_000  # of all structures together: a browser reads them in a second or two
_numbers = itertools.count(1)


def representatives(
    scores: Float[np.ndarray, "particle 2"], count: int, seed: int = 0
) -> Int[np.ndarray, " point"]:
    """Particles that stand for all: those nearest to the centres of `count` clusters (k-means), each once, in ascending order."""
    spread = scores.std(axis=0)
    scaled = scores / np.where(spread > 0, spread, 1)
    centres, _ = kmeans2(scaled, min(count, len(scores)), minit="++", rng=seed)
    return np.unique(cKDTree(scaled).query(centres)[1])


@torch.no_grad()
def latent_explorer(run: Run, points: int = 100, *, seed: int = 0) -> str:
    """HTML of the explorer of a run, for `IPython.display.HTML` or a page; `points` is how many particles can be reached, at most.

    Reads the images of these particles. About 13 kB a point for a protein of 200 residues; a large complex gets fewer points.
    """
    points = max(2, min(points, MOST_NODES // len(run.nodes)))
    latents = run.latents()
    pca = run.components()
    scores = pca.scores[:, :2].numpy().astype(np.float64)
    chosen = representatives(scores, points, seed)
    particles = run.inputs.read_particles().select(chosen)
    pixel_size = particles.pixel_size * particles.box_size / SIDE
    resolution = max(
        2.1 * max(pixel_size, particles.pixel_size), run.band.resolution
    )  # within either grid
    fine, small = (
        Band(particles.box_size, particles.pixel_size, resolution),
        Band(SIDE, pixel_size, resolution),
    )
    structures, density = run.model.decoder(latents[torch.from_numpy(chosen)]), run.density()
    predicted = make_images(
        density.centres(structures),
        density.amplitudes,
        density.sigma,
        fine,
        rotations=particles.rotations.float(),
        ctf=None if particles.ctf is None else particles.ctf.to(torch.float32),
    )
    seen = load_band_vectors(particles, fine, invert=run.inputs.invert)
    step = max(float(structures.abs().max()), float(run.reference.abs().max())) / 32_000
    lowest, highest = scores.min(axis=0), scores.max(axis=0)
    room = np.where(highest > lowest, highest - lowest, 1)
    density_of_particles, *_ = np.histogram2d(scores[:, 1], scores[:, 0], bins=BINS[::-1])
    nodes = run.nodes
    data = {
        "points": np.round((scores[chosen] - lowest) / room, 4).tolist(),
        "labels": [
            f"{i + 1:,}: PC1 {x:.2f}, PC2 {y:.2f}"
            for i, (x, y) in zip(chosen.tolist(), scores[chosen].tolist(), strict=True)
        ],
        "first": int(np.argmin(scores[chosen, 0])),
        "density": density_of_particles.astype(int).tolist(),
        "atoms": [
            [f" {name:<3s}"[:4], f"{residue:>3s}"[-3:], (chain or " ")[-1], int(number)]
            for name, residue, chain, number in zip(
                nodes.atom_names.tolist(),
                nodes.residue_names.tolist(),
                nodes.chains.tolist(),
                nodes.residue_numbers.tolist(),
                strict=True,
            )
        ],
        "step": step,
        "structures": _packed((structures / step).round().short().numpy()),
        "reference": _packed((run.reference / step).round().short().numpy()),
        "side": SIDE,
        "predictions": _packed(_grey(small.decode(predicted).numpy())),
        "particles": _packed(_grey(small.decode(seen).numpy())),
    }
    axes = [f"PC{i + 1} ({100 * float(pca.explained[i]):.0f} % of variance)" for i in range(2)]
    return _fragment(data, axes)


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _grey(images: Float[np.ndarray, "image y x"]) -> np.ndarray:
    """Each image on its own grey scale, 2nd to 99.8th percentile, as bytes."""
    low, high = np.percentile(images, [2, 99.8], axis=(1, 2), keepdims=True)
    return (255 * ((images - low) / np.where(high > low, high - low, 1)).clip(0, 1)).astype(
        np.uint8
    )


def _fragment(data: dict[str, object], axes: list[str]) -> str:
    """The elements, the script, and its data. The name of the stage makes the book load 3Dmol.js."""
    name = f"latent-explorer-{next(_numbers)}"
    script = (files("cryostar_nb") / "assets" / "explorer.js").read_text(encoding="utf-8")
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return f"""<div class="latent-explorer" id="{name}">
<style>{_STYLE}</style>
<div class="side"><canvas class="map" width="480" height="360" tabindex="0" role="application"
 aria-label="Density of the latents. Point, click, or use the arrow keys to choose a particle."></canvas>
<p class="axes">right: {axes[0]}; up: {axes[1]}</p><p class="status" aria-live="polite"></p></div>
<div class="side"><div class="molecule" id="3dmolviewer_{name}" role="img" aria-label="Structure of the chosen particle, in colour, over the reference, in grey"></div></div>
<div class="pictures"><figure><canvas class="prediction" width="{SIDE}" height="{SIDE}" role="img" aria-label="projection of the structure"></canvas>
<figcaption>its projection</figcaption></figure><figure><canvas class="particle" width="{SIDE}" height="{SIDE}" role="img" aria-label="image of the particle"></canvas>
<figcaption>the particle</figcaption></figure></div>
<script>{script}
exploreLatents(document.getElementById("{name}"), {text}, window.$3Dmolpromise || Promise.resolve());</script>
</div>"""


_STYLE = """
.latent-explorer { display: flex; flex-wrap: wrap; gap: .8rem; align-items: flex-start; }
.latent-explorer .side { flex: 1 1 18rem; min-width: 0; }
.latent-explorer .map { width: 100%; border: 1px solid #8886; border-radius: 6px; cursor: crosshair; touch-action: manipulation; }
.latent-explorer .map:focus-visible { outline: 3px solid #D55E00; }
.latent-explorer .molecule { position: relative; width: 100%; height: 340px; border: 1px solid #8886; border-radius: 6px; overflow: hidden; }
.latent-explorer .pictures { display: flex; gap: .8rem; flex: 0 1 auto; }
.latent-explorer figure { margin: 0; text-align: center; font-size: .85rem; }
.latent-explorer .prediction, .latent-explorer .particle { width: 9rem; height: 9rem; image-rendering: pixelated; border-radius: 6px; }
.latent-explorer p { margin: .2rem 0; font-size: .85rem; }
"""
