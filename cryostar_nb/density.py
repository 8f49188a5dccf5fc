"""The Gaussians that stand for a structure in an image: one for each node, or one for each atom, carried by the nodes.

The network moves nodes. Node by node, the paper's density stands at Cα, while the electrons of a residue lie up to 4 Å off,
in its side chain, and that pulls the nodes away from where they belong. Here the atoms of a residue may go with it, rigidly,
in a frame made of three neighbouring nodes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryostar_nb.config import TrainConfig
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import centred_fft, centred_ifft, coordinate_axis, frequency_axis
from cryostar_nb.structure import Structure, bonds, coarse_grain, residue_ranges


@dataclass(frozen=True)
class Density:
    """Gaussians of one width: where they are follows from the positions of the nodes."""

    amplitudes: Float[Tensor, " gaussian"]  # electrons
    sigma: Float[Tensor, ""]  # Å
    carried: "CarriedAtoms | None" = None  # None: each node is a Gaussian

    def centres(
        self, positions: Float[Tensor, "*batch node 3"]
    ) -> Float[Tensor, "*batch gaussian 3"]:
        """Centres of the Gaussians of these structures, in Å; differentiable."""
        return positions if self.carried is None else self.carried.place(positions)

    def to(self, device: torch.device) -> "Density":
        """The same density on another device."""
        carried = None if self.carried is None else self.carried.to(device)
        return Density(self.amplitudes.to(device), self.sigma.to(device), carried)


@dataclass(frozen=True)
class CarriedAtoms:
    """The heavy atoms of each residue in the frame of its node.

    A node's frame has its first axis from the previous to the next node of the chain, and the second towards itself; a node
    at the end of a chain takes its neighbour's. In a stretch of fewer than three nodes frames keep the reference's directions.
    """

    neighbours: Int[Tensor, "node 3"]  # the nodes that make each frame
    framed: Bool[Tensor, " node"]  # whether they do
    offsets: Float[
        Tensor, "node slot 3"
    ]  # Å, in the frame of the node; residues of fewer atoms leave slots empty
    slots: Int[Tensor, " atom"]  # place of each atom among the (node, slot)

    def frames(self, positions: Float[Tensor, "*batch node 3"]) -> Float[Tensor, "*batch node 3 3"]:
        """Rotation matrices whose columns are the axes of each node's frame."""
        before, here, after = (
            positions.index_select(-2, self.neighbours[:, place]) for place in range(3)
        )
        along = torch.nn.functional.normalize(after - before, dim=-1)
        outward = here - before
        outward = torch.nn.functional.normalize(
            outward - (outward * along).sum(-1, keepdim=True) * along, dim=-1
        )
        axes = torch.stack([along, outward, torch.linalg.cross(along, outward)], dim=-1)
        return torch.where(
            self.framed[:, None, None], axes, torch.eye(3, dtype=axes.dtype, device=axes.device)
        )

    def place(self, positions: Float[Tensor, "*batch node 3"]) -> Float[Tensor, "*batch atom 3"]:
        """Positions of the atoms, in Å, in the order of the structure they come from."""
        atoms = (
            positions.unsqueeze(-2) + self.offsets @ self.frames(positions).mT
        )  # (*batch, node, slot, 3)
        return atoms.flatten(-3, -2).index_select(-2, self.slots)

    def to(self, device: torch.device) -> "CarriedAtoms":
        """The same atoms on another device."""
        return CarriedAtoms(
            *(
                tensor.to(device)
                for tensor in (self.neighbours, self.framed, self.offsets, self.slots)
            )
        )


def node_density(nodes: Structure, sigma: float) -> Density:
    """One Gaussian for each node, with the electrons of its residue (eq. 1)."""
    return Density(torch.from_numpy(nodes.electrons).float(), torch.tensor(sigma))


def atom_density(atoms: Structure, sigma: float) -> Density:
    """One Gaussian for each heavy atom, carried by the node of its residue.

    Hydrogens, and atoms that the model lacks, are shared out: a residue has the electrons of `coarse_grain`. `sigma`, in Å,
    is an atom's thermal blur, B = 8 pi^2 sigma^2. Raises InputError for a structure that has its nodes only.
    """
    nodes, ranges = coarse_grain(atoms), residue_ranges(atoms)
    if len(atoms) == len(nodes):
        raise InputError(
            "density = atoms: the reference has one atom for each residue; give a full-atom model, or --density nodes"
        )
    bonded = np.zeros(len(nodes) + 1, dtype=bool)
    bonded[bonds(nodes)[:, 0] + 1] = True  # to the previous node
    own = np.arange(len(nodes))
    middle = np.where(~bonded[:-1], own + 1, np.where(~bonded[1:], own - 1, own)).clip(
        1, max(1, len(nodes) - 2)
    )
    framed = (
        bonded[middle] & bonded[middle + 1] if len(nodes) > 2 else np.zeros(len(nodes), dtype=bool)
    )
    middle = np.where(framed, middle, own)
    neighbours = np.stack(
        [np.where(framed, middle - 1, own), middle, np.where(framed, middle + 1, own)], axis=-1
    )
    most = max(last - first for first, last in ranges)
    offsets, amplitudes = np.zeros((len(nodes), most, 3)), np.empty(len(atoms))
    for node, (first, last) in enumerate(ranges):
        offsets[node, : last - first] = atoms.positions[first:last] - nodes.positions[node]
        amplitudes[first:last] = atoms.electrons[first:last] * (
            nodes.electrons[node] / atoms.electrons[first:last].sum()
        )
    slots = np.concatenate(
        [np.arange(last - first) + node * most for node, (first, last) in enumerate(ranges)]
    )
    carried = CarriedAtoms(
        torch.from_numpy(neighbours),
        torch.from_numpy(framed),
        torch.from_numpy(offsets),
        torch.from_numpy(slots),
    )
    frames = carried.frames(torch.from_numpy(nodes.positions))
    in_frames = (carried.offsets @ frames).float()
    carried = CarriedAtoms(carried.neighbours, carried.framed, in_frames, carried.slots)
    return Density(torch.from_numpy(amplitudes).float(), torch.tensor(sigma), carried)


@torch.no_grad()
def model_density(
    positions: Float[Tensor, "atom 3"],
    amplitudes: Float[Tensor, " atom"],
    sigma: float,
    *,
    box_size: int,
    pixel_size: float,
) -> Float[Tensor, "z y x"]:
    """Band-limited density of Gaussians on a cube whose centre voxel is the origin, in electrons/Å^3, as float32.

    Like `projector.gaussian_density`, but for many atoms, and for Gaussians narrower than a voxel: they are sampled as if at
    least one voxel wide, plane by plane with the atoms near each plane, and narrowed again in Fourier space.
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
            torch.exp(-(axis - values[near, None]).square() / (2 * width**2)) for values in (x, y)
        )
        depth = scale[near] * torch.exp(-(axis[plane] - z[near]).square() / (2 * width**2))
        volume[plane] = (up * depth[:, None]).mT @ across
    if width == sigma:
        return volume
    k = frequency_axis(box_size, pixel_size).float()
    k2 = k[:, None, None].square() + k[:, None].square() + k.square()
    return centred_ifft(
        centred_fft(volume, 3) * torch.exp(2 * math.pi**2 * (width**2 - sigma**2) * k2), 3
    )


def make_density(config: TrainConfig, atoms: Structure, nodes: Structure) -> Density:
    """What the images of a run are made of."""
    return (
        atom_density(atoms, config.atom_sigma)
        if config.density == "atoms"
        else node_density(nodes, config.sigma)
    )


def atom_sigma(resolution: float) -> float:
    """Width of an atom's Gaussian, in Å, at a resolution: the transform exp(-(resolution k)^2) falls to 1/e at 1/resolution."""
    return resolution / (math.pi * math.sqrt(2))
