"""What could be wrong with a data set, as hypotheses that are scored against its images.

A hypothesis says how particle i is seen, given what its file says of it (rotation R, shift t, CTF C, pixel size p) and a
reference rho (a model's density or a map):

    image_i = contrast * C'(k) * exp(-2 pi i k . t') * slice of rho' under R'.

Every fault changes one thing, and is named for what is wrong in the files:

* `contrast sign`: contrast = -1, protein is dark. A CTF that is minus ours everywhere is the same thing, and gets this name.
* `CTF off`: C' = 1, the images carry no CTF. `phase flipped`: C' = |C|. `CTF sign`: the defocus has the other sign; this is
  `contrast sign` but for amplitude contrast and spherical aberration, so the two are told apart at low resolution only.
* `transpose`: R' is the transpose of R.
* `hand`: rho' is the mirror image of rho, with R as it is. Turning z round is the same as keeping rho and taking the poses
  R' = M R M, M = diag(1, 1, -1), because a projection along z does not see M. A mirror across another plane is that, and a
  rotation of the reference by 180 degrees; so is inversion. All four are tried, and all are `hand`.
* `origin sign`: t' = -t. `origin unit`: t' = t * p (pixels stand where Å are meant) or t / p (the reverse). `origin off`: t' = 0,
  the images are centred already. `origin axes`: x and y are exchanged.
* `pixel size`: the true p is another one. Then k changes in the slice and, unless the CTF was fitted with the wrong p, in C.
* `model offset`, `model orientation`: the reference stands elsewhere, as found by docking.

Images and predictions are compared as band vectors, whitened: every shell of the images gets unit power, so that the noise is
white whatever its colour. The score of a particle is the correlation of the two vectors.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryostar_nb.ctf import contrast_transfer_function
from cryostar_nb.doctor.docking import STAY, Placement, Target, image_target, rotation_angle
from cryostar_nb.doctor.sample import Sample
from cryostar_nb.doctor.spectrum import Spectrum
from cryostar_nb.io.particles import Particles

FAULTS = (
    "contrast sign",
    "CTF off",
    "CTF sign",
    "phase flipped",
    "transpose",
    "hand",
    "origin sign",
    "origin unit",
    "origin off",
    "origin axes",
    "pixel size",
    "model offset",
    "model orientation",
)
CTFS = {"on": "", "off": "CTF off", "negated": "CTF sign", "flipped": "phase flipped"}
LEAST_SCALE = 0.015  # a pixel size nearer than this is no fault
LEAST_OFFSET, LEAST_ANGLE = 3.0, 5.0  # Å and degrees; what is nearer is no fault
MIRRORS = {"z": (1, 1, -1), "x": (-1, 1, 1), "y": (1, -1, 1), "inversion": (-1, -1, -1)}


@dataclass(frozen=True)
class Origin:
    """How the shifts of a file are to be read: `factor * shift`, after an exchange of axes."""

    sign: int = 1
    unit: str = ""  # "px": the numbers are pixels; "Å": they are Å; both where the other is meant
    off: bool = False
    exchanged: bool = False

    def faults(self) -> list[str]:
        """The names of what is wrong with them."""
        wrong = {
            "origin sign": self.sign < 0,
            "origin unit": bool(self.unit),
            "origin off": self.off,
            "origin axes": self.exchanged,
        }
        return [name for name, is_so in wrong.items() if is_so]

    def read(
        self, shifts: Float[Tensor, "particle 2"], pixel_size: float
    ) -> Float[Tensor, "particle 2"]:
        """The shifts, read so."""
        factor = (
            0.0
            if self.off
            else self.sign * {"": 1.0, "px": pixel_size, "Å": 1 / pixel_size}[self.unit]
        )
        return factor * (shifts.flip(-1) if self.exchanged else shifts)


def origins(particles: Particles) -> list[Origin]:
    """All of them. With pixels of 1 Å the unit does not matter, and without shifts nothing does."""
    pixel_size = particles.pixel_size
    if float(particles.shifts.abs().max()) < 0.01 * pixel_size:
        return [Origin()]
    units = ("",) if abs(pixel_size - 1) < 0.03 else ("", "px", "Å")
    read = [
        Origin(sign, unit, exchanged=exchanged)
        for exchanged in (False, True)
        for sign in (1, -1)
        for unit in units
    ]
    return [*read, Origin(off=True)]


@dataclass(frozen=True)
class Hypothesis:
    """A way to read a data set; the default is what its files say."""

    contrast: int = 1
    ctf: str = "on"
    transpose: bool = False
    origin: Origin = Origin()
    scale: float = 1.0  # true pixel size over the file's
    ctf_follows: bool = (
        True  # the defocus is right in Å; else the CTF was fitted with the wrong pixel size
    )
    shifts_follow: bool = True  # the shifts are right in Å; else they are in pixels
    placement: Placement = STAY
    offset: float = 0.0  # Å that the centre of the reference moves, but for a mirror
    angle: float = 0.0  # degrees that it turns, but for a mirror

    def faults(self) -> tuple[str, ...]:
        """The names of what is wrong with the files if this is right, in the order of FAULTS."""
        wrong = [*self.origin.faults(), CTFS[self.ctf]]
        wrong += (
            ["contrast sign"] * (self.contrast < 0)
            + ["transpose"] * self.transpose
            + ["hand"] * self.placement.mirrored
        )
        wrong += ["pixel size"] * (abs(self.scale - 1) >= LEAST_SCALE)
        wrong += ["model offset"] * (self.offset >= LEAST_OFFSET) + ["model orientation"] * (
            self.angle >= LEAST_ANGLE
        )
        return tuple(name for name in FAULTS if name in wrong)


def placed(placement: Placement, centre: Float[Tensor, "3"]) -> Hypothesis:
    """The hypothesis that a reference with this centre belongs there.

    A mirrored placement is measured from the nearest of the mirrors that people make by mistake.
    """
    bases = (
        [torch.diag(torch.tensor(signs).float()) for signs in MIRRORS.values()]
        if placement.mirrored
        else [torch.eye(3)]
    )
    turned = [rotation_angle(placement.matrix @ base) for base in bases]
    nearest = int(np.argmin(turned))
    move = placement(centre) - bases[nearest] @ centre
    return Hypothesis(placement=placement, offset=float(move.norm()), angle=turned[nearest])


def transfer(sample: Sample, ctf: str, scale: float) -> Float[Tensor, "#particle coefficient"]:
    """The CTF of each particle under a hypothesis; `scale` divides the frequencies of the file's pixel size."""
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
    """Frequencies, in the frame of the reference and in 1/Å, of the plane that each image shows."""
    rotations = sample.particles.rotations.float()
    rotations = rotations.mT if transpose else rotations
    return (sample.frequencies / scale).float() @ rotations[:, :2]


def slices(
    sample: Sample, reference: Spectrum, transpose: bool, scale: float, placement: Placement
) -> Complex[Tensor, "particle coefficient"]:
    """Projections of the placed reference, without CTF and shift."""
    points = slice_points(sample, transpose, scale)
    values = reference.at(points @ placement.matrix)
    angle = -2 * math.pi * (points @ placement.move)
    return values * torch.polar(torch.ones_like(angle), angle)


def ramps(
    sample: Sample, how: list[Origin], scale: float = 1.0
) -> Complex[Tensor, "origin particle coefficient"]:
    """The phases by which particles are elsewhere than their file says, under each reading of its shifts."""
    shifts, pixel_size = sample.particles.shifts, sample.particles.pixel_size
    more = torch.stack([origin.read(shifts, pixel_size) / scale - shifts for origin in how]).float()
    angle = -2 * math.pi * (more @ sample.frequencies.float().mT)
    return torch.polar(torch.ones_like(angle), angle)


def predict(
    sample: Sample, reference: Spectrum, hypothesis: Hypothesis
) -> Complex[Tensor, "particle coefficient"]:
    """Whitened predictions of the images of a sample."""
    h = hypothesis
    blur = transfer(sample, h.ctf, h.scale if h.ctf_follows else 1.0)
    seen = slices(sample, reference, h.transpose, h.scale, h.placement) * blur * sample.weight
    return h.contrast * seen * ramps(sample, [h.origin], h.scale if h.shifts_follow else 1.0)[0]


def scan(
    sample: Sample,
    reference: Spectrum,
    bases: list[Hypothesis],
    scales: tuple[float, ...],
    ctfs: tuple[str, ...] = tuple(CTFS),
) -> Iterator[tuple[float, Hypothesis]]:
    """Mean correlations of everything: both rotations, all CTFs, origins and signs, at these pixel sizes, for each placement of `bases`."""
    how = origins(sample.particles)
    seen_by = sample.weight * sample.images.conj()
    size = torch.linalg.vector_norm(sample.images, dim=-1)
    for scale in scales:
        shifted = {
            follow: seen_by * ramps(sample, how, scale if follow else 1.0)
            for follow in {base.shifts_follow for base in bases}
        }
        blurs = {
            (ctf, follow): transfer(sample, ctf, scale if follow else 1.0)
            for ctf in ctfs
            for follow in {base.ctf_follows for base in bases}
        }
        for base in bases:
            for transpose in (False, True):
                seen = slices(sample, reference, transpose, scale, base.placement)
                products = shifted[base.shifts_follow] * seen
                for ctf in ctfs:
                    blur = blurs[ctf, base.ctf_follows]
                    norms = torch.linalg.vector_norm(seen * blur * sample.weight, dim=-1) * size
                    for origin, score in zip(
                        how,
                        (products.real * blur).sum(-1).div(norms).mean(-1).tolist(),
                        strict=True,
                    ):
                        way = dataclasses.replace(
                            base, scale=scale, ctf=ctf, transpose=transpose, origin=origin
                        )
                        yield abs(score), dataclasses.replace(way, contrast=1 if score > 0 else -1)


def consistency_target(sample: Sample, hypothesis: Hypothesis) -> tuple[Target, float]:
    """What the images say together about the density, whatever it is, under a reading of their poses; and how well they agree.

    The agreement is the likelihood that the best density gains over none: the power of the back-projection over its weight.
    """
    h = hypothesis
    blur = transfer(sample, h.ctf, h.scale if h.ctf_follows else 1.0) * sample.weight
    data = sample.images * ramps(sample, [h.origin])[0].conj() * blur
    points = slice_points(sample, h.transpose, h.scale)
    weight = blur.square().expand(data.shape)
    norm = float(torch.linalg.vector_norm(sample.images))
    target = image_target(
        points.flatten(0, 1), data.flatten(), weight.flatten(), norm=norm, edge=sample.edge
    )
    return target, float(
        (target.data.abs().square() / (target.weight + target.weight.mean())).sum()
    )
