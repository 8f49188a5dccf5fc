"""The population along a motion, as the posteriors of all particles tell it, with errors.

A histogram of one value for each particle is biased: the noise of the images widens it, fills the
valley between two states, and makes them too alike. Here the populations p_b of bins along a
coordinate have the largest likelihood of the images,

    sum_i log(sum_b p_b L_ib),    L_ib = (posterior of particle i in b) / (prior in b),

found by expectation-maximisation: a particle is shared out among the bins by p_b L_ib, and p_b is
the mean share. Each bin has four parts, whose populations are found likewise, so that its particles
may lie anywhere in it; their sum alone is told. How far chance in the choice of particles changes
it is told by the bootstrap.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.latents import LEAST_DIP, LOWEST_MODE
from cryostar_nb.mixture import Mixture, effective_number

OUTSIDE = 0.005  # of the posteriors' weight, beyond each of the outermost edges between bins
MOST_BINS, LEAST_BINS = 24, 2
LARGEST_ERROR = 0.25  # of a bin's mean population, in the finest wave that bins can show
PARTS = 4  # of a bin, among which its particles find their places
POINTS, BEYOND = 400, 0.3  # of the grid along the motion, and how far it goes on, in its lengths
CHUNK = 4096  # particles
NEWTON_STEPS = 40
FEWEST = 5.0  # effective draws; fewer count as so many
PSEUDO_COUNT = 0.5  # particles that each bin has beforehand
MOST_CYCLES, TOLERANCE = 400, 1e-6  # of expectation-maximisation; change of a population
SAMPLES, AT_ONCE = 100, 25  # of the bootstrap
SURE = 0.95  # of the samples, that have a valley between two states


@dataclass(frozen=True)
class State:
    """A peak of the population, and all that is on its side of the valleys beside it."""

    low: float  # score
    high: float
    share: float
    error: float  # sd of the share


@dataclass(frozen=True)
class Landscape:
    """Populations of bins along a component; the outermost bins have no end."""

    edges: Float[Tensor, " edge"]  # scores
    displacement: Float[Tensor, " bin"]  # Å rms, of the structure of a bin from that of the first
    populations: Float[Tensor, " bin"]  # their sum is 1
    samples: Float[Tensor, "sample bin"]  # the same by the bootstrap
    bare: Float[Tensor, " bin"]  # the histogram of the latent means
    particles: int

    @property
    def centres(self) -> Float[Tensor, " bin"]:
        """Scores of the middles of the bins."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def errors(self) -> Float[Tensor, " bin"]:
        """The sd of each population."""
        return self.samples.std(0)

    @property
    def bare_errors(self) -> Float[Tensor, " bin"]:
        """The sd of the histogram, of so many independent particles."""
        return (self.bare * (1 - self.bare) / self.particles).sqrt()

    @property
    def energies(self) -> Float[Tensor, " bin"]:
        """-log of the populations, above that of the largest, in kT."""
        return (self.populations.max() / self.populations).log()

    @property
    def energy_errors(self) -> Float[Tensor, " bin"]:
        """The sd of each energy; 0 of the lowest, which the others are measured from."""
        logs = self.samples.log()
        return (logs[:, self.populations.argmax(), None] - logs).std(0)

    def share_above(self, score: float) -> tuple[float, float]:
        """How much of the population lies above a score, and the sd of that.

        Within a bin the population is taken to be even.
        """
        place = np.interp(score, self.edges.numpy(), np.arange(len(self.edges)))
        bins = torch.arange(len(self.populations)).double()
        parts = (bins + 1 - float(place)).clamp(0, 1)
        return float(self.populations @ parts), float((self.samples @ parts).std())

    def states(self) -> list[State]:
        """Peaks with a valley between them, by the rule of `latents.latent_modes`.

        The valley is in at least 95 % of the bootstrap's samples, too; else two peaks are one.
        """
        from scipy.signal import find_peaks  # slow to import

        heights = self.populations.numpy()
        peaks, shape = find_peaks(
            np.pad(heights, 1), prominence=0.0, height=LOWEST_MODE * heights.max()
        )
        peaks = peaks[shape["prominences"] >= LEAST_DIP * shape["peak_heights"]] - 1
        cuts, kept = [-math.inf], list(peaks[:1])
        for peak in peaks[1:]:
            valley = kept[-1] + int(heights[kept[-1] : peak + 1].argmin())
            sides = self.samples[:, [kept[-1], int(peak)]].amin(1)
            if float((self.samples[:, valley] < sides).double().mean()) >= SURE:
                cuts.append(float(self.centres[valley]))
                kept.append(peak)
            elif heights[peak] > heights[kept[-1]]:
                kept[-1] = peak
        return [self._between(*ends) for ends in zip(cuts, [*cuts[1:], math.inf], strict=True)]

    def _between(self, low: float, high: float) -> State:
        count = len(self.populations)
        places = np.interp([low, high], self.edges.numpy(), np.arange(count + 1))
        bins = torch.arange(count).double()
        parts = (bins + 1 - places[0]).clamp(0, 1) - (bins + 1 - places[1]).clamp(0, 1)
        share, error = float(self.populations @ parts), float((self.samples @ parts).std())
        return State(low, high, share, error)

    def words(self) -> list[str]:
        """What it says, in a few lines."""
        count, states = len(self.populations), self.states()
        lines = [
            f"populations of {count} bins from {self.particles:,} particles, by their posteriors;"
            f" the end is {float(self.displacement[-1]):.1f} Å rms from the start",
        ]
        highest = int(self.energies.argmax())
        value, error = float(self.energies[highest]), float(self.energy_errors[highest])
        lines.append(f"the least populated bin is {value:.1f} ± {error:.1f} kT above the most")
        if len(states) > 1:
            shares = ", ".join(f"{100 * s.share:.0f} ± {100 * s.error:.0f} %" for s in states)
            return [*lines, f"{len(states)} states with a valley between them: {shares}"]
        return [*lines, "no valley that is sure: one state"]


def span(
    scores: Float[Tensor, "particle draw"], weights: Float[Tensor, "particle draw"]
) -> tuple[float, float]:
    """The scores between which lie all but 0.5 % of the posteriors' weight on either side."""
    order = scores.flatten().argsort()
    total = weights.flatten()[order].double().cumsum(0)
    wanted = total[-1] * torch.tensor([OUTSIDE, 1 - OUTSIDE], dtype=torch.float64)
    places = torch.searchsorted(total, wanted).clamp(max=len(order) - 1)
    low, high = scores.flatten()[order[places]].tolist()
    return low, high


@dataclass(frozen=True)
class Likelihoods:
    """What each image says of its score: exp(a s - c s^2 / 2), with the score in sd of the prior.

    That times the prior has the mean of the weighted draws, and the variance that a new draw would
    have about it (Student's t). A histogram of some 48 draws would do without the form, but its
    noise draws populations to the prior.
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
        variance = variance * (number + 1) / (number - 3)
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
        return torch.cat(found) / (self.prior @ members).clamp(min=1e-12)


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
        ridge = damping[:, None, None] * (covariance.diagonal(dim1=1, dim2=2).diag_embed() + 1e-9)
        step = torch.linalg.solve(covariance + ridge, (wanted - mean)[..., None])[..., 0]
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


def populations(
    likelihoods: Float[Tensor, "particle bin"],
    counts: Float[Tensor, "sample particle"],
) -> Float[Tensor, "sample bin"]:
    """The populations of the largest likelihood, for each sample of how often particles count.

    Expectation-maximisation from even populations, with an eighth of a particle in each beforehand,
    so that none is empty. After every two steps follows a leap along them in the logarithm
    (SQUAREM; Varadhan and Roland, Scand. J. Stat. 2008), kept where the likelihood does not fall.
    """
    here = torch.full((len(counts), likelihoods.shape[1]), 1.0, dtype=torch.float64)
    here = here / here.shape[1]

    def step(at: Tensor) -> tuple[Tensor, Tensor]:
        fit = at @ likelihoods.mT
        shares = at * ((counts / fit) @ likelihoods) + PSEUDO_COUNT / PARTS
        height = (counts * fit.log()).sum(1) + PSEUDO_COUNT / PARTS * at.log().sum(1)
        return shares / shares.sum(1, keepdim=True), height

    for _ in range(MOST_CYCLES):
        before, here = here, _cycle(step, here)
        if float((here - before).abs().max()) < TOLERANCE:
            break
    return here


def _cycle(step: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor) -> Tensor:
    """Two steps and the leap that they suggest, with a step after it."""
    one = step(start)[0]
    two, height = step(one)
    first = one.log() - start.log()
    bend = two.log() - one.log() - first
    length = (first.norm(dim=1) / bend.norm(dim=1).clamp(min=1e-30)).clamp(1, 1e3)[:, None]
    leap = torch.softmax(start.log() + 2 * length * first + length.square() * bend, dim=1)
    after, reached = step(leap.clamp(min=1e-300))
    return torch.where((reached >= height)[:, None], after, two)


def bootstrap(
    likelihoods: Float[Tensor, "particle bin"], samples: int = SAMPLES, seed: int = 0
) -> Float[Tensor, "sample bin"]:
    """`populations` of samples of as many particles, drawn with replacement."""
    generator, count, found = torch.Generator().manual_seed(seed), len(likelihoods), []
    for first in range(0, samples, AT_ONCE):
        drawn = [
            torch.randint(count, (count,), generator=generator).bincount(minlength=count)
            for _ in range(first, min(first + AT_ONCE, samples))
        ]
        found.append(populations(likelihoods, torch.stack(drawn).double()))
    return torch.cat(found)


def make_landscape(
    likelihoods: Likelihoods,
    means: Float[Tensor, " particle"],
    *,
    edges: Float[Tensor, " edge"],
    displacement: Float[Tensor, " bin"],
    seed: int = 0,
) -> Landscape:
    """The populations between these edges, beside the histogram of the scores of latent means."""
    fine = torch.cat([torch.lerp(edges[:-1], edges[1:], part / PARTS) for part in range(PARTS)])
    of_parts = likelihoods.of_bins(torch.cat([fine, edges[-1:]]).sort().values)
    everyone = torch.ones(1, len(of_parts), dtype=torch.float64)
    bare = torch.bucketize(means.double(), edges[1:-1].contiguous())
    return Landscape(
        edges,
        displacement,
        populations(of_parts, everyone)[0].unflatten(0, (-1, PARTS)).sum(-1),
        bootstrap(of_parts, seed=seed).unflatten(1, (-1, PARTS)).sum(-1),
        bare.bincount(minlength=len(edges) - 1).double() / len(bare),
        len(bare),
    )
