"""The page of `check`: which motions of a run survive, and what speaks against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped
from markupsafe import Markup
from matplotlib.figure import Figure

from cryostar_nb.pages.figures import COLOURS, CYCLE
from cryostar_nb.pages.html import page, picture, section, table

if TYPE_CHECKING:
    from cryostar_nb.runs.verdicts import Checked

COLUMNS = ("motion", "run", "halves", "other reference", "noise alone", "verdict")
CAPTION = (
    "Each motion is a principal mode of the run's structures; sizes are Å rms over the nodes, from"
    " the 5th to the 95th percentile of {count} particles. In brackets: the correlation of these"
    " particles' places along it, between the two halves, and between the run and the training from"
    " another reference. Noise alone: the largest motion found in images of one structure, with the"
    " same poses, CTFs and noise. A motion survives if it is twice as large as that, and if halves"
    " and other reference have at least half of it and correlate by 0.5."
)
LINES = {
    "half1": ("one half", COLOURS["cryoSTAR"], "--"),
    "half2": ("other half", COLOURS["cryoSTAR"], ":"),
    "reference": ("other reference", CYCLE[2], "-"),
    "null": ("noise alone", COLOURS["doing nothing"], "-"),
    "run": ("run", COLOURS["truth"], "-"),
}


def check_page(found: Checked, title: str, chains: Shaped[np.ndarray, " residue"]) -> str:
    """The page as HTML; `chains` are those of all residues of the run."""
    rows = [(symptom.name, symptom.words, symptom.remedy) for symptom in found.symptoms]
    symptoms = table(rows, ("symptom", "what shows it", "what helps"))
    if not rows:
        symptoms = Markup("<p>No symptom of a failure was found.</p>")
    words = "Looked for in the run itself; none found does not mean that all is well."
    sections = [section("Symptoms", symptoms, words)]
    if found.motions:
        sections += _motions(found, chains[np.array(found.compared)])
    if found.held_out:
        lines = Markup("").join(Markup("<p>{}</p>").format(line) for line in found.held_out)
        caption = "What the run says of particles that it was not trained on."
        sections.append(section("Particles held out", lines, caption))
    return page(f"{title}: {found.verdict}", "cryoSTAR check", Markup("").join(sections))


def _motions(found: Checked, chains: Shaped[np.ndarray, " residue"]) -> list[Markup]:
    """A table of the motions, and a figure of how far each residue goes in each training."""
    rows = [
        (
            str(number),
            f"{motion.extent:.2f} ± {motion.error:.2f}",
            f"{motion.halves[0]:.2f}, {motion.halves[1]:.2f} ({motion.halves_agree:.2f})",
            f"{motion.reference:.2f} ({motion.reference_agrees:.2f})",
            f"{motion.noise:.2f}",
            "; ".join(motion.doubts) or "survives",
        )
        for number, motion in enumerate(found.motions, start=1)
    ]
    angles = ", ".join(f"{angle:.0f}°" for angle in found.angles)
    caption = CAPTION.format(count=f"{found.particles:,}")
    caption += f" Half-sets {found.halves}; angles between the spaces of their motions: {angles}."
    chart = picture(travel(found, chains), "displacement of each residue in each training")
    words = "How far each residue goes along a motion: between the mean structures of the tenths of"
    words += " the particles at its two ends."
    return [
        section("Motions", table(rows, COLUMNS), caption),
        section("Residues", chart, words),
    ]


def travel(found: Checked, chains: Shaped[np.ndarray, " residue"]) -> Figure:
    """Displacement of each residue along each motion, in every training."""
    count = len(found.motions)
    figure = Figure(figsize=(8, 2.4 * count), layout="constrained")
    for number, ax in enumerate(figure.subplots(count, 1, squeeze=False)[:, 0]):
        for name, (label, colour, style) in LINES.items():
            values = found.displacements[name][number]
            places = np.arange(1, len(values) + 1)
            ax.plot(places, values, style, color=colour, linewidth=1, label=label)
        for place in np.flatnonzero(chains[1:] != chains[:-1]):
            ax.axvline(place + 1.5, color="0.6", linewidth=0.8)
        ax.set(xlabel="residue", ylabel="displacement (Å)", title=f"motion {number + 1}")
        ax.set_xlim(0.5, len(chains) + 0.5)
        ax.set_ylim(bottom=0)
    figure.axes[0].legend(frameon=False, ncols=5, fontsize=8)
    return figure
