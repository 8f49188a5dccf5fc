"""What every lesson needs: the data, wherever a notebook was started, and checks of exercises."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryostar_nb.errors import InputError


def data_folder(start: Path | str = ".") -> Path:
    """The project's `data` folder: the nearest, from `start` upward, then beside this package.

    Raises InputError where there is none.
    """
    here = Path(start).resolve()
    roots = (here, *here.parents, Path(__file__).resolve().parents[1])
    for root in roots:
        if (root / "data" / "1ake.pdb").exists():
            return root / "data"
    raise InputError(
        "neither this folder nor one above it has a folder `data` with 1ake.pdb",
        file=here,
        remedy="start the notebook inside the project, or copy the project's data folder here",
    )


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
