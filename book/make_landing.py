"""Draw the moving picture of the landing page from a trained run of adenylate kinase: `book/_static/opening.webp`.

    python book/make_landing.py RUN

Structure, latent and particles are those of the run: the picture goes along the first principal component, from its 5th to its 95th percentile and
back, and shows at each place the structure that the decoder makes, where it is in the latent space, a particle from there, and the
projection of the structure.
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

from cryostar_nb.io.vectors import load_band_vectors
from cryostar_nb.latents import mean_around_percentiles
from cryostar_nb.pages.figures import COLOURS
from cryostar_nb.projector import make_images
from cryostar_nb.runs.folder import open_run

FRAMES = 24
TURN = np.array([[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]])  # the view on the molecule


def draw_chain(ax, nodes, wide=3.2):
    """A smooth tube through the nodes, blue at the first residue and red at the last; what is nearer is drawn later."""
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


def main() -> None:
    """Draw every frame and write the animation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "_static" / "opening.webp"
    )
    arguments = parser.parse_args()
    run = open_run(arguments.run)
    latents = run.latents()
    pca = run.components()
    percentiles = torch.linspace(5, 95, FRAMES)
    along = mean_around_percentiles(latents, pca.scores[:, 0], percentiles)
    with torch.no_grad():
        structures = run.model.decoder(along)
    chosen = np.array([int((latents - latent).square().sum(-1).argmin()) for latent in along])
    particles = run.inputs.read_particles().select(chosen)
    density, ctf = run.density(), particles.ctf.to(torch.float32)
    predicted = make_images(
        density.centres(structures),
        density.amplitudes,
        density.sigma,
        run.band,
        rotations=particles.rotations.float(),
        ctf=ctf,
    )
    seen, clean = (
        run.band.decode(load_band_vectors(particles, run.band)),
        run.band.decode(predicted),
    )
    scores = (along - pca.mean) @ pca.components[:2].T
    centre = structures.mean(dim=(0, 1)).numpy()

    frames = []
    for number in [*range(FRAMES), *range(FRAMES - 2, 0, -1)]:
        figure = Figure(figsize=(9, 3), dpi=100, facecolor="white")
        axes = [
            figure.add_axes(place)
            for place in (
                (0.0, 0.0, 0.33, 1),
                (0.37, 0.17, 0.3, 0.73),
                (0.69, 0.1, 0.15, 0.8),
                (0.845, 0.1, 0.15, 0.8),
            )
        ]
        draw_chain(axes[0], (structures[number].numpy() - centre) @ TURN.T)
        axes[0].set_axis_off()
        axes[1].hexbin(
            pca.scores[:, 0],
            pca.scores[:, 1],
            gridsize=40,
            bins="log",
            cmap="Blues",
            mincnt=1,
            linewidths=0.1,
        )
        axes[1].plot(*scores[number], "o", color=COLOURS["accent"], ms=11, mec="white", mew=2)
        axes[1].set(xticks=[], yticks=[], xlabel="latent, PC1", ylabel="PC2")
        for ax, image, title in zip(
            axes[2:], (seen[number], clean[number]), ("particle", "its projection"), strict=True
        ):
            ax.imshow(
                image, cmap="gray", origin="lower", vmin=float(image.min()), vmax=float(image.max())
            )
            ax.set_axis_off()
            ax.set_title(title, fontsize=10)
        buffer = io.BytesIO()
        figure.savefig(buffer)
        frames.append(Image.open(buffer).convert("RGB"))
    frames[0].save(
        arguments.out,
        save_all=True,
        append_images=frames[1:],
        duration=110,
        loop=0,
        quality=70,
        method=6,
    )
    frames[FRAMES - 1].save(arguments.out.with_name("opening_still.png"))
    print(f"{arguments.out}: {len(frames)} frames, {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
