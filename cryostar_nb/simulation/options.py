"""What is simulated."""

from typing import Literal

from cryostar_nb.config import Count, Fraction, NotNegative, Number, Positive, WholeNumber, settings


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
