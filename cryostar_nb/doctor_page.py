"""The doctor's report: as text for a terminal, and as one page that needs no network, with particles beside what was predicted."""

import html
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from cryostar_nb.diagnosis import Diagnosis, name_of
from cryostar_nb.doctor import Scored, at_its_limit
from cryostar_nb.hypotheses import LEAST_SCALE, Sample, predict, spread
from cryostar_nb.page import page, picture, section, table
from cryostar_nb.remedies import train_command
from cryostar_nb.visualisation import plot_correlations, plot_images

SHOWN = 6  # particles
SHARPEST = 10  # cycles across the box, of the detail that is shown: noise hides the rest


def hypothesis_rows(found: Diagnosis, scored: list[Scored]) -> list[tuple[str, str, str]]:
    """The table: hypothesis, correlation, z-score against what the files say; best first."""
    rows = []
    for one in sorted(scored, key=lambda one: -one.mean):
        name = name_of(one.faults) if one.faults else "as the files say"
        if at_its_limit(one):  # it would rather be no fault
            name = name.replace("pixel size", f"pixel size by {100 * LEAST_SCALE:g} %")
        rows.append((name, f"{one.mean:.4f}", f"{0.0 if one is found.default else one.z(found.default):+.1f}"))
    return rows


def as_text(found: Diagnosis, result: dict[str, Any]) -> str:
    """What the terminal shows: every fault alone, and what else is in question."""
    candidates = {id(one) for one in (found.winner, *found.rivals)}
    shown = [one for one in found.scored if len(one.faults) < 2 or id(one) in candidates]
    rows = hypothesis_rows(found, shown)
    width = max(len(row[0]) for row in rows) + 2
    lines = [f"{result['n_particles']:,} of {len(found.particles):,} particles, down to {result['resolution']:.3g} Å", ""]
    lines += [f"{'hypothesis':{width}}{'correlation':>12}{'z':>8}", *(f"{a:{width}}{b:>12}{c:>8}" for a, b, c in rows)]
    hidden = len(found.scored) - len(shown)
    lines += [f"and {hidden} sets of several faults, which --json and the page of --out list"] * (hidden > 0)
    lines += ["", f"verdict: {result['verdict']}", *(f"  {line}" for line in [*result["details"], *result["notes"]])]
    if result["verdict"] != "undecided":
        lines.append(f"particles needed for this, with such a signal: {result['particles_needed']:,}")
        if result["needs_files"]:
            lines.append("to train, run this again with --out FOLDER: it writes the corrected files")
        else:
            lines.append(f"train with: {train_command(result['particles'], result['reference'] or 'MODEL', result['train_flags'])}")
    return "\n".join(lines)


def doctor_page(found: Diagnosis, result: dict[str, Any]) -> str:
    """The page as HTML."""
    rows = [tuple(map(html.escape, row)) for row in hypothesis_rows(found, found.scored)]
    words = "".join(f"<p>{html.escape(line)}</p>" for line in [*result["details"], *result["notes"]])
    rings = result["by_resolution"]
    curves = {"as the files say": [ring["as_given"] for ring in rings]}
    if found.faults:
        curves[result["verdict"]] = [ring["verdict"] for ring in rings]
    chart = plot_correlations([1 / ring["finest"] for ring in rings], curves)
    images, titles = _pictures(found)
    caption = "Above: particles. Below: what is predicted for each"
    caption += ", as the files say and then as the verdict says." if found.faults else ", as the files say."
    body = f"<p>{result['n_particles']:,} of {len(found.particles):,} particles of {html.escape(str(found.particles.source))}.</p>{words}"
    body += section("Particles and predictions", picture(plot_images(images, titles, columns=SHOWN), caption), caption)
    scores = (
        "Mean correlation of the particles with each prediction. z: of its difference from <i>as the files say</i>, in standard errors."
    )
    body += section("Hypotheses", table(rows, ("hypothesis", "correlation", "z")), scores)
    body += section(
        "By resolution",
        picture(chart, "correlation against spatial frequency"),
        "Mean correlation in rings of frequencies, up to this detail.",
    )
    return page(f"Verdict: {result['verdict']}", "cryoSTAR doctor", body)


def _pictures(found: Diagnosis) -> tuple[list[np.ndarray], list[str]]:
    """Particles, then predictions, without their finest detail."""
    sample = found.sample
    rows = torch.linspace(0, len(sample.images) - 1, min(SHOWN, len(sample.images))).long()
    part = Sample(sample.particles.select(rows.numpy()), sample.frequencies, sample.images[rows], sample.weight)
    seen = sample.frequencies.norm(dim=-1) <= SHARPEST / sample.edge
    kinds = [("particle", part.images), ("as the files say", predict(part, found.reference, found.default.hypothesis))]
    if found.faults and found.winner is not None:
        kinds.append(("verdict", predict(part, found.reference, found.winner.hypothesis)))

    def draw(vectors: Complex[Tensor, "particle coefficient"]) -> list[np.ndarray]:
        plain = vectors / sample.weight * seen
        return list(found.band.decode(torch.cat([plain.real, plain.imag], dim=-1)).numpy())

    images = [image for _, vectors in kinds for image in draw(vectors)]
    numbers = spread(len(sample.images), len(found.particles))[rows.numpy()] + 1  # in the file
    return images, [f"{name} {number}" if name == "particle" else name for name, _ in kinds for number in numbers]
