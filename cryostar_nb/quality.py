"""How probable it is that a particle is a good one: an image of the molecule in the pose it has.

The score of a particle is the matched-filter signal I.P / |P| of its whitened image I with its own
prediction P, in standard deviations of the noise, less what speaks against it: a pose far from the
one given, and more in the image than the prediction and noise. It lies around |P| where the image
shows what was predicted, with the scatter that the contrast has, and lower where it shows something
else: ice, an aggregate, another molecule. Two components are fitted to the scores of a set by
expectation-maximisation (EM), each within its bounds. A set may also be all good, or all bad: each
component is fitted alone, too, and the three answers are weighed by the Bayesian information
criterion (Schwarz, Ann. Stat. 1978), so that a second component has to earn its parameters.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.special import expit
from scipy.stats import rankdata
from torch import Tensor

from cryostar_nb.density import Density
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band
from cryostar_nb.latents import evenly_spaced
from cryostar_nb.likelihood import contrasts, shell_members
from cryostar_nb.models import DeformationVAE
from cryostar_nb.poses import Corrections
from cryostar_nb.training import TrainingData, looks_of

Values = Float[np.ndarray, " particle"]
LEAST_SIGNAL = 2.0  # mean score of good particles; less cannot be told from 0
LEAST_CONTRAST = 0.5  # of good particles, in that of the set: what is bad only lowers the latter
MOST_SCATTER = 0.5  # standard deviation of the contrast of good particles, in its mean
BAD_MEAN = 1.5  # largest mean score of bad particles, and
BAD_SD = (0.8, 2.0)  # least and largest standard deviation; or, because anything correlates a bit,
BAD_PART = 0.25  # both up to this part of the mean score of good ones
AT_ONCE = 64  # particles
FITTED = 20_000  # particles, evenly spaced over the set; more change nothing
STEPS = 300  # of EM, at most
STARTS = (0.95, 0.5, 0.1)  # shares of good particles that EM starts from: the highest scores


@dataclass(frozen=True)
class Mixture:
    """Scores of good particles are N(slope |P|, 1 + scatter |P|^2); of bad ones N(mean, sd^2)."""

    share: float = 0.5  # of good particles
    slope: float = 1.0  # contrast of good particles, in that of the predictions
    scatter: float = 0.0  # variance of that contrast
    mean: float = 0.0
    sd: float = 1.0

    def good(self, expected: Values) -> tuple[Values, Values]:
        """Mean and variance of the score of good particles."""
        return self.slope * expected, 1 + self.scatter * expected**2

    def log_densities(self, score: Values, expected: Values) -> tuple[Values, Values]:
        """Logarithms of the density of good and of bad scores, each times its share."""
        with np.errstate(divide="ignore"):
            shares = np.log(self.share), np.log1p(-self.share)
        good = _log_normal(score, *self.good(expected))
        return shares[0] + good, shares[1] + _log_normal(score, self.mean, self.sd**2)

    def probability(self, score: Values, expected: Values) -> Values:
        """Probability of being good; it never falls as the score rises.

        The log odds of two Gaussians are a parabola in the score. Beyond its turning point, where
        the wider Gaussian takes over on the wrong side, they stay as they are there.
        """
        mean, variance = self.good(expected)
        wider = variance - self.sd**2
        wider = np.where(wider == 0, 1e-12, wider)
        turn = (self.mean * variance - mean * self.sd**2) / wider
        score = np.where(wider > 0, np.maximum(score, turn), np.minimum(score, turn))
        good, bad = self.log_densities(score, expected)
        return expit(good - bad)


@torch.no_grad()
def matched_signals(
    network: DeformationVAE,
    data: TrainingData,
    *,
    density: Density,
    band: Band,
    corrections: Corrections | None = None,
) -> tuple[Values, Values]:
    """The score of every particle, and the score that a good one of the mean contrast would have.

    The square of I.P / |P| is twice what the prediction P gains in log likelihood. Two things are
    taken from it: what a correction of the pose costs under its prior, beyond the five that its
    five numbers cost on average, and the power of the residual beyond noise by two standard
    deviations, which is of something else in the image. All is in standard deviations of the noise,
    whose power in each shell of frequencies is the median of the residuals.
    """
    members = shell_members(band).to(data.rotations.device)
    sums: list[list[Tensor]] = [[], [], []]
    batches = zip(data.split(AT_ONCE), looks_of(network.encoder, data, AT_ONCE), strict=True)
    for (images, rotations, ctf, shifts), looks in batches:
        positions, turns = network.decoder.deform(network.encoder(looks)[0])
        made = density.images(
            positions, band, rotations=rotations, shifts=shifts, ctf=ctf, turns=turns
        )
        predictions = network.scaled(made)
        residuals = images - contrasts(images, predictions)[:, None] * predictions
        parts = (images * predictions, predictions.square(), residuals.square())
        for kept, values in zip(sums, parts, strict=True):
            kept.append(values @ members)
    product, power, residual = (torch.cat(parts).double() for parts in sums)
    sizes = members.sum(0).double()
    noise = (residual.median(0).values / sizes.clamp(min=1)).clamp(min=1e-12)
    product, power = ((parts / noise).sum(-1) for parts in (product, power))
    excess = (residual / noise).sum(-1) - sizes.sum() - 2 * (2 * sizes.sum()).sqrt()
    length = power.sqrt().clamp(min=1e-12)
    square = (product / length).clamp(min=0).square() - excess.clamp(min=0)
    if corrections is not None:
        square -= (corrections.penalties().double() - corrections.values.shape[1]).clamp(min=0)
    score = torch.where(square > 0, square.clamp(min=0).sqrt(), (product / length).clamp(max=0))
    contrast = product.clamp(min=0).sum() / power.sum()
    return score.cpu().numpy(), (length * contrast.clamp(min=1e-6)).cpu().numpy()


def probability_good(score: Values, expected: Values) -> Values:
    """Probability of each particle to be good, 0 to 1; the mean estimates the share of good ones.

    `score` is I.P / |P| in standard deviations of the noise; `expected` is |P| in the same unit, at
    the mean contrast of the set. At one |P| the probability never falls as the score rises. Where
    there is no signal none is good. Raises InputError for what is not finite, and for |P| not
    above 0.
    """
    score, expected = np.asarray(score, np.float64), np.asarray(expected, np.float64)
    if not len(score):
        raise InputError("there are no particles to judge", remedy="give some")
    for name, values, fine in (
        ("score", score, np.isfinite(score)),
        ("expected", expected, np.isfinite(expected) & (expected > 0)),
    ):
        for row in np.flatnonzero(~fine)[:1].tolist():
            problem, remedy = f"has {name} = {{value}}", "look at its image and prediction"
            raise InputError(problem, row=row + 1, value=float(values[row]), remedy=remedy)
    rows = evenly_spaced(FITTED, len(score)).numpy()
    some, some_expected = score[rows], expected[rows]
    all_good, all_bad = (_fit(some, some_expected, share) for share in (1.0, 0.0))
    both = max((_fit(some, some_expected, share) for share in STARTS), key=lambda fit: fit[1])
    fits = (all_good, all_bad, both)
    parameters = np.array([2, 2, 5])
    evidence = np.array([fit[1] for fit in fits]) - parameters / 2 * np.log(len(some))
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    return weights[0] + weights[2] * both[0].probability(score, expected)


def _fit(score: Values, expected: Values, share: float) -> tuple[Mixture, float]:
    """The mixture that EM finds from this share of good particles, and its log likelihood.

    With a share of 1 or 0 there is one component to the end.
    """
    weight = np.zeros(len(score))
    weight[np.argsort(-score)[: max(round(share * len(score)), int(share > 0))]] = 1
    mixture, before = Mixture(), -np.inf
    for _ in range(STEPS):
        mixture = _maximise(mixture, weight, score, expected)
        good, bad = mixture.log_densities(score, expected)
        likelihood = float(np.logaddexp(good, bad).sum())
        if abs(likelihood - before) < 1e-6 * len(score):
            break
        before, weight = likelihood, expit(good - bad)
    return mixture, likelihood


def _maximise(mixture: Mixture, weight: Values, score: Values, expected: Values) -> Mixture:
    """The M step: parameters for these probabilities of being good.

    Those of the good component, whose variance depends on |P|, are one step of weighted least
    squares further; at rest they are those of the largest likelihood.
    """
    share, rest = float(weight.mean()), 1 - weight
    slope, scatter, mean, sd = mixture.slope, mixture.scatter, mixture.mean, mixture.sd
    highest, widest = BAD_MEAN, BAD_SD[1]
    if share > 0:
        precision = weight / (1 + scatter * expected**2)
        slope = float((precision * expected * score).sum() / (precision * expected**2).sum())
        slope = max(slope, LEAST_CONTRAST, LEAST_SIGNAL / float(expected.mean()))
        precision = weight / (1 + scatter * expected**2) ** 2
        excess = (score - slope * expected) ** 2 - 1
        scatter = float((precision * expected**2 * excess).sum() / (precision * expected**4).sum())
        scatter = float(np.clip(scatter, 0, (MOST_SCATTER * slope) ** 2))
        a_bit = BAD_PART * slope * float(expected.mean())
        highest, widest = max(highest, a_bit), max(widest, a_bit)
    if share < 1:
        mean = float(np.clip((rest * score).sum() / rest.sum(), -highest, highest))
        sd = float(np.sqrt((rest * (score - mean) ** 2).sum() / rest.sum()))
        sd = float(np.clip(sd, BAD_SD[0], widest))
    return Mixture(share, slope, scatter, mean, sd)


def _log_normal(values: Values, mean: Values | float, variance: Values | float) -> Values:
    """Logarithm of the density of normal values."""
    return -0.5 * ((values - mean) ** 2 / variance + np.log(2 * np.pi * variance))


def roc_area(score: Values, good: Bool[np.ndarray, " particle"]) -> float:
    """Area under the receiver operating characteristic: 1 where scores part good from bad.

    It is the probability that a good particle scores higher than a bad one; ties count half.
    Raises InputError where all particles are good, or all are bad, and for scores that are NaN.
    """
    count, others = int(good.sum()), int((~good).sum())
    if not (count and others):
        problem = "all particles are good, or all are bad, and there is nothing to part"
        raise InputError(problem, remedy="give some of each")
    for row in np.flatnonzero(np.isnan(score))[:1].tolist():
        problem, remedy = "has score = {value}", "look at its image and prediction"
        raise InputError(problem, row=row + 1, value=float(score[row]), remedy=remedy)
    ranks = rankdata(score)[good].sum()
    return float((ranks - count * (count + 1) / 2) / (count * others))
