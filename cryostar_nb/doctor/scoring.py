"""The score of a hypothesis: how well a few hundred particles correlate with what it predicts.

One hypothesis is *clearly* better than another by a z-score: the mean over particles of the
difference of two correlations, over its standard error, or over that of white noise where it is
larger. z grows as the root of the number of particles, which tells how many would be needed.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Complex, Float
from scipy.optimize import minimize_scalar
from torch import Tensor

from cryostar_nb.doctor import thresholds as limits
from cryostar_nb.doctor.docking import Target
from cryostar_nb.doctor.hypotheses import Hypothesis, consistency_target, predict
from cryostar_nb.doctor.sample import Sample, correlations
from cryostar_nb.doctor.spectrum import Spectrum
from cryostar_nb.fourier import Band
from cryostar_nb.io.particles import Particles

# As unlikely by chance, at the best of many places, as limits.SIGNAL_Z at one (Bonferroni).
SEARCHED_SIGNAL_Z = math.sqrt(limits.SIGNAL_Z**2 + 2 * math.log(limits.INDEPENDENT_PLACES))


def is_docked(faults: tuple[str, ...]) -> bool:
    """Whether docking found where the reference is."""
    return any(name.startswith("model") for name in faults)


@dataclass(frozen=True, eq=False)
class Scored:
    """A hypothesis, the correlation of every particle with its prediction, and the prediction."""

    hypothesis: Hypothesis
    values: Float[Tensor, " particle"]
    prediction: Complex[Tensor, "particle coefficient"]

    @cached_property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the files if this is right."""
        return self.hypothesis.faults()

    @property
    def docked(self) -> bool:
        """Whether docking found where the reference is."""
        return is_docked(self.faults)

    @property
    def has_signal(self) -> bool:
        """Whether its correlation is more than noise can have."""
        return self.z() >= (SEARCHED_SIGNAL_Z if self.docked else limits.SIGNAL_Z)

    @property
    def at_limit(self) -> bool:
        """Whether its pixel size would rather be one that is no fault."""
        scale = self.hypothesis.scale
        return scale != 1 and abs(scale - 1) < limits.LEAST_SCALE_ERROR * 1.001

    @property
    def mean(self) -> float:
        """Mean correlation."""
        return float(self.values.mean())

    def opposite(self) -> "Scored":
        """The same with the other contrast."""
        other = dataclasses.replace(self.hypothesis, contrast=-self.hypothesis.contrast)
        return Scored(other, -self.values, -self.prediction)

    def likeness(self, other: "Scored") -> float:
        """Mean correlation of the predictions."""
        return float(correlations(self.prediction, other.prediction).mean())

    def z(self, other: "Scored | None" = None) -> float:
        """How clearly this is better than another, or than nothing."""
        count, size = len(self.values), 2 * self.prediction.shape[1]
        difference = self.values if other is None else self.values - other.values
        likeness = 0.5 if other is None else self.likeness(other)
        noise = math.sqrt(max(2 * (1 - likeness), 1e-12) / size)
        sd = float(difference.std()) if count > 1 else 0.0
        return float(difference.mean()) / max(sd, noise) * math.sqrt(count)


def choose_band(particles: Particles, resolution: float | None = None) -> Band:
    """The band that is scored: to 4 Å, or 2.05 pixels, or where it holds 2,000 coefficients."""
    edge = particles.box_size * particles.pixel_size
    if resolution is None:
        resolution = max(
            limits.FINEST_RESOLUTION, edge / math.sqrt(2 * limits.MOST_COEFFICIENTS / math.pi)
        )
    finest = max(resolution, limits.FINEST_PIXELS * particles.pixel_size)
    return Band(particles.box_size, particles.pixel_size, finest)


def score(sample: Sample, reference: Spectrum, hypothesis: Hypothesis) -> Scored:
    """Score a hypothesis; its contrast becomes what the images say."""
    prediction = predict(sample, reference, dataclasses.replace(hypothesis, contrast=1))
    values = correlations(sample.images, prediction)
    sign = 1 if values.mean() >= 0 else -1
    return Scored(dataclasses.replace(hypothesis, contrast=sign), sign * values, sign * prediction)


def docking_target(sample: Sample, reading: Hypothesis | None = None) -> Target:
    """What images say together, for docking."""
    part = sample.between(0, 1 / limits.IMAGE_DOCKING_RESOLUTION)
    return consistency_target(part, reading or Hypothesis())[0]


# The pixel size


def _fit_scale(
    sample: Sample, reference: Spectrum, hypothesis: Hypothesis, *, reach: float
) -> Hypothesis:
    """The hypothesis with the pixel size that fits best within a reach of its own."""

    def minus_mean(scale: float) -> float:
        return -score(sample, reference, dataclasses.replace(hypothesis, scale=scale)).mean

    bounds = (hypothesis.scale - reach, hypothesis.scale + reach)
    options = {"xatol": reach / 40}
    optimum = minimize_scalar(minus_mean, bounds=bounds, method="bounded", options=options)
    return dataclasses.replace(hypothesis, scale=float(optimum.x))


def best_scale(sample: Sample, reference: Spectrum, hypothesis: Hypothesis) -> Scored:
    """The best pixel size near that of a hypothesis, and a fault; sought in ever finer bands."""
    part, near, fitted = sample.thinned(150), hypothesis.scale, hypothesis
    for factor, reach in ((1, 0.02 * near), (2, 0.008 * near), (4, 0.003 * near)):
        band = part.between(0, factor * limits.COARSE_CYCLES / sample.edge)
        fitted = _fit_scale(band, reference, fitted, reach=reach)
    least, most = 1 + limits.LEAST_SCALE_ERROR, 1 - limits.LEAST_SCALE_ERROR
    scale = max(fitted.scale, least) if near > 1 else min(fitted.scale, most)
    ways = (
        dataclasses.replace(hypothesis, scale=scale, shifts_follow=follow)
        for follow in (True, False)
    )
    return max((score(sample, reference, way) for way in ways), key=lambda scored: scored.mean)


@dataclass(frozen=True)
class ApparentScale:
    """A difference of size that another shape of the molecule explains as well as the pixels."""

    scale: float  # true pixel size over the file's, if it were that
    resolution: float  # Å, of the detail that looks so


def settle_scale(
    sample: Sample, reference: Spectrum, winner: Scored, *, shape_is_known: bool
) -> tuple[Scored, ApparentScale | None]:
    """The winner, or the same with another pixel size if fine detail says so; and what is in doubt.

    Where the CTF is no ruler, because there is none or because it was fitted with the wrong pixel
    size, only the size of the molecule is, and a molecule in another shape is larger or smaller.
    Its parts are not: the pixel size comes from the finest ring of frequencies that has a signal,
    after coarser ones have led there. With a model, whose shape may be another than the
    particles', that ring must reach to 8 Å, and the size be 3 % off; else it is in doubt. With
    their own map, `shape_is_known`.
    """
    if "pixel size" in winner.faults:
        return _confirm_scale(sample, reference, winner, shape_is_known=shape_is_known)
    fitted = dataclasses.replace(winner.hypothesis, ctf_follows=False, shifts_follow=False)
    fitted, finest, z = dataclasses.replace(fitted, scale=1.0), math.inf, 0.0
    for resolution, ring in _rings(sample):
        finer = _fit_scale(ring, reference, fitted, reach=0.04)
        changed = score(ring, reference, finer)
        if changed.z() < SEARCHED_SIGNAL_Z:
            break
        fitted, finest = finer, resolution
        z = changed.z(score(ring, reference, winner.hypothesis))
    settled, error = score(sample, reference, fitted), abs(fitted.scale - 1)
    gains = 1 - winner.mean / settled.mean > limits.LEAST_GAIN and z > limits.RING_GAIN_Z
    clear = z > limits.SEARCHED_CLEAR_Z or (gains and settled.z(winner) > limits.SEARCHED_CLEAR_Z)
    if error < limits.LEAST_SCALE_ERROR or not clear:
        return winner, None
    if shape_is_known or (finest <= limits.DETAIL_RESOLUTION and error >= limits.SHAPE_SCALE_ERROR):
        return settled, None
    return winner, ApparentScale(fitted.scale, finest)


def _confirm_scale(
    sample: Sample, reference: Spectrum, winner: Scored, *, shape_is_known: bool
) -> tuple[Scored, ApparentScale | None]:
    """The winner, or the same with the file's pixel size where a shape explains it as well.

    It does where the CTF is no ruler and the size is little off, and where the finest ring that
    has a signal does not gain.
    """
    h = winner.hypothesis
    plain, error = dataclasses.replace(h, scale=1.0), abs(h.scale - 1)
    no_ruler = h.ctf == "off" or not h.ctf_follows
    if error < limits.SHAPE_SCALE_ERROR and not shape_is_known and no_ruler:
        in_doubt = ApparentScale(h.scale, sample.resolution)
        return score(sample, reference, plain), in_doubt
    if error > limits.LEAST_BINNING_ERROR:
        return winner, None
    for resolution, ring in reversed(_rings(sample)):
        scaled, unscaled = (score(ring, reference, hypothesis) for hypothesis in (h, plain))
        if max(scaled.z(), unscaled.z()) >= SEARCHED_SIGNAL_Z:
            if scaled.z(unscaled) > limits.RING_GAIN_Z:
                break
            return score(sample, reference, plain), ApparentScale(h.scale, resolution)
    return winner, None


def _rings(sample: Sample) -> list[tuple[float, Sample]]:
    """Rings of frequencies, coarse to fine, with the resolution to which each reaches, in Å."""
    edges = [factor * sample.resolution for factor in (math.inf, 4, 2.5, 1.6, 1.25, 1)]
    pairs = itertools.pairwise(edges)
    rings = [(fine, sample.between(1 / coarse, 1 / fine)) for coarse, fine in pairs]
    return [(resolution, ring) for resolution, ring in rings if len(ring.frequencies)]
