"""cryoDRGN's pickles of poses and CTFs, beside a stack. A pickle is a program: here it can make arrays and plain containers only.

pose.pkl is (rotations (particle, 3, 3), translations (particle, 2)), the latter in fractions of the box with RELION's sign;
or the rotations alone. ctf.pkl is (particle, 9): box, pixel size (Å), defocus U and V (Å), angle (degrees), voltage (kV),
spherical aberration (mm), amplitude contrast, phase shift (degrees).
"""

import io
import math
import pickle
import re
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
from jaxtyping import Float, Shaped

from cryostar_nb.errors import InputError
from cryostar_nb.io.files import existing_file
from cryostar_nb.io.metadata import ImageNames, Metadata
from cryostar_nb.io.particles import open_stack

_CTF = (
    "box",
    "pixel size",
    "defocus U",
    "defocus V",
    "defocus angle",
    "voltage",
    "spherical aberration",
    "amplitude contrast",
    "phase shift",
)
_CTF_FIELDS = (
    "defocus_u",
    "defocus_v",
    "defocus_angle_deg",
    "voltage_kv",
    "spherical_aberration_mm",
    "amplitude_contrast",
    "phase_shift_deg",
)


class _Array:
    """Stands for numpy.ndarray while a pickle is read: it takes the array's bytes and nothing else."""

    def __init__(self, *_: object) -> None:
        self.values: np.ndarray = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, columns_first, content = state
        self.values = _from_bytes(content, dtype, shape, "F" if columns_first else "C")


class _Type:
    """Stands for numpy.dtype: the name of a number type and its byte order."""

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[fiu][1248]|b1", name):
            raise pickle.UnpicklingError(
                f"it holds an array of type {str(name)[:20]!r}, which is not one of numbers"
            )
        self.name, self.order = name, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"


class _Reconstruct:
    """Stands for the function that makes an empty array, to be filled from its bytes."""

    def __new__(cls, *_: object) -> Any:
        return _Array()

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("it changes a function")


class _FromBuffer(_Reconstruct):
    """Stands for the function that makes an array from bytes (pickle protocol 5)."""

    def __new__(cls, content: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
        array = _Array()
        array.values = _from_bytes(content, dtype, shape, order)
        return array


class _Encode(_Reconstruct):
    """Stands for codecs.encode, by which the oldest protocols write bytes."""

    def __new__(cls, text: Any, encoding: Any = "latin1") -> Any:
        return str(text).encode("latin-1")


_ADMITTED = {
    "_reconstruct": _Reconstruct,
    "ndarray": _Array,
    "dtype": _Type,
    "_frombuffer": _FromBuffer,
}


def _from_bytes(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    content = content.encode("latin-1") if isinstance(content, str) else content
    if not (
        isinstance(content, bytes | bytearray)
        and isinstance(dtype, _Type)
        and isinstance(shape, tuple)
        and order in ("C", "F")
    ):
        raise pickle.UnpicklingError("it holds an array of something other than numbers")
    sizes = [int(size) for size in shape]
    kind = np.dtype(dtype.order + dtype.name)
    if (
        min(sizes, default=0) < 0
        or len(sizes) > 4
        or math.prod(sizes) * kind.itemsize != len(content)
    ):
        raise pickle.UnpicklingError(
            f"it holds an array of shape {tuple(sizes)[:4]} and type {kind} in {len(content)} bytes"
        )
    return np.frombuffer(bytes(content), dtype=kind).reshape(sizes, order=order)


class _ArraysOnly(pickle._Unpickler):
    """Python's own unpickler, without anything that could be called. The one in C would make a table as large as a pickle asks for."""

    def load_bytearray8(self: Any) -> None:
        """Read before making room; the original makes as much as the pickle asks for."""
        length = int.from_bytes(self.read(8), "little")
        content = self.read(length)
        if len(content) != length:
            raise pickle.UnpicklingError("it ends in the middle of an array")
        self.append(content)

    dispatch: ClassVar[Any] = pickle._Unpickler.dispatch | {pickle.BYTEARRAY8[0]: load_bytearray8}

    def find_class(self, module: str, name: str) -> Any:
        if module == "_codecs" and name == "encode":
            return _Encode
        if module.split(".")[0] == "numpy" and name in _ADMITTED:
            return _ADMITTED[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}"[:200])

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to something outside itself")


def read_pickle(path: Path | str, what: str) -> Any:
    """Read a pickle that holds arrays of numbers and lists, tuples or dictionaries of them. Raises InputError for anything else."""
    path = existing_file(path, what)

    def unwrap(value: Any, depth: int = 0) -> Any:
        if isinstance(value, _Array):
            return value.values
        if isinstance(value, list | tuple) and depth < 4 and len(value) < 1000:
            return tuple(unwrap(item, depth + 1) for item in value)
        return value

    try:
        return unwrap(_ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load())
    except Exception as error:  # a damaged pickle is a program with errors of many types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path}: cannot be read as a pickle of arrays ({reason}); only NumPy arrays in plain containers are read: save them so"
        ) from error


class PickledFiles(Metadata):
    """A stack whose images come in the order of its poses, with cryoDRGN's pickles."""

    format = "cryoDRGN pickles"
    pose_remedy = "give cryoDRGN's poses (--poses-pkl)"
    ctf_remedy = "give cryoDRGN's CTFs (--ctf-pkl)"
    rescale_remedy = "rescale them to one"

    def __init__(self, stack: Path | str, poses: Path | str | None, ctf: Path | str | None) -> None:
        super().__init__(Path(stack))
        self._count, self._box = open_stack(self.path).shape[:2]
        if poses is None:
            raise InputError(
                f"{self.path}: a stack has no poses; {self.pose_remedy}, or a .star or .cs file of the particles"
            )
        of_ctf = f" in {Path(ctf).name}" if ctf else " of the CTF"
        self._rotations, self._translations = (
            f"{name} in {Path(poses).name}" for name in ("rotations", "translations")
        )
        self._ctf = tuple(name + of_ctf for name in _CTF)
        self.ctf_columns = dict(zip(_CTF_FIELDS, self._ctf[2:], strict=True)) | {
            "b_factor": "B-factor" + of_ctf
        }
        content = read_pickle(poses, "cryoDRGN's poses")
        arrays = content if isinstance(content, tuple) else (content,)
        wanted = [(self._rotations, (3, 3)), (self._translations, (2,))][: max(1, len(arrays))]
        if len(arrays) > 2:
            raise InputError(
                f"{poses}: holds {len(arrays)} things, not rotations and translations; {self.pose_remedy}"
            )
        self._arrays = {
            name: self._shaped(poses, array, shape)
            for array, (name, shape) in zip(arrays, wanted, strict=True)
        }
        if ctf is not None:
            table = self._shaped(ctf, read_pickle(ctf, "cryoDRGN's CTFs"), (len(_CTF),))
            self._arrays |= dict(zip(self._ctf, table.T, strict=True))

    def _shaped(self, path: Path | str, array: Any, shape: tuple[int, ...]) -> np.ndarray:
        """The array if it has a row of this shape for each image."""
        found = array.shape if isinstance(array, np.ndarray) else type(array).__name__
        if found != (self._count, *shape):
            raise InputError(
                f"{path}: holds {found} and not an array of shape {(self._count, *shape)}, a row for each image of {self.path}; give the pickles of this stack"
            )
        return array

    def __len__(self) -> int:
        return self._count

    @property
    def columns(self) -> tuple[str, ...]:
        """What the pickles hold, and where."""
        return tuple(self._arrays)

    def raw(self, column: str) -> Shaped[np.ndarray, " particle *value"]:
        """A column of a pickle."""
        return self._arrays[column]

    def image_names(self) -> ImageNames:
        """Image i is of particle i."""
        return ImageNames(
            (self.path.name,), np.zeros(len(self), dtype=np.int64), np.arange(len(self))
        )

    def pixel_sizes(self) -> Float[np.ndarray, " particle"]:
        """As cryoDRGN has it: the pixels in the pickle are of the box in the pickle, which may have been cropped in Fourier space since."""
        box, size = self._ctf[:2]
        if size not in self.columns:
            raise InputError(
                f"{self.path}: without CTFs there is no pixel size; {self.ctf_remedy}, or --pixel-size, in Å"
            )
        return self.numbers(size) * self.numbers(box) / self._box

    def box_sizes(self) -> None:
        """The pickle's box is that of its pixel size, not of the stack."""

    def rotations(self) -> Float[np.ndarray, "particle 3 3"]:
        """Raises InputError for a matrix that is not a rotation."""
        matrices = self.numbers(self._rotations)
        off = np.abs(matrices @ np.swapaxes(matrices, 1, 2) - np.eye(3)).max(axis=(1, 2))
        bad = np.flatnonzero((off > 1e-3) | (np.linalg.det(matrices) < 0))
        if len(bad):
            raise InputError(
                f"{self.path}: particle {bad[0] + 1} has among {self._rotations} a matrix that is no rotation (off by {off[bad[0]]:.2g}); parse the poses again"
            )
        return matrices

    def shifts(self, pixel_size: float | None) -> Float[np.ndarray, "particle 2"]:
        """The translations have RELION's sign. Without them: 0."""
        if self._translations not in self.columns:
            return np.zeros((len(self), 2))
        translations = self.numbers(self._translations)
        bad = np.flatnonzero(np.abs(translations).max(axis=1) > 1)
        if len(bad):
            x, y = translations[bad[0]]
            raise InputError(
                f"{self.path}: particle {bad[0] + 1} has {self._translations} = ({x:g}, {y:g}); they are fractions of the box, below 1: divide them by the box"
            )
        size = np.broadcast_to(pixel_size or self.pixel_sizes(), (len(self),))
        return -translations * self._box * size[:, None]
