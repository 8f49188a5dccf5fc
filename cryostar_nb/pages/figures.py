"""Every shared figure and 3D view. Nothing is computed here: functions take arrays, draw, and return what they drew.

Colours are Okabe & Ito's, which readers with any colour vision can tell apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = {
    "star": "#0072B2",
    "cont": "#E69F00",
    "nma": "#009E73",
    "truth": "#000000",
    "idle": "#999999",
    "accent": "#D55E00",
}
_CYCLE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
Values: TypeAlias = (
    ArrayLike | Sequence[float | None]
)  # None as JSON has it, where there is no value


def _axes(ax: Axes | None, width: float = 6.0, height: float = 3.6) -> Axes:
    """The given axes, or those of a new figure. The figure is not registered with pyplot, so nothing shows it twice."""
    return (
        ax
        if ax is not None
        else Figure(figsize=(width, height), layout="constrained").add_subplot()
    )


def _figure(ax: Axes) -> Figure:
    figure = ax.figure
    assert isinstance(figure, Figure)
    return figure


def plot_images(
    images: Sequence[ArrayLike] | ArrayLike,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 6,
    same_scale: bool = False,
) -> Figure:
    """Grey images in a grid, bright where there is density; `same_scale` gives all of them one grey scale."""
    pictures = [np.asarray(image) for image in images]  # type: ignore[union-attr]
    rows = -(-len(pictures) // columns)
    columns = min(columns, len(pictures))
    figure = Figure(
        figsize=(1.7 * columns, (1.7 + 0.25 * bool(titles)) * rows), layout="constrained"
    )
    limits = (
        {"vmin": min(p.min() for p in pictures), "vmax": max(p.max() for p in pictures)}
        if same_scale
        else {}
    )
    for number, picture in enumerate(pictures):
        ax = figure.add_subplot(rows, columns, number + 1)
        ax.imshow(picture, cmap="gray", origin="lower", **limits)
        ax.set_axis_off()
        if titles:
            ax.set_title(titles[number], fontsize=9)
    return figure


def plot_training(metrics: Mapping[str, Sequence[float]]) -> Figure:
    """The losses of `metrics.csv` against the step: the image loss, then, if there are any, the structural ones on a logarithmic scale."""
    structural = [name for name in ("elastic", "continuity", "clash") if name in metrics]
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, *rest = figure.subplots(1, 2 if structural else 1, squeeze=False)[0]
    left.plot(metrics["step"], metrics["image"], color=COLOURS["star"])
    left.set(xlabel="step", ylabel="image loss (minus correlation)")
    for right in rest:
        for name, colour in zip(structural, _CYCLE[1:], strict=False):
            right.plot(metrics["step"], np.maximum(metrics[name], 1e-6), label=name, color=colour)
        right.set(xlabel="step", ylabel="structural loss (Å²)", yscale="log")
        right.legend(frameon=False)
    return figure


def _colours(labels: Iterable[str]) -> list[str]:
    """A colour for each label: its own where it has one, and the next that no other has where it has none."""
    names = list(labels)
    rest = itertools.cycle(
        [colour for colour in _CYCLE if colour not in [COLOURS.get(name) for name in names]]
    )
    return [COLOURS[name] if name in COLOURS else next(rest) for name in names]


def plot_rmsd_per_state(
    curves: Mapping[str, tuple[Values, Values | None]], ax: Axes | None = None
) -> Figure:
    """Figure 3: mean RMSD per state with a band of one standard deviation. `curves` maps a label to (mean, sd or None).

    A state that is NaN or None, because no particle is in it, is a gap.
    """
    ax = _axes(ax)
    for (label, (mean, sd)), colour in zip(curves.items(), _colours(curves), strict=True):
        mean = np.asarray(mean, dtype=float)
        state = np.arange(1, len(mean) + 1)
        ax.plot(state, mean, color=colour, label=label)
        if sd is not None:
            sd = np.asarray(sd, dtype=float)
            ax.fill_between(state, mean - sd, mean + sd, color=colour, alpha=0.25, linewidth=0)
    ax.set(xlabel="state (closed to open)", ylabel="Cα-RMSD to the truth (Å)", ylim=(0, None))
    ax.legend(frameon=False)
    return _figure(ax)


def plot_information_floor(
    snr: ArrayLike,
    floor: ArrayLike,
    error: ArrayLike,
    *,
    mean_structure: float,
    methods: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """RMSD against SNR: what no method can get below, with a band of two standard errors, and who always says the mean structure.

    `methods` maps a label to (SNR, RMSD), drawn as points.
    """
    ax = _axes(ax)
    snr, floor, error = (np.asarray(values, dtype=float) for values in (snr, floor, error))
    order = np.argsort(snr)
    snr, floor, error = snr[order], floor[order], error[order]
    ax.fill_between(snr, 0, floor, color=COLOURS["idle"], alpha=0.15, linewidth=0)
    ax.fill_between(
        snr, floor - 2 * error, floor + 2 * error, color=COLOURS["truth"], alpha=0.3, linewidth=0
    )
    ax.plot(snr, floor, color=COLOURS["truth"], label="information floor")
    ax.axhline(
        mean_structure, color=COLOURS["idle"], linestyle="--", label="always the mean structure"
    )
    methods = methods or {}
    for (label, (places, values)), colour in zip(methods.items(), _colours(methods), strict=True):
        ax.plot(
            np.asarray(places),
            np.asarray(values),
            marker="o",
            linestyle="",
            color=colour,
            label=label,
        )
    ax.set(
        xlabel="SNR of an image", ylabel="Cα-RMSD to the truth (Å)", xscale="log", ylim=(0, None)
    )
    ax.legend(frameon=False)
    return _figure(ax)


def plot_fsc(
    frequencies: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    cutoff: float | None = None,
    level: float = 0.5,
    ax: Axes | None = None,
) -> Figure:
    """Fourier shell correlation against detail, in Å; `cutoff`, in Å, marks where it falls below the level (Figure 5c)."""
    ax = _axes(ax)
    frequencies = np.asarray(frequencies, dtype=float)
    ax.axhline(level, color=COLOURS["idle"], linewidth=1)
    for (label, curve), colour in zip(curves.items(), _CYCLE, strict=False):
        ax.plot(frequencies, np.asarray(curve), color=colour, label=label)
    if cutoff is not None:
        ax.plot(
            1 / cutoff, level, "o", color=COLOURS["accent"], label=f"{level:g} at {cutoff:.1f} Å"
        )
    _detail_axis(ax, float(frequencies[-1]))
    ax.set(ylabel="FSC", ylim=(-0.1, 1.05))
    ax.legend(frameon=False)
    return _figure(ax)


def plot_correlations(
    frequencies: ArrayLike, curves: Mapping[str, ArrayLike], ax: Axes | None = None
) -> Figure:
    """Correlations in rings of frequencies, each named by its finest detail."""
    ax = _axes(ax)
    frequencies = np.asarray(frequencies, dtype=float)
    for (label, curve), colour in zip(curves.items(), _CYCLE, strict=False):
        ax.plot(frequencies, np.asarray(curve), "o-", color=colour, label=label)
    _detail_axis(ax, float(frequencies[-1]))
    ax.axhline(0, color=COLOURS["idle"], linewidth=1)
    ax.set(ylabel="mean correlation")
    ax.legend(frameon=False)
    return _figure(ax)


def _detail_axis(ax: Axes, highest: float) -> None:
    """Label an axis of frequencies, up to the highest, in Å."""
    detail = [
        size
        for size in (100, 50, 30, 20, 15, 10, 8, 6, 5, 4, 3, 2.5, 2, 1.5)
        if 0.04 <= 1 / size / highest <= 1.02
    ]
    kept = [
        size
        for place, size in enumerate(detail)
        if place == 0 or 1 / size - 1 / detail[place - 1] > 0.06 * highest
    ]
    ax.set_xticks([1 / size for size in kept], [f"{size:g}" for size in kept])
    ax.set(xlabel="detail (Å)", xlim=(0, highest * 1.02))


def plot_density_quality(
    full: Float[np.ndarray, "z y x"],
    coarse: Float[np.ndarray, "z y x"],
    frequencies: ArrayLike,
    curve: ArrayLike,
    *,
    cutoff: float,
) -> Figure:
    """Figure 5: projections of the density of all atoms and of the nodes' Gaussians, and the FSC between them with its cutoff."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    for ax, volume, title in (
        (left, full, "all atoms"),
        (middle, coarse, "Gaussians at the nodes"),
    ):
        ax.imshow(np.asarray(volume).sum(axis=0), cmap="gray", origin="lower")
        ax.set_axis_off()
        ax.set_title(title, fontsize=10)
    plot_fsc(frequencies, {"nodes against all atoms": curve}, cutoff=cutoff, ax=right)
    return figure


def plot_latents(
    scores: Float[np.ndarray, "particle component"],
    explained: Sequence[float],
    marks: Mapping[str, tuple[float, float]] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Density of particles over the first two principal components of the latent; `marks` names points in it."""
    ax = _axes(ax, 4.6, 3.8)
    drawn = ax.hexbin(
        scores[:, 0],
        scores[:, 1],
        gridsize=45,
        bins="log",
        cmap="viridis",
        mincnt=1,
        linewidths=0.2,
    )
    _figure(ax).colorbar(drawn, ax=ax, label="particles")
    for name, (x, y) in (marks or {}).items():
        ax.plot(
            x,
            y,
            marker="o",
            markersize=9,
            markerfacecolor="white",
            markeredgecolor=COLOURS["accent"],
            markeredgewidth=2,
        )
        ax.annotate(
            name,
            (x, y),
            xytext=(6, 6),
            textcoords="offset points",
            color=COLOURS["accent"],
            fontweight="bold",
        )
    ax.set(
        xlabel=f"PC1 ({100 * explained[0]:.0f} % of variance)",
        ylabel=f"PC2 ({100 * explained[1]:.0f} %)",
    )
    return _figure(ax)


def latent_scatter(
    scores: Float[np.ndarray, "particle component"],
    explained: Sequence[float],
    colour: ArrayLike | None = None,
    colour_label: str = "PC3",
) -> go.Figure:
    """Interactive scatter of the particles over PC1 and PC2, coloured by a value of each; hover shows the particle's number."""
    import plotly.graph_objects as go

    colour = scores[:, 2] if colour is None else np.asarray(colour)
    points = go.Scattergl(
        x=scores[:, 0].astype(np.float32),
        y=scores[:, 1].astype(np.float32),
        mode="markers",
        marker={
            "size": 3,
            "opacity": 0.6,
            "color": colour,
            "colorscale": "Viridis",
            "colorbar": {"title": colour_label},
        },
        text=[f"particle {number + 1}" for number in range(len(scores))],
        hoverinfo="text+x+y",
    )
    figure = go.Figure(points)
    figure.update_layout(
        xaxis_title=f"PC1 ({100 * explained[0]:.0f} % of variance)",
        yaxis_title=f"PC2 ({100 * explained[1]:.0f} %)",
        template="plotly_white",
        height=520,
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
    )
    return figure
