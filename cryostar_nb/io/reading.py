"""Any particle file to the one `Particles`: which reader, by the suffix."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from cryostar_nb.errors import InputError
from cryostar_nb.io.cryodrgn import PickledFiles, read_pickle
from cryostar_nb.io.cryosparc import CryosparcFile
from cryostar_nb.io.files import existing_file
from cryostar_nb.io.metadata import Metadata, make_particles
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.star import StarFile


@dataclass(frozen=True)
class Reading:
    """How to read particles, where their file does not say it all."""

    root: Path | None = None
    """Folder that image names are relative to (default: the nearest, from the file's own upward, that has the first image)."""
    pixel_size: float | None = None
    """Pixel size in Å, where the file does not say or is wrong."""
    passthrough: Path | None = None
    """cryoSPARC: the passthrough file of the same job, for the fields that the .cs file lacks."""
    poses_pkl: Path | None = None
    """cryoDRGN: the pickle of poses of a stack."""
    ctf_pkl: Path | None = None
    """cryoDRGN: the pickle of CTFs of a stack."""
    allow_outside: bool = False
    """Read images outside the root, by absolute names or with `..`."""
    phase_flipped: bool = False
    """The images were multiplied by the sign of their CTF."""

    def files(self) -> tuple[Path | None, ...]:
        """Files that are read beside the particles'."""
        return self.passthrough, self.poses_pkl, self.ctf_pkl


def open_metadata(
    path: Path | str,
    *,
    passthrough: Path | str | None = None,
    poses_pkl: Path | str | None = None,
    ctf_pkl: Path | str | None = None,
) -> Metadata:
    """Open a .star or .cs file, or a stack with pickles. Raises InputError for a file that cannot be opened, not yet for its content."""
    path = Path(path)
    suffix = path.suffix.lower()
    belongs_to = {
        "--passthrough": (passthrough, (".cs",)),
        "--poses-pkl": (poses_pkl, (".mrcs", ".mrc")),
        "--ctf-pkl": (ctf_pkl, (".mrcs", ".mrc")),
    }
    for option, (given, suffixes) in belongs_to.items():
        if given is not None and suffix not in suffixes:
            raise InputError(
                f"{path}: {option} {given} belongs to a {suffixes[0]} file; leave it out, or give that file"
            )
    if suffix == ".star":
        return StarFile(path)
    if suffix == ".cs":
        return CryosparcFile(path, passthrough)
    if suffix in (".mrcs", ".mrc"):
        return PickledFiles(path, poses_pkl, ctf_pkl)
    raise InputError(
        f"{path}: particles are read from .star (RELION), .cs (cryoSPARC) or .mrcs (a stack with cryoDRGN's pickles), not {suffix or 'a name without suffix'}; give one of these"
    )


def read_particles(
    path: Path | str,
    *,
    root: Path | str | None = None,
    pixel_size: float | None = None,
    passthrough: Path | str | None = None,
    poses_pkl: Path | str | None = None,
    ctf_pkl: Path | str | None = None,
    allow_outside: bool = False,
    phase_flipped: bool = False,
    ctf: bool = True,
) -> Particles:
    """Read particles; their images stay on disk. The options are those of `Reading`.

    `ctf=False` is for images that the microscope's CTF has not touched. Raises InputError for anything missing or impossible,
    naming the file, the particle and the value.
    """
    source = open_metadata(path, passthrough=passthrough, poses_pkl=poses_pkl, ctf_pkl=ctf_pkl)
    return make_particles(
        source,
        root=root,
        pixel_size=pixel_size,
        ctf=ctf,
        allow_outside=allow_outside,
        phase_flipped=phase_flipped,
    )


def read_indices(where: Path | str, count: int) -> Int[np.ndarray, " row"]:
    """Particles, counted from 0, out of `count`: START:STOP, or the content of a file.

    A .npy file holds integers, or a mask, a truth value for each particle; a .txt file an integer on each line; a .pkl file an
    array, as cryoDRGN writes it; a .csv file a column `index`, or a column `particle`, which is counted from 1. Raises
    InputError for anything else, and for an index twice.
    """
    text = str(where)
    if match := re.fullmatch(r"(\d{0,12}):(\d{0,12})", text):
        indices = np.arange(count)[int(match[1] or 0) : int(match[2] or count)]
        if not len(indices):
            raise InputError(
                f"{text}: none of {count} particles is in this range; it is START:STOP, counted from 0, without STOP"
            )
        return indices
    path = existing_file(where, "indices of particles, or START:STOP")
    indices = _indices_in(path)
    if indices.dtype == bool:
        if indices.shape != (count,):
            raise InputError(
                f"{path}: is a mask of shape {indices.shape} and there are {count} particles; give one value for each"
            )
        if not indices.any():
            raise InputError(
                f"{path}: is a mask that chooses none of {count} particles; set it for those that are wanted"
            )
        return np.flatnonzero(indices)
    if indices.ndim != 1 or indices.dtype.kind not in "iu" or not len(indices):
        raise InputError(
            f"{path}: holds {indices.dtype} of shape {indices.shape}; give integers, one for each particle that is chosen"
        )
    bad = np.flatnonzero((indices < 0) | (indices >= count))
    if len(bad):
        raise InputError(
            f"{path}: entry {bad[0] + 1} is {indices[bad[0]]}, and the {count} particles are counted from 0; correct it"
        )
    places, first = np.unique(indices, return_index=True)
    if len(places) != len(indices):
        again = int(np.setdiff1d(np.arange(len(indices)), first)[0])
        raise InputError(
            f"{path}: entry {again + 1} is {indices[again]}, which came before; name each particle once"
        )
    return indices.astype(np.int64)


def _indices_in(path: Path) -> np.ndarray:
    """The array in a file of indices."""
    try:
        if path.suffix == ".pkl":
            return np.asarray(read_pickle(path, "indices of particles"))
        if path.suffix == ".npy":
            return np.lib.format.open_memmap(path, mode="r")
        if path.suffix == ".txt":
            return np.array([int(line) for line in path.read_text().split()])
        if path.suffix == ".csv":
            table = pd.read_csv(path)
            column = next((name for name in ("index", "particle") if name in table.columns), None)
            if column is None or not len(table):
                raise InputError(
                    f"{path}: has no column index or particle, or no rows below it; give the particles that are chosen"
                )
            return table[column].to_numpy() - (column == "particle")
    except InputError:
        raise
    except Exception as error:  # of many types: numpy's, pandas', of text that is no number
        raise InputError(
            f"{path}: cannot be read as indices ({' '.join(str(error).split())[:200] or type(error).__name__}); give an integer for each particle"
        ) from error
    raise InputError(
        f"{path}: indices are read from .npy, .txt, .csv or .pkl; give one of these, or START:STOP"
    )
