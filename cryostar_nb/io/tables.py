"""Tables at half precision with a row for each particle: in memory, or in a file that is mapped.

Training reads its particles from two such tables: their vectors, and what its encoder sees of them.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16
from torch import Tensor

from cryostar_nb.errors import InputError
from cryostar_nb.io.files import check_room, refuse, replacing, write_json

Parts = Callable[[], Iterator[Float16[Tensor, "row number"]]]  # all rows, a few at a time


def open_table(
    name: str,
    shape: tuple[int, int],
    parts: Parts,
    key: Callable[[], dict[str, Any]],
    *,
    memory_gb: float | None = None,
    cache: Path | None = None,
    spill: Path,
) -> Float16[Tensor, "particle number"]:
    """The table of this name and shape, filled by `parts`: in memory if it fits there, else mapped.

    `memory_gb` is what it may take of memory, in GB; none means half of what is free. `cache` is a
    folder to keep it in: a later call reads it there, instead of making it, unless its key is
    another. The key is all that the numbers depend on. `spill` is the folder for a table that does
    not fit, when there is no cache. The pages of a mapped file stay in the system's cache as long
    as memory is free. A file that another run writes anew is another file: the map keeps the one
    that was opened.

    Raises InputError for what `parts` does, and for a disk without room.
    """
    if memory_gb is not None and not memory_gb > 0:
        problem, remedy = "memory_gb = {value}", "give a positive number of GB, or leave it out"
        raise InputError(problem, value=memory_gb, remedy=remedy)
    limit = available_memory() // 2 if memory_gb is None else int(memory_gb * 1e9)
    fit = 2 * shape[0] * shape[1] <= limit
    if fit and cache is None:
        table, filled = torch.empty(shape, dtype=torch.float16), 0
        for part in parts():
            table[filled : filled + len(part)] = part
            filled += len(part)
        return table
    path, wanted = (spill if cache is None else cache) / f"{name}.f16", key()
    mapped = _map_file(path, wanted, shape)
    if mapped is None:
        _write(path, shape, parts, wanted)
        mapped = _map_file(path, wanted, shape)
    if mapped is None:
        remedy = "give every run its own folder for the cache"
        refuse(path, "was written anew by another run", None, remedy)
    return mapped.clone() if fit else mapped


def _map_file(
    path: Path, key: dict[str, Any], shape: tuple[int, int]
) -> Float16[Tensor, "particle band"] | None:
    """Map the file if it is of this shape and was made from what the key says.

    The map is private to this process ("c"): PyTorch asks for one that could be written to.
    """
    try:
        before = path.stat()
        if before.st_size != 2 * shape[0] * shape[1]:
            return None
        mapped = torch.from_numpy(np.memmap(path, dtype=np.float16, mode="c", shape=shape))
        fresh = json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) == key
        return mapped if fresh and os.path.samestat(before, path.stat()) else None
    except (OSError, ValueError):
        return None


def _write(path: Path, shape: tuple[int, int], parts: Parts, key: dict[str, Any]) -> None:
    """Make the table once, into the file; nothing without its key, written last, is read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in (path.with_suffix(".json"), path, *_abandoned(path)):
        stale.unlink(missing_ok=True)
    check_room(path, 2 * shape[0] * shape[1], f"the table of {path.stem}")
    with replacing(path) as temporary, temporary.open("wb") as handle:
        for part in parts():
            part.numpy().tofile(handle)
        handle.flush()
        os.fsync(handle.fileno())  # on the disk before its key is
    write_json(path.with_suffix(".json"), key)


def _abandoned(path: Path) -> list[Path]:
    """What a pass that was killed has left: a living one writes to its file all the time."""
    hour_ago = time.time() - 3600
    return [
        partial
        for partial in path.parent.glob(f".{path.stem}.*.partial{path.suffix}")
        if partial.stat().st_mtime < hour_ago
    ]


def available_memory(system: Path = Path("/")) -> int:
    """Bytes of memory that are free, or the fewer that a container or a batch job allows.

    `system` is the root of the file system.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _lines(system / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    groups = [
        Path(line.removeprefix("0::/"))
        for line in _lines(system / "proc/self/cgroup")
        if line.startswith("0::/")
    ]
    for folder in [Path("."), *(part for group in groups for part in (group, *group.parents))]:
        lines = _lines(system / "sys/fs/cgroup" / folder / "memory.max")
        limits += [int(line) for line in lines if line != "max"]
    return min(limits)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
