"""Particles with faults of real ones: what is true of each, and what its STAR file tells of it.

Every fault draws from a stream of its own, so that switching one on leaves the draws of all others
as they are.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.errors import InputError
from cryostar_nb.geometry import rotations_from_vectors
from cryostar_nb.io.metadata import Poses
from cryostar_nb.simulation.options import Faults, SimulationConfig

STREAMS = (  # a new one goes to the end
    "rotation_error",
    "shift_error",
    "defocus_error",
    "astigmatism",
    "astigmatism_error",
    "b_factor",
    "contrast",
    "ice_gradient",
    "neighbours",
    "junk",
    "junk_molecules",
    "other_molecule",
    "uneven_views",
    "reference_rotamers",
    "reference_gap",
    "reference_shift",
)
JUNK_KINDS = ("good", "empty", "off the centre", "aggregate", "another molecule")
LEAST_CONTRAST = 0.1


def stream(seed: int, name: str) -> np.random.Generator:
    """The random numbers of one fault; those of the particles themselves have `seed` alone."""
    return np.random.default_rng([seed, 1 + STREAMS.index(name)])


@dataclass(frozen=True)
class Specimen:
    """What is true of each particle, and what is told of its pose and CTF."""

    true: Poses
    told: Poses
    contrast: Float[Tensor, " particle"]
    junk: Int[np.ndarray, " particle"]  # index into JUNK_KINDS
    gradient: Float[Tensor, "particle 2"]  # ramp along x and y, in standard deviations of the noise

    @property
    def good(self) -> Int[Tensor, " good"]:
        """The particles that are no junk."""
        return torch.from_numpy(np.flatnonzero(self.junk == 0))

    def truth(self) -> dict[str, np.ndarray]:
        """What `truth.npz` says of each particle: shifts, defocus in Å, B-factors in Å^2."""
        ctf = _ctf(self.true)
        return {
            "rotations": self.true.rotations.numpy(),
            "shifts": self.true.shifts.numpy(),
            "defocus_u": ctf.defocus_u.numpy(),
            "defocus_v": ctf.defocus_v.numpy(),
            "defocus_angle_deg": ctf.defocus_angle_deg.numpy(),
            "b_factor": ctf.b_factor.numpy(),
            "contrast": self.contrast.numpy(),
            "ice_gradient": self.gradient.numpy(),
            "junk": self.junk,
            "junk_kinds": np.array(JUNK_KINDS),
        }

    def background(self, noise: Float[Tensor, "row y x"], rows: slice) -> Float[Tensor, "row y x"]:
        """The noise of these particles, of unit variance, on the ramp of each."""
        gradient = self.gradient[rows].float()
        return noise + ramps(gradient, noise.shape[-1]) if gradient.any() else noise

    def weights(self, rows: slice | Tensor) -> Float[Tensor, "row 1 1"] | None:
        """What the image of each particle is multiplied by: its contrast, 0 for junk.

        None where that is 1 for all.
        """
        contrast = self.contrast[rows] * torch.from_numpy(self.junk == 0)[rows]
        return None if (contrast == 1).all() else contrast[:, None, None].float()


def draw_specimen(
    config: SimulationConfig, faults: Faults, poses: Poses, *, given: bool, room: float
) -> Specimen:
    """The particles of these perfect poses, with faults.

    With `given`, the poses are those of a file, and true; else astigmatism, uneven views and shifts
    are added to what is true. `room` is how far a particle may lie off the centre of the box, in Å.
    Raises InputError for faults that given poses cannot have, and for a shift beyond the room.
    """
    n, seed = config.n_particles, config.seed
    for name in ("astigmatism", "uneven_views"):
        value = getattr(faults, name)
        if given and value:
            remedy = f"leave {name} out, or the poses"
            raise InputError(
                f"{name} = {{value}}, and the poses are given", value=value, remedy=remedy
            )
    true = poses
    if faults.uneven_views:
        rotations = uneven_rotations(n, faults.uneven_views, stream(seed, "uneven_views"))
        true = dataclasses.replace(true, rotations=torch.from_numpy(rotations))
    if faults.astigmatism:
        true = dataclasses.replace(true, ctf=_astigmatic(_ctf(poses), faults.astigmatism, seed))
    told = true
    if faults.b_factor or faults.b_factor_sd:
        true = dataclasses.replace(true, ctf=_blurred(_ctf(true), faults, seed))
    if faults.shift_error:
        error = torch.from_numpy(stream(seed, "shift_error").normal(0, faults.shift_error, (n, 2)))
        if given:
            told = dataclasses.replace(told, shifts=told.shifts - error)
        else:
            true = dataclasses.replace(true, shifts=true.shifts + error)
            if true.shifts.abs().max() > room:
                problem = f"shift_error = {{value}} Å, and the model leaves {room:.0f} Å of room"
                remedy = "give a larger --box-size"
                raise InputError(problem, value=faults.shift_error, remedy=remedy)
    return Specimen(
        true=true,
        told=_told(told, faults, seed),
        contrast=_contrast(faults, n, seed),
        junk=draw_junk(faults.junk, n, stream(seed, "junk")),
        gradient=_gradient(faults, n, seed),
    )


def _told(told: Poses, faults: Faults, seed: int) -> Poses:
    """Poses with the errors of rotation and CTF."""
    n, ctf = len(told), _ctf(told)
    if faults.rotation_error:
        draws = stream(seed, "rotation_error").normal(0, faults.rotation_error, (n, 3))
        error = rotations_from_vectors(torch.from_numpy(np.deg2rad(draws)))
        told = dataclasses.replace(told, rotations=error @ told.rotations)
    if faults.astigmatism_error:
        draws = stream(seed, "astigmatism_error").normal(0, faults.astigmatism_error, (n, 2))
        angle = 2 * torch.deg2rad(ctf.defocus_angle_deg)
        size = ctf.defocus_u - ctf.defocus_v
        parts = torch.from_numpy(draws) + torch.stack([size * angle.cos(), size * angle.sin()], -1)
        ctf = _with_astigmatism(ctf, parts)
    if faults.defocus_error:
        draws = stream(seed, "defocus_error").normal(0, faults.defocus_error, n)
        error = torch.from_numpy(draws)
        u, v = ctf.defocus_u + error, ctf.defocus_v + error
        ctf = dataclasses.replace(ctf, defocus_u=u, defocus_v=v)
    return dataclasses.replace(told, ctf=ctf)


def _ctf(poses: Poses) -> CTFParameters:
    """The CTFs, which simulated particles always have."""
    assert poses.ctf is not None
    return poses.ctf


def _blurred(ctf: CTFParameters, faults: Faults, seed: int) -> CTFParameters:
    """CTFs with the B-factors of the images added."""
    scatter = stream(seed, "b_factor").normal(0, faults.b_factor_sd, len(ctf.b_factor))
    blur = torch.from_numpy((faults.b_factor + scatter).clip(0))
    return dataclasses.replace(ctf, b_factor=ctf.b_factor + blur)


def _astigmatic(ctf: CTFParameters, astigmatism: float, seed: int) -> CTFParameters:
    """CTFs of the same mean defocus, with an astigmatism of this root mean square, in Å."""
    draws = stream(seed, "astigmatism").normal(0, astigmatism / np.sqrt(2), (len(ctf.defocus_u), 2))
    return _with_astigmatism(ctf, torch.from_numpy(draws))


def _with_astigmatism(ctf: CTFParameters, parts: Float[Tensor, "particle 2"]) -> CTFParameters:
    """CTFs of the same mean defocus, whose U - V is split along x and along the diagonal."""
    mean, size = (ctf.defocus_u + ctf.defocus_v) / 2, parts.norm(dim=-1)
    angle = torch.rad2deg(torch.atan2(parts[:, 1], parts[:, 0])) / 2 % 180
    return dataclasses.replace(
        ctf, defocus_u=mean + size / 2, defocus_v=mean - size / 2, defocus_angle_deg=angle
    )


def _contrast(faults: Faults, count: int, seed: int) -> Float[Tensor, " particle"]:
    if not faults.contrast_sd:
        return torch.ones(count, dtype=torch.float64)
    draws = stream(seed, "contrast").normal(1, faults.contrast_sd, count)
    return torch.from_numpy(draws.clip(LEAST_CONTRAST))


def _gradient(faults: Faults, count: int, seed: int) -> Float[Tensor, "particle 2"]:
    if not faults.ice_gradient:
        return torch.zeros(count, 2, dtype=torch.float64)
    angle = torch.from_numpy(stream(seed, "ice_gradient").uniform(0, 2 * np.pi, count))
    return faults.ice_gradient * torch.stack([angle.cos(), angle.sin()], dim=-1)


def ramps(gradient: Float[Tensor, "image 2"], box_size: int) -> Float[Tensor, "image y x"]:
    """Linear ramps of mean 0, whose standard deviation is the length of their `gradient`."""
    axis = torch.arange(box_size, dtype=gradient.dtype)
    axis = (axis - axis.mean()) / axis.std(correction=0).clamp(min=1e-6)
    x, y = gradient.unbind(-1)
    return x[:, None, None] * axis + y[:, None, None] * axis[:, None]


def draw_junk(share: float, count: int, rng: np.random.Generator) -> Int[np.ndarray, " particle"]:
    """The kind of junk of each image, 0 for a good particle; one at least is good."""
    junk = np.zeros(count, dtype=np.int8)
    number = min(round(share * count), count - 1)
    junk[:number] = 1 + np.arange(number) % (len(JUNK_KINDS) - 1)
    return rng.permutation(junk)


def uneven_rotations(
    count: int, concentration: float, rng: np.random.Generator
) -> Float[np.ndarray, "count 3 3"]:
    """Rotations whose direction of view v is of density exp(kappa (v . a)^2): Watson's.

    The axis a is drawn, too. The rotation in the plane is uniform.
    """
    axis, *_ = Rotation.random(random_state=rng).as_matrix()
    grid = np.linspace(-1, 1, 2001)
    density = np.exp(concentration * (np.square(grid) - 1))
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    height = np.interp(rng.uniform(0, cumulative[-1], count), cumulative, grid)
    around, in_plane = rng.uniform(0, 2 * np.pi, (2, count))
    # A direction at this height about z, turned so that z becomes the axis.
    about_z = Rotation.from_euler("ZYZ", np.stack([around, np.arccos(height), in_plane], -1))
    to_axis, _ = Rotation.align_vectors(axis[None], [[0.0, 0.0, 1.0]])
    return np.swapaxes((to_axis * about_z).as_matrix(), -1, -2)
