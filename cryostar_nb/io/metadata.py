"""What a particle file says, whatever its format; each value is checked when it is asked for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.errors import InputError

LARGEST_NUMBER = 1e9  # in any column that is used; a larger one is damage, and would overflow
OPTIONAL = ("phase_shift_deg", "b_factor")  # where a file does not say they are 0, as in RELION


@dataclass(frozen=True)
class ImageNames:
    """Where the images are: the distinct files, and for each particle its file and its place."""

    files: tuple[str, ...]  # as the metadata names them
    file_of: Int[np.ndarray, " particle"]  # index into `files`
    image_in_file: Int[np.ndarray, " particle"]  # 0-based

    def first_row(self, file: int) -> int:
        """The first particle of the file with this index."""
        return int(np.argmax(self.file_of == file))


@dataclass(frozen=True)
class Poses:
    """What metadata says of each particle but its image."""

    rotations: Float[Tensor, "particle 3 3"]
    shifts: Float[Tensor, "particle 2"]  # Å, where the particle sits relative to the box centre
    ctf: CTFParameters | None

    def __len__(self) -> int:
        return len(self.rotations)


class Metadata(ABC):
    """An open particle file. Each question raises InputError where the columns it needs fail."""

    format: ClassVar[str]
    # the column of every field of CTFParameters; a name that ends in _rad is in radians
    ctf_columns: dict[str, str]
    pose_remedy: str
    ctf_remedy: str = "run CTF estimation, or give a file that has it"
    rescale_remedy: ClassVar[str]
    # columns that change the images in a way this package does not model
    not_modelled: ClassVar[tuple[str, ...]] = ()

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
        """Where each particle sits relative to the box centre, in Å.

        Shifts in pixels are of `pixel_size`, or else of the size in the file.
        """

    @abstractmethod
    def box_sizes(self) -> Float[np.ndarray, " particle"] | None:
        """Box of each particle's image, in pixels, where the file says."""

    def optics_groups(self) -> Shaped[np.ndarray, " particle"]:
        """Label of each particle's optics group."""
        return np.ones(len(self), dtype=np.int64)

    def phase_flipped(self) -> bool:
        """Whether the file says that its images were multiplied by the sign of their CTF."""
        return False

    def notes(self) -> list[str]:
        """What is right to do with this file and yet worth knowing, in sentences."""
        return []

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
            flat = pd.to_numeric(pd.Series(raw.ravel()), errors="coerce")
            values = np.array(flat, dtype=np.float64).reshape(raw.shape)
        for place in np.argwhere(~(np.abs(values) < LARGEST_NUMBER))[:1]:
            value = _plain(raw[tuple(place)])
            shown = "{value}" if isinstance(value, float) else repr(value)
            problem = f"has {column} = {shown}"
            self.refuse(int(place[0]), problem, value, "give a finite number")
        return values

    def refuse(self, row: int, problem: str, value: object, remedy: str) -> NoReturn:
        """Raise InputError for the particle in this row, counted from 0."""
        raise InputError(problem, file=self.path, row=row + 1, value=_plain(value), remedy=remedy)

    def check(
        self,
        good: Bool[np.ndarray, " particle"],
        problem: str,
        values: Shaped[np.ndarray, " particle *value"],
        remedy: str,
    ) -> None:
        """Raise InputError, with its value, for the first particle that is not good."""
        if not good.all():
            row = int(np.argmin(good))
            self.refuse(row, problem, values[row], remedy)

    def require(self, column: str, purpose: str, remedy: str) -> None:
        """Raise InputError where there is no such column."""
        if column not in self.columns:
            problem = f"has no column {column}, which {purpose} needs"
            raise InputError(problem, file=self.path, value=column, remedy=remedy)

    def pixel_size(self, given: float | None = None) -> float:
        """The one pixel size of all images, in Å; `given` overrides the file's."""
        if given is not None:
            return float(given)
        sizes = self.pixel_sizes()
        problem = "has a pixel size of {value} Å"
        good = (sizes >= 0.01) & (sizes <= 1000)
        self.check(good, problem, sizes, "correct it or give --pixel-size")
        remedy = f"{self.rescale_remedy}, or choose those of one size"
        self.check(
            np.isclose(sizes, sizes[0], rtol=1e-4, atol=0),
            f"{problem}, and particle 1 of {sizes[0]:g} Å",
            sizes,
            f"{remedy} (cryostar-nb select --optics-group)",
        )
        return float(sizes[0])

    def ctf(self) -> CTFParameters:
        """CTF parameters of every particle."""
        values: dict[str, np.ndarray] = {}
        for field, column in self.ctf_columns.items():
            if column in self.columns:
                numbers = self.numbers(column)
                values[field] = np.rad2deg(numbers) if column.endswith("_rad") else numbers
            elif field in OPTIONAL:
                values[field] = np.zeros(len(self))
            else:
                self.require(column, "the CTF", self.ctf_remedy)
        voltage, contrast = values["voltage_kv"], np.abs(values["amplitude_contrast"])
        for field, good, remedy in (
            ("voltage_kv", (voltage > 0) & (voltage < 5000), "give it in kV, for example 300"),
            ("amplitude_contrast", contrast <= 1, "give a fraction, for example 0.1"),
        ):
            self.check(good, f"has {self.ctf_columns[field]} = {{value}}", values[field], remedy)
        return CTFParameters(**{field: torch.from_numpy(array) for field, array in values.items()})

    def poses(self, pixel_size: float | None = None, *, ctf: bool = True) -> Poses:
        """Poses and CTFs of every particle, in the order of the file."""
        rotations, shifts = self.rotations(), self.shifts(pixel_size)
        return Poses(
            torch.from_numpy(rotations), torch.from_numpy(shifts), self.ctf() if ctf else None
        )


def _plain(value: Any) -> Any:
    """A value of an array as Python has it."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
