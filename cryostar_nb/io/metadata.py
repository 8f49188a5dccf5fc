"""What a particle file says, whatever its format. Nothing of it is believed before it is asked for and checked, row by row."""

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.errors import InputError
from cryostar_nb.io.particles import Particles, open_stack

LEVELS = 4  # folders above the metadata file that are searched for its images
LARGEST = 1e9  # of any number in a column that is used: what is larger was damaged, and would overflow further on
OPTIONAL = ("phase_shift_deg", "b_factor")  # where a file does not say they are 0, as in RELION


@dataclass(frozen=True)
class ImageNames:
    """Where the images are: the distinct files, as the metadata names them, and for each particle its file and its place there."""

    files: tuple[str, ...]
    file_of: Int[np.ndarray, " particle"]  # index into `files`
    image_in_file: Int[np.ndarray, " particle"]  # 0-based


@dataclass(frozen=True)
class Poses:
    """What metadata says of each particle but its image: how it lies, where, and through which lens."""

    rotations: Float[Tensor, "particle 3 3"]
    shifts: Float[Tensor, "particle 2"]  # Å, where the particle sits relative to the box centre
    ctf: CTFParameters | None

    def __len__(self) -> int:
        return len(self.rotations)


class Metadata(ABC):
    """A particle file that has been opened. Each question checks the columns that it needs, and raises InputError where they fail."""

    format: ClassVar[str]
    ctf_columns: dict[
        str, str
    ]  # of every field of CTFParameters; a name that ends in _rad is in radians
    pose_remedy: str
    ctf_remedy: str = "run CTF estimation, or give a file that has it"
    rescale_remedy: ClassVar[str]
    not_modelled: ClassVar[
        tuple[str, ...]
    ] = ()  # columns that change the images in a way this package does not follow

    def __init__(self, path: Path) -> None:
        self.path = path
        self._used: set[str] = set()

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of all columns."""

    @abstractmethod
    def raw(self, column: str) -> Shaped[np.ndarray, " particle *value"]:
        """A column as it is in the file."""

    @abstractmethod
    def image_names(self) -> ImageNames:
        """Where the images are."""

    @abstractmethod
    def pixel_sizes(self) -> Float[np.ndarray, " particle"]:
        """Pixel size of each particle's image, in Å, as the file has it."""

    @abstractmethod
    def rotations(self) -> Float[np.ndarray, "particle 3 3"]:
        """Pose matrices."""

    @abstractmethod
    def shifts(self, pixel_size: float | None) -> Float[np.ndarray, "particle 2"]:
        """Where each particle sits relative to the box centre, in Å. Pixels are of `pixel_size`, or of the size in the file."""

    @abstractmethod
    def box_sizes(self) -> Float[np.ndarray, " particle"] | None:
        """Box of each particle's image, in pixels, where the file says."""

    def optics_groups(self) -> Shaped[np.ndarray, " particle"]:
        """Label of each particle's optics group."""
        return np.ones(len(self), dtype=np.int64)

    def phase_flipped(self) -> bool:
        """Whether the file says that its images were multiplied by the sign of their CTF."""
        return False

    @property
    def used(self) -> tuple[str, ...]:
        """Columns that have been read so far."""
        return tuple(column for column in self.columns if column in self._used)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Columns that have not been read so far."""
        return tuple(column for column in self.columns if column not in self._used)

    def column(self, column: str) -> Shaped[np.ndarray, " particle *value"]:
        """A column as it is, noted as used."""
        self._used.add(column)
        return self.raw(column)

    def numbers(self, column: str) -> Float[np.ndarray, " particle *value"]:
        """A column as float64 numbers, finite and of a size that metadata has."""
        raw = self.column(column)
        if raw.dtype.kind in "fiub":
            values = np.array(raw, dtype=np.float64)
        else:
            values = np.array(
                pd.to_numeric(pd.Series(raw.ravel()), errors="coerce"), dtype=np.float64
            ).reshape(raw.shape)
        bad = np.argwhere(~(np.abs(values) < LARGEST))
        if len(bad):
            value = raw[tuple(bad[0])]
            shown = f"{value:g}" if isinstance(value, float | np.floating) else repr(value)
            raise InputError(
                f"{self.path}: particle {bad[0][0] + 1} has {column} = {shown}; give a finite number"
            )
        return values

    def require(self, column: str, purpose: str, remedy: str) -> None:
        """Raise InputError where there is no such column."""
        if column not in self.columns:
            raise InputError(
                f"{self.path}: has no column {column}, which {purpose} needs; {remedy}"
            )

    def pixel_size(self, given: float | None = None) -> float:
        """The one pixel size of all images, in Å; `given` overrides the file's."""
        if given is not None:
            if not 0.01 <= given <= 1000:
                raise InputError(
                    f"pixel size = {given:g} Å was given; give the edge of a pixel in Å (--pixel-size)"
                )
            return float(given)
        values = self.pixel_sizes()
        bad = np.flatnonzero(~((values >= 0.01) & (values <= 1000)))
        if len(bad):
            raise InputError(
                f"{self.path}: particle {bad[0] + 1} has a pixel size of {values[bad[0]]:g} Å; correct it or give --pixel-size"
            )
        other = np.flatnonzero(~np.isclose(values, values[0], rtol=1e-4, atol=0))
        if len(other):
            raise InputError(
                f"{self.path}: particle 1 has a pixel size of {values[0]:g} Å and particle {other[0] + 1} of {values[other[0]]:g} Å; {self.rescale_remedy}, or choose those of one size (cryostar-nb select --optics-group)"
            )
        return float(values[0])

    def ctf(self) -> CTFParameters:
        """CTF parameters of every particle."""
        values = {}
        for field, column in self.ctf_columns.items():
            if column in self.columns:
                values[field] = (
                    np.rad2deg(self.numbers(column))
                    if column.endswith("_rad")
                    else self.numbers(column)
                )
            elif field in OPTIONAL:
                values[field] = np.zeros(len(self))
            else:
                self.require(column, "the CTF", self.ctf_remedy)
        limits = {
            "voltage_kv": (0 < values["voltage_kv"]) & (values["voltage_kv"] < 5000),
            "amplitude_contrast": np.abs(values["amplitude_contrast"]) <= 1,
        }
        remedies = {
            "voltage_kv": "give the voltage in kV, for example 300",
            "amplitude_contrast": "give a fraction, for example 0.1",
        }
        for field, good in limits.items():
            if not good.all():
                row = int(np.argmin(good))
                raise InputError(
                    f"{self.path}: particle {row + 1} has {self.ctf_columns[field]} = {values[field][row]:g}; {remedies[field]}"
                )
        return CTFParameters(
            **{
                field.name: torch.from_numpy(values[field.name])
                for field in dataclasses.fields(CTFParameters)
            }
        )

    def poses(self, pixel_size: float | None = None, *, ctf: bool = True) -> Poses:
        """Poses and CTFs of every particle, in the order of the file."""
        rotations, shifts = (
            torch.from_numpy(self.rotations()),
            torch.from_numpy(self.shifts(pixel_size)),
        )
        return Poses(rotations, shifts, self.ctf() if ctf else None)


def project_root(path: Path, names: ImageNames) -> Path:
    """The folder that image names start from: of the file's own and the few above it, the nearest that has the first image."""
    above = path.absolute().parent.parents[:LEVELS]
    for folder in (path.parent, *(parent for parent in above if parent != parent.parent)):
        if os.path.isfile(folder / names.files[0]):
            return folder
    return path.parent


def locate(
    source: Metadata, names: ImageNames, root: Path, *, allow_outside: bool = False
) -> tuple[Path, ...]:
    """Paths of the image files. Raises InputError for a name that leads out of `root`, by `..` or from the top, unless allowed.

    Links inside the root are followed: whoever made them may read what they lead to.
    """
    base = os.path.abspath(root)
    if not os.path.isdir(base):
        raise InputError(
            f"{root}: is no folder; give the folder that the image names of {source.path} start from (--root)"
        )
    for index, name in enumerate(names.files):
        if (
            not allow_outside
            and os.path.commonpath([base, os.path.normpath(os.path.join(base, name))]) != base
        ):
            row = int(np.argmax(names.file_of == index))
            raise InputError(
                f"{source.path}: particle {row + 1} has its image in {name!r}, which leads out of the project root {base}; give the root that holds it (--root), or --allow-outside if you trust the file"
            )
    return tuple(root / name for name in names.files)


def repeated_rows(names: ImageNames, poses: Poses) -> Int[np.ndarray, "repeat 2"]:
    """Particles that are an earlier one again, the same image with the same pose, as pairs (row, earlier row)."""
    image = names.file_of * (int(names.image_in_file.max()) + 1) + names.image_in_file
    _, number, counts = np.unique(image, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[number] > 1)
    if not len(rows):
        return np.empty((0, 2), dtype=np.int64)
    table = np.column_stack(
        [image[rows], poses.rotations.numpy()[rows].reshape(-1, 9), poses.shifts.numpy()[rows]]
    )
    _, first, number = np.unique(table, axis=0, return_index=True, return_inverse=True)
    earlier = first[number.ravel()]
    again = np.flatnonzero(earlier != np.arange(len(rows)))
    return np.column_stack([rows[again], rows[earlier[again]]])


def check_stacks(source: Metadata, names: ImageNames, stacks: Sequence[Path]) -> int:
    """The box size of these stacks. Raises InputError where one is missing, cut, too short, or of another box than it should be."""
    last_of = np.full(len(stacks), -1, dtype=np.int64)
    np.maximum.at(last_of, names.file_of, names.image_in_file)
    boxes = np.empty(len(stacks), dtype=np.int64)
    for index, stack in enumerate(stacks):
        if not os.path.exists(stack):
            row = int(np.argmax(names.file_of == index))
            raise InputError(
                f"{source.path}: particle {row + 1} has its image in {names.files[index]}, and there is no file {stack}; give the folder that this name starts from (--root)"
            )
        data = open_stack(stack)
        boxes[index], last = data.shape[-1], int(last_of[index])
        if last >= len(data):
            row = int(np.flatnonzero((names.file_of == index) & (names.image_in_file == last))[0])
            raise InputError(
                f"{source.path}: particle {row + 1} is image {last + 1} of {stack}, which holds only {len(data)}; the stack is cut or the wrong one"
            )
    if (boxes != boxes[0]).any():
        other = int(np.argmax(boxes != boxes[0]))
        raise InputError(
            f"{source.path}: {stacks[0]} has boxes of {boxes[0]} pixels and {stacks[other]} of {boxes[other]}; extract all with one box"
        )
    declared = source.box_sizes()
    if declared is not None and (declared != boxes[0]).any():
        row = int(np.argmax(declared != boxes[0]))
        raise InputError(
            f"{source.path}: particle {row + 1} is said to have a box of {declared[row]:g} pixels and {stacks[names.file_of[row]]} has one of {boxes[0]}; give the metadata of this stack, for the pixel size is the other's too"
        )
    return int(boxes[0])


def make_particles(
    source: Metadata,
    *,
    root: Path | str | None = None,
    pixel_size: float | None = None,
    ctf: bool = True,
    allow_outside: bool = False,
    phase_flipped: bool = False,
) -> Particles:
    """All that the metadata says, checked, with its images, which stay on disk. Raises InputError for anything missing or impossible."""
    names = source.image_names()
    pixel_size = source.pixel_size(pixel_size)
    poses = source.poses(pixel_size, ctf=ctf)
    flipped = phase_flipped or source.phase_flipped()
    stacks = locate(
        source,
        names,
        Path(root) if root else project_root(source.path, names),
        allow_outside=allow_outside,
    )
    box_size = check_stacks(source, names, stacks)
    repeated = repeated_rows(names, poses)
    if len(repeated):
        row, earlier = repeated[0]
        raise InputError(
            f"{source.path}: particle {row + 1} is particle {earlier + 1} again (image {names.image_in_file[row] + 1} of {names.files[names.file_of[row]]} with the same pose; {len(repeated)} such); keep each once (cryostar-nb select --unique)"
        )
    return Particles(
        source=source.path,
        stacks=stacks,
        stack_of=names.file_of,
        image_in_stack=names.image_in_file,
        box_size=box_size,
        pixel_size=pixel_size,
        rotations=poses.rotations,
        shifts=poses.shifts,
        ctf=poses.ctf,
        phase_flipped=flipped,
        columns_used=source.used,
        columns_ignored=source.ignored,
    )
