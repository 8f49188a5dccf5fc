"""The particles as training reads them: a short vector for each, at half precision.

The background noise of a particle has unit variance in every element of its vector. float16 rounds
a value by one part in 2,048 at most, far less than the noise, and halves the memory.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from cryostar_nb.ctf import ctf_signs, ctf_terms
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band, shift_band
from cryostar_nb.io.files import check_room, refuse, replacing, write_json
from cryostar_nb.io.particles import Particles, background_mask, batches

PIXELS_AT_ONCE = 2**20  # read in one go during the pass; they take about 30 MB
FORMAT = 1  # of the vector file; another number makes every older file stale


def load_band_vectors(
    particles: Particles, band: Band, *, invert: bool = False
) -> Float[Tensor, "particle band"]:
    """Read every image once and return its band vector, normalised and centred, as float32.

    The background's standard deviation becomes 1, so that white noise has unit variance in every
    element; the mean is not part of a band; the particle is moved to the centre of its box;
    `invert` turns dark protein bright. Flipped phases are flipped back, so that every image is one
    times its CTF. Raises InputError for a pixel that is not finite and for an image without
    contrast.
    """
    vectors = torch.empty(len(particles), band.size)
    for rows, batch in _band_vectors(particles, band, invert):
        vectors[rows] = batch
    return vectors


def _band_vectors(
    particles: Particles, band: Band, invert: bool
) -> Iterator[tuple[slice, Float[Tensor, "batch band"]]]:
    """One pass over the pixels, a few images at a time."""
    outside = background_mask(particles.box_size)
    at_once = max(1, PIXELS_AT_ONCE // particles.box_size**2)
    for rows in batches(len(particles), at_once, "reading particles"):
        images = particles.images(rows)
        noise_sd = images[:, outside].std(dim=-1)
        good = torch.isfinite(images).all(-1).all(-1) & (noise_sd > 0)
        if not good.all():
            _refuse(particles, rows.start + int(good.int().argmin()))
        encoded = band.encode(images) / (-noise_sd if invert else noise_sd)[:, None]
        if particles.phase_flipped and particles.ctf is not None:
            signs = ctf_signs(band.frequencies, particles.ctf[rows])
            encoded *= band.per_coefficient(signs).to(encoded)
        yield rows, shift_band(encoded, -particles.shifts[rows].float(), band)


def _refuse(particles: Particles, row: int) -> NoReturn:
    """Raise InputError for an image that is not finite, or has no contrast."""
    image = particles.images(slice(row, row + 1))
    for value in image[~torch.isfinite(image)][:1].tolist():
        particles.refuse(row, "has a pixel of {value}", value, "remove it from the file")
    problem = "has the same value in every pixel of its background"
    particles.refuse(row, problem, None, "remove it from the file, or give it unmasked")


def _half_vectors(
    particles: Particles, band: Band, invert: bool
) -> Iterator[tuple[slice, Float16[Tensor, "batch band"]]]:
    """The same at half precision. Raises InputError for a particle that float16 cannot hold."""
    for rows, vectors in _band_vectors(particles, band, invert):
        half = vectors.half()
        good = torch.isfinite(half).all(-1)
        if not good.all():
            bad = int(good.int().argmin())
            problem = "has a coefficient of {value} times its background noise, and half precision "
            particles.refuse(
                rows.start + bad,
                problem + "ends at 65,504",
                vectors[bad].abs().max().item(),
                "its background is empty or masked: give the images as they were extracted",
            )
        yield rows, half


def open_vectors(
    particles: Particles,
    band: Band,
    *,
    invert: bool = False,
    memory_gb: float | None = None,
    cache: Path | None = None,
    spill: Path,
) -> Float16[Tensor, "particle band"]:
    """The vectors of these particles: in memory if they fit there, else a map of a file.

    `memory_gb` is what they may take of memory, in GB; none means half of what is free. `cache` is
    a folder to keep them in: a later call reads them there, instead of the pixels, unless anything
    they depend on has changed. `spill` is the folder for vectors that do not fit, when there is no
    cache. The pages of a mapped file stay in the system's cache as long as memory is free. A file
    that another run writes anew is another file: the map keeps the one that was opened.

    Raises InputError for what `load_band_vectors` does, for a particle that half precision cannot
    hold, and for a disk without room.
    """
    if memory_gb is not None and not memory_gb > 0:
        problem, remedy = "memory_gb = {value}", "give a positive number of GB, or leave it out"
        raise InputError(problem, value=memory_gb, remedy=remedy)
    limit = available_memory() // 2 if memory_gb is None else int(memory_gb * 1e9)
    shape = (len(particles), band.size)
    fit = 2 * shape[0] * shape[1] <= limit
    if fit and cache is None:
        vectors = torch.empty(shape, dtype=torch.float16)
        for rows, batch in _half_vectors(particles, band, invert):
            vectors[rows] = batch
        return vectors
    path = (spill if cache is None else cache) / "vectors.f16"
    key = cache_key(particles, band, invert)
    mapped = _map_file(path, key, shape)
    if mapped is None:
        _write_vectors(path, particles, band, invert, key)
        mapped = _map_file(path, key, shape)
    if mapped is None:
        remedy = "give every run its own folder for the cache"
        refuse(path, "was written anew by another run", None, remedy)
    return mapped.clone() if fit else mapped


def cache_key(particles: Particles, band: Band, invert: bool) -> dict[str, Any]:
    """What the vectors depend on: files by size and time, images, shifts, band and sign."""
    chosen = hashlib.sha256()
    flips = (
        ctf_terms(particles.ctf).numpy()
        if particles.phase_flipped and particles.ctf is not None
        else np.empty(0)
    )
    for column in (particles.stack_of, particles.image_in_stack, particles.shifts.numpy(), flips):
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


def _map_file(
    path: Path, key: dict[str, Any], shape: tuple[int, int]
) -> Float16[Tensor, "particle band"] | None:
    """Map the file if it is of this shape and was made from what the key says.

    The map is private to this process ("c"): PyTorch asks for one that could be written to.
    """
    try:
        before = path.stat()
        if before.st_size != 2 * shape[0] * shape[1]:
            return None
        mapped = torch.from_numpy(np.memmap(path, dtype=np.float16, mode="c", shape=shape))
        fresh = json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) == key
        return mapped if fresh and os.path.samestat(before, path.stat()) else None
    except (OSError, ValueError):
        return None


def _write_vectors(
    path: Path, particles: Particles, band: Band, invert: bool, key: dict[str, Any]
) -> None:
    """One pass over the pixels into the file; nothing without its key, written last, is read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in (path.with_suffix(".json"), path, *_abandoned(path)):
        stale.unlink(missing_ok=True)
    check_room(path, 2 * len(particles) * band.size, "the file of vectors")
    with replacing(path) as temporary, temporary.open("wb") as handle:
        for _, vectors in _half_vectors(particles, band, invert):
            vectors.numpy().tofile(handle)
        handle.flush()
        os.fsync(handle.fileno())  # on the disk before its key is
    write_json(path.with_suffix(".json"), key)


def _abandoned(path: Path) -> list[Path]:
    """What a pass that was killed has left: a living one writes to its file all the time."""
    hour_ago = time.time() - 3600
    return [
        partial
        for partial in path.parent.glob(f".{path.stem}.*.partial{path.suffix}")
        if partial.stat().st_mtime < hour_ago
    ]


def available_memory(system: Path = Path("/")) -> int:
    """Bytes of memory that are free, or the fewer that a container or a batch job allows.

    `system` is the root of the file system.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _lines(system / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    groups = [
        Path(line.removeprefix("0::/"))
        for line in _lines(system / "proc/self/cgroup")
        if line.startswith("0::/")
    ]
    for folder in [Path("."), *(part for group in groups for part in (group, *group.parents))]:
        lines = _lines(system / "sys/fs/cgroup" / folder / "memory.max")
        limits += [int(line) for line in lines if line != "max"]
    return min(limits)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
