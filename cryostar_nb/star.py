"""RELION STAR files: particles in, particles out (RELION 3.0 with one table; 3.1 and later with optics groups)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import starfile
import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.errors import InputError
from cryostar_nb.files import existing_file, write_text
from cryostar_nb.geometry import relion_angles_from_rotations, rotations_from_relion_angles
from cryostar_nb.particles import Particles, open_stack

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_CTF_COLUMNS = {
    "defocus_u": "rlnDefocusU",
    "defocus_v": "rlnDefocusV",
    "defocus_angle_deg": "rlnDefocusAngle",
    "voltage_kv": "rlnVoltage",
    "spherical_aberration_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
    "phase_shift_deg": "rlnPhaseShift",
    "b_factor": "rlnCtfBfactor",
}
_ABSENT_MEANS_ZERO = ("rlnPhaseShift", "rlnCtfBfactor")  # as in RELION


@dataclass(frozen=True)
class Poses:
    """What a STAR file says of each particle but its image: how it lies, where, and through which lens."""

    rotations: Float[Tensor, "particle 3 3"]
    shifts: Float[Tensor, "particle 2"]  # Å, where the particle sits relative to the box centre
    ctf: CTFParameters | None

    def __len__(self) -> int:
        return len(self.rotations)


def read_tables(path: Path | str) -> pd.DataFrame:
    """The particle table of a STAR file, with the columns of its optics group joined to every row."""
    path = existing_file(path, "a RELION particle STAR file")
    try:
        blocks = starfile.read(path, always_dict=True)
    except Exception as error:  # starfile lets the errors of pandas and of its parser through, of many types
        raise InputError(f"{path}: cannot be read as a STAR file ({' '.join(str(error).split())})") from error
    tables = {name: table for name, table in blocks.items() if isinstance(table, pd.DataFrame)}
    particles = next((table for table in tables.values() if "rlnImageName" in table.columns), None)
    if particles is None or len(particles) == 0:
        raise InputError(f"{path}: has no table with a column rlnImageName; give the particles STAR of a refinement")
    optics = next((t for t in tables.values() if t is not particles and "rlnOpticsGroup" in t.columns), None)
    if optics is None:
        return particles.reset_index(drop=True)
    if "rlnOpticsGroup" not in particles.columns:
        raise InputError(f"{path}: the particle table has no column rlnOpticsGroup although there is an optics table")
    row_of_group = {group: row for row, group in enumerate(optics["rlnOpticsGroup"])}
    rows = particles["rlnOpticsGroup"].map(row_of_group)
    if rows.isna().any():
        row = int(rows.isna().argmax())
        raise InputError(
            f"{path}: particle {row + 1} is of optics group {particles['rlnOpticsGroup'].iloc[row]}, which the optics table lacks (it has {sorted(row_of_group)})"
        )
    shared = optics[[column for column in optics.columns if column not in particles.columns]]
    return pd.concat([particles.reset_index(drop=True), shared.iloc[rows.to_numpy()].reset_index(drop=True)], axis=1)


def _numbers(table: pd.DataFrame, column: str, path: Path) -> Float[np.ndarray, " particle"]:
    """A column as finite float64 numbers."""
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64, copy=True)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        value = table[column].iloc[bad[0]]
        shown = repr(value) if isinstance(value, str) else value
        raise InputError(f"{path}: particle {bad[0] + 1} has {column} = {shown}; give a finite number")
    return values


def _pixel_size(table: pd.DataFrame, path: Path, given: float | None) -> float:
    if given is not None:
        values = np.array([given])
    elif "rlnImagePixelSize" in table.columns:
        values = _numbers(table, "rlnImagePixelSize", path)
    elif {"rlnDetectorPixelSize", "rlnMagnification"} <= set(table.columns):
        with np.errstate(divide="ignore", invalid="ignore"):  # a magnification of 0 gets its message below
            values = 1e4 * _numbers(table, "rlnDetectorPixelSize", path) / _numbers(table, "rlnMagnification", path)
    else:
        raise InputError(
            f"{path}: has neither rlnImagePixelSize nor rlnDetectorPixelSize and rlnMagnification; give the pixel size (--pixel-size, in Å)"
        )
    bad = np.flatnonzero(~((values > 0) & np.isfinite(values)))
    if len(bad):
        raise InputError(f"{path}: particle {bad[0] + 1} has a pixel size of {values[bad[0]]:g} Å; correct it or give --pixel-size")
    other = np.flatnonzero(~np.isclose(values, values[0], rtol=1e-4, atol=0))
    if len(other):
        raise InputError(
            f"{path}: particle 1 has a pixel size of {values[0]:g} Å and particle {other[0] + 1} of {values[other[0]]:g} Å; rescale them to one (relion_image_handler --rescale_angpix)"
        )
    return float(values[0])


def _shifts(table: pd.DataFrame, path: Path, pixel_size: float | None) -> Float[np.ndarray, "particle 2"]:
    """RELION's origins say how to move the image to centre it, so the particle sits at minus the origin. No column: 0.

    `pixel_size` None is read from the table where origins are in pixels.
    """
    shifts = np.zeros((len(table), 2))
    for axis, letter in enumerate("XY"):
        if f"rlnOrigin{letter}Angst" in table.columns:
            shifts[:, axis] = -_numbers(table, f"rlnOrigin{letter}Angst", path)
        elif f"rlnOrigin{letter}" in table.columns:
            shifts[:, axis] = -_numbers(table, f"rlnOrigin{letter}", path) * (pixel_size or _pixel_size(table, path, None))
    return shifts


def _ctf(table: pd.DataFrame, path: Path) -> CTFParameters:
    columns = {}
    for field, column in _CTF_COLUMNS.items():
        if column in table.columns:
            columns[field] = torch.from_numpy(_numbers(table, column, path))
        elif column in _ABSENT_MEANS_ZERO:
            columns[field] = torch.zeros(len(table), dtype=torch.float64)
        else:
            raise InputError(f"{path}: has no column {column}, which the CTF needs; run CTF estimation, or give a file that has it")
    bad = np.flatnonzero(columns["voltage_kv"].numpy() <= 0)
    if len(bad):
        raise InputError(
            f"{path}: particle {bad[0] + 1} has rlnVoltage = {columns['voltage_kv'][bad[0]]:g}; give the voltage in kV, for example 300"
        )
    bad = np.flatnonzero(columns["amplitude_contrast"].abs().numpy() > 1)
    if len(bad):
        raise InputError(
            f"{path}: particle {bad[0] + 1} has rlnAmplitudeContrast = {columns['amplitude_contrast'][bad[0]]:g}; give a fraction, for example 0.1"
        )
    return CTFParameters(**columns)


def _image_names(table: pd.DataFrame, path: Path, root: Path) -> tuple[tuple[Path, ...], np.ndarray, np.ndarray]:
    """Distinct stacks, the stack of each particle, and its 0-based place there."""
    stacks: dict[str, int] = {}
    stack_of, image_in_stack = np.empty(len(table), dtype=np.int64), np.empty(len(table), dtype=np.int64)
    for row, name in enumerate(table["rlnImageName"].astype(str)):
        number, at, stack = name.rpartition("@")
        if at and not (number.isdigit() and int(number) >= 1):
            raise InputError(f"{path}: particle {row + 1} has rlnImageName = {name!r}; it is written 000001@stack.mrcs, counted from 1")
        stack_of[row] = stacks.setdefault(stack, len(stacks))
        image_in_stack[row] = int(number) - 1 if at else 0
    return tuple(root / stack for stack in stacks), stack_of, image_in_stack


def _poses(table: pd.DataFrame, path: Path, pixel_size: float | None, ctf: bool) -> Poses:
    missing = [column for column in _ANGLES if column not in table.columns]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]}, which the pose needs; give the particles STAR of a refinement")
    rotations = rotations_from_relion_angles(*(_numbers(table, column, path) for column in _ANGLES))
    shifts = _shifts(table, path, pixel_size)
    return Poses(torch.from_numpy(rotations), torch.from_numpy(shifts), _ctf(table, path) if ctf else None)


def read_poses(path: Path | str) -> Poses:
    """Read the poses and CTFs of a RELION STAR file, in its order; the images that it names need not exist.

    Origins in pixels (RELION 3.0) become Å by the file's own pixel size. Raises InputError as `read_star` does.
    """
    return _poses(read_tables(path), Path(path), None, ctf=True)


def read_star(path: Path | str, *, root: Path | str | None = None, pixel_size: float | None = None, ctf: bool = True) -> Particles:
    """Read the particles of a RELION STAR file; the images stay on disk.

    `root` is the folder that image names are relative to (default: the folder of the STAR file). `pixel_size`, in Å,
    overrides the file's. `ctf=False` is for images that the microscope's CTF has not touched. Raises InputError for
    anything missing or impossible, naming the row and the value.
    """
    path = Path(path)
    table = read_tables(path)
    stacks, stack_of, image_in_stack = _image_names(table, path, Path(root) if root else path.parent)
    boxes, last_of = {}, np.zeros(len(stacks), dtype=np.int64)
    np.maximum.at(last_of, stack_of, image_in_stack)
    for index, stack in enumerate(stacks):
        data = open_stack(stack)
        boxes[stack], last = data.shape[-1], int(last_of[index])
        if last >= len(data):
            row = int(np.flatnonzero((stack_of == index) & (image_in_stack == last))[0])
            raise InputError(
                f"{path}: particle {row + 1} is image {last + 1} of {stack}, which holds only {len(data)}; the stack is cut or the wrong one"
            )
    if len(set(boxes.values())) > 1:
        first, other = stacks[0], next(stack for stack in stacks if boxes[stack] != boxes[stacks[0]])
        raise InputError(f"{path}: {first} has boxes of {boxes[first]} pixels and {other} of {boxes[other]}; extract all with one box")
    pixel_size = _pixel_size(table, path, pixel_size)
    poses = _poses(table, path, pixel_size, ctf)
    return Particles(
        source=path,
        stacks=stacks,
        stack_of=stack_of,
        image_in_stack=image_in_stack,
        box_size=boxes[stacks[0]],
        pixel_size=pixel_size,
        rotations=poses.rotations,
        shifts=poses.shifts,
        ctf=poses.ctf,
    )


def write_star(path: Path | str, particles: Particles) -> None:
    """Write particles as a RELION 3.1 STAR file with one optics group; image names are relative to its folder."""
    path = Path(path)
    if particles.ctf is None:
        raise InputError(f"{path}: particles without a CTF cannot be written; RELION asks for one")
    optics = {"rlnOpticsGroupName": "opticsGroup1", "rlnOpticsGroup": 1, "rlnImagePixelSize": particles.pixel_size}
    optics |= {"rlnImageSize": particles.box_size, "rlnImageDimensionality": 2}
    names = [stack.name if stack.parent == path.parent else str(stack.resolve()) for stack in particles.stacks]
    table: dict[str, object] = {
        "rlnImageName": [f"{i + 1:06d}@{names[s]}" for s, i in zip(particles.stack_of, particles.image_in_stack, strict=True)]
    }
    table |= dict(zip(_ANGLES, relion_angles_from_rotations(particles.rotations.numpy()).T, strict=True))
    table |= {f"rlnOrigin{letter}Angst": -particles.shifts[:, axis].numpy() for axis, letter in enumerate("XY")}
    for field, column in _CTF_COLUMNS.items():
        values = getattr(particles.ctf, field).numpy()
        if column in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast") and (values == values[0]).all():
            optics[column] = float(values[0])
        else:
            table[column] = values
    frame = pd.DataFrame(table | {"rlnOpticsGroup": np.ones(len(particles), dtype=np.int64)})
    text = starfile.to_string({"optics": pd.DataFrame([optics]), "particles": frame}, float_format="%.9g")
    # starfile puts the time in a comment: other bytes for the same particles
    write_text(path, "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#")))
