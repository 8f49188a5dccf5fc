"""The table and the plot of step.py, from its results.

python benchmarks/step_report.py    makes both again from results/step.json
"""

import itertools
import json
from pathlib import Path
from typing import Any

import matplotlib
from common import RESULTS, exponent, figures, machine_line, table

from cryostar_nb.config import PRESETS
from cryostar_nb.io.files import write_text

matplotlib.use("Agg")
# Okabe and Ito: told apart without red and green.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]


def exponents(entries: list[dict[str, Any]]) -> list[str]:
    """How the time of a step grows, as sentences."""
    return [line for preset in PRESETS for line in _exponents_of(preset, entries)]


def _exponents_of(preset: str, entries: list[dict[str, Any]]) -> list[str]:
    lines, entries = [], [entry for entry in entries if entry["preset"] == preset]
    for box in sorted({entry["box_size"] for entry in entries}):
        row = sorted((e["nodes"], e["step"]) for e in entries if e["box_size"] == box)
        if len(row) > 1:
            fitted, steepest = _exponents(row)
            lines.append(
                f"`{preset}`: at D = {box} the step grows as N to the power {fitted:.2f} "
                f"(between neighbours at most {steepest:.2f})."
            )
    for count in sorted({entry["nodes"] for entry in entries}):
        row = sorted((e["box_size"] ** 2, e["step"]) for e in entries if e["nodes"] == count)
        if len(row) > 1:
            fitted, steepest = _exponents(row)
            lines.append(
                f"`{preset}`: at N = {count:,} it grows as D² to the power {fitted:.2f} "
                f"(at most {steepest:.2f})."
            )
    return lines


def _exponents(row: list[tuple[float, float]]) -> tuple[float, float]:
    """Of sizes and times: that of the whole row, and that of the steepest pair of neighbours."""
    steepest = max(
        exponent(*map(list, zip(*pair, strict=True))) for pair in itertools.pairwise(row)
    )
    return exponent(*map(list, zip(*row, strict=True))), steepest


def summary(result: dict[str, Any]) -> str:
    """The table and the exponents in Markdown."""
    entries, ceilings = result["entries"], result["ceilings"]
    parts = list(entries[0]["parts"])
    compared, alone = [], []
    for entry in entries:
        step, peer, floor = entry["step"], entry["peer"], entry["floor"]
        size = [entry["preset"], f"{entry['nodes']:,}", str(entry["box_size"])]
        size.append(f"{entry['gaussians']:,}")
        times = [figures(step), figures(floor), figures(step / floor, 2)]
        compared.append([*size, *times, figures(peer), figures(peer and peer / step)])
        compared[-1].append(figures(entry["pose"], 2))
        pairs = [(entry["parts"][part], entry["floor_parts"][part]) for part in parts]
        alone.append([*size, *(f"{figures(ms)} ({figures(least, 2)})" for ms, least in pairs)])
    text = f"{machine_line(result['machine'])} Batch {result['batch']}; milliseconds. "
    text += f"Ceilings: {ceilings['operations'] / 1e9:,.0f} GFLOP/s "
    text += f"and {ceilings['bytes'] / 1e9:,.1f} GB/s."
    text += "".join(f" N = {count:,} is {name}." for name, count in result["structures"].items())
    text += "\n\n"
    text += table(
        [
            *("preset", "N", "D", "Gaussians", "step", "floor", "step / floor"),
            *("peer", "peer / step", "a pose, corrected once"),
        ],
        compared,
    )
    text += "\n" + "\n".join(f"* {line}" for line in exponents(entries)) + "\n\n"
    text += "Each part alone, and its floor in brackets:\n\n"
    return text + table(["preset", "N", "D", "Gaussians", *parts], alone)


def draw(result: dict[str, Any], folder: Path) -> None:
    """Step time of the default preset against the nodes, in logarithms, as step.svg and .png."""
    import matplotlib.pyplot as plt

    entries = [entry for entry in result["entries"] if entry["preset"] == next(iter(PRESETS))]
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    boxes = sorted({entry["box_size"] for entry in entries})
    for colour, marker, box in zip(COLOURS, "os^D", boxes, strict=False):
        of_box = (entry for entry in entries if entry["box_size"] == box)
        row = sorted(of_box, key=lambda entry: entry["nodes"])
        styles = {
            "step": {"linestyle": "-", "marker": marker, "markersize": 5},
            "floor": {"linestyle": "--", "linewidth": 1},
            "peer": {"linestyle": ":", "marker": marker, "markersize": 5, "markerfacecolor": "w"},
        }
        for name, style in styles.items():
            points = [(entry["nodes"], entry[name]) for entry in row if entry[name]]
            if points:
                label = f"{name}, {box} × {box}"
                axes.plot(*zip(*points, strict=True), color=colour, label=label, **style)
    axes.set(xscale="log", yscale="log", xlabel="nodes")
    axes.set_ylabel(f"ms a step, batch {result['batch']}")
    ticks = sorted({entry["nodes"] for entry in entries})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    columns = 3 if any(entry["peer"] for entry in entries) else 2
    axes.legend(frameon=False, fontsize=8, ncols=columns, loc="upper left")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 4)  # room for the legend
    with plt.rc_context({"svg.hashsalt": "step", "svg.fonttype": "path"}):
        figure.savefig(folder / "step.svg", metadata={"Date": None}, facecolor="white")
    figure.savefig(folder / "step.png", dpi=150, facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    stored = json.loads((RESULTS / "step.json").read_text())
    write_text(RESULTS / "step.md", summary(stored))
    draw(stored, RESULTS)
