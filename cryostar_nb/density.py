"""The Gaussians that stand for a structure in an image, one for each node or one for each atom.

The network moves nodes. The density of the paper has a Gaussian at each node, while the electrons
of a residue lie up to 4 Å off, in its side chain, and that pulls the nodes away from where they
belong. With a Gaussian for each atom, the atoms of a residue move with its node, rigidly, in a
frame made of three neighbouring nodes.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from cryostar_nb.config import TrainConfig
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import centred_fft, centred_ifft, coordinate_axis, frequency_axis
from cryostar_nb.structure import Structure, bonds, coarse_grain, residue_ranges


@dataclass(frozen=True)
class CarriedAtoms:
    """The heavy atoms of each residue in the frame of its node.

    A node's frame has its first axis from the previous to the next node of the chain, and the
    second towards itself; a node at the end of a chain takes its neighbour's. In a stretch of fewer
    than three nodes frames keep the reference's directions.
    """

    frame_nodes: Int[Tensor, "node 3"]  # the nodes that make each frame
    framed: Bool[Tensor, " node"]  # whether they do
    offsets: Float[Tensor, "node slot 3"]  # Å, in the node's frame; small residues leave slots free
    slots: Int[Tensor, " atom"]  # place of each atom in the flattened (node, slot)

    def frames(self, positions: Float[Tensor, "*batch node 3"]) -> Float[Tensor, "*batch node 3 3"]:
        """Rotation matrices whose columns are the axes of each node's frame."""
        before, here, after = (positions.index_select(-2, i) for i in self.frame_nodes.unbind(-1))
        along, outward = normalize(after - before, dim=-1), here - before
        outward = normalize(outward - (outward * along).sum(-1, keepdim=True) * along, dim=-1)
        axes = torch.stack([along, outward, torch.linalg.cross(along, outward)], dim=-1)
        identity = torch.eye(3, dtype=axes.dtype, device=axes.device)
        return torch.where(self.framed[:, None, None], axes, identity)

    def centres(self, positions: Float[Tensor, "*batch node 3"]) -> Float[Tensor, "*batch atom 3"]:
        """Positions of the atoms, in Å, in the order of the structure they come from."""
        atoms = positions.unsqueeze(-2) + self.offsets @ self.frames(positions).mT
        return atoms.flatten(-3, -2).index_select(-2, self.slots)  # from (*batch, node, slot, 3)

    def to(self, device: torch.device) -> "CarriedAtoms":
        """The same atoms on another device."""
        tensors = (self.frame_nodes, self.framed, self.offsets, self.slots)
        return CarriedAtoms(*(tensor.to(device) for tensor in tensors))


@dataclass(frozen=True)
class Density:
    """Gaussians of one width, whose centres follow from the positions of the nodes."""

    amplitudes: Float[Tensor, " gaussian"]  # electrons
    sigma: Float[Tensor, ""]  # Å
    carried: CarriedAtoms | None = None  # None: each node is a Gaussian

    def centres(
        self, positions: Float[Tensor, "*batch node 3"]
    ) -> Float[Tensor, "*batch gaussian 3"]:
        """Centres of the Gaussians of these structures, in Å; differentiable."""
        return positions if self.carried is None else self.carried.centres(positions)

    def to(self, device: torch.device) -> "Density":
        """The same density on another device."""
        carried = None if self.carried is None else self.carried.to(device)
        return Density(self.amplitudes.to(device), self.sigma.to(device), carried)


def make_density(config: TrainConfig, atoms: Structure, nodes: Structure) -> Density:
    """The density of a configuration (`config.density`). Errors are those of `atom_density`."""
    if config.density == "atoms":
        return atom_density(atoms, config.atom_sigma)
    return node_density(nodes, config.sigma)


def node_density(nodes: Structure, sigma: float) -> Density:
    """One Gaussian of `sigma` Å for each node, with the electrons of its residue (eq. 1)."""
    return Density(torch.from_numpy(nodes.electrons).float(), torch.tensor(sigma))


def atom_density(atoms: Structure, sigma: float) -> Density:
    """One Gaussian for each heavy atom, carried by the node of its residue.

    A residue has the electrons of `coarse_grain`: those of hydrogens, and of atoms that the model
    lacks, are shared out. `sigma`, in Å, is an atom's thermal blur, B = 8 pi^2 sigma^2. Raises
    InputError for a structure that has its nodes only.
    """
    nodes, ranges = coarse_grain(atoms), residue_ranges(atoms)
    if len(atoms) == len(nodes):
        raise InputError(
            "density = atoms: the reference has one atom for each residue",
            remedy="give a full-atom model, or --density nodes",
        )
    sizes = [last - first for first, last in ranges]
    slots = np.concatenate([node * max(sizes) + np.arange(size) for node, size in enumerate(sizes)])
    node_of = slots // max(sizes)
    scale = nodes.electrons / np.bincount(node_of, atoms.electrons)
    offsets = np.zeros((len(nodes) * max(sizes), 3))
    offsets[slots] = atoms.positions - nodes.positions[node_of]
    frame_nodes, framed = map(torch.from_numpy, _frame_nodes(nodes))
    in_reference = torch.from_numpy(offsets.reshape(len(nodes), -1, 3))
    carried = CarriedAtoms(frame_nodes, framed, in_reference, torch.from_numpy(slots))
    in_frames = (in_reference @ carried.frames(torch.from_numpy(nodes.positions))).float()
    amplitudes = torch.from_numpy(atoms.electrons * scale[node_of]).float()
    return Density(amplitudes, torch.tensor(sigma), replace(carried, offsets=in_frames))


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
    volume = torch.zeros(box_size, box_size, box_size)
    for plane in range(box_size):
        near = slice(first[plane], last[plane])
        across, up = (
            torch.exp(-(axis - place[near, None]).square() / (2 * width**2)) for place in (x, y)
        )
        depth = scale[near] * torch.exp(-(axis[plane] - z[near]).square() / (2 * width**2))
        volume[plane] = (up * depth[:, None]).mT @ across
    if width == sigma:
        return volume
    k = frequency_axis(box_size, pixel_size).float()
    k2 = k[:, None, None].square() + k[:, None].square() + k.square()
    sharpening = torch.exp(2 * math.pi**2 * (width**2 - sigma**2) * k2)
    return centred_ifft(centred_fft(volume, 3) * sharpening, 3)


def atom_sigma(resolution: float) -> float:
    """Width, in Å, of an atom's Gaussian whose transform falls to 1/e at k = 1/resolution."""
    return resolution / (math.pi * math.sqrt(2))
