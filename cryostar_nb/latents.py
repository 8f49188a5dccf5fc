"""The latent space: principal components, structures along them, and the modes of a density."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cryostar_nb.errors import InputError
from cryostar_nb.geometry import rmsd

ENDS = (5.0, 95.0)  # percentiles of the first component that the paper's Figure 4 compares
LEAST_MOVE = 0.05  # Å rms, of structures by one sd of a direction; less is left out
LEAST_DIP = 0.25  # fall of the density between a mode and a higher one, as a part of its height
LOWEST_MODE = 0.05  # height of the lowest mode, as a part of the highest
PATH_PARTICLES, SMOOTHINGS = 2000, 2  # of a path of highest density


def evenly_spaced(count: int, total: int) -> Int[Tensor, " row"]:
    """Up to `count` row numbers, spread evenly over `total` rows."""
    return torch.linspace(0, total - 1, min(count, total)).long()


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of the latents: `scores = (latents - mean) @ components.T`."""

    mean: Float[Tensor, " latent"]
    components: Float[Tensor, "component latent"]
    scores: Float[Tensor, "particle component"]
    explained: Float[Tensor, " component"]  # fractions of the variance

    def place(self, number: int) -> int:
        """The place of a component that is counted from 1. InputError for one that is not there."""
        if not 1 <= number <= len(self.components):
            remedy = f"give 1 to {len(self.components)}"
            raise InputError("pc = {value}", value=number, remedy=remedy)
        return number - 1


def principal_components(latents: Float[Tensor, "particle latent"]) -> PrincipalComponents:
    """PCA of the latents, largest variance first; the signs are arbitrary."""
    mean = latents.mean(0)
    _, singular_values, components = torch.linalg.svd(latents - mean, full_matrices=False)
    power = singular_values.square()
    explained = power / power.sum().clamp(min=1e-30)
    return PrincipalComponents(mean, components, (latents - mean) @ components.T, explained)


@dataclass(frozen=True)
class Directions:
    """The directions of the latent space in which structures move, each in sd of the latents."""

    mean: Float[Tensor, " latent"]
    axes: Float[Tensor, "direction latent"]  # one sd along each
    inverse: Float[Tensor, "latent direction"]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        decoder: nn.Module,
        latents: Float[Tensor, "particle latent"],
    ) -> "Directions":
        """Principal components of the latents, without those that move structures hardly.

        At least one is kept.
        """
        mean, centred = latents.double().mean(0), latents.double()
        variances, vectors = torch.linalg.eigh(torch.cov(centred.mT))
        axes = (vectors * variances.clamp(min=1e-12).sqrt()).mT.flip(0)
        some = latents[evenly_spaced(200, len(latents))]
        here = decoder(some)
        moves = [float(rmsd(decoder(some + a.to(some)), here).square().mean().sqrt()) for a in axes]
        kept = torch.tensor([move > LEAST_MOVE for move in moves])
        kept[0] |= not kept.any()
        axes = axes[kept.to(axes.device)]
        return cls(mean, axes, (axes / axes.square().sum(-1, keepdim=True)).mT)

    def place(self, latents: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch direction"]:
        """Where latents lie along the directions."""
        return (latents.double() - self.mean) @ self.inverse

    def latents(self, places: Float[Tensor, "*batch direction"]) -> Float[Tensor, "*batch latent"]:
        """The latents there; in the other directions they are at the mean."""
        return (self.mean + places @ self.axes).float()


def mean_around_percentiles(
    values: Float[Tensor, "particle value"],
    scores: Float[Tensor, " particle"],
    percentiles: Float[Tensor, " point"],
) -> Float[Tensor, "point value"]:
    """Mean of the values of the 2 % of particles around each percentile of the scores."""
    return torch.stack([values[rows].mean(0) for rows in around_percentiles(scores, percentiles)])


def around_percentiles(
    scores: Float[Tensor, " particle"], percentiles: Float[Tensor, " point"]
) -> list[Int[Tensor, " row"]]:
    """The 2 % of particles around each percentile of the scores."""
    order = torch.argsort(scores)
    half_width = max(1, len(scores) // 100)
    centres = (percentiles / 100 * (len(scores) - 1)).round().long().tolist()
    return [order[max(0, place - half_width) : place + half_width + 1] for place in centres]


@torch.no_grad()
def traverse(
    decoder: nn.Module,
    latents: Float[Tensor, "particle latent"],
    scores: Float[Tensor, " particle"],
    percentiles: Float[Tensor, " frame"],
) -> Float[Tensor, "frame atom 3"]:
    """Structures along a component, in Å, at these percentiles of its scores.

    Each is decoded from the mean latent of the 2 % of particles around that percentile, which lies
    where the particles are; a straight line through a curved latent space would not.
    """
    return decoder(mean_around_percentiles(latents, scores, percentiles))


def components_from_reference(
    decoder: nn.Module,
    latents: Float[Tensor, "particle latent"],
    reference: Float[Tensor, "atom 3"],
) -> PrincipalComponents:
    """`principal_components`, the first turned so that it leads away from the reference.

    The structure at its 5th percentile is then no farther from the reference than that at its 95th.
    """
    pca = principal_components(latents)
    low, high = rmsd(traverse(decoder, latents, pca.scores[:, 0], torch.tensor(ENDS)), reference)
    sign = torch.ones(len(pca.components))
    sign[0] = -1 if low > high else 1
    return dataclasses.replace(
        pca, components=sign[:, None] * pca.components, scores=sign * pca.scores
    )


def score_density(
    scores: Float[np.ndarray, " particle"], points: int = 512
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
    """Places along a component and the density of particles there, whose integral is 1.

    A sum of a Gaussian for each particle, of Silverman's width, 0.9 min(sd, iqr / 1.34) n^(-1/5)
    (Density Estimation, 1986, eq. 3.31), which a few outliers do not widen. The scores must not
    all be the same.
    """
    from scipy.stats import gaussian_kde, iqr  # slow to import

    sd = float(scores.std(ddof=1))
    width = 0.9 * (min(sd, float(iqr(scores)) / 1.34) or sd) * len(scores) ** -0.2
    places = np.linspace(scores.min() - 4 * width, scores.max() + 4 * width, points)
    return places, gaussian_kde(scores, bw_method=width / sd)(places)


def latent_modes(scores: Float[np.ndarray, " particle"]) -> Float[np.ndarray, " mode"]:
    """Where the density of the scores along a component has its modes, in ascending order.

    A mode is a peak of `score_density` from which the density falls by at least a quarter of the
    peak's height on the way to any higher one, and which is at least a twentieth as high as the
    highest. The valley between two equal Gaussians is that deep when they lie more than 2.8
    standard deviations apart. Particles that all have one score are one mode.
    """
    from scipy.signal import find_peaks

    if np.ptp(scores) == 0:
        return scores[:1]
    places, density = score_density(scores)
    lowest = LOWEST_MODE * density.max()
    peaks, shape = find_peaks(np.pad(density, 1), prominence=0.0, height=lowest)
    return places[peaks[shape["prominences"] >= LEAST_DIP * shape["peak_heights"]] - 1]


def path_of_highest_density(
    latents: Float[Tensor, "particle latent"],
    scores: Float[Tensor, "particle component"],
    first: int,
    last: int,
    frames: int = 21,
) -> Float[Tensor, "frame latent"]:
    """Latents from one particle to another, through where particles are densest.

    A step between two particles costs its length in the space of D scores to the power D + 1. The
    cheapest path through many particles is then the one with the least integral of 1 / density
    (Groisman, Jonckheere and Sapienza, arXiv:1810.09398). It leads over up to 2,000 particles,
    evenly spaced. Each of its points is replaced by the mean of the 1 % of particles nearest to it;
    these means are smoothed twice by weights of 1/4, 1/2 and 1/4, and frames are equally far apart
    along them.
    """
    from scipy.sparse.csgraph import dijkstra
    from scipy.spatial import cKDTree
    from scipy.spatial.distance import cdist

    rows = evenly_spaced(PATH_PARTICLES, len(scores)).numpy()
    rows = np.concatenate([[first], np.setdiff1d(rows, [first, last]), [last]])
    points = scores.double().numpy()
    points = points / max(float(points.std()), 1e-12)
    costs = np.maximum(cdist(points[rows], points[rows]), 1e-9) ** (points.shape[1] + 1)
    before = dijkstra(costs, indices=0, return_predecessors=True)[1]
    steps = [len(rows) - 1]
    while steps[-1] != 0:
        steps.append(int(before[steps[-1]]))
    nearest = cKDTree(points).query(points[rows[steps[::-1]]], k=max(3, len(points) // 100))[1]
    return _evenly_along(latents[torch.from_numpy(nearest)].mean(1), frames)


def _evenly_along(
    path: Float[Tensor, "point latent"], frames: int
) -> Float[Tensor, "frame latent"]:
    """Points equally far apart along a line of straight pieces, smoothed; the ends stay."""
    for _ in range(SMOOTHINGS):
        path = torch.cat([path[:1], (path[:-2] + 2 * path[1:-1] + path[2:]) / 4, path[-1:]])
    along = torch.cat([torch.zeros(1), path.diff(dim=0).norm(dim=1).cumsum(0)]).double().numpy()
    places = np.linspace(0, along[-1], frames)
    columns = [np.interp(places, along, column) for column in path.double().numpy().T]
    return torch.from_numpy(np.stack(columns, axis=1)).float()
