"""RELION STAR files: particles in, particles out (RELION 3.0 with one table; 3.1 and later with optics groups)."""

import linecache
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import starfile
from jaxtyping import Float, Int, Shaped

from cryostar_nb.errors import InputError
from cryostar_nb.geometry import relion_angles_from_rotations, rotations_from_relion_angles
from cryostar_nb.io.files import existing_file, replacing, write_text
from cryostar_nb.io.metadata import ImageNames, Metadata, Poses
from cryostar_nb.io.particles import Particles

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_STALE = (
    "rlnOriginX",
    "rlnOriginY",
    "rlnDetectorPixelSize",
    "rlnMagnification",
    "rlnCtfDataAreCtfPremultiplied",
)
_OF_A_GROUP = (
    "voltage_kv",
    "spherical_aberration_mm",
    "amplitude_contrast",
)  # which RELION reads from the optics table
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
WRITTEN = {  # columns that `write_star` writes, and those that it makes untrue
    *(
        "rlnImageName",
        "rlnOriginXAngst",
        "rlnOriginYAngst",
        "rlnOpticsGroup",
        "rlnOpticsGroupName",
        "rlnCtfDataArePhaseFlipped",
    ),
    *(
        "rlnImagePixelSize",
        "rlnImageSize",
        "rlnImageDimensionality",
        *_ANGLES,
        *_CTF_COLUMNS.values(),
        *_STALE,
    ),
}


class StarFile(Metadata):
    """A STAR file: `table` has a row for each particle, with the columns of its optics group joined."""

    format = "RELION STAR"
    ctf_columns = _CTF_COLUMNS
    pose_remedy = "give the particles STAR of a refinement"
    rescale_remedy = "rescale them to one (relion_image_handler --rescale_angpix)"
    not_modelled = (
        "rlnBeamTiltX",
        "rlnBeamTiltY",
        "rlnOddZernike",
        "rlnEvenZernike",
        "rlnMagMat00",
        "rlnMagMat01",
        "rlnMagMat10",
        "rlnMagMat11",
    )

    def __init__(self, path: Path | str) -> None:
        super().__init__(existing_file(path, "a RELION particle STAR file"))
        self.particle_table, optics = _particles_and_optics(self.path)
        self.table = (
            self.particle_table if optics is None else _join(self.path, self.particle_table, optics)
        )

    def __len__(self) -> int:
        return len(self.table)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, those of the optics table last."""
        return tuple(self.table.columns)

    def raw(self, column: str) -> Shaped[np.ndarray, " particle"]:
        """A column as starfile reads it."""
        return np.asarray(self.table[column].to_numpy())

    def image_names(self) -> ImageNames:
        """Stacks in the order in which they first come."""
        if (
            "rlnImageDimensionality" in self.columns
            and (self.numbers("rlnImageDimensionality") != 2).any()
        ):
            row = int(np.argmax(self.numbers("rlnImageDimensionality") != 2))
            raise InputError(
                f"{self.path}: particle {row + 1} has rlnImageDimensionality = {self.raw('rlnImageDimensionality')[row]}; give single images, not subtomograms"
            )
        stacks: dict[str, int] = {}
        stack_of, image_in_stack = (
            np.empty(len(self), dtype=np.int64),
            np.empty(len(self), dtype=np.int64),
        )
        for row, name in enumerate(map(str, self.column("rlnImageName").tolist())):
            number, at, stack = name.rpartition("@")
            if at and not (number.isdecimal() and len(number) < 12 and int(number) >= 1):
                raise InputError(
                    f"{self.path}: particle {row + 1} has rlnImageName = {name!r}; it is written 000001@stack.mrcs, counted from 1"
                )
            stack_of[row] = stacks.setdefault(stack, len(stacks))
            image_in_stack[row] = int(number) - 1 if at else 0
        return ImageNames(tuple(stacks), stack_of, image_in_stack)

    def pixel_sizes(self) -> Float[np.ndarray, " particle"]:
        """From the image's own pixel size, or from the detector's and the magnification."""
        if "rlnImagePixelSize" in self.columns:
            return self.numbers("rlnImagePixelSize")
        if {"rlnDetectorPixelSize", "rlnMagnification"} <= set(self.columns):
            with np.errstate(
                divide="ignore", invalid="ignore", over="ignore"
            ):  # a magnification of 0 gets its message where one size is chosen
                return 1e4 * self.numbers("rlnDetectorPixelSize") / self.numbers("rlnMagnification")
        raise InputError(
            f"{self.path}: has neither rlnImagePixelSize nor rlnDetectorPixelSize and rlnMagnification; give the pixel size (--pixel-size, in Å)"
        )

    def box_sizes(self) -> Float[np.ndarray, " particle"] | None:
        """From the optics table."""
        return self.numbers("rlnImageSize") if "rlnImageSize" in self.columns else None

    def rotations(self) -> Float[np.ndarray, "particle 3 3"]:
        """From the three Euler angles."""
        for column in _ANGLES:
            self.require(column, "the pose", self.pose_remedy)
        return rotations_from_relion_angles(*(self.numbers(column) for column in _ANGLES))

    def shifts(self, pixel_size: float | None) -> Float[np.ndarray, "particle 2"]:
        """RELION's origins say how to move the image to centre it, so the particle sits at minus the origin. No column: 0."""
        for names, unit in (
            (("rlnOriginXAngst", "rlnOriginYAngst"), 1.0),
            (("rlnOriginX", "rlnOriginY"), None),
        ):
            there = [name for name in names if name in self.columns]
            if len(there) == 1:
                absent = next(name for name in names if name not in there)
                raise InputError(
                    f"{self.path}: has {there[0]} and no {absent}; give both, or delete it where nothing is shifted"
                )
            if there:
                size = np.broadcast_to(unit or pixel_size or self.pixel_sizes(), (len(self),))
                return -np.stack([self.numbers(name) * size for name in names], axis=1)
        return np.zeros((len(self), 2))

    def optics_groups(self) -> Shaped[np.ndarray, " particle"]:
        """As the particle table has them."""
        return (
            self.column("rlnOpticsGroup")
            if "rlnOpticsGroup" in self.columns
            else super().optics_groups()
        )

    def phase_flipped(self) -> bool:
        """From the flag that RELION keeps. Raises InputError where it is mixed, and for images multiplied by their whole CTF."""
        if (
            "rlnCtfDataAreCtfPremultiplied" in self.columns
            and self.numbers("rlnCtfDataAreCtfPremultiplied").any()
        ):
            row = int(np.argmax(self.numbers("rlnCtfDataAreCtfPremultiplied") != 0))
            raise InputError(
                f"{self.path}: particle {row + 1} has rlnCtfDataAreCtfPremultiplied = 1; extract the particles again without that"
            )
        if "rlnCtfDataArePhaseFlipped" not in self.columns:
            return False
        flags = self.numbers("rlnCtfDataArePhaseFlipped") != 0
        if (flags != flags[0]).any():
            row = int(np.argmax(flags != flags[0]))
            raise InputError(
                f"{self.path}: particle 1 has rlnCtfDataArePhaseFlipped = {flags[0]:d} and particle {row + 1} has {flags[row]:d}; choose those of one kind (cryostar-nb select --optics-group)"
            )
        return bool(flags[0])


def _particles_and_optics(path: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The particle table, and the optics table where there is one."""
    linecache.clearcache()  # starfile reads through it, and leaves a file there that it could not read
    try:
        with (
            warnings.catch_warnings()
        ):  # pandas warns of columns that hold text and numbers; `numbers` names the row
            warnings.simplefilter("ignore")
            blocks = starfile.read(path, always_dict=True)
    except (
        Exception
    ) as error:  # starfile lets the errors of pandas and of its parser through, of many types
        check_rows(path)
        raise InputError(
            f"{path}: cannot be read as a STAR file ({' '.join(str(error).split())[:200]}); write it again"
        ) from error
    for name, block in blocks.items():
        if isinstance(block, dict) and "rlnImageName" in block:
            raise InputError(
                f"{path}: the table data_{name} has no line loop_ before its columns; add it, or write the file again"
            )
    tables = {name: block for name, block in blocks.items() if isinstance(block, pd.DataFrame)}
    for name, table in tables.items():
        twice = table.columns[table.columns.duplicated()]
        if len(twice):
            raise InputError(
                f"{path}: the table data_{name} has the column {twice[0]} twice; delete one"
            )
    particles = next((table for table in tables.values() if "rlnImageName" in table.columns), None)
    if particles is None or len(particles) == 0:
        check_rows(path)  # what is not text looks empty to starfile
        raise InputError(
            f"{path}: has no table with a column rlnImageName; give the particles STAR of a refinement"
        )
    if particles.iloc[:, -1].isna().any():  # a short row is filled up in silence
        check_rows(path)
    optics = next(
        (
            table
            for table in tables.values()
            if table is not particles and "rlnOpticsGroup" in table.columns
        ),
        None,
    )
    return particles.reset_index(drop=True), optics


def _join(path: Path, particles: pd.DataFrame, optics: pd.DataFrame) -> pd.DataFrame:
    """Every particle with the columns of its optics group."""
    if "rlnOpticsGroup" not in particles.columns:
        raise InputError(
            f"{path}: the particle table has no column rlnOpticsGroup although there is an optics table; add it, or delete the optics table"
        )
    groups = optics["rlnOpticsGroup"].tolist()
    twice = optics["rlnOpticsGroup"].duplicated()
    if twice.any():
        raise InputError(
            f"{path}: the optics table lists group {groups[int(twice.argmax())]} twice; delete one"
        )
    rows = particles["rlnOpticsGroup"].map({group: row for row, group in enumerate(groups)})
    if rows.isna().any():
        row = int(rows.isna().argmax())
        raise InputError(
            f"{path}: particle {row + 1} is of optics group {particles['rlnOpticsGroup'].iloc[row]}, which the optics table lacks (it has {groups}); add its row"
        )
    shared = optics[[column for column in optics.columns if column not in particles.columns]]
    return pd.concat(
        [particles, shared.iloc[rows.to_numpy(dtype=np.int64)].reset_index(drop=True)], axis=1
    )


def particle_lines(path: Path) -> tuple[list[str], list[str], list[int]]:
    """All lines of a STAR file as they are, the column names of its particle table, and the places of that table's rows."""
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            lines = list(handle)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not text ({error.reason} at byte {error.start}); save it as UTF-8, or give a STAR file"
        ) from error
    columns: list[str] = []
    rows: list[int] = []
    in_header = in_particles = False
    for place, line in enumerate(map(str.strip, lines)):
        if line.startswith("data_"):
            if in_particles:
                break
            in_header = False
        elif line.startswith("loop_") and not in_particles:
            in_header, columns = True, []
        elif in_header and line.startswith("_"):
            columns.append(line.split()[0][1:])
        elif line and not line.startswith("#"):
            in_particles, in_header = (
                in_particles or (in_header and "rlnImageName" in columns),
                False,
            )
            if in_particles:
                rows.append(place)
    return lines, columns, rows


def check_rows(path: Path) -> None:
    """Raise InputError for the first row of the particle table with more or fewer values than there are columns."""
    lines, columns, rows = particle_lines(path)
    for number, place in enumerate(rows, start=1):
        values = lines[place].split()
        if '"' in lines[place] or "'" in lines[place]:
            continue  # a value may have blanks
        if len(values) != len(columns):
            raise InputError(
                f"{path}: particle {number} (line {place + 1}) has {len(values)} values for {len(columns)} columns; the file is cut or was edited: write it again"
            )
        if any("#" in value for value in values):
            raise InputError(
                f"{path}: particle {number} (line {place + 1}) has a '#', which begins a comment; rename what has it"
            )


def select_from_star(path: Path, rows: Int[np.ndarray, " row"], out: Path) -> None:
    """Copy a STAR file with these of its particles alone, in this order. Every other line stays as it is, byte for byte."""
    lines, _, places = particle_lines(path)
    first, of_particles = places[0], set(places)
    chosen = [lines[places[row]] for row in rows.tolist()]
    chosen = [
        line if line.endswith(("\n", "\r")) else line + "\n" for line in chosen
    ]  # the last of the file may lack its end
    kept = [line for place, line in enumerate(lines) if place not in of_particles]
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        handle.writelines([*kept[:first], *chosen, *kept[first:]])


def read_poses(path: Path | str) -> Poses:
    """Read the poses and CTFs of a RELION STAR file, in its order; the images that it names need not exist.

    Origins in pixels (RELION 3.0) become Å by the file's own pixel size. Raises InputError as `io.reading.read_particles` does.
    """
    return StarFile(path).poses()


def write_star(
    path: Path | str,
    particles: Particles,
    *,
    root: Path | None = None,
    more: pd.DataFrame | None = None,
) -> None:
    """Write particles as a RELION 3.1 STAR file; image names are relative to `root` (default: its folder), or absolute outside it.

    There is an optics group for every combination of voltage, spherical aberration and amplitude contrast. `more` are further
    columns, a row for each particle. Raises InputError for particles without a CTF.
    """
    path = Path(path)
    if particles.ctf is None:
        raise InputError(f"{path}: particles without a CTF cannot be written; RELION asks for one")
    microscopes = np.stack(
        [getattr(particles.ctf, field).numpy() for field in _OF_A_GROUP], axis=-1
    )
    groups, group_of = np.unique(microscopes, axis=0, return_inverse=True)
    numbers = np.arange(1, len(groups) + 1)
    optics: dict[str, object] = {
        "rlnOpticsGroupName": [f"opticsGroup{number}" for number in numbers],
        "rlnOpticsGroup": numbers,
    }
    optics |= {
        "rlnImagePixelSize": particles.pixel_size,
        "rlnImageSize": particles.box_size,
        "rlnImageDimensionality": 2,
    }
    optics |= {
        StarFile.ctf_columns[field]: groups[:, column] for column, field in enumerate(_OF_A_GROUP)
    }
    if particles.phase_flipped:
        optics["rlnCtfDataArePhaseFlipped"] = 1
    names = particles.stack_names(root or path.parent)
    table: dict[str, object] = {
        "rlnImageName": [
            f"{i + 1:06d}@{names[s]}"
            for s, i in zip(particles.stack_of, particles.image_in_stack, strict=True)
        ]
    }
    table |= dict(
        zip(_ANGLES, relion_angles_from_rotations(particles.rotations.numpy()).T, strict=True)
    )
    table |= {
        f"rlnOrigin{letter}Angst": -particles.shifts[:, axis].numpy()
        for axis, letter in enumerate("XY")
    }
    table |= {
        column: getattr(particles.ctf, field).numpy()
        for field, column in StarFile.ctf_columns.items()
        if field not in _OF_A_GROUP
    }
    frame = pd.DataFrame(table | {"rlnOpticsGroup": group_of.ravel() + 1})
    if more is not None:
        frame = pd.concat([frame, more.reset_index(drop=True)], axis=1)
    text = starfile.to_string(
        {"optics": pd.DataFrame(optics), "particles": frame}, float_format="%.9g"
    )
    # starfile puts the time in a comment: other bytes for the same particles
    write_text(
        path, "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    )
