"""The lines of a STAR file: which row has a wrong length, and a copy with some of the particles."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Int

from cryostar_nb.errors import InputError
from cryostar_nb.io.files import refuse, replacing

_VALUE = re.compile(r"""'[^']*'|"[^"]*"|\S+""")  # a quoted one may have blanks


def _text(path: Path) -> list[str]:
    """All lines of a file, with their ends. Raises InputError where it is no text."""
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            return list(handle)
    except UnicodeDecodeError as error:
        problem = f"is not text ({error.reason} at byte {error.start})"
        remedy = "save it as UTF-8, or give a STAR file"
        raise InputError(problem, file=path, value=error.start, remedy=remedy) from error


def particle_lines(path: Path) -> tuple[list[str], list[str], list[int]]:
    """All lines of a STAR file, the columns of its particle table, and the places of its rows."""
    lines = _text(path)
    columns: list[str] = []
    rows: list[int] = []
    in_header = in_particles = False
    for place, line in enumerate(map(str.strip, lines)):
        if line.startswith("data_"):
            if in_particles:
                break
            in_header = False
        elif line.startswith("loop_") and not in_particles:
            in_header, columns = True, []
        elif in_header and line.startswith("_"):
            columns.append(line.split()[0][1:])
        elif line and not line.startswith("#"):
            in_particles = in_particles or (in_header and "rlnImageName" in columns)
            in_header = False
            if in_particles:
                rows.append(place)
    return lines, columns, rows


def check_tables(path: Path, rows_read: dict[str, int]) -> None:
    """Compare the lines of a STAR file with the rows that were read of each of its tables.

    Raises InputError for two tables of one name, a table within a table, a value with the sign of a
    comment, and any table with another number of lines. A line of a table that begins with `data_`
    would begin the next one, and is refused too.
    """
    first_line: dict[str, int] = {}
    lines, rows = _text(path), dict.fromkeys(rows_read, 0)
    name, columns, in_header = "", 0, False
    for place, line in enumerate((line.strip("\ufeff \t\r\n") for line in lines), start=1):
        if line.startswith("data_"):
            name, columns, in_header = line[5:], 0, False
            if len(line.split("#")[0].split()) > 1:
                problem = f"(line {place}) a value begins with data_, as the name of a table does"
                refuse(path, problem, line.split()[0], "put another column first")
            if name in first_line:
                problem = f"has the table data_{{value}} twice (lines {first_line[name]} and"
                remedy = "join files with relion_star_handler, or keep one of them"
                refuse(path, f"{problem} {place})", name, remedy)
            first_line[name] = place
        elif line.startswith("loop_"):
            if columns:
                problem = "the table data_{value} has a second line loop_"
                refuse(path, f"{problem} (line {place})", name, "give each table a name of its own")
            in_header = True
        elif in_header and line.startswith("_"):
            columns += 1
        elif columns and line and not line.startswith("#"):
            in_header = False
            rows[name] = rows.get(name, 0) + 1
            if "#" in line:
                _check_comment(path, line, columns, place, rows[name])
    for table, count in rows_read.items():
        if rows[table] != count:
            problem = f"data_{table} has {rows[table]} lines of values, and {{value}} were read"
            refuse(path, problem, count, "look at quotation marks and ends of lines")


def _check_comment(path: Path, line: str, columns: int, place: int, row: int) -> None:
    """Raise InputError for a '#' that is not after the last value of a row."""
    for number, value in enumerate(_VALUE.findall(line)):
        if number >= columns and value.startswith("#"):
            return  # a comment that was meant
        if "#" in value and value[0] not in "'\"":
            problem = f"(line {place}) has a '#' in {{value}}, which begins a comment"
            raise InputError(problem, file=path, row=row, value=value, remedy="rename it")


def check_row_lengths(path: Path) -> None:
    """Raise InputError for the first row with more or fewer values than there are columns."""
    lines, columns, rows = particle_lines(path)
    for row, place in enumerate(rows, start=1):
        values = lines[place].split()
        if '"' in lines[place] or "'" in lines[place]:
            continue  # a value may have blanks
        if len(values) != len(columns):
            raise InputError(
                f"(line {place + 1}) has {{value}} values for {len(columns)} columns",
                file=path,
                row=row,
                value=len(values),
                remedy="the file is cut or was edited: write it again",
            )


def select_from_star(
    path: Path,
    rows: Int[np.ndarray, " row"],
    out: Path,
    changed: dict[str, list[str]] | None = None,
    *,
    count: int,
) -> None:
    """Copy a STAR file with these of its `count` particles alone, in this order.

    `changed` has new values for columns of the particle table, one for each row that is written;
    columns that the file lacks come last. All else stays as it is, byte for byte. Raises InputError
    for another number of lines than particles, and for a row without a place for its new values.
    """
    lines, columns, places = particle_lines(path)
    if len(places) != count:
        problem = f"has {len(places)} lines of particles, and {{value}} were read"
        refuse(path, problem, count, "write the file again")
    first, of_particles = places[0], set(places)
    chosen = [lines[places[row]] for row in rows.tolist()]
    if changed:
        texts = zip(*changed.values(), strict=True)
        chosen = [
            _with_values(line, columns, dict(zip(changed, values, strict=True)), path, row + 1)
            for line, values, row in zip(chosen, texts, rows.tolist(), strict=True)
        ]
        _add_to_header(lines, columns, first, [name for name in changed if name not in columns])
    # The last line of the file may lack its end.
    chosen = [line if line.endswith(("\n", "\r")) else line + "\n" for line in chosen]
    kept = [line for place, line in enumerate(lines) if place not in of_particles]
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        handle.writelines([*kept[:first], *chosen, *kept[first:]])


def _with_values(
    line: str, columns: list[str], values: dict[str, str], path: Path, row: int
) -> str:
    """A row with other values in some columns, and those of new columns after its last."""
    spans = [match.span() for match in _VALUE.finditer(line)][: len(columns)]
    if len(spans) < len(columns):
        problem = f"has {{value}} values for {len(columns)} columns"
        remedy = "write the file again"
        raise InputError(problem, file=path, row=row, value=len(spans), remedy=remedy)
    end = spans[-1][1]
    new = [text for name, text in values.items() if name not in columns]
    line = " ".join([line[:end], *new]) + line[end:]
    placed = [(spans[columns.index(name)], name) for name in values if name in columns]
    for (start, stop), name in sorted(placed, reverse=True):  # what stands before it stays in place
        line = line[:start] + values[name] + line[stop:]
    return line


def _add_to_header(lines: list[str], columns: list[str], first_row: int, new: list[str]) -> None:
    """Name new columns of the particle table, in the same line as its last one."""
    last = max(place for place in range(first_row) if lines[place].lstrip().startswith("_"))
    ending = lines[last][len(lines[last].rstrip("\r\n")) :]
    names = enumerate(new, start=len(columns) + 1)
    lines[last] += "".join(f"_{name} #{number}{ending}" for number, name in names)
