"""Any particle file to `Particles`, and the indices of some of them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from cryostar_nb.errors import InputError
from cryostar_nb.io.cryodrgn import PickledFiles, read_pickle
from cryostar_nb.io.cryosparc import CryosparcFile
from cryostar_nb.io.files import existing_file, one_line, refuse
from cryostar_nb.io.metadata import ImageNames, Metadata, Poses
from cryostar_nb.io.mrc import check_pixels, open_mrc
from cryostar_nb.io.options import Reading
from cryostar_nb.io.particles import Particles, open_stack
from cryostar_nb.io.star import StarFile

STACKS_LOOKED_AT = 8  # for whether their pixels are what their headers say
LEVELS = 4  # folders above the metadata file that are searched for its images


def open_metadata(path: Path | str, reading: Reading | None = None) -> Metadata:
    """Open a .star or .cs file, or a stack with pickles.

    Raises InputError for a file that cannot be opened, not yet for its content.
    """
    path, reading = Path(path), reading or Reading()
    suffix = path.suffix.lower()
    belongs_to = {
        "--passthrough": (reading.passthrough, (".cs",)),
        "--poses-pkl": (reading.poses_pkl, (".mrcs", ".mrc")),
        "--ctf-pkl": (reading.ctf_pkl, (".mrcs", ".mrc")),
    }
    for option, (given, suffixes) in belongs_to.items():
        if given is not None and suffix not in suffixes:
            problem = f"{option} {{value}} belongs to a {suffixes[0]} file"
            refuse(path, problem, given, "leave it out, or give that file")
    if suffix == ".star":
        return StarFile(path)
    if suffix == ".cs":
        return CryosparcFile(path, reading.passthrough)
    if suffix in (".mrcs", ".mrc"):
        return PickledFiles(path, reading.poses_pkl, reading.ctf_pkl)
    problem = f"has {f'the suffix {suffix}' if suffix else 'no suffix'}, and is no particle file"
    remedy = "give a .star (RELION), a .cs (cryoSPARC), or a .mrcs with cryoDRGN's pickles"
    refuse(path, problem, suffix, remedy)


def read_particles(path: Path | str, reading: Reading | None = None) -> Particles:
    """Read particles; their images stay on disk.

    Raises InputError for anything missing or impossible, with the file, the particle and the value.
    """
    return make_particles(open_metadata(path, reading), reading)


def project_root(path: Path, names: ImageNames) -> Path:
    """The folder that image names start from.

    Of the file's own folder and the few above it, it is the nearest that has the first image.
    """
    above = path.absolute().parent.parents[:LEVELS]
    for folder in (path.parent, *(parent for parent in above if parent != parent.parent)):
        if os.path.isfile(folder / names.files[0]):
            return folder
    return path.parent


def locate(
    source: Metadata, names: ImageNames, root: Path, *, allow_outside: bool = False
) -> tuple[Path, ...]:
    """Paths of the image files.

    Raises InputError for a name that leads out of `root`, by `..` or from the top, unless allowed.
    Links inside the root are followed: whoever made them may read what they lead to.
    """
    base = os.path.abspath(root)
    if not os.path.isdir(base):
        problem = f"is no folder, and the image names of {source.path} start from it"
        refuse(root, problem, None, "give the one that has the images (--root)")
    for index, name in enumerate(names.files):
        path = os.path.normpath(os.path.join(base, name))
        if not allow_outside and os.path.commonpath([base, path]) != base:
            source.refuse(
                names.first_row(index),
                f"has its image in {name!r}, which leads out of the project root ({base})",
                name,
                "give the root that holds it (--root), or --allow-outside if you trust the file",
            )
    return tuple(root / name for name in names.files)


def few(stacks: Sequence[Path]) -> list[Path]:
    """Some of many stacks, evenly spread, whose pixels are looked at before they are needed."""
    places = np.linspace(0, len(stacks) - 1, min(STACKS_LOOKED_AT, len(stacks)))
    return [stacks[place] for place in places.round().astype(int)]


def repeated_rows(names: ImageNames, poses: Poses) -> Int[np.ndarray, "repeat 2"]:
    """Particles with the image and the pose of an earlier one, as pairs (row, earlier row)."""
    paths = [os.path.normpath(name) for name in names.files]
    file_of = np.unique(paths, return_inverse=True)[1][names.file_of]
    image = file_of * (int(names.image_in_file.max()) + 1) + names.image_in_file
    _, number, counts = np.unique(image, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[number] > 1)
    if not len(rows):
        return np.empty((0, 2), dtype=np.int64)
    table = np.column_stack(
        [image[rows], poses.rotations.numpy()[rows].reshape(-1, 9), poses.shifts.numpy()[rows]]
    )
    _, first, number = np.unique(table, axis=0, return_index=True, return_inverse=True)
    earlier = first[number.ravel()]
    again = np.flatnonzero(earlier != np.arange(len(rows)))
    return np.column_stack([rows[again], rows[earlier[again]]])


def check_stacks(source: Metadata, names: ImageNames, stacks: Sequence[Path]) -> int:
    """The box size of these stacks.

    Raises InputError where one is missing, cut, too short, or of another box than it should be,
    and where the pixels of some of them cannot be read as their headers say.
    """
    last_of = np.full(len(stacks), -1, dtype=np.int64)
    np.maximum.at(last_of, names.file_of, names.image_in_file)
    boxes = np.empty(len(stacks), dtype=np.int64)
    for index, stack in enumerate(stacks):
        if not os.path.exists(stack):
            name = names.files[index]
            problem = f"has its image in {name}, and there is no file {stack}"
            remedy = "give the folder that this name starts from (--root)"
            source.refuse(names.first_row(index), problem, name, remedy)
        images = open_stack(stack)
        boxes[index], last = images.shape[-1], int(last_of[index])
        if last >= len(images):
            row = int(np.argmax((names.file_of == index) & (names.image_in_file == last)))
            problem = f"is image {{value}} of {stack}, which holds only {len(images)}"
            source.refuse(row, problem, last + 1, "the stack is cut or the wrong one")
        if index in names.unnumbered and len(images) > 1:
            name = names.files[index]
            problem = f"has no number of its image in {name}, a stack of {len(images)}"
            remedy = "write it as 000001@stack.mrcs"
            source.refuse(names.first_row(index), problem, name, remedy)
    for stack in few(stacks):
        check_pixels(stack, *open_mrc(stack))
    box = int(boxes[0])
    source.check(
        boxes[names.file_of] == box,
        f"has a box of {{value}} pixels, and {stacks[0]} has boxes of {box}",
        boxes[names.file_of],
        "extract all with one box",
    )
    declared = source.box_sizes()
    if declared is not None:
        problem = f"has a box of {{value}} pixels by its metadata, and of {box} in its stack"
        remedy = "give the metadata of this stack: another has another pixel size"
        source.check(declared == box, problem, declared, remedy)
    return box


def make_particles(source: Metadata, reading: Reading | None = None) -> Particles:
    """All that the metadata says, checked, with its images, which stay on disk.

    Raises InputError for anything missing or impossible.
    """
    reading = reading or Reading()
    names = source.image_names()
    pixel_size = source.pixel_size(reading.pixel_size)
    poses = source.poses(reading.pixel_size)
    flipped = reading.phase_flipped or source.phase_flipped()
    root = reading.root or project_root(source.path, names)
    stacks = locate(source, names, root, allow_outside=reading.allow_outside)
    box_size = check_stacks(source, names, stacks)
    repeated = repeated_rows(names, poses)
    if len(repeated):
        row, earlier = repeated[0].tolist()
        image = f"{names.image_in_file[row] + 1}@{names.files[names.file_of[row]]}"
        problem = f"has the image {image} and the pose of particle {earlier + 1}"
        if len(repeated) > 1:
            problem += f", and {len(repeated) - 1} more repeat others"
        source.refuse(row, problem, image, "keep each once (cryostar-nb select --unique)")
    return Particles(
        source=source.path,
        stacks=stacks,
        stack_of=names.file_of,
        image_in_stack=names.image_in_file,
        box_size=box_size,
        pixel_size=pixel_size,
        rotations=poses.rotations,
        shifts=poses.shifts,
        ctf=poses.ctf,
        phase_flipped=flipped,
        columns_used=source.used,
        columns_ignored=source.ignored,
    )


def read_indices(where: Path | str, count: int) -> Int[np.ndarray, " row"]:
    """Particles, counted from 0, out of `count`: START:STOP, or the content of a file.

    A .npy file holds integers, or a mask, a truth value for each particle; a .txt file an integer
    on each line; a .pkl file an array, as cryoDRGN writes it; a .csv file a column `index`, or a
    column `particle`, which is counted from 1. Raises InputError for anything else, and for an
    index twice.
    """
    if match := re.fullmatch(r"(\d{0,12}):(\d{0,12})", str(where)):
        chosen = np.arange(count)[int(match[1] or 0) : int(match[2] or count)]
        if not len(chosen):
            problem, remedy = f"{where}: none of {count} particles is in this range", "count from 0"
            raise InputError(problem, value=str(where), remedy=f"{remedy}, without STOP")
        return chosen
    path = existing_file(where, "indices of particles, or START:STOP")
    indices = _indices_in(path)
    if indices.dtype == bool:
        if indices.shape != (count,):
            problem = f"is a mask of shape {{value}} and there are {count} particles"
            refuse(path, problem, indices.shape, "give one value for each")
        if not indices.any():
            refuse(
                path, f"is a mask that chooses none of {count} particles", None, "set it for some"
            )
        return np.flatnonzero(indices)
    if indices.ndim != 1 or indices.dtype.kind not in "iu" or not len(indices):
        problem, remedy = f"holds {indices.dtype} of shape {{value}}", "give integers, one for each"
        refuse(path, problem, indices.shape, f"{remedy} chosen particle")
    for place in np.flatnonzero((indices < 0) | (indices >= count))[:1]:
        problem = f"entry {place + 1} is {{value}}, and the {count} particles are counted from 0"
        refuse(path, problem, int(indices[place]), "correct it")
    _, first = np.unique(indices, return_index=True)
    for place in np.setdiff1d(np.arange(len(indices)), first)[:1]:
        problem = f"entry {place + 1} is {{value}}, which came before"
        refuse(path, problem, int(indices[place]), "name each particle once")
    return indices.astype(np.int64)


def _indices_in(path: Path) -> np.ndarray:
    """The array in a file of indices."""
    if path.suffix not in (".npy", ".txt", ".csv", ".pkl"):
        problem = "is not a .npy, .txt, .csv or .pkl file"
        refuse(path, problem, path.suffix, "give one, or START:STOP")
    try:
        if path.suffix == ".pkl":
            return np.asarray(read_pickle(path, "indices of particles"))
        if path.suffix == ".npy":
            return np.lib.format.open_memmap(path, mode="r")
        if path.suffix == ".txt":
            return np.array([int(line) for line in path.read_text().split()])
        table = pd.read_csv(path)
    except InputError:
        raise
    except Exception as error:  # of many types: numpy's, pandas', of text that is no number
        problem = f"cannot be read as indices ({one_line(error)})"
        remedy = "give an integer for each particle"
        raise InputError(problem, file=path, remedy=remedy) from error
    column = next((name for name in ("index", "particle") if name in table.columns), None)
    if column is None or not len(table):
        problem = "has no column index or particle, or no rows below it"
        refuse(path, problem, None, "give the particles that are chosen")
    values = table[column].to_numpy()
    return values - 1 if column == "particle" and values.dtype.kind == "i" else values
