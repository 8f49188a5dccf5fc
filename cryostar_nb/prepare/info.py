"""What a particle file was understood to hold, and what in it will cause trouble.

Its images need not exist, and nothing is trained.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.errors import InputError
from cryostar_nb.geometry import relion_angles_from_rotations
from cryostar_nb.io.metadata import ImageNames, Metadata, Poses
from cryostar_nb.io.options import Reading
from cryostar_nb.io.reading import check_stacks, locate, open_metadata, project_root, repeated_rows

USUAL_DEFOCUS = (1_000.0, 100_000.0)  # Å
BANDS, SECTORS = 5, 20  # of the half-sphere: a hundred cells of one area
GROUPS_SHOWN = 5
MICROSCOPE = ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")

T = TypeVar("T")


def inspect_particles(path: Path | str, reading: Reading | None = None) -> dict[str, Any]:
    """Read what can be read, and list the problems.

    The keys: `file`, `format`, `n_particles`, `box_size`, `pixel_size` (Å), `phase_flipped`,
    `optics_groups`, `defocus_range` (Å), `pose_coverage`, `shifts` (Å), `images`, `columns_used`,
    `columns_ignored` and `problems`, a sentence each. What is not known is None. Raises InputError
    only where the file cannot be opened at all.
    """
    reading = reading or Reading()
    source = open_metadata(path, reading)
    problems: list[InputError] = []

    def ask(question: Callable[..., T], *inputs: Any) -> T | None:
        """The answer; None where it is a problem, or where something it needs is not known."""
        try:
            return None if any(value is None for value in inputs) else question(*inputs)
        except InputError as error:
            problems.append(error)
            return None

    names = ask(source.image_names)
    root = reading.root or ask(project_root, source.path, names)
    stacks = ask(lambda *at: locate(source, *at, allow_outside=reading.allow_outside), names, root)
    missing = ask(lambda stacks: [at for at in stacks if not os.path.isfile(at)], stacks)
    box_size = ask(_box_size, source, names, stacks, missing)
    box_sizes = ask(source.box_sizes)
    if box_size is None and box_sizes is not None:
        box_size = int(box_sizes[0])
    pixel_size = ask(lambda: source.pixel_size(reading.pixel_size))
    rotations = ask(source.rotations)
    shifts = ask(lambda: source.shifts(reading.pixel_size))
    sizes = ask(lambda: source.sizes(reading.pixel_size))
    ctf = ask(lambda: source.ctf(sizes))
    flipped = ask(lambda: reading.phase_flipped or source.phase_flipped())
    ask(_check_defocus, source, ctf)
    ask(_check_shifts, source, shifts, box_size, pixel_size)
    ask(_check_repeats, source, names, rotations, shifts)
    ask(_check_aberrations, source)
    ask(_check_sign, source)
    images = None
    if names is not None:
        images = {"root": str(root), "files": len(names.files), "missing": ask(len, missing)}
    return {
        "file": str(path),
        "format": source.format,
        "n_particles": len(source),
        "box_size": box_size,
        "pixel_size": pixel_size,
        "phase_flipped": flipped,
        "optics_groups": _groups(source, ctf, box_sizes),
        "defocus_range": ask(_defocus_range, ctf),
        "pose_coverage": ask(pose_coverage, rotations),
        "shifts": ask(_shift_lengths, shifts),
        "images": images,
        "columns_used": list(source.used),
        "columns_ignored": list(source.ignored),
        "problems": list(dict.fromkeys(map(str, problems))),
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


def _box_size(
    source: Metadata, names: ImageNames, stacks: tuple[Path, ...], missing: list[Path]
) -> int:
    """The box of the images, where all files are there and sound."""
    if missing:
        problem = f"{len(missing):,} of {len(stacks):,} image files are missing, first {{value}}"
        remedy = "give the folder that their names start from (--root)"
        raise InputError(problem, file=source.path, value=missing[0], remedy=remedy)
    return check_stacks(source, names, stacks)


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


def _check_defocus(source: Metadata, ctf: CTFParameters) -> None:
    defocus, (low, high) = ((ctf.defocus_u + ctf.defocus_v) / 2).numpy(), USUAL_DEFOCUS
    usual = (defocus >= low) & (defocus <= high)
    problem = f"has a defocus of {{value}} Å, outside {low:,.0f} to {high:,.0f} Å"
    remedy = "check its unit and sign (underfocus is positive), or leave such particles out"
    source.check(usual, f"{problem}, as do {(~usual).sum():,} in all", defocus, remedy)


def _check_shifts(source: Metadata, shifts: np.ndarray, box_size: int, pixel_size: float) -> None:
    length = np.linalg.norm(shifts, axis=1)
    near = length <= box_size * pixel_size / 4
    problem = "is shifted by {value} Å, more than a quarter of the box"
    remedy = "check the unit of the shifts and the pixel size, or extract again with re-centring"
    source.check(near, f"{problem}, as are {(~near).sum():,} in all", length, remedy)


def _check_repeats(
    source: Metadata, names: ImageNames, rotations: np.ndarray, shifts: np.ndarray
) -> None:
    poses = Poses(torch.from_numpy(rotations), torch.from_numpy(shifts), None)
    repeated = repeated_rows(names, poses)
    for row, earlier in repeated[:1].tolist():
        problem = f"has the image and pose of particle {{value}}, one of {len(repeated):,} repeats"
        source.refuse(row, problem, earlier + 1, "keep each once (cryostar-nb select --unique)")


def _check_aberrations(source: Metadata) -> None:
    """Columns that change the images in a way that is not modelled."""
    given = [
        column
        for column in source.not_modelled
        if column in source.columns and np.abs(source.raw(column)).max() > 1e-6
    ]
    if given:
        problem, value = "has columns that are not modelled: {value}", ", ".join(given)
        remedy = "apply them in the software that wrote them, and export the particles again"
        raise InputError(problem, file=source.path, value=value, remedy=remedy)


def _check_sign(source: Metadata) -> None:
    """The sign by which cryoSPARC multiplies these images when it reads them."""
    sign = source.raw("blob/sign") if "blob/sign" in source.columns else np.ones(1)
    dark = int((sign < 0).sum()) if sign.dtype.kind in "fi" else 0
    if dark:
        problem = f"has blob/sign -1 for {{value}} of {len(sign)} particles, and it is not followed"
        remedy = "if protein is dark in these images (`doctor` tells), give --invert"
        if dark < len(sign):
            remedy = "separate the particles of each sign (cryostar-nb select --indices)"
        raise InputError(problem, file=source.path, value=dark, remedy=remedy)


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
