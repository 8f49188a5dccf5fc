"""cryoDRGN's pickles of poses and CTFs, beside a stack.

pose.pkl is (rotations (particle, 3, 3), translations (particle, 2)), the latter in fractions of the
box with RELION's sign; or the rotations alone. ctf.pkl is (particle, 9): box, pixel size (Å),
defocus U and V (Å), angle (degrees), voltage (kV), spherical aberration (mm), amplitude contrast,
phase shift (degrees).

A pickle is a program; here it can make arrays of numbers and plain containers only.
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
from cryostar_nb.io.files import existing_file, one_line, refuse
from cryostar_nb.io.metadata import ImageNames, Metadata
from cryostar_nb.io.particles import open_stack

_CTF = {  # columns of ctf.pkl: what they are, and the fields of CTFParameters
    "box": None,
    "pixel size": None,
    "defocus U": "defocus_u",
    "defocus V": "defocus_v",
    "defocus angle": "defocus_angle_deg",
    "voltage": "voltage_kv",
    "spherical aberration": "spherical_aberration_mm",
    "amplitude contrast": "amplitude_contrast",
    "phase shift": "phase_shift_deg",
}


class _Array:
    """Stands for numpy.ndarray while a pickle is read: it takes the array's bytes alone."""

    def __init__(self, *_: object) -> None:
        self.values: np.ndarray = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, columns_first, content = state
        self.values = _from_bytes(content, dtype, shape, "F" if columns_first else "C")


class _Type:
    """Stands for numpy.dtype: the name of a number type and its byte order."""

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[fiu][1248]|b1", name):
            kind = repr(str(name)[:20])
            raise pickle.UnpicklingError(f"it holds an array of type {kind}, not of numbers")
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


_ADMITTED = {"_reconstruct": _Reconstruct, "_frombuffer": _FromBuffer}
_ADMITTED |= {"ndarray": _Array, "dtype": _Type}


def _from_bytes(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    content = content.encode("latin-1") if isinstance(content, str) else content
    known = isinstance(content, bytes | bytearray) and isinstance(dtype, _Type)
    if not (known and isinstance(shape, tuple) and order in ("C", "F")):
        raise pickle.UnpicklingError("it holds an array of something other than numbers")
    sizes, kind = [int(size) for size in shape], np.dtype(dtype.order + dtype.name)
    possible = min(sizes, default=0) >= 0 and len(sizes) <= 4
    if not possible or math.prod(sizes) * kind.itemsize != len(content):
        array = f"an array of shape {tuple(sizes)[:4]} and type {kind}"
        raise pickle.UnpicklingError(f"it holds {array} in {len(content)} bytes")
    return np.frombuffer(bytes(content), dtype=kind).reshape(sizes, order=order)


class _ArraysOnly(pickle._Unpickler):
    """Python's own unpickler, without anything that could be called.

    The one in C would make a table as large as a pickle asks for.
    """

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
    """Read a pickle of arrays of numbers, or of lists, tuples or dictionaries of them.

    Raises InputError for anything else.
    """
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
        problem = f"cannot be read as a pickle of arrays ({one_line(error)})"
        remedy = "only NumPy arrays in plain containers are read: save them so"
        raise InputError(problem, file=path, remedy=remedy) from error


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
            remedy = f"{self.pose_remedy}, or a .star or .cs file of the particles"
            refuse(self.path, "a stack has no poses", None, remedy)
        of_ctf = f" in {Path(ctf).name}" if ctf else " of the CTF"
        of_poses = f" in {Path(poses).name}"
        self._rotations, self._translations = f"rotations{of_poses}", f"translations{of_poses}"
        self._ctf = tuple(name + of_ctf for name in _CTF)
        self.ctf_columns = {field: name + of_ctf for name, field in _CTF.items() if field}
        self.ctf_columns["b_factor"] = "B-factor" + of_ctf
        content = read_pickle(poses, "cryoDRGN's poses")
        arrays = content if isinstance(content, tuple) else (content,)
        if len(arrays) not in (1, 2):
            problem = "holds {value} things, not rotations and translations"
            refuse(Path(poses), problem, len(arrays), self.pose_remedy)
        self._arrays = {self._rotations: self._shaped(poses, arrays[0], 3, 3)}
        if len(arrays) == 2:
            self._arrays[self._translations] = self._shaped(poses, arrays[1], 2)
        if ctf is not None:
            table = self._shaped(ctf, read_pickle(ctf, "cryoDRGN's CTFs"), len(_CTF))
            self._arrays |= dict(zip(self._ctf, table.T, strict=True))

    def _shaped(self, path: Path | str, array: Any, *shape: int) -> np.ndarray:
        """The array if it has a row of this shape for each image."""
        shape = (self._count, *shape)
        actual = array.shape if isinstance(array, np.ndarray) else type(array).__name__
        if actual != shape:
            problem = f"holds {{value}} and not an array of shape {shape}, a row for each image of"
            remedy = "give the pickles of this stack"
            refuse(Path(path), f"{problem} {self.path}", actual, remedy)
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
        first_stack = np.zeros(len(self), dtype=np.int64)
        return ImageNames((self.path.name,), first_stack, np.arange(len(self)))

    def pixel_sizes(self) -> Float[np.ndarray, " particle"]:
        """The pickle's pixels belong to its box, which may have been cropped in Fourier space."""
        box, size = self._ctf[:2]
        if size not in self.columns:
            remedy = f"{self.ctf_remedy}, or --pixel-size, in Å"
            refuse(self.path, "without CTFs there is no pixel size", None, remedy)
        return self.numbers(size) * self.numbers(box) / self._box

    def box_sizes(self) -> None:
        """The pickle's box is that of its pixel size, not of the stack."""

    def rotations(self) -> Float[np.ndarray, "particle 3 3"]:
        """Raises InputError for a matrix that is not a rotation."""
        matrices = self.numbers(self._rotations)
        off = np.abs(matrices @ np.swapaxes(matrices, 1, 2) - np.eye(3)).max(axis=(1, 2))
        proper = (off <= 1e-3) & (np.linalg.det(matrices) >= 0)
        problem = f"has among {self._rotations} a matrix that is no rotation (off by {{value}})"
        self.check(proper, problem, off, "parse the poses again")
        return matrices

    def shifts(self, pixel_size: float | None) -> Float[np.ndarray, "particle 2"]:
        """The translations have RELION's sign. Without them: 0."""
        if self._translations not in self.columns:
            return np.zeros((len(self), 2))
        translations = self.numbers(self._translations)
        inside = np.abs(translations).max(axis=1) <= 1
        remedy = "they are fractions of the box, below 1: divide them by the box"
        self.check(inside, f"has {self._translations} = {{value}}", translations, remedy)
        size = np.broadcast_to(pixel_size or self.pixel_sizes(), (len(self),))
        return -translations * self._box * size[:, None]
