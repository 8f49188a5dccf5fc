"""Parts of a run's particles: clusters and bins, the good ones, and half-sets."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryostar_nb.clusters import Clusters, density_clusters, kmeans
from cryostar_nb.errors import InputError
from cryostar_nb.io.reading import open_metadata, read_indices
from cryostar_nb.mixture import weighted_quantiles
from cryostar_nb.runs.posteriors import posterior_of, was_inferred
from cryostar_nb.runs.run_config import MapConfig

if TYPE_CHECKING:
    from cryostar_nb.runs.run import Run

SHAPING = 3  # components in which density is looked at
LEAST_WEIGHT = 0.01  # of a particle in a map; less is left out
SUBSETS = ("rlnRandomSubset", "alignments3D/split")  # columns of half-sets

Weights = Float[Tensor, "particle part"]


def clusters_of(run: "Run", count: int | None = None) -> Clusters:
    """`count` clusters of a run's latents by k-means; None: those that stand apart by density, in
    the space of the first three components.
    """
    scores = run.components().scores
    if count is None:
        return density_clusters(scores[:, :SHAPING])
    return kmeans(run.latents, count, along=scores[:, 0], seed=run.config.seed)


def parts_of(run: "Run", config: MapConfig) -> tuple[str, Weights]:
    """A name for the parts, and how much each particle counts in each of them, 0 to 1.

    Bins hold equally many particles; clusters are those of k-means, in the order of their mean
    along the first component. After `infer` a particle counts in each part by the probability that
    its posterior gives to it. Raises InputError for choices that exclude each other.
    """
    if config.indices is not None:
        if config.clusters is not None:
            problem, remedy = "clusters = {value}, and indices as well", "give one of them"
            raise InputError(problem, value=config.clusters, remedy=remedy)
        weights = torch.zeros(len(run.particles), 1)
        weights[torch.from_numpy(read_indices(config.indices, len(weights)))] = 1
        return "chosen", weights
    latents, weights = run.latents[:, None], torch.ones(len(run.latents), 1)
    if was_inferred(run):
        posterior = posterior_of(run)
        latents, weights = posterior.latents, posterior.weights
    if config.clusters is not None:
        kind, count = "clusters", config.clusters
        labels = _nearest(latents, clusters_of(run, count).centres(run.latents))
    else:
        kind, count, pca = f"pc{config.pc}", config.bins, run.components()
        scores = (latents - pca.mean) @ pca.components[pca.place(config.pc)]
        between = torch.arange(1, count, dtype=torch.float64) / count
        labels = torch.bucketize(scores, weighted_quantiles(scores, weights, between).contiguous())
    parts = torch.zeros(len(labels), count).scatter_add_(1, labels, weights)
    return kind, torch.where(parts < LEAST_WEIGHT, 0.0, parts)


def _nearest(
    latents: Float[Tensor, "particle draw latent"], centres: Float[Tensor, "cluster latent"]
) -> Int[Tensor, "particle draw"]:
    parts = latents.split(4096)
    return torch.cat([torch.cdist(part, centres).argmin(-1) for part in parts])


def good_particles(run: "Run", least: float) -> Bool[np.ndarray, " particle"]:
    """The particles with at least this probability of being good."""
    if least == 0:
        return np.ones(len(run.particles), dtype=bool)
    return run.quality >= least


def half_sets(run: "Run") -> tuple[Int[Tensor, " particle"], str]:
    """The half, 0 or 1, of every particle, and where that is from.

    Those of the particle file, if it has two; else drawn at random, the same every time.
    """
    metadata = open_metadata(run.inputs.particles, run.inputs.reading)
    for name in set(SUBSETS) & set(metadata.columns):
        labels, half = np.unique(metadata.raw(name).astype(np.int64), return_inverse=True)
        if len(labels) == 2 and len(half) == len(run.particles):
            return torch.from_numpy(half), f"as in {name}"
    generator = torch.Generator().manual_seed(run.config.seed)
    return torch.randperm(len(run.particles), generator=generator) % 2, "at random"
