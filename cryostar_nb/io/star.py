"""RELION STAR files, in and out: of 3.0, with one table, and of 3.1 on, with optics groups."""

from pathlib import Path

import numpy as np
import pandas as pd
import starfile
import torch
from jaxtyping import Float, Shaped

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.geometry import relion_angles_from_rotations, rotations_from_relion_angles
from cryostar_nb.io.files import existing_file, refuse, write_text
from cryostar_nb.io.metadata import SAME_SIZE, ImageNames, Metadata, Optics, Poses
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.star_optics import OPTICS_COLUMNS, PREMULTIPLIED, optics_columns, read_optics
from cryostar_nb.io.star_tables import GIVE_REFINED, join, particles_and_optics

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
_ORIGINS_IN_PIXELS = ("rlnOriginX", "rlnOriginY")
_OF_A_GROUP = {  # what RELION reads from the optics table
    "voltage_kv": "rlnVoltage",
    "spherical_aberration_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
}
_OF_A_PARTICLE = {
    "defocus_u": "rlnDefocusU",
    "defocus_v": "rlnDefocusV",
    "defocus_angle_deg": "rlnDefocusAngle",
    "phase_shift_deg": "rlnPhaseShift",
    "b_factor": "rlnCtfBfactor",
}
# Columns that `write_star` writes, and those that it makes untrue.
WRITTEN = {"rlnImageName", *_ANGLES, *_ORIGINS, *_OF_A_GROUP.values(), *_OF_A_PARTICLE.values()}
WRITTEN |= {"rlnOpticsGroup", "rlnOpticsGroupName", "rlnCtfDataArePhaseFlipped"}
WRITTEN |= {"rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality"}
WRITTEN |= {"rlnOriginX", "rlnOriginY", "rlnDetectorPixelSize", "rlnMagnification"}
WRITTEN |= OPTICS_COLUMNS


class StarFile(Metadata):
    """A STAR file: `table` has a row for each particle, with the columns of its optics group."""

    format = "RELION STAR"
    ctf_columns = _OF_A_PARTICLE | _OF_A_GROUP
    pose_remedy = GIVE_REFINED
    rescale_remedy = "rescale them to one (relion_image_handler --rescale_angpix)"

    def __init__(self, path: Path | str) -> None:
        super().__init__(existing_file(path, "a RELION particle STAR file"))
        particles, optics = particles_and_optics(self.path)
        self.particle_table = particles
        self.table = particles if optics is None else join(self.path, particles, optics)

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
        column = "rlnImageDimensionality"
        if column in self.columns:
            axes, remedy = self.numbers(column), "give single images, not subtomograms"
            self.check(axes == 2, f"has {column} = {{value}}", axes, remedy)
        stacks: dict[str, int] = {}
        unnumbered: set[int] = set()
        places: list[tuple[int, int]] = []
        for row, name in enumerate(map(str, self.column("rlnImageName").tolist())):
            number, at, stack = name.rpartition("@")
            if at and not (number.isdecimal() and len(number) < 12 and int(number) >= 1):
                remedy = "it is written 000001@stack.mrcs, counted from 1"
                self.refuse(row, f"has rlnImageName = {name!r}", name, remedy)
            index = stacks.setdefault(stack, len(stacks))
            if not at:
                unnumbered.add(index)
            places.append((index, int(number) - 1 if at else 0))
        stack_of, image_in_stack = np.array(places, dtype=np.int64).T
        return ImageNames(tuple(stacks), stack_of, image_in_stack, frozenset(unnumbered))

    def pixel_sizes(self) -> Float[np.ndarray, " particle"]:
        """From the image's own pixel size, or from the detector's and the magnification."""
        columns = ("rlnDetectorPixelSize", "rlnMagnification")
        both = set(columns) <= set(self.columns)
        if "rlnImagePixelSize" in self.columns:
            sizes = self.numbers("rlnImagePixelSize")
            if both:
                self._check_magnification(sizes)
            return sizes
        if not both:
            problem = f"has neither rlnImagePixelSize nor {' and '.join(columns)}"
            remedy = "give the pixel size (--pixel-size, in Å)"
            refuse(self.path, problem, None, remedy)
        return self._magnified_pixel_sizes()

    def _magnified_pixel_sizes(self) -> Float[np.ndarray, " particle"]:
        detector, magnification = map(self.numbers, ("rlnDetectorPixelSize", "rlnMagnification"))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            sizes = 1e4 * detector / magnification
        remedy = "give the pixel size (--pixel-size, in Å)"
        problem = "has rlnMagnification = {value}"
        self.check(np.isfinite(sizes), problem, magnification, remedy)
        return np.asarray(sizes)

    def _check_magnification(self, sizes: Float[np.ndarray, " particle"]) -> None:
        """Raise InputError where detector and magnification give another pixel size than these."""
        other = self._magnified_pixel_sizes()
        for row in np.flatnonzero(~np.isclose(sizes, other, rtol=SAME_SIZE))[:1].tolist():
            problem = f"has rlnImagePixelSize = {{value}}, and {other[row]:g} Å by"
            problem += " rlnDetectorPixelSize and rlnMagnification"
            remedy = "delete what is wrong, or give --pixel-size, in Å"
            self.refuse(row, problem, float(sizes[row]), remedy)

    def box_sizes(self) -> Float[np.ndarray, " particle"] | None:
        """From the optics table."""
        return self.numbers("rlnImageSize") if "rlnImageSize" in self.columns else None

    def rotations(self) -> Float[np.ndarray, "particle 3 3"]:
        """From the three Euler angles."""
        for column in _ANGLES:
            self.require(column, "the pose", self.pose_remedy)
        return rotations_from_relion_angles(*map(self.numbers, _ANGLES))

    def shifts(self, pixel_size: float | None) -> Float[np.ndarray, "particle 2"]:
        """The particle sits at minus RELION's origin, which centres the image. No column: 0."""
        for names, unit in ((_ORIGINS, 1.0), (_ORIGINS_IN_PIXELS, None)):
            given = [name for name in names if name in self.columns]
            if len(given) == 1:
                absent = next(name for name in names if name not in given)
                problem = f"has {given[0]} and no {absent}"
                remedy = "give both, or delete it where nothing is shifted"
                refuse(self.path, problem, absent, remedy)
            if given:
                size = np.broadcast_to(unit or pixel_size or self.pixel_sizes(), (len(self),))
                return -np.stack([self.numbers(name) * size for name in names], axis=1)
        return np.zeros((len(self), 2))

    def pose_columns(
        self, poses: Poses, pixel_size: float | None
    ) -> dict[str, Float[np.ndarray, " particle"]]:
        """The columns that say these poses in this file.

        Origins are in Å, in pixels, or in both, as the file has them; where it has none, in Å if
        there is an optics table.
        """
        angles = relion_angles_from_rotations(poses.rotations.numpy())
        values = dict(zip(_ANGLES, angles.T, strict=True))
        given = set(self.columns)
        in_pixels = _ORIGINS_IN_PIXELS[0] in given
        if not in_pixels and _ORIGINS[0] not in given:
            in_pixels = self.table is self.particle_table
        origins = -poses.shifts.numpy().T
        if in_pixels:
            size = self.sizes(pixel_size)
            values |= dict(zip(_ORIGINS_IN_PIXELS, origins / size, strict=True))
        if not in_pixels or _ORIGINS[0] in given:
            values |= dict(zip(_ORIGINS, origins, strict=True))
        return values

    def optics(self, ctf: CTFParameters) -> Optics:
        """Magnification, beam tilt, Zernike polynomials, and the flag of multiplied images."""
        return read_optics(self, ctf)

    def optics_groups(self) -> Shaped[np.ndarray, " particle"]:
        """As the particle table has them."""
        column = "rlnOpticsGroup"
        return self.column(column) if column in self.columns else super().optics_groups()

    def phase_flipped(self) -> bool:
        """From the flag that RELION keeps.

        Raises InputError where it is mixed, and where it is set for images that are multiplied by
        their whole CTF.
        """
        column = "rlnCtfDataArePhaseFlipped"
        if column not in self.columns:
            return False
        flags = self.numbers(column)
        if PREMULTIPLIED in self.columns:
            both = (flags != 0) & (self.numbers(PREMULTIPLIED) != 0)
            problem = f"has {column} = {{value}}, and {PREMULTIPLIED} as well"
            self.check(~both, problem, flags, "one of them is wrong: set it to 0")
        problem = f"has {column} = {{value}}, and particle 1 has {flags[0]:g}"
        remedy = "choose those of one kind (cryostar-nb select --optics-group)"
        self.check((flags != 0) == (flags[0] != 0), problem, flags, remedy)
        return bool(flags[0])


def read_poses(path: Path | str) -> Poses:
    """Read the poses and CTFs of a RELION STAR file, in its order; its images need not exist.

    Origins in pixels (RELION 3.0) become Å by the file's own pixel size. Raises InputError as
    `io.reading.read_particles` does.
    """
    return StarFile(path).poses()


def write_star(
    path: Path | str,
    particles: Particles,
    *,
    root: Path | None = None,
    more: pd.DataFrame | None = None,
) -> None:
    """Write particles as a RELION 3.1 STAR file.

    Image names are relative to `root` (default: the file's folder), or absolute outside it. There
    is an optics group for every combination of voltage, spherical aberration, amplitude contrast,
    pixel size and aberrations, with beam tilts among RELION's odd Zernike coefficients. `more` are
    further columns, a row for each particle. Raises InputError for particles without a CTF.
    """
    path, ctf, aberrations = Path(path), particles.ctf, particles.aberrations
    if ctf is None:
        problem = "particles without a CTF cannot be written"
        refuse(path, problem, None, "RELION asks for one")
    microscopes = [getattr(ctf, field).numpy() for field in _OF_A_GROUP]
    if aberrations is not None:
        matrices, flags = aberrations.magnification.flatten(1), aberrations.multiplied[:, None]
        optics_of = torch.cat([matrices, aberrations.even, aberrations.odd, flags], dim=1)
        microscopes += [particles.pixel_sizes.numpy(), *optics_of.numpy().T]
    groups, first, group_of = np.unique(
        np.stack(microscopes, axis=-1), axis=0, return_index=True, return_inverse=True
    )
    numbers = np.arange(1, len(groups) + 1)
    optics: dict[str, object] = {
        "rlnOpticsGroupName": [f"opticsGroup{number}" for number in numbers],
        "rlnOpticsGroup": numbers,
        "rlnImagePixelSize": particles.pixel_sizes.numpy()[first],
        "rlnImageSize": particles.box_size,
        "rlnImageDimensionality": 2,
        **dict(zip(_OF_A_GROUP.values(), groups.T, strict=False)),  # the first three
        **({} if aberrations is None else optics_columns(aberrations[torch.from_numpy(first)])),
    }
    if particles.phase_flipped:
        optics["rlnCtfDataArePhaseFlipped"] = 1
    names = particles.stack_names(root or path.parent)
    images = zip(particles.stack_of, particles.image_in_stack, strict=True)
    angles = relion_angles_from_rotations(particles.rotations.numpy())
    table: dict[str, object] = {
        "rlnImageName": [f"{image + 1:06d}@{names[stack]}" for stack, image in images],
        **dict(zip(_ANGLES, angles.T, strict=True)),
        **dict(zip(_ORIGINS, -particles.shifts.numpy().T, strict=True)),
        **{column: getattr(ctf, field).numpy() for field, column in _OF_A_PARTICLE.items()},
        "rlnOpticsGroup": group_of.ravel() + 1,
    }
    frame = pd.DataFrame(table)
    if more is not None:
        frame = pd.concat([frame, more.reset_index(drop=True)], axis=1)
    blocks = {"optics": pd.DataFrame(optics), "particles": frame}
    lines = starfile.to_string(blocks, float_format="%.9g").splitlines(keepends=True)
    # starfile puts the time in a comment: other bytes for the same particles
    write_text(path, "".join(line for line in lines if not line.startswith("#")))
