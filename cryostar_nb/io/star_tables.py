"""The tables of a STAR file: that of its particles and that of its optics groups.

What the parser reads is compared with the lines of the file, and one table with the other.
"""

import linecache
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import starfile
from jaxtyping import Int

from cryostar_nb.errors import InputError
from cryostar_nb.io.files import check_not_compressed, one_line, refuse
from cryostar_nb.io.star_lines import check_row_lengths, check_tables

SAME = 1e-3  # relative, of two statements of one number
GIVE_REFINED = "give the particles STAR of a refinement"


def particles_and_optics(path: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The particle table, and the optics table where there is one."""
    linecache.clearcache()  # starfile reads through it, and leaves unreadable files there
    try:
        # pandas warns of columns that hold text and numbers; `numbers` names the row.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            blocks = starfile.read(path, always_dict=True)
    except Exception as error:  # of many types: of pandas and of starfile's parser
        _check_plain(path)
        check_tables(path, {})
        check_row_lengths(path)
        problem = f"cannot be read as a STAR file ({one_line(error)})"
        raise InputError(problem, file=path, remedy="write it again") from error
    _check_plain(path)
    rows = {name: len(block) for name, block in blocks.items() if isinstance(block, pd.DataFrame)}
    check_tables(path, rows)
    tables: dict[str, pd.DataFrame] = {}
    for name, block in blocks.items():
        if isinstance(block, dict) and "rlnOpticsGroup" in block and "rlnImageName" not in block:
            block = _one_row(path, name, block)
        if isinstance(block, pd.DataFrame):
            tables[name] = block
            for column in block.columns[block.columns.duplicated()][:1]:
                problem = f"the table data_{name} has the column {{value}} twice"
                refuse(path, problem, str(column), "delete one")
        elif "rlnImageName" in block:
            problem = f"the table data_{name} has no line loop_ before its columns"
            refuse(path, problem, None, "add it, or write the file again")
    of_particles = [name for name, table in tables.items() if "rlnImageName" in table.columns]
    if len(of_particles) > 1:
        first, second = of_particles[:2]
        problem = f"has rlnImageName in the tables data_{first} and data_{second}"
        refuse(path, problem, second, "keep one of them")
    particles = tables[of_particles[0]] if of_particles else None
    if particles is None or len(particles) == 0:
        check_row_lengths(path)  # what is not text looks empty to starfile
        problem = "has no table with a column rlnImageName"
        refuse(path, problem, "rlnImageName", GIVE_REFINED)
    if particles.iloc[:, -1].isna().any():  # a short row is filled up in silence
        check_row_lengths(path)
    others = {name: table for name, table in tables.items() if table is not particles}
    groups = {name: table for name, table in others.items() if "rlnOpticsGroup" in table.columns}
    optics = groups.get("optics", next(iter(groups.values()), None))
    return particles.reset_index(drop=True), optics


def _check_plain(path: Path) -> None:
    """Raise InputError for a compressed file; the parser sees no text in it."""
    with path.open("rb") as handle:
        check_not_compressed(path, handle.read(8))


def _one_row(path: Path, name: str, block: dict[str, object]) -> pd.DataFrame:
    """A table without `loop_`, each column with its one value, as RELION reads it.

    Raises InputError where `loop_` was forgotten: then the value is the number of the column.
    """
    if not isinstance(block["rlnOpticsGroup"], int):
        problem = f"the table data_{name} has no line loop_ before its columns"
        refuse(path, problem, None, "add it, or write the file again")
    return pd.DataFrame([block])


def join(path: Path, particles: pd.DataFrame, optics: pd.DataFrame) -> pd.DataFrame:
    """Every particle with the columns of its optics group."""
    column = "rlnOpticsGroup"
    if column not in particles.columns:
        problem = f"the particle table has no column {column} although there is an optics table"
        remedy = "add it, or delete the optics table"
        refuse(path, problem, column, remedy)
    groups = optics[column].tolist()
    for group in optics[column][optics[column].duplicated()].tolist()[:1]:
        problem = "the optics table lists group {value} twice"
        refuse(path, problem, group, "delete one")
    rows = particles[column].map({group: row for row, group in enumerate(groups)})
    for row in np.flatnonzero(rows.isna())[:1].tolist():
        raise InputError(
            f"is of optics group {{value}}, which the optics table lacks (it has {groups})",
            file=path,
            row=row + 1,
            value=particles[column].tolist()[row],
            remedy="add its row",
        )
    _check_both(path, particles, optics, rows.to_numpy(dtype=np.int64))
    shared = optics[[name for name in optics.columns if name not in particles.columns]]
    of_each = shared.iloc[rows.to_numpy(dtype=np.int64)].reset_index(drop=True)
    return pd.concat([particles, of_each], axis=1)


def _check_both(
    path: Path, particles: pd.DataFrame, optics: pd.DataFrame, rows: Int[np.ndarray, " particle"]
) -> None:
    """Raise InputError where the two tables say different things of a particle."""
    for column in (name for name in optics.columns if name in particles.columns):
        of_particle, of_group = particles[column].to_numpy(), optics[column].to_numpy()[rows]
        if of_particle.dtype.kind in "iuf" and of_group.dtype.kind in "iuf":
            same = np.isclose(of_particle, of_group, rtol=SAME, atol=1e-9, equal_nan=True)
        else:
            same = of_particle.astype(str) == of_group.astype(str)
        for row in np.flatnonzero(~same)[:1].tolist():
            raise InputError(
                f"has {column} = {{value}}, and {of_group[row]} in the optics table",
                file=path,
                row=row + 1,
                value=particles[column].tolist()[row],
                remedy="delete the column that is wrong",
            )
