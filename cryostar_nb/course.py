"""What every lesson needs: the data, wherever a notebook was started, the machine it runs on, and
checks of exercises.
"""

import hashlib
import json
import os
import platform
import sysconfig
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryostar_nb.errors import InputError


def data_folder(start: Path | str = ".") -> Path:
    """The project's `data` folder: the nearest, from `start` upward, then beside this package, then
    where a wheel was installed.

    Raises InputError where there is none.
    """
    here, installed = Path(start).resolve(), Path(sysconfig.get_path("data"))
    beside = Path(__file__).resolve().parents[1]
    roots = (here, *here.parents, beside, installed / "share" / "cryostar_nb")
    for root in roots:
        if (root / "data" / "1ake.pdb").exists():
            return root / "data"
    raise InputError(
        "neither this folder nor one above it has a folder `data` with 1ake.pdb",
        file=here,
        remedy="start the notebook inside the project, or copy the project's data folder here",
    )


def device() -> torch.device:
    """The GPU where there is one, else the CPU: where the notebooks train."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """The name of the GPU, or that it is a CPU, and how many threads use it."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    return f"a CPU (threads: {torch.get_num_threads()})"


def machine() -> str:
    """What the notebook runs on: versions, and the device of its trainings."""
    from cryostar_nb import __version__

    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    return f"cryostar_nb {__version__}, {versions}, on {device_name()}"


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say, after the lines below it, how long they took and on which device."""
    began = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - began:.1f} s on {device_name()}")


def check(
    name: str,
    answer: Any,
    is_right: Callable[[Any], Any],
    hint: str = "",
    afterword: str | Callable[[], str] = "",
) -> None:
    """Judge the answer to an exercise: none yet, right (with an afterword), or a hint.

    An answer that cannot be judged, because it is of another kind, gets the hint and the reason.
    Raises AssertionError for all but a right one where the environment has CRYOSTAR_GRADE, as
    graders need it.
    """
    verdict, more = _judged(answer, is_right)
    if verdict == "right":
        more = afterword if isinstance(afterword, str) else afterword()
    elif verdict != "no answer yet":
        more = f"{more} {hint}"
    words = f"{name}: {verdict}. {more.strip()}".rstrip()
    if verdict != "right" and os.environ.get("CRYOSTAR_GRADE"):
        raise AssertionError(words)
    print(words)


def _judged(answer: Any, is_right: Callable[[Any], Any]) -> tuple[str, str]:
    """The verdict on an answer, and what there is to say about it."""
    if answer is None:
        return "no answer yet", "Fill in the cell above."
    try:
        return ("right" if is_right(answer) else "not right yet"), ""
    except Exception as error:
        return f"cannot be checked ({type(error).__name__}: {error})", ""


def check_number(exercise: str, answer: Any) -> None:
    """Judge a number, or several in order, by its seal in `assets/exercises.json`.

    `exercise` is a lesson and a number in it, such as "07.1". A seal tells whether an answer is
    within its tolerance, and not what the answer is; its afterword can be read with a right answer
    only. `book/seal.py` makes seals. Raises InputError for an exercise without one.
    """
    seals = _seals()
    if exercise not in seals:
        remedy = f"give one of {', '.join(seals)}"
        raise InputError("there is no exercise {value}", value=exercise, remedy=remedy)
    seal = seals[exercise]

    def interval(value: Any) -> str:
        return f"{exercise} {intervals(value, seal['offsets'], seal['tolerances'])}"

    check(
        f"Exercise {exercise.split('.')[1]}",
        answer,
        lambda value: digest(interval(value)) == seal["digest"],
        seal["hint"],
        lambda: hidden(b64decode(seal["afterword"]), interval(answer)).decode(),
    )


def intervals(value: Any, offsets: Sequence[float], tolerances: Sequence[float]) -> tuple[int, ...]:
    """The interval that each number is in; they are two tolerances wide, about `offsets`.

    Raises ValueError for another count of numbers.
    """
    numbers = np.ravel(np.asarray(value, dtype=float))
    steps = 2 * np.asarray(tolerances, dtype=float)
    if numbers.shape != steps.shape:
        raise ValueError(f"{len(steps)} are asked for, and this is {len(numbers)}")
    return tuple(int(k) for k in np.round((numbers - np.asarray(offsets)) / steps))


def digest(text: str) -> str:
    """What a text is recognised by, and cannot be read from."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def hidden(message: bytes, key: str) -> bytes:
    """A message made unreadable by a key, and readable by the same key."""
    stream = hashlib.shake_256(key.encode()).digest(len(message))
    return bytes(a ^ b for a, b in zip(message, stream, strict=True))


@cache
def _seals() -> dict[str, Any]:
    """All seals, by exercise."""
    path = files("cryostar_nb").joinpath("assets", "exercises.json")
    seals: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return seals
