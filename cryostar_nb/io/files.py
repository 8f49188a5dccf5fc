"""Writing files so that a reader finds the old one or the new one, never half of one; and a log that grows line by line."""

import csv
import errno
import json
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryostar_nb.errors import InputError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it onto `path` when the block ends well, remove it when it does not.

    The temporary name keeps the suffix, because several writers choose their format by it. Raises InputError where the disk is full.
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
    """Turn what a library raises when it cannot write to `path` because the disk is full into one InputError."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
    ) as error:  # NumPy's and PyTorch's carry no error number: they are known by the room that is left
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or (
            number is None and shutil.disk_usage(path.parent).free < 2**20
        ):
            raise InputError(
                f"{path}: the disk is full; what was written before is intact: make room, then go on"
            ) from error
        raise


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path`, all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: dict[str, Any]) -> None:
    """Write a dictionary as indented JSON, all of it or nothing; a number that is not known (NaN) becomes null, as JSON has no NaN."""
    write_text(path, json.dumps(_without_nan(value), indent=2, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def existing_file(path: Path | str, what: str) -> Path:
    """Return `path` as a Path, or raise InputError when there is no such file, or none that can be read."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (
        FileNotFoundError,
        NotADirectoryError,
        ValueError,
    ) as error:  # ValueError: a NUL character
        raise InputError(f"{path}: there is no such file; give the path of {what}") from error
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise InputError(
            f"{path}: cannot be reached ({error.strerror}); give the path of {what}"
        ) from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: this is a folder; give the path of {what}")
    if not stat.S_ISREG(mode) or not os.access(path, os.R_OK):
        raise InputError(f"{path}: is not a file that can be read; give the path of {what}")
    return path


def check_outputs(
    paths: Iterable[Path], *, inputs: Iterable[Path | None] = (), overwrite: bool = False
) -> None:
    """Raise InputError, before any work is done, for a file that could not be written, is one of the inputs, or is there already.

    `overwrite` admits those that are there, but never an input.
    """
    read = [path for path in inputs if path is not None and path.exists()]
    for path in paths:
        try:
            nearest = next(
                place for place in (path.absolute(), *path.absolute().parents) if place.exists()
            )
            if path.is_dir() or (nearest != path.absolute() and not nearest.is_dir()):
                kind = "folder" if path.is_dir() else "file"
                raise InputError(
                    f"{path}: cannot be written, because {nearest} is a {kind}; choose another --out"
                )
            if not os.access(nearest if nearest.is_dir() else nearest.parent, os.W_OK | os.X_OK):
                raise InputError(
                    f"{path}: cannot be written: {nearest} may not be changed; choose another --out"
                )
        except InputError:
            raise
        except (
            OSError,
            ValueError,
        ) as error:  # a name that is too long, a folder that may not be entered, a NUL character
            raise InputError(
                f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}); choose another --out"
            ) from error
        if path.exists():
            if any(path.samefile(other) for other in read):
                raise InputError(
                    f"{path}: is a file that is read, and would be replaced; choose another --out"
                )
            if not overwrite:
                raise InputError(
                    f"{path}: is there already; choose another --out, or replace it with --overwrite"
                )


class MetricsLog:
    """One CSV line per logged step; a resumed run drops the lines that its checkpoint does not cover. No path: no log.

    Each line goes to the system as it is written. Of a run that was killed the last one may be cut; it is dropped when the run
    goes on, and `Run.metrics` leaves it out until then.
    """

    def __init__(self, path: Path | None, keep_before: int) -> None:
        self._path = path
        if path is None:
            return
        lines = path.read_text().splitlines(keepends=True) if keep_before and path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        write_text(
            path,
            "".join(
                [
                    *whole[:1],
                    *(line for line in whole[1:] if int(line.split(",")[0]) <= keep_before),
                ]
            ),
        )
        self._handle = path.open("a", newline="", encoding="utf-8")
        self._columns = whole[0].strip().split(",") if whole else None

    def write(self, row: dict[str, Any]) -> None:
        """Append a line, "step" first; the first one decides the columns. Raises InputError where the disk is full."""
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
