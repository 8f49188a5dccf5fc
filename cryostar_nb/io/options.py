"""How to read particles, where their file does not say it all."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from cryostar_nb.config import settings


@settings
class Reading:
    """How to read particles, where their file does not say it all."""

    root: Path | None = None
    """Folder that image names are relative to (default: the nearest, from the file's own upward,
    that has the first image)."""
    pixel_size: Annotated[float, Field(strict=True, ge=0.01, le=1000)] | None = None
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
