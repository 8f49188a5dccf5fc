"""Any particle file to the one `Particles`: which reader, by the suffix."""

from dataclasses import dataclass
from pathlib import Path

from cryostar_nb.cryosparc import CryosparcFile
from cryostar_nb.errors import InputError
from cryostar_nb.metadata import Metadata, make_particles
from cryostar_nb.particles import Particles
from cryostar_nb.pickles import PickledFiles
from cryostar_nb.star import StarFile


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
            raise InputError(f"{path}: {option} {given} belongs to a {suffixes[0]} file; leave it out, or give that file")
    if suffix == ".star":
        return StarFile(path)
    if suffix == ".cs":
        return CryosparcFile(path, passthrough)
    if suffix in (".mrcs", ".mrc"):
        return PickledFiles(path, poses_pkl, ctf_pkl)
    raise InputError(
        f"{path}: particles are read from .star (RELION), .cs (cryoSPARC) or .mrcs (a stack with cryoDRGN's pickles), not {suffix or 'a name without suffix'}"
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
    return make_particles(source, root=root, pixel_size=pixel_size, ctf=ctf, allow_outside=allow_outside, phase_flipped=phase_flipped)
