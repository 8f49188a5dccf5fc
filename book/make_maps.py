"""Draw which states maps of bins are most like, and how well they show the truth.

    python book/make_maps.py

The numbers are those of benchmarks/results/reconstruct.json (`python benchmarks/reconstruct.py`).
Writes book/images/maps.png.
"""

import json
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from cryostar_nb.pages import figures

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results" / "reconstruct.json"
NAMES = {"adk": "adenylate kinase", "7pbl": "RuvB"}


def draw(cells: list[dict]) -> Figure:
    """A row for each molecule: likeness to every state, and correlation with the truth."""
    figure = Figure(figsize=(9, 3.1 * len(cells)), layout="constrained")
    for (left, right), cell in zip(
        figure.subplots(len(cells), 2, squeeze=False), cells, strict=True
    ):
        bins, frequencies = cell["bins"], cell["frequencies"]
        for number, one in enumerate(bins):
            colour = colormaps["viridis"](0.9 * number / max(1, len(bins) - 1))
            likeness = np.array(one["correlations"])
            state = np.arange(1, len(likeness) + 1)
            left.plot(state, likeness / likeness.max(), color=colour, label=f"bin {number + 1}")
            left.axvline(one["mean_state"], color=colour, linestyle=":", linewidth=1.2)
        left.set(xlabel="state", ylabel="correlation, highest = 1", title=NAMES[cell["system"]])
        left.legend(frameon=False, fontsize=8)
        last = bins[-1]
        curves = {
            "map of the last bin and its truth": last["fsc_truth"],
            "map of all particles and that truth": last["fsc_consensus"],
            "half-maps of the last bin": last["fsc_halves"],
        }
        curves = {name: curve[: len(frequencies)] for name, curve in curves.items()}
        figures.fsc(frequencies, curves, ax=right)
        right.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    """Draw, and write the picture."""
    cells = json.loads(RESULTS.read_text(encoding="utf-8"))["cells"]
    draw(cells).savefig(HERE / "images" / "maps.png", dpi=150)


if __name__ == "__main__":
    main()
