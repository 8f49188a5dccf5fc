"""A new stack from an old one: cropped in Fourier space, filtered, of the right contrast, normalised, masked; in one pass."""

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
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
)
from cryostar_nb.io.files import replacing
from cryostar_nb.io.metadata import make_particles
from cryostar_nb.io.particles import Particles, batches
from cryostar_nb.io.reading import Reading, open_metadata, read_indices
from cryostar_nb.io.star import WRITTEN, StarFile, write_star

PIXELS_AT_ONCE = 2**20  # of the images in memory


@dataclass(frozen=True)
class Preprocessing:
    """What is done to the images, in this order."""

    box_size: int | None = None
    """Crop in Fourier space to a box of this many pixels; the pixels become larger and the field of view stays."""
    low_pass: float | None = None
    """Leave out detail finer than this, in Å, with an edge two Fourier pixels wide."""
    invert: bool = False
    """Turn dark protein bright."""
    normalise: bool = True
    """Bring the background, outside a circle, to mean 0 and standard deviation 1."""
    background_radius: float | None = None
    """Radius of that circle in Å (default: half the box)."""
    mask_radius: float | None = None
    """Fade to 0 beyond this distance from the centre, in Å. Masked images have no background left, which `train` needs."""
    mask_edge: float = 10.0
    """Width of the mask's edge in Å."""

    def check(self, box_size: int, pixel_size: float) -> None:
        """Raise InputError for what these images cannot be given."""
        if self.box_size is not None and not 4 <= self.box_size <= box_size:
            raise InputError(
                f"box_size = {self.box_size}: the images have {box_size} pixels; give a number from 4 to that"
            )
        corner = box_size * pixel_size / math.sqrt(2)
        for name in ("low_pass", "background_radius", "mask_radius", "mask_edge"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} = {value:g}; give a positive number of Å")
        if self.background_radius is not None and self.background_radius >= 0.99 * corner:
            raise InputError(
                f"background_radius = {self.background_radius:g}: the corner of the box is {corner:.1f} Å from its centre; give less"
            )


def soft_step(values: Float[Tensor, "*grid"], start: float, edge: float) -> Float[Tensor, "*grid"]:
    """1 up to `start`, 0 from `start + edge` on, and half a cosine between."""
    return 0.5 + 0.5 * torch.cos(math.pi * ((values - start) / edge).clamp(0, 1))


def preprocess(
    particles: Particles,
    out: Path | str,
    config: Preprocessing,
    *,
    more: pd.DataFrame | None = None,
) -> Particles:
    """Write `out/particles.mrcs` and `out/particles.star`, and return the new particles.

    Phases that were flipped are flipped back. Poses and CTFs stay as they are. `more` are columns for the STAR file, a row for
    each particle. Raises InputError for a pixel that is not finite, a background without contrast, and a disk without room.
    """
    out = Path(out)
    config.check(particles.box_size, particles.pixel_size)
    stack, star = out / "particles.mrcs", out / "particles.star"
    if any(
        path.exists() and path.resolve() in (stack.resolve(), star.resolve())
        for path in (particles.source, *particles.stacks)
    ):
        raise InputError(
            f"{out}: holds the particles that are read; write to another folder (--out)"
        )
    box_size = config.box_size or particles.box_size
    pixel_size = particles.pixel_size * particles.box_size / box_size
    shape = (len(particles), box_size, box_size)
    disk = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    needed, free = 4 * math.prod(shape), shutil.disk_usage(disk).free
    if needed > free:
        raise InputError(
            f"{out}: the stack needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; make room"
        )
    with (
        replacing(stack) as temporary,
        mrcfile.new_mmap(temporary, shape, mrc_mode=2, overwrite=True) as handle,
    ):
        handle.set_image_stack()
        handle.header.label[0] = (
            b"CryoSTAR-NB preprocess"  # mrcfile puts the time there: other bytes for the same images
        )
        handle.voxel_size = pixel_size
        for rows in batches(
            len(particles), max(1, PIXELS_AT_ONCE // particles.box_size**2), "preprocessing"
        ):
            handle.data[rows] = process_images(particles, rows, config).numpy()
    made = replace(
        particles,
        source=star,
        stacks=(stack,),
        stack_of=np.zeros(len(particles), dtype=np.int64),
        image_in_stack=np.arange(len(particles)),
        box_size=box_size,
        pixel_size=pixel_size,
        phase_flipped=False,
    )
    write_star(star, made, more=more)
    return made


def process_images(
    particles: Particles, rows: slice, config: Preprocessing
) -> Float[Tensor, "particle y x"]:
    """These images, processed."""
    images = particles.images(rows)
    for bad in torch.nonzero(~torch.isfinite(images).all(-1).all(-1)).flatten().tolist():
        value = images[bad][~torch.isfinite(images[bad])][0].item()
        raise InputError(
            f"{particles.label(rows.start + bad)}: a pixel is {value}; remove the particle (--indices)"
        )
    if particles.phase_flipped and particles.ctf is not None:
        signs = ctf_signs(
            frequency_grid(particles.box_size, particles.pixel_size), particles.ctf[rows]
        )
        images = centred_ifft(centred_fft(images, 2) * signs, 2).float()
    box_size = config.box_size or particles.box_size
    images = fourier_crop(images, box_size, 2)
    pixel_size = particles.pixel_size * particles.box_size / box_size
    if config.low_pass is not None:
        frequency = frequency_grid(box_size, pixel_size).norm(dim=-1)
        images = centred_ifft(
            centred_fft(images, 2)
            * soft_step(frequency, 1 / config.low_pass, 2 / (box_size * pixel_size)),
            2,
        ).float()
    if config.invert:
        images = -images
    axis = coordinate_axis(box_size, pixel_size)
    distance = (axis[:, None].square() + axis.square()).sqrt()
    if config.normalise:
        background = images[:, distance > (config.background_radius or box_size * pixel_size / 2)]
        spread = background.std(dim=-1)
        for bad in torch.nonzero(~(spread > 0)).flatten().tolist():
            raise InputError(
                f"{particles.label(rows.start + bad)}: every background pixel has the same value; remove the particle (--indices)"
            )
        images = (images - background.mean(dim=-1)[:, None, None]) / spread[:, None, None]
    if config.mask_radius is not None:
        images = images * soft_step(distance, config.mask_radius, config.mask_edge).float()
    return images


def preprocess_file(
    path: Path | str,
    out: Path | str,
    config: Preprocessing,
    reading: Reading,
    indices: str | None = None,
) -> Particles:
    """`preprocess` for the particles of a file, or for those of them that `indices` names.

    The columns of a STAR file's particle table that are still true, a half-set or a micrograph's name, are carried over.
    """
    source = open_metadata(
        path, passthrough=reading.passthrough, poses_pkl=reading.poses_pkl, ctf_pkl=reading.ctf_pkl
    )
    options = {"allow_outside": reading.allow_outside, "phase_flipped": reading.phase_flipped}
    particles = make_particles(source, root=reading.root, pixel_size=reading.pixel_size, **options)
    rows = np.arange(len(particles)) if indices is None else read_indices(indices, len(particles))
    more = None
    if isinstance(source, StarFile):
        table = source.particle_table
        more = table[[column for column in table.columns if column not in WRITTEN]].iloc[rows]
    return preprocess(particles.select(rows), out, config, more=more)
