"""MRC files: the sizes that a header states are compared with the file before anything is allocated."""

import io
import math
import warnings
from pathlib import Path

import numpy as np
from mrcfile.mrcinterpreter import MrcInterpreter
from mrcfile.utils import data_dtype_from_header
from numpy.typing import NDArray

from cryostar_nb.errors import InputError

HEADER_BYTES, EXTENSION = 1024, 92  # the header, and where it says how long the extended header is


def open_mrc(path: Path) -> tuple[NDArray[np.generic], np.recarray]:
    """Memory-map what an MRC file holds as (section, row, column), with its header in the byte order of the file.

    Raises InputError for a file that is cut, or of another mode than those of real numbers.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        start = handle.read(HEADER_BYTES)
    if len(start) < HEADER_BYTES:
        raise InputError(
            f"{path}: is not a complete MRC file (it has {size} bytes, its header alone takes 1,024); copy or export it again"
        )
    # mrcfile reads the header, its byte order included, but not what the header says of the sizes of the rest.
    without_extension = start[:EXTENSION] + bytes(4) + start[EXTENSION + 4 :]
    with (
        warnings.catch_warnings()
    ):  # older programs leave out the format's mark "MAP ", which mrcfile only warns of
        warnings.simplefilter("ignore")
        header = MrcInterpreter(
            io.BytesIO(without_extension), permissive=True, header_only=True
        ).header
    try:
        dtype = data_dtype_from_header(header)
    except ValueError:
        dtype = None
    if dtype is None or dtype.kind == "c":
        raise InputError(
            f"{path}: its header has mode {header.mode}, which is not one of a real image (0, 1, 2, 6 and 12 are); export it again, as 32-bit floats"
        )
    shape = tuple(int(header[name]) for name in ("nz", "ny", "nx"))
    extension = int(np.frombuffer(start, header.nsymbt.dtype, count=1, offset=EXTENSION)[0])
    needed = HEADER_BYTES + extension + math.prod(shape) * dtype.itemsize
    if min(shape) < 1 or extension < 0 or needed > size:
        asked = " x ".join(map(str, shape))
        raise InputError(
            f"{path}: is not a complete MRC file (its header asks for {asked} pixels and {needed:,} bytes, the file has {size:,}); copy or export it again"
        )
    return np.memmap(
        path, dtype=dtype, mode="r", offset=HEADER_BYTES + extension, shape=shape
    ), header
