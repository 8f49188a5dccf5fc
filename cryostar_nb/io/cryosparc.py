"""cryoSPARC's .cs files: NumPy tables with a row for each particle, read where they lie, and written."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryostar_nb.errors import InputError
from cryostar_nb.geometry import rotations_from_vectors
from cryostar_nb.io.files import existing_file, replacing
from cryostar_nb.io.metadata import ImageNames, Metadata
from cryostar_nb.io.particles import Particles

_LONGEST_HEADER = 100_000  # characters; a table has some dozens of fields
_MINIMAL = [
    ("uid", "<u8"),
    ("blob/idx", "<u4"),
    ("blob/shape", "<u4", (2,)),
    ("blob/psize_A", "<f4"),
    ("ctf/accel_kv", "<f4"),
    ("ctf/cs_mm", "<f4"),
    ("ctf/amp_contrast", "<f4"),
    ("ctf/df1_A", "<f4"),
    ("ctf/df2_A", "<f4"),
    ("ctf/df_angle_rad", "<f4"),
    ("ctf/phase_shift_rad", "<f4"),
    ("ctf/bfactor", "<f4"),
    ("ctf/exp_group_id", "<u4"),
    ("alignments3D/pose", "<f4", (3,)),
    ("alignments3D/shift", "<f4", (2,)),
    ("alignments3D/psize_A", "<f4"),
]
_CTF_COLUMNS = {
    "defocus_u": "ctf/df1_A",
    "defocus_v": "ctf/df2_A",
    "defocus_angle_deg": "ctf/df_angle_rad",
    "voltage_kv": "ctf/accel_kv",
    "spherical_aberration_mm": "ctf/cs_mm",
    "amplitude_contrast": "ctf/amp_contrast",
    "phase_shift_deg": "ctf/phase_shift_rad",
    "b_factor": "ctf/bfactor",
}


class CryosparcFile(Metadata):
    """A .cs file, and the passthrough file of its job where one is given: the fields that only the latter has come from there."""

    format = "cryoSPARC .cs"
    ctf_columns = _CTF_COLUMNS
    rescale_remedy = "bring them to one (Downsample Particles)"
    not_modelled = ("ctf/shift_A", "ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag")

    def __init__(self, path: Path | str, passthrough: Path | str | None = None) -> None:
        super().__init__(existing_file(path, "a cryoSPARC .cs file of particles"))
        self.table = _open_table(self.path)
        self.passthrough = (
            None
            if passthrough is None
            else _open_table(existing_file(passthrough, "a cryoSPARC passthrough file"))
        )
        self.row_of = (
            None
            if self.passthrough is None
            else _match(self.path, self.table, Path(str(passthrough)), self.passthrough)
        )
        self._own = _names(self.table)
        self._columns = self._own + tuple(
            name for name in _names(self.passthrough) if name not in self._own
        )
        beside = [] if passthrough else sorted(self.path.parent.glob("*passthrough_particles*.cs"))
        self.field_remedy = (
            f"give the job's passthrough file too (--passthrough {beside[0] if beside else 'FILE'})"
        )
        self.pose_remedy = (
            f"give the particles of a 3D refinement or an ab-initio job, or {self.field_remedy}"
        )
        self.ctf_remedy = f"{self.field_remedy}, or run CTF estimation"

    def __len__(self) -> int:
        return len(self.table)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all fields, those of the passthrough file last."""
        return self._columns

    def raw(self, column: str) -> Shaped[np.ndarray, " particle *value"]:
        """A field as it is in the file; nothing else of the file is read."""
        if column in self._own:
            return np.asarray(self.table[column])
        assert self.passthrough is not None and self.row_of is not None
        return np.asarray(self.passthrough[column][self.row_of])

    def image_names(self) -> ImageNames:
        """From blob/path and blob/idx. A leading > marks what was imported, and is no part of the path."""
        for column, kinds in (("blob/path", "SU"), ("blob/idx", "ui")):
            self.require(column, "finding the images", self.field_remedy)
            if self.raw(column).dtype.kind not in kinds or self.raw(column).ndim != 1:
                raise InputError(
                    f"{self.path}: its field {column} is of type {self.raw(column).dtype}; export the particles again"
                )
        index = self.column("blob/idx").astype(np.int64)
        if (index < 0).any():
            row = int(np.argmax(index < 0))
            raise InputError(
                f"{self.path}: particle {row + 1} has blob/idx = {index[row]}; it is counted from 0"
            )
        names, stack_of = np.unique(self.column("blob/path"), return_inverse=True)
        texts = [
            name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)
            for name in names.tolist()
        ]
        return ImageNames(
            tuple(text.removeprefix(">") for text in texts), stack_of.astype(np.int64), index
        )

    def pixel_sizes(self) -> Float[np.ndarray, " particle"]:
        """Of the images, which may differ from those of the alignments."""
        if "blob/psize_A" not in self.columns:
            raise InputError(
                f"{self.path}: has no column blob/psize_A; give the pixel size (--pixel-size, in Å)"
            )
        return self._one("blob/psize_A")

    def box_sizes(self) -> Float[np.ndarray, " particle"] | None:
        """From blob/shape. Raises InputError for images that are not square."""
        if "blob/shape" not in self.columns:
            return None
        shape = self._pairs("blob/shape", 2)
        if (shape[:, 0] != shape[:, 1]).any():
            row = int(np.argmax(shape[:, 0] != shape[:, 1]))
            raise InputError(
                f"{self.path}: particle {row + 1} has blob/shape = {shape[row].tolist()}; particle images are square"
            )
        return shape[:, 0]

    def rotations(self) -> Float[np.ndarray, "particle 3 3"]:
        """The pose is a rotation vector v, and the matrix is the transpose of the rotation about it."""
        vectors = self._pairs(f"{self._alignment()}/pose", 3)
        return np.swapaxes(rotations_from_vectors(torch.from_numpy(vectors)).numpy(), -1, -2)

    def shifts(self, pixel_size: float | None) -> Float[np.ndarray, "particle 2"]:
        """The sign is RELION's; the unit is a pixel of the alignment, which was often made on smaller images. No field: 0."""
        prefix = self._alignment()
        if f"{prefix}/shift" not in self.columns:
            return np.zeros((len(self), 2))
        if f"{prefix}/psize_A" in self.columns:
            size = self._one(f"{prefix}/psize_A")
            if (size <= 0).any():
                row = int(np.argmax(size <= 0))
                raise InputError(
                    f"{self.path}: particle {row + 1} has {prefix}/psize_A = {size[row]:g}; its shifts have no unit: align the particles again"
                )
        else:
            size = np.broadcast_to(pixel_size or self.pixel_sizes(), (len(self),))
        return -self._pairs(f"{prefix}/shift", 2) * size[:, None]

    def optics_groups(self) -> Shaped[np.ndarray, " particle"]:
        """Exposure groups."""
        return (
            self.column("ctf/exp_group_id")
            if "ctf/exp_group_id" in self.columns
            else super().optics_groups()
        )

    def _one(self, column: str) -> Float[np.ndarray, " particle"]:
        values = self.numbers(column)
        if values.ndim != 1:
            raise InputError(
                f"{self.path}: its field {column} has {values.shape[1:]} values for a particle, not one; export the particles again"
            )
        return values

    def _pairs(self, column: str, count: int) -> Float[np.ndarray, "particle value"]:
        values = self.numbers(column)
        if values.shape[1:] != (count,):
            raise InputError(
                f"{self.path}: its field {column} has {values.shape[1:]} values for a particle, not {count}; export the particles again"
            )
        return values

    def _alignment(self) -> str:
        """What the names of the pose's fields begin with: alignments3D, or the class of an ab-initio job that all particles are in."""
        if "alignments3D/pose" in self.columns:
            return "alignments3D"
        classes = [
            match[1]
            for match in (
                re.fullmatch(r"(alignments_class_\d+)/pose", column) for column in self.columns
            )
            if match
        ]
        if not classes:
            self.require("alignments3D/pose", "the pose", self.pose_remedy)
        if len(classes) == 1:
            return classes[0]
        for prefix in classes:
            self.require(
                f"{prefix}/class_posterior", "choosing among ab-initio classes", self.pose_remedy
            )
        best = np.argmax([self._one(f"{prefix}/class_posterior") for prefix in classes], axis=0)
        if (best != best[0]).any():
            row = int(np.argmax(best != best[0]))
            raise InputError(
                f"{self.path}: particle 1 is most likely of {classes[best[0]]} and particle {row + 1} of {classes[best[row]]}, and every class has a frame of its own; give the particles of one class"
            )
        return classes[best[0]]


def _open_table(path: Path) -> NDArray[Any]:
    """Memory-map a .cs file. Raises InputError for one that is cut, holds Python objects, or is no table."""
    try:
        table = np.lib.format.open_memmap(path, mode="r", max_header_size=_LONGEST_HEADER)  # type: ignore[call-arg]  # numpy has it, its types do not
    except Exception as error:  # numpy parses the header as Python literals, and lets the errors of that through, of many types
        if "Python objects" in str(error):
            raise InputError(
                f"{path}: holds Python objects, which could run code when read; export the particles again from cryoSPARC"
            ) from error
        raise InputError(
            f"{path}: cannot be read as a .cs file ({' '.join(str(error).split())[:200]}); copy or export it again"
        ) from error
    if table.dtype.names is None or table.ndim != 1:
        raise InputError(
            f"{path}: holds an array of type {table.dtype} and shape {table.shape}, not a table of particles; give a .cs file of particles"
        )
    if not len(table):
        raise InputError(f"{path}: holds no particles; give a .cs file of particles")
    return table


def _names(table: NDArray[Any] | None) -> tuple[str, ...]:
    return () if table is None or table.dtype.names is None else table.dtype.names


def _match(
    path: Path, table: NDArray[Any], other_path: Path, other: NDArray[Any]
) -> Int[np.ndarray, " particle"]:
    """For each row of a table the row of the passthrough file with the same uid."""
    for name, rows in ((path, table), (other_path, other)):
        if "uid" not in _names(rows) or rows["uid"].dtype.kind not in "ui" or rows["uid"].ndim != 1:
            raise InputError(
                f"{name}: has no field uid, which joins a passthrough file; give the files that cryoSPARC wrote"
            )
    uids, first = np.unique(other["uid"], return_index=True)
    if len(uids) != len(other):
        raise InputError(
            f"{other_path}: has {len(other)} rows and {len(uids)} uids; give the files that cryoSPARC wrote"
        )
    place = np.minimum(np.searchsorted(uids, table["uid"]), len(uids) - 1)
    missing = np.flatnonzero(uids[place] != table["uid"])
    if len(missing):
        raise InputError(
            f"{path}: particle {missing[0] + 1} has uid {table['uid'][missing[0]]}, which {other_path} lacks; give the passthrough file of the same job"
        )
    return first[place]


def write_table(path: Path, table: NDArray[Any]) -> None:
    """Write a structured array as a .cs file."""
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.lib.format.write_array(handle, np.ascontiguousarray(table), allow_pickle=False)


def write_cs(path: Path | str, particles: Particles, *, root: Path | None = None) -> None:
    """Write particles as a .cs file with the fields that a refinement needs; image names are relative to `root` (default: its folder).

    Each uid is made from the image's name and place. Raises InputError for particles without a CTF.
    """
    path = Path(path)
    if particles.ctf is None or particles.phase_flipped:
        what = "without a CTF" if particles.ctf is None else "with flipped phases"
        raise InputError(
            f"{path}: particles {what} cannot be written as .cs, which has no field that says so; write them as .star"
        )
    names = [name.encode() for name in particles.stack_names(root or path.parent)]
    longest = max(map(len, names))
    table = np.zeros(
        len(particles), dtype=[*_MINIMAL[:1], ("blob/path", f"S{longest}"), *_MINIMAL[1:]]
    )
    table["blob/path"] = np.array(names)[particles.stack_of]
    table["blob/idx"] = particles.image_in_stack
    pose = Rotation.from_matrix(np.swapaxes(particles.rotations.numpy(), -1, -2)).as_rotvec()
    tags = (
        b"%b@%b@%b" % (b"%d" % i, names[s], v.tobytes())
        for i, s, v in zip(particles.image_in_stack, particles.stack_of, pose, strict=True)
    )
    table["uid"] = [
        int.from_bytes(hashlib.blake2b(tag, digest_size=8).digest(), "little") for tag in tags
    ]
    table["blob/shape"], table["blob/psize_A"] = particles.box_size, particles.pixel_size
    for field, column in CryosparcFile.ctf_columns.items():
        values = getattr(particles.ctf, field).numpy()
        table[column] = np.deg2rad(values) if column.endswith("_rad") else values
    table["alignments3D/pose"], table["alignments3D/psize_A"] = pose, particles.pixel_size
    table["alignments3D/shift"] = -particles.shifts.numpy() / particles.pixel_size
    write_table(path, table)
