"""The population along a motion, as the posteriors of all particles tell it, with errors.

A histogram of one value for each particle is biased: the noise of the images widens it, fills the
valley between two states, and makes them too alike. Here the populations p_b of bins along a
coordinate raise the likelihood of the images,

    sum_i log(sum_b p_b L_ib),    L_ib = (posterior of particle i in b) / (prior in b),

by expectation-maximisation: a particle is shared out among the bins by p_b L_ib, and p_b is
the mean share. Each bin has four parts, whose populations are found likewise, so that its particles
may lie anywhere in it; their sum alone is told. The maximum itself follows the noise, so the steps
stop before; the errors are those of the bootstrap, whose samples stop sooner or later. What all
particles share, a decoder that is wrong, it cannot see: the populations of the same bins by other
trainings tell, and are added in quadrature.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from cryostar_nb.latents import LEAST_DIP, LOWEST_MODE
from cryostar_nb.score_likelihoods import Likelihoods

PARTS = 4  # of a bin, among which its particles find their places
FEWEST_STEPS, MOST_STEPS = 20, 200  # of expectation-maximisation
PSEUDO_COUNT = 0.5  # particles that are there beforehand, in all
SAMPLES, AT_ONCE = 50, 10  # of the bootstrap
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
    others: Float[Tensor, "run bin"] | None = None  # the same populations by other trainings

    @property
    def centres(self) -> Float[Tensor, " bin"]:
        """Scores of the middles of the bins."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def errors(self) -> Float[Tensor, " bin"]:
        """The sd of each population."""
        return self._sd(lambda populations: populations)

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
        lowest = self.populations.argmax()
        return self._sd(lambda p: (p[..., lowest, None] / p).log())

    def share_above(self, score: float) -> tuple[float, float]:
        """How much of the population lies above a score, and the sd of that.

        Within a bin the population is taken to be even. No image resolves where it is: a bin that
        the score cuts adds the variance of all its particles at one place, wherever that is.
        """
        place = np.interp(score, self.edges.numpy(), np.arange(len(self.edges)))
        bins = torch.arange(len(self.populations)).double()
        parts = (bins + 1 - float(place)).clamp(0, 1)
        return self._share(parts)

    def _share(self, parts: Float[Tensor, " bin"]) -> tuple[float, float]:
        """The share in these parts of the bins, and its sd."""
        unresolved = self.populations.square() @ (parts * (1 - parts))
        variance = self._sd(lambda p: p @ parts).square() + unresolved
        return float(self.populations @ parts), float(variance.sqrt())

    def _sd(self, of: Callable[[Tensor], Tensor]) -> Tensor:
        """The sd of a function of the populations: of the bootstrap, and of the difference to other
        trainings, half of whose mean square is the variance if all are wrong alike.
        """
        variance = of(self.samples).var(0)
        if self.others is not None:
            variance = variance + (of(self.others) - of(self.populations)).square().mean(0) / 2
        return variance.sqrt()

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
        return State(low, high, *self._share(parts))

    def words(self) -> list[str]:
        """What it says, in a few lines."""
        count, states = len(self.populations), self.states()
        lines = [
            f"populations of {count} bins from {self.particles:,} particles, by their posteriors;"
            f" the end is {float(self.displacement[-1]):.1f} Å rms from the start",
        ]
        if self.others is not None:
            count = len(self.others)
            more = "1 more training says" if count == 1 else f"{count} more trainings say"
            lines.append(f"errors hold what {more} of these bins")
        highest = int(self.energies.argmax())
        value, error = float(self.energies[highest]), float(self.energy_errors[highest])
        lines.append(f"the least populated bin is {value:.1f} ± {error:.1f} kT above the most")
        if len(states) > 1:
            shares = ", ".join(f"{100 * s.share:.0f} ± {100 * s.error:.0f} %" for s in states)
            return [*lines, f"{len(states)} states with a valley between them: {shares}"]
        return [*lines, "no valley that is sure: one state"]


def steps_of(particles: int, bins: int) -> int:
    """How many steps find the finest wave that so many bins show, to 1/e; 20 to 200.

    Each step takes the part A^2 of what is left of a wave of which the likelihoods leave the part
    A, and bins are such that A^2 is 16 bins / particles or more (`resolved_bins`).
    """
    return min(max(particles // (16 * bins), FEWEST_STEPS), MOST_STEPS)


def populations(
    likelihoods: Float[Tensor, "particle bin"],
    start: Float[Tensor, " bin"],
    counts: Float[Tensor, "sample particle"],
    steps: Int[Tensor, " sample"],
) -> Float[Tensor, "sample bin"]:
    """The populations after some steps of expectation-maximisation from `start`, for each sample of
    how often particles count.

    The first steps find what images resolve well; what they do not resolve stays as it is at the
    start. Half a particle in all is there beforehand, spread like that, so that no bin is empty.
    """
    found = start.expand(len(counts), -1)
    for step in range(int(steps.max())):
        shares = found * ((counts / (found @ likelihoods.mT)) @ likelihoods)
        shares = shares + PSEUDO_COUNT * start
        going = (step < steps)[:, None]
        found = torch.where(going, shares / shares.sum(1, keepdim=True), found)
    return found


def bootstrap(
    likelihoods: Float[Tensor, "particle bin"],
    start: Float[Tensor, " bin"],
    steps: int,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Float[Tensor, "sample bin"]:
    """`populations` of samples of as many particles, drawn with replacement.

    Each stops after another number of steps, a third to three times as many as the estimate, so
    that the scatter holds what the stopping decides.
    """
    generator, count, found = torch.Generator().manual_seed(seed), len(likelihoods), []
    for first in tqdm(range(0, samples, AT_ONCE), desc="bootstrap", unit="batch"):
        drawn = [
            torch.randint(count, (count,), generator=generator).bincount(minlength=count)
            for _ in range(first, min(first + AT_ONCE, samples))
        ]
        powers = 2 * torch.rand(len(drawn), generator=generator) - 1
        stops = (steps * 3**powers).round().long()
        found.append(populations(likelihoods, start, torch.stack(drawn).double(), stops))
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
    parts = _by_parts(likelihoods, edges)
    bare = torch.bucketize(means.double(), edges[1:-1].contiguous())
    return Landscape(
        edges,
        displacement,
        _estimate(*parts),
        _of_bins(bootstrap(*parts, seed=seed)),
        bare.bincount(minlength=len(edges) - 1).double() / len(bare),
        len(bare),
    )


def populations_between(
    likelihoods: Likelihoods, edges: Float[Tensor, " edge"]
) -> Float[Tensor, " bin"]:
    """The populations between these edges, without errors."""
    return _estimate(*_by_parts(likelihoods, edges))


def _estimate(
    of_parts: Float[Tensor, "particle part"], start: Float[Tensor, " part"], steps: int
) -> Float[Tensor, " bin"]:
    everyone = torch.ones(1, len(of_parts), dtype=torch.float64)
    return _of_bins(populations(of_parts, start, everyone, torch.tensor([steps])))[0]


def _by_parts(
    likelihoods: Likelihoods, edges: Float[Tensor, " edge"]
) -> tuple[Float[Tensor, "particle part"], Float[Tensor, " part"], int]:
    """The likelihoods of the parts of the bins, the prior there, and how many steps to make."""
    fine = torch.cat([torch.lerp(edges[:-1], edges[1:], part / PARTS) for part in range(PARTS)])
    fine = torch.cat([fine, edges[-1:]]).sort().values
    of_parts, start = likelihoods.of_bins(fine), likelihoods.prior_of_bins(fine)
    return of_parts, start, steps_of(len(of_parts), len(edges) - 1)


def _of_bins(parts: Float[Tensor, "sample part"]) -> Float[Tensor, "sample bin"]:
    return parts.unflatten(1, (-1, PARTS)).sum(-1)
