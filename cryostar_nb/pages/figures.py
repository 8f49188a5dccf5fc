"""Every shared figure. Nothing is computed here: functions take arrays, draw, and return a figure.

Colours are those of Okabe and Ito, which readers with any colour vision can tell apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from cryostar_nb.evaluation import ErrorPerState

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = {
    "cryoSTAR": "#0072B2",
    "paper's setting": "#CC79A7",
    "continuity alone": "#E69F00",
    "normal modes": "#009E73",
    "truth": "#000000",
    "doing nothing": "#999999",
    "accent": "#D55E00",
}
LOSSES = {  # structural
    "elastic": COLOURS["normal modes"],
    "continuity": COLOURS["cryoSTAR"],
    "clash": COLOURS["accent"],
}
METHODS = {"star": "cryoSTAR", "cont": "continuity alone", "nma": "normal modes"}  # in words
CYCLE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_TICKS = (100, 50, 30, 20, 15, 10, 8, 6, 5, 4, 3, 2.5, 2, 1.5)  # Å
_LEAST_LOSS = 1e-6  # Å², of a structural loss: zero has no place on a logarithmic axis

Values: TypeAlias = ArrayLike | Sequence[float | None]  # None, as in JSON, where there is no value


def _axes(ax: Axes | None, width: float = 6.0, height: float = 3.6) -> Axes:
    """The given axes, or those of a new figure, which pyplot does not know and so shows once."""
    if ax is not None:
        return ax
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def _figure(ax: Axes, *, legend: bool = True) -> Figure:
    """The figure of these axes, with a legend."""
    if legend:
        ax.legend(frameon=False)
    figure = ax.figure
    assert isinstance(figure, Figure)
    return figure


def _colours(labels: Iterable[str]) -> list[str]:
    """The colour of each label in COLOURS, and for any other label a colour not yet used."""
    names = list(labels)
    taken = {COLOURS.get(name) for name in names}
    rest = itertools.cycle([colour for colour in CYCLE if colour not in taken])
    return [COLOURS[name] if name in COLOURS else next(rest) for name in names]


def snr_colour(snr: float) -> str:
    """The colour of a noise level in every figure: yellow at an SNR of 1, violet at 0.0001."""
    return to_hex(colormaps["plasma"](0.9 + 0.225 * math.log10(min(max(snr, 1e-4), 1.0))))


def images(
    pictures: Sequence[ArrayLike] | ArrayLike,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 6,
    same_scale: bool = False,
    pixel_size: float | None = None,
) -> Figure:
    """Grey images (y, x) in a grid, density bright; `same_scale`: on one grey scale for all.

    `pixel_size`, in Å, adds a scale bar to the first image; it holds for all images of this size.
    """
    arrays = [np.asarray(picture) for picture in pictures]  # type: ignore[union-attr]
    rows, columns = -(-len(arrays) // columns), min(columns, len(arrays))
    size = (1.7 * columns, (1.7 + 0.25 * bool(titles)) * rows)
    figure = Figure(figsize=size, layout="constrained")
    limits = {}
    if same_scale:
        limits = {"vmin": min(a.min() for a in arrays), "vmax": max(a.max() for a in arrays)}
    for number, array in enumerate(arrays):
        ax = figure.add_subplot(rows, columns, number + 1)
        ax.imshow(array, cmap="gray", origin="lower", **limits)
        ax.set_axis_off()
        if titles:
            ax.set_title(titles[number], fontsize=9)
    if pixel_size is not None:
        _draw_scale_bar(figure.axes[0], arrays[0].shape[-1], pixel_size)
    return figure


def _draw_scale_bar(ax: Axes, pixels: int, pixel_size: float) -> None:
    """A bar in the lower left of an image, labelled in Å: 1, 2 or 5 times a power of ten."""
    longest = 0.4 * pixels * pixel_size  # Å
    decade = 10.0 ** math.floor(math.log10(longest))
    length = max(step for step in (1, 2, 5) if step * decade <= longest) * decade
    left, low, long = 0.06 * pixels, 0.06 * pixels, length / pixel_size
    outline = [withStroke(linewidth=5, foreground="black")]
    ax.plot(
        (left, left + long), (low, low), "w-", lw=3, solid_capstyle="butt", path_effects=outline
    )
    label = ax.text(
        left + long / 2, low + 0.04 * pixels, f"{length:g} Å", ha="center", color="w", fontsize=8
    )
    label.set_path_effects([withStroke(linewidth=2, foreground="black")])


def training(metrics: Mapping[str, Sequence[float]]) -> Figure:
    """The losses of `metrics.csv` against the step: image loss and, if any, structural losses.

    Dots: the image loss of particles held out, and of as many that are trained on, without blur.
    """
    structural = [name for name in LOSSES if name in metrics]
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, *rest = figure.subplots(1, 2 if structural else 1, squeeze=False)[0]
    left.plot(metrics["step"], metrics["image"], color=COLOURS["cryoSTAR"], label="batch")
    for name, colour in (("trained", COLOURS["cryoSTAR"]), ("held_out", COLOURS["accent"])):
        if name in metrics:  # NaN, which is not drawn, between checkpoints
            label = name.replace("_", " ")
            left.plot(metrics["step"], metrics[name], "o", color=colour, markersize=4, label=label)
            left.legend(frameon=False)
    left.set(xlabel="step", ylabel="image loss")
    for right in rest:
        for name in structural:
            values = np.maximum(metrics[name], _LEAST_LOSS)
            right.plot(metrics["step"], values, label=name, color=LOSSES[name])
        right.set(xlabel="step", ylabel="structural loss (Å²)", yscale="log")
        right.legend(frameon=False)
    return figure


def rmsd(
    curves: Mapping[str, tuple[Values, Values | None] | ErrorPerState], ax: Axes | None = None
) -> Figure:
    """Figure 3: mean RMSD per state, in Å, with a band of one standard deviation.

    `curves` maps a label to (mean, standard deviation or None) or to an `Evaluation`. A state that
    is NaN or None, because it has no particle, is a gap.
    """
    ax = _axes(ax)
    for (label, curve), colour in zip(curves.items(), _colours(curves), strict=True):
        if isinstance(curve, ErrorPerState):
            curve = (curve.rmsd_per_state, curve.rmsd_std_per_state)
        mean = np.asarray(curve[0], dtype=float)
        state = np.arange(1, len(mean) + 1)
        ax.plot(state, mean, color=colour, label=label)
        if curve[1] is not None:
            sd = np.asarray(curve[1], dtype=float)
            ax.fill_between(state, mean - sd, mean + sd, color=colour, alpha=0.25, linewidth=0)
    ax.set(xlabel="state (closed to open)", ylabel="Cα-RMSD to the truth (Å)", ylim=(0, None))
    return _figure(ax)


def certainty(sds: Float[np.ndarray, " atom"], chains: Shaped[np.ndarray, " atom"]) -> Figure:
    """How surely each residue is known: the sd of its node, in Å, chain after chain."""
    ax = _axes(None, width=8, height=2.6)
    ax.fill_between(
        np.arange(1, len(sds) + 1), sds, color=COLOURS["cryoSTAR"], alpha=0.4, step="mid"
    )
    for place in np.flatnonzero(chains[1:] != chains[:-1]):
        ax.axvline(place + 1.5, color="0.6", linewidth=0.8)
    ax.set(xlabel="residue", ylabel="sd (Å)", xlim=(0.5, len(sds) + 0.5), ylim=(0, None))
    return _figure(ax, legend=False)


def information_floor(
    snr: ArrayLike,
    floor: ArrayLike,
    error: ArrayLike,
    *,
    mean_structure: float,
    methods: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """RMSD, in Å, against SNR: the floor that no method can get below, and what methods reach.

    For methods' mean errors the floor is `lowest_mean` of an `InformationFloor`. The band around it
    is two standard errors wide on either side; `mean_structure` is the RMSD of always answering
    with the mean structure. `methods` maps a label to (SNR, RMSD), drawn as points.
    """
    ax = _axes(ax)
    order = np.argsort(np.asarray(snr))
    snr, floor, error = (np.asarray(values, dtype=float)[order] for values in (snr, floor, error))
    grey, black = COLOURS["doing nothing"], COLOURS["truth"]
    low, high = floor - 2 * error, floor + 2 * error
    ax.fill_between(snr, 0, floor, color=grey, alpha=0.15, linewidth=0)
    ax.fill_between(snr, low, high, color=black, alpha=0.3, linewidth=0)
    ax.plot(snr, floor, color=black, label="information floor")
    ax.axhline(mean_structure, color=grey, linestyle="--", label="always the mean structure")
    methods = methods or {}
    for (label, (places, values)), colour in zip(methods.items(), _colours(methods), strict=True):
        ax.plot(np.asarray(places), np.asarray(values), "o", color=colour, label=label)
    ylabel = "Cα-RMSD to the truth (Å)"
    ax.set(xlabel="SNR of an image", ylabel=ylabel, xscale="log", ylim=(0, None))
    return _figure(ax)


def fsc(
    frequencies: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    cutoff: float | None = None,
    level: float = 0.5,
    ax: Axes | None = None,
) -> Figure:
    """Fourier shell correlation against frequency, in 1/Å, on an axis that is labelled in Å.

    `cutoff`, in Å, marks where the correlation falls below the level (Figure 5c).
    """
    ax = _axes(ax)
    ax.axhline(level, color=COLOURS["doing nothing"], linewidth=1)
    _draw_by_detail(ax, frequencies, curves, "-")
    if cutoff is not None:
        label = f"{level:g} at {cutoff:.1f} Å"
        ax.plot(1 / cutoff, level, "o", color=COLOURS["accent"], label=label)
    ax.set(ylabel="FSC", ylim=(-0.1, 1.05))
    return _figure(ax)


def correlations(
    frequencies: ArrayLike, curves: Mapping[str, ArrayLike], ax: Axes | None = None
) -> Figure:
    """Mean correlation in rings of frequencies; a ring's frequency, in 1/Å, is its highest."""
    ax = _axes(ax)
    ax.axhline(0, color=COLOURS["doing nothing"], linewidth=1)
    _draw_by_detail(ax, frequencies, curves, "o-")
    ax.set(ylabel="mean correlation")
    return _figure(ax)


def _draw_by_detail(
    ax: Axes, frequencies: ArrayLike, curves: Mapping[str, ArrayLike], style: str
) -> None:
    """Draw curves against frequency, in 1/Å, and label the axis by the detail, in Å."""
    frequencies = np.asarray(frequencies, dtype=float)
    for (label, curve), colour in zip(curves.items(), CYCLE, strict=False):
        ax.plot(frequencies, np.asarray(curve), style, color=colour, label=label)
    highest = float(frequencies[-1])
    ticks: list[float] = []
    for tick in _TICKS:
        far_enough = not ticks or 1 / tick - 1 / ticks[-1] > 0.06 * highest
        if 0.04 <= 1 / tick / highest <= 1.02 and far_enough:
            ticks.append(tick)
    ax.set_xticks([1 / tick for tick in ticks], [f"{tick:g}" for tick in ticks])
    ax.set(xlabel="detail (Å)", xlim=(0, highest * 1.02))


def density_quality(
    full: Float[np.ndarray, "z y x"],
    coarse: Float[np.ndarray, "z y x"],
    frequencies: ArrayLike,
    curve: ArrayLike,
    *,
    cutoff: float,
) -> Figure:
    """Figure 5: the density of all atoms and that of the nodes' Gaussians, projected along z.

    Beside them stands the FSC between the two against frequency, in 1/Å, with its cutoff, in Å.
    """
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    *pictures, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    titles = ("all atoms", "Gaussians at the nodes")
    for ax, volume, title in zip(pictures, (full, coarse), titles, strict=True):
        ax.imshow(np.asarray(volume).sum(axis=0), cmap="gray", origin="lower")
        ax.set_axis_off()
        ax.set_title(title, fontsize=10)
    fsc(frequencies, {"nodes against all atoms": curve}, cutoff=cutoff, ax=right)
    return figure


def component_labels(explained: Sequence[float]) -> list[str]:
    """Names of up to three principal components; `explained`: fractions of the variance."""
    return [f"PC{i + 1} ({100 * part:.0f} % of variance)" for i, part in enumerate(explained[:3])]


def latents(
    scores: Float[np.ndarray, "particle component"],
    explained: Sequence[float],
    marks: Mapping[str, tuple[float, float]] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Density of particles over the first two principal components; `marks` names points in it."""
    ax = _axes(ax, 4.6, 3.8)
    x, y = scores[:, :2].T
    bins = ax.hexbin(x, y, gridsize=45, bins="log", cmap="viridis", mincnt=1, linewidths=0.2)
    colour = COLOURS["accent"]
    for name, place in (marks or {}).items():
        ax.plot(*place, "o", markersize=9, mfc="white", mec=colour, mew=2)
        above = (0.0, 9.0)
        text = ax.annotate(
            name, place, above, textcoords="offset points", ha="center", color=colour, weight="bold"
        )
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    xlabel, ylabel = component_labels(explained)[:2]
    ax.set(xlabel=xlabel, ylabel=ylabel)
    figure = _figure(ax, legend=False)
    figure.colorbar(bins, ax=ax, label="particles")
    return figure


def latent_scatter(
    scores: Float[np.ndarray, "particle component"],
    explained: Sequence[float],
    colour: ArrayLike | None = None,
    colour_label: str = "PC3",
) -> go.Figure:
    """Interactive scatter of the particles over PC1 and PC2; hover shows a particle's number.

    `colour` is a value of each particle; its score on PC3 by default.
    """
    import plotly.graph_objects as go

    marker: dict[str, Any] = {"size": 3, "opacity": 0.6, "colorscale": "Viridis"}
    marker["color"] = scores[:, 2] if colour is None else np.asarray(colour)
    marker["colorbar"] = {"title": colour_label}
    x, y = scores[:, :2].T.astype(np.float32)
    names = [f"particle {number + 1}" for number in range(len(scores))]
    points = go.Scattergl(x=x, y=y, mode="markers", marker=marker, text=names, hoverinfo="text+x+y")
    xlabel, ylabel = component_labels(explained)[:2]
    figure = go.Figure(points)
    figure.update_layout(xaxis_title=xlabel, yaxis_title=ylabel, template="plotly_white")
    figure.update_layout(height=520, margin={"l": 60, "r": 20, "t": 30, "b": 50})
    return figure
