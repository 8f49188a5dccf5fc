"""What is simulated, and which faults of real data it is given."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cryostar_nb.config import (
    FROM_NUMPY,
    Count,
    Fraction,
    NotNegative,
    Number,
    Positive,
    WholeNumber,
    settings,
)
from cryostar_nb.errors import InputError


@settings
class SimulationConfig:
    """What is simulated; the defaults are Table 1's, but for the noise."""

    n_particles: Count = 50_000
    """Number of particle images."""
    box_size: Count = 128
    """Edge of an image, in pixels."""
    pixel_size: Positive = 1.0
    """Edge of a pixel, in Å."""
    snr: Positive = 0.1
    """Variance of the clean image over the whole box, over the variance of the noise. Table 1
    prints 0.0001 and no definition."""
    states: Count = 50
    """Number of conformations along the path."""
    morph: Literal["linear", "rigid"] = "linear"
    """The path between the two ends: straight lines, or one that keeps bond lengths and domains
    rigid."""
    populations: Literal["uniform", "two"] = "uniform"
    """How particles are spread over the states: evenly, or as two Gaussians at 20 % and 80 % of
    the path, of 7 % standard deviation."""
    first_share: Fraction = 0.5
    """Of two populations, the part of the particles that is in the first."""
    resolution: Positive = 3.0
    """Resolution of the full-atom density, in Å: its transform falls to 1/e at 1/resolution, as in
    EMAN2's e2pdb2mrc."""
    defocus_log_mean: Number = 1.0
    """Mean of the logarithm of the defocus in µm: Lognormal(1.0, 0.3^2), a median of 2.7 µm."""
    defocus_log_sd: NotNegative = 0.3
    """Standard deviation of the logarithm of the defocus."""
    voltage_kv: Positive = 300.0
    """Accelerating voltage, in kV."""
    spherical_aberration_mm: Number = 2.7
    """Spherical aberration, in mm."""
    amplitude_contrast: Fraction = 0.1
    """Amplitude contrast, a fraction."""
    seed: WholeNumber = 0
    """Seed of every random draw."""

    def __post_init__(self) -> None:
        if self.populations != "two" and self.first_share != 0.5:
            raise InputError(
                "first_share = {value}, and there are no two populations",
                value=self.first_share,
                remedy="give --populations two",
            )


@settings
class Faults:
    """Faults that real particles have, in simple forms; by default there are none. Values are
    recorded in truth.npz.
    """

    rotation_error: NotNegative = 0.0
    """Error of the rotations that the STAR file tells, in degrees: the standard deviation about
    each of three axes."""
    shift_error: NotNegative = 0.0
    """Error of the origins that the STAR file tells, in Å: the standard deviation along x and
    y."""
    defocus_error: NotNegative = 0.0
    """Error of the defocus that the STAR file tells, in Å: a standard deviation, the same error in
    U and V."""
    astigmatism: NotNegative = 0.0
    """True astigmatism U - V, in Å: its root mean square; the axis is random. Only of CTFs that
    are drawn, not of those of --poses."""
    astigmatism_error: NotNegative = 0.0
    """Error of the astigmatism that the STAR file tells, in Å: the standard deviation of its parts
    along x and along the diagonal."""
    noise_spectrum: Literal["white", "ice"] | Path = "white"
    """Power of the noise over frequency k in 1/Å. ice: 1 + (0.02 / k)^1.5. Or a text file of two
    columns, k and power in any unit. The variance over the box is that of white noise."""
    mtf: Annotated[float, FROM_NUMPY, Field(strict=True, gt=0, le=1)] | Path | None = None
    """Transfer of the detector, which multiplies the signal, not the noise: its value at Nyquist,
    of a Gaussian point spread; or a STAR file with rlnResolutionInversePixel and rlnMtfValue."""
    b_factor: NotNegative = 0.0
    """Mean B-factor of the images, in Å^2, of which the STAR file tells nothing: an envelope
    exp(-B k^2 / 4)."""
    b_factor_sd: NotNegative = 0.0
    """Standard deviation of the B-factor between particles, in Å^2; it is 0 at least."""
    contrast_sd: NotNegative = 0.0
    """Standard deviation of the contrast between particles, about 1; it is 0.1 at least."""
    solvent: Fraction = 0.0
    """Solvent that the molecule displaces: the fraction of its blurred density that is
    subtracted."""
    solvent_blur: Positive = 8.0
    """Standard deviation of the Gaussian that blurs the displaced solvent, in Å."""
    ice_gradient: NotNegative = 0.0
    """Standard deviation over the image of a linear ramp in a random direction, in standard
    deviations of the noise."""
    neighbours: NotNegative = 0.0
    """Mean number of other copies of the molecule that reach into the box from outside the
    particle."""
    junk: Annotated[float, FROM_NUMPY, Field(strict=True, ge=0, lt=1)] = 0.0
    """Fraction of the images without a good particle, in equal parts: empty, a molecule off the
    centre, an aggregate, another molecule."""
    uneven_views: NotNegative = 0.0
    """Concentration kappa of the views about a preferred axis: the density of the direction of
    view v is proportional to exp(kappa (v . axis)^2). Not with --poses."""


@settings
class ImperfectReference:
    """How the model that is written as reference.cif differs from the first state; by default no
    such model is written.
    """

    reference_rotamers: Fraction = 0.0
    """Fraction of the side chains that are turned by 120 degrees about CA-CB, either way."""
    reference_gap: WholeNumber = 0
    """Residues of a missing loop."""
    reference_shift: NotNegative = 0.0
    """Displacement of a misplaced domain, in Å: the stretch of residues that moves most along the
    path, in a random direction."""
    reference_state: Count | Literal["last"] = 1
    """State of the path that the model is made from, counted from 1."""


# What a good data set still has; the page "How it works" says which value has a source.
REALISTIC = Faults(
    rotation_error=2.0,
    shift_error=1.0,
    defocus_error=300.0,
    astigmatism=200.0,
    astigmatism_error=100.0,
    noise_spectrum="ice",
    mtf=0.5,
    b_factor=80.0,
    b_factor_sd=20.0,
    contrast_sd=0.25,
    solvent=0.5,
    ice_gradient=0.05,
    neighbours=0.3,
    junk=0.1,
)
REALISTIC_SNR = 0.05


def not_default(chosen: object) -> dict[str, object]:
    """The settings of such a dataclass that are not at their defaults, ready for JSON."""
    entries = [(e.name, e.default, getattr(chosen, e.name)) for e in dataclasses.fields(chosen)]  # type: ignore[arg-type]
    changed = {name: value for name, default, value in entries if value != default}
    return {name: str(v) if isinstance(v, Path) else v for name, v in changed.items()}
