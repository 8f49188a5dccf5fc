"""Files are written whole or not at all; a log grows line by line."""

import csv
import errno
import json
import math
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from cryostar_nb.errors import InputError

_COMPRESSED = {  # how their files begin
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"PK\x03\x04": ("zip", "unzip"),
}


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and rename it onto `path` when the block ends well.

    It is removed when the block fails. The temporary name keeps the suffix, because several writers
    choose their format by it. Raises InputError where the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with clear_when_full(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def clear_when_full(path: Path) -> Iterator[None]:
    """Turn any error that a full disk causes while `path` is written into one InputError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # NumPy's and PyTorch's errors carry no number; the free space tells what they mean.
        number = getattr(error, "errno", None)
        full = number is None and shutil.disk_usage(path.parent).free < 2**20
        if full or number in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                "the disk is full",
                file=path,
                remedy="what was written before is intact: make room, then go on",
            ) from error
        raise


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path`, all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: dict[str, Any]) -> None:
    """Write a dictionary as indented JSON, all of it or nothing; NaN, unknown to JSON, is null."""
    write_text(path, json.dumps(_without_nan(value), indent=2, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def one_line(error: Exception) -> str:
    """What another library says of an error, in a line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def refuse(path: Path, problem: str, value: object, remedy: str) -> NoReturn:
    """Raise InputError for what this file holds."""
    raise InputError(problem, file=path, value=value, remedy=remedy)


def tell(remarks: Iterable[object]) -> None:
    """Print remarks on input, a line each, where they are in nobody's way: on standard error."""
    for remark in dict.fromkeys(map(str, remarks)):
        print(f"note: {remark}", file=sys.stderr)


def existing_file(path: Path | str, what: str) -> Path:
    """Return `path`. Raises InputError where no file is there, or none that can be read."""
    path = Path(path)
    problem = ""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            problem = "this is a folder"
        elif not stat.S_ISREG(mode) or not os.access(path, os.R_OK):
            problem = "is not a file that can be read"
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL character
        problem = "there is no such file"
    except OSError as error:  # a name that is too long, a folder that may not be entered
        problem = f"cannot be reached ({error.strerror})"
    if problem:
        refuse(path, problem, None, f"give the path of {what}")
    return path


def check_not_compressed(path: Path, start: bytes) -> None:
    """Raise InputError where the first bytes of a file are those of a compressed one."""
    for mark, (kind, tool) in _COMPRESSED.items():
        if start.startswith(mark):
            problem, remedy = "is compressed with {value}", f"decompress it first ({tool})"
            refuse(path, problem, kind, remedy)


def check_room(path: Path, needed_bytes: int, what: str) -> None:
    """Raise InputError where `what`, to be written to `path`, needs more than the disk has free."""
    free = shutil.disk_usage(_nearest(path)).free
    if needed_bytes > free:
        needed, left = f"{needed_bytes / 1e9:.3g} GB", f"{free / 1e9:.3g} GB"
        problem = f"{what} takes {needed} and the disk has {left} free"
        refuse(path, problem, needed_bytes, "make room, or choose another folder")


def check_outputs(
    paths: Iterable[Path], *, inputs: Iterable[Path | None] = (), overwrite: bool = False
) -> None:
    """Raise InputError, before any work, for a file that cannot be written or would be lost.

    A file that is there already is admitted with `overwrite`, but never one of the `inputs`.
    """
    read = [path for path in inputs if path is not None and path.exists()]
    for path in paths:
        obstacle = _obstacle(path)
        if obstacle:
            refuse(path, f"cannot be written ({obstacle})", None, "choose another --out")
        if not path.exists():
            continue
        if any(path.samefile(other) for other in read):
            problem = "is a file that is read, and would be replaced"
            refuse(path, problem, None, "choose another --out")
        if not overwrite:
            remedy = "choose another --out, or replace it with --overwrite"
            refuse(path, "is there already", None, remedy)


def _obstacle(path: Path) -> str:
    """Why this file cannot be written; empty where it can."""
    try:
        nearest = _nearest(path)
        if path.is_dir():
            return f"{nearest} is a folder"
        if nearest != path.absolute() and not nearest.is_dir():
            return f"{nearest} is a file"
        folder = nearest if nearest.is_dir() else nearest.parent
        return "" if os.access(folder, os.W_OK | os.X_OK) else f"{nearest} may not be changed"
    except (OSError, ValueError) as error:  # a long name, a folder closed to this user, a NUL
        return getattr(error, "strerror", None) or str(error)


def _nearest(path: Path) -> Path:
    """The path itself where it exists, or the nearest of its folders that does."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


class MetricsLog:
    """One CSV line per logged step; a resumed run drops the lines after its checkpoint.

    Without a path there is no log. Each line goes to the system as it is written. Of a run that was
    killed the last line may be cut; it is dropped when the run goes on.
    """

    def __init__(self, path: Path | None, keep_before: int) -> None:
        self._path = path
        if path is None:
            return
        lines = path.read_text().splitlines(keepends=True) if keep_before and path.exists() else []
        complete = [line for line in lines if line.endswith("\n")]
        kept = [line for line in complete[1:] if int(line.split(",")[0]) <= keep_before]
        write_text(path, "".join([*complete[:1], *kept]))
        self._handle = path.open("a", newline="", encoding="utf-8")
        self._columns = complete[0].strip().split(",") if complete else None

    def write(self, row: dict[str, Any]) -> None:
        """Append a line, "step" first; the first one decides the columns.

        Raises InputError where the disk is full.
        """
        if self._path is None:
            return
        head = [] if self._columns else [list(row)]
        self._columns = self._columns or list(row)
        with clear_when_full(self._path):
            csv.writer(self._handle, lineterminator="\n").writerows(
                [*head, [row[name] for name in self._columns]]
            )
            self._handle.flush()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            with clear_when_full(self._path):
                self._handle.close()
