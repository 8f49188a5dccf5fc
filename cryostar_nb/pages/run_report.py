"""The report of a run: principal components, a motion as structures, and a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from markupsafe import Markup
from matplotlib.figure import Figure
from torch import Tensor

from cryostar_nb.atoms import clashes, link_error
from cryostar_nb.backbone import local_geometry
from cryostar_nb.geometry import rmsd
from cryostar_nb.io.files import replacing, write_text
from cryostar_nb.io.structures import fits_pdb, write_structure
from cryostar_nb.io.trajectories import write_trajectory
from cryostar_nb.latents import (
    ENDS,
    PrincipalComponents,
    around_percentiles,
    evenly_spaced,
    mean_around_percentiles,
)
from cryostar_nb.pages import figures, landscape_figures, views
from cryostar_nb.pages.explorer import latent_explorer
from cryostar_nb.pages.html import picture, render, table
from cryostar_nb.pages.map_section import map_section
from cryostar_nb.pages.terminal import describe_poses
from cryostar_nb.structure import residue_ranges

if TYPE_CHECKING:
    from cryostar_nb.runs.landscapes import Mapped
    from cryostar_nb.runs.run import Run

SHOWN = 6  # particles on the page
WRITTEN, STATES = 3, 5  # components with all atoms, and models of each
FRAMES = 21  # of the first component's trajectory of all atoms
AVERAGED = 64  # particles around a model, whose posteriors make its B-factors
ALIGNED = (
    ("rmsd_in_gauge", "mean, by the part that is still"),
    ("rmsd_superposed", "mean, superposed one by one"),
)
POSES = (("pose_errors_given", "poses given"), ("pose_errors_refined", "poses refined"))


def write_report(run: Run) -> Path:
    """Write the results of a run into its folder, and return the path of the page.

    `latents.npy` (particle, latent); `pca.csv`, the scores of every particle; `traversal_pc1.pdb`
    (or `.cif`) and `traversal_pc1.dcd`, structures from the 5th to the 95th percentile of the first
    component, which leads away from the reference; `atoms_pc1.cif` to `atoms_pc3.cif`, every heavy
    atom at five percentiles of a component, where the run knows atoms, and `atoms_pc1.xtc`, more of
    the first, with `atoms.cif` for its topology; `latents.html`, an
    interactive scatter; `report.html`, all of it on one page that needs no network.
    """
    pca, frames = run.components(), run.traverse()
    write_scores(run.folder / "pca.csv", pca)
    suffix = "pdb" if fits_pdb(run.nodes) else "cif"
    write_structure(run.folder / f"traversal_pc1.{suffix}", run.nodes, frames.numpy())
    write_trajectory(run.folder / "traversal_pc1.dcd", run.nodes, frames.numpy())
    atoms = [] if run.config.density == "nodes" else [("all atoms", write_all_atoms(run, pca))]
    scatter = figures.latent_scatter(pca.scores.numpy(), pca.explained.tolist())
    write_text(run.folder / "latents.html", scatter.to_html(include_plotlyjs=True, full_html=True))
    path = run.folder / "report.html"
    write_text(path, report_page(run, pca, frames, atoms))
    return path


def write_all_atoms(run: Run, pca: PrincipalComponents) -> str:
    """Write atoms_pcN.cif, a model for each of five percentiles from the 5th to the 95th, and
    atoms_pc1.xtc, 21 frames from the one to the other.

    B-factors are those of the posterior, after `infer`. Returns how good the models' geometry is,
    in words.
    """
    changes, meetings = [], []
    for number, scores in enumerate(pca.scores.T[:WRITTEN], start=1):
        percentiles = torch.linspace(*ENDS, STATES)
        along = mean_around_percentiles(run.latents, scores, percentiles)
        models = run.all_atoms(along).double()
        blur = _b_factors(run, around_percentiles(scores, percentiles))
        write_structure(run.folder / f"atoms_pc{number}.cif", run.atoms, models.numpy(), blur)
        changes.append(link_error(run.atoms, models))
        meetings += [clashes(run.atoms, model) for model in models.numpy()]
    frames = torch.linspace(*ENDS, FRAMES)
    along = mean_around_percentiles(run.latents, pca.scores[:, 0], frames)
    trajectory = run.all_atoms(along).numpy()
    write_trajectory(run.folder / "atoms_pc1.xtc", run.atoms, trajectory)
    links = f"bonds between residues off by up to {max(changes):.3f} Å rms"
    return f"{links}, up to {max(meetings)} clashes in a model"


def _b_factors(
    run: Run, windows: list[Int[Tensor, " row"]]
) -> Float[np.ndarray, "model atom"] | None:
    """B = 8 pi^2 sd^2 / 3 of the atoms of each model, from the particles around it, in Å^2."""
    some = [rows[evenly_spaced(AVERAGED, len(rows))] for rows in windows]
    sds = [sd for sd in map(run.node_sd, some) if sd is not None]
    if not sds:
        return None
    of_nodes = 8 * np.pi**2 / 3 * torch.stack(sds).double().square().numpy()
    first_to_last = np.diff(residue_ranges(run.atoms), axis=1)[:, 0]
    return np.repeat(of_nodes, first_to_last, axis=1)


def write_scores(path: Path, pca: PrincipalComponents) -> None:
    """One row a particle: its 1-based number and its score on every component."""
    count, components = pca.scores.shape
    names = ["particle", *(f"pc{number + 1}" for number in range(components))]
    rows = np.column_stack([np.arange(1, count + 1), pca.scores.numpy()])
    formats = ["%d"] + ["%.6g"] * components
    with replacing(path) as temporary:
        np.savetxt(temporary, rows, formats, delimiter=",", header=",".join(names), comments="")


def report_page(
    run: Run,
    pca: PrincipalComponents,
    frames: Float[Tensor, "frame atom 3"],
    atoms: list[tuple[str, str]],
) -> Markup:
    """The page as HTML with everything inside: pictures, the moving structure, and its script."""
    evaluation, metrics, mapped = run.evaluation, run.metrics, run.mapped
    motion = views.structure(run.nodes, frames, ghost=run.reference, width="100%", height=440)
    marks = mean_around_percentiles(pca.scores[:, :2], pca.scores[:, 0], torch.tensor(ENDS))
    sure = run.node_sd()
    named = {f"{end:g} %": (x, y) for end, (x, y) in zip(ENDS, marks.tolist(), strict=True)}
    density = figures.latents(pca.scores.numpy(), pca.explained.tolist(), named)
    return render(
        "report.html",
        run=run,
        title=run.folder.resolve().name,
        kind="cryoSTAR run",
        with_3dmol=True,
        numbers=table(_numbers(run, evaluation, frames) + atoms),
        held_out=(run.held_out["words"] if run.held_out else []) + [_good_particles(run)],
        checked=run.checked,
        motion=motion.within_page(),
        certainty=run.certainty,
        sure=None if sure is None else _certainty(run, frames, sure),
        maps=[map_section(made, run.nodes.chains) for made in run.made_maps],
        ends=ENDS,
        distance=float(rmsd(frames[0], frames[-1])),
        mapped=mapped,
        clusters=_clusters(mapped, pca),
        landscape=_landscape(mapped),
        error=picture(_error_chart(run, evaluation), "RMSD per state") if evaluation else "",
        explorer=latent_explorer(run),
        latents=picture(density, "density of particles over two principal components"),
        particles=picture(_particles_chart(run), "particle images above projections"),
        training=picture(figures.training(metrics), "losses by step") if metrics else "",
    )


def _certainty(
    run: Run, frames: Float[Tensor, "frame atom 3"], sds: Float[Tensor, " atom"]
) -> tuple[Markup, Markup]:
    """The middle structure coloured by how surely it is known, and the sd of every residue."""
    middle, values = frames[len(frames) // 2], sds.numpy()
    view = views.coloured(run.nodes, middle, values, width="100%", height=380)
    chart = picture(figures.certainty(values, run.nodes.chains), "sd of every residue")
    return view.within_page(), chart


def _clusters(mapped: Mapped | None, pca: PrincipalComponents) -> Markup | None:
    """The particles coloured by their cluster, after `landscape`."""
    if mapped is None:
        return None
    labels = mapped.clusters.labels
    chart = landscape_figures.clusters(pca.scores.numpy(), labels, pca.explained.tolist())
    return picture(chart, "particles over three principal components, coloured by cluster")


def _landscape(mapped: Mapped | None) -> Markup | None:
    """Populations and energies along a component with their errors, after `landscape`."""
    found = None if mapped is None else mapped.landscape
    if found is None:
        return None
    chart = landscape_figures.populations(
        found.displacement.numpy(),
        (found.populations.numpy(), found.errors.numpy()),
        (found.bare.numpy(), found.bare_errors.numpy()),
        (found.energies.numpy(), found.energy_errors.numpy()),
        found.centres.numpy(),
        () if found.others is None else list(found.others.numpy()),
    )
    return picture(chart, "populations and energies along a component, with errors")


def _good_particles(run: "Run") -> str:
    """How many particles are probably good ones."""
    share = float((run.quality >= 0.5).mean())
    return f"{share:.0%} of the particles are probably good ones (select --quality 0.5 keeps them)"


def _numbers(
    run: Run, evaluation: dict[str, Any] | None, frames: Float[Tensor, "frame atom 3"]
) -> list[tuple[str, str]]:
    """What was trained, and how good it is."""
    rows = [
        ("particles", f"{len(run.latents):,}"),
        ("residues", f"{len(run.nodes):,}"),
        ("method", run.config.method),
        ("steps", f"{run.step:,} of {run.config.steps:,}"),
    ]
    if evaluation:
        most_open = evaluation["rmsd_most_open"]
        told = {name: evaluation.get(key) for key, name in POSES}
        opened = "no particle" if most_open is None else f"{most_open:.2f} Å"
        return [
            *rows,
            ("mean Cα-RMSD", f"{evaluation['rmsd_mean']:.2f} Å"),
            ("at the five most open states", opened),
            *((name, f"{evaluation[key]:.2f} Å") for key, name in ALIGNED if key in evaluation),
            ("bond error", f"{evaluation['bond_error']:.3f} Å"),
            *((name, describe_poses(errors)) for name, errors in told.items() if errors),
        ]
    geometry = local_geometry(frames, run.nodes)
    kept = f"{100 * geometry.contacts_kept:.0f} %"
    return [*rows, ("bond error", f"{geometry.bond_error:.3f} Å"), ("contacts kept", kept)]


def _error_chart(run: Run, evaluation: dict[str, Any]) -> Figure:
    """RMSD per state of the run, beside that of answering with the reference."""
    error = (evaluation["rmsd_per_state"], evaluation["rmsd_std_per_state"])
    idle = (evaluation["do_nothing_per_state"], None)
    return figures.rmsd({run.config.method: error, "doing nothing": idle})


def _particles_chart(run: Run) -> Figure:
    """A few particles as training sees them, above the projections of their structures."""
    rows = evenly_spaced(SHOWN, len(run.latents))
    particles = run.refined_particles[rows]
    latents = run.latents[rows]
    projections = run.project(run.decode(latents), particles, turns=run.turns(latents))
    titles = [f"particle {row + 1}" for row in rows.tolist()] + ["its projection"] * len(rows)
    return figures.images([*run.images(particles), *projections], titles, columns=SHOWN)
