"""Analyse a run: latents, principal components, a traversal as structures, and one page to look at."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.evaluation import local_geometry
from cryostar_nb.geometry import rmsd
from cryostar_nb.io.files import replacing, write_text
from cryostar_nb.io.structures import fits_pdb, write_structure, write_trajectory
from cryostar_nb.io.vectors import load_band_vectors
from cryostar_nb.latents import ENDS, PrincipalComponents, mean_around_percentiles, traverse
from cryostar_nb.pages.explorer import latent_explorer
from cryostar_nb.pages.figures import (
    latent_scatter,
    plot_images,
    plot_latents,
    plot_rmsd_per_state,
    plot_training,
)
from cryostar_nb.pages.html import page, picture, section, table
from cryostar_nb.pages.views import view_structure
from cryostar_nb.projector import make_images
from cryostar_nb.runs.folder import Run, open_run

FRAMES = 21
LOW, HIGH = ENDS


def analyse_run(folder: Path | str) -> Path:
    """Write what a person wants to see of a run into its folder, and return the path of the page.

    `latents.npy` (particle, latent); `pca.csv`, the scores of every particle; `traversal_pc1.pdb` (multi-model) and
    `traversal_pc1.dcd`, structures from the 5th to the 95th percentile of the first component, which leads away from the reference;
    `latents.html`, an interactive scatter; `report.html`, all of it on one page that needs no network.
    """
    run = open_run(folder)
    latents = run.latents()
    pca = run.components()
    percentiles = torch.linspace(LOW, HIGH, FRAMES)
    frames = traverse(run.model.decoder, latents, pca.scores[:, 0], percentiles)
    write_scores(run.folder / "pca.csv", pca)
    suffix = "pdb" if fits_pdb(run.nodes) else "cif"
    write_structure(run.folder / f"traversal_pc1.{suffix}", run.nodes, frames.numpy())
    write_trajectory(run.folder / "traversal_pc1.dcd", run.nodes, frames.numpy())
    scatter = latent_scatter(pca.scores.numpy(), pca.explained.tolist())
    write_text(run.folder / "latents.html", scatter.to_html(include_plotlyjs=True, full_html=True))
    page = run.folder / "report.html"
    write_text(page, report_page(run, latents, pca, frames))
    return page


def write_scores(path: Path, pca: PrincipalComponents) -> None:
    """One row a particle: its 1-based number and its score on every component."""
    with replacing(path) as temporary, temporary.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["particle", *(f"pc{number + 1}" for number in range(pca.scores.shape[1]))])
        writer.writerows(
            [number, *(f"{score:.6g}" for score in scores)]
            for number, scores in enumerate(pca.scores.tolist(), start=1)
        )


def compare_particles(
    run: Run, latents: Float[Tensor, "particle latent"], count: int = 6
) -> tuple[list[np.ndarray], list[str]]:
    """A few particles as the network sees them, above the projections of their structures."""
    chosen = torch.linspace(0, len(latents) - 1, min(count, len(latents))).long()
    particles = run.inputs.read_particles().select(chosen.numpy())
    assert particles.ctf is not None
    vectors = load_band_vectors(particles, run.band, invert=run.inputs.invert)
    with torch.no_grad():
        density = run.density()
        centres = density.centres(run.model.decoder(latents[chosen]))
        rotations, ctf = particles.rotations.float(), particles.ctf.to(torch.float32)
        predicted = make_images(
            centres, density.amplitudes, density.sigma, run.band, rotations=rotations, ctf=ctf
        )
    images = [*run.band.decode(vectors).numpy(), *run.band.decode(predicted).numpy()]
    return images, [f"particle {i + 1}" for i in chosen.tolist()] + ["its projection"] * len(chosen)


def report_page(
    run: Run,
    latents: Float[Tensor, "particle latent"],
    pca: PrincipalComponents,
    frames: Float[Tensor, "frame atom 3"],
) -> str:
    """The page as HTML with everything inside: pictures, the moving structure, and the script that draws it."""
    scores = pca.scores.numpy()
    ends = mean_around_percentiles(pca.scores[:, :2], pca.scores[:, 0], torch.tensor([LOW, HIGH]))
    marks = {
        f"{percentile:g} %": (x, y)
        for percentile, (x, y) in zip((LOW, HIGH), ends.tolist(), strict=True)
    }
    figures = [
        ("Motion along the first principal component", _viewer(run, frames), f"From the {LOW:g}th to the {HIGH:g}th percentile, {rmsd(frames[0], frames[-1]):.1f} Å RMSD apart. Grey: the reference. Drag to turn."),
        ("Explore", latent_explorer(run), "Point at the map, click to hold a particle, or use the arrow keys: the structure found for the nearest particle, its projection, and its image. Dots: the particles that can be reached."),
        ("Latent space", picture(plot_latents(scores, pca.explained.tolist(), marks), "density of particles over two principal components of the latent"), "Each particle's latent mean, seen along its two widest directions. <a href='latents.html'>Open the interactive version</a>."),
        ("Particles and what the model makes of them", picture(plot_images(*compare_particles(run, latents), columns=6), "particle images above the projections of their structures"), f"Above: particles, low-passed to {run.config.low_pass:g} Å. Below: the projection of the structure found for each, with its pose and CTF."),
    ]  # fmt: skip
    if metrics := run.metrics():
        caption = f"{run.step:,} steps of {run.config.batch_size} particles."
        figures.append(
            ("Training", picture(plot_training(metrics), "losses against step"), caption)
        )
    rows = [
        ("particles", f"{len(latents):,}"),
        ("residues", f"{len(run.nodes):,}"),
        ("method", run.config.method),
        ("steps", f"{run.step:,} of {run.config.steps:,}"),
    ]
    evaluation = run.folder / "evaluation.json"
    if evaluation.exists():
        result = json.loads(evaluation.read_text())
        most_open = result["rmsd_most_open"]
        curves = {
            run.config.method: (result["rmsd_per_state"], result["rmsd_std_per_state"]),
            "idle": (result["do_nothing_per_state"], None),
        }
        figures.insert(
            1,
            (
                "Error against the truth",
                picture(plot_rmsd_per_state(curves), "RMSD per state"),
                "Cα-RMSD without alignment, mean and one standard deviation per state; <i>idle</i> always answers with the reference.",
            ),
        )
        rows += [
            ("mean Cα-RMSD", f"{result['rmsd_mean']:.2f} Å"),
            (
                "at the five most open states",
                "no particle" if most_open is None else f"{most_open:.2f} Å",
            ),
            ("bond error", f"{result['bond_error']:.3f} Å"),
        ]
    else:
        geometry = local_geometry(frames, run.nodes)
        rows += [
            ("bond error", f"{geometry.bond_error:.3f} Å"),
            ("contacts kept", f"{100 * geometry.contacts_kept:.0f} %"),
        ]
    return page(
        run.folder.resolve().name,
        "cryoSTAR run",
        table(rows) + "".join(section(*figure) for figure in figures),
        with_3dmol=True,
    )


def _viewer(run: Run, frames: Float[Tensor, "frame atom 3"]) -> str:
    view = view_structure(
        run.nodes, frames.numpy(), ghost=run.nodes.positions, width="100%", height=440
    )
    return str(view._make_html())
