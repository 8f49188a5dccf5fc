"""Other molecules in an image: neighbours of the particle, and what junk shows instead of one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.metadata import Poses
from cryostar_nb.simulation.faults import JUNK_KINDS, stream
from cryostar_nb.simulation.options import SimulationConfig

IN_AN_AGGREGATE = (3, 5)  # molecules, least and most
AT_ONCE = 8  # molecules in memory


@dataclass(frozen=True)
class Crowd:
    """The molecules beside the particles, in the order of their images."""

    image: Int[np.ndarray, " molecule"]
    state: Int[np.ndarray, " molecule"]  # the last one is the other molecule
    rotations: Float[Tensor, "molecule 3 3"]
    centres: Float[Tensor, "molecule 2"]  # Å from the centre of the box

    def __len__(self) -> int:
        return len(self.image)

    def poses(self, ctf: CTFParameters) -> Poses:
        """Where each molecule stands, with the CTF of its image, of those of the particles."""
        return Poses(self.rotations, self.centres, ctf[torch.from_numpy(self.image)])

    def neighbours(self, junk: Int[np.ndarray, " particle"]) -> Int[np.ndarray, " particle"]:
        """How many molecules stand beside each particle; 0 for junk."""
        return np.bincount(self.image, minlength=len(junk)) * (junk == 0)


def draw_crowd(
    junk: Int[np.ndarray, " particle"],
    neighbours: float,
    states: int,
    config: SimulationConfig,
    reach: float,
) -> Crowd:
    """The molecules beside the particles, and those of junk.

    `reach` is the radius of the molecule, in Å. A good particle has a Poisson number of
    `neighbours`. Junk of the kind "off the centre" is one molecule at least half of its radius off,
    an "aggregate" a few molecules that overlap; "another molecule" stands in the centre and is the
    state number `states`.
    """
    half_box, seed = config.box_size * config.pixel_size / 2, config.seed
    kinds = {kind: JUNK_KINDS.index(kind) for kind in JUNK_KINDS}
    rng = stream(seed, "neighbours")
    beside = rng.poisson(neighbours, len(junk)) * (junk == 0)
    image = np.repeat(np.arange(len(junk)), beside)
    near = _molecules(image, _places_beside(len(image), reach, half_box, rng), states, rng)

    rng = stream(seed, "junk_molecules")
    number = rng.integers(*IN_AN_AGGREGATE, len(junk), endpoint=True) * (junk == kinds["aggregate"])
    number += (junk == kinds["off the centre"]) | (junk == kinds["another molecule"])
    image = np.repeat(np.arange(len(junk)), number)
    kind = junk[image]
    centres = _places_off_centre(len(image), reach, half_box, rng)
    clumped = rng.normal(0, reach / 2, centres.shape)
    centres = np.where((kind == kinds["aggregate"])[:, None], clumped, centres)
    centres[kind == kinds["another molecule"]] = 0.0
    instead = _molecules(image, centres, states, rng)
    instead.state[kind == kinds["another molecule"]] = states

    order = np.argsort(np.concatenate([near.image, instead.image]), kind="stable")
    return Crowd(
        np.concatenate([near.image, instead.image])[order],
        np.concatenate([near.state, instead.state])[order],
        torch.cat([near.rotations, instead.rotations])[order],
        torch.cat([near.centres, instead.centres])[order],
    )


def _molecules(
    image: np.ndarray, centres: np.ndarray, states: int, rng: np.random.Generator
) -> Crowd:
    """Molecules at these places, of random states and rotations."""
    state, count = rng.integers(0, states, len(image)), len(image)
    rotations = random_rotations(count, rng) if count else np.zeros((0, 3, 3))
    return Crowd(
        image, state, torch.from_numpy(rotations).float(), torch.from_numpy(centres).float()
    )


def _places_beside(
    count: int, reach: float, half_box: float, rng: np.random.Generator
) -> Float[np.ndarray, "count 2"]:
    """Centres, evenly spread, of spheres that reach into the box from outside the particle's."""
    places = np.zeros((0, 2))
    while len(places) < count:
        drawn = rng.uniform(-half_box - reach, half_box + reach, (2 * count + 8, 2))
        to_box = np.linalg.norm((np.abs(drawn) - half_box).clip(0), axis=-1)
        outside = np.linalg.norm(drawn, axis=-1) > reach
        places = np.concatenate([places, drawn[outside & (to_box < reach)]])
    return places[:count]


def _places_off_centre(
    count: int, reach: float, half_box: float, rng: np.random.Generator
) -> Float[np.ndarray, "count 2"]:
    """Centres from half of the molecule's radius to the edge of the box, in any direction."""
    distance = rng.uniform(reach / 2, max(reach, half_box), count)
    angle = rng.uniform(0, 2 * np.pi, count)
    return distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def other_molecule(
    atoms: Float[np.ndarray, "atom 3"], rng: np.random.Generator
) -> Float[np.ndarray, "atom 3"]:
    """A compact random walk with as many atoms, of about the same size, about the origin.

    Each step forgets a part of the way, so that the walk stays together (Ornstein and Uhlenbeck).
    """
    n = len(atoms)
    memory = 1 - 12 / n if n > 24 else 0.5
    steps, walk = rng.standard_normal((n, 3)), np.zeros((n, 3))
    for i in range(1, n):
        walk[i] = memory * walk[i - 1] + steps[i]
    walk -= walk.mean(axis=0)
    radius = np.sqrt(np.square(atoms - atoms.mean(axis=0)).sum(-1).mean())
    walk *= radius / np.sqrt(np.square(walk).sum(-1).mean())
    reach, of_walk = (np.linalg.norm(x, axis=-1).max() for x in (atoms, walk))
    return walk * min(1.0, reach / of_walk)


def crowd_images(
    crowd: Crowd,
    path: Float[np.ndarray, "state atom 3"],
    config: SimulationConfig,
    contrast: Float[Tensor, " particle"],
    wide: Band,
    molecules: Callable[[Tensor, slice], Float[Tensor, "molecule band"]],
) -> Callable[[slice], Float[Tensor, "image y x"]]:
    """A function (rows) to the images of all that stands beside these particles.

    The molecules have the CTF and the contrast of their image. `molecules` makes them of their
    positions and numbers, on a band `wide` of a box of twice the edge, so that what leaves the box
    does not come in again at the other side.
    """
    size = config.box_size
    middle = slice(size - size // 2, 2 * size - size // 2)
    other = other_molecule(path[0], stream(config.seed, "other_molecule"))
    states = torch.from_numpy(np.concatenate([path, other[None]])).float()

    def images(rows: slice) -> Tensor:
        total = torch.zeros(rows.stop - rows.start, size, size)
        low, high = np.searchsorted(crowd.image, [rows.start, rows.stop]).tolist()
        for first in range(low, high, AT_ONCE):
            some = slice(first, min(first + AT_ONCE, high))
            image = torch.from_numpy(crowd.image[some])
            pixels = wide.decode(molecules(states[crowd.state[some]], some))
            pixels = pixels[:, middle, middle] * contrast[image, None, None].float()
            total.index_add_(0, image - rows.start, pixels)
        return total

    return images
