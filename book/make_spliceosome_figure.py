"""Draw the structures at both ends of the rehearsal's runs, as in the paper's Figure 4 (ii).

    python book/make_spliceosome_figure.py TRUTH NAME=RUN ... [--out FILE]

TRUTH is the truth.npz of the rehearsal, each RUN a run folder of it. A column is a run, its rows
the structures at the 5th and the 95th percentile of its first component; the last column is the
truth at the same percentiles of the states. Writes `book/images/spliceosome_ends.webp`.
"""

import argparse
from pathlib import Path

import numpy as np
from jaxtyping import Float
from make_spliceosome import MOTION
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from cryostar_nb.latents import ENDS
from cryostar_nb.runs.folder import open_run
from cryostar_nb.structure import Structure, bonds

DOMAINS = dict(zip(("U2 and SF3b", "helicase"), MOTION, strict=True))  # their chains
OUT = Path(__file__).parent / "images" / "spliceosome_ends.webp"
COLOUR = {"U2 and SF3b": "#D55E00", "helicase": "#0072B2", "body and foot": "#999999"}


def view_of(
    moved: Float[np.ndarray, "node 3"],
    still: Float[np.ndarray, " 3"],
    positions: Float[np.ndarray, "node 3"],
) -> np.ndarray:
    """Axes (2, 3) of a plane that shows the motion from its side.

    The second is the mean motion; the first leads from what is still to what moves.
    """
    up = moved.mean(0) / np.linalg.norm(moved.mean(0))
    out = positions.mean(0) - still
    out -= (out @ up) * up
    return np.stack([out / np.linalg.norm(out), up])


def draw(
    ax: Axes,
    positions: Float[np.ndarray, "node 3"],
    ghost: Float[np.ndarray, "node 3"],
    nodes: Structure,
    axes: np.ndarray,
) -> None:
    """The chains' traces, over a dark trace of where the moving domains were; the nearest last."""
    pairs = bonds(nodes)
    flat, depth = positions @ axes.T, positions @ np.cross(axes[0], axes[1])
    domain = {letter: name for name, letters in DOMAINS.items() for letter in letters}
    colours = np.array(
        [COLOUR[domain.get(chain, "body and foot")] for chain in nodes.chains[pairs[:, 0]]]
    )
    order = np.argsort(depth[pairs].mean(1))
    moves = np.isin(nodes.chains[pairs[:, 0]], list(domain))
    ax.add_collection(
        LineCollection(list((ghost @ axes.T)[pairs[moves]]), colors="black", linewidths=0.5)
    )
    ax.add_collection(
        LineCollection(list(flat[pairs[order]]), colors=colours[order].tolist(), linewidths=0.5)
    )
    ax.set(aspect="equal", xticks=[], yticks=[])
    ax.set_frame_on(False)


def main() -> None:
    """Draw all runs, and the truth."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("truth", type=Path)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    folders = dict(word.split("=", 1) for word in arguments.runs)
    runs = {name: open_run(folder) for name, folder in folders.items()}
    nodes = next(iter(runs.values())).nodes
    with np.load(arguments.truth) as truth:
        low, high = np.percentile(truth["state"], ENDS, method="nearest")
        true = truth["positions"][[low, high]]
    columns = {name: run.traverse(frames=2, in_gauge=False).numpy() for name, run in runs.items()}
    columns["truth"] = true
    motion = true[1] - true[0]
    moving = np.linalg.norm(motion, axis=-1) > 1
    axes = view_of(motion[moving], true[0][~moving].mean(0), true[0][moving])
    flat = (true @ axes.T).reshape(-1, 2)
    low_corner, high_corner = flat.min(axis=0) - 10, flat.max(axis=0) + 10  # Å

    figure = Figure(figsize=(2.4 * len(columns), 5.4), layout="constrained")
    panels = figure.subplots(2, len(columns))
    for column, (name, ends) in zip(panels.T, columns.items(), strict=True):
        for ax, positions, percentile in zip(column, ends, ENDS, strict=True):
            draw(ax, positions, ends[0], nodes, axes)
            ax.set(xlim=(low_corner[0], high_corner[0]), ylim=(low_corner[1], high_corner[1]))
            if ax is panels[0, 0] or ax is panels[1, 0]:
                ax.set_ylabel(f"{percentile:.0f} %")
        column[0].set_title(name, fontsize=10)
    arguments.out.parent.mkdir(exist_ok=True)
    figure.savefig(arguments.out, dpi=130)


if __name__ == "__main__":
    main()
