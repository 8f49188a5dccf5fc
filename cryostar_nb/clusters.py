"""Clusters of latents: as many as are asked for, or as many as stand apart."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryostar_nb.errors import InputError
from cryostar_nb.latents import evenly_spaced

MOST_CLUSTERED = 20_000  # particles, by their density; the others go with their neighbours
SMALLEST = 0.04  # of the particles, in a cluster by density
NEIGHBOURS = 25  # particles that say how dense it is about one
STARTS = 10  # of k-means; the best of them counts
LOCAL = 0.02  # of a cluster's particles, around its middle


@dataclass(frozen=True)
class Clusters:
    """Which cluster each particle is in, from 1; 0 is in none. They are ordered along PC1."""

    labels: Int[np.ndarray, " particle"]

    @classmethod
    def ordered(
        cls, labels: Int[np.ndarray, " particle"], along: Float[Tensor, " particle"]
    ) -> "Clusters":
        """Clusters in the order of their mean `along` a component; a negative label is none."""
        names = np.unique(labels[labels >= 0])
        means = [float(along[torch.from_numpy(labels == name)].mean()) for name in names]
        numbers = np.zeros(len(labels), dtype=np.int64)
        for number, name in enumerate(names[np.argsort(means)], start=1):
            numbers[labels == name] = number
        return cls(numbers)

    @property
    def count(self) -> int:
        """The number of clusters."""
        return int(self.labels.max(initial=0))

    @property
    def sizes(self) -> list[int]:
        """Particles of each cluster, after those that are in none."""
        return np.bincount(self.labels, minlength=self.count + 1).tolist()

    def rows(self, number: int) -> Int[np.ndarray, " row"]:
        """The particles of a cluster, counted from 0. Raises InputError for one that is not there.

        0 are the particles that are in none, where there are such.
        """
        if not 0 <= number <= self.count or self.sizes[number] == 0:
            problem, remedy = "cluster = {value}", f"give 1 to {self.count}"
            raise InputError(problem, value=number, remedy=remedy)
        return np.flatnonzero(self.labels == number)

    def centres(self, latents: Float[Tensor, "particle latent"]) -> Float[Tensor, "cluster latent"]:
        """The mean latent of each cluster. On a curved motion it may lie where no particle is."""
        numbers = range(1, self.count + 1)
        return torch.stack([latents[self.rows(number)].mean(0) for number in numbers])

    def middles(self, latents: Float[Tensor, "particle latent"]) -> Float[Tensor, "cluster latent"]:
        """A latent of each cluster that lies where its particles are (`middle`)."""
        numbers = range(1, self.count + 1)
        return torch.stack([middle(latents[self.rows(number)]) for number in numbers])


def middle(latents: Float[Tensor, "particle latent"]) -> Float[Tensor, " latent"]:
    """The mean latent of the 2 % of particles around the one that is nearest to the mean of all.

    It lies among particles, where the mean itself may lie in the hole of a ring.
    """
    nearest = latents[(latents - latents.mean(0)).norm(dim=1).argmin()]
    count = max(1, round(LOCAL * len(latents)))
    return latents[(latents - nearest).norm(dim=1).argsort()[:count]].mean(0)


def kmeans(
    latents: Float[Tensor, "particle latent"],
    count: int,
    *,
    along: Float[Tensor, " particle"],
    seed: int = 0,
) -> Clusters:
    """So many clusters of the least squared distance to their means, the best of ten starts.

    Every particle is in one of them. `along` orders them. Raises InputError for more clusters than
    there are different latents.
    """
    from sklearn.cluster import KMeans  # slow to import

    different = len(torch.unique(latents, dim=0))
    if not 1 <= count <= different:
        problem, remedy = "clusters = {value}", f"give 1 to {different}, the different latents"
        raise InputError(problem, value=count, remedy=remedy)
    found = KMeans(count, n_init=STARTS, random_state=seed).fit(latents.double().numpy())
    return Clusters.ordered(found.labels_.astype(np.int64), along)


def density_clusters(scores: Float[Tensor, "particle component"]) -> Clusters:
    """Where particles crowd (HDBSCAN; Campello, Moulavi and Sander 2013): as many clusters as
    stand apart, none where none does.

    A cluster has at least 4 % of the particles; most of those between clusters are in none. Of more
    than 20,000 particles as many are clustered, and the others go with the nearest of these.
    `scores` are along few components: in many directions all particles are about as far apart.
    """
    from scipy.spatial import cKDTree
    from sklearn.cluster import HDBSCAN  # slow to import

    points = scores.double().numpy()
    some = points[evenly_spaced(MOST_CLUSTERED, len(points)).numpy()]
    smallest = max(5, round(SMALLEST * len(some)))
    near = min(NEIGHBOURS, smallest)
    labels = HDBSCAN(min_cluster_size=smallest, min_samples=near, copy=True).fit(some).labels_
    if len(some) < len(points):
        labels = labels[cKDTree(some).query(points)[1]]
    return Clusters.ordered(labels.astype(np.int64), scores[:, 0])
