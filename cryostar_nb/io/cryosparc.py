"""cryoSPARC's .cs files: NumPy tables with a row for each particle, mapped and written."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryostar_nb.aberrations import coma, tetrafoil, trefoil
from cryostar_nb.ctf import CTFParameters, electron_wavelength
from cryostar_nb.geometry import rotations_from_vectors
from cryostar_nb.io.cs_tables import EXPORT_AGAIN, field_names, group_of, match_rows, open_table
from cryostar_nb.io.files import existing_file, refuse, replacing
from cryostar_nb.io.metadata import LARGEST_DISTORTION, ImageNames, Metadata, Optics, Poses
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.star_optics import optics_columns

LONGEST_POSE = 2 * np.pi + 1e-3  # radians, of a rotation vector
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
_MINIMAL = [  # what a refinement needs, beside blob/path
    ("uid", "<u8"),
    ("blob/idx", "<u4"),
    ("blob/shape", "<u4", (2,)),
    ("blob/psize_A", "<f4"),
    *((column, "<f4") for column in _CTF_COLUMNS.values()),
    ("ctf/exp_group_id", "<u4"),
    ("alignments3D/pose", "<f4", (3,)),
    ("alignments3D/shift", "<f4", (2,)),
    ("alignments3D/psize_A", "<f4"),
]
_IS_POSE = re.compile(r"(alignments3D|alignments_class_\d+)/pose")


class CryosparcFile(Metadata):
    """A .cs file, with the fields that only the passthrough file of its job has, where given."""

    format = "cryoSPARC .cs"
    ctf_columns = _CTF_COLUMNS
    rescale_remedy = "bring them to one (Downsample Particles)"
    not_modelled = ("ctf/shift_A",)

    def __init__(self, path: Path | str, passthrough: Path | str | None = None) -> None:
        super().__init__(existing_file(path, "a cryoSPARC .cs file of particles"))
        self.table = open_table(self.path)
        self.passthrough: NDArray[Any] | None = None
        self.row_of: Int[np.ndarray, " particle"] | None = None
        if passthrough is not None:
            other = existing_file(passthrough, "a cryoSPARC passthrough file")
            self.passthrough = open_table(other)
            self.row_of = match_rows(self.path, self.table, other, self.passthrough)
            self._check_images(other, self.passthrough[self.row_of])
        self._own = field_names(self.table)
        # Of a group that the job wrote itself, the passthrough file may have that of another job.
        groups = {group_of(name) for name in self._own}
        beside = [name for name in field_names(self.passthrough) if group_of(name) not in groups]
        self._columns = (*self._own, *beside)
        siblings = sorted(self.path.parent.glob("*passthrough_particles*.cs"))
        name = siblings[0] if siblings and not passthrough else "FILE"
        self.field_remedy = f"give the job's passthrough file too (--passthrough {name})"
        jobs = "give the particles of a 3D refinement or an ab-initio job"
        self.pose_remedy = f"{jobs}, or {self.field_remedy}"
        self.ctf_remedy = f"{self.field_remedy}, or run CTF estimation"

    def _check_images(self, path: Path, other: NDArray[Any]) -> None:
        """Raise InputError where both files name one image file and other places in it."""
        both = set(field_names(self.table)) & set(field_names(other))
        if {"blob/path", "blob/idx"} <= both:
            same_file = self.table["blob/path"] == other["blob/path"]
            places, others = self.table["blob/idx"], other["blob/idx"]
            problem = f"has blob/idx = {{value}}, and another place in the same stack by {path}"
            good = ~same_file | (places == others)
            self.check(good, problem, places, "give the passthrough file of the same job")

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
        """From blob/path and blob/idx; a leading > marks an import and is no part of the path."""
        for column, kinds in (("blob/path", "SU"), ("blob/idx", "ui")):
            self.require(column, "finding the images", self.field_remedy)
            dtype = self.raw(column).dtype
            if dtype.kind not in kinds or self.raw(column).ndim != 1:
                problem = f"its field {column} is of type {dtype}"
                refuse(self.path, problem, column, EXPORT_AGAIN)
        index = self.column("blob/idx").astype(np.int64)
        self.check(index >= 0, "has blob/idx = {value}", index, "it is counted from 0")
        names, stack_of = np.unique(self.column("blob/path"), return_inverse=True)
        texts = (
            name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)
            for name in names.tolist()
        )
        files = tuple(text.removeprefix(">") for text in texts)
        return ImageNames(files, stack_of.astype(np.int64), index)

    def pixel_sizes(self) -> Float[np.ndarray, " particle"]:
        """Of the images, which may differ from those of the alignments."""
        remedy = "give the pixel size (--pixel-size, in Å)"
        self.require("blob/psize_A", "the pixel size", remedy)
        return self._values("blob/psize_A")

    def box_sizes(self) -> Float[np.ndarray, " particle"] | None:
        """From blob/shape. Raises InputError for images that are not square."""
        if "blob/shape" not in self.columns:
            return None
        shape = self._values("blob/shape", 2)
        square = shape[:, 0] == shape[:, 1]
        self.check(square, "has blob/shape = {value}", shape, "particle images are square")
        return shape[:, 0]

    def notes(self) -> list[str]:
        """Which alignments are taken, where the job's file and its passthrough file have some."""
        poses = [name for name in field_names(self.passthrough) if _IS_POSE.fullmatch(name)]
        own = [name for name in self._own if re.fullmatch(r"alignments\w+/pose", name)]
        if not (poses and own):
            return []
        taken, other = f"{self._alignment()}/pose", poses[0]
        if taken not in self._own:
            return [f"poses are {taken} of the passthrough file, and this one has {own[0]}"]
        assert self.passthrough is not None
        theirs, passed = self.passthrough, set(field_names(self.passthrough))
        fields = [name for name in self._own if group_of(name) == group_of(taken)]
        if passed.issuperset(fields) and all(
            np.array_equal(theirs[name][self.row_of], self.table[name]) for name in fields
        ):
            return []
        return [f"poses are {taken} of this file, not {other} of its passthrough file"]

    def rotations(self) -> Float[np.ndarray, "particle 3 3"]:
        """From the rotation vector of the pose: the transpose of the rotation about it."""
        column = f"{self._alignment()}/pose"
        values = self._values(column, 3)
        turn = np.linalg.norm(values, axis=1) <= LONGEST_POSE
        self.check(turn, f"has {column} = {{value}}", values, "give it in radians")
        vectors = torch.from_numpy(values)
        return np.swapaxes(rotations_from_vectors(vectors).numpy(), -1, -2)

    def shifts(self, pixel_size: float | None) -> Float[np.ndarray, "particle 2"]:
        """RELION's sign; in pixels of the alignment, often larger than the image's. No field: 0."""
        column = f"{self._alignment()}/shift"
        if column not in self.columns:
            return np.zeros((len(self), 2))
        return -self._values(column, 2) * self._size_of_shifts(pixel_size)[:, None]

    def pose_columns(
        self, poses: Poses, pixel_size: float | None
    ) -> dict[str, Float[np.ndarray, "particle value"]]:
        """The fields that say these poses in this file, or in its passthrough file.

        Raises InputError where a field is missing or holds no fractions.
        """
        pose, shift = (f"{self._alignment()}/{name}" for name in ("pose", "shift"))
        for column in (pose, shift):
            self.require(column, "writing poses", "write them as .star")
            dtype = self.raw(column).dtype
            if dtype.kind != "f":
                refuse(self.path, f"its field {column} is of type {dtype}", column, EXPORT_AGAIN)
        vectors = Rotation.from_matrix(poses.rotations.mT.numpy()).as_rotvec()
        size = self._size_of_shifts(pixel_size)
        return {pose: vectors, shift: -poses.shifts.numpy() / size[:, None]}

    def optics(self, ctf: CTFParameters) -> Optics:
        """Beam tilt, trefoil and tetrafoil in Å, and the anisotropic magnification.

        Raises InputError for a magnification that is far from 1.
        """
        wavelength = electron_wavelength(ctf.voltage_kv).numpy()
        optics: Optics = {}
        for column, field, make in (
            ("ctf/tilt_A", "odd", coma),
            ("ctf/trefoil_A", "odd", trefoil),
            ("ctf/tetra_A", "even", tetrafoil),
        ):
            if column in self.columns:
                values = self._values(column, 4 if field == "even" else 2)
                optics[field] = make(values, wavelength) + optics.get(field, 0)
        if "ctf/anisomag" in self.columns:
            matrix = self._values("ctf/anisomag", 4)  # minus the identity
            far = np.abs(matrix).max(axis=1)
            problem = "has a magnification ctf/anisomag that is off 1 by {value}"
            remedy = "refine it again (Global CTF Refinement), or without it"
            self.check(far <= LARGEST_DISTORTION, problem, far, remedy)
            optics["magnification"] = matrix.reshape(-1, 2, 2) + np.eye(2)
        return optics

    def optics_groups(self) -> Shaped[np.ndarray, " particle"]:
        """Exposure groups."""
        column = "ctf/exp_group_id"
        return self.column(column) if column in self.columns else super().optics_groups()

    def _size_of_shifts(self, pixel_size: float | None) -> Float[np.ndarray, " particle"]:
        """The pixels that shifts are in, in Å: those of the alignment, else of the images."""
        column = f"{self._alignment()}/psize_A"
        if column not in self.columns:
            return np.broadcast_to(pixel_size or self.pixel_sizes(), (len(self),))
        size = self._values(column)
        remedy = "its shifts have no unit: align the particles again"
        self.check(size > 0, f"has {column} = {{value}}", size, remedy)
        return size

    def _values(self, column: str, *shape: int) -> Float[np.ndarray, " particle *value"]:
        """A field with so many numbers for each particle."""
        values = self.numbers(column)
        if values.shape[1:] != shape:
            wanted = shape[0] if shape else 1
            problem = f"its field {column} has values of shape {{value}} for a particle"
            refuse(self.path, f"{problem}, not {wanted}", values.shape[1:], EXPORT_AGAIN)
        return values

    def _alignment(self) -> str:
        """What the names of the pose's fields begin with.

        It is alignments3D, or the class of an ab-initio job that all particles are in: of the job's
        own file, or else of its passthrough file.
        """
        own = any(_IS_POSE.fullmatch(name) for name in self._own)
        names = self._own if own else self.columns  # a job's own come before those passed through
        if "alignments3D/pose" in names:
            return "alignments3D"
        classes = [group_of(name) for name in names if _IS_POSE.fullmatch(name)]
        if not classes:
            self.require("alignments3D/pose", "the pose", self.pose_remedy)
        if len(classes) == 1:
            return classes[0]
        posteriors = [f"{prefix}/class_posterior" for prefix in classes]
        for column in posteriors:
            self.require(column, "choosing among ab-initio classes", self.pose_remedy)
        best = np.argmax([self._values(column) for column in posteriors], axis=0)
        self.check(
            best == best[0],
            f"is most likely of {{value}}, and particle 1 of {classes[best[0]]}",
            np.array(classes)[best],
            "every class has a frame of its own: give the particles of one class",
        )
        return classes[best[0]]


def write_table(path: Path, table: NDArray[Any]) -> None:
    """Write a structured array as a .cs file."""
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.lib.format.write_array(handle, np.ascontiguousarray(table), allow_pickle=False)


def fits_cs(particles: Particles) -> bool:
    """Whether `write_cs` can say all of these particles."""
    more = particles.aberrations
    plain = more is None or not optics_columns(more)
    return particles.ctf is not None and not particles.phase_flipped and plain


def write_cs(path: Path | str, particles: Particles, *, root: Path | None = None) -> None:
    """Write particles as a .cs file with the fields that a refinement needs.

    Image names are relative to `root` (default: the file's folder). Each uid is made from the
    image's name and place. Raises InputError for particles that do not fit (`fits_cs`).
    """
    path = Path(path)
    if particles.ctf is None or not fits_cs(particles):
        what = "flipped phases" if particles.phase_flipped else "aberrations"
        what = "without a CTF" if particles.ctf is None else f"with {what}"
        refuse(path, f"particles {what} are not written as .cs", None, "write them as .star")
    names = [name.encode() for name in particles.stack_names(root or path.parent)]
    path_field = ("blob/path", f"S{max(map(len, names))}")
    table = np.zeros(len(particles), dtype=[_MINIMAL[0], path_field, *_MINIMAL[1:]])
    table["blob/path"] = np.array(names)[particles.stack_of]
    table["blob/idx"] = particles.image_in_stack
    pose = Rotation.from_matrix(np.swapaxes(particles.rotations.numpy(), -1, -2)).as_rotvec()
    tags = (
        b"%d@%b@%b" % (image, names[stack], vector.tobytes())
        for image, stack, vector in zip(
            particles.image_in_stack, particles.stack_of, pose, strict=True
        )
    )
    digests = (hashlib.blake2b(tag, digest_size=8).digest() for tag in tags)
    table["uid"] = [int.from_bytes(digest, "little") for digest in digests]
    sizes = particles.pixel_sizes.numpy()
    table["blob/shape"], table["blob/psize_A"] = particles.box_size, sizes
    for field, column in _CTF_COLUMNS.items():
        values = getattr(particles.ctf, field).numpy()
        table[column] = np.deg2rad(values) if column.endswith("_rad") else values
    table["alignments3D/pose"], table["alignments3D/psize_A"] = pose, sizes
    table["alignments3D/shift"] = -particles.shifts.numpy() / sizes[:, None]
    write_table(path, table)
