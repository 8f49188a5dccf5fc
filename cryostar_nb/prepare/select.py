"""Some of the particles, written so that RELION or cryoSPARC can go on with them, with every column that their file had."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from cryostar_nb.errors import InputError
from cryostar_nb.io.cryosparc import CryosparcFile, write_cs, write_table
from cryostar_nb.io.metadata import Metadata, make_particles, project_root, repeated_rows
from cryostar_nb.io.reading import Reading, open_metadata, read_indices
from cryostar_nb.io.star import StarFile, select_from_star, write_star
from cryostar_nb.runs.config import read_config
from cryostar_nb.runs.folder import open_run


@dataclass(frozen=True)
class Choice:
    """Which particles; where several conditions are given, all must hold."""

    indices: str | None = None
    """File of indices counted from 0 (.npy, .txt, .pkl, or .csv with a column `index`, or `particle` counted from 1), a mask in .npy, or START:STOP."""
    pc: int = 1
    """Principal component of a run that --above and --below are about; the first leads away from the reference."""
    above: float | None = None
    """Those above this percentile of the component, 0 to 100."""
    below: float | None = None
    """Those below this percentile of the component, 0 to 100."""
    optics_group: str | None = None
    """Those of this optics group."""
    unique: bool = False
    """Leave out every particle that is an earlier one again: the same image with the same pose."""


def particles_of(source: Path | str, reading: Reading | None = None) -> tuple[Path, Reading]:
    """The particle file of a run folder, or `source` itself, and how to read it: as `reading` says, and else as the run did."""
    source, reading = Path(source), reading or Reading()
    if not source.is_dir():
        return source, reading
    inputs, silent = read_config(source).inputs, vars(Reading())
    given = {name: value for name, value in vars(reading).items() if value != silent[name]}
    return inputs.particles, dataclasses.replace(inputs.reading, **given)


def select_particles(
    source: Path | str, out: Path | str, choice: Choice, reading: Reading | None = None
) -> tuple[int, int, str]:
    """Write the chosen particles of a file, or of a run, to `out` (.star or .cs), in the order of their file.

    In the format that they come in, every column, table and value stays as it is. In the other one, what it takes for a
    refinement is written: images, poses, CTFs. Returns how many were chosen, of how many, and a remark for the user. Raises
    InputError where nothing is chosen, and where the other format cannot say what the particles are.
    """
    source, out = Path(source), Path(out)
    particles, reading = particles_of(source, reading)
    by_component = source.is_dir() and (choice.above is not None or choice.below is not None)
    scores = open_run(source).components().scores.numpy() if by_component else None
    metadata = open_metadata(
        particles,
        passthrough=reading.passthrough,
        poses_pkl=reading.poses_pkl,
        ctf_pkl=reading.ctf_pkl,
    )
    rows = chosen_rows(metadata, choice, scores)
    return len(rows), len(metadata), write_selection(metadata, rows, out, reading)


def chosen_rows(
    metadata: Metadata, choice: Choice, scores: np.ndarray | None = None
) -> Int[np.ndarray, " row"]:
    """The rows that a choice means, in ascending order."""
    keep = np.ones(len(metadata), dtype=bool)
    if choice.indices is not None:
        keep[:] = False
        keep[read_indices(choice.indices, len(metadata))] = True
    if choice.above is not None or choice.below is not None:
        if scores is None:
            raise InputError(
                f"{metadata.path}: principal components are a run's; give the folder of one in place of the particles"
            )
        if len(scores) != len(metadata):
            raise InputError(
                f"{metadata.path}: holds {len(metadata)} particles and the run was trained on {len(scores)}; give back the file that it had"
            )
        if not 1 <= choice.pc <= scores.shape[1]:
            raise InputError(
                f"pc = {choice.pc}: the run has components 1 to {scores.shape[1]}; give one of these"
            )
        along = scores[:, choice.pc - 1]
        for name, limit in (("above", choice.above), ("below", choice.below)):
            if limit is not None and not 0 <= limit <= 100:
                raise InputError(f"{name} = {limit:g}: a percentile is 0 to 100")
        if choice.above is not None:
            keep &= along > np.percentile(along, choice.above)
        if choice.below is not None:
            keep &= along < np.percentile(along, choice.below)
    if choice.optics_group is not None:
        groups = metadata.optics_groups().astype(str)
        if choice.optics_group not in groups:
            raise InputError(
                f"{metadata.path}: has no optics group {choice.optics_group}; it has {', '.join(np.unique(groups)[:20].tolist())}"
            )
        keep &= groups == choice.optics_group
    if choice.unique:
        keep[repeated_rows(metadata.image_names(), metadata.poses(ctf=False))[:, 0]] = False
    if not keep.any():
        raise InputError(
            f"{metadata.path}: no particle of {len(metadata)} is chosen; loosen the conditions"
        )
    return np.flatnonzero(keep)


def write_selection(
    metadata: Metadata, rows: Int[np.ndarray, " row"], out: Path, reading: Reading
) -> str:
    """Write these particles; return a remark about what was written."""
    if out.suffix not in (".star", ".cs"):
        raise InputError(f"{out}: particles are written as .star or .cs; give a name that ends so")
    if out.exists() and out.resolve() == metadata.path.resolve():
        raise InputError(f"{out}: is the file that is read; write to another one (--out)")
    names = metadata.image_names()
    root = reading.root or project_root(metadata.path, names)
    hint = (
        ""
        if os.path.abspath(project_root(out, names)) == os.path.abspath(root)
        else " (to read it here, give that as --root)"
    )
    whence = f"image names start from {os.path.abspath(root)}{hint}"
    if isinstance(metadata, StarFile) and out.suffix == ".star":
        select_from_star(metadata.path, rows, out)
        return f"every column and table as it was; {whence}"
    if isinstance(metadata, CryosparcFile) and out.suffix == ".cs":
        write_table(out, metadata.table[rows])
        if metadata.passthrough is None:
            return f"every field as it was; {whence}"
        assert metadata.row_of is not None
        beside = out.with_name(f"{out.stem}_passthrough.cs")
        write_table(beside, metadata.passthrough[metadata.row_of[rows]])
        return f"every field as it was, those of the passthrough file in {beside}; {whence}"
    options = {"allow_outside": reading.allow_outside, "phase_flipped": reading.phase_flipped}
    particles = make_particles(
        metadata, root=root, pixel_size=reading.pixel_size, **options
    ).select(rows)
    (write_star if out.suffix == ".star" else write_cs)(out, particles, root=root)
    return f"images, poses and CTFs; the {len(particles.columns_ignored)} other columns have no place in this format; {whence}"
