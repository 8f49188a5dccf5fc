"""The doctor's report: as text, as plain values for JSON, and as one page without a network."""

import itertools
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from cryostar_nb.doctor import thresholds as limits
from cryostar_nb.doctor.diagnosis import Diagnosis
from cryostar_nb.doctor.hypotheses import name_of, origins, predict
from cryostar_nb.doctor.remedies import ADVICE, train_command
from cryostar_nb.doctor.scoring import Scored, score
from cryostar_nb.latents import evenly_spaced
from cryostar_nb.pages import figures
from cryostar_nb.pages.html import page, picture, section, table

SHOWN = 6  # particles
SHOWN_CYCLES = 10  # across the box, of the detail that is shown: noise hides the rest
RINGS = 5  # of the table of correlations by resolution


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as plain values."""
    decided, default, written = diagnosis.decided, diagnosis.default, diagnosis.written
    needed = {"particles": diagnosis.needs_star, "reference": diagnosis.needs_model}
    asked = _in_question(diagnosis) if diagnosis.decision.rivals else []
    model, out = diagnosis.model_file, diagnosis.out
    return {
        "verdict": diagnosis.verdict,
        "faults": list(diagnosis.faults),
        "hypotheses": [
            {"name": name_of(row.faults), "correlation": row.mean, "z": row.z(default)}
            for row in sorted(diagnosis.scored, key=lambda row: -row.mean)
        ],
        "between": sorted(name_of(candidate.faults) for candidate in asked),
        "train_flags": diagnosis.train_flags if decided else [],
        "particles": written.get("particles", str(diagnosis.particles.source)),
        "reference": written.get("reference", None if model is None else str(model)),
        "needs_files": any(needed[name] and name not in written for name in needed),
        "n_particles": len(diagnosis.sample),
        "particles_needed": diagnosis.needed,
        "resolution": diagnosis.sample.resolution,
        "by_resolution": correlations_by_ring(diagnosis),
        "details": details(diagnosis),
        "notes": notes(diagnosis),
        "written": written | ({} if out is None else {"page": str(out / "doctor.html")}),
    }


def as_text(diagnosis: Diagnosis, result: dict[str, Any]) -> str:
    """What the terminal shows: every fault alone, and what else is in question."""
    asked = _in_question(diagnosis)
    shown = [row for row in diagnosis.scored if len(row.faults) < 2 or row in asked]
    rows = [("hypothesis", "correlation", "z"), *_rows(diagnosis, shown)]
    width = max(len(name) for name, _, _ in rows[1:]) + 2
    used, total = result["n_particles"], len(diagnosis.particles)
    lines = [f"{used:,} of {total:,} particles, down to {result['resolution']:.3g} Å", ""]
    lines += [f"{name:{width}}{mean:>12}{z:>8}" for name, mean, z in rows]
    if hidden := len(diagnosis.scored) - len(shown):
        lines.append(f"and {hidden} sets of several faults, listed by --json and the page of --out")
    words = [f"  {line}" for line in [*result["details"], *result["notes"]]]
    lines += ["", f"verdict: {result['verdict']}", *words]
    if diagnosis.decided:
        needed = result["particles_needed"]
        lines.append(f"particles needed for this, with such a signal: {needed:,}")
    if diagnosis.decided and result["needs_files"]:
        lines.append("to train, run this again with --out FOLDER: it writes the corrected files")
    elif diagnosis.decided:
        model = result["reference"] or "MODEL"
        command = train_command(result["particles"], model, result["train_flags"])
        lines.append(f"train with: {command}")
    return "\n".join(lines)


def doctor_page(diagnosis: Diagnosis) -> str:
    """The page as HTML."""
    rings = correlations_by_ring(diagnosis)
    curves = {"as the files say": [ring["as_given"] for ring in rings]}
    caption = "Above: particles. Below: what is predicted for each, as the files say"
    if diagnosis.faults:
        curves[diagnosis.verdict] = [ring["verdict"] for ring in rings]
        caption += ", and then as the verdict says"
    chart = figures.correlations([1 / ring["finest"] for ring in rings], curves)
    pictures = figures.images(*_pictures(diagnosis), columns=SHOWN)
    rows = _rows(diagnosis, diagnosis.scored)
    particles = diagnosis.particles
    used = f"{len(diagnosis.sample):,} of {len(particles):,} particles of {particles.source}."
    words = [used, *details(diagnosis), *notes(diagnosis)]
    sections = [
        *(Markup("<p>{}</p>").format(line) for line in words),
        section("Particles and predictions", picture(pictures, caption), f"{caption}."),
        section(
            "Hypotheses",
            table(rows, ("hypothesis", "correlation", "z")),
            "Mean correlation of the particles with each prediction. z: of its difference from "
            '"as the files say", in standard errors.',
        ),
        section(
            "By resolution",
            picture(chart, "correlation against spatial frequency"),
            "Mean correlation in rings of frequencies, up to this detail.",
        ),
    ]
    return page(f"Verdict: {diagnosis.verdict}", "cryoSTAR doctor", Markup("").join(sections))


def details(diagnosis: Diagnosis) -> list[str]:
    """What the verdict means, what helps, and the numbers that go with it, in sentences."""
    if not diagnosis.decided:
        advice = ADVICE["undecided"]
        names = ", ".join(name_of(candidate.faults) for candidate in _in_question(diagnosis))
        which = [f"It is one of these: {names}."] if diagnosis.decision.rivals else []
        lines = [advice["meaning"], *which, advice["remedy"]]
        if not diagnosis.lost and diagnosis.decision.mirror is None:  # else no number helps
            used, needed = len(diagnosis.sample), diagnosis.needed
            lines.append(f"About {needed:,} particles would decide it, and {used:,} were used.")
        return lines
    h, pixel_size = diagnosis.hypothesis, diagnosis.particles.pixel_size
    advices = [ADVICE[name] for name in diagnosis.faults or ("ok",)]
    lines = [f"{advice['meaning']} {advice['remedy']}" for advice in advices]
    if diagnosis.invert:
        lines = [line.replace("Give --invert.", "Leave out --invert.") for line in lines]
    if diagnosis.twins:
        lines.append(f"These predict the same images; one remedy helps: {diagnosis.verdict}.")
    if h.scale != 1:
        true = f"{pixel_size * h.scale:.4g} Å ({100 * (h.scale - 1):+.1f} %)"
        lines.append(f"The pixel size is {true}, not {pixel_size:.4g} Å.")
    if h.origin.unit:
        lines.append(f"The origins are in {'pixels' if h.origin.unit == 'px' else 'Å'}.")
    if {"model offset", "model orientation"} & set(diagnosis.faults):
        lines.append(f"The reference moves by {h.offset:.1f} Å and turns by {h.angle:.1f} degrees.")
    if h.placement.mirrored and diagnosis.atoms is not None:
        poses = "The model's chirality is right: the poses are of the other hand."
        lines.append(poses if diagnosis.turn_poses else "The model is a mirror image of a protein.")
    return lines


def notes(diagnosis: Diagnosis) -> list[str]:
    """What cannot be said here, and what else was seen, in sentences."""
    particles, lines = diagnosis.particles, []
    readings = origins(particles)
    if len(readings) == 1:
        lines.append("The particles have no shifts, so nothing is said about their origins.")
    elif not any(origin.unit for origin in readings):
        pixel_size = f"{particles.pixel_size:g} Å"
        lines.append(f"With pixels of {pixel_size}, the unit of the origins does not matter.")
    if names := ", ".join(diagnosis.indifferent):
        lines.append(f"These make no difference here, so nothing is said of them: {names}.")
    mirror, apparent, docked = diagnosis.decision.mirror, diagnosis.apparent_scale, diagnosis.docked
    if mirror is not None:
        fits = "the reference fits the images about as well as its mirror image"
        lines.append(f"Docked, {fits}: it may be another molecule.")
    elif apparent is not None:
        percent = 100 * (1 / apparent.scale - 1)
        size = f"{abs(percent):.1f} % {'larger' if percent > 0 else 'smaller'} than the reference"
        seen = f"At {apparent.resolution:.0f} Å the particles look {size}"
        lines.append(f"{seen}: in another shape, or with pixel size and CTF wrong together.")
    if docked is not None:
        lines.append(
            f"The model correlates with the map by {docked.before:.2f} where it is, by "
            f"{docked.after:.2f} docked, and by {docked.mirrored:.2f} docked as its mirror image."
        )
        if diagnosis.lost:
            better = f"its mirror image's and than chance, {docked.chance:.2f}"
            other = "it may not be the molecule of the map, or the map is too coarse"
            lines.append(f"No place is clearly better than {better}: {other}.")
    return lines


def correlations_by_ring(diagnosis: Diagnosis) -> list[dict[str, float]]:
    """Correlations, as the files say and as the verdict says, in rings of frequencies."""
    edges = np.linspace(0, 1 / diagnosis.sample.resolution, RINGS + 1).tolist()
    default = diagnosis.default
    hypotheses = [row.hypothesis for row in (default, diagnosis.winner or default)]
    rows = []
    for low, high in itertools.pairwise(edges):
        ring = diagnosis.sample.between(low, high)
        if len(ring.frequencies):
            values = [score(ring, diagnosis.reference, which).mean for which in hypotheses]
            rows.append({"finest": 1 / high, "as_given": values[0], "verdict": values[1]})
    return rows


def _in_question(diagnosis: Diagnosis) -> list[Scored]:
    """The winner, if there is one, and its rivals."""
    winner = [] if diagnosis.winner is None else [diagnosis.winner]
    return [*winner, *diagnosis.decision.rivals]


def _rows(diagnosis: Diagnosis, scored: list[Scored]) -> list[tuple[str, str, str]]:
    """The table: hypothesis, correlation, z-score against what the files say; best first."""
    rows = []
    for row in sorted(scored, key=lambda row: -row.mean):
        name = name_of(row.faults) if row.faults else "as the files say"
        if row.at_limit:
            error = f"pixel size by {100 * limits.LEAST_SCALE_ERROR:g} %"
            name = name.replace("pixel size", error)
        rows.append((name, f"{row.mean:.4f}", f"{row.z(diagnosis.default):+.1f}"))
    return rows


def _pictures(diagnosis: Diagnosis) -> tuple[list[np.ndarray], list[str]]:
    """Particles, then predictions, without their finest detail; with titles."""
    sample = diagnosis.sample
    rows = evenly_spaced(SHOWN, len(sample))
    part = sample[rows]
    kept = sample.frequencies.norm(dim=-1) <= SHOWN_CYCLES / sample.edge
    numbers = evenly_spaced(len(sample), len(diagnosis.particles))[rows] + 1  # in the file
    named = {"as the files say": diagnosis.default}
    if diagnosis.faults and diagnosis.winner is not None:
        named["verdict"] = diagnosis.winner
    predicted = [predict(part, diagnosis.reference, row.hypothesis) for row in named.values()]
    images: list[np.ndarray] = []
    for vectors in (part.images, *predicted):
        plain = vectors / sample.weight * kept
        images += list(diagnosis.band.decode(torch.cat([plain.real, plain.imag], dim=-1)).numpy())
    titles = [f"particle {number}" for number in numbers.tolist()]
    return images, titles + [name for name in named for _ in titles]
