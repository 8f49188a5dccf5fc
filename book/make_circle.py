"""Draw how far trainings get with a motion that is a full circle, and whether their latents are.

    python book/make_circle.py

The numbers are those of benchmarks/results/circle.json (`python benchmarks/circle.py`).
Writes book/images/circle.png.
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results" / "circle.json"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def draw(cells: list[dict]) -> Figure:
    """Errors over the true angle (dashed: of posteriors), and latents coloured by the angle."""
    figure = Figure(figsize=(3.4 * (len(cells) + 1), 3.2), layout="constrained")
    errors, *planes = figure.subplots(1, len(cells) + 1)
    degrees = np.linspace(0, 360, len(cells[0]["idle_per_state"]), endpoint=False)
    errors.plot(degrees, cells[0]["idle_per_state"], color="0.6", label="doing nothing")
    for cell, plane, colour in zip(cells, planes, COLOURS, strict=False):
        errors.plot(degrees, cell["rmsd_per_state"], color=colour, label=cell["setting"])
        errors.plot(degrees, cell["posterior_per_state"], "--", color=colour, lw=1)
        x, y = np.array(cell["latents"]).T
        angles = degrees[np.array(cell["states"])]
        dots = plane.scatter(x, y, c=angles, s=5, cmap="hsv", vmin=0, vmax=360)
        plane.set(title=cell["setting"], xlabel="PC1 of the latents", ylabel="PC2")
        plane.set_aspect("equal", adjustable="datalim")
    errors.set(xlabel="true angle (degrees)", ylabel="RMSD (Å)", xlim=(0, 360), ylim=(0, None))
    errors.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize="small")
    figure.colorbar(dots, ax=planes[-1], label="true angle (degrees)")
    return figure


def main() -> None:
    """Draw, and write the picture."""
    cells = json.loads(RESULTS.read_text(encoding="utf-8"))["cells"]
    draw(cells).savefig(HERE / "images" / "circle.png", dpi=110)


if __name__ == "__main__":
    main()
