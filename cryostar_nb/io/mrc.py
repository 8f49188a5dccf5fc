"""MRC files: the sizes in a header are compared with the file before anything is allocated."""

import io
import math
import warnings
from pathlib import Path
from typing import NoReturn

import numpy as np
from mrcfile.mrcinterpreter import MrcInterpreter
from mrcfile.utils import data_dtype_from_header
from numpy.typing import NDArray

from cryostar_nb.io.files import refuse

HEADER_BYTES = 1024
EXTENSION_AT = 92  # byte of the header that says how long the extended header is


def open_mrc(path: Path) -> tuple[NDArray[np.generic], np.recarray]:
    """Memory-map an MRC file as (section, row, column), and return it with its header.

    Raises InputError for a file that is cut, or of another mode than those of real numbers.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        start = handle.read(HEADER_BYTES)
    if len(start) < HEADER_BYTES:
        _refuse_incomplete(path, size, "its header alone takes 1,024")
    # mrcfile reads the header, its byte order included, but not the sizes that it states.
    without_extension = start[:EXTENSION_AT] + bytes(4) + start[EXTENSION_AT + 4 :]
    with warnings.catch_warnings():  # older programs leave out the mark "MAP "
        warnings.simplefilter("ignore")
        header = MrcInterpreter(
            io.BytesIO(without_extension), permissive=True, header_only=True
        ).header
    try:
        dtype = data_dtype_from_header(header)
    except ValueError:
        dtype = None
    if dtype is None or dtype.kind == "c":
        problem = "its header has mode {value}, not that of a real image (0, 1, 2, 6 or 12)"
        refuse(path, problem, int(header.mode), "export it again, as 32-bit floats")
    shape = tuple(int(header[name]) for name in ("nz", "ny", "nx"))
    stated = np.frombuffer(start, header.nsymbt.dtype, count=1, offset=EXTENSION_AT)
    extension = int(stated[0])
    needed = HEADER_BYTES + extension + math.prod(shape) * dtype.itemsize
    if min(shape) < 1 or extension < 0 or needed > size:
        asked = " x ".join(map(str, shape))
        _refuse_incomplete(path, size, f"its header asks for {asked} pixels and {needed:,} bytes")
    offset = HEADER_BYTES + extension
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape), header


def _refuse_incomplete(path: Path, size: int, why: str) -> NoReturn:
    problem = f"is not a complete MRC file ({why}, and the file has {size:,} bytes)"
    refuse(path, problem, size, "copy or export it again")
