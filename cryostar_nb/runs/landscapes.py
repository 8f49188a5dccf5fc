"""Clusters of a run's particles, their population along a motion, and a path between clusters."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryostar_nb.clusters import Clusters
from cryostar_nb.errors import InputError
from cryostar_nb.gauge import superpose_weighted
from cryostar_nb.geometry import rmsd
from cryostar_nb.io.files import replacing, write_json
from cryostar_nb.io.structures import write_structure
from cryostar_nb.io.trajectories import write_trajectory
from cryostar_nb.landscape import Landscape, make_landscape, populations_between
from cryostar_nb.latents import path_of_highest_density
from cryostar_nb.runs.kept import kept
from cryostar_nb.runs.parts import SHAPING, clusters_of, good_particles
from cryostar_nb.runs.posteriors import inference_of, nodes_of_both, posterior_of, was_inferred
from cryostar_nb.runs.run_config import LandscapeConfig
from cryostar_nb.score_likelihoods import OUTSIDE, Likelihoods, resolved_bins, span

if TYPE_CHECKING:
    from cryostar_nb.runs.run import Run

FOLDER, LABELS, NUMBERS = "landscape", "landscape/clusters.npy", "landscape/landscape.json"
LEAST_PARTICLES = 50  # whose populations are looked for
AROUND = 0.02  # of the particles, around a score, that make its structure
MODELS = 5  # of a path
LEAST_BIN = 1e-3  # of the length of a path, between two edges that stand at one place
PLACES = 201  # along the path of another run, where an edge of a bin may stand
OF_A_CHOICE = ("clusters.npy", "cluster_*.cif", "path.cif", "path.xtc", "landscape.csv")


@dataclass(frozen=True)
class Mapped:
    """What `landscape` found of a run, and where it is kept."""

    folder: Path
    clusters: Clusters
    landscape: Landscape | None  # None: populations were left out
    pc: int
    path: tuple[int, int, float] | None = None  # between two clusters: its length in Å
    files: list[str] = field(default_factory=list)

    @classmethod
    def kept_of(cls, run: "Run") -> "Mapped | None":
        """What is kept of a run; None before `landscape`, and after more training."""
        labels = kept(run.folder, LABELS)
        if labels is None:
            return None
        told = json.loads((run.folder / NUMBERS).read_text(encoding="utf-8"))
        found = told["landscape"]
        if found is not None:
            count, others = found.pop("particles"), found.pop("others", None)
            tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in found.items()}
            found = Landscape(**tensors, particles=count)
            if others is not None:
                found = replace(found, others=torch.tensor(others, dtype=torch.float64))
        path = None if told["path"] is None else tuple(told["path"])
        return cls(run.folder / FOLDER, Clusters(labels), found, told["pc"], path)

    def words(self) -> list[str]:
        """What it says, in a few lines."""
        outside, *sizes = self.clusters.sizes
        shares = ", ".join(f"{size / len(self.clusters.labels):.0%}" for size in sizes)
        lines = [f"{len(sizes)} clusters: {shares} of the particles" if sizes else "no clusters"]
        if outside:
            lines[0] += f"; {outside / len(self.clusters.labels):.0%} are in none"
        if not sizes:
            lines[0] += ", by density (clusters of latents, as many as you like: --clusters K)"
        if self.path is not None:
            first, last, length = self.path
            way = f"the path of highest density from cluster {first} to cluster {last}"
            lines.append(f"{way} is {length:.1f} Å rms long")
        return lines + ([] if self.landscape is None else self.landscape.words())


def kept_clusters(run: "Run") -> Clusters:
    """The clusters that `landscape` found last. Raises InputError where there are none."""
    labels = kept(run.folder, LABELS)
    if labels is None:
        problem, remedy = "has no clusters yet", f"first: cryostar-nb landscape {run.folder}"
        raise InputError(problem, file=run.folder, remedy=remedy)
    return Clusters(labels)


def landscape_of(run: "Run", config: LandscapeConfig, beside: Sequence["Run"] = ()) -> Landscape:
    """The populations along a component of a run, by the posteriors of its good particles, with
    those of the same bins by other runs of the molecule.

    Raises InputError where a run has no posterior, for a component that one lacks, for fewer than
    50 particles, where all of them are in one place, and for runs without common nodes.
    """
    for each in (run, *beside):
        if not was_inferred(each):
            problem = "has no posterior of its particles yet, which populations come from"
            remedy = f"first: cryostar-nb infer {each.folder}"
            raise InputError(problem, file=each.folder, remedy=remedy)
    likelihoods, ends, rows = _seen(run, config)
    count = config.bins or resolved_bins(likelihoods.sds, ends)
    edges = torch.linspace(*ends, count + 1, dtype=torch.float64)
    frames = _frames_at(run, _drawn(run), config.pc, (edges[1:] + edges[:-1]) / 2)
    found = make_landscape(
        likelihoods,
        run.components().scores[rows, config.pc - 1],
        edges=edges,
        displacement=rmsd(frames, frames[0]).double(),
        seed=run.config.seed,
    )
    others = [populations_beside(run, edges, other, config) for other in beside]
    return replace(found, others=torch.stack(others)) if others else found


def _seen(
    run: "Run", config: LandscapeConfig
) -> tuple[Likelihoods, tuple[float, float], Int[Tensor, " particle"]]:
    """What good particles say of their scores, the scores between which these lie, and which
    particles they are.
    """
    pca, inference = run.components(), inference_of(run)
    axis = pca.components[pca.place(config.pc)].double()
    rows = torch.from_numpy(np.flatnonzero(good_particles(run, config.quality)))
    if len(rows) < LEAST_PARTICLES:
        problem = f"has {{value}} particles of a quality of at least {config.quality:g}"
        remedy = f"populations need {LEAST_PARTICLES}: give a lower --quality"
        raise InputError(problem, file=run.folder, value=len(rows), remedy=remedy)
    posterior = posterior_of(run).part(rows)
    scores = (posterior.latents.double() - pca.mean.double()) @ axis
    ends = span(scores, posterior.weights)
    if not ends[0] < ends[1]:
        problem = f"has its particles in one place along component {config.pc}"
        raise InputError(problem, file=run.folder, value=ends[0], remedy="give another --pc")
    directions = inference.directions
    offset = float((directions.mean - pca.mean.double()) @ axis)
    prior = inference.prior.along(directions.axes @ axis, offset)
    return Likelihoods.of(scores, posterior.weights, prior), ends, rows


def populations_beside(
    run: "Run", edges: Float[Tensor, " edge"], other: "Run", config: LandscapeConfig
) -> Float[Tensor, " bin"]:
    """The populations of the bins of a run by another run, by its own posteriors.

    An edge between two bins is a structure, and stands where the path of the other run comes
    nearest to it: that of the component, of its first three, which comes nearest to all of them.
    """
    here, there = nodes_of_both(run, other)
    own = _frames_at(run, _drawn(run), config.pc, edges)[:, here]
    drawn, found = _drawn(other), []
    for pc in range(1, min(SHAPING, drawn.scores.shape[1]) + 1):
        low, high = drawn.scores[:, pc - 1].quantile(torch.tensor([OUTSIDE, 1 - OUTSIDE])).tolist()
        places = torch.linspace(low, high, PLACES, dtype=torch.float64)
        path = _frames_at(other, drawn, pc, places)[:, there]
        path = superpose_weighted(path, run.reference[here], run.gauge.weights[here])
        off, nearest = torch.stack([rmsd(path, structure) for structure in own]).min(1)
        found.append((float(off.mean()), pc, places[nearest]))
    _, pc, at = min(found, key=lambda one: one[0])
    back = bool(at[-1] < at[0])  # the component leads the other way
    at = (at.flip(0) if back else at).cummax(0).values
    likelihoods, ends, _ = _seen(other, replace(config, pc=pc))
    apart = LEAST_BIN * (ends[1] - ends[0]) * torch.arange(len(at))
    parts = populations_between(likelihoods, at + apart)
    return parts.flip(0) if back else parts


class _Drawn(NamedTuple):
    """A latent drawn from the posterior of each particle: means of posteriors do not reach the ends
    where images say little.
    """

    latents: Float[Tensor, "particle latent"]
    scores: Float[Tensor, "particle component"]


def _drawn(run: "Run") -> _Drawn:
    pca = run.components()
    latents = posterior_of(run).resampled(1, run.config.seed)[:, 0]
    return _Drawn(latents, (latents - pca.mean) @ pca.components.mT)


def _frames_at(
    run: "Run", drawn: _Drawn, pc: int, places: Float[Tensor, " place"]
) -> Float[Tensor, "place atom 3"]:
    """The structures at these scores, in Å, where the part that moves least lies on the reference.

    Each is that of the mean of the 2 % of drawn latents whose scores are nearest.
    """
    latents, scores = drawn.latents, drawn.scores[:, pc - 1]
    count = max(1, round(AROUND * len(scores)))
    near = [(scores - place).abs().argsort()[:count] for place in places]
    return run.gauge.apply(run.decode(torch.stack([latents[rows].mean(0) for rows in near])))


def path_between(
    run: "Run", first: int, last: int, frames: int = 21
) -> Float[Tensor, "frame latent"]:
    """Latents along the path of highest density from one particle, counted from 0, to another.

    Raises InputError for a particle that is not there, and where both are the same.
    """
    count = len(run.latents)
    for row in (first, last):
        if not 0 <= row < count:
            problem = f"has {count} particles, and no particle {{value}} counted from 0"
            raise InputError(problem, file=run.folder, value=row, remedy=f"give 0 to {count - 1}")
    if first == last:
        problem, remedy = "the path from particle {value} to itself has no length", "give two"
        raise InputError(problem, value=first, remedy=remedy)
    scores = run.components().scores[:, :SHAPING]
    return path_of_highest_density(run.latents, scores, first, last, frames)


def make_map(run: "Run", config: LandscapeConfig, beside: Sequence["Run"] = ()) -> Mapped:
    """Find clusters, populations and a path, and write them to the folder `landscape` of a run.
    Other runs `beside` it tell errors of the populations.

    `clusters.npy`, the cluster of every particle, from 1, 0 where it is in none; `clusters.csv`,
    the same with the particles' numbers from 1; `cluster_N.cif`, the structure in the middle of
    each; `path.xtc` and `path.cif`, frames of the path and five models of it, with every heavy atom
    where the run knows them; `landscape.csv` and `landscape.json`, the populations.
    """
    landscape = landscape_of(run, config, beside) if config.populations else None
    clusters = clusters_of(run, config.clusters)
    ends = _ends_of_path(clusters, config.between)
    folder = run.folder / FOLDER
    folder.mkdir(exist_ok=True)
    for pattern in OF_A_CHOICE:  # of another one
        for old in folder.glob(pattern):
            old.unlink()
    files = _write_clusters(run, clusters, folder)
    path: tuple[int, int, float] | None = None
    if ends is not None:
        rows = [_middle_row(run, clusters, number) for number in ends]
        latents = path_between(run, *rows)
        _write_path(run, latents, folder)
        frames = run.gauge.apply(run.decode(latents))
        path = (*ends, float(rmsd(frames[1:], frames[:-1]).sum()))
        files += ["path.cif", "path.xtc"]
    if landscape is not None:
        write_table(folder / "landscape.csv", landscape)
        files.append("landscape.csv")
    tensors = None if landscape is None else {k: _plain(v) for k, v in vars(landscape).items()}
    write_json(run.folder / NUMBERS, {"pc": config.pc, "path": path, "landscape": tensors})
    with replacing(run.folder / LABELS) as temporary:
        np.save(temporary, clusters.labels)
    return Mapped(folder, clusters, landscape, config.pc, path, files)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _ends_of_path(clusters: Clusters, between: tuple[int, int] | None) -> tuple[int, int] | None:
    """The two clusters that a path leads between: the first and the last, where there are two."""
    if between is None:
        return (1, clusters.count) if clusters.count > 1 else None
    for number in between:
        if not 1 <= number <= clusters.count:
            problem = f"between = {{value}}, and there are {clusters.count} clusters"
            raise InputError(problem, value=number, remedy="give two of these, or --clusters K")
    if between[0] == between[1]:
        raise InputError("between = {value} twice", value=between[0], remedy="give two clusters")
    return between


def _middle_row(run: "Run", clusters: Clusters, number: int) -> int:
    """The particle nearest to the middle of a cluster."""
    rows = clusters.rows(number)
    middle = clusters.middles(run.latents)[number - 1]
    return int(rows[int((run.latents[rows] - middle).norm(dim=1).argmin())])


def _write_clusters(run: "Run", clusters: Clusters, folder: Path) -> list[str]:
    numbers: Int[np.ndarray, "particle 2"] = np.column_stack(
        [np.arange(1, len(clusters.labels) + 1), clusters.labels]
    )
    with replacing(folder / "clusters.csv") as temporary:
        np.savetxt(temporary, numbers, "%d", ",", header="particle,cluster", comments="")
    files = ["clusters.csv"]
    if clusters.count:
        atoms, models = run.models(clusters.middles(run.latents))
        for number, model in enumerate(models, start=1):
            files.append(f"cluster_{number}.cif")
            write_structure(folder / files[-1], atoms, model[None])
    return files


def _write_path(run: "Run", latents: Float[Tensor, "frame latent"], folder: Path) -> None:
    atoms, frames = run.models(latents)
    some = np.linspace(0, len(frames) - 1, MODELS).round().astype(int)
    write_structure(folder / "path.cif", atoms, frames[some])
    write_trajectory(folder / "path.xtc", atoms, frames)


def write_table(path: Path, landscape: Landscape) -> None:
    """One row a bin: scores, displacement in Å, populations and energies in kT with their sds."""
    columns = {
        "low": landscape.edges[:-1],
        "high": landscape.edges[1:],
        "displacement": landscape.displacement,
        "population": landscape.populations,
        "population_sd": landscape.errors,
        "energy": landscape.energies,
        "energy_sd": landscape.energy_errors,
        "of_latent_means": landscape.bare,
        "of_latent_means_sd": landscape.bare_errors,
    }
    rows = torch.stack([values.double() for values in columns.values()], dim=1).numpy()
    with replacing(path) as temporary:
        np.savetxt(temporary, rows, "%.6g", ",", header=",".join(columns), comments="")
