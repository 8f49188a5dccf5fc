"""What an image can tell: the least error that any method can have when it predicts the state of a particle from its image.

A method that knows the structures of all states, the pose, the CTF and the noise still has one thing to find out: which state
t of S it looks at. It sees y = x_t + sigma n, where x_s is the clean image of state s at that pose and CTF, as a band vector,
and n is white with unit variance. All that y says is in the posterior under the uniform prior of the simulation (Bayes),

    p(s | y) = exp(-|y - x_s|^2 / (2 sigma^2)) / sum_r exp(-|y - x_r|^2 / (2 sigma^2)).

Which answer is best depends on what is averaged. The mean *squared* RMSD is least for the posterior-mean structure
sum_s p(s | y) X_s: its root, `rms`, is a floor that no method can get below. The mean RMSD is least for the posterior's
geometric median; on a straight morph that is a weighted median, hence one of the states, and `lowest_mean` is exact. Each
is a floor for the average over the states. For a single state it is not: who always answers "state 7" is perfect there.

Nothing but inner products of clean images enters. With d_s = x_s - mean_r x_r, C = d d^T and z_s = n . d_s,

    log p(s | y) = (C_ts - C_ss / 2) / sigma^2 + z_s / sigma + constant,      z ~ N(0, C),

so one rendering of an image serves all noise levels, all true states and any number of noise draws, each of S numbers
instead of one a pixel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryostar_nb.density import atom_sigma
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band, coordinate_axis
from cryostar_nb.io.metadata import Poses
from cryostar_nb.io.particles import batches
from cryostar_nb.projector import gaussian_density, make_images
from cryostar_nb.simulation.particles import SimulationConfig, draw_poses
from cryostar_nb.structure import Structure, node_atoms

_BATCH = 64  # particles whose posteriors are in memory at a time
DISC_MARGIN = 5.0  # Å beyond the outermost atom
SILHOUETTE_LEVEL = 0.05  # of the greatest value of the clean projection


@dataclass(frozen=True)
class InformationFloor:
    """Floors at each noise level; RMSDs of the nodes in Å, without alignment. Every `_error` is one Monte-Carlo standard error."""

    snr: Float[
        np.ndarray, " level"
    ]  # variance of the clean image over the whole box / variance of the noise
    noise_sd: Float[np.ndarray, " level"]  # of a pixel, and of every element of a band vector
    rms: Float[
        np.ndarray, " level"
    ]  # root of the mean squared RMSD of the posterior mean: no method has less
    rms_error: Float[np.ndarray, " level"]
    mean: Float[np.ndarray, " level"]  # mean RMSD of the posterior mean
    mean_error: Float[np.ndarray, " level"]
    lowest_mean: Float[
        np.ndarray, " level"
    ]  # mean RMSD of the state of least expected RMSD: on a straight morph, no method has less
    lowest_mean_error: Float[np.ndarray, " level"]
    per_state: Float[
        np.ndarray, "level state"
    ]  # mean RMSD of the posterior mean where this state is the true one
    per_state_error: Float[np.ndarray, "level state"]
    prior_per_state: Float[np.ndarray, " state"]  # RMSD of always answering with the mean structure
    prior_mean: float  # its mean
    prior_rms: float  # its root mean square
    n_particles: int
    draws: int


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
    """The floors for particles as `simulate` makes them, at each whole-box SNR.

    `config.n_particles` poses and defoci are drawn with `config.seed`, and the full-atom images of *all* states are rendered
    at each. Every state is the true one in turn, with `draws` draws of the noise that all SNRs and true states share; the
    standard errors come from the spread between particles, which are independent, and not between draws. `low_pass`, in Å,
    hides finer detail from the observer without changing the noise. Without `ctf` the images have none: since a CTF can be
    undone wherever it is not zero, this is also the floor for noise that was added *before* the CTF.

    Raises InputError for an SNR that is not positive, and for fewer than two particles, which have no spread.
    """
    config.check()
    if any(not snr > 0 for snr in snrs) or config.n_particles < 2 or draws < 1:
        raise InputError(
            f"snrs = {list(snrs)}, n_particles = {config.n_particles}, draws = {draws}; give positive SNRs, two particles or more, and a draw or more"
        )
    scatter, signal_variance = scatter_matrices(atoms, path, config, low_pass=low_pass, ctf=ctf)
    generator = torch.Generator().manual_seed(config.seed)
    normal = torch.randn(len(scatter), draws, len(path), dtype=torch.float64, generator=generator)
    coordinates = state_coordinates(torch.from_numpy(path[:, node_atoms(atoms)]))
    noise_sd = np.sqrt(signal_variance / np.asarray(snrs, dtype=np.float64))
    levels = [_errors_per_particle(scatter, normal, coordinates, float(sd)) for sd in noise_sd]
    mean, square, lowest = (
        torch.stack([level[kind] for level in levels]) for kind in range(3)
    )  # (level, particle, state)
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
        n_particles=config.n_particles,
        draws=draws,
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
    """C of each particle, the inner products of its clean images of all states about their mean; and the signal variance.

    The latter is that of a clean image over the whole box, with all its detail, averaged over particles and states.
    """
    poses, band, states = _poses_and_band(config, path)
    kept = torch.ones(band.size, dtype=torch.bool)
    if low_pass is not None:
        kept = band.per_coefficient(
            (band.frequencies.norm(dim=-1) <= 1 / low_pass + 1e-9).double()
        ).bool()
    scatter = torch.empty(len(poses), len(path), len(path), dtype=torch.float64)
    power = 0.0
    for rows in batches(len(poses), 1, "rendering all states"):
        vectors = _clean_vectors(atoms, states, poses, rows.start, band, config, ctf=ctf).double()
        power += float(vectors.square().sum(-1).mean())
        difference = (vectors - vectors.mean(0))[:, kept]
        scatter[rows.start] = difference @ difference.mT
    return scatter, power / len(poses) / config.box_size**2


def _poses_and_band(
    config: SimulationConfig, path: Float[np.ndarray, "state atom 3"]
) -> tuple[Poses, Band, Tensor]:
    """Poses and CTFs as `simulate` draws them, its band (up to Nyquist), and the path in its precision."""
    poses = draw_poses(config, np.random.default_rng(config.seed))
    return (
        poses,
        Band(config.box_size, config.pixel_size, 2 * config.pixel_size),
        torch.from_numpy(path).float(),
    )


def _clean_vectors(
    atoms: Structure,
    positions: Float[Tensor, "state atom 3"],
    poses: Poses,
    particle: int,
    band: Band,
    config: SimulationConfig,
    *,
    ctf: bool,
) -> Float[Tensor, "state band"]:
    """The clean images of these positions in the pose and CTF of a particle: `simulate`'s, before it decodes them."""
    assert poses.ctf is not None
    return make_images(
        positions,
        torch.from_numpy(atoms.electrons).float(),
        torch.tensor(atom_sigma(config.resolution)),
        band,
        rotations=poses.rotations[particle].float(),
        ctf=poses.ctf[particle] if ctf else None,
    )


def state_coordinates(positions: Float[Tensor, "state node 3"]) -> Float[Tensor, "state axis"]:
    """Coordinates of the states, in Å, whose Euclidean distance *is* the RMSD; as few axes as they span, one on a straight morph."""
    nodes = positions.shape[1]
    centred = (positions - positions.mean(0)).double().flatten(1) / math.sqrt(nodes)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    axes = max(1, int((s > 1e-9 * s[0]).sum()))
    return u[:, :axes] * s[:axes]


def draw_projections(
    scatter: Float[Tensor, "*batch state state"], normal: Float[Tensor, "*batch draw state"]
) -> Float[Tensor, "*batch draw state"]:
    """z_s = n . d_s of white noise n, from S independent normal numbers instead of one a pixel.

    z is Gaussian with mean 0 and covariance d d^T = C, so z = g A^T has its very distribution when A A^T = C; A = V sqrt(w)
    from the eigenvectors of C, which may be singular.
    """
    values, vectors = torch.linalg.eigh(scatter)
    return normal @ (vectors * values.clamp(min=0).sqrt()[..., None, :]).mT


def posterior(
    scatter: Float[Tensor, "*batch state state"],
    projections: Float[Tensor, "*batch draw state"],
    noise_sd: float,
) -> Float[Tensor, "*batch draw truth state"]:
    """p(s | y) of every state s, for every true state and draw of the noise, under a uniform prior."""
    own = scatter.diagonal(dim1=-2, dim2=-1)
    evidence = (scatter - own[..., None, :] / 2) / noise_sd**2  # (*batch, truth, state)
    return torch.softmax(evidence[..., None, :, :] + projections[..., None, :] / noise_sd, dim=-1)


def _errors_per_particle(
    scatter: Float[Tensor, "particle state state"],
    normal: Float[Tensor, "particle draw state"],
    coordinates: Float[Tensor, "state axis"],
    noise_sd: float,
) -> tuple[
    Float[Tensor, "particle state"],
    Float[Tensor, "particle state"],
    Float[Tensor, "particle state"],
]:
    """Averages over the draws, per true state: RMSD of the posterior mean, its square, and RMSD of the best state."""
    distances = torch.cdist(coordinates, coordinates, compute_mode="donot_use_mm_for_euclid_dist")
    parts = []
    for some, numbers in zip(scatter.split(_BATCH), normal.split(_BATCH), strict=True):
        weights = posterior(
            some, draw_projections(some, numbers), noise_sd
        )  # (particle, draw, truth, state)
        square = (weights @ coordinates - coordinates).square().sum(-1)  # (particle, draw, truth)
        best = (weights @ distances).argmin(-1)
        chosen = distances[torch.arange(len(distances)), best]
        parts.append((square.sqrt().mean(1), square.mean(1), chosen.mean(1)))
    mean, squared, lowest = (torch.cat(kind) for kind in zip(*parts, strict=True))
    return mean, squared, lowest


def signal_measures(
    atoms: Structure, path: Float[np.ndarray, "state atom 3"], config: SimulationConfig
) -> dict[str, float]:
    """What may be called the signal of these images, averaged over particles, in the square of the images' unit (electrons/Å^2).

    An SNR is one of these over the variance of the noise, so for the same noise two SNRs have the ratio of two measures:

    * `box`: variance of the clean CTF-modulated image over the whole box, our definition;
    * `disc`: its variance inside the disc about the centre that holds every state in every pose: the distance of the
      outermost atom from the origin, and 5 Å;
    * `silhouette`: its variance inside each image's own mask, where the projection *without* CTF exceeds 5 % of its maximum;
    * `peak`: the square of its greatest absolute value;
    * `before_ctf`: variance of the projection without CTF over the whole box;
    * `volume`: variance of the three-dimensional density over the box, per voxel, times the pixel size squared, so that a
      projection is a *sum* of voxels.

    Particle i shows state i modulo the number of states.
    """
    poses, band, states = _poses_and_band(config, path)
    radius = float(np.linalg.norm(path, axis=-1).max()) + DISC_MARGIN
    axis = coordinate_axis(config.box_size, config.pixel_size)
    disc = axis[:, None].square() + axis.square() <= radius**2
    sums = dict.fromkeys(("box", "disc", "silhouette", "peak", "before_ctf"), 0.0)
    for number in range(len(poses)):
        state = number % len(path)
        one = states[state : state + 1]
        image, projection = (
            band.decode(_clean_vectors(atoms, one, poses, number, band, config, ctf=ctf))[
                0
            ].double()
            for ctf in (True, False)
        )
        above_ground = (
            projection - projection.min()
        )  # a band leaves the mean out; the ground of a projection is 0
        sums["box"] += _variance(image)
        sums["disc"] += _variance(image, disc)
        sums["silhouette"] += _variance(image, above_ground > SILHOUETTE_LEVEL * above_ground.max())
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


def _variance(values: Float[Tensor, "*grid"], mask: Bool[Tensor, "*grid"] | None = None) -> float:
    chosen = values if mask is None else values[mask]
    return float(chosen.var(correction=0))
