"""Writing files so that a reader finds the old one or the new one, never half of one; and a log that grows line by line."""

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryostar_nb.errors import InputError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it onto `path` when the block ends well, remove it when it does not.

    The temporary name keeps the suffix, because several writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path`, all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: dict[str, Any]) -> None:
    """Write a dictionary as indented JSON, all of it or nothing."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def existing_file(path: Path | str, what: str) -> Path:
    """Return `path` as a Path, or raise InputError when there is no such file."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such file; give the path of {what}")
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; give the path of {what}")
    return path


class MetricsLog:
    """One CSV line per logged step; a resumed run drops the lines that its checkpoint does not cover. No path: no log."""

    def __init__(self, path: Path | None, keep_before: int) -> None:
        kept: list[dict[str, Any]] = []
        if path is not None and keep_before and path.exists():
            with path.open(newline="") as handle:
                kept = [row for row in csv.DictReader(handle) if int(row["step"]) <= keep_before]
        self._handle = path.open("w", newline="") if path is not None else None
        self._writer: Any = None
        for row in kept:
            self.write(row)

    def write(self, row: dict[str, Any]) -> None:
        """Append a line; the first one decides the columns."""
        if self._handle is None:
            return
        if self._writer is None:
            self._writer = csv.DictWriter(self._handle, fieldnames=list(row))
            self._writer.writeheader()
        self._writer.writerow(row)
        self._handle.flush()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.close()
