"""Draw how surely adenylate kinase is known, and how much single images say.

    python book/make_certainty.py

The numbers are those of benchmarks/results/posterior.json (`python benchmarks/posterior.py`).
Writes book/images/certainty.png.
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cryostar_nb.io.structures import read_nodes

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results" / "posterior.json"


def draw(cells: list[dict]) -> Figure:
    """Above: the molecule, coloured by the sd of its residues; below: information of images."""
    nodes = read_nodes(HERE.parent / "data" / "1ake.pdb").positions
    centred = nodes - nodes.mean(0)
    x = centred @ np.linalg.svd(centred)[2][:2].T  # seen along its shortest axis
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    axes = figure.subplots(2, len(cells), squeeze=False)
    for above, below, cell in zip(*axes, cells, strict=True):
        sd = np.array(cell["node_sd"])
        above.plot(x[:, 0], x[:, 1], color="0.75", linewidth=1, zorder=1)
        dots = above.scatter(x[:, 0], x[:, 1], c=sd, s=18, cmap="viridis", zorder=2)
        above.set_title(f"SNR {cell['snr']:g}")
        above.set_aspect("equal")
        above.axis("off")
        figure.colorbar(dots, ax=above, label="sd (Å)", shrink=0.8)
        counts = np.array(cell["information"])
        edges = np.linspace(0, 5, len(counts) + 1)
        below.stairs(counts / counts.sum(), edges, fill=True, color="#0072B2", alpha=0.6)
        below.axvline(0.1, color="#D55E00", linewidth=1.5)
        below.set(xlabel="information (nats)", xlim=(0, 5))
    axes[1][0].set_ylabel("part of the particles")
    return figure


def main() -> None:
    """Draw, and write the picture."""
    cells = json.loads(RESULTS.read_text(encoding="utf-8"))["cells"]
    draw(cells).savefig(HERE / "images" / "certainty.png", dpi=150)


if __name__ == "__main__":
    main()
