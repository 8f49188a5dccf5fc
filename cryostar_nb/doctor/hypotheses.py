"""What could be wrong with a data set, as hypotheses that are scored against its images.

A hypothesis says what image i shows, given what its file says of it (rotation R, shift t, CTF C,
pixel size p) and a reference rho (of a model or a map):

    image_i = contrast * C'(k) * exp(-2 pi i k . t') * slice of rho' under R'.

Every fault changes one thing, and is named for what is wrong in the files:

* `contrast sign`: contrast = -1, protein is dark. A CTF of the other sign is the same thing.
* `CTF off`: C' = 1. `phase flipped`: C' = |C|. `CTF sign`: the defocus has the other sign; only
  amplitude contrast and spherical aberration, at low resolution, tell it from `contrast sign`.
* `transpose`: R' is the transpose of R.
* `hand`: rho' is the mirror image of rho. A projection along z does not see M = diag(1, 1, -1),
  so turning z round is the same as R' = M R M. A mirror across another plane, or inversion, is
  that and a rotation of the reference by 180 degrees. All four are tried, and all are `hand`.
* `origin sign`: t' = -t. `origin unit`: t' = t * p (pixels stand where Å are meant) or t / p (the
  reverse). `origin off`: t' = 0, the images are centred already. `origin axes`: x and y exchanged.
* `pixel size`: the true p is another one. Then k changes in the slice and, unless the CTF was
  fitted with the wrong p, in C.
* `model offset`, `model orientation`: the reference stands elsewhere, as found by docking.

Images and predictions are compared as band vectors, whitened: every shell of the images gets unit
power, so that the noise is white whatever its colour.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryostar_nb.ctf import contrast_transfer_function
from cryostar_nb.doctor import thresholds as limits
from cryostar_nb.doctor.docking import IDENTITY, Placement, Target, image_target, rotation_angle
from cryostar_nb.doctor.sample import Sample
from cryostar_nb.doctor.spectrum import Spectrum, phase_ramp
from cryostar_nb.io.particles import Particles

FAULTS = (
    *("contrast sign", "CTF off", "CTF sign", "phase flipped", "transpose", "hand"),
    *("origin sign", "origin unit", "origin off", "origin axes", "pixel size"),
    *("model offset", "model orientation"),
)
CTFS = {"on": "", "off": "CTF off", "negated": "CTF sign", "flipped": "phase flipped"}
MIRRORS = {"z": (1, 1, -1), "x": (-1, 1, 1), "y": (1, -1, 1), "inversion": (-1, -1, -1)}


def name_of(faults: tuple[str, ...]) -> str:
    """A set of faults as a verdict."""
    return " + ".join(faults) or "ok"


@dataclass(frozen=True)
class Origin:
    """How the shifts of a file are to be read: `factor * shift`, after an exchange of axes."""

    sign: int = 1
    unit: str = ""  # "px": they are in pixels; "Å": in Å; both where the other is meant
    off: bool = False
    exchanged: bool = False

    def faults(self) -> list[str]:
        """The names of what is wrong with them."""
        wrong = (self.sign < 0, bool(self.unit), self.off, self.exchanged)
        names = ("origin sign", "origin unit", "origin off", "origin axes")
        return list(itertools.compress(names, wrong))

    def read(
        self, shifts: Float[Tensor, "particle 2"], pixel_size: float
    ) -> Float[Tensor, "particle 2"]:
        """The shifts, read so, in Å."""
        unit = {"": 1.0, "px": pixel_size, "Å": 1 / pixel_size}[self.unit]
        factor = 0.0 if self.off else self.sign * unit
        return factor * (shifts.flip(-1) if self.exchanged else shifts)


def origins(particles: Particles) -> list[Origin]:
    """All of them. With pixels of 1 Å the unit does not matter, and without shifts nothing does."""
    if float(particles.shifts.abs().max()) < limits.LEAST_SHIFT_PX * particles.pixel_size:
        return [Origin()]
    units = ("",) if abs(particles.pixel_size - 1) < limits.UNIT_PIXEL_MARGIN else ("", "px", "Å")
    ways = itertools.product((False, True), (1, -1), units)
    return [*(Origin(sign, unit, exchanged=swap) for swap, sign, unit in ways), Origin(off=True)]


@dataclass(frozen=True)
class Hypothesis:
    """A way to read a data set; the default is what its files say."""

    contrast: int = 1
    ctf: str = "on"
    transpose: bool = False
    origin: Origin = Origin()
    scale: float = 1.0  # true pixel size over the file's
    ctf_follows: bool = True  # the defocus is right in Å; else it was fitted with the wrong pixels
    shifts_follow: bool = True  # the shifts are right in Å; else they are in pixels
    placement: Placement = IDENTITY
    offset: float = 0.0  # Å that the centre of the reference moves, but for a mirror
    angle: float = 0.0  # degrees that it turns, but for a mirror

    def faults(self) -> tuple[str, ...]:
        """The names of what is wrong with the files if this is right, in the order of FAULTS."""
        wrong = {
            "contrast sign": self.contrast < 0,
            "transpose": self.transpose,
            "hand": self.placement.mirrored,
            "pixel size": abs(self.scale - 1) >= limits.LEAST_SCALE_ERROR,
            "model offset": self.offset >= limits.LEAST_OFFSET,
            "model orientation": self.angle >= limits.LEAST_ANGLE_DEG,
        }
        others = (CTFS[self.ctf], *self.origin.faults())
        return tuple(name for name in FAULTS if wrong.get(name) or name in others)


def reference_at(placement: Placement, centre: Float[Tensor, "3"]) -> Hypothesis:
    """The hypothesis that a reference with this centre, in Å, belongs there.

    A mirrored placement is measured from the nearest of the mirrors that people make by mistake.
    """
    signs = MIRRORS.values() if placement.mirrored else [(1, 1, 1)]
    bases = [torch.diag(torch.tensor(sign).float()) for sign in signs]
    angles = [rotation_angle(placement.matrix @ base) for base in bases]
    nearest = int(np.argmin(angles))
    move = placement(centre) - bases[nearest] @ centre
    return Hypothesis(placement=placement, offset=float(move.norm()), angle=angles[nearest])


def transfer(sample: Sample, ctf: str, scale: float) -> Float[Tensor, "#particle coefficient"]:
    """The CTF of each particle; `scale` divides the frequencies of the file's pixel size."""
    frequencies, parameters = sample.frequencies / scale, sample.particles.ctf
    if ctf == "off" or parameters is None:
        return torch.ones(1, len(frequencies))
    if ctf == "negated":
        parameters = dataclasses.replace(
            parameters, defocus_u=-parameters.defocus_u, defocus_v=-parameters.defocus_v
        )
    values = contrast_transfer_function(frequencies, parameters).float()
    return values.abs() if ctf == "flipped" else values


def slice_points(
    sample: Sample, transpose: bool, scale: float
) -> Float[Tensor, "particle coefficient 3"]:
    """Frequencies, in the frame of the reference and in 1/Å, of the plane that an image shows."""
    particles = sample.particles
    rotations = particles.rotations.mT.float() if transpose else particles.views.float()
    return (sample.frequencies / scale).float() @ rotations[:, :2]


def slices(
    sample: Sample, reference: Spectrum, transpose: bool, scale: float, placement: Placement
) -> Complex[Tensor, "particle coefficient"]:
    """Projections of the placed reference, without CTF and shift."""
    points = slice_points(sample, transpose, scale)
    return reference.at(points @ placement.matrix) * phase_ramp(points @ placement.move)


def ramps(
    sample: Sample, readings: list[Origin], scale: float = 1.0
) -> Complex[Tensor, "origin particle coefficient"]:
    """The phases by which particles are elsewhere than their file says, for readings of shifts."""
    shifts, pixel_size = sample.particles.shifts, sample.particles.pixel_size
    true = [origin.read(shifts, pixel_size) / scale for origin in readings]
    more = torch.stack([values - shifts for values in true]).float()
    return phase_ramp(more @ sample.frequencies.float().mT)


def predict(
    sample: Sample, reference: Spectrum, hypothesis: Hypothesis
) -> Complex[Tensor, "particle coefficient"]:
    """Whitened predictions of the images of a sample."""
    h = hypothesis
    blur = transfer(sample, h.ctf, h.scale if h.ctf_follows else 1.0)
    sharp = slices(sample, reference, h.transpose, h.scale, h.placement)
    ramp = ramps(sample, [h.origin], h.scale if h.shifts_follow else 1.0)[0]
    return h.contrast * (sharp * blur * sample.weight) * ramp


def scan(
    sample: Sample,
    reference: Spectrum,
    bases: list[Hypothesis],
    scales: tuple[float, ...],
    ctfs: tuple[str, ...] = tuple(CTFS),
) -> Iterator[tuple[float, Hypothesis]]:
    """Mean correlations of all rotations, CTFs, origins and signs with each other.

    At these pixel sizes, and for each placement in `bases`.
    """
    readings = origins(sample.particles)
    whitened = sample.weight * sample.images.conj()
    size = torch.linalg.vector_norm(sample.images, dim=-1)
    for scale in scales:
        shifted = {
            follow: whitened * ramps(sample, readings, scale if follow else 1.0)
            for follow in {base.shifts_follow for base in bases}
        }
        follows = {base.ctf_follows for base in bases}
        blurs = {
            (ctf, follow): transfer(sample, ctf, scale if follow else 1.0)
            for ctf, follow in itertools.product(ctfs, follows)
        }
        for base, transpose in itertools.product(bases, (False, True)):
            sharp = slices(sample, reference, transpose, scale, base.placement)
            products = shifted[base.shifts_follow] * sharp
            for ctf in ctfs:
                blur = blurs[ctf, base.ctf_follows]
                norms = torch.linalg.vector_norm(sharp * blur * sample.weight, dim=-1) * size
                scores = (products.real * blur).sum(-1).div(norms).mean(-1).tolist()
                way = dataclasses.replace(base, scale=scale, ctf=ctf, transpose=transpose)
                for origin, score in zip(readings, scores, strict=True):
                    sign = 1 if score > 0 else -1
                    yield abs(score), dataclasses.replace(way, origin=origin, contrast=sign)


def consistency_target(sample: Sample, hypothesis: Hypothesis) -> tuple[Target, float]:
    """What the images say together, whatever the reference, under a reading of their poses.

    And how well they agree: the likelihood that the best map gains over none, which is the power
    of the back-projection over its weight.
    """
    h = hypothesis
    blur = transfer(sample, h.ctf, h.scale if h.ctf_follows else 1.0) * sample.weight
    data = (sample.images * ramps(sample, [h.origin])[0].conj() * blur).flatten()
    points = slice_points(sample, h.transpose, h.scale).flatten(0, 1)
    weight = blur.square().expand(sample.images.shape).flatten()
    norm = float(torch.linalg.vector_norm(sample.images))
    target = image_target(points, data, weight, norm=norm, edge=sample.edge)
    power = target.data.abs().square() / (target.weight + target.weight.mean())
    return target, float(power.sum())
