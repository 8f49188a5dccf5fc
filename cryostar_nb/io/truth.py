"""The truth of a simulation, which `simulate` writes beside its particles."""

from pathlib import Path

import numpy as np

from cryostar_nb.errors import InputError
from cryostar_nb.io.files import existing_file

OPTIONAL = ("junk", "reference_nodes", "rotations", "shifts")  # older files have none


def read_truth(path: Path | str) -> dict[str, np.ndarray]:
    """What an evaluation compares with, from a simulation's `truth.npz`.

    `state` (particle,) and `positions` (state, node, 3) in Å; and where they are in the file,
    `junk` (particle,), not 0 for images without a good particle, `reference_nodes` (node,), the
    true nodes that the written reference has, and the true `rotations` (particle, 3, 3) and
    `shifts` (particle, 2) in Å. Raises InputError for another file.
    """
    path = existing_file(path, "the truth.npz of a simulation")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            there = [name for name in OPTIONAL if name in arrays]
            return {name: arrays[name] for name in ("state", "positions", *there)}
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise InputError(
            f"is not the truth.npz of a simulation ({error})",
            file=path,
            remedy="give the one that `simulate` wrote",
        ) from error
