"""What each verdict of the doctor means and what to do about it: in words, as flags of `train`, and as corrected files."""

import dataclasses
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.doctor.docking import MIRROR, Placement
from cryostar_nb.doctor.hypotheses import Hypothesis
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.reading import Reading
from cryostar_nb.structure import Structure, residue_ranges


@dataclass(frozen=True)
class Advice:
    """What a verdict means, and what helps."""

    seen: str  # without the doctor
    meaning: str
    remedy: str


ADVICE = {
    "ok": Advice(
        "The particles look like the projections on the page that --out writes, in place, size and contrast.",
        "Nothing that was tried explains the images clearly better than what the files say.",
        "Train with the files as they are.",
    ),
    "contrast sign": Advice(
        "Smoothed particles are darker than the ground around them.",
        "Protein is dark on a bright ground, or the CTF has the other sign everywhere, which is the same.",
        "Give --invert.",
    ),
    "CTF off": Advice(
        "The power spectra of the images have no rings.",
        "The images carry no CTF: they were corrected for it, or simulated without it.",
        "With --out, the corrected STAR file has a CTF that is 1 everywhere: no defocus, a phase shift of 90 degrees.",
    ),
    "CTF sign": Advice(
        "`info` lists negative defocus values, or another program took them for overfocus.",
        "The defocus has the other sign: underfocus is positive here.",
        "With --out, the corrected STAR file has its defocus values turned round.",
    ),
    "phase flipped": Advice(
        "A map reconstructed from these files lacks whole shells of detail, where one image cancels another. Extraction has an option that flips phases.",
        "The phases of the images were flipped already, so that their CTF is positive, and the file does not say so; or it says so and they were not.",
        "Give --phase-flipped. If the file says so and they were not, the corrected STAR file of --out takes it back.",
    ),
    "transpose": Advice(
        "A map reconstructed from these files is a round blob without features.",
        "The rotation matrices are the other way round: from the microscope's frame to the reference's, or angles in another convention.",
        "With --out, the corrected STAR file has the transposed rotations.",
    ),
    "hand": Advice(
        "The map looks right and its helices turn left, or the model fits its outline and none of its details.",
        "The reference and the poses are of opposite hand. Where the chirality of a model is right, the poses are those of a mirrored map.",
        "With --out, the corrected STAR file has the poses of the other hand; a model that is itself a mirror image is turned round instead.",
    ),
    "origin sign": Advice(
        "The map is a blurred version of itself, as if every particle were off by twice its shift.",
        "The origins say where the particle is, not how the image must move to centre it, or the reverse.",
        "With --out, the corrected STAR file has origins of the other sign.",
    ),
    "origin unit": Advice(
        "The map is blurred, and the shifts that `info` lists are larger or smaller than others of this microscope, by a factor of the pixel size.",
        "The origins are in pixels where Å are meant, or in Å where pixels are meant.",
        "With --out, the corrected STAR file has its origins in Å.",
    ),
    "origin off": Advice(
        "The map is blurred, by as much as the shifts; particles stand in the centre of their boxes although their shifts are not 0.",
        "The images are centred already, and the file still holds the origins that did it.",
        "With --out, the corrected STAR file has no shifts.",
    ),
    "origin axes": Advice(
        "The map is blurred, by more than the shifts.",
        "The x and y of the origins are exchanged.",
        "With --out, the corrected STAR file has them the other way round.",
    ),
    "pixel size": Advice(
        "The model is some percent larger or smaller than the map, and their shell correlation falls early.",
        "The pixel size of the file is not that of the images, if that of the reference is right.",
        "Give the pixel size that was found, with --pixel-size.",
    ),
    "model offset": Advice(
        "`train` says that the model reaches out of the box, or nothing is said and the correlation stays near 0.",
        "The reference stands elsewhere: its frame is not that of the poses, whose origin is the centre of the box.",
        "With --out, the docked model is written; or run `cryostar-nb dock`.",
    ),
    "model orientation": Advice(
        "The correlation of images and model is a small part of what it could be, and training bends the model at once.",
        "The reference is turned against the frame of the poses. A few degrees can also mean that the particles have another shape.",
        "With --out, the docked model is written; or run `cryostar-nb dock`.",
    ),
    "undecided": Advice(
        "All rows of the table have nearly the same correlation.",
        "The images do not say enough: nothing correlates with them clearly, or more than one explanation fits equally well.",
        "Use more particles (--n-particles), at least as many as the doctor names. If no number helps, the reference may be the wrong molecule, or two things are wrong that are not tried together.",
    ),
}


def is_mirror_image(atoms: Structure) -> bool:
    """Whether a model is of the wrong hand: most of its amino acids are D, or most of its helices left-handed where it has only Cα."""
    signs = []
    for first, last in residue_ranges(atoms):
        place = dict(
            zip(atoms.atom_names[first:last].tolist(), atoms.positions[first:last], strict=True)
        )
        if {"N", "CA", "C", "CB"} <= place.keys():
            signs.append(
                np.dot(
                    place["N"] - place["CA"],
                    np.cross(place["C"] - place["CA"], place["CB"] - place["CA"]),
                )
            )
    if not signs:
        trace = atoms.positions[atoms.atom_names == "CA"]
        steps = np.diff(trace, axis=0)
        for before, here, after in zip(steps[:-2], steps[1:-1], steps[2:], strict=True):
            if (
                np.linalg.norm(before + here + after) < 6.5
                and max(map(np.linalg.norm, (before, here, after))) < 4.5
            ):  # a turn of a helix
                signs.append(np.dot(before, np.cross(here, after)))
    return bool(signs) and float(np.mean(np.sign(signs))) < 0


def corrected_particles(
    particles: Particles, hypothesis: Hypothesis, *, turn_poses: bool
) -> Particles:
    """The particles as they should be read, so that the default hypothesis is right for them; the contrast stays.

    `turn_poses` turns them over where the reference is of the other hand: R becomes M R M, M = diag(1, 1, -1).
    """
    h, mirror = hypothesis, MIRROR.double()
    rotations = particles.rotations.mT if h.transpose else particles.rotations
    if turn_poses:
        rotations = mirror @ rotations @ mirror
    shifts = h.origin.read(particles.shifts, particles.pixel_size) * (
        1.0 if h.shifts_follow else h.scale
    )
    ctf = None if particles.ctf is None else _corrected_ctf(particles.ctf, h)
    return dataclasses.replace(
        particles,
        rotations=rotations,
        shifts=shifts,
        pixel_size=particles.pixel_size * h.scale,
        ctf=ctf,
        phase_flipped=particles.phase_flipped ^ (h.ctf == "flipped"),
    )


def _corrected_ctf(ctf: CTFParameters, h: Hypothesis) -> CTFParameters:
    zero = torch.zeros_like(ctf.defocus_u)
    if h.ctf == "off":
        nothing = dict.fromkeys(
            ("defocus_u", "defocus_v", "spherical_aberration_mm", "amplitude_contrast", "b_factor"),
            zero,
        )
        return dataclasses.replace(ctf, **nothing, phase_shift_deg=zero + 90)
    sign = -1 if h.ctf == "negated" else 1
    power = (
        1.0 if h.ctf_follows else h.scale
    )  # where the CTF was fitted with the wrong pixel size, each term keeps its value per pixel
    return dataclasses.replace(
        ctf,
        defocus_u=sign * ctf.defocus_u * power**2,
        defocus_v=sign * ctf.defocus_v * power**2,
        spherical_aberration_mm=ctf.spherical_aberration_mm * power**4,
        b_factor=ctf.b_factor * power**2,
    )


def corrected_placement(hypothesis: Hypothesis, *, turn_poses: bool) -> Placement:
    """Where the reference goes. When the poses are turned over instead of it, what is left is a rotation and a shift."""
    placement = hypothesis.placement
    return (
        Placement(MIRROR @ placement.matrix, MIRROR @ placement.move) if turn_poses else placement
    )


def is_moved(placement: Placement) -> bool:
    """Whether a placement does anything."""
    return not (
        torch.allclose(placement.matrix, torch.eye(3), atol=1e-6)
        and torch.allclose(placement.move, torch.zeros(3), atol=1e-6)
    )


def image_root(particles: Particles, star: Path) -> Path | None:
    """The folder that image names in a new STAR file start from; None where they start from its own, and need no --root."""
    folders, own = [stack.resolve().parent for stack in particles.stacks], star.resolve().parent
    return (
        None
        if all(folder.is_relative_to(own) for folder in folders)
        else Path(os.path.commonpath(folders))
    )


def train_flags(
    particles: Particles,
    hypothesis: Hypothesis,
    reading: Reading,
    star: Path | None,
    *,
    invert: bool = False,
) -> list[str]:
    """What to pass to `train` beside the files: with the corrected STAR file if there is one, else as the particles were read here."""
    faults = hypothesis.faults()
    flags = ["--invert"] * (invert != ("contrast sign" in faults))
    if star is not None:
        root = image_root(particles, star)
        return flags if root is None else [*flags, "--root", str(root)]
    if "pixel size" in faults:
        reading = dataclasses.replace(
            reading, pixel_size=float(f"{particles.pixel_size * hypothesis.scale:.5g}")
        )
    if "phase flipped" in faults:
        reading = dataclasses.replace(reading, phase_flipped=True)
    for field in dataclasses.fields(reading):
        value = getattr(reading, field.name)
        if value != field.default:
            name = f"--{field.name.replace('_', '-')}"
            flags += [name] if value is True else [name, str(value)]
    return flags


def train_command(particles: str, reference: str, flags: list[str]) -> str:
    """The command to train with, as people would type it."""
    return shlex.join(
        [
            "cryostar-nb",
            "train",
            particles,
            "--reference",
            reference,
            *flags,
            "--out",
            "run",
            "--preset",
            "ours",
        ]
    )


def needs_star(particles: Particles, hypothesis: Hypothesis, *, turn_poses: bool) -> bool:
    """Whether flags do not help: the STAR file must be another."""
    h = hypothesis
    by_flags = {"contrast sign", "model offset", "model orientation"}
    by_flags |= set() if particles.phase_flipped else {"phase flipped"}
    by_flags |= (
        {"pixel size"} if h.ctf_follows and (h.shifts_follow or abs(h.scale - 1) < 0.1) else set()
    )
    by_flags |= set() if turn_poses else {"hand"}
    return bool(set(h.faults()) - by_flags)
