"""Some of the particles, with every column of their file, to go on in RELION or cryoSPARC."""

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from cryostar_nb.clusters import Clusters
from cryostar_nb.errors import InputError
from cryostar_nb.io.cryosparc import CryosparcFile, write_cs, write_table
from cryostar_nb.io.metadata import Metadata, Poses
from cryostar_nb.io.options import Reading
from cryostar_nb.io.problems import understand
from cryostar_nb.io.reading import (
    make_particles,
    open_metadata,
    project_root,
    read_indices,
    repeated_rows,
)
from cryostar_nb.io.star import StarFile, write_star
from cryostar_nb.io.star_lines import select_from_star
from cryostar_nb.prepare.options import Choice

Scores = Float[np.ndarray, "particle component"]
Quality = Float[np.ndarray, " particle"]
# Columns that an alignment writes about its poses; they say nothing of other poses.
_ABOUT_POSES = re.compile(
    r"rln(Angle|Origin|LogLikeli|MaxValueProb|NrOfSignificant)"
    r"|alignments\w+/(pose|shift|error|cross_cor|resid_pow)"
)


def select_particles(
    particles: Path | str,
    out: Path | str,
    choice: Choice,
    *,
    reading: Reading | None = None,
    scores: Scores | None = None,
    quality: Quality | None = None,
    clusters: Clusters | None = None,
    poses: Poses | None = None,
) -> tuple[int, int, str]:
    """Write the chosen particles of a file to `out` (.star or .cs), in the order of their file.

    In the format that they come in, every column, table and value stays as it is. In the other
    one, what a refinement needs is written: images, poses, CTFs. Of a run on these particles are
    `scores`, along its principal components, `quality`, each particle's probability of being good,
    `clusters`, and `poses`, which are written in place of the file's. Returns how many were chosen,
    of how many, and a remark for the user. Raises InputError where nothing is chosen, and where the
    other format cannot say what the particles are.
    """
    metadata = open_metadata(particles, reading)
    understand(metadata, reading).tell(compared=False)
    rows = chosen_rows(metadata, choice, scores, quality, clusters)
    remark = write_selection(metadata, rows, Path(out), reading, poses)
    return len(rows), len(metadata), remark


def chosen_rows(
    metadata: Metadata,
    choice: Choice,
    scores: Scores | None = None,
    quality: Quality | None = None,
    clusters: Clusters | None = None,
) -> Int[np.ndarray, " row"]:
    """The rows that a choice means, in ascending order."""
    keep = np.ones(len(metadata), dtype=bool)
    if choice.indices is not None:
        keep[:] = False
        keep[read_indices(choice.indices, len(metadata))] = True
    if choice.above is not None or choice.below is not None:
        along = _scores_along(metadata, choice.pc, scores)
        if choice.above is not None:
            keep &= along > np.percentile(along, choice.above)
        if choice.below is not None:
            keep &= along < np.percentile(along, choice.below)
    if choice.quality is not None:
        if quality is None:
            problem, remedy = "has no quality of its particles", "give a run folder in its place"
            raise InputError(problem, file=metadata.path, remedy=remedy)
        _check_count(metadata, len(quality))
        keep &= quality >= choice.quality
    if choice.cluster is not None:
        if clusters is None:
            problem, remedy = "has no clusters", "give a run folder in its place"
            raise InputError(problem, file=metadata.path, remedy=remedy)
        _check_count(metadata, len(clusters.labels))
        inside = np.zeros(len(metadata), dtype=bool)
        inside[clusters.rows(choice.cluster)] = True
        keep &= inside
    if choice.optics_group is not None:
        groups = metadata.optics_groups().astype(str)
        if choice.optics_group not in groups:
            problem, value = "has no optics group {value}", choice.optics_group
            remedy = f"it has {', '.join(np.unique(groups)[:20].tolist())}"
            raise InputError(problem, file=metadata.path, value=value, remedy=remedy)
        keep &= groups == choice.optics_group
    if choice.unique:
        keep[repeated_rows(metadata.image_names(), metadata.poses(ctf=False))[:, 0]] = False
    if not keep.any():
        problem = f"no particle of {len(metadata)} is chosen"
        raise InputError(problem, file=metadata.path, remedy="loosen the conditions")
    return np.flatnonzero(keep)


def _scores_along(
    metadata: Metadata, component: int, scores: Scores | None
) -> Float[np.ndarray, " particle"]:
    """The scores of all particles along a component, counted from 1."""
    if scores is None:
        problem, remedy = "has no principal components", "give a run folder in its place"
        raise InputError(problem, file=metadata.path, remedy=remedy)
    _check_count(metadata, len(scores))
    if component > scores.shape[1]:
        problem = f"pc = {{value}}, and the run has components 1 to {scores.shape[1]}"
        raise InputError(problem, value=component, remedy="give one of these")
    return scores[:, component - 1]


def _check_count(metadata: Metadata, count: int) -> None:
    """Raise InputError where a run had another number of particles than the file."""
    if count != len(metadata):
        problem = f"holds {{value}} particles and the run was trained on {count}"
        remedy, value = "give the file that it had", len(metadata)
        raise InputError(problem, file=metadata.path, value=value, remedy=remedy)


def write_selection(
    metadata: Metadata,
    rows: Int[np.ndarray, " row"],
    out: Path,
    reading: Reading | None = None,
    poses: Poses | None = None,
) -> str:
    """Write these particles; return a remark about what was written.

    `poses` are of all particles of the file, and are written in place of its own.
    """
    if poses is not None:
        _check_count(metadata, len(poses))
    if out.suffix not in (".star", ".cs"):
        problem, remedy = "has a suffix of no particle file", "give a name in .star or .cs"
        raise InputError(problem, file=out, value=out.suffix, remedy=remedy)
    if out.exists() and out.resolve() == metadata.path.resolve():
        raise InputError("is the file that is read", file=out, remedy="write to another (--out)")
    reading, names = reading or Reading(), metadata.image_names()
    root = reading.root or project_root(metadata.path, names)
    remark = f"image names start from {os.path.abspath(root)}"
    if os.path.abspath(project_root(out, names)) != os.path.abspath(root):
        remark += " (to read it here, give that as --root)"
    if isinstance(metadata, StarFile) and out.suffix == ".star":
        changed = {} if poses is None else metadata.pose_columns(poses, reading.pixel_size)
        texts = {name: [f"{x:.6f}" for x in values[rows]] for name, values in changed.items()}
        select_from_star(metadata.path, rows, out, texts, count=len(metadata))
        return f"every column and table as it was{_what_changed(metadata, [*changed])}; {remark}"
    if isinstance(metadata, CryosparcFile) and out.suffix == ".cs":
        changed = {} if poses is None else metadata.pose_columns(poses, reading.pixel_size)
        tables = {out: metadata.table[rows]}
        if metadata.passthrough is not None:
            assert metadata.row_of is not None
            beside = out.with_name(f"{out.stem}_passthrough.cs")
            tables[beside] = metadata.passthrough[metadata.row_of[rows]]
            remark = f"those of the passthrough file are in {beside}; {remark}"
        for path, table in tables.items():
            for name in changed.keys() & set(table.dtype.names or ()):
                table[name] = changed[name][rows]
            write_table(path, table)
        return f"every field as it was{_what_changed(metadata, [*changed])}; {remark}"
    particles = make_particles(metadata, dataclasses.replace(reading, root=root))
    if poses is not None:
        particles = dataclasses.replace(particles, rotations=poses.rotations, shifts=poses.shifts)
    particles = particles[rows]
    (write_star if out.suffix == ".star" else write_cs)(out, particles, root=root)
    left_out = f"{len(particles.columns_ignored)} other columns have no place in this format"
    refined = "images, poses and CTFs" if poses is None else "images, refined poses and CTFs"
    return f"{refined}; the {left_out}; {remark}"


def _what_changed(metadata: Metadata, changed: list[str]) -> str:
    """What is not as it was, and what no longer holds; nothing where nothing was changed."""
    if not changed:
        return ""
    old = [name for name in metadata.columns if _ABOUT_POSES.match(name) and name not in changed]
    about = f", and {', '.join(old)} are still of the poses before" if old else ""
    return f" but {', '.join(changed)}, which are refined{about}"
