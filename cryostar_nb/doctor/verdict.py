"""The sign, hand, scale and placement that make particles fit a reference.

Every hypothesis of `hypotheses.py`, alone and with others, is scored by the mean correlation of a few hundred particles with
the projections it predicts. First everything is tried in a coarse band, and the reference is docked against the images, by
what they say together. Then the best of every set of faults are scored in the whole band.

The verdict is the smallest set of faults that nothing is clearly better than. *Clearly* is a z-score: the mean over particles of
the difference of two correlations, over its standard error, or over that of white noise where it is larger. z grows as the root
of the number of particles, which tells how many would be needed.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from scipy.optimize import minimize_scalar
from torch import Tensor

from cryostar_nb.doctor.docking import Placement, Target, dock
from cryostar_nb.doctor.hypotheses import (
    CTFS,
    LEAST_SCALE,
    MIRRORS,
    Hypothesis,
    consistency_target,
    origins,
    placed,
    predict,
    scan,
)
from cryostar_nb.doctor.sample import Sample, correlations
from cryostar_nb.doctor.spectrum import Spectrum
from cryostar_nb.fourier import Band
from cryostar_nb.io.particles import Particles

COARSE = 12  # cycles across the box of the coarse band
DOCKING = 9.0  # Å, of the target that a reference is docked against
SCALES = (0.925, 0.95, 0.975, 1.025, 1.05, 1.075)
GROSS_SCALES = (0.25, 0.5, 2.0, 4.0)  # binned, or not, where the file says otherwise
RULERS = ("on", "negated", "flipped")  # transfer functions that a wrong pixel size would spoil
MOST_COEFFICIENTS = 2000  # of the whole band
FINEST = 4.0  # Å
MOST_SETS = 16  # of faults that are scored in the whole band, beside single ones
BY_SHAPE = 0.03  # part by which a molecule in another shape can look larger or smaller at any resolution (2.5 %: AdK, open for closed)
TRUSTED = 8.0  # Å, where parts of a molecule are seen, whatever its shape
SIGNAL, SIGNAL_PLACED = (
    5.0,
    7.0,
)  # z-score that says that there is a signal; docking tries millions of places, and noise fits one
CLEAR, CLEAR_PLACED = 2.5, 4.0  # z-score of a difference that counts
BY_CHANCE = 2.0  # z-score of the best of the simple hypotheses in pure noise, about
WORTH = 0.01  # part of the correlation that a fault must cost
WORTH_PLACING = 0.03  # part of it that docking must gain
OF_THIS_HAND = 1.2  # times the correlation of its mirror image, docked as well: else a docked reference fits by its outline alone
ALIKE = 0.985  # correlation of predictions that are as good as the same


def is_placed(faults: tuple[str, ...]) -> bool:
    """Whether docking found where the reference is."""
    return any(name.startswith("model") for name in faults)


@dataclass(frozen=True)
class Scored:
    """A hypothesis, the correlation of every particle with its prediction, and the prediction."""

    hypothesis: Hypothesis
    values: Float[Tensor, " particle"]
    prediction: Complex[Tensor, "particle coefficient"]

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the files if this is right."""
        return self.hypothesis.faults()

    @property
    def placed(self) -> bool:
        """Whether docking found where the reference is."""
        return is_placed(self.faults)

    @property
    def has_signal(self) -> bool:
        """Whether its correlation is more than noise can have."""
        return self.z() >= (SIGNAL_PLACED if self.placed else SIGNAL)

    @property
    def mean(self) -> float:
        """Mean correlation."""
        return float(self.values.mean())

    def opposite(self) -> "Scored":
        """The same with the other contrast."""
        return Scored(
            dataclasses.replace(self.hypothesis, contrast=-self.hypothesis.contrast),
            -self.values,
            -self.prediction,
        )

    def likeness(self, other: "Scored") -> float:
        """Mean correlation of the predictions."""
        return float(correlations(self.prediction, other.prediction).mean())

    def z(self, other: "Scored | None" = None) -> float:
        """How clearly this is better than another, or than nothing."""
        count, size = len(self.values), 2 * self.prediction.shape[1]
        difference = self.values if other is None else self.values - other.values
        alike = 0.5 if other is None else self.likeness(other)
        noise = math.sqrt(max(2 * (1 - alike), 1e-12) / size)
        spread = float(difference.std()) if count > 1 else 0.0
        return float(difference.mean()) / max(spread, noise) * math.sqrt(count)


def choose_band(particles: Particles, resolution: float | None = None) -> Band:
    """The band that hypotheses are scored in: to 4 Å, or 2.05 pixels, or where it would hold more than 2,000 coefficients."""
    edge = particles.box_size * particles.pixel_size
    finest = (
        max(FINEST, edge / math.sqrt(2 * MOST_COEFFICIENTS / math.pi))
        if resolution is None
        else resolution
    )
    return Band(particles.box_size, particles.pixel_size, max(finest, 2.05 * particles.pixel_size))


def score(sample: Sample, reference: Spectrum, hypothesis: Hypothesis) -> Scored:
    """Score a hypothesis; its contrast becomes what the images say."""
    prediction = predict(sample, reference, dataclasses.replace(hypothesis, contrast=1))
    values = correlations(sample.images, prediction)
    sign = 1 if values.mean() >= 0 else -1
    return Scored(dataclasses.replace(hypothesis, contrast=sign), sign * values, sign * prediction)


def _highest(function: Callable[[float], float], middle: float, reach: float) -> float:
    """Where a function of the pixel size is highest within a reach."""
    bounds = (middle - reach, middle + reach)
    return float(
        minimize_scalar(
            lambda x: -function(x), bounds=bounds, method="bounded", options={"xatol": reach / 40}
        ).x
    )


def best_scale(sample: Sample, reference: Spectrum, hypothesis: Hypothesis) -> Scored:
    """The hypothesis with the pixel size that fits best, near its own but outside of what is no fault; sought in finer and finer bands."""
    part, scale = sample.thinned(150), hypothesis.scale
    for cycles, reach in (
        (COARSE, 0.02 * scale),
        (2 * COARSE, 0.008 * scale),
        (4 * COARSE, 0.003 * scale),
    ):
        band = part.between(0, cycles / sample.edge)
        scale = _highest(
            lambda x, band=band: (
                score(band, reference, dataclasses.replace(hypothesis, scale=x)).mean
            ),
            scale,
            reach,
        )  # type: ignore[misc]
    side = 1 if hypothesis.scale > 1 else -1
    scale = max(scale, 1 + LEAST_SCALE) if side > 0 else min(scale, 1 - LEAST_SCALE)
    hypothesis = dataclasses.replace(hypothesis, scale=scale)
    ways = [
        score(sample, reference, dataclasses.replace(hypothesis, shifts_follow=follow))
        for follow in (True, False)
    ]
    return max(ways, key=lambda one: one.mean)


def docking_target(sample: Sample, way: Hypothesis | None = None) -> Target:
    """What images say together, for docking."""
    return consistency_target(sample.between(0, 1 / DOCKING), way or Hypothesis())[0]


def docked(sample: Sample, reference: Spectrum) -> list[Hypothesis]:
    """The reference, and its mirror image, docked against what the images say together, read in the ways in which they agree best."""
    coarse = sample.between(0, COARSE / sample.edge)
    both, how = (False, True), origins(sample.particles)
    ways = [
        Hypothesis(transpose=transpose, ctf=ctf, origin=origin)
        for transpose in both
        for origin in how
        for ctf in CTFS
    ]
    agreement = {way: consistency_target(coarse, way)[1] for way in ways}
    ways.sort(key=agreement.__getitem__, reverse=True)
    best: list[Hypothesis] = []
    for way in ways:
        other = all(
            (way.transpose, way.origin) != (chosen.transpose, chosen.origin) for chosen in best
        )
        if other and len(best) < 2 and agreement[way] > 0.8 * agreement[ways[0]]:
            best.append(way)
    found = []
    for way in best:
        target = docking_target(sample, way)
        for mirrored in both:
            placement = dock(target, reference, mirrored=mirrored, either_sign=True).placement
            hypothesis = placed(placement, reference.centre)
            if set(hypothesis.faults()) - {"hand"}:  # else it stands right as it is
                found.append(hypothesis)
    return found


def candidates(sample: Sample, reference: Spectrum) -> list[Scored]:
    """What the files say, every fault alone, and the best sets of faults, scored in the whole band; each set with its best variant."""
    coarse = sample.between(0, COARSE / sample.edge)
    mirrors = [
        Placement(torch.diag(torch.tensor(signs).float()), torch.zeros(3))
        for signs in MIRRORS.values()
    ]
    bases = [
        Hypothesis(),
        *(placed(mirror, reference.centre) for mirror in mirrors),
        *docked(sample, reference),
    ]
    tried = [
        *scan(coarse, reference, bases, (1.0,)),
        *scan(coarse.thinned(250), reference, bases, SCALES, RULERS),
    ]
    ways = itertools.product(bases[: 1 + len(mirrors)], (True, False), (True, False))
    binned = [
        dataclasses.replace(base, ctf_follows=ctf, shifts_follow=shifts)
        for base, ctf, shifts in ways
    ]
    tried += scan(coarse.thinned(100), reference, binned, GROSS_SCALES, RULERS)
    tried.sort(key=lambda one: -one[0])
    variants: dict[tuple[str, ...], Hypothesis] = {(): Hypothesis()}
    for _, hypothesis in tried:
        variants.setdefault(hypothesis.faults(), hypothesis)
    kept = {
        faults: h
        for place, (faults, h) in enumerate(variants.items())
        if place < MOST_SETS or len(set(faults) - {"contrast sign"}) < 2
    }
    for mirrored in (
        False,
        True,
    ):  # of what was docked both hands are compared, however badly one of them does
        of_hand = [
            (faults, h)
            for faults, h in variants.items()
            if is_placed(faults) and h.placement.mirrored == mirrored
        ]
        kept |= dict(of_hand[:1])
    best = [(score if h.scale == 1 else best_scale)(sample, reference, h) for h in kept.values()]
    best += [one.opposite() for one in best if len(set(one.faults) - {"contrast sign"}) < 2]
    found: dict[tuple[str, ...], Scored] = {}
    for one in sorted(best, key=lambda one: -one.mean):
        found.setdefault(one.faults, one)
    return list(found.values())


def at_its_limit(one: Scored) -> bool:
    """Whether a pixel size would rather be one that is no fault."""
    return one.hypothesis.scale != 1 and abs(one.hypothesis.scale - 1) < LEAST_SCALE * 1.001


def decide(scored: list[Scored]) -> tuple[Scored | None, list[Scored]]:
    """The smallest set of faults that nothing is clearly better than; and its rivals, others that it is not clearly better than.

    None, when even the best of all does not correlate with the images.
    """
    able = [one for one in scored if not at_its_limit(one) and one.has_signal]
    if not able:
        return None, []
    top = max(able, key=lambda one: one.mean)
    winner = top
    for one in sorted(able, key=lambda one: (len(one.faults), -one.mean)):
        worth, clear = (
            (WORTH_PLACING, CLEAR_PLACED) if top.placed and not one.placed else (WORTH, CLEAR)
        )
        if 1 - one.mean / top.mean < worth or top.z(one) < clear:
            winner = one
            break
    # What was found by docking, and is no better than noise, is nobody's rival.
    others = [
        one
        for one in scored
        if one is not winner and not at_its_limit(one) and (one.has_signal or not one.placed)
    ]
    rivals = [one for one in others if len(one.faults) <= max(1, len(winner.faults))]
    rivals = [one for one in rivals if one.likeness(winner) < ALIKE and winner.z(one) < CLEAR]
    mirrored = mirror_of(winner, scored)
    return winner, [*rivals, *([] if mirrored is None or mirrored in rivals else [mirrored])]


def mirror_of(winner: Scored, scored: list[Scored]) -> Scored | None:
    """The best docking of the other hand, if the winner was docked too and is not clearly better: then neither place means anything."""
    if not winner.placed:
        return None
    others = [
        one
        for one in scored
        if one.placed and one.hypothesis.placement.mirrored != winner.hypothesis.placement.mirrored
    ]
    best = max(others, key=lambda one: one.mean, default=None)
    return best if best is not None and winner.mean < OF_THIS_HAND * best.mean else None


def settle_scale(
    sample: Sample, reference: Spectrum, winner: Scored, *, shape_is_known: bool
) -> tuple[Scored, str | None]:
    """The winner, or the same with another pixel size if its CTF does not say which is right, and fine detail does; and a remark.

    Where the CTF is no ruler, because there is none or because it was fitted with the wrong pixel size, only the size of the
    molecule is, and a molecule in another shape is larger or smaller. Its parts are not: the pixel size comes from the finest
    ring of frequencies that has a signal, after coarser ones have led there. With a model, whose shape may be another than the
    particles', that ring must reach to 8 Å, and the size be 3 % off; else there is a remark. With their own map, `shape_is_known`.
    """
    if "pixel size" in winner.faults:
        return confirm_scale(sample, reference, winner, shape_is_known=shape_is_known)
    hypothesis = dataclasses.replace(winner.hypothesis, ctf_follows=False, shifts_follow=False)
    scale, finest, z = 1.0, math.inf, 0.0
    for resolution, ring in _rings(sample):
        found = _highest(
            lambda x, ring=ring: (
                score(ring, reference, dataclasses.replace(hypothesis, scale=x)).mean
            ),
            scale,
            0.04,
        )  # type: ignore[misc]
        changed = score(ring, reference, dataclasses.replace(hypothesis, scale=found))
        if changed.z() < 1.6 * SIGNAL:
            break
        scale, finest, z = found, resolution, changed.z(score(ring, reference, winner.hypothesis))
    whole = score(sample, reference, dataclasses.replace(hypothesis, scale=scale))
    gains = 1 - winner.mean / whole.mean > WORTH and whole.z(winner) > 1.5 * CLEAR and z > 1
    if abs(scale - 1) < LEAST_SCALE or not (gains or z > 1.5 * CLEAR):
        return winner, None
    if shape_is_known or (finest <= TRUSTED and abs(scale - 1) >= BY_SHAPE):
        return whole, None
    return winner, _looks_scaled(scale, finest)


def confirm_scale(
    sample: Sample, reference: Spectrum, winner: Scored, *, shape_is_known: bool
) -> tuple[Scored, str | None]:
    """The winner, or the same with the file's pixel size where another shape would explain it as well; and a remark.

    It would where the CTF is no ruler and the size is little off, and where the finest ring that has a signal does not gain.
    """
    h = winner.hypothesis
    plain = dataclasses.replace(h, scale=1.0)
    if abs(h.scale - 1) < BY_SHAPE and not shape_is_known and (h.ctf == "off" or not h.ctf_follows):
        return score(sample, reference, plain), _looks_scaled(h.scale, sample.resolution)
    if abs(h.scale - 1) > 0.1:  # of a binning, not of a shape
        return winner, None
    for resolution, ring in reversed(_rings(sample)):
        scaled, unscaled = (score(ring, reference, hypothesis) for hypothesis in (h, plain))
        if max(scaled.z(), unscaled.z()) >= 1.6 * SIGNAL:
            if scaled.z(unscaled) > 1:
                return winner, None
            return score(sample, reference, plain), _looks_scaled(h.scale, resolution)
    return winner, None


def _rings(sample: Sample) -> list[tuple[float, Sample]]:
    """Rings of frequencies, coarse to fine, with the resolution to which each reaches, in Å."""
    edges = [factor * sample.resolution for factor in (math.inf, 4, 2.5, 1.6, 1.25, 1)]
    rings = [
        (fine, sample.between(1 / coarse, 1 / fine)) for coarse, fine in itertools.pairwise(edges)
    ]
    return [(resolution, ring) for resolution, ring in rings if len(ring.frequencies)]


def _looks_scaled(scale: float, resolution: float) -> str:
    percent = 100 * (1 / scale - 1)
    return f"At {resolution:.0f} Å the particles look {abs(percent):.1f} % {'larger' if percent > 0 else 'smaller'} than the reference: they have another shape, or their pixel size and CTF are wrong together."


def particles_needed(scored: list[Scored], winner: Scored | None, count: int) -> int:
    """How many particles would show the signal, and tell the winner from all that predict something else; z grows as their root."""
    simple = max(one.z() for one in scored if not one.placed)
    if winner is None:
        needed = [SIGNAL / max(simple - BY_CHANCE, 0.5)]
    else:
        needed = [SIGNAL / winner.z()]
        others = [
            one
            for one in scored
            if one is not winner
            and len(one.faults) <= max(1, len(winner.faults))
            and not at_its_limit(one)
        ]
        needed += [
            CLEAR / max(abs(winner.z(one)), 0.1) for one in others if one.likeness(winner) < ALIKE
        ]
    return max(1, math.ceil(count * max(needed) ** 2))
