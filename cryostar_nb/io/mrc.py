"""MRC files: what a header says is compared with the file before anything is allocated.

A header says twice how its pixels are to be read: by mode and machine stamp, and by the least and
the largest pixel that it states. Sources: MRC2014 (Cheng et al., J. Struct. Biol. 192, 146, 2015),
and for unsigned bytes the page "MRC format" of IMOD's documentation (bio3d.colorado.edu/imod).
"""

import io
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from mrcfile.mrcinterpreter import MrcInterpreter
from mrcfile.utils import data_dtype_from_header
from numpy.typing import NDArray

from cryostar_nb.io.files import check_not_compressed, refuse

HEADER_BYTES = 1024
EXTENSION_AT = 92  # byte of the header that says how long the extended header is
IMOD_AT, IMOD_STAMP = 40, 1146047817  # byte of the header's field extra2; IMOD's flags follow
SIGNED_BYTES, PACKED_BYTES = 1, 16  # flags of mode 0
SECTIONS = 5  # that are compared with the header's range, evenly spread over the file
TOLERANCE = 0.1  # of the range that a header states, by which pixels may leave it
LEAST_SPAN = 0.05  # of that range, which the right reading fills at least
FAINT = 0.005  # of that range; pixels that fill less are told
LARGEST_PIXEL, SMALLEST_PIXEL = 1e20, 1e-30  # floats with swapped bytes go beyond
SMOOTHER = {1: 1.5, 2: 16}  # bytes of an integer: ratio of the steps between neighbours
WRITE_AGAIN = "export it again, as 32-bit floats"


@dataclass(frozen=True)
class _Layout:
    """A header in one byte order, and where it has the pixels."""

    header: np.recarray
    extension: int  # bytes of the extended header

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(self.header[name]) for name in ("nz", "ny", "nx"))

    @cached_property
    def dtype(self) -> np.dtype[Any] | None:
        """None for a mode that is not that of a real image."""
        try:
            dtype = data_dtype_from_header(self.header)
        except ValueError:
            return None
        return None if dtype.kind == "c" else dtype

    @property
    def needed(self) -> int:
        """Bytes of the whole file."""
        size = self.dtype.itemsize if self.dtype else 1
        return HEADER_BYTES + self.extension + math.prod(self.shape) * size

    def fits(self, size: int) -> bool:
        """Whether a file of so many bytes can have this layout."""
        return min(self.shape) >= 1 and self.extension >= 0 and self.needed <= size


def open_mrc(path: Path) -> tuple[NDArray[np.generic], np.recarray]:
    """Memory-map an MRC file as (section, row, column), and return it with its header.

    Bytes are unsigned where the header says so. Raises InputError for a file that is cut or
    compressed, of another mode than those of real numbers, or with a header that says two things.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        start = handle.read(HEADER_BYTES)
    check_not_compressed(path, start)
    if len(start) < HEADER_BYTES:
        _refuse_incomplete(path, size, "its header alone takes 1,024")
    # mrcfile reads the header, its byte order included, but not the sizes that it states.
    without_extension = start[:EXTENSION_AT] + bytes(4) + start[EXTENSION_AT + 4 :]
    with warnings.catch_warnings():  # older programs leave out the mark "MAP "
        warnings.simplefilter("ignore")
        header = MrcInterpreter(
            io.BytesIO(without_extension), permissive=True, header_only=True
        ).header
    # The second order is for a wrong machine stamp: only one of them makes sense of the sizes.
    layouts = [
        _Layout(of, int(np.frombuffer(start, of.nsymbt.dtype, 1, EXTENSION_AT)[0]))
        for of in (header, header.view(header.dtype.newbyteorder()))
    ]
    possible = (one for one in layouts if one.dtype is not None and one.fits(size))
    layout = next(possible, layouts[0])
    dtype, shape, header = layout.dtype, layout.shape, layout.header
    if dtype is None:
        problem = "its header has mode {value}, not that of a real image (0, 1, 2, 6 or 12)"
        refuse(path, problem, int(header.mode), WRITE_AGAIN)
    if not layout.fits(size):
        asked = " x ".join(map(str, shape))
        why = f"its header asks for {asked} pixels and {layout.needed:,} bytes"
        _refuse_incomplete(path, size, why)
    if int(header.mode) == 0 and _unsigned(path, header):
        dtype = np.dtype(np.uint8)
    offset = HEADER_BYTES + layout.extension
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape), header


def _refuse_incomplete(path: Path, size: int, why: str) -> NoReturn:
    problem = f"is not a complete MRC file ({why}, and the file has {size:,} bytes)"
    refuse(path, problem, size, "copy or export it again")


def stated_range(header: np.recarray) -> tuple[float, float] | None:
    """The least and the largest pixel by the header; None where it does not say."""
    low, high, mean = (float(header[name]) for name in ("dmin", "dmax", "dmean"))
    return (low, high) if low < high and low <= mean <= high and math.isfinite(high - low) else None


def imod_flags(header: np.recarray) -> int | None:
    """The flags that IMOD sets; None in a header without its stamp."""
    stamp, flags = np.frombuffer(bytes(header.extra2), header.mode.dtype, 2, IMOD_AT).tolist()
    return flags if stamp == IMOD_STAMP else None


def _unsigned(path: Path, header: np.recarray) -> bool:
    """Whether the bytes of mode 0 are unsigned: by IMOD's flags, and by the range stated.

    In MRC2014 they are signed, in older files unsigned. Raises InputError for a header that says
    both.
    """
    signs: dict[str, bool] = {}
    flags = imod_flags(header)
    if flags is not None:
        if flags & PACKED_BYTES:
            refuse(path, "has two pixels in each byte (IMOD flags {value})", flags, WRITE_AGAIN)
        signs[f"IMOD flags {flags}"] = not flags & SIGNED_BYTES
    low, high = stated_range(header) or (0.0, 0.0)
    if high > np.iinfo(np.int8).max:
        signs[f"a largest pixel of {high:g}"] = True
    if low < 0:
        signs[f"a least pixel of {low:g}"] = False
    if len(set(signs.values())) > 1:
        one, other = (next(text for text in signs if signs[text] is sign) for sign in (True, False))
        problem = f"its header has {one}, as of unsigned bytes, and {other}, as of signed ones"
        refuse(path, problem, None, WRITE_AGAIN)
    return any(signs.values())


def check_pixels(path: Path, pixels: NDArray[Any], header: np.recarray) -> str:
    """Compare some sections of an open file with its header; returns what is to be said, or "".

    Raises InputError where the same bytes, read otherwise, are what the header states: in the other
    byte order, or with the other sign. A range that fits no reading is old, and is only told.
    """
    places = np.linspace(0, len(pixels) - 1, min(SECTIONS, len(pixels))).round().astype(int)
    sample, stated = np.array(pixels[places]), stated_range(header)
    as_read = f"its pixels go from {sample.min():g} to {sample.max():g}"
    in_range = _is_in(sample, stated)
    for words, other in () if in_range and stated else _other_readings(sample):
        instead = f"{as_read}, and with {words} from {other.min():g} to {other.max():g}"
        if not in_range and _is_in(other, stated) and _fills(other, stated):
            why = "its header states {:g} to {:g}".format(*stated) if stated else "no image has"
            refuse(path, f"{instead} ({why})", None, WRITE_AGAIN)
        known = header.mode == 0 and imod_flags(header) is not None
        if _is_smoother(other, sample) and not known:
            problem = f"{instead}, which are smoother, and its header does not say which is meant"
            if sample.itemsize > 1 and not (sample % 256).any():
                return problem  # 8 bits in the upper half of 16, as some detectors write them
            refuse(path, problem, None, WRITE_AGAIN)
    if np.isfinite(sample).all() and not _is_in(sample, None):
        refuse(path, f"{as_read}: no image has such", None, "its mode is wrong: export it again")
    more = path.stat().st_size - getattr(pixels, "offset", 0) - pixels.nbytes
    too_long = f"goes on for {more:,} bytes after the last pixel that its header has"
    told = ""
    if stated and np.isfinite(sample).all() and not (in_range and _fills(sample, stated, FAINT)):
        told = "{}, and its header states {:g} to {:g}".format(as_read, *stated)
    if more and ((told and not in_range) or more % pixels.nbytes == 0):
        why = f" ({told})" if told else ", a multiple of those before"
        refuse(path, too_long + why, more, "its mode or its sizes are wrong: export it again")
    return told or (too_long if more else "")


def _other_readings(sample: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The same bytes with the other sign, and in the other byte order."""
    if sample.dtype.kind in "iu":
        other = "u" if sample.dtype.kind == "i" else "i"
        sign = "unsigned" if other == "u" else "signed"
        yield f"{sign} numbers", sample.view(f"{sample.dtype.str[0]}{other}{sample.itemsize}")
    if sample.itemsize > 1:
        yield "swapped bytes", sample.view(sample.dtype.newbyteorder())


def _is_in(sample: NDArray[Any], stated: tuple[float, float] | None) -> bool:
    """Whether all pixels are in the range that a header states, or such that images have them."""
    with np.errstate(invalid="ignore"):  # signalling NaN, of bytes that are no float
        values = sample.astype(np.float64)
    largest = np.abs(values).max()
    if not (largest < LARGEST_PIXEL and (largest > SMALLEST_PIXEL or largest == 0)):
        return False
    if stated is None:
        return True
    room = TOLERANCE * (stated[1] - stated[0])
    return bool(((values >= stated[0] - room) & (values <= stated[1] + room)).all())


def _fills(
    sample: NDArray[Any], stated: tuple[float, float] | None, part: float = LEAST_SPAN
) -> bool:
    """Whether the pixels vary, by a part of the range that a header states."""
    low, high = stated or (0.0, 0.0)
    with np.errstate(invalid="ignore"):
        span = float(sample.max()) - float(sample.min())
    return span > part * (high - low)


def _is_smoother(other: NDArray[Any], sample: NDArray[Any]) -> bool:
    """Whether integers, read otherwise, are so much smoother that this reading must be right.

    A wrong sign puts a step of 256 between neighbours, and swapped bytes make noise.
    """
    if sample.dtype.kind not in "iu":
        return False
    steps = [np.diff(values.astype(np.float64)).std() for values in (other, sample)]
    return bool(steps[0] * SMOOTHER[sample.itemsize] < steps[1])
