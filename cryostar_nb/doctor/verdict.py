"""The sign, hand, scale and placement that make particles fit a reference.

First every hypothesis, alone and with others, is scored in a coarse band, and the reference is
docked against what the images say together. Then the best of every set of faults are scored in
the whole band. The verdict is the smallest set of faults that nothing is clearly better than.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass

import torch

from cryostar_nb.doctor import thresholds as limits
from cryostar_nb.doctor.docking import Placement, dock
from cryostar_nb.doctor.hypotheses import (
    CTFS,
    MIRRORS,
    Hypothesis,
    consistency_target,
    origins,
    reference_at,
    scan,
)
from cryostar_nb.doctor.sample import Sample
from cryostar_nb.doctor.scoring import Scored, best_scale, docking_target, is_docked, score
from cryostar_nb.doctor.spectrum import Spectrum

SCALES = (0.925, 0.95, 0.975, 1.025, 1.05, 1.075)
BINNED_SCALES = (0.25, 0.5, 2.0, 4.0)  # binned, or not, where the file says otherwise
RULERS = ("on", "negated", "flipped")  # transfer functions that a wrong pixel size would spoil


def dock_reference(sample: Sample, reference: Spectrum, rotations: int) -> list[Hypothesis]:
    """The reference, and its mirror image, docked against what the images say together.

    They are read in the two ways in which they agree best. With 0 rotations, nothing is docked.
    """
    if rotations == 0:
        return []
    coarse = sample.between(0, limits.COARSE_CYCLES / sample.edge)
    ways = itertools.product((False, True), origins(sample.particles), CTFS)
    readings = [Hypothesis(transpose=turn, origin=origin, ctf=ctf) for turn, origin, ctf in ways]
    agreement = {reading: consistency_target(coarse, reading)[1] for reading in readings}
    readings.sort(key=agreement.__getitem__, reverse=True)
    best: dict[object, Hypothesis] = {}  # of each reading of poses and origins
    for reading in readings:
        if agreement[reading] > limits.LEAST_AGREEMENT * agreement[readings[0]]:
            best.setdefault((reading.transpose, reading.origin), reading)
    hypotheses = []
    for reading in list(best.values())[:2]:
        target = docking_target(sample, reading)
        for mirrored in (False, True):
            _, placement = dock(
                target, reference, mirrored=mirrored, either_sign=True, rotations=rotations
            )
            hypothesis = reference_at(placement, reference.centre)
            if set(hypothesis.faults()) - {"hand"}:  # else it stands right as it is
                hypotheses.append(hypothesis)
    return hypotheses


def candidates(
    sample: Sample,
    reference: Spectrum,
    *,
    rotations: int = limits.SEARCH_ROTATIONS,
    most_sets: int = limits.MOST_FAULT_SETS,
) -> list[Scored]:
    """Score what the files say, every fault alone, and the best sets of faults, in the whole band.

    Each set has its best variant. `rotations` are those of the docking search.
    """
    coarse = sample.between(0, limits.COARSE_CYCLES / sample.edge)
    matrices = [torch.diag(torch.tensor(signs).float()) for signs in MIRRORS.values()]
    mirrors = [Placement(matrix, torch.zeros(3)) for matrix in matrices]
    in_place = [Hypothesis(), *(reference_at(mirror, reference.centre) for mirror in mirrors)]
    bases = [*in_place, *dock_reference(sample, reference, rotations)]
    ways = itertools.product(in_place, (True, False), (True, False))
    binned = [
        dataclasses.replace(base, ctf_follows=ctf, shifts_follow=shifts)
        for base, ctf, shifts in ways
    ]
    scanned = [
        *scan(coarse, reference, bases, (1.0,)),
        *scan(coarse.thinned(250), reference, bases, SCALES, RULERS),
        *scan(coarse.thinned(100), reference, binned, BINNED_SCALES, RULERS),
    ]
    scanned.sort(key=lambda pair: -pair[0])
    variants: dict[tuple[str, ...], Hypothesis] = {(): Hypothesis()}
    for _, hypothesis in scanned:
        variants.setdefault(hypothesis.faults(), hypothesis)
    kept = [
        hypothesis
        for rank, (faults, hypothesis) in enumerate(variants.items())
        if rank < most_sets or _is_single(faults)
    ]
    docked = [hypothesis for faults, hypothesis in variants.items() if is_docked(faults)]
    for mirrored in (False, True):  # both hands are compared, however badly one of them does
        kept += [h for h in docked if h.placement.mirrored == mirrored][:1]
    scored = [
        (score if hypothesis.scale == 1 else best_scale)(sample, reference, hypothesis)
        for hypothesis in dict.fromkeys(kept)
    ]
    scored += [candidate.opposite() for candidate in scored if _is_single(candidate.faults)]
    best: dict[tuple[str, ...], Scored] = {}
    for candidate in sorted(scored, key=lambda candidate: -candidate.mean):
        best.setdefault(candidate.faults, candidate)
    return list(best.values())


def _is_single(faults: tuple[str, ...]) -> bool:
    """Whether at most one thing is wrong, beside the contrast."""
    return len(set(faults) - {"contrast sign"}) < 2


@dataclass(frozen=True)
class Decision:
    """The smallest set of faults that nothing is clearly better than, if there is a signal."""

    winner: Scored | None = None
    rivals: tuple[Scored, ...] = ()  # that the winner is not clearly better than
    same: tuple[Scored, ...] = ()  # that predict the same images
    mirror: Scored | None = None  # a docked winner's mirror image that fits as well: neither counts


def decide(scored: list[Scored]) -> Decision:
    """The verdict on scored hypotheses; without a winner when even the best has no signal."""
    sound = [candidate for candidate in scored if not candidate.at_limit]
    able = [candidate for candidate in sound if candidate.has_signal]
    if not able:
        return Decision()
    top = max(able, key=lambda candidate: candidate.mean)
    winner = top
    for candidate in sorted(able, key=lambda candidate: (len(candidate.faults), -candidate.mean)):
        gain, clear = limits.LEAST_GAIN, limits.CLEAR_Z
        if top.docked and not candidate.docked:
            gain, clear = limits.LEAST_DOCKING_GAIN, limits.SEARCHED_CLEAR_Z
        if 1 - candidate.mean / top.mean < gain or top.z(candidate) < clear:
            winner = candidate
            break
    others = [candidate for candidate in sound if candidate is not winner]
    same = [other for other in others if other.likeness(winner) >= limits.SAME_PREDICTION]
    rivals = [
        other
        for other in others
        if other not in same
        and (other.has_signal or not other.docked)  # else its place fits noise
        and len(other.faults) <= max(1, len(winner.faults))
        and winner.z(other) < limits.CLEAR_Z
    ]
    mirror = _mirror_that_fits(winner, scored)
    if mirror is not None and mirror not in rivals:
        rivals.append(mirror)
    return Decision(winner, tuple(rivals), tuple(same), mirror)


def _mirror_that_fits(winner: Scored, scored: list[Scored]) -> Scored | None:
    """The best docking of the other hand, if the winner was docked and is not clearly better."""
    hand = winner.hypothesis.placement.mirrored
    others = [
        candidate
        for candidate in scored
        if candidate.docked and candidate.hypothesis.placement.mirrored != hand
    ]
    best = max(others, key=lambda candidate: candidate.mean, default=None)
    fits = winner.docked and best is not None and winner.mean < limits.IMAGE_HAND_RATIO * best.mean
    return best if fits else None


def particles_needed(scored: list[Scored], winner: Scored | None, count: int) -> int:
    """How many particles would show the signal, and tell the winner from all that differ.

    z grows as their root. Without a winner, the best of n simple hypotheses has a z-score of
    sqrt(2 log n) by chance alone.
    """
    if winner is None:
        simple = [candidate.z() for candidate in scored if not candidate.docked]
        chance = math.sqrt(2 * math.log(len(simple)))
        factors = [limits.SIGNAL_Z / max(max(simple) - chance, 0.5)]
    else:
        factors = [limits.SIGNAL_Z / winner.z()]
        factors += [
            limits.CLEAR_Z / max(abs(winner.z(other)), 0.1)
            for other in scored
            if other is not winner
            and len(other.faults) <= max(1, len(winner.faults))
            and not other.at_limit
            and other.likeness(winner) < limits.SAME_PREDICTION
        ]
    return max(1, math.ceil(count * max(factors) ** 2))
