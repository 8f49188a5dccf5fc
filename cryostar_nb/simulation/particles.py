"""Synthetic particles with a known truth (section 3.2, appendix C).

A structure moves along a path, is projected, blurred by the CTF, and noise is added. The images
show all heavy atoms, all of one width; the model that is later trained on them moves one node per
residue. But for the faults that are asked for, poses, CTFs and noise are just what training takes
them for: errors on such particles are no forecast of those on real ones.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
from cryostar_nb.io.problems import check_views
from cryostar_nb.io.stacks import write_stack
from cryostar_nb.io.star import read_poses, write_star
from cryostar_nb.io.structures import read_structure, write_structure
from cryostar_nb.io.trajectories import read_trajectory
from cryostar_nb.projector import make_images
from cryostar_nb.simulation.crowd import crowd_images, draw_crowd
from cryostar_nb.simulation.curves import colour, noise_filter, signal_transfer
from cryostar_nb.simulation.faults import draw_specimen
from cryostar_nb.simulation.imperfect import make_reference
from cryostar_nb.simulation.options import (
    Faults,
    ImperfectReference,
    SimulationConfig,
    not_default,
)
from cryostar_nb.simulation.paths import linear_morph, matching_atoms, rigid_morph
from cryostar_nb.structure import Structure, node_atoms

SNR_DEFINITION = (
    "variance of the clean CTF-modulated image over the whole box / variance of the noise, "
    "averaged over the data set"
)
WITH_FAULTS = "; over the good particles alone, with their contrast and envelopes, neighbours aside"
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
    # The last ones of rising multiples of the second share, so that any first ones are mixed, too.
    multiples = np.floor(np.arange(config.n_particles + 1) * (1 - config.first_share) + 1e-9)
    centre = np.where(rng.permutation(np.diff(multiples).astype(int)), 0.8, 0.2)
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
    where there are too few poses or none, or a shift moves the model out of the box.
    """
    poses, n = read_poses(path), config.n_particles
    if len(poses) < n:
        problem = f"holds {{value}} particles, fewer than the {n} asked for"
        remedy = f"give --n-particles {len(poses)} or less"
        raise InputError(problem, file=path, value=len(poses), remedy=remedy)
    assert poses.ctf is not None
    check_views(Path(path), poses.rotations.numpy())
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
    atoms: Structure,
    config: SimulationConfig,
    poses: Poses,
    transfer: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Band, Callable[..., Tensor]]:
    """The band up to Nyquist, and a function (positions, particles, ctf=True) to vectors on it.

    Each heavy atom is a Gaussian at its position, in Å. `particles` is a row of the poses and CTFs,
    or some rows; with ctf=False the images have no CTF. `transfer` is what multiplies the signal
    at the frequencies (kx, ky), in 1/Å.
    """
    band = Band(config.box_size, config.pixel_size, resolution=2 * config.pixel_size)
    electrons = torch.from_numpy(atoms.electrons).float()
    sigma = torch.tensor(atom_sigma(config.resolution))
    shifts = poses.shifts.float() if poses.shifts.any() else None
    factor = None
    if transfer is not None:
        factor = band.per_coefficient(transfer(band.frequencies).float())

    def vectors(positions: Tensor, particles: slice | int | Tensor, *, ctf: bool = True) -> Tensor:
        made = make_images(
            positions,
            electrons,
            sigma,
            band,
            rotations=poses.rotations[particles].float(),
            shifts=None if shifts is None else shifts[particles],
            ctf=poses.ctf[particles] if ctf and poses.ctf is not None else None,
        )
        return made if factor is None else made * factor

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
    faults: Faults | None = None,
    imperfect: ImperfectReference | None = None,
) -> None:
    """Write `out/particles.star`, `out/particles.mrcs` and `out/truth.npz`.

    The path is that of `load_path`. The noise is Gaussian, of one variance for the whole set: the
    mean variance of up to 1,000 clean images over `config.snr`. Rotations, shifts and CTFs are
    drawn, or are those of the first `n_particles` of the STAR file `poses`; either way they are
    true, and `faults` says how wrong the written STAR file is, and what else is imperfect. With an
    `imperfect` reference that differs from the first state, `out/reference.cif` is written, too.

    `truth.npz` holds `state` (particle,), the state of each particle; `positions` (state, node, 3),
    the nodes of each state in Å; `snr`; `snr_measured`, over all clean images; `snr_definition`;
    `noise_sd`; `faults`, a JSON text of those that were asked for; and of each particle the true
    `rotations`, `shifts`, `defocus_u`, `defocus_v`, `defocus_angle_deg`, `b_factor`, `contrast`,
    `ice_gradient`, `junk` (0: good, else an index into `junk_kinds`) and `neighbours`, the number
    of molecules beside it. Of the reference it holds `reference_nodes`, the true nodes that it has,
    and `Reference`'s other fields. Images are in memory a batch at a time.

    Raises InputError for an atom outside the box, for poses that lead out of it or are too few, for
    files of faults that cannot be read, and for a disk without room.
    """
    out, faults, imperfect = Path(out), faults or Faults(), imperfect or ImperfectReference()
    atoms, path = load_path(config, start, end, trajectory, topology)
    reach = float(np.linalg.norm(path, axis=-1).max())
    half_box = config.box_size * config.pixel_size / 2
    if reach > half_box:
        problem = f"has an atom {{value}} Å from the origin, outside the half box of {half_box:g} Å"
        remedy, file = "centre it on the origin or give a larger --box-size", trajectory or start
        raise InputError(problem, file=file, value=round(reach, 1), remedy=remedy)
    reference = make_reference(atoms, path, imperfect, config.seed)
    transfer = signal_transfer(faults, config.pixel_size)
    coloured = noise_filter(faults.noise_spectrum, config.box_size, config.pixel_size)
    rng = np.random.default_rng(config.seed)
    views = draw_poses(config, rng) if poses is None else given_poses(config, poses, reach)
    state, states = draw_states(config, rng), torch.from_numpy(path).float()
    room = half_box - reach
    specimen = draw_specimen(config, faults, views, given=poses is not None, room=room)
    band, vectors = clean_images(atoms, config, specimen.true, transfer)
    crowd = draw_crowd(specimen.junk, faults.neighbours, len(path), config, reach)

    def signal(rows: slice | Tensor) -> Tensor:
        images = band.decode(vectors(states[torch.from_numpy(state)[rows]], rows))
        weights = specimen.weights(rows)
        return images if weights is None else images * weights

    others = None
    if len(crowd):
        assert specimen.true.ctf is not None
        twice = dataclasses.replace(config, box_size=2 * config.box_size)
        molecules = clean_images(atoms, twice, crowd.poses(specimen.true.ctf), transfer)
        others = crowd_images(crowd, path, config, specimen.contrast, *molecules)
    star = out / "particles.star"
    noise_sd, snr_measured = _write_images(
        config,
        star.with_suffix(".mrcs"),
        signal,
        good=specimen.good,
        others=others,
        noise=lambda white, rows: specimen.background(colour(white, coloured), rows),
    )
    truth: dict[str, Any] = {
        "state": state,
        "positions": path[:, node_atoms(atoms)],
        "snr": config.snr,
        "snr_measured": snr_measured,
        "snr_definition": SNR_DEFINITION + (WITH_FAULTS if not_default(faults) else ""),
        "noise_sd": noise_sd,
        "faults": json.dumps(not_default(faults) | not_default(imperfect)),
        "neighbours": crowd.neighbours(specimen.junk),
    }
    truth |= specimen.truth() | reference.truth()
    with replacing(out / "truth.npz") as temporary:
        np.savez(temporary, **truth)
    if not_default(imperfect):
        write_structure(out / "reference.cif", reference.atoms)
    write_star(star, new_particles(config, star, specimen.told))


def _write_images(
    config: SimulationConfig,
    stack: Path,
    signal: Callable[[slice | Tensor], Tensor],
    *,
    good: Int[Tensor, " good"],
    others: Callable[[slice], Tensor] | None,
    noise: Callable[[Tensor, slice], Tensor],
) -> tuple[float, float]:
    """Write the clean images with noise; return the noise's standard deviation and the SNR.

    `signal` makes the clean images, in which only the `good` particles count, `others` what stands
    beside them, and `noise` makes of white noise that of these particles.
    """
    n = config.n_particles
    sample = [
        signal(good[rows]).var(dim=(1, 2), correction=0)
        for rows in batches(min(SIGNAL_SAMPLE, len(good)), BATCH, "measuring the signal")
    ]
    noise_sd = math.sqrt(float(torch.cat(sample).double().mean()) / config.snr)
    generator = torch.Generator().manual_seed(config.seed)
    total = 0.0

    def noisy_images() -> Iterator[Tensor]:
        nonlocal total
        for rows in batches(n, BATCH, "simulating"):
            clean = signal(rows)  # 0 for junk
            total += float(clean.var(dim=(1, 2), correction=0).double().sum())
            white = torch.randn(clean.shape, generator=generator)
            clean = clean if others is None else clean + others(rows)
            yield clean + noise_sd * noise(white, rows)

    write_stack(
        stack,
        (n, config.box_size, config.box_size),
        pixel_size=config.pixel_size,
        label="CryoSTAR-NB simulation",
        batches=noisy_images(),
    )
    return noise_sd, total / len(good) / noise_sd**2
