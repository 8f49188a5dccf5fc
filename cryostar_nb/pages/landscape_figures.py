"""Figures of clusters and of the population along a motion. Nothing is computed here."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from cryostar_nb.pages.figures import COLOURS, CYCLE, component_labels

NONE = "#BBBBBB"  # of particles that are in no cluster


def clusters(
    scores: Float[np.ndarray, "particle component"],
    labels: Int[np.ndarray, " particle"],
    explained: Sequence[float],
) -> Figure:
    """Particles over the first three principal components, coloured by cluster; 0, grey: in none.

    `explained`: fractions of the variance.
    """
    verticals = range(1, min(3, scores.shape[1]))
    figure = Figure(figsize=(4.5 * len(verticals), 3.8), layout="constrained")
    names = component_labels(explained)
    axes = figure.subplots(1, len(verticals), squeeze=False)[0]
    for ax, vertical in zip(axes, verticals, strict=True):
        for number in range(labels.max(initial=0) + 1):
            inside = labels == number
            colour = CYCLE[(number - 1) % len(CYCLE)] if number else NONE
            label = f"cluster {number}" if number else "in none"
            if inside.any():
                x, y = scores[inside, 0], scores[inside, vertical]
                ax.plot(x, y, ".", markersize=2, color=colour, label=label, rasterized=True)
        ax.set(xlabel=names[0], ylabel=names[vertical])
    figure.axes[0].legend(frameon=False, markerscale=4)
    return figure


def populations(
    displacement: Float[np.ndarray, " bin"],
    found: tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]],
    bare: tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]],
    energies: tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]],
    scores: Float[np.ndarray, " bin"],
    others: Sequence[Float[np.ndarray, " bin"]] = (),
) -> Figure:
    """Populations of bins along a motion beside the histogram of latent means, and energies.

    Each is (value, sd); energies are in kT. Ticks of the upper axis are `displacement`, in Å.
    `others`: the populations by other trainings.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    blue, grey = COLOURS["cryoSTAR"], COLOURS["doing nothing"]
    for values, colour, label in (
        (bare, grey, "histogram of latent means"),
        (found, blue, "by the posteriors"),
    ):
        left.errorbar(scores, *values, fmt="o-", markersize=3, capsize=2, color=colour, label=label)
    if len(others):
        columns = np.stack(others, axis=1)
        lines = left.plot(scores, columns, "s:", markersize=3, lw=1, color=COLOURS["accent"])
        lines[0].set_label("by another training")
    left.set(xlabel="score", ylabel="population of a bin", ylim=(0, None))
    left.legend(frameon=False)
    right.errorbar(scores, *energies, fmt="o-", markersize=3, capsize=2, color=blue)
    right.set(xlabel="score", ylabel="energy (kT)")
    some = np.unique(np.linspace(0, len(scores) - 1, 5).round().astype(int))
    for ax in (left, right):
        upper = ax.secondary_xaxis("top")
        upper.set_xticks(scores[some], [f"{displacement[i]:.1f}" for i in some])
        upper.set_xlabel("rms from the start (Å)")
    return figure
