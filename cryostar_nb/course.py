"""What every lesson needs: the data, wherever a notebook was started, the machine it runs on, and
checks of exercises.
"""

import platform
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    afterword: str = "",
) -> None:
    """Judge the answer to an exercise: none yet, right (with an afterword), or a hint.

    An answer that cannot be judged, because it is of another kind, gets the hint and the reason.
    """
    if answer is None:
        print(f"{name}: no answer yet. Fill in the cell above.")
        return
    try:
        right = bool(is_right(answer))
    except Exception as error:
        print(f"{name}: cannot be checked ({type(error).__name__}: {error}). {hint}")
        return
    print(f"{name}: right. {afterword}".rstrip() if right else f"{name}: not right yet. {hint}")
