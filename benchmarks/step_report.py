"""The table and the plot of step.py, from its results.

python benchmarks/step_report.py    makes both again from results/step.json
"""

import itertools
import json
from pathlib import Path
from typing import Any

import matplotlib
from common import RESULTS, exponent, figures, machine_line, table

from cryostar_nb.io.files import write_text

matplotlib.use("Agg")
COLOURS = [
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
]  # Okabe and Ito: told apart without red and green


def exponents(entries: list[dict[str, Any]]) -> list[str]:
    """How the time of a step grows, as sentences."""
    lines = []
    for box in sorted({entry["box_size"] for entry in entries}):
        row = sorted(
            (entry["nodes"], entry["step"]) for entry in entries if entry["box_size"] == box
        )
        if len(row) > 1:
            steepest = max(exponent([a[0], b[0]], [a[1], b[1]]) for a, b in itertools.pairwise(row))
            fitted = exponent([n for n, _ in row], [ms for _, ms in row])
            lines.append(
                f"At D = {box} the step grows as N to the power {fitted:.2f} (between neighbours at most {steepest:.2f})."
            )
    for count in sorted({entry["nodes"] for entry in entries}):
        row = sorted(
            (entry["box_size"] ** 2, entry["step"]) for entry in entries if entry["nodes"] == count
        )
        if len(row) > 1:
            steepest = max(exponent([a[0], b[0]], [a[1], b[1]]) for a, b in itertools.pairwise(row))
            fitted = exponent([d for d, _ in row], [ms for _, ms in row])
            lines.append(
                f"At N = {count:,} it grows as D² to the power {fitted:.2f} (at most {steepest:.2f})."
            )
    return lines


def summary(result: dict[str, Any]) -> str:
    """The table and the exponents in Markdown."""
    entries, ceilings = result["entries"], result["ceilings"]
    parts = list(entries[0]["parts"])
    compared, alone = [], []
    for entry in entries:
        step, peer, floor = entry["step"], entry["peer"], entry["floor"]
        size = [f"{entry['nodes']:,}", str(entry["box_size"])]
        compared.append(
            [
                *size,
                figures(step),
                figures(floor),
                figures(step / floor, 2),
                figures(peer),
                figures(peer and peer / step),
            ]
        )
        alone.append(
            [
                *size,
                *(
                    f"{figures(entry['parts'][part])} ({figures(entry['floor_parts'][part], 2)})"
                    for part in parts
                ),
            ]
        )
    text = f"{machine_line(result['machine'])} Batch {result['batch']}; milliseconds. "
    text += f"Ceilings: {ceilings['operations'] / 1e9:,.0f} GFLOP/s and {ceilings['bytes'] / 1e9:,.1f} GB/s."
    text += (
        "".join(f" N = {count:,} is {name}." for name, count in result["structures"].items())
        + "\n\n"
    )
    text += table(["N", "D", "step", "floor", "step / floor", "peer", "peer / step"], compared)
    text += "\n" + "\n".join(f"* {line}" for line in exponents(entries)) + "\n\n"
    return (
        text + "Each part alone, and its floor in brackets:\n\n" + table(["N", "D", *parts], alone)
    )


def draw(result: dict[str, Any], folder: Path) -> None:
    """Step time against the number of nodes, both in logarithms, as step.svg and step.png."""
    import matplotlib.pyplot as plt

    entries = result["entries"]
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    for colour, marker, box in zip(
        COLOURS, "os^D", sorted({entry["box_size"] for entry in entries}), strict=False
    ):
        row = sorted(
            (entry for entry in entries if entry["box_size"] == box),
            key=lambda entry: entry["nodes"],
        )
        style = {"color": colour, "marker": marker, "markersize": 5}
        axes.plot(
            [e["nodes"] for e in row],
            [e["step"] for e in row],
            label=f"step, {box} × {box}",
            **style,
        )
        axes.plot(
            [e["nodes"] for e in row],
            [e["floor"] for e in row],
            "--",
            color=colour,
            linewidth=1,
            label=f"floor, {box} × {box}",
        )
        beside = [e for e in row if e["peer"]]
        if beside:
            label, open_marker = f"peer, {box} × {box}", style | {"markerfacecolor": "white"}
            axes.plot(
                [e["nodes"] for e in beside],
                [e["peer"] for e in beside],
                ":",
                label=label,
                **open_marker,
            )
    axes.set(
        xscale="log", yscale="log", xlabel="nodes", ylabel=f"ms a step, batch {result['batch']}"
    )
    ticks = sorted({entry["nodes"] for entry in entries})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=3 if any(e["peer"] for e in entries) else 2,
        loc="upper left",
    )
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
