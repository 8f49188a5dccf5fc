"""What each image says of one coordinate of its structure, and how finely they resolve it."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.mixture import Mixture, effective_number, weighted_quantiles

OUTSIDE = 0.005  # of the posteriors' weight, beyond each of the outermost edges between bins
MOST_BINS, LEAST_BINS = 24, 2
LARGEST_ERROR = 0.25  # of a bin's mean population, in the finest wave that bins can show
POINTS, BEYOND = 400, 0.3  # of the grid along the motion, and how far it goes on, in its lengths
CHUNK = 4096  # particles
NEWTON_STEPS = 40
LEAST_VARIANCE = 1e-9  # sd^2 of the prior; all of the mass may lie on one point of the grid
FEWEST = 5.0  # effective draws; fewer count as so many


def span(
    scores: Float[Tensor, "particle draw"], weights: Float[Tensor, "particle draw"]
) -> tuple[float, float]:
    """The scores between which lie all but 0.5 % of the posteriors' weight on either side."""
    parts = torch.tensor([OUTSIDE, 1 - OUTSIDE], dtype=torch.float64)
    low, high = weighted_quantiles(scores, weights, parts).tolist()
    return low, high


@dataclass(frozen=True)
class Likelihoods:
    """What each image says of its score: exp(a s - c s^2 / 2), with the score in sd of the prior.

    That times the prior has the mean of the weighted draws, and the variance that a new draw would
    have about it. A histogram of some 48 draws would do without the form, but its noise draws
    populations to the prior.
    """

    grid: Float[Tensor, " point"]  # scores
    prior: Float[Tensor, " point"]  # its mass at these; the sum is 1
    unit: float  # sd of the prior
    slopes: Float[Tensor, " particle"]  # a, of scores from the middle of the grid
    curvatures: Float[Tensor, " particle"]  # c, 0 where an image says nothing

    @classmethod
    def of(
        cls,
        scores: Float[Tensor, "particle draw"],
        weights: Float[Tensor, "particle draw"],
        prior: Mixture,
    ) -> "Likelihoods":
        """Of weighted draws from posteriors with this prior in one dimension (`Mixture.along`)."""
        low, high = span(scores, weights)
        room = BEYOND * (high - low)
        grid = torch.linspace(low - room, high + room, POINTS, dtype=torch.float64)
        mass = torch.softmax(prior.log_density(grid[:, None]), 0)
        centre = (low + high) / 2
        unit = float((mass @ grid.square() - (mass @ grid).square()).sqrt())
        places = (scores.double() - centre) / unit
        weights = weights.double()
        mean = (weights * places).sum(1)
        variance = (weights * (places - mean[:, None]).square()).sum(1)
        number = effective_number(weights).clamp(min=FEWEST)
        variance = variance * (number + 1) / (number - 1)
        finest = (2 * float(grid[1] - grid[0]) / unit) ** 2  # a variance that the grid can hold
        square = mean.square() + variance.clamp(min=finest)
        # The two numbers of each particle are the least of a convex function (maximum entropy).
        found = [
            _tilt((grid - centre) / unit, mass.log(), torch.stack([m, -q / 2], dim=1))
            for m, q in zip(mean.split(CHUNK), square.split(CHUNK), strict=True)
        ]
        slopes, curvatures = torch.cat(found).unbind(1)
        return cls(grid, mass, unit, slopes, curvatures)

    @property
    def sds(self) -> Float[Tensor, " particle"]:
        """The sd of each likelihood, in the score; infinite where an image says nothing."""
        return self.unit * self.curvatures.rsqrt()

    def of_bins(self, edges: Float[Tensor, " edge"]) -> Float[Tensor, "particle bin"]:
        """L_ib: how much more of a particle's posterior than of the prior lies in each bin.

        The outermost bins have no end.
        """
        bins = torch.bucketize(self.grid, edges[1:-1].contiguous())
        members = torch.nn.functional.one_hot(bins, len(edges) - 1).double()
        centre = float(self.grid[0] + self.grid[-1]) / 2
        places = (self.grid - centre) / self.unit
        features = torch.stack([places, -places.square() / 2])
        both = torch.stack([self.slopes, self.curvatures], dim=1)
        found = [
            torch.softmax(part @ features + self.prior.log(), dim=1) @ members
            for part in both.split(CHUNK)
        ]
        return torch.cat(found) / self.prior_of_bins(edges)

    def prior_of_bins(self, edges: Float[Tensor, " edge"]) -> Float[Tensor, " bin"]:
        """The mass of the prior in each bin, at least 1e-12."""
        bins = torch.bucketize(self.grid, edges[1:-1].contiguous())
        mass = torch.zeros(len(edges) - 1, dtype=torch.float64).scatter_add_(0, bins, self.prior)
        return mass.clamp(min=1e-12)


def _tilt(
    places: Float[Tensor, " point"],
    log_prior: Float[Tensor, " point"],
    wanted: Float[Tensor, "particle 2"],
) -> Float[Tensor, "particle 2"]:
    """The a and c >= 0 with which prior exp(a s - c s^2 / 2) has these means of s and -s^2 / 2.

    Newton's method, with shorter steps where a step would lead upwards.
    """
    features = torch.stack([places, -places.square() / 2])

    def height(at: Tensor) -> tuple[Tensor, Tensor]:
        terms = at @ features + log_prior
        total = torch.logsumexp(terms, dim=1)
        return total - (at * wanted).sum(1), (terms - total[:, None]).exp()

    here = torch.zeros_like(wanted)
    least, mass = height(here)
    damping = torch.full_like(least, 1e-3)
    for _ in range(NEWTON_STEPS):
        mean = mass @ features.mT
        second = torch.einsum("np,ap,bp->nab", mass, features, features)
        covariance = second - mean[:, :, None] * mean[:, None, :]
        ridge = damping[:, None] * (covariance.diagonal(dim1=1, dim2=2) + 1e-9) + LEAST_VARIANCE
        damped = covariance + ridge.diag_embed()
        step = torch.linalg.solve(damped, (wanted - mean)[..., None])[..., 0]
        there = here + step
        there[:, 1].clamp_(min=0)
        reached, mass_there = height(there)
        better = reached <= least
        here = torch.where(better[:, None], there, here)
        mass = torch.where(better[:, None], mass_there, mass)
        least = torch.where(better, reached, least)
        damping = torch.where(better, damping / 4, damping * 8).clamp(1e-9, 1e6)
        if bool(better.all()) and float(step.abs().max()) < 1e-4:
            break
    return here


def resolved_bins(sds: Float[Tensor, " particle"], ends: tuple[float, float]) -> int:
    """The number of bins, 2 to 24, that particles with likelihoods of these sds can tell apart.

    Of a wave of period 2 w, the finest of bins of width w, the likelihood of a particle with the
    sd s leaves the part exp(-(pi s / w)^2 / 2). All of them together tell its height with an error,
    as a part of a bin's mean population, of sqrt(bins / sum_i exp(-(pi s_i / w)^2)), which may be a
    quarter. So bins are the wider, the noisier and the fewer the images are.
    """
    for count in range(MOST_BINS, LEAST_BINS, -1):
        waves = math.pi * sds * count / (ends[1] - ends[0])
        if count < LARGEST_ERROR**2 * float(torch.exp(-waves.square()).sum()):
            return count
    return LEAST_BINS
