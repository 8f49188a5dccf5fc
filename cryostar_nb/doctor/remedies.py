"""What each verdict means and what helps: in words, as flags of `train`, and as corrected files."""

import dataclasses
import os
import shlex
import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.doctor import thresholds as limits
from cryostar_nb.doctor.docking import IDENTITY, MIRROR, Placement
from cryostar_nb.doctor.hypotheses import Hypothesis
from cryostar_nb.io.options import Reading
from cryostar_nb.io.particles import Particles
from cryostar_nb.structure import Structure, residue_ranges

_TEXTS = files("cryostar_nb") / "assets" / "advice.toml"
# Of each verdict: what is `seen` without the doctor, its `meaning`, and the `remedy`.
ADVICE: dict[str, dict[str, str]] = tomllib.loads(_TEXTS.read_text(encoding="utf-8"))


def is_mirror_image(atoms: Structure) -> bool:
    """Whether a model is of the wrong hand.

    Most of its amino acids are D, or, where it has Cα only, most of its helices left-handed.
    """
    triples = []
    for first, last in residue_ranges(atoms):
        names = atoms.atom_names[first:last].tolist()
        place = dict(zip(names, atoms.positions[first:last], strict=True))
        if {"N", "CA", "C", "CB"} <= place.keys():
            triples.append([place[name] - place["CA"] for name in ("N", "C", "CB")])
    if not triples:
        steps = np.diff(atoms.positions[atoms.atom_names == "CA"], axis=0)
        triples = [
            list(turn)
            for turn in zip(steps[:-2], steps[1:-1], steps[2:], strict=True)
            if np.linalg.norm(sum(turn)) < 6.5  # Å, of a helix
            and max(map(np.linalg.norm, turn)) < 4.5  # Å, without a gap
        ]
    return bool(triples) and float(np.mean(np.sign(np.linalg.det(triples)))) < 0


def corrected_particles(
    particles: Particles, hypothesis: Hypothesis, *, turn_poses: bool
) -> Particles:
    """The particles as they should be read, but for their contrast.

    `turn_poses` turns them over where the reference is of the other hand: R becomes M R M,
    M = diag(1, 1, -1).
    """
    h, mirror = hypothesis, MIRROR.double()
    rotations = particles.rotations.mT if h.transpose else particles.rotations
    shifts = h.origin.read(particles.shifts, particles.pixel_size)
    return dataclasses.replace(
        particles,
        rotations=mirror @ rotations @ mirror if turn_poses else rotations,
        shifts=shifts * (1.0 if h.shifts_follow else h.scale),
        pixel_size=particles.pixel_size * h.scale,
        ctf=None if particles.ctf is None else _corrected_ctf(particles.ctf, h),
        phase_flipped=particles.phase_flipped ^ (h.ctf == "flipped"),
    )


def _corrected_ctf(ctf: CTFParameters, h: Hypothesis) -> CTFParameters:
    """The CTF; where it was fitted with the wrong pixel size, each term keeps its value a pixel."""
    sign = {"off": 0, "negated": -1}.get(h.ctf, 1)
    power = 1.0 if h.ctf_follows else h.scale
    corrected = dataclasses.replace(
        ctf,
        defocus_u=sign * ctf.defocus_u * power**2,
        defocus_v=sign * ctf.defocus_v * power**2,
        spherical_aberration_mm=sign**2 * ctf.spherical_aberration_mm * power**4,
        b_factor=sign**2 * ctf.b_factor * power**2,
    )
    if h.ctf != "off":
        return corrected
    zero = torch.zeros_like(ctf.defocus_u)
    return dataclasses.replace(corrected, amplitude_contrast=zero, phase_shift_deg=zero + 90)


def corrected_placement(hypothesis: Hypothesis, *, turn_poses: bool) -> Placement:
    """Where the reference goes; when the poses are turned over instead of it, what is left."""
    placement = hypothesis.placement
    if not turn_poses:
        return placement
    return Placement(MIRROR @ placement.matrix, MIRROR @ placement.move)


def is_moved(placement: Placement) -> bool:
    """Whether a placement does anything."""
    return not (
        torch.allclose(placement.matrix, IDENTITY.matrix, atol=1e-6)
        and torch.allclose(placement.move, IDENTITY.move, atol=1e-6)
    )


def image_root(particles: Particles, star: Path) -> Path | None:
    """The folder that image names in a new STAR file start from; None where it is its own."""
    folders = [stack.resolve().parent for stack in particles.stacks]
    if all(folder.is_relative_to(star.resolve().parent) for folder in folders):
        return None
    return Path(os.path.commonpath(folders))


def train_flags(
    particles: Particles,
    hypothesis: Hypothesis,
    reading: Reading,
    star: Path | None,
    *,
    invert: bool = False,
) -> list[str]:
    """What to pass to `train` beside the files: with the corrected STAR file if there is one.

    Else as the particles were read here.
    """
    faults = hypothesis.faults()
    flags = ["--invert"] * (invert != ("contrast sign" in faults))
    if star is not None:
        root = image_root(particles, star)
        return flags if root is None else [*flags, "--root", str(root)]
    if "pixel size" in faults:
        pixel_size = float(f"{particles.pixel_size * hypothesis.scale:.5g}")
        reading = dataclasses.replace(reading, pixel_size=pixel_size)
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
    files = [particles, "--reference", reference]
    return shlex.join(["cryostar-nb", "train", *files, *flags, "--out", "run"])


def needs_star(particles: Particles, hypothesis: Hypothesis, *, turn_poses: bool) -> bool:
    """Whether flags do not help: the STAR file must be another."""
    h = hypothesis
    by_flags = {"contrast sign", "model offset", "model orientation"}
    if not particles.phase_flipped:
        by_flags.add("phase flipped")
    if h.ctf_follows and (h.shifts_follow or abs(h.scale - 1) < limits.LEAST_BINNING_ERROR):
        by_flags.add("pixel size")
    if not turn_poses:
        by_flags.add("hand")
    return bool(set(h.faults()) - by_flags)
