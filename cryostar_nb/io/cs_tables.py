"""The tables of .cs files, and which row of a passthrough file belongs to which of its job's."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from cryostar_nb.errors import InputError
from cryostar_nb.io.files import check_not_compressed, one_line, refuse

LONGEST_HEADER = 100_000  # characters; a table has some dozens of fields
EXPORT_AGAIN = "export the particles again"
GIVE_CS = "give a .cs file of particles"
GIVE_WRITTEN = "give the files that cryoSPARC wrote"


def open_table(path: Path) -> NDArray[Any]:
    """Memory-map a .cs file.

    Raises InputError for one that is cut, holds Python objects, or is no table.
    """
    with path.open("rb") as handle:
        check_not_compressed(path, handle.read(8))
    try:
        table = np.lib.format.open_memmap(path, mode="r", max_header_size=LONGEST_HEADER)  # type: ignore[call-arg]  # numpy's types lack it
    except Exception as error:  # of many types: numpy parses the header as Python literals
        if "Python objects" in str(error):
            problem = "holds Python objects, which could run code when read"
            remedy = f"{EXPORT_AGAIN} from cryoSPARC"
        else:
            problem = f"cannot be read as a .cs file ({one_line(error)})"
            remedy = "copy or export it again"
        raise InputError(problem, file=path, remedy=remedy) from error
    if table.dtype.names is None or table.ndim != 1:
        problem = f"holds an array of type {table.dtype} and shape {{value}}"
        refuse(path, problem, table.shape, GIVE_CS)
    if not len(table):
        refuse(path, "holds no particles", None, GIVE_CS)
    beyond = path.stat().st_size - table.offset - table.nbytes
    if beyond:
        problem = f"goes on for {{value}} bytes after its table of {len(table):,} particles"
        refuse(path, problem, beyond, "it is two files joined, or damaged: export it again")
    return table


def field_names(table: NDArray[Any] | None) -> tuple[str, ...]:
    """The fields of a table, in order; none where there is no table."""
    return () if table is None or table.dtype.names is None else table.dtype.names


def group_of(column: str) -> str:
    """What the names of the fields begin with that a job writes together."""
    return column.partition("/")[0]


def match_rows(
    path: Path, table: NDArray[Any], other_path: Path, other: NDArray[Any]
) -> Int[np.ndarray, " particle"]:
    """For each row of a table the row of the passthrough file with the same uid."""
    for name, rows in ((path, table), (other_path, other)):
        if (
            "uid" not in field_names(rows)
            or rows["uid"].dtype.kind not in "ui"
            or rows["uid"].ndim != 1
        ):
            problem = "has no field uid, which joins a passthrough file"
            refuse(name, problem, "uid", GIVE_WRITTEN)
    uids, first = np.unique(other["uid"], return_index=True)
    if len(uids) != len(other):
        problem = f"has {len(other)} rows and {{value}} uids"
        refuse(other_path, problem, len(uids), GIVE_WRITTEN)
    place = np.minimum(np.searchsorted(uids, table["uid"]), len(uids) - 1)
    for row in np.flatnonzero(uids[place] != table["uid"])[:1].tolist():
        raise InputError(
            f"has uid {{value}}, which {other_path} lacks",
            file=path,
            row=row + 1,
            value=int(table["uid"][row]),
            remedy="give the passthrough file of the same job",
        )
    return first[place]
