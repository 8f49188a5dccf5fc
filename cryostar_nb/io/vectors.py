"""The particles as training reads them: a short vector for each, and what the encoder sees of it.

The background noise of a particle has unit variance in every element of its vector. float16 rounds
a value by one part in 2,048 at most, far less than the noise, and halves the memory.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from cryostar_nb.ctf import ctf_signs, ctf_terms
from cryostar_nb.encoders import StructureEncoder
from cryostar_nb.fourier import Band, shift_band, turn_phases
from cryostar_nb.io.particles import Particles, background_mask, batches
from cryostar_nb.io.tables import open_table
from cryostar_nb.training import TrainingData, looks_of

PIXELS_AT_ONCE = 2**20  # read in one go during the pass; they take about 30 MB
LOOKS_AT_ONCE = 1024  # particles
FORMAT = 1  # of the vectors' file; another number makes every older file stale
LOOKS_FORMAT = 2  # of the file of looks


def load_band_vectors(
    particles: Particles, band: Band, *, invert: bool = False
) -> Float[Tensor, "particle band"]:
    """Read every image once and return its band vector, normalised and centred, as float32.

    The background's standard deviation becomes 1, so that white noise has unit variance in every
    element; the mean is not part of a band; the particle is moved to the centre of its box;
    `invert` turns dark protein bright. Flipped phases are flipped back, so that every image is one
    times its CTF, and the phases that odd aberrations add are taken away. Raises InputError for a
    pixel that is not finite and for an image without contrast.
    """
    vectors = torch.empty(len(particles), band.size)
    for rows, batch in band_vectors(particles, band, invert):
        vectors[rows] = batch
    return vectors


def band_vectors(
    particles: Particles, band: Band, invert: bool
) -> Iterator[tuple[slice, Float[Tensor, "batch band"]]]:
    """One pass over the pixels, a few images at a time."""
    outside = background_mask(particles.box_size)
    at_once = max(1, PIXELS_AT_ONCE // particles.box_size**2)
    shifts, odd = particles.band_shifts.float(), particles.aberrations
    for rows in batches(len(particles), at_once, "reading particles"):
        images = particles.images(rows)
        noise_sd = images[:, outside].std(dim=-1)
        good = torch.isfinite(images.sum(-1).sum(-1)) & (noise_sd > 0)
        if not good.all():  # a sum may be no number where every pixel is one
            good = torch.isfinite(images).all(-1).all(-1) & (noise_sd > 0)
        if not good.all():
            _refuse(particles, rows.start + int(good.int().argmin()))
        encoded = band.encode(images) / (-noise_sd if invert else noise_sd)[:, None]
        if particles.phase_flipped and particles.ctf is not None:
            signs = ctf_signs(band.frequencies, particles.ctf[rows])
            encoded *= band.per_coefficient(signs).to(encoded)
        if odd is not None:
            encoded = turn_phases(encoded, -odd[rows].phases(band.frequencies).float())
        yield rows, shift_band(encoded, -shifts[rows], band)


def _refuse(particles: Particles, row: int) -> NoReturn:
    """Raise InputError for an image that is not finite, or has no contrast."""
    image = particles.images(slice(row, row + 1))
    for value in image[~torch.isfinite(image)][:1].tolist():
        particles.refuse(row, "has a pixel of {value}", value, "remove it from the file")
    problem = "has the same value in every pixel of its background"
    particles.refuse(row, problem, None, "remove it from the file, or give it unmasked")


def _half(
    particles: Particles, first: int, numbers: Float[Tensor, "batch number"]
) -> Float16[Tensor, "batch number"]:
    """The numbers of these particles, from row `first` on, at half precision.

    Raises InputError for a particle that float16 cannot hold.
    """
    half = numbers.half()
    good = torch.isfinite(half).all(-1)
    if not good.all():
        bad = int(good.int().argmin())
        problem = "has a coefficient of {value} times its background noise, and half precision "
        particles.refuse(
            first + bad,
            problem + "ends at 65,504",
            numbers[bad].abs().max().item(),
            "its background is empty or masked: give the images as they were extracted",
        )
    return half


def open_vectors(
    particles: Particles,
    band: Band,
    *,
    invert: bool = False,
    memory_gb: float | None = None,
    cache: Path | None = None,
    spill: Path,
) -> Float16[Tensor, "particle band"]:
    """The vectors of these particles, in memory or mapped (`tables.open_table`).

    Raises InputError for what `load_band_vectors` does, for a particle that half precision cannot
    hold, and for a disk without room.
    """
    return open_table(
        "vectors",
        (len(particles), band.size),
        lambda: (
            _half(particles, rows.start, part)
            for rows, part in band_vectors(particles, band, invert)
        ),
        lambda: cache_key(particles, band, invert),
        memory_gb=memory_gb,
        cache=cache,
        spill=spill,
    )


def open_looks(
    particles: Particles,
    band: Band,
    encoder: StructureEncoder,
    data: TrainingData,
    *,
    name: str = "looks",
    invert: bool = False,
    memory_gb: float,
    cache: Path | None = None,
    spill: Path,
) -> Float16[Tensor, "particle number"]:
    """What an encoder sees of these particles, whose `data` are, in memory or mapped.

    `memory_gb` is for the vectors and the looks together; vectors that are larger are not in
    memory. Errors are those of `open_vectors`.
    """

    def parts() -> Iterator[Float16[Tensor, "batch number"]]:
        rows = batches(len(particles), LOOKS_AT_ONCE, "looking at particles")
        for part, looks in zip(rows, looks_of(encoder, data, LOOKS_AT_ONCE), strict=True):
            yield _half(particles, part.start, looks.cpu())

    taken = data.vectors.nbytes / 1e9
    memory_gb = max(memory_gb - (taken if taken <= memory_gb else 0), 1e-9)
    return open_table(
        name,
        (len(particles), encoder.look_size),
        parts,
        lambda: looks_key(particles, band, encoder, data, invert),
        memory_gb=memory_gb,
        cache=cache,
        spill=spill,
    )


def cache_key(particles: Particles, band: Band, invert: bool) -> dict[str, Any]:
    """What the vectors depend on: files by size and time, images, shifts, band and sign."""
    chosen = hashlib.sha256()
    flips = (
        ctf_terms(particles.ctf).numpy()
        if particles.phase_flipped and particles.ctf is not None
        else np.empty(0)
    )
    more = particles.aberrations
    odd = () if more is None else (more.odd.numpy(), more.distortion.numpy())
    shifts = particles.band_shifts.numpy()
    for column in (particles.stack_of, particles.image_in_stack, shifts, flips, *odd):
        chosen.update(np.ascontiguousarray(column).data)
    files = {}
    for path in (particles.source, *particles.stacks):
        status = path.stat()
        files[str(path.resolve())] = [status.st_size, status.st_mtime_ns]
    return {
        "format": FORMAT,
        "band": dataclasses.asdict(band),
        "invert": invert,
        "particles": chosen.hexdigest(),
        "files": files,
    }


def looks_key(
    particles: Particles,
    band: Band,
    encoder: StructureEncoder,
    data: TrainingData,
    invert: bool,
) -> dict[str, Any]:
    """What the looks depend on: the vectors, poses and CTFs, and where the encoder looks."""
    chosen = hashlib.sha256()
    for column in (data.rotations, data.shifts, data.ctf, encoder.nodes, encoder.places):
        if column is not None:
            chosen.update(np.ascontiguousarray(column.cpu().numpy()).data)
    blurs = [encoder.node_blur, encoder.place_blur]
    vectors = cache_key(particles, band, invert)
    return vectors | {"looks": LOOKS_FORMAT, "seen": chosen.hexdigest(), "blurs": blurs}
