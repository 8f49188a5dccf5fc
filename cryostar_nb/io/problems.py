"""What a particle file says, as far as it can be read, and what in it will cause trouble.

`info` lists it. The commands that use the particles say it once, and refuse what cannot be right.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.errors import InputError
from cryostar_nb.io.files import tell
from cryostar_nb.io.metadata import SAME_SIZE, ImageNames, Metadata, Poses, most_common
from cryostar_nb.io.mrc import check_pixels, open_mrc
from cryostar_nb.io.options import Reading
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.reading import (
    check_stacks,
    few,
    locate,
    make_particles,
    open_metadata,
    project_root,
    repeated_rows,
)

USUAL_DEFOCUS = (1_000.0, 100_000.0)  # Å
USUAL_MEDIAN = 2_500.0  # Å
LEAST_DEFOCUS = 100.0  # Å; below, half of the particles are in another unit
ONE_VIEW = 0.1  # of the particles that see one direction: more, and they have no poses,
FAR_MORE = 10  # where no other direction has a share of this size,
HALF = 0.5  # or where it is this part of them
UNSET = (0.0, 1.0)  # Å, voxel sizes of headers whose program did not know it
NARROW = 10.0  # degrees: views all about one direction say nothing of the depth
FEWEST = 3  # particles, to say of them that they are all alike

TURN = 2 * np.pi + 1e-3  # radians

T = TypeVar("T")


class Unfit(InputError):
    """A problem for which these particles cannot be compared with any model."""


@dataclass
class Understood:
    """What a particle file says; None is what cannot be read, or needs what cannot."""

    source: Metadata
    names: ImageNames | None = None
    root: Path | None = None
    stacks: tuple[Path, ...] | None = None
    missing: list[Path] | None = None  # of the stacks
    box_size: int | None = None
    box_sizes: Float[np.ndarray, " particle"] | None = None  # by the metadata
    pixel_size: float | None = None  # Å
    rotations: Float[np.ndarray, "particle 3 3"] | None = None
    shifts: Float[np.ndarray, "particle 2"] | None = None  # Å
    ctf: CTFParameters | None = None
    phase_flipped: bool | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[InputError] = field(default_factory=list)

    def ask(self, question: Callable[..., T], *inputs: Any) -> T | None:
        """The answer; None where it is a problem, or where something it needs is not known."""
        if any(value is None for value in inputs):
            return None
        try:
            with np.errstate(invalid="ignore"):  # of damaged numbers, which are problems
                return question(*inputs)
        except InputError as error:
            self.problems.append(error)
            return None

    def tell(self, *, compared: bool) -> None:
        """Print notes and problems.

        Raises the first problem for which particles cannot be `compared` with a model, if they are
        to be.
        """
        for problem in self.problems:
            if compared and isinstance(problem, Unfit):
                raise problem
        tell([*(f"{self.source.path}: {note}" for note in self.notes), *self.problems])


def understand(
    source: Metadata, reading: Reading | None = None, particles: Particles | None = None
) -> Understood:
    """Read what can be read of an open file, and list the problems.

    `particles` that were made of it already are not read again.
    """
    reading, found = reading or Reading(), Understood(source)
    if particles is None:
        _read(found, reading)
    else:
        _take(found, particles)
    ask = found.ask
    ask(_check_defocus, source, found.ctf)
    ask(check_views, source.path, found.rotations)
    ask(_check_shifts, source, found.shifts, found.box_size, found.pixel_size)
    ask(_check_origins, source, found.shifts)
    ask(_check_aberrations, source)
    ask(_check_sign, source)
    ask(_check_radians, source)
    if not found.missing:
        sizes = None if reading.pixel_size else ask(source.pixel_sizes)
        ask(lambda *known: _look_at_headers(found, sizes, *known), found.names, found.stacks)
    found.notes += ask(source.notes) or []
    return found


def _read(found: Understood, reading: Reading) -> None:
    """Fill in what can be read of a file."""
    source, ask = found.source, found.ask
    found.names = names = ask(source.image_names)
    found.root = root = reading.root or ask(project_root, source.path, names)
    outside = reading.allow_outside
    found.stacks = stacks = ask(lambda *at: locate(source, *at, allow_outside=outside), names, root)
    found.missing = ask(lambda stacks: [at for at in stacks if not os.path.isfile(at)], stacks)
    found.box_size = ask(_box_size, source, names, stacks, found.missing)
    found.box_sizes = ask(source.box_sizes)
    if found.box_size is None and found.box_sizes is not None:
        found.box_size = int(found.box_sizes[0])
    sizes = ask(lambda: source.sizes(reading.pixel_size))
    found.pixel_size = ask(most_common, sizes)
    found.rotations = ask(source.rotations)
    found.shifts = ask(lambda: source.shifts(reading.pixel_size))
    found.ctf = ask(lambda: source.ctf(sizes))
    found.phase_flipped = ask(lambda: reading.phase_flipped or source.phase_flipped())
    ask(_check_repeats, source, names, found.rotations, found.shifts)


def _take(found: Understood, particles: Particles) -> None:
    """Fill in what is known from particles that could be made."""
    names, stack_of = tuple(map(str, particles.stacks)), particles.stack_of
    found.names = ImageNames(names, stack_of, particles.image_in_stack)
    found.stacks, found.missing = particles.stacks, []
    found.box_size, found.pixel_size = particles.box_size, particles.pixel_size
    found.rotations, found.shifts = particles.rotations.numpy(), particles.shifts.numpy()
    found.ctf, found.phase_flipped = particles.ctf, particles.phase_flipped


def read_and_tell(path: Path | str, reading: Reading | None = None) -> Particles:
    """`io.reading.read_particles`, which then prints what `info` would list, once.

    Raises InputError as it does, and for particles that cannot be compared with a model.
    """
    source = open_metadata(path, reading)
    particles = make_particles(source, reading)
    understand(source, reading, particles).tell(compared=True)
    return particles


def _box_size(
    source: Metadata, names: ImageNames, stacks: tuple[Path, ...], missing: list[Path]
) -> int:
    """The box of the images, where all files are there and sound."""
    if missing:
        problem = f"{len(missing):,} of {len(stacks):,} image files are missing, first {{value}}"
        remedy = "give the folder that their names start from (--root)"
        raise InputError(problem, file=source.path, value=missing[0], remedy=remedy)
    return check_stacks(source, names, stacks)


def _look_at_headers(
    found: Understood,
    sizes: Float[np.ndarray, " particle"] | None,
    names: ImageNames,
    stacks: tuple[Path, ...],
) -> None:
    """Compare headers of some stacks with their pixels and with the particles' pixel sizes.

    The latter are None where they are not known, or one was given by the user.
    """
    for stack in few(stacks):
        try:
            pixels, header = open_mrc(stack)
            remark = check_pixels(stack, pixels, header)
        except InputError:
            return  # listed with the boxes
        if pixels.dtype == np.uint8 and not found.notes:
            found.notes.append(f"{stack.name} holds unsigned bytes, as its header says")
        if remark:
            raise InputError(remark, file=stack, remedy="look at its images, or write it again")
        size = float(header.cella.x) / max(int(header.mx), 1)
        said = UNSET[0] if sizes is None else float(sizes[names.first_row(stacks.index(stack))])
        if said not in UNSET and not np.isclose(size, (*UNSET, said), rtol=SAME_SIZE).any():
            problem = f"its header has pixels of {{value}} Å, and {found.source.path.name} says"
            remedy = "make sure which is right (--pixel-size)"
            raise InputError(f"{problem} {said:g} Å", file=stack, value=size, remedy=remedy)


def check_views(path: Path, rotations: Float[np.ndarray, "particle 3 3"]) -> None:
    """Raise Unfit where many particles share one direction of view to the last digit, and
    InputError where some do, or all look from nearly one direction.

    Poses that were never found are such: zeros, or what a 2D classification leaves. Those of a
    search on a grid of directions share theirs too, but with many such directions.
    """
    views = rotations[:, 2].round(6) + 0.0  # -0 is 0
    _, first, counts = np.unique(views, axis=0, return_index=True, return_counts=True)
    most = int(np.argmax(counts))
    shared, others = int(counts[most]), np.delete(counts, most)
    part, next_most = shared / len(views), int(others.max(initial=0))
    problem = f"has the direction of view of {{value}} of {len(views)} particles"
    remedy = "give particles of a 3D refinement, or leave out those without a pose"
    row = int(first[most]) + 1
    if shared >= FEWEST and (part >= HALF or (part >= ONE_VIEW and shared >= FAR_MORE * next_most)):
        raise Unfit(problem, file=path, row=row, value=shared, remedy=remedy)
    if shared >= FEWEST * max(next_most, 1):
        raise InputError(problem, file=path, row=row, value=shared, remedy=remedy)
    axis = np.linalg.eigh(views.T @ views)[1][:, -1]
    widest = float(np.rad2deg(np.arccos(np.abs(views @ axis).clip(0, 1).min())))
    if len(views) >= FEWEST and widest < NARROW:
        problem = "all directions of view lie within {value}° of one"
        remedy = "check that the angles are in degrees"
        raise InputError(problem, file=path, value=round(widest, 1), remedy=remedy)


def _check_origins(source: Metadata, shifts: Float[np.ndarray, "particle 2"]) -> None:
    """Raise InputError where all particles are shifted alike, and are shifted."""
    alike = np.ptp(shifts, axis=0).max() < 1e-6 and np.abs(shifts[0]).max() > 1e-6
    if alike and len(shifts) >= FEWEST:
        problem = "is shifted by {value} Å, as all are"
        remedy = "no alignment gives one shift to all: check the origins"
        source.refuse(0, problem, shifts[0].round(4), remedy)


def _check_defocus(source: Metadata, ctf: CTFParameters) -> None:
    defocus, (low, high) = ((ctf.defocus_u + ctf.defocus_v) / 2).numpy(), USUAL_DEFOCUS
    tiny = (np.abs(defocus) < LEAST_DEFOCUS) & (defocus != 0)  # 0 may mean: without a CTF
    if tiny.mean() >= HALF:
        row = int(np.argmax(tiny))
        problem = f"has a defocus of {{value}} Å, less than {LEAST_DEFOCUS:g} Å"
        problem += f", as do {tiny.sum():,} in all"
        remedy = "give it in Å: 1 µm is 10,000 Å"
        value = float(defocus[row])
        raise Unfit(problem, file=source.path, row=row + 1, value=value, remedy=remedy)
    if 0 < (half := float(np.median(defocus))) < USUAL_MEDIAN:
        problem = "half of the particles have a defocus below {value} Å"
        remedy = "check its unit: 1 nm is 10 Å"
        raise InputError(problem, file=source.path, value=half, remedy=remedy)
    axes = torch.stack([ctf.defocus_u, ctf.defocus_v], dim=1).numpy()
    unusual = (axes < low) | (axes > high)
    usual = ~np.logical_or(unusual[:, 0], unusual[:, 1])
    defocus = np.where(unusual[:, 0], axes[:, 0], axes[:, 1])
    problem = f"has a defocus of {{value}} Å, outside {low:,.0f} to {high:,.0f} Å"
    remedy = "check its unit and sign (underfocus is positive), or leave such particles out"
    source.check(usual, f"{problem}, as do {(~usual).sum():,} in all", defocus, remedy)


def _check_shifts(source: Metadata, shifts: np.ndarray, box_size: int, pixel_size: float) -> None:
    length = np.linalg.norm(shifts, axis=1)
    near = length <= box_size * pixel_size / 4
    problem = "is shifted by {value} Å, more than a quarter of the box"
    remedy = "check the unit of the shifts and the pixel size, or extract again with re-centring"
    source.check(near, f"{problem}, as are {(~near).sum():,} in all", length, remedy)


def _check_repeats(
    source: Metadata, names: ImageNames, rotations: np.ndarray, shifts: np.ndarray
) -> None:
    poses = Poses(torch.from_numpy(rotations), torch.from_numpy(shifts), None)
    repeated = repeated_rows(names, poses)
    for row, earlier in repeated[:1].tolist():
        problem = f"has the image and pose of particle {{value}}, one of {len(repeated):,} repeats"
        source.refuse(row, problem, earlier + 1, "keep each once (cryostar-nb select --unique)")


def _check_aberrations(source: Metadata) -> None:
    """Columns that change the images in a way that is not modelled."""
    given = [
        column
        for column in source.not_modelled
        if column in source.columns and np.abs(source.raw(column)).max() > 1e-6
    ]
    if given:
        problem, value = "has columns that are not modelled: {value}", ", ".join(given)
        remedy = "apply them in the software that wrote them, and export the particles again"
        raise InputError(problem, file=source.path, value=value, remedy=remedy)


def _check_sign(source: Metadata) -> None:
    """The sign by which cryoSPARC multiplies these images when it reads them."""
    sign = source.raw("blob/sign") if "blob/sign" in source.columns else np.ones(1)
    dark = int((sign < 0).sum()) if sign.dtype.kind in "fi" else 0
    if dark:
        problem = f"has blob/sign -1 for {{value}} of {len(sign)} particles, and it is not followed"
        remedy = "if protein is dark in these images (`doctor` tells), give --invert"
        if dark < len(sign):
            remedy = "separate the particles of each sign (cryostar-nb select --indices)"
        raise InputError(problem, file=source.path, value=dark, remedy=remedy)


def _check_radians(source: Metadata) -> None:
    """Raise InputError for an angle of the CTF of more than a turn, which is in degrees."""
    for column in source.ctf_columns.values():
        if column.endswith("_rad") and column in source.columns:
            values = np.abs(source.numbers(column)).reshape(len(source), -1).max(axis=1)
            problem, remedy = f"has {column} = {{value}}", "give it in radians"
            source.check(values <= TURN, problem, values, remedy)
