"""A stack of particle images with their poses and CTFs, read lazily."""

import dataclasses
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from cryostar_nb.aberrations import Aberrations
from cryostar_nb.ctf import CTFParameters
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import coordinate_axis
from cryostar_nb.io.files import existing_file, refuse
from cryostar_nb.io.mrc import open_mrc


@dataclass(frozen=True)
class Particles:
    """Particle images of one box; pixels are read when `images` asks for them.

    The images may have several pixel sizes, a few percent apart: `pixel_size` is that of the band
    that they share, and `ctf.aberrations` says how each is magnified. Nothing is resampled.
    """

    source: Path  # the metadata file, for messages
    stacks: tuple[Path, ...]  # the distinct image files
    stack_of: Int[np.ndarray, " particle"]  # index into `stacks`
    image_in_stack: Int[np.ndarray, " particle"]  # 0-based
    box_size: int
    pixel_size: float  # Å
    rotations: Float[Tensor, "particle 3 3"]
    shifts: Float[Tensor, "particle 2"]  # Å, where the particle sits relative to the box centre
    ctf: CTFParameters | None  # None: images without a CTF
    phase_flipped: bool = False  # the images were multiplied by the sign of their CTF
    columns_used: tuple[str, ...] = ()  # of the metadata file
    columns_ignored: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.stack_of)

    def __getitem__(
        self, rows: slice | Shaped[np.ndarray, " row"] | Shaped[Tensor, " row"]
    ) -> "Particles":
        """These particles alone, in this order."""
        index = np.arange(len(self))[rows if isinstance(rows, slice) else np.asarray(rows)].copy()
        of_tensors = torch.from_numpy(index)
        return dataclasses.replace(
            self,
            stack_of=self.stack_of[index],
            image_in_stack=self.image_in_stack[index],
            rotations=self.rotations[of_tensors],
            shifts=self.shifts[of_tensors],
            ctf=None if self.ctf is None else self.ctf[of_tensors],
        )

    def images(self, indices: NDArray[np.int64] | slice) -> Float[Tensor, "particle y x"]:
        """The images of these particles as float32, as they are on disk."""
        stack_of, image_in_stack = self.stack_of[indices], self.image_in_stack[indices]
        images = np.empty((len(stack_of), self.box_size, self.box_size), dtype=np.float32)
        for stack in np.unique(stack_of):
            rows = np.flatnonzero(stack_of == stack)
            pixels = open_stack(self.stacks[stack])
            images[rows] = pixels[image_in_stack[rows]]
            _forget_pages(pixels)
        return torch.from_numpy(images)

    @property
    def aberrations(self) -> Aberrations | None:
        """What the CTF's own parameters do not say; None where there is nothing."""
        return None if self.ctf is None else self.ctf.aberrations

    @property
    def views(self) -> Float[Tensor, "particle 3 3"]:
        """What stands for the rotations in the band: they stretch what is magnified."""
        more = self.aberrations
        return self.rotations if more is None else more.views(self.rotations)

    @property
    def band_shifts(self) -> Float[Tensor, "particle 2"]:
        """The shifts in Å of the band: as many pixels as in the image."""
        more = self.aberrations
        return self.shifts if more is None else self.shifts * more.scale[:, None]

    @property
    def pixel_sizes(self) -> Float[Tensor, " particle"]:
        """Pixel size of each image, in Å."""
        sizes = torch.full((len(self),), self.pixel_size, dtype=torch.float64)
        return sizes if self.aberrations is None else sizes / self.aberrations.scale

    def on_band(self, pixel_size: float) -> "Particles":
        """The same particles on a band of another pixel size, in Å, in which they are magnified."""
        ratio = pixel_size / self.pixel_size
        if abs(ratio - 1) < 1e-4 or self.ctf is None:
            return self
        more = self.aberrations or Aberrations.none(len(self))
        more = dataclasses.replace(more, scale=more.scale * ratio)
        ctf = dataclasses.replace(self.ctf, aberrations=more)
        return dataclasses.replace(self, pixel_size=pixel_size, ctf=ctf)

    def stack_names(self, root: Path) -> list[str]:
        """The image files relative to this folder, or absolute where they lie outside it."""
        base, paths = os.path.abspath(root), [os.path.abspath(stack) for stack in self.stacks]
        return [
            os.path.relpath(path, base) if os.path.commonpath([base, path]) == base else path
            for path in paths
        ]

    def refuse(self, row: int, problem: str, value: object, remedy: str) -> NoReturn:
        """Raise InputError for the particle in this row, counted from 0, and name its image."""
        image = f"{self.image_in_stack[row] + 1}@{self.stacks[self.stack_of[row]]}"
        problem = f"(image {image}) {problem}"
        raise InputError(problem, file=self.source, row=row + 1, value=value, remedy=remedy)


def open_stack(path: Path) -> NDArray[np.generic]:
    """Memory-map an MRC image or stack as (image, y, x).

    Raises InputError for a file that is missing, cut or not square.
    """
    existing_file(path, "an MRC stack")
    status = path.stat()
    return _map_stack(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _map_stack(path: Path, _modified: int, _size: int) -> NDArray[np.generic]:
    """Map a stack; one that is written anew is another entry of the cache."""
    pixels, header = open_mrc(path)
    axes = [int(header[name]) or axis for axis, name in enumerate(("mapc", "mapr", "maps"), 1)]
    if axes != [1, 2, 3]:
        remedy = "write the stack with columns along x and rows along y (1, 2, 3)"
        refuse(path, "its header names the axes {value}", axes, remedy)
    if pixels.shape[1] != pixels.shape[2]:
        remedy = "particle images are square"
        refuse(path, "holds an array of shape {value}", pixels.shape, remedy)
    return pixels


def _forget_pages(stack: NDArray[np.generic]) -> None:
    """Let go of the pages that were read; the system still caches them, while memory is free."""
    if isinstance(stack, np.memmap):
        stack._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def batches(count: int, size: int, description: str) -> Iterator[slice]:
    """Slices that cover `count` items in order, with a progress bar where there is a terminal."""
    starts = range(0, count, size)
    for start in tqdm(
        starts, desc=description, unit="batch", disable=None if len(starts) > 1 else True
    ):
        yield slice(start, min(start + size, count))


def background_mask(box_size: int) -> Tensor:
    """True for the pixels outside the circle that touches the box, where there is only noise."""
    axis = coordinate_axis(box_size, 1.0)
    return (axis[:, None].square() + axis.square()) > (box_size / 2) ** 2
