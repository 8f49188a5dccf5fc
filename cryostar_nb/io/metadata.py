"""What a particle file says, whatever its format; each value is checked when it is asked for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from cryostar_nb.aberrations import Aberrations
from cryostar_nb.ctf import CTFParameters
from cryostar_nb.errors import InputError

LARGEST_NUMBER = 1e9  # in any column that is used; a larger one is damage, and would overflow
SAME_SIZE = 0.01  # relative: of two pixel sizes that are said of one image
LARGEST_CS = 20.0  # mm; of microscopes it is below 5
LARGEST_DISTORTION = 0.1  # of a magnification matrix, off the identity
LARGEST_MAGNIFICATION = 0.05  # by which pixel sizes of one file may differ
Optics = dict[str, np.ndarray]  # fields of `Aberrations`, a row for each particle, float64
OPTIONAL = ("phase_shift_deg", "b_factor")  # where a file does not say they are 0, as in RELION


@dataclass(frozen=True)
class ImageNames:
    """Where the images are: the distinct files, and for each particle its file and its place."""

    files: tuple[str, ...]  # as the metadata names them
    file_of: Int[np.ndarray, " particle"]  # index into `files`
    image_in_file: Int[np.ndarray, " particle"]  # 0-based
    unnumbered: frozenset[int] = frozenset()  # files named without the number of an image in them

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

    def optics(self, ctf: CTFParameters) -> Optics:
        """What the file says of fields of `Aberrations`, usual or not."""
        return {}

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

    def sizes(self, given: float | None = None) -> Float[np.ndarray, " particle"]:
        """Pixel size of each image, in Å, checked; `given` overrides those of the file."""
        if given is not None:
            return np.full(len(self), float(given))
        sizes = self.pixel_sizes()
        problem = "has a pixel size of {value} Å"
        good = (sizes >= 0.01) & (sizes <= 1000)
        self.check(good, problem, sizes, "correct it or give --pixel-size")
        if np.allclose(sizes, sizes[0], rtol=1e-4, atol=0):
            return np.full_like(sizes, sizes[0])
        usual = most_common(sizes)
        self.check(
            np.abs(sizes / usual - 1) <= LARGEST_MAGNIFICATION,
            f"{problem}, and most others one of {usual:g} Å",
            sizes,
            f"{self.rescale_remedy}, or choose those of one size (select --optics-group)",
        )
        return sizes

    def pixel_size(self, given: float | None = None) -> float:
        """The pixel size of the band of all images, in Å: the most common one."""
        return most_common(self.sizes(given))

    def ctf(self, sizes: Float[np.ndarray, " particle"] | None = None) -> CTFParameters:
        """CTF parameters of every particle, with its aberrations.

        `sizes` are pixel sizes in Å, which may differ a little: then images are magnified.
        """
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
        cs = values["spherical_aberration_mm"]
        for field, good, remedy in (
            ("voltage_kv", (voltage >= 10) & (voltage < 5000), "give it in kV, for example 300"),
            ("spherical_aberration_mm", np.abs(cs) <= LARGEST_CS, "give it in mm, for example 2.7"),
            ("amplitude_contrast", contrast <= 1, "give a fraction, for example 0.1"),
        ):
            self.check(good, f"has {self.ctf_columns[field]} = {{value}}", values[field], remedy)
        tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in values.items()}
        ctf = CTFParameters(**tensors)
        optics, none = self.optics(ctf), Aberrations.none(len(self))
        if sizes is not None:
            optics["scale"] = most_common(sizes) / sizes
        given = {field: torch.from_numpy(array) for field, array in optics.items()}
        known = {k: v for k, v in given.items() if (v - getattr(none, k)).abs().max() > 1e-9}
        return replace(ctf, aberrations=replace(none, **known)) if known else ctf

    def poses(self, pixel_size: float | None = None, *, ctf: bool = True) -> Poses:
        """Poses and CTFs of every particle, in the order of the file.

        `pixel_size` overrides those of the file.
        """
        rotations, shifts = self.rotations(), self.shifts(pixel_size)
        parameters = self.ctf(self.sizes(pixel_size)) if ctf else None
        return Poses(torch.from_numpy(rotations), torch.from_numpy(shifts), parameters)


def most_common(sizes: Float[np.ndarray, " particle"]) -> float:
    """The most common of some numbers, and of several of these the one that comes first."""
    values, first, counts = np.unique(sizes, return_index=True, return_counts=True)
    return float(values[np.lexsort((first, -counts))[0]])


def _plain(value: Any) -> Any:
    """A value of an array as Python has it."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
