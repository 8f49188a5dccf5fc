"""What a particle file was understood to say, and what in it will cause trouble. Images need not be there; nothing is trained."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.errors import InputError
from cryostar_nb.geometry import relion_angles_from_rotations
from cryostar_nb.io.metadata import (
    ImageNames,
    Metadata,
    Poses,
    check_stacks,
    locate,
    project_root,
    repeated_rows,
)
from cryostar_nb.io.reading import Reading, open_metadata

USUAL_DEFOCUS = (1_000.0, 100_000.0)  # Å
BANDS, SECTORS = 5, 20  # of the half-sphere: a hundred cells of one area

T = TypeVar("T")


def inspect_particles(path: Path | str, reading: Reading | None = None) -> dict[str, Any]:
    """Read what can be read, and list the problems. Raises InputError only where the file cannot be opened at all.

    The keys: `file`, `format`, `n_particles`, `box_size`, `pixel_size` (Å), `phase_flipped`, `optics_groups`, `defocus_range`
    (Å), `pose_coverage`, `shifts` (Å), `images`, `columns_used`, `columns_ignored` and `problems`. What is not known is None.
    """
    reading = reading or Reading()
    source = open_metadata(
        path, passthrough=reading.passthrough, poses_pkl=reading.poses_pkl, ctf_pkl=reading.ctf_pkl
    )
    problems: dict[str, None] = {}  # in order, each once

    def ask(question: Callable[[], T]) -> T | None:
        try:
            return question()
        except InputError as error:
            problems[str(error)] = None
            return None

    names = ask(source.image_names)
    images = None if names is None else _images(source, names, reading, problems)
    box_sizes = ask(source.box_sizes)
    box_size = None if images is None else images.pop("box_size")
    if box_size is None and box_sizes is not None:
        box_size = int(box_sizes[0])
    pixel_size = ask(lambda: source.pixel_size(reading.pixel_size))
    rotations, shifts, ctf = (
        ask(source.rotations),
        ask(lambda: source.shifts(pixel_size)),
        ask(source.ctf),
    )
    flipped = ask(lambda: reading.phase_flipped or source.phase_flipped())
    result = {
        "file": str(path),
        "format": source.format,
        "n_particles": len(source),
        "box_size": box_size,
        "pixel_size": pixel_size,
        "phase_flipped": flipped,
        "optics_groups": _groups(source, ctf, box_sizes),
        "defocus_range": None if ctf is None else _defocus(source, ctf, problems),
        "pose_coverage": None if rotations is None else pose_coverage(rotations),
        "shifts": None
        if shifts is None
        else _shifts(source, shifts, box_size, pixel_size, problems),
        "images": images,
    }
    if names is not None and rotations is not None and shifts is not None:
        _repeats(source, names, rotations, shifts, problems)
    _aberrations(source, problems)
    _sign(source, problems)
    return result | {
        "columns_used": list(source.used),
        "columns_ignored": list(source.ignored),
        "problems": list(problems),
    }


def pose_coverage(rotations: Float[np.ndarray, "particle 3 3"]) -> dict[str, float]:
    """How evenly the views are spread over the half-sphere, and the images in their plane. 1 is even, 0 is all alike.

    `view_evenness` is three times the least eigenvalue of the mean of v v^T, where v is the direction of view in the frame of
    the model: 0 when some direction is never looked along, nor near. `views_seen` is the fraction of a hundred equal cells of
    the half-sphere with a view in them, and `views_expected` what even views of this number would give. `in_plane_evenness` is
    one minus the length of the mean of exp(i psi).
    """
    views = rotations[:, 2]  # R^T z: the beam, seen by the model
    views = np.where(views[:, 2:] < 0, -views, views)  # from below is from above, mirrored
    band = np.minimum((views[:, 2] * BANDS).astype(int), BANDS - 1)
    sector = np.minimum(
        ((np.arctan2(views[:, 1], views[:, 0]) / (2 * np.pi) + 0.5) * SECTORS).astype(int),
        SECTORS - 1,
    )
    cells = BANDS * SECTORS
    psi = np.deg2rad(relion_angles_from_rotations(rotations)[:, 2])
    return {
        "view_evenness": float(3 * np.linalg.eigvalsh(views.T @ views / len(views))[0].clip(0)),
        "views_seen": len(np.unique(band * SECTORS + sector)) / cells,
        "views_expected": float(1 - (1 - 1 / cells) ** len(views)),
        "in_plane_evenness": float(1 - np.abs(np.exp(1j * psi).mean())),
    }


def _images(
    source: Metadata, names: ImageNames, reading: Reading, problems: dict[str, None]
) -> dict[str, Any] | None:
    """Which image files there are, and their box if all are there and sound."""
    root = reading.root or project_root(source.path, names)
    found: dict[str, Any] = {
        "root": str(root),
        "files": len(names.files),
        "missing": None,
        "box_size": None,
    }
    try:
        stacks = locate(source, names, root, allow_outside=reading.allow_outside)
        missing = [stack for stack in stacks if not os.path.isfile(stack)]
        found["missing"] = len(missing)
        if missing:
            problems[
                f"{source.path}: {len(missing):,} of {len(stacks):,} image files are missing, the first is {missing[0]}; give the folder that their names start from (--root)"
            ] = None
        else:
            found["box_size"] = check_stacks(source, names, stacks)
    except InputError as error:
        problems[str(error)] = None
    return found


def _groups(
    source: Metadata, ctf: CTFParameters | None, box_sizes: np.ndarray | None
) -> list[dict[str, Any]]:
    """Each optics group with what its first particle has."""
    labels, first, counts = np.unique(
        source.optics_groups().astype(str), return_index=True, return_counts=True
    )
    try:
        pixel_sizes = source.pixel_sizes()
    except InputError:  # said elsewhere
        pixel_sizes = None
    groups = []
    for label, row, count in zip(labels.tolist(), first.tolist(), counts.tolist(), strict=True):
        group: dict[str, Any] = {"group": label, "n_particles": count}
        group["pixel_size"] = (
            None
            if pixel_sizes is None or not np.isfinite(pixel_sizes[row])
            else float(pixel_sizes[row])
        )
        group["box_size"] = None if box_sizes is None else int(box_sizes[row])
        for field in ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast"):
            group[field] = None if ctf is None else float(getattr(ctf, field)[row])
        groups.append(group)
    return groups


def _defocus(source: Metadata, ctf: CTFParameters, problems: dict[str, None]) -> list[float]:
    defocus = ((ctf.defocus_u + ctf.defocus_v) / 2).numpy()
    low, high = USUAL_DEFOCUS
    odd = np.flatnonzero((defocus < low) | (defocus > high))
    if len(odd):
        problems[
            f"{source.path}: {len(odd):,} particles have a defocus outside {low:,.0f} to {high:,.0f} Å, the first is particle {odd[0] + 1} with {defocus[odd[0]]:,.0f} Å; check its unit and sign (underfocus is positive), or leave these out"
        ] = None
    return [float(defocus.min()), float(defocus.max())]


def _shifts(
    source: Metadata,
    shifts: np.ndarray,
    box_size: int | None,
    pixel_size: float | None,
    problems: dict[str, None],
) -> dict[str, Any]:
    length = np.linalg.norm(shifts, axis=1)
    if box_size is not None and pixel_size is not None:
        far = np.flatnonzero(length > box_size * pixel_size / 4)
        if len(far):
            problems[
                f"{source.path}: {len(far):,} particles are shifted by more than a quarter of the box, the first is particle {far[0] + 1} by {length[far[0]]:.1f} Å; check the unit of the shifts and the pixel size, or extract again with re-centring"
            ] = None
    return {
        "mean": [float(value) for value in shifts.mean(axis=0)],
        "root_mean_square": float(np.sqrt((length**2).mean())),
        "largest": float(length.max()),
    }


def _repeats(
    source: Metadata,
    names: ImageNames,
    rotations: np.ndarray,
    shifts: np.ndarray,
    problems: dict[str, None],
) -> None:
    repeated = repeated_rows(
        names, Poses(torch.from_numpy(rotations), torch.from_numpy(shifts), None)
    )
    if len(repeated):
        row, earlier = repeated[0] + 1
        problems[
            f"{source.path}: {len(repeated):,} particles come twice, the first is particle {row}, which is particle {earlier} again; keep each once (cryostar-nb select --unique)"
        ] = None


def _aberrations(source: Metadata, problems: dict[str, None]) -> None:
    """Columns that change the images and that the CTF here does not follow."""
    given = [
        column
        for column in source.not_modelled
        if column in source.columns and _is_given(column, source.raw(column))
    ]
    if given:
        problems[
            f"{source.path}: not followed: {', '.join(given)}; these change detail finer than about 4 Å: train with --low-pass 4 or coarser"
        ] = None


def _is_given(column: str, values: np.ndarray) -> bool:
    """Whether an aberration is there at all; text is the list of coefficients of RELION's Zernike columns."""
    if values.dtype.kind not in "fiu":
        return any(set("123456789") & set(str(text)) for text in values)
    usual = 1.0 if column in ("rlnMagMat00", "rlnMagMat11") else 0.0
    return bool((np.abs(values - usual) > 1e-6).any())


def _sign(source: Metadata, problems: dict[str, None]) -> None:
    """What cryoSPARC notes where it turns the contrast of these images round when it reads them."""
    sign = source.raw("blob/sign") if "blob/sign" in source.columns else np.ones(1)
    if sign.dtype.kind in "fi" and (sign < 0).any():
        dark = int((sign < 0).sum())
        if dark == len(sign):
            problem = "blob/sign is -1 and not followed; if protein is dark in these images (`doctor` tells), give --invert"
        else:
            problem = f"blob/sign is -1 for {dark:,} of {len(sign):,} particles and not followed; take those of each sign apart (cryostar-nb select --indices)"
        problems[f"{source.path}: {problem}"] = None


def describe(found: dict[str, Any]) -> str:
    """The same as lines of text."""

    def number(value: float | None, unit: str = "", digits: int = 5) -> str:
        return "not known" if value is None else f"{value:,.{digits}g}{unit}"

    lines = [
        ("file", f"{found['file']} ({found['format']})"),
        ("particles", f"{found['n_particles']:,}"),
    ]
    lines.append(("box", number(found["box_size"], " pixels")))
    lines.append(("pixel size", number(found["pixel_size"], " Å")))
    groups = found["optics_groups"]
    for group in groups[:5]:
        lens = f"{number(group['voltage_kv'], ' kV')}, Cs {number(group['spherical_aberration_mm'], ' mm')}, amplitude contrast {number(group['amplitude_contrast'])}"
        lines.append(
            (
                f"optics group {group['group']}",
                f"{group['n_particles']:,} particles, {number(group['pixel_size'], ' Å')}, {lens}",
            )
        )
    if len(groups) > 5:
        lines.append(("", f"and {len(groups) - 5} more optics groups"))
    if found["defocus_range"]:
        lines.append(("defocus", "{:,.0f} to {:,.0f} Å".format(*found["defocus_range"])))
    if found["phase_flipped"]:
        lines.append(("phases", "flipped; they are flipped back when the images are read"))
    coverage = found["pose_coverage"]
    if coverage:
        lines.append(
            (
                "views",
                f"{100 * coverage['views_seen']:.0f} % of the half-sphere seen (even views: {100 * coverage['views_expected']:.0f} %), evenness {coverage['view_evenness']:.2f} of 1",
            )
        )
        lines.append(("in plane", f"evenness {coverage['in_plane_evenness']:.2f} of 1"))
    if found["shifts"]:
        lines.append(
            (
                "shifts",
                f"root mean square {found['shifts']['root_mean_square']:.2f} Å, largest {found['shifts']['largest']:.2f} Å",
            )
        )
    if found["images"]:
        lines.append(
            (
                "images",
                f"files: {found['images']['files']:,}, of which missing: {number(found['images']['missing'])}; names start from {found['images']['root']}",
            )
        )
    lines.append(("columns used", ", ".join(found["columns_used"])))
    lines.append(("columns ignored", ", ".join(found["columns_ignored"]) or "none"))
    lines += [("problem", problem) for problem in found["problems"]] or [("problems", "none found")]
    return "\n".join(f"{name:18s}{text}" for name, text in lines)
