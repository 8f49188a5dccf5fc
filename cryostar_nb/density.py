"""The Gaussians that stand for a structure in an image: of nodes, of atoms, or of groups of atoms.

The network moves nodes. The density of the paper has a Gaussian at each node, while the electrons
of a residue lie up to 4 Å off, in its side chain, and that pulls the nodes away from where they
belong. With a Gaussian for each atom, or each group of neighbouring atoms, those of a residue move
with its node, rigidly, in a frame made of three neighbouring nodes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryostar_nb.config import TrainConfig
from cryostar_nb.ctf import CTFParameters
from cryostar_nb.errors import InputError
from cryostar_nb.fast.carry import carry, frames
from cryostar_nb.fourier import Band, centred_fft, centred_ifft, coordinate_axis, frequency_axis
from cryostar_nb.grouping import fitted_centres, group_atoms, group_width
from cryostar_nb.projector import make_images
from cryostar_nb.structure import Structure, bonds, coarse_grain, residue_ranges


@dataclass(frozen=True)
class CarriedGaussians:
    """The Gaussians of each residue, of its atoms or of groups of them, in the frame of its node.

    A node's frame has its first axis from the previous to the next node of the chain, and the
    second towards itself; a node at the end of a chain takes its neighbour's. In a stretch of fewer
    than three nodes frames keep the reference's directions.
    """

    frame_nodes: Int[Tensor, "node 3"]  # the nodes that make each frame
    framed: Bool[Tensor, " node"]  # whether they do
    offsets: Float[Tensor, "gaussian 3"]  # Å, in the node's frame
    node_of: Int[Tensor, " gaussian"]  # that carries each, in increasing order

    def centres(
        self,
        positions: Float[Tensor, "*batch node 3"],
        turns: Float[Tensor, "*batch node 3"] | None = None,
    ) -> Float[Tensor, "*batch gaussian 3"]:
        """Centres of the Gaussians, in Å; those of atoms in the order of the structure.

        `turns` are of the Gaussians of each node about it, in its frame (`fast.carry`).
        """
        batch = positions.reshape(-1, *positions.shape[-2:])
        about = None if turns is None else turns.reshape(batch.shape)
        centres = carry(batch, self.frame_nodes, self.framed, self.offsets, self.node_of, about)
        return centres.reshape(*positions.shape[:-2], *centres.shape[-2:])

    def to(self, device: torch.device) -> "CarriedGaussians":
        """The same Gaussians on another device."""
        tensors = (self.frame_nodes, self.framed, self.offsets, self.node_of)
        return CarriedGaussians(*(tensor.to(device) for tensor in tensors))


@dataclass(frozen=True)
class Density:
    """Gaussians of one width, whose centres follow from the positions of the nodes."""

    amplitudes: Float[Tensor, " gaussian"]  # electrons
    sigma: Float[Tensor, ""]  # Å
    carried: CarriedGaussians | None = None  # None: each node is a Gaussian

    def centres(
        self,
        positions: Float[Tensor, "*batch node 3"],
        turns: Float[Tensor, "*batch node 3"] | None = None,
    ) -> Float[Tensor, "*batch gaussian 3"]:
        """Centres of the Gaussians of these structures, in Å; differentiable.

        `turns` are of what each node carries, about it (`fast.carry`); a node that is a Gaussian
        itself has nothing to turn.
        """
        return positions if self.carried is None else self.carried.centres(positions, turns)

    def images(
        self,
        positions: Float[Tensor, "*#batch node 3"],
        band: Band,
        *,
        rotations: Float[Tensor, "*#batch 3 3"],
        shifts: Float[Tensor, "*#batch 2"] | None = None,
        ctf: CTFParameters | Float[Tensor, "*#batch term"] | None = None,
        turns: Float[Tensor, "*#batch node 3"] | None = None,
    ) -> Float[Tensor, "*batch band"]:
        """Images of these structures (`projector.make_images`); differentiable."""
        return make_images(
            self.centres(positions, turns),
            self.amplitudes,
            self.sigma,
            band,
            rotations=rotations,
            shifts=shifts,
            ctf=ctf,
        )

    def to(self, device: torch.device) -> "Density":
        """The same density on another device."""
        carried = None if self.carried is None else self.carried.to(device)
        return Density(self.amplitudes.to(device), self.sigma.to(device), carried)


def make_density(config: TrainConfig, atoms: Structure, nodes: Structure) -> Density:
    """The density of a configuration (`config.density`). Errors are those of `atom_density`.

    As long as the low-pass is to be found, it is that of atoms instead of groups.
    """
    if config.density == "nodes":
        return node_density(nodes, config.sigma)
    if config.density == "atoms" or isinstance(config.low_pass, str):
        return atom_density(atoms, config.atom_sigma)
    return group_density(atoms, config.atom_sigma, config.low_pass, config.group_correlation)


def node_density(nodes: Structure, sigma: float) -> Density:
    """One Gaussian of `sigma` Å for each node, with the electrons of its residue (eq. 1)."""
    return Density(torch.from_numpy(nodes.electrons).float(), torch.tensor(sigma))


def atom_density(atoms: Structure, sigma: float) -> Density:
    """One Gaussian for each heavy atom, carried by the node of its residue.

    A residue has the electrons of `coarse_grain`: those of hydrogens, and of atoms that the model
    lacks, are shared out. `sigma`, in Å, is an atom's thermal blur, B = 8 pi^2 sigma^2. Raises
    InputError for a structure that has its nodes only.
    """
    nodes, node_of, electrons = _residues(atoms)
    return _carry(nodes, node_of, atoms.positions, electrons, sigma)


def group_density(
    atoms: Structure, sigma: float, resolution: float, correlation: float = 0.995
) -> Density:
    """One Gaussian for each group of neighbouring atoms, carried by the node of their residue.

    The groups are as few as keep, on average, this correlation of an image down to `resolution` Å
    with that of `atom_density`, both clean and without CTF (`grouping.group_atoms`); then they are
    moved to where the correlation is best (`grouping.fitted_centres`). Electrons, `sigma` and
    errors are those of `atom_density`.
    """
    nodes, node_of, electrons = _residues(atoms)
    groups = group_atoms(
        atoms.positions,
        electrons,
        residue_ranges(atoms),
        sigma=sigma,
        resolution=resolution,
        correlation=correlation,
    )
    node_of = node_of[np.unique(groups, return_index=True)[1]]
    centres = fitted_centres(atoms.positions, electrons, groups, sigma=sigma, resolution=resolution)
    width = group_width(atoms.positions, electrons, groups, sigma)
    return _carry(nodes, node_of, centres, np.bincount(groups, electrons), width)


def _residues(
    atoms: Structure,
) -> tuple[Structure, Int[np.ndarray, " atom"], Float[np.ndarray, " atom"]]:
    """The nodes, the node of each atom, and each atom's share of its residue's electrons."""
    nodes, ranges = coarse_grain(atoms), residue_ranges(atoms)
    if len(atoms) == len(nodes):
        raise InputError(
            "density = atoms or groups: the reference has one atom for each residue",
            remedy="give a full-atom model, or --density nodes",
        )
    node_of = np.repeat(np.arange(len(nodes)), [last - first for first, last in ranges])
    scale = nodes.electrons / np.bincount(node_of, atoms.electrons)
    return nodes, node_of, atoms.electrons * scale[node_of]


def _carry(
    nodes: Structure,
    node_of: Int[np.ndarray, " gaussian"],
    centres: Float[np.ndarray, "gaussian 3"],
    electrons: Float[np.ndarray, " gaussian"],
    sigma: float,
) -> Density:
    """Gaussians at these centres, each carried by its node; node by node, in the nodes' order."""
    frame_nodes, framed = map(torch.from_numpy, _frame_nodes(nodes))
    axes = frames(torch.from_numpy(nodes.positions), frame_nodes, framed)[node_of]
    apart = torch.from_numpy(centres - nodes.positions[node_of])
    offsets = (apart[:, None] @ axes).squeeze(1).float()
    carried = CarriedGaussians(frame_nodes, framed, offsets, torch.from_numpy(node_of))
    amplitudes = torch.from_numpy(electrons).float()
    return Density(amplitudes, torch.tensor(sigma), carried)


def _frame_nodes(nodes: Structure) -> tuple[Int[np.ndarray, "node 3"], Bool[np.ndarray, " node"]]:
    """The three nodes that make each node's frame, and whether all of them are bonded."""
    count, node = len(nodes), np.arange(len(nodes))
    bonded = np.zeros(count + 1, dtype=bool)
    bonded[bonds(nodes)[:, 0] + 1] = True  # to the previous node
    middle = np.where(~bonded[:-1], node + 1, np.where(~bonded[1:], node - 1, node))
    middle = middle.clip(1, max(1, count - 2))
    framed = bonded[middle] & bonded[middle + 1] if count > 2 else np.zeros(count, dtype=bool)
    neighbours = np.stack([middle - 1, middle, middle + 1], axis=-1)
    return np.where(framed[:, None], neighbours, node[:, None]), framed


@torch.no_grad()
def model_density(
    positions: Float[Tensor, "atom 3"],
    amplitudes: Float[Tensor, " atom"],
    sigma: float,
    *,
    box_size: int,
    pixel_size: float,
) -> Float[Tensor, "z y x"]:
    """Density of Gaussians on a grid whose centre voxel is the origin, in electrons/Å^3, float32.

    Like `projector.gaussian_density`, but for many atoms, and for Gaussians narrower than a voxel:
    they are sampled as if at least one voxel wide, plane by plane with the atoms near each plane,
    and narrowed again in Fourier space.
    """
    width = max(sigma, pixel_size)
    axis = coordinate_axis(box_size, pixel_size).float()
    order = torch.argsort(positions[:, 2])
    x, y, z = positions[order].float().mT.contiguous()
    scale = amplitudes[order].float() / (math.sqrt(2 * math.pi) * width) ** 3
    first, last = (torch.searchsorted(z, axis + end * 5 * width).tolist() for end in (-1, 1))
    along_x, along_y = (
        torch.exp(-(axis - place[:, None]).square() / (2 * width**2)) for place in (x, y)
    )
    volume = torch.zeros(box_size, box_size, box_size)
    for plane in range(box_size):
        near = slice(first[plane], last[plane])
        depth = scale[near] * torch.exp(-(axis[plane] - z[near]).square() / (2 * width**2))
        volume[plane] = (along_y[near] * depth[:, None]).mT @ along_x[near]
    if width == sigma:
        return volume
    k = frequency_axis(box_size, pixel_size).float()
    k2 = k[:, None, None].square() + k[:, None].square() + k.square()
    sharpening = torch.exp(2 * math.pi**2 * (width**2 - sigma**2) * k2)
    return centred_ifft(centred_fft(volume, 3) * sharpening, 3)


def atom_sigma(resolution: float) -> float:
    """Width, in Å, of an atom's Gaussian whose transform falls to 1/e at k = 1/resolution."""
    return resolution / (math.pi * math.sqrt(2))
