"""How long the command line takes to answer, beside the import of NumPy.

    python benchmarks/shell.py [--before PATH] [--repeats 7]

Every command starts a new process, `python -m cryostar_nb ...`, in turn with `python -c "import
numpy"`. A time is the median over the repeats, in seconds; a ratio is that time over NumPy's, and
depends little on the machine. PATH is a checkout of an earlier version, timed in the same turns.

Writes results/shell.json and shell.md.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro
from common import HERE, RESULTS, figures, machine, machine_line, table

from cryostar_nb.io.files import write_json, write_text

NUMPY = "import numpy"
COMMANDS = {
    "cryostar-nb": (),
    "cryostar-nb --help": ("--help",),
    "cryostar-nb train --help": ("train", "--help"),
    "cryostar-nb --version": ("--version",),
    "cryostar-nb train --steps x": ("train", "--steps", "x"),
}


def seconds(arguments: tuple[str, ...], tree: Path) -> float:
    """Time of a Python process with the package of this tree.

    Raises RuntimeError where the process fails in another way than by an error in its arguments.
    """
    environment = os.environ | {"PYTHONPATH": str(tree.resolve())}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True
        )
        taken = time.perf_counter() - began
    if process.returncode not in (0, 2):
        raise RuntimeError(f"python {' '.join(arguments)} failed: {process.stderr.decode()}")
    return taken


def measure(trees: dict[str, Path], repeats: int) -> dict[str, dict[str, float]]:
    """Median time of each command, in seconds, for each tree, and that of NumPy's import."""
    times: dict[str, dict[str, list[float]]] = {name: {} for name in trees}
    for _ in range(repeats + 1):
        for name, tree in trees.items():
            times[name].setdefault(NUMPY, []).append(seconds(("-c", NUMPY), tree))
            for command, arguments in COMMANDS.items():
                taken = seconds(("-m", "cryostar_nb", *arguments), tree)
                times[name].setdefault(command, []).append(taken)
    # The first round finds files that are not in memory yet, and compiles modules.
    return {
        name: {command: statistics.median(values[1:]) for command, values in row.items()}
        for name, row in times.items()
    }


def summary(result: dict[str, Any]) -> str:
    """The table in Markdown."""
    trees, head = result["seconds"], ["command"]
    for name in trees:
        head += [f"{name}, s", f"{name} / import numpy"]
    rows = []
    for command in (NUMPY, *COMMANDS):
        row = [f"`{command}`"]
        for times in trees.values():
            row += [figures(times[command]), figures(times[command] / times[NUMPY], 2)]
        rows.append(row)
    repeats = f"Medians over {result['repeats']} processes."
    return f"{machine_line(result['machine'])} {repeats}\n\n{table(head, rows)}"


def main(before: Path | None = None, repeats: int = 7) -> None:
    """Time the command line. `before`: a checkout of an earlier version, timed in turn with it."""
    trees = {"now": HERE.parent} | ({} if before is None else {"before": before})
    here = machine()
    result = {"machine": here, "repeats": repeats, "seconds": measure(trees, repeats)}
    text = summary(result)
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / "shell.json", result)
    write_text(RESULTS / "shell.md", text)
    print(text)


if __name__ == "__main__":
    tyro.cli(main)
