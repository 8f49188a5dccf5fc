"""What a particle file was understood to hold, and what in it will cause trouble.

Its images need not exist, and nothing is trained.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.errors import InputError
from cryostar_nb.geometry import relion_angles_from_rotations
from cryostar_nb.io.metadata import Metadata
from cryostar_nb.io.options import Reading
from cryostar_nb.io.problems import understand
from cryostar_nb.io.reading import open_metadata

BANDS, SECTORS = 5, 20  # of the half-sphere: a hundred cells of one area
GROUPS_SHOWN = 5
MICROSCOPE = ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")


def inspect_particles(path: Path | str, reading: Reading | None = None) -> dict[str, Any]:
    """Read what can be read, and list the problems.

    The keys: `file`, `format`, `n_particles`, `box_size`, `pixel_size` (Å), `phase_flipped`,
    `optics_groups`, `defocus_range` (Å), `pose_coverage`, `shifts` (Å), `images`, `columns_used`,
    `columns_ignored`, `notes` and `problems`, a sentence each. What is not known is None. Raises
    InputError only where the file cannot be opened at all.
    """
    found = understand(open_metadata(path, reading), reading)
    source, names, ctf = found.source, found.names, found.ctf
    images = None
    if names is not None:
        missing = None if found.missing is None else len(found.missing)
        images = {"root": str(found.root), "files": len(names.files), "missing": missing}
    return {
        "file": str(path),
        "format": source.format,
        "n_particles": len(source),
        "box_size": found.box_size,
        "pixel_size": found.pixel_size,
        "phase_flipped": found.phase_flipped,
        "optics_groups": _groups(source, ctf, found.box_sizes),
        "defocus_range": None if ctf is None else _defocus_range(ctf),
        "pose_coverage": None if found.rotations is None else pose_coverage(found.rotations),
        "shifts": None if found.shifts is None else _shift_lengths(found.shifts),
        "images": images,
        "columns_used": list(source.used),
        "columns_ignored": list(source.ignored),
        "notes": found.notes,
        "problems": list(dict.fromkeys(map(str, found.problems))),
    }


def pose_coverage(rotations: Float[np.ndarray, "particle 3 3"]) -> dict[str, float]:
    """How evenly the views are spread over the half-sphere, and the images in their plane.

    1 is even, 0 is all alike. `view_evenness` is three times the least eigenvalue of the mean of
    v v^T, where v is the direction of view in the frame of the model: 0 when all views are
    perpendicular to one direction. `views_seen` is the fraction of a hundred equal cells of the
    half-sphere with a view in them, and `views_expected` what even views of this number would give.
    `in_plane_evenness` is one minus the length of the mean of exp(i psi).
    """
    views = rotations[:, 2]  # R^T z: the beam, in the frame of the model
    views = np.where(views[:, 2:] < 0, -views, views)  # from below is from above, mirrored
    band = np.minimum((views[:, 2] * BANDS).astype(int), BANDS - 1)
    turn = np.arctan2(views[:, 1], views[:, 0]) / (2 * np.pi) + 0.5
    sector = np.minimum((turn * SECTORS).astype(int), SECTORS - 1)
    cells = BANDS * SECTORS
    psi = np.deg2rad(relion_angles_from_rotations(rotations)[:, 2])
    return {
        "view_evenness": float(3 * np.linalg.eigvalsh(views.T @ views / len(views))[0].clip(0)),
        "views_seen": len(np.unique(band * SECTORS + sector)) / cells,
        "views_expected": float(1 - (1 - 1 / cells) ** len(views)),
        "in_plane_evenness": float(1 - np.abs(np.exp(1j * psi).mean())),
    }


def _groups(
    source: Metadata, ctf: CTFParameters | None, box_sizes: np.ndarray | None
) -> list[dict[str, Any]]:
    """Each optics group with what its first particle has."""
    columns: dict[str, np.ndarray] = {}
    with suppress(InputError):  # a problem that is listed already
        columns["pixel_size"] = source.pixel_sizes()
    if box_sizes is not None:
        columns["box_size"] = box_sizes.astype(np.int64)
    if ctf is not None:
        columns |= {field: getattr(ctf, field).numpy() for field in MICROSCOPE}
    labels = np.unique(source.optics_groups().astype(str), return_index=True, return_counts=True)
    groups = []
    for label, row, count in zip(*(part.tolist() for part in labels), strict=True):
        known = {name: values[row].item() for name, values in columns.items()}
        known = {name: value for name, value in known.items() if np.isfinite(value)}
        unknown = dict.fromkeys(("pixel_size", "box_size", *MICROSCOPE))
        groups.append({"group": label, "n_particles": count} | unknown | known)
    return groups


def _defocus_range(ctf: CTFParameters) -> list[float]:
    defocus = (ctf.defocus_u + ctf.defocus_v) / 2
    return [float(defocus.min()), float(defocus.max())]


def _shift_lengths(shifts: Float[np.ndarray, "particle 2"]) -> dict[str, Any]:
    length = np.linalg.norm(shifts, axis=1)
    return {
        "mean": shifts.mean(axis=0).tolist(),
        "root_mean_square": float(np.sqrt((length**2).mean())),
        "largest": float(length.max()),
    }


def describe(facts: dict[str, Any]) -> str:
    """The same as lines of text."""
    lines = [
        ("file", f"{facts['file']} ({facts['format']})"),
        ("particles", f"{facts['n_particles']:,}"),
        ("box", _number(facts["box_size"], " pixels")),
        ("pixel size", _number(facts["pixel_size"], " Å")),
        *_describe_groups(facts["optics_groups"]),
    ]
    if facts["defocus_range"]:
        lines.append(("defocus", "{:,.0f} to {:,.0f} Å".format(*facts["defocus_range"])))
    if facts["phase_flipped"]:
        lines.append(("phases", "flipped; they are flipped back when the images are read"))
    if coverage := facts["pose_coverage"]:
        views, even = 100 * coverage["views_seen"], 100 * coverage["views_expected"]
        seen = f"{views:.0f} % of the half-sphere seen (even views: {even:.0f} %)"
        lines.append(("views", f"{seen}, evenness {coverage['view_evenness']:.2f} of 1"))
        lines.append(("in plane", f"evenness {coverage['in_plane_evenness']:.2f} of 1"))
    if facts["shifts"]:
        text = "root mean square {root_mean_square:.2f} Å, largest {largest:.2f} Å"
        lines.append(("shifts", text.format(**facts["shifts"])))
    if images := facts["images"]:
        files = f"files: {images['files']:,}, of which missing: {_number(images['missing'])}"
        lines.append(("images", f"{files}; names start from {images['root']}"))
    if "good_particles" in facts:
        good = facts["good_particles"]
        text = "not known before `analyse`" if good is None else f"{good:,} of them"
        lines.insert(2, ("probably good", text))
    lines.append(("columns used", ", ".join(facts["columns_used"])))
    lines.append(("columns ignored", ", ".join(facts["columns_ignored"]) or "none"))
    lines += [("note", text) for text in facts["notes"]]
    lines += [("problem", text) for text in facts["problems"]] or [("problems", "none found")]
    return "\n".join(f"{name:18s}{text}" for name, text in lines)


def _describe_groups(groups: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    microscope = "{voltage_kv} kV, Cs {spherical_aberration_mm} mm"
    text = f"{{pixel_size}} Å, {microscope}, amplitude contrast {{amplitude_contrast}}"
    for group in groups[:GROUPS_SHOWN]:
        values = {name: _number(group[name]) for name in ("pixel_size", *MICROSCOPE)}
        count = f"{group['n_particles']:,} particles"
        yield f"optics group {group['group']}", f"{count}, {text.format(**values)}"
    if len(groups) > GROUPS_SHOWN:
        yield "", f"and {len(groups) - GROUPS_SHOWN} more optics groups"


def _number(value: float | None, unit: str = "") -> str:
    return "not known" if value is None else f"{value:,.5g}{unit}"
