"""A new stack from an old one: cropped, filtered, inverted, normalised and masked in one pass."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.ctf import ctf_signs
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import (
    centred_fft,
    centred_ifft,
    coordinate_axis,
    fourier_crop,
    frequency_grid,
    soft_step,
)
from cryostar_nb.io.options import Reading
from cryostar_nb.io.particles import Particles, batches
from cryostar_nb.io.problems import understand
from cryostar_nb.io.reading import make_particles, open_metadata, read_indices
from cryostar_nb.io.stacks import write_stack
from cryostar_nb.io.star import WRITTEN, StarFile, write_star
from cryostar_nb.prepare.options import Preprocessing

PIXELS_AT_ONCE = 2**20  # of the images in memory
LEAVE_OUT = "leave the particle out (--indices)"


def preprocess(
    particles: Particles,
    out: Path | str,
    config: Preprocessing,
    *,
    more: pd.DataFrame | None = None,
) -> Particles:
    """Write `out/particles.mrcs` and `out/particles.star`, and return the new particles.

    Phases that were flipped are flipped back. Poses and CTFs stay as they are. `more` are columns
    for the STAR file, a row for each particle. Raises InputError for a setting that the images do
    not allow, a pixel that is not finite, and a background without contrast.
    """
    _check(config, particles)
    stack, star = Path(out) / "particles.mrcs", Path(out) / "particles.star"
    written = (stack.resolve(), star.resolve())
    read = [path for path in (particles.source, *particles.stacks) if path.exists()]
    if any(path.resolve() in written for path in read):
        problem = "holds the particles that are read"
        raise InputError(problem, file=out, remedy="write to another folder (--out)")
    box_size = config.box_size or particles.box_size
    pixel_size = particles.pixel_size * particles.box_size / box_size
    count, step = len(particles), max(1, PIXELS_AT_ONCE // particles.box_size**2)
    write_stack(
        stack,
        (count, box_size, box_size),
        pixel_size=pixel_size,
        label="CryoSTAR-NB preprocess",
        batches=(
            process_images(particles, rows, config)
            for rows in batches(count, step, "preprocessing")
        ),
    )
    processed = replace(
        particles,
        source=star,
        stacks=(stack,),
        stack_of=np.zeros(count, dtype=np.int64),
        image_in_stack=np.arange(count),
        box_size=box_size,
        pixel_size=pixel_size,
        phase_flipped=False,
    )
    write_star(star, processed, more=more)
    return processed


def _check(config: Preprocessing, particles: Particles) -> None:
    """Raise InputError for settings that do not fit the box of these particles."""
    box_size, wanted, radius = particles.box_size, config.box_size, config.background_radius
    if wanted is not None and wanted > box_size:
        problem = f"box_size = {{value}}, and the images have {box_size} pixels"
        raise InputError(problem, file=particles.source, value=wanted, remedy="give less")
    corner = box_size * particles.pixel_size / math.sqrt(2)
    if radius is not None and radius >= 0.99 * corner:
        problem = f"background_radius = {{value}}, and the box ends {corner:.1f} Å from its centre"
        raise InputError(problem, file=particles.source, value=radius, remedy="give less")


def process_images(
    particles: Particles, rows: slice, config: Preprocessing
) -> Float[Tensor, "particle y x"]:
    """These images, processed."""
    images = particles.images(rows)
    for row, y, x in torch.nonzero(~torch.isfinite(images)).tolist()[:1]:
        value = images[row, y, x].item()
        particles.refuse(rows.start + row, "has a pixel of {value}", value, LEAVE_OUT)
    if particles.phase_flipped and particles.ctf is not None:
        frequencies = frequency_grid(particles.box_size, particles.pixel_size)
        signs = ctf_signs(frequencies, particles.ctf[rows])
        images = centred_ifft(centred_fft(images, 2) * signs, 2).float()
    box_size = config.box_size or particles.box_size
    images = fourier_crop(images, box_size, 2)
    pixel_size = particles.pixel_size * particles.box_size / box_size
    if config.low_pass is not None:
        frequency = frequency_grid(box_size, pixel_size).norm(dim=-1)
        passed = soft_step(frequency, 1 / config.low_pass, 2 / (box_size * pixel_size))
        images = centred_ifft(centred_fft(images, 2) * passed, 2).float()
    if config.invert:
        images = -images
    axis = coordinate_axis(box_size, pixel_size)
    distance = (axis[:, None].square() + axis.square()).sqrt()
    if config.normalise:
        background = images[:, distance > (config.background_radius or box_size * pixel_size / 2)]
        mean, spread = background.mean(dim=-1), background.std(dim=-1)
        for row in torch.nonzero(~(spread > 0)).flatten().tolist()[:1]:
            problem = "has the value {value} in every background pixel"
            particles.refuse(rows.start + row, problem, mean[row].item(), LEAVE_OUT)
        images = (images - mean[:, None, None]) / spread[:, None, None]
    if config.mask_radius is not None:
        images = images * soft_step(distance, config.mask_radius, config.mask_edge).float()
    return images


def preprocess_file(
    path: Path | str,
    out: Path | str,
    config: Preprocessing,
    reading: Reading | None = None,
    indices: str | None = None,
) -> Particles:
    """`preprocess` for the particles of a file, or for those of them that `indices` names.

    The columns of a STAR file's particle table that stay true, such as a half-set or a
    micrograph's name, are carried over.
    """
    source = open_metadata(path, reading)
    particles = make_particles(source, reading)
    understand(source, reading, particles).tell(compared=False)
    rows = np.arange(len(particles)) if indices is None else read_indices(indices, len(particles))
    more = None
    if isinstance(source, StarFile):
        table = source.particle_table
        more = table[[column for column in table.columns if column not in WRITTEN]].iloc[rows]
    return preprocess(particles[rows], out, config, more=more)
