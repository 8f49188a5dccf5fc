"""The particles as training reads them: one short vector each, kept in memory or in a file, at half precision.

The background noise of a particle has unit variance in every element of its vector, and float16 rounds a value by at most
one part in 2,048: the rounding is thousands of times smaller than the noise, and the vectors take half the room.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16, Int
from torch import Tensor

from cryostar_nb.ctf import ctf_signs, ctf_terms
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band, shift_band
from cryostar_nb.io.files import replacing, write_json
from cryostar_nb.io.particles import Particles, background_mask, batches

PIXELS_AT_ONCE = 2**20  # of the images in memory during the pass, which takes about 30 MB for them
BYTES_AT_ONCE = 2**22  # of a vector file, in one read
FORMAT = 1  # of the vector file; another number makes every older file stale


def load_band_vectors(
    particles: Particles, band: Band, *, invert: bool = False
) -> Float[Tensor, "particle band"]:
    """Read every image once and return what training needs of it: its band vector, normalised and centred, as float32.

    The background's standard deviation becomes 1, so that white noise has unit variance in every element; the mean is not
    part of a band; the particle is moved to the centre of its box; `invert` turns dark protein bright. Phases that were flipped
    are flipped back, so that every image is one times its CTF. Raises InputError for a pixel that is not finite and for an image
    without contrast.
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
    for rows in batches(
        len(particles), max(1, PIXELS_AT_ONCE // particles.box_size**2), "reading particles"
    ):
        images = particles.images(rows)
        spread = images[:, outside].std(dim=-1)
        for bad in (
            torch.nonzero(~(torch.isfinite(images).all(-1).all(-1) & (spread > 0)))
            .flatten()
            .tolist()
        ):
            odd = images[bad][~torch.isfinite(images[bad])].flatten().tolist()
            fault = (
                f"a pixel is {odd[0]}"
                if odd
                else "every background pixel has the same value (masked images cannot be used)"
            )
            raise InputError(
                f"{particles.label(rows.start + bad)}: {fault}; remove the particle from the file"
            )
        encoded = band.encode(images) / (-spread if invert else spread)[:, None]
        if particles.phase_flipped and particles.ctf is not None:
            encoded *= band.per_coefficient(ctf_signs(band.frequencies, particles.ctf[rows])).to(
                encoded
            )
        yield rows, shift_band(encoded, -particles.shifts[rows].float(), band)


def _half_vectors(
    particles: Particles, band: Band, invert: bool
) -> Iterator[tuple[slice, Float16[Tensor, "batch band"]]]:
    """The same at half precision. Raises InputError for a particle that float16 cannot hold."""
    for rows, vectors in _band_vectors(particles, band, invert):
        half = vectors.half()
        for bad in torch.nonzero(~torch.isfinite(half).all(-1)).flatten().tolist():
            raise InputError(
                f"{particles.label(rows.start + bad)}: an element is {vectors[bad].abs().max():.3g} times its background noise, beyond half precision (65,504); the background outside the circle is empty or masked: give the images as they were extracted"
            )
        yield rows, half


@dataclass(frozen=True)
class VectorFile:
    """Vectors that stay on disk: (particle, band) float16, row after row. `read` is explicit, so that memory stays bounded."""

    path: Path
    count: int  # particles
    size: int  # elements of a vector
    window: int  # particles that training holds in memory at a time, twice
    modified: int  # st_mtime_ns of the file, to notice another run that writes it anew

    def __len__(self) -> int:
        return self.count

    def read(
        self, rows: Int[Tensor, " row"], stop: threading.Event | None = None
    ) -> Float16[Tensor, "row band"]:
        """These rows, given in ascending order, by long sequential reads; what lies in small gaps is read and dropped.

        `stop`, set by another thread, makes it return at once, with rows that were not read. Raises InputError when the
        file is not the one that was opened.
        """
        wanted = rows.numpy()
        vectors = np.empty((len(wanted), self.size), dtype=np.float16)
        rows_at_once = max(1, BYTES_AT_ONCE // (2 * self.size))
        if not self.path.exists() or self.path.stat().st_mtime_ns != self.modified:
            raise InputError(
                f"{self.path}: was written anew while it was in use; give every run its own folder for the cache"
            )
        with self.path.open("rb", buffering=0) as handle:
            done = 0
            while done < len(wanted) and not (stop and stop.is_set()):
                first = int(wanted[done])
                end = int(np.searchsorted(wanted, first + rows_at_once))
                here = wanted[done:end] - first
                handle.seek(first * self.size * 2)
                stretch = np.fromfile(
                    handle, dtype=np.float16, count=(int(here[-1]) + 1) * self.size
                )
                np.take(stretch.reshape(-1, self.size), here, axis=0, out=vectors[done:end])
                done = end
        return torch.from_numpy(vectors)

    def split(self, size: int) -> Iterator[Float16[Tensor, "row band"]]:
        """All rows in order, `size` at a time, as `Tensor.split` does it."""
        for rows in torch.arange(self.count).split(size):
            yield self.read(rows)


def open_vectors(
    particles: Particles,
    band: Band,
    *,
    invert: bool = False,
    memory_gb: float | None = None,
    cache: Path | None = None,
    spill: Path,
) -> Float16[Tensor, "particle band"] | VectorFile:
    """The vectors of these particles: in memory if they fit there, in a file otherwise.

    `memory_gb` is what they may take of it, in GB; none means half of what is free. `cache` is a folder to keep them in: a
    later call reads them there, instead of the pixels, unless anything they depend on has changed. `spill` is the folder for
    vectors that do not fit, when there is no cache. Raises InputError for what `load_band_vectors` does, for a particle that
    half precision cannot hold, and for a disk without room.
    """
    if memory_gb is not None and not memory_gb > 0:
        raise InputError(
            f"memory_gb = {memory_gb:g}; give a positive number of GB, or leave it out"
        )
    limit = available_memory() // 2 if memory_gb is None else int(memory_gb * 1e9)
    needed = len(particles) * band.size * 2  # bytes
    if needed <= limit and cache is None:
        vectors = torch.empty(len(particles), band.size, dtype=torch.float16)
        for rows, batch in _half_vectors(particles, band, invert):
            vectors[rows] = batch
        return vectors
    path = (spill if cache is None else cache) / "vectors.f16"
    key = cache_key(particles, band, invert)
    if not _is_fresh(path, key, needed):
        _write_vectors(path, particles, band, invert, key, needed)
    # A power of two, because the order of training depends on it and free memory is never the same twice.
    window = 2 ** (max(1, limit // (8 * band.size)).bit_length() - 1)
    file = VectorFile(path, len(particles), band.size, window, path.stat().st_mtime_ns)
    if needed <= limit:
        return file.read(torch.arange(len(file)))
    return file


def cache_key(particles: Particles, band: Band, invert: bool) -> dict[str, Any]:
    """Everything that the vectors depend on: files by size and time, which images of them and how shifted, band and sign."""
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


def _is_fresh(path: Path, key: dict[str, Any], size: int) -> bool:
    """Whether the file is whole and was made from what the key says."""
    try:
        return (
            path.stat().st_size == size
            and json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) == key
        )
    except (OSError, ValueError):
        return False


def _write_vectors(
    path: Path, particles: Particles, band: Band, invert: bool, key: dict[str, Any], size: int
) -> None:
    """One pass over the pixels into the file. Its key is written last, and nothing without its key is ever read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in (path.with_suffix(".json"), path, *_abandoned(path)):
        stale.unlink(missing_ok=True)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise InputError(
            f"{path.parent}: the vectors of {len(particles):,} particles take {size / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free; make room, or give another folder for the cache"
        )
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
    """Bytes of memory that are free, or that a container or a batch job allows, where that is less. `system` is the file system's root."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _lines(system / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    groups = [
        Path(line.removeprefix("0::/"))
        for line in _lines(system / "proc/self/cgroup")
        if line.startswith("0::/")
    ]
    for group in [Path("."), *(folder for own in groups for folder in (own, *own.parents))]:
        limits += [
            int(line)
            for line in _lines(system / "sys/fs/cgroup" / group / "memory.max")
            if line != "max"
        ]
    return min(limits)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
