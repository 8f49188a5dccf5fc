"""What is done to a stack of images, and which particles are chosen."""

from typing import Annotated

from pydantic import Field

from cryostar_nb.config import Count, Fraction, Percentile, Positive, WholeNumber, settings


@settings
class Preprocessing:
    """What is done to the images, in this order."""

    box_size: Annotated[int, Field(strict=True, ge=4)] | None = None
    """Crop in Fourier space to a box of this many pixels; the pixels become larger and the field
    of view stays."""
    low_pass: Positive | None = None
    """Leave out detail finer than this, in Å, with an edge two Fourier pixels wide."""
    invert: bool = False
    """Turn dark protein bright."""
    normalise: bool = True
    """Bring the background, outside a circle, to mean 0 and standard deviation 1."""
    background_radius: Positive | None = None
    """Radius of that circle in Å (default: half the box)."""
    mask_radius: Positive | None = None
    """Fade to 0 beyond this distance from the centre, in Å. Masked images have no background left,
    which `train` needs."""
    mask_edge: Positive = 10.0
    """Width of the mask's edge in Å."""


@settings
class Choice:
    """Which particles; where several conditions are given, all must hold."""

    indices: str | None = None
    """File of indices counted from 0 (.npy, .txt, .pkl, or .csv with a column `index`, or
    `particle` counted from 1), a mask in .npy, or START:STOP."""
    pc: Count = 1
    """Principal component of a run that --above and --below are about; the first leads away from
    the reference."""
    above: Percentile | None = None
    """Those above this percentile of the component, 0 to 100."""
    below: Percentile | None = None
    """Those below this percentile of the component, 0 to 100."""
    quality: Fraction | None = None
    """Those that a run gives at least this probability of being good, 0 to 1."""
    cluster: WholeNumber | None = None
    """Those of this cluster, from 1, of the command `landscape`; 0: those that are in none."""
    optics_group: str | None = None
    """Those of this optics group."""
    unique: bool = False
    """Leave out every particle that is an earlier one again: the same image with the same pose."""
