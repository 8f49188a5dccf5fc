"""The information floor: the least error of any method that predicts a particle's state.

Suppose the structures of all S states, the pose, the CTF and the noise are known, and only the
state t is not. The image is y = x_t + sigma n, where x_s is the clean image of state s, as a band
vector, and n is white with unit variance. All that y says is in the posterior (Bayes, with the
uniform prior of the simulation),

    p(s | y) = exp(-|y - x_s|^2 / (2 sigma^2)) / sum_r exp(-|y - x_r|^2 / (2 sigma^2)).

The mean *squared* RMSD is least for the posterior mean, the structure sum_s p(s | y) X_s: no method
has a lower `rms`. The mean RMSD is least for the posterior's geometric median, which on a straight
morph is one of the states: there no method has a lower `lowest_mean`. Both are averages over the
states. For a single state there is no floor: the answer "always state 7" makes no error there.

Only inner products of clean images enter. With d_s = x_s - mean_r x_r, C = d d^T and z_s = n . d_s,

    log p(s | y) = (C_ts - C_ss / 2) / sigma^2 + z_s / sigma + constant,      z ~ N(0, C),

so one C per particle, of S x S numbers, serves all noise levels, true states and draws of noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.density import atom_sigma
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import coordinate_axis
from cryostar_nb.io.particles import batches
from cryostar_nb.projector import gaussian_density
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import clean_images, draw_poses
from cryostar_nb.structure import Structure, node_atoms

BATCH = 64  # particles whose posteriors are in memory
DISC_MARGIN = 5.0  # Å beyond the outermost atom
SILHOUETTE_LEVEL = 0.05  # of the greatest value of the clean projection

PerLevel = Float[np.ndarray, " level"]
PerLevelAndState = Float[np.ndarray, "level state"]


@dataclass(frozen=True)
class InformationFloor:
    """Floors at each noise level: RMSDs of the nodes in Å, without alignment.

    Each `..._error` is one standard error of the Monte Carlo average.
    """

    snr: PerLevel  # variance of the clean image over the whole box / variance of the noise
    noise_sd: PerLevel  # of a pixel, and of every element of a band vector
    rms: PerLevel  # root mean squared RMSD of the posterior mean: no method has less
    rms_error: PerLevel
    mean: PerLevel  # mean RMSD of the posterior mean
    mean_error: PerLevel
    lowest_mean: PerLevel  # mean RMSD of the state whose expected RMSD is least
    lowest_mean_error: PerLevel
    per_state: PerLevelAndState  # mean RMSD of the posterior mean where this state is the true one
    per_state_error: PerLevelAndState
    prior_per_state: Float[np.ndarray, " state"]  # RMSD of the mean structure to this state
    prior_mean: float  # its mean
    prior_rms: float  # its root mean square


def information_floor(
    atoms: Structure,
    path: Float[np.ndarray, "state atom 3"],
    config: SimulationConfig,
    snrs: Sequence[float],
    *,
    draws: int = 4,
    low_pass: float | None = None,
    ctf: bool = True,
) -> InformationFloor:
    """The floors for particles as `simulate` makes them, at each SNR over the whole box.

    At each of `config.n_particles` poses and defoci every state is the true one in turn, with
    `draws` draws of the noise, the same for all SNRs and true states. Standard errors come from the
    spread between particles. `low_pass` and `ctf` are those of `scatter_matrices`; `low_pass` does
    not change the noise. Raises InputError for an SNR that is not positive, and for fewer than two
    particles or one draw.
    """
    wrong = [snr for snr in snrs if not snr > 0]
    if wrong:
        raise InputError("SNR = {value}", value=wrong[0], remedy="give positive numbers")
    if config.n_particles < 2 or draws < 1:
        value = f"n_particles = {config.n_particles}, draws = {draws}"
        raise InputError("{value}", value=value, remedy="give two particles and a draw, or more")
    scatter, signal_variance = scatter_matrices(atoms, path, config, low_pass=low_pass, ctf=ctf)
    generator = torch.Generator().manual_seed(config.seed)
    normal = torch.randn(len(scatter), draws, len(path), dtype=torch.float64, generator=generator)
    coordinates = state_coordinates(torch.from_numpy(path[:, node_atoms(atoms)]))
    noise_sd = np.sqrt(signal_variance / np.asarray(snrs, dtype=np.float64))
    levels = [_errors_per_particle(scatter, normal, coordinates, float(sd)) for sd in noise_sd]
    mean, square, lowest = torch.stack(levels, dim=1)  # (level, particle, state) each
    rms = square.mean((1, 2)).sqrt()
    prior = (coordinates - coordinates.mean(0)).norm(dim=-1)
    return InformationFloor(
        snr=np.asarray(snrs, dtype=np.float64),
        noise_sd=noise_sd,
        rms=rms.numpy(),
        rms_error=(_standard_error(square.mean(2)) / (2 * rms).clamp(min=1e-12)).numpy(),
        mean=mean.mean((1, 2)).numpy(),
        mean_error=_standard_error(mean.mean(2)).numpy(),
        lowest_mean=lowest.mean((1, 2)).numpy(),
        lowest_mean_error=_standard_error(lowest.mean(2)).numpy(),
        per_state=mean.mean(1).numpy(),
        per_state_error=_standard_error(mean).numpy(),
        prior_per_state=prior.numpy(),
        prior_mean=float(prior.mean()),
        prior_rms=float(prior.square().mean().sqrt()),
    )


def _standard_error(values: Tensor) -> Tensor:
    """From (level, particle, ...) to (level, ...)."""
    return values.std(dim=1) / math.sqrt(values.shape[1])


def scatter_matrices(
    atoms: Structure,
    path: Float[np.ndarray, "state atom 3"],
    config: SimulationConfig,
    *,
    low_pass: float | None = None,
    ctf: bool = True,
) -> tuple[Float[Tensor, "particle state state"], float]:
    """C of each particle, and the mean variance of a clean image over the whole box.

    `low_pass`, in Å, leaves finer detail out of C, not out of the variance. Without `ctf` the
    images have none. As a CTF can be undone wherever it is not zero, the floor is then also that
    for noise that was added *before* the CTF.
    """
    poses = draw_poses(config, np.random.default_rng(config.seed))
    band, images = clean_images(atoms, config, poses)
    kept = torch.ones(band.size, dtype=torch.bool)
    if low_pass is not None:
        coarse = band.frequencies.norm(dim=-1) <= 1 / low_pass + 1e-9
        kept = band.per_coefficient(coarse.double()).bool()
    states = torch.from_numpy(path).float()
    scatter = torch.empty(len(poses), len(path), len(path), dtype=torch.float64)
    power = 0.0
    for rows in batches(len(poses), 1, "rendering all states"):
        vectors = images(states, rows.start, ctf=ctf).double()
        power += float(vectors.square().sum(-1).mean())
        difference = (vectors - vectors.mean(0))[:, kept]
        scatter[rows.start] = difference @ difference.mT
    return scatter, power / len(poses) / config.box_size**2


def state_coordinates(positions: Float[Tensor, "state node 3"]) -> Float[Tensor, "state axis"]:
    """Coordinates of the states, in Å, whose Euclidean distance *is* the RMSD, on fewest axes."""
    centred = (positions - positions.mean(0)).double().flatten(1) / math.sqrt(positions.shape[1])
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    axes = max(1, int((s > 1e-9 * s[0]).sum()))
    return u[:, :axes] * s[:axes]


def draw_projections(
    scatter: Float[Tensor, "*batch state state"], normal: Float[Tensor, "*batch draw state"]
) -> Float[Tensor, "*batch draw state"]:
    """z_s = n . d_s of white noise n, from S independent normal numbers instead of one per pixel.

    z = g A^T has the covariance C of z when A A^T = C: A = V sqrt(w), from the eigenvectors V and
    the eigenvalues w of C, which may be singular.
    """
    values, vectors = torch.linalg.eigh(scatter)
    return normal @ (vectors * values.clamp(min=0).sqrt()[..., None, :]).mT


def posterior(
    scatter: Float[Tensor, "*batch state state"],
    projections: Float[Tensor, "*batch draw state"],
    noise_sd: float,
) -> Float[Tensor, "*batch draw truth state"]:
    """p(s | y) of every state s, for every true state and draw of noise, under a uniform prior."""
    squares = scatter.diagonal(dim1=-2, dim2=-1)  # C_ss
    evidence = (scatter - squares[..., None, :] / 2) / noise_sd**2  # (*batch, truth, state)
    return torch.softmax(evidence[..., None, :, :] + projections[..., None, :] / noise_sd, dim=-1)


def _errors_per_particle(
    scatter: Float[Tensor, "particle state state"],
    normal: Float[Tensor, "particle draw state"],
    coordinates: Float[Tensor, "state axis"],
    noise_sd: float,
) -> Float[Tensor, "3 particle state"]:
    """RMSD of the posterior mean, its square, and RMSD of the best state: averages over draws."""
    distances = torch.cdist(coordinates, coordinates, compute_mode="donot_use_mm_for_euclid_dist")
    parts = []
    for matrices, numbers in zip(scatter.split(BATCH), normal.split(BATCH), strict=True):
        weights = posterior(matrices, draw_projections(matrices, numbers), noise_sd)
        square = (weights @ coordinates - coordinates).square().sum(-1)  # (particle, draw, truth)
        best = (weights @ distances).argmin(-1)
        lowest = distances[torch.arange(len(distances)), best]
        parts.append(torch.stack([square.sqrt(), square, lowest]).mean(2))
    return torch.cat(parts, dim=1)


def signal_measures(
    atoms: Structure, path: Float[np.ndarray, "state atom 3"], config: SimulationConfig
) -> dict[str, float]:
    """What may be called the signal of these images, in the square of their unit, electrons/Å^2.

    Each is averaged over particles, and particle i shows state i modulo the number of states. For
    the same noise two SNRs have the ratio of two of these:

    * `box`: variance of the clean CTF-modulated image over the whole box, our definition;
    * `disc`: its variance inside the disc that holds every state in every pose, and 5 Å more;
    * `silhouette`: its variance where the projection *without* CTF exceeds 5 % of its maximum;
    * `peak`: the square of its greatest absolute value;
    * `before_ctf`: variance of the projection without CTF over the whole box;
    * `volume`: variance of the three-dimensional density over the box, per voxel, times the pixel
      size squared, so that a projection is a *sum* of voxels.
    """
    poses = draw_poses(config, np.random.default_rng(config.seed))
    band, images = clean_images(atoms, config, poses)
    states = torch.from_numpy(path).float()
    radius = float(np.linalg.norm(path, axis=-1).max()) + DISC_MARGIN
    axis = coordinate_axis(config.box_size, config.pixel_size)
    disc = axis[:, None].square() + axis.square() <= radius**2
    sums = dict.fromkeys(("box", "disc", "silhouette", "peak", "before_ctf"), 0.0)
    for particle in range(len(poses)):
        image, projection = (
            band.decode(images(states[particle % len(path)], particle, ctf=ctf)).double()
            for ctf in (True, False)
        )
        # A band leaves the mean out: the ground of a projection, 0, is its least value.
        above_ground = projection - projection.min()
        sums["box"] += _variance(image)
        sums["disc"] += _variance(image[disc])
        mask = above_ground > SILHOUETTE_LEVEL * above_ground.max()
        sums["silhouette"] += _variance(image[mask])
        sums["peak"] += float(image.abs().max().square())
        sums["before_ctf"] += _variance(projection)
    density = gaussian_density(
        states[len(path) // 2],
        torch.from_numpy(atoms.electrons).float(),
        torch.tensor(atom_sigma(config.resolution)),
        box_size=config.box_size,
        pixel_size=config.pixel_size,
    )
    measures = {name: value / len(poses) for name, value in sums.items()}
    return measures | {"volume": _variance(density) * config.pixel_size**2}


def _variance(values: Tensor) -> float:
    return float(values.var(correction=0))
