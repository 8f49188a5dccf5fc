"""What moved, and in how many populations? Displacements of domains between two structures, and the modes of a latent density."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.signal import find_peaks
from scipy.stats import gaussian_kde, iqr

DIP = 0.25  # part of its height by which the density falls, at least, between a mode and a higher one
LOWEST = 0.05  # height of the lowest mode, as a part of the highest


def score_density(
    scores: Float[np.ndarray, " particle"], points: int = 512
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
    """Places along a component, and the density of particles there (its integral is 1): a sum of a Gaussian for each particle.

    The width of the Gaussians is Silverman's, 0.9 min(sd, iqr / 1.34) n^(-1/5) (Density Estimation, 1986, eq. 3.31), which a
    few outliers do not widen. The scores must not all be the same.
    """
    sd = float(scores.std(ddof=1))
    width = 0.9 * (min(sd, float(iqr(scores)) / 1.34) or sd) * len(scores) ** -0.2
    places = np.linspace(scores.min() - 4 * width, scores.max() + 4 * width, points)
    return places, gaussian_kde(scores, bw_method=width / sd)(places)


def latent_modes(scores: Float[np.ndarray, " particle"]) -> Float[np.ndarray, " mode"]:
    """Where the density of the scores along a component has its modes, in ascending order.

    A mode is a peak of `score_density` from which the density falls by at least a quarter of the peak's height on the way
    to any higher one, and which is at least a twentieth as high as the highest. The valley between two equal Gaussians is
    that deep when they lie more than 2.8 standard deviations apart. Particles that all have one score are one mode.
    """
    if np.ptp(scores) == 0:
        return scores[:1]
    places, density = score_density(scores)
    peaks, found = find_peaks(np.pad(density, 1), prominence=0.0, height=LOWEST * density.max())
    return places[peaks[found["prominences"] >= DIP * found["peak_heights"]] - 1]


@dataclass(frozen=True)
class Displacement:
    """How far some nodes go from one structure to another, rms in Å."""

    nodes: int
    true: float
    found: float
    error: float  # rms distance between the displacement that was found and the true one, direction included


def displacement(
    found: Float[np.ndarray, "2 atom 3"], true: Float[np.ndarray, "2 atom 3"], nodes: Bool[np.ndarray, " atom"]
) -> Displacement:
    """The displacement of some nodes between two structures that were found, beside that between the two true ones."""
    moves = [(pair[1] - pair[0])[nodes] for pair in (found, true)]
    far, expected, wrong = (float(np.sqrt(np.square(move).sum(-1).mean())) for move in (*moves, moves[0] - moves[1]))
    return Displacement(int(nodes.sum()), expected, far, wrong)
