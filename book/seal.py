"""Seal the answers that are numbers: `make seal` writes `cryostar_nb/assets/exercises.json`.

    python book/seal.py

`book/solutions/NN.yml` has, under the number of each such exercise, its `value` (a number, or a
list), its `tolerance` (likewise), the `hint` for a wrong answer and the `afterword` for a right
one. A notebook's check cell is then `cs.course.check_number("NN.1", answer)`, which does not show
the answer. A test compares the seals with these files.
"""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cryostar_nb.course import digest, hidden, intervals
from cryostar_nb.io.files import write_text

ROOT = Path(__file__).parent.parent
SEALS = ROOT / "cryostar_nb" / "assets" / "exercises.json"


def sealed(exercise: str, answer: dict[str, Any]) -> dict[str, Any]:
    """The seal of an exercise, such as "07.1"."""
    values = np.ravel(np.asarray(answer["value"], dtype=float))
    tolerances = np.broadcast_to(np.asarray(answer["tolerance"], dtype=float), values.shape)
    offsets = np.mod(values, 2 * tolerances).tolist()
    key = f"{exercise} {intervals(values, offsets, tolerances.tolist())}"
    afterword = hidden(answer.get("afterword", "").encode(), key)
    return {
        "hint": answer["hint"],
        "tolerances": tolerances.tolist(),
        "offsets": offsets,
        "digest": digest(key),
        "afterword": b64encode(afterword).decode(),
    }


def all_seals() -> dict[str, Any]:
    """The seals of all lessons."""
    return {
        f"{path.stem}.{number}": sealed(f"{path.stem}.{number}", answer)
        for path in sorted((ROOT / "book" / "solutions").glob("*.yml"))
        for number, answer in yaml.safe_load(path.read_text(encoding="utf-8")).items()
    }


if __name__ == "__main__":
    write_text(SEALS, json.dumps(all_seals(), indent=1) + "\n")
