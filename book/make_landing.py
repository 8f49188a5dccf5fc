"""Draw the moving picture of the landing page from a trained run of adenylate kinase.

    python book/make_landing.py RUN

Structure, latent and particles are those of the run. The picture goes along the first principal
component, from its 5th to its 95th percentile and back, and shows at each place the structure that
the decoder makes, where it is in the latent space, a particle from there, and the projection of the
structure. Writes `book/_static/opening.webp`.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from PIL import Image
from scipy.interpolate import CubicSpline

from cryostar_nb.latents import mean_around_percentiles
from cryostar_nb.pages.figures import COLOURS
from cryostar_nb.runs.folder import open_run

FRAMES = 24
OUT = Path(__file__).parent / "_static" / "opening.webp"
TURN = np.array([[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]])  # the view on the molecule


def draw_chain(ax, nodes, wide=3.2):
    """A smooth tube through the nodes, blue at the first residue and red at the last.

    What is nearer is drawn later.
    """
    place = np.arange(len(nodes))
    points = CubicSpline(place, nodes)(np.linspace(0, len(nodes) - 1, 4 * len(nodes)))
    segments = np.stack([points[:-1], points[1:]], axis=1)
    order = np.argsort(segments[:, :, 2].mean(axis=1))
    hue = np.linspace(0.66, 0.0, len(segments))
    depth = (segments[:, :, 2].mean(axis=1) - points[:, 2].min()) / np.ptp(points[:, 2])
    colours = hsv_to_rgb(np.stack([hue, 0.45 + 0.35 * depth, 0.95 - 0.15 * depth], axis=1))
    for colour, width in (("white", wide + 2.2), (colours[order], wide)):
        ax.add_collection(
            LineCollection(
                segments[order][:, :, :2], colors=colour, linewidths=width, capstyle="round"
            )
        )
    ax.set(xlim=(-32, 32), ylim=(-32, 32), aspect="equal")


def draw_frame(nodes, all_scores, scores, image, projection):
    """A structure, its place among all scores, a particle from there, and the projection."""
    figure = Figure(figsize=(9, 3), dpi=100, facecolor="white")
    molecule, space, *pictures = (
        figure.add_axes(place)
        for place in (
            (0.0, 0.0, 0.33, 1),
            (0.37, 0.17, 0.3, 0.73),
            (0.69, 0.1, 0.15, 0.8),
            (0.845, 0.1, 0.15, 0.8),
        )
    )
    draw_chain(molecule, nodes)
    molecule.set_axis_off()
    style = {"gridsize": 40, "bins": "log", "cmap": "Blues", "mincnt": 1, "linewidths": 0.1}
    space.hexbin(all_scores[:, 0], all_scores[:, 1], **style)
    space.plot(*scores, "o", color=COLOURS["accent"], ms=11, mec="white", mew=2)
    space.set(xticks=[], yticks=[], xlabel="latent, PC1", ylabel="PC2")
    titles = ("particle", "its projection")
    for ax, pixels, title in zip(pictures, (image, projection), titles, strict=True):
        low, high = float(pixels.min()), float(pixels.max())
        ax.imshow(pixels, cmap="gray", origin="lower", vmin=low, vmax=high)
        ax.set_axis_off()
        ax.set_title(title, fontsize=10)
    return figure


def main() -> None:
    """Draw every frame and write the animation."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    run = open_run(arguments.run)
    pca = run.components()
    percentiles = torch.linspace(5, 95, FRAMES)
    along = mean_around_percentiles(run.latents, pca.scores[:, 0], percentiles)
    structures = run.decode(along)
    nearest = [int((run.latents - latent).square().sum(-1).argmin()) for latent in along]
    particles = run.refined_particles[np.array(nearest)]
    images = run.images(particles)
    projections = run.project(structures, particles, turns=run.turns(along))
    scores = (along - pca.mean) @ pca.components[:2].T
    centre = structures.mean(dim=(0, 1)).numpy()

    frames = []
    for number in [*range(FRAMES), *range(FRAMES - 2, 0, -1)]:
        place = (structures[number].numpy() - centre) @ TURN.T
        figure = draw_frame(place, pca.scores, scores[number], images[number], projections[number])
        buffer = io.BytesIO()
        figure.savefig(buffer)
        frames.append(Image.open(buffer).convert("RGB"))
    options = {"duration": 110, "loop": 0, "quality": 70, "method": 6}
    frames[0].save(arguments.out, save_all=True, append_images=frames[1:], **options)
    frames[FRAMES - 1].save(arguments.out.with_name("opening_still.png"))
    print(f"{arguments.out}: {len(frames)} frames, {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
