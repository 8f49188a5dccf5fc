"""The doctor's report: as text for a terminal, and as one page that needs no network, with particles beside what was predicted."""

import html
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from cryostar_nb.doctor.diagnosis import Diagnosis, name_of
from cryostar_nb.doctor.hypotheses import LEAST_SCALE, predict
from cryostar_nb.doctor.remedies import ADVICE, train_command, train_flags
from cryostar_nb.doctor.sample import Sample, spread
from cryostar_nb.doctor.verdict import Scored, at_its_limit, mirror_of, score
from cryostar_nb.io.reading import Reading
from cryostar_nb.pages.figures import plot_correlations, plot_images
from cryostar_nb.pages.html import page, picture, section, table

SHOWN = 6  # particles
SHARPEST = 10  # cycles across the box, of the detail that is shown: noise hides the rest


def hypothesis_rows(found: Diagnosis, scored: list[Scored]) -> list[tuple[str, str, str]]:
    """The table: hypothesis, correlation, z-score against what the files say; best first."""
    rows = []
    for one in sorted(scored, key=lambda one: -one.mean):
        name = name_of(one.faults) if one.faults else "as the files say"
        if at_its_limit(one):  # it would rather be no fault
            name = name.replace("pixel size", f"pixel size by {100 * LEAST_SCALE:g} %")
        rows.append(
            (
                name,
                f"{one.mean:.4f}",
                f"{0.0 if one is found.default else one.z(found.default):+.1f}",
            )
        )
    return rows


def as_text(found: Diagnosis, result: dict[str, Any]) -> str:
    """What the terminal shows: every fault alone, and what else is in question."""
    candidates = {id(one) for one in (found.winner, *found.rivals)}
    shown = [one for one in found.scored if len(one.faults) < 2 or id(one) in candidates]
    rows = hypothesis_rows(found, shown)
    width = max(len(row[0]) for row in rows) + 2
    lines = [
        f"{result['n_particles']:,} of {len(found.particles):,} particles, down to {result['resolution']:.3g} Å",
        "",
    ]
    lines += [
        f"{'hypothesis':{width}}{'correlation':>12}{'z':>8}",
        *(f"{a:{width}}{b:>12}{c:>8}" for a, b, c in rows),
    ]
    hidden = len(found.scored) - len(shown)
    lines += [f"and {hidden} sets of several faults, which --json and the page of --out list"] * (
        hidden > 0
    )
    lines += [
        "",
        f"verdict: {result['verdict']}",
        *(f"  {line}" for line in [*result["details"], *result["notes"]]),
    ]
    if result["verdict"] != "undecided":
        lines.append(
            f"particles needed for this, with such a signal: {result['particles_needed']:,}"
        )
        if result["needs_files"]:
            lines.append(
                "to train, run this again with --out FOLDER: it writes the corrected files"
            )
        else:
            lines.append(
                f"train with: {train_command(result['particles'], result['reference'] or 'MODEL', result['train_flags'])}"
            )
    return "\n".join(lines)


def doctor_page(found: Diagnosis, result: dict[str, Any]) -> str:
    """The page as HTML."""
    rows = [tuple(map(html.escape, row)) for row in hypothesis_rows(found, found.scored)]
    words = "".join(
        f"<p>{html.escape(line)}</p>" for line in [*result["details"], *result["notes"]]
    )
    rings = result["by_resolution"]
    curves = {"as the files say": [ring["as_given"] for ring in rings]}
    if found.faults:
        curves[result["verdict"]] = [ring["verdict"] for ring in rings]
    chart = plot_correlations([1 / ring["finest"] for ring in rings], curves)
    images, titles = _pictures(found)
    caption = "Above: particles. Below: what is predicted for each"
    caption += (
        ", as the files say and then as the verdict says."
        if found.faults
        else ", as the files say."
    )
    body = f"<p>{result['n_particles']:,} of {len(found.particles):,} particles of {html.escape(str(found.particles.source))}.</p>{words}"
    body += section(
        "Particles and predictions",
        picture(plot_images(images, titles, columns=SHOWN), caption),
        caption,
    )
    scores = "Mean correlation of the particles with each prediction. z: of its difference from <i>as the files say</i>, in standard errors."
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
    part = Sample(
        sample.particles.select(rows.numpy()),
        sample.frequencies,
        sample.images[rows],
        sample.weight,
    )
    seen = sample.frequencies.norm(dim=-1) <= SHARPEST / sample.edge
    kinds = [
        ("particle", part.images),
        ("as the files say", predict(part, found.reference, found.default.hypothesis)),
    ]
    if found.faults and found.winner is not None:
        kinds.append(("verdict", predict(part, found.reference, found.winner.hypothesis)))

    def draw(vectors: Complex[Tensor, "particle coefficient"]) -> list[np.ndarray]:
        plain = vectors / sample.weight * seen
        return list(found.band.decode(torch.cat([plain.real, plain.imag], dim=-1)).numpy())

    images = [image for _, vectors in kinds for image in draw(vectors)]
    numbers = spread(len(sample.images), len(found.particles))[rows.numpy()] + 1  # in the file
    return images, [
        f"{name} {number}" if name == "particle" else name
        for name, _ in kinds
        for number in numbers
    ]


RINGS = 5  # of the table of correlations by resolution


def as_json(
    found: Diagnosis,
    written: dict[str, str] | None = None,
    reference: Path | None = None,
    reading: Reading | None = None,
) -> dict[str, Any]:
    """The diagnosis as plain values; `written` are the corrected files, if any, and `reading` is how the particles were read."""
    written = written or {}
    default, needed = found.default, {"particles": found.needs_star, "reference": found.needs_model}
    star = Path(written["particles"]) if "particles" in written else None
    return {
        "verdict": found.verdict,
        "faults": list(found.faults),
        "hypotheses": [
            {
                "name": name_of(one.faults),
                "correlation": one.mean,
                "z": 0.0 if one is default else one.z(default),
            }
            for one in sorted(found.scored, key=lambda one: -one.mean)
        ],
        "between": sorted(
            name_of(one.faults) for one in [found.winner, *found.rivals] if one is not None
        )
        if found.rivals
        else [],
        "train_flags": train_flags(
            found.particles, found.hypothesis, reading or Reading(), star, invert=found.invert
        )
        if found.decided
        else [],
        "particles": written.get("particles", str(found.particles.source)),
        "reference": written.get("reference", None if reference is None else str(reference)),
        "needs_files": any(needed[name] and name not in written for name in needed),
        "n_particles": len(found.sample.images),
        "particles_needed": found.needed,
        "resolution": found.sample.resolution,
        "by_resolution": correlations_by_ring(found),
        "details": details(found),
        "notes": found.notes,
        "written": written,
    }


def correlations_by_ring(found: Diagnosis) -> list[dict[str, float]]:
    """Correlation of what the files say, and of the verdict, in rings of frequencies of equal width."""
    edges = np.linspace(0, 1 / found.sample.resolution, RINGS + 1)
    rings = []
    for low, high in itertools.pairwise(edges.tolist()):
        ring = found.sample.between(low, high)
        if len(ring.frequencies):
            best = found.default if found.winner is None else found.winner
            both = (
                score(ring, found.reference, one.hypothesis).mean for one in (found.default, best)
            )
            rings.append(
                dict(zip(("finest", "as_given", "verdict"), (1 / high, *both), strict=True))
            )
    return rings


def details(found: Diagnosis) -> list[str]:
    """What the verdict means, what helps, and the numbers that go with it, in sentences."""
    if found.verdict == "undecided":
        lines = [ADVICE["undecided"].meaning, ADVICE["undecided"].remedy]
        if found.rivals:
            assert found.winner is not None
            names = ", ".join(name_of(one.faults) for one in (found.winner, *found.rivals))
            lines.insert(1, f"It is one of these: {names}.")
        if found.lost or (
            found.winner is not None and mirror_of(found.winner, found.scored) is not None
        ):
            return lines  # more particles would not help
        return [
            *lines,
            f"About {found.needed:,} particles would decide it, and {len(found.sample.images):,} were used.",
        ]
    h = found.hypothesis
    lines = [f"{ADVICE[name].meaning} {ADVICE[name].remedy}" for name in found.faults or ("ok",)]
    if found.invert and "contrast sign" in found.faults:
        lines = [line.replace("Give --invert.", "Leave out --invert.") for line in lines]
    if found.twins:
        lines.append(
            f"These predict the same images, and what helps against one helps against the others: {found.verdict}."
        )
    if h.scale != 1:
        lines.append(
            f"The pixel size is {found.particles.pixel_size * h.scale:.4g} Å ({100 * (h.scale - 1):+.1f} %), not {found.particles.pixel_size:.4g} Å."
        )
    if h.origin.unit:
        lines.append(f"The origins are in {'pixels' if h.origin.unit == 'px' else 'Å'}.")
    if {"model offset", "model orientation"} & set(found.faults):
        lines.append(f"The reference moves by {h.offset:.1f} Å and turns by {h.angle:.1f} degrees.")
    if h.placement.mirrored and found.atoms is not None:
        lines.append(
            "The model's chirality is right: the poses are of the other hand."
            if found.turn_poses
            else "The model is a mirror image of a protein."
        )
    return lines
