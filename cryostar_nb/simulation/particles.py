"""Synthetic particles with a known truth (section 3.2, appendix C).

A structure moves along a path, is projected, blurred by the CTF, and noise is added. The images
show all heavy atoms; the model that is later trained on them moves one node per residue.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.density import atom_sigma
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.files import replacing
from cryostar_nb.io.metadata import Poses
from cryostar_nb.io.particles import Particles, batches
from cryostar_nb.io.stacks import write_stack
from cryostar_nb.io.star import read_poses, write_star
from cryostar_nb.io.structures import read_structure, read_trajectory
from cryostar_nb.projector import make_images
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.paths import linear_morph, matching_atoms, rigid_morph
from cryostar_nb.structure import Structure, node_atoms

SNR_DEFINITION = (
    "variance of the clean CTF-modulated image over the whole box / variance of the noise, "
    "averaged over the data set"
)
BATCH = 32  # images in memory
SIGNAL_SAMPLE = 1000  # images whose variance sets the noise


def load_path(
    config: SimulationConfig,
    start: Path | str,
    end: Path | str | None = None,
    trajectory: Path | str | None = None,
    topology: Path | str | None = None,
) -> tuple[Structure, Float[np.ndarray, "state atom 3"]]:
    """The atoms, and their positions in every state, in Å.

    The states are a morph from the structure `start` to `end`, or frames spread evenly over a
    trajectory, whose topology is `start` where no other is given. Raises InputError where there
    are too few frames, and where neither `end` nor a trajectory is given.
    """
    if trajectory is not None:
        atoms, frames = read_trajectory(trajectory, topology or start)
        if config.states > len(frames):
            problem = f"holds {{value}} frames, fewer than the {config.states} states asked for"
            remedy = f"give --states {len(frames)} or less"
            raise InputError(problem, file=trajectory, value=len(frames), remedy=remedy)
        return atoms, frames[np.linspace(0, len(frames) - 1, config.states).round().astype(int)]
    if end is None:
        raise InputError("a morph needs two structures", remedy="give --end, or --trajectory")
    first, last = matching_atoms(read_structure(start), read_structure(end))
    morph = {"linear": linear_morph, "rigid": rigid_morph}[config.morph]
    return first, morph(start=first.positions, end=last.positions, states=config.states)


def draw_states(config: SimulationConfig, rng: np.random.Generator) -> Int[np.ndarray, " particle"]:
    """The state of each particle, counted from 0, in random order."""
    if config.populations == "uniform":
        return rng.permutation(np.arange(config.n_particles) % config.states)
    centre = np.where(rng.permutation(np.arange(config.n_particles) % 2), 0.8, 0.2)
    return (rng.normal(centre, 0.07).clip(0, 1) * (config.states - 1)).round().astype(np.int64)


def draw_poses(config: SimulationConfig, rng: np.random.Generator) -> Poses:
    """Rotations uniform on SO(3), no shift, and log-normal defocus."""
    n = config.n_particles
    rotations = torch.from_numpy(random_rotations(n, rng))
    microns = rng.lognormal(config.defocus_log_mean, config.defocus_log_sd, n)
    defocus, zeros = torch.from_numpy(1e4 * microns), torch.zeros(n, dtype=torch.float64)
    ctf = CTFParameters(
        defocus_u=defocus,
        defocus_v=defocus,
        defocus_angle_deg=zeros,
        voltage_kv=zeros + config.voltage_kv,
        spherical_aberration_mm=zeros + config.spherical_aberration_mm,
        amplitude_contrast=zeros + config.amplitude_contrast,
        phase_shift_deg=zeros,
        b_factor=zeros,
    )
    return Poses(rotations, torch.zeros(n, 2, dtype=torch.float64), ctf)


def given_poses(config: SimulationConfig, path: Path | str, reach: float) -> Poses:
    """The first `n_particles` poses and CTFs of a STAR file.

    `reach` is the distance of the model's outermost atom from the origin, in Å. Raises InputError
    where there are too few poses, or a shift moves the model out of the box.
    """
    poses, n = read_poses(path), config.n_particles
    if len(poses) < n:
        problem = f"holds {{value}} particles, fewer than the {n} asked for"
        remedy = f"give --n-particles {len(poses)} or less"
        raise InputError(problem, file=path, value=len(poses), remedy=remedy)
    assert poses.ctf is not None
    poses = Poses(poses.rotations[:n], poses.shifts[:n], poses.ctf[:n])
    shift, room = poses.shifts.abs().amax(dim=1), config.box_size * config.pixel_size / 2 - reach
    outside = torch.nonzero(shift > room).flatten().tolist()
    for row in outside[:1]:
        problem = f"is shifted by {{value}} Å, and the model leaves {room:.0f} Å of room in the box"
        remedy = f"delete such particles ({len(outside)} of {n}) or give a larger --box-size"
        value = round(float(shift[row]), 1)
        raise InputError(problem, file=path, row=row + 1, value=value, remedy=remedy)
    return poses


def new_particles(config: SimulationConfig, source: Path, poses: Poses) -> Particles:
    """Particles of these poses, whose images will lie beside the STAR file `source`."""
    return Particles(
        source=source,
        stacks=(source.with_suffix(".mrcs"),),
        stack_of=np.zeros(len(poses), dtype=np.int64),
        image_in_stack=np.arange(len(poses)),
        box_size=config.box_size,
        pixel_size=config.pixel_size,
        rotations=poses.rotations,
        shifts=poses.shifts,
        ctf=poses.ctf,
    )


def clean_images(
    atoms: Structure, config: SimulationConfig, poses: Poses
) -> tuple[Band, Callable[..., Tensor]]:
    """The band up to Nyquist, and a function (positions, particles, ctf=True) to vectors on it.

    Each heavy atom is a Gaussian at its position, in Å. `particles` is a row of the poses and CTFs,
    or a slice of them; with ctf=False the images have no CTF.
    """
    band = Band(config.box_size, config.pixel_size, resolution=2 * config.pixel_size)
    electrons = torch.from_numpy(atoms.electrons).float()
    sigma = torch.tensor(atom_sigma(config.resolution))
    shifts = poses.shifts.float() if poses.shifts.any() else None

    def vectors(positions: Tensor, particles: slice | int, *, ctf: bool = True) -> Tensor:
        return make_images(
            positions,
            electrons,
            sigma,
            band,
            rotations=poses.rotations[particles].float(),
            shifts=None if shifts is None else shifts[particles],
            ctf=poses.ctf[particles] if ctf and poses.ctf is not None else None,
        )

    return band, vectors


def simulate(
    config: SimulationConfig,
    *,
    start: Path | str,
    end: Path | str | None = None,
    out: Path | str,
    trajectory: Path | str | None = None,
    topology: Path | str | None = None,
    poses: Path | str | None = None,
) -> None:
    """Write `out/particles.star`, `out/particles.mrcs` and `out/truth.npz`.

    The path is that of `load_path`. The noise is white and Gaussian, of one variance for the whole
    set: the mean variance of up to 1,000 clean images over `config.snr`. Rotations, shifts and CTFs
    are drawn, or are those of the first `n_particles` of the STAR file `poses`. `truth.npz` holds
    `state` (particle,), the state of each particle; `positions` (state, node, 3), the nodes of each
    state in Å; `snr`; `snr_measured`, over all clean images; `snr_definition`; `noise_sd`. Memory
    does not grow with the number of particles. Raises InputError for an atom outside the box, for
    poses that lead out of it or are too few, and for a disk without room.
    """
    out = Path(out)
    atoms, path = load_path(config, start, end, trajectory, topology)
    reach = float(np.linalg.norm(path, axis=-1).max())
    half_box = config.box_size * config.pixel_size / 2
    if reach > half_box:
        problem = f"has an atom {{value}} Å from the origin, outside the half box of {half_box:g} Å"
        remedy, file = "centre it on the origin or give a larger --box-size", trajectory or start
        raise InputError(problem, file=file, value=round(reach, 1), remedy=remedy)
    rng = np.random.default_rng(config.seed)
    views = draw_poses(config, rng) if poses is None else given_poses(config, poses, reach)
    state, states = draw_states(config, rng), torch.from_numpy(path).float()
    band, images = clean_images(atoms, config, views)
    star = out / "particles.star"
    noise_sd, snr_measured = _write_images(
        config,
        star.with_suffix(".mrcs"),
        lambda rows: band.decode(images(states[state[rows]], rows)),
    )
    with replacing(out / "truth.npz") as temporary:
        np.savez(
            temporary,
            state=state,
            positions=path[:, node_atoms(atoms)],
            snr=config.snr,
            snr_measured=snr_measured,
            snr_definition=SNR_DEFINITION,
            noise_sd=noise_sd,
        )
    write_star(star, new_particles(config, star, views))


def _write_images(
    config: SimulationConfig, stack: Path, images: Callable[[slice], Tensor]
) -> tuple[float, float]:
    """Write the clean images with noise; return the noise's standard deviation and the SNR."""
    n = config.n_particles
    sample = [
        images(rows).var(dim=(1, 2), correction=0)
        for rows in batches(min(SIGNAL_SAMPLE, n), BATCH, "measuring the signal")
    ]
    noise_sd = math.sqrt(float(torch.cat(sample).double().mean()) / config.snr)
    noise = torch.Generator().manual_seed(config.seed)
    signal = 0.0

    def noisy_images() -> Iterator[Tensor]:
        nonlocal signal
        for rows in batches(n, BATCH, "simulating"):
            clean = images(rows)
            signal += float(clean.var(dim=(1, 2), correction=0).double().sum())
            yield clean + noise_sd * torch.randn(clean.shape, generator=noise)

    write_stack(
        stack,
        (n, config.box_size, config.box_size),
        pixel_size=config.pixel_size,
        label="CryoSTAR-NB simulation",
        batches=noisy_images(),
    )
    return noise_sd, signal / n / noise_sd**2
