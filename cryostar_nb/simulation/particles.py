"""Synthetic particles with a known truth (section 3.2, appendix C): morph, project, blur by the CTF, add noise, write.

The images show *all heavy atoms*, not the coarse nodes that the network later moves, so the model is wrong in the way it is
wrong for real data.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mrcfile
import numpy as np
import torch
from jaxtyping import Float, Int

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.density import atom_sigma
from cryostar_nb.errors import InputError, check_signs
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.files import replacing
from cryostar_nb.io.metadata import Poses
from cryostar_nb.io.particles import Particles, batches
from cryostar_nb.io.star import read_poses, write_star
from cryostar_nb.io.structures import read_structure, read_trajectory
from cryostar_nb.projector import make_images
from cryostar_nb.simulation.paths import linear_morph, matching_atoms, rigid_morph
from cryostar_nb.structure import Structure, node_atoms

SNR_DEFINITION = "variance of the clean CTF-modulated image over the whole box / variance of the noise, averaged over the data set"


@dataclass(frozen=True)
class SimulationConfig:
    """What is simulated; the defaults are Table 1's, but for the noise."""

    n_particles: int = 50_000
    """Number of particle images."""
    box_size: int = 128
    """Edge of an image, in pixels."""
    pixel_size: float = 1.0
    """Edge of a pixel, in Å."""
    snr: float = 0.1
    """Variance of the clean image over the whole box, over the variance of the noise. Table 1 prints 0.0001 and no definition."""
    states: int = 50
    """Number of conformations from closed to open."""
    morph: Literal["linear", "rigid"] = "linear"
    """The path between the two: straight lines, or one that keeps bond lengths and domains rigid."""
    populations: Literal["uniform", "two"] = "uniform"
    """How particles are spread over the states: evenly, or as two Gaussians at 20 % and 80 % of the path, of 7 % sd."""
    resolution: float = 3.0
    """Resolution of the full-atom density, in Å: its transform falls to 1/e at 1/resolution, as in EMAN2's e2pdb2mrc."""
    defocus_log_mean: float = 1.0
    """Mean of the logarithm of the defocus in µm: Lognormal(1.0, 0.3^2), a median of 2.7 µm."""
    defocus_log_sd: float = 0.3
    """Standard deviation of the logarithm of the defocus."""
    voltage_kv: float = 300.0
    """Accelerating voltage, in kV."""
    spherical_aberration_mm: float = 2.7
    """Spherical aberration, in mm."""
    amplitude_contrast: float = 0.1
    """Amplitude contrast, a fraction."""
    seed: int = 0
    """Seed of every random draw."""

    def check(self) -> None:
        """Raise InputError for a value that cannot be meant."""
        positive = (
            "n_particles",
            "box_size",
            "pixel_size",
            "snr",
            "states",
            "resolution",
            "voltage_kv",
        )
        check_signs(self, positive=positive, not_negative=("defocus_log_sd", "seed"))
        if not 0 <= self.amplitude_contrast <= 1:
            raise InputError(
                f"amplitude_contrast = {self.amplitude_contrast}; give a fraction from 0 to 1"
            )


def load_path(
    config: SimulationConfig,
    closed: Path | str,
    open_: Path | str | None,
    trajectory: Path | str | None = None,
    topology: Path | str | None = None,
) -> tuple[Structure, Float[np.ndarray, "state atom 3"]]:
    """The atoms, and their positions in every state: a morph between two structures, or frames of a trajectory."""
    if trajectory is not None:
        atoms, frames = read_trajectory(trajectory, topology or closed)
        if config.states > len(frames):
            raise InputError(
                f"{trajectory}: holds {len(frames)} frames, fewer than the {config.states} states asked for; give --states {len(frames)} or less"
            )
        return atoms, frames[np.linspace(0, len(frames) - 1, config.states).round().astype(int)]
    if open_ is None:
        raise InputError("a morph needs both ends: give --open, or --trajectory")
    first, second = matching_atoms(read_structure(closed), read_structure(open_))
    morph = {"linear": linear_morph, "rigid": rigid_morph}[config.morph]
    return first, morph(first.positions, second.positions, config.states)


def draw_states(config: SimulationConfig, rng: np.random.Generator) -> Int[np.ndarray, " particle"]:
    """The state of each particle, counted from 0, in no order."""
    if config.populations == "uniform":
        return rng.permutation(np.arange(config.n_particles) % config.states)
    centre = np.where(rng.permutation(np.arange(config.n_particles) % 2), 0.8, 0.2)
    return (rng.normal(centre, 0.07).clip(0, 1) * (config.states - 1)).round().astype(np.int64)


def draw_poses(config: SimulationConfig, rng: np.random.Generator) -> Poses:
    """Rotations uniform on SO(3), no shift, and log-normal defocus."""
    n = config.n_particles
    rotations = random_rotations(n, rng)
    defocus = torch.from_numpy(
        1e4 * rng.lognormal(config.defocus_log_mean, config.defocus_log_sd, n)
    )
    zeros = torch.zeros(n, dtype=torch.float64)
    microscope = {
        name: zeros + getattr(config, name)
        for name in ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
    }
    ctf = CTFParameters(
        defocus_u=defocus,
        defocus_v=defocus,
        defocus_angle_deg=zeros,
        **microscope,
        phase_shift_deg=zeros,
        b_factor=zeros,
    )
    return Poses(torch.from_numpy(rotations), torch.zeros(n, 2, dtype=torch.float64), ctf)


def given_poses(config: SimulationConfig, path: Path | str, reach: float) -> Poses:
    """The first `n_particles` poses and CTFs of a STAR file; `reach` is the model's, in Å. Raises InputError where they are too few or lead out of the box."""
    poses, n = read_poses(path), config.n_particles
    if len(poses) < n:
        raise InputError(
            f"{path}: holds {len(poses)} particles, fewer than the {n} asked for; give --n-particles {len(poses)} or less"
        )
    assert poses.ctf is not None
    poses = Poses(poses.rotations[:n], poses.shifts[:n], poses.ctf[:n])
    shift, room = poses.shifts.abs().amax(dim=1), config.box_size * config.pixel_size / 2 - reach
    outside = torch.nonzero(shift > room).flatten()
    if len(outside):
        raise InputError(
            f"{path}: particle {int(outside[0]) + 1} is shifted by {float(shift[outside[0]]):.0f} Å, and the model leaves {room:.0f} Å of room in the box; delete such particles ({len(outside)} of {n}) or give a larger --box-size"
        )
    return poses


def draw_particles(
    config: SimulationConfig,
    stack: Path,
    source: Path,
    rng: np.random.Generator,
    poses: Poses | None = None,
) -> Particles:
    """Particles of these poses, or of poses drawn at random, for a stack that is yet to be written."""
    n, poses = config.n_particles, poses or draw_poses(config, rng)
    return Particles(
        source=source,
        stacks=(stack,),
        stack_of=np.zeros(n, dtype=np.int64),
        image_in_stack=np.arange(n),
        box_size=config.box_size,
        pixel_size=config.pixel_size,
        rotations=poses.rotations,
        shifts=poses.shifts,
        ctf=poses.ctf,
    )


def simulate(
    config: SimulationConfig,
    *,
    closed: Path | str,
    open_: Path | str | None,
    out: Path | str,
    trajectory: Path | str | None = None,
    topology: Path | str | None = None,
    poses: Path | str | None = None,
) -> None:
    """Write `out/particles.star`, `out/particles.mrcs` and `out/truth.npz`.

    Images are made and written in a stream; memory does not grow with their number. The noise is white and Gaussian, of one
    variance for the whole set: the mean variance of up to 1,000 clean images over the asked-for SNR. `poses` is a particle STAR
    file whose first `n_particles` rotations, shifts and CTFs are used instead of drawn ones; nothing else of it is. `truth.npz` holds
    `state` (particle,), the state of each particle; `positions` (state, node, 3), the nodes of each state in Å; `snr`;
    `snr_measured`, over all clean images; `snr_definition`; `noise_sd`.
    """
    config.check()
    out = Path(out)
    atoms, path = load_path(config, closed, open_, trajectory, topology)
    reach = float(np.linalg.norm(path, axis=-1).max())
    half_box = config.box_size * config.pixel_size / 2
    if reach > half_box:
        raise InputError(
            f"{trajectory or closed}: an atom lies {reach:.0f} Å from the origin, outside the box's half edge of {half_box:.0f} Å; centre the model on the origin or give a larger --box-size"
        )
    given = given_poses(config, poses, reach) if poses is not None else None
    stack, star = out / "particles.mrcs", out / "particles.star"
    shape = (config.n_particles, config.box_size, config.box_size)
    disk = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    needed, free = 4 * math.prod(shape), shutil.disk_usage(disk).free
    if needed > free:
        raise InputError(
            f"{out}: the stack needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; make room or ask for fewer particles"
        )

    rng = np.random.default_rng(config.seed)
    particles = draw_particles(config, stack, star, rng, given)
    state = draw_states(config, rng)
    band = Band(config.box_size, config.pixel_size, resolution=2 * config.pixel_size)
    amplitudes = torch.from_numpy(atoms.electrons).float()
    sigma, states = torch.tensor(atom_sigma(config.resolution)), torch.from_numpy(path).float()

    def clean_images(rows: slice) -> torch.Tensor:
        assert particles.ctf is not None
        rotations, shifts = (
            particles.rotations[rows].float(),
            None if given is None else given.shifts[rows].float(),
        )
        return band.decode(
            make_images(
                states[state[rows]],
                amplitudes,
                sigma,
                band,
                rotations=rotations,
                shifts=shifts,
                ctf=particles.ctf[rows],
            )
        )

    batch, sample = 32, min(1000, config.n_particles)
    sampled = [
        clean_images(rows).var(dim=(1, 2), correction=0)
        for rows in batches(sample, batch, "measuring the signal")
    ]
    noise_sd = math.sqrt(float(torch.cat(sampled).double().mean()) / config.snr)
    noise = torch.Generator().manual_seed(config.seed)
    signal_variance = 0.0
    with replacing(stack) as temporary:
        with mrcfile.new_mmap(temporary, shape, mrc_mode=2, overwrite=True) as handle:
            handle.set_image_stack()
            handle.header.label[0] = (
                b"CryoSTAR-NB simulation"  # mrcfile puts the time there: other bytes for one seed
            )
            handle.voxel_size = config.pixel_size
            for rows in batches(config.n_particles, batch, "simulating"):
                clean = clean_images(rows)
                signal_variance += float(clean.var(dim=(1, 2), correction=0).double().sum())
                handle.data[rows] = (
                    clean + noise_sd * torch.randn(clean.shape, generator=noise)
                ).numpy()
    with replacing(out / "truth.npz") as temporary:
        np.savez(
            temporary,
            state=state,
            positions=path[:, node_atoms(atoms)],
            snr=config.snr,
            snr_measured=signal_variance / config.n_particles / noise_sd**2,
            snr_definition=SNR_DEFINITION,
            noise_sd=noise_sd,
        )
    write_star(star, particles)
