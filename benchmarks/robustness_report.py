"""The table of robustness.py, from its results."""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from common import table

from cryostar_nb.io.files import write_text


def write_tables(folder: Path) -> None:
    """Write robustness.md from robustness.json, where that exists."""
    path = folder / "robustness.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    text = tables(found) if found else "Not measured yet: `python benchmarks/robustness.py` does.\n"
    write_text(folder / "robustness.md", text)


def tables(found: dict[str, Any]) -> str:
    """A Markdown table for each molecule and SNR."""
    done = found["cells"]
    seeds, made = sorted({cell["seed"] for cell in done}), found["provenance"]
    commits = sorted({cell["commit"].removesuffix("-dirty") for cell in done})
    head = (
        f"{found['particles']:,} particles to train on, {found['new']:,} new ones, "
        f"{found['steps']:,} steps; {len(seeds)} seed{'s' if len(seeds) > 1 else ''}; "
        f"{made['machine']}; version {made['version']} ({', '.join(commits)}), {made['date']}."
    )
    parts = [head]
    for system, snr in sorted({(cell["system"], cell["snr"]) for cell in done}):
        here = [cell for cell in done if (cell["system"], cell["snr"]) == (system, snr)]
        methods = [
            name for name in found["methods"] if any(cell["method"] == name for cell in here)
        ]
        rows = []
        for fault in found["faults"]:
            of_fault = [cell for cell in here if cell["fault"] == fault]
            if not of_fault:
                continue
            columns = [[c for c in of_fault if c["method"] == method] for method in methods]
            idle = _numbers(of_fault, "do_nothing_in_gauge", "do_nothing_superposed")
            errors = [_numbers(column, "rmsd_in_gauge", "rmsd_superposed") for column in columns]
            rows.append([fault, *errors, idle])
        titled = table(["fault", *methods, "doing nothing"], rows)
        parts.append(f"**{system}, SNR {snr:g}**\n\n{titled}".rstrip())
    return "\n\n".join(parts) + "\n"


def _numbers(of_seeds: list[dict[str, Any]], *names: str) -> str:
    """Means over the seeds of some errors of new particles, with the sd of the first."""
    if not of_seeds:
        return "–"
    first, *others = ([cell["scores"]["new"][name] for cell in of_seeds] for name in names)
    spread = f" ± {stdev(first):.2f}" if len(set(first)) > 1 else ""
    return " / ".join([f"{mean(first):.2f}{spread}", *(f"{mean(o):.2f}" for o in others)])
