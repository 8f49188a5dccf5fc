"""What a particle shows at the places of the reference: the encoder's input in the preset `ours`.

The paper's encoder is given the image, and has to find out for itself from where the molecule is seen. The pose and the CTF are
known, though, so an image can be looked at *from the structure*: the adjoint of the projector (CTF, then back along the beam)
says how much density an image has at a place in the frame of the reference, and its gradient which way it pulls a node that
stands there. For small motions and white noise these numbers hold all that the image says about the shape: the gradient of
the likelihood in the positions. They do not depend on the pose, but for their noise.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor, nn

from cryostar_nb.config import ModelConfig
from cryostar_nb.ctf import contrast_transfer_function
from cryostar_nb.fast.nufft import adjoint_transform
from cryostar_nb.fourier import Band

MOST_NODES, MOST_PLACES = 512, 1000
REACH = 14.0  # Å from the reference to the farthest place that is looked at


@dataclass(frozen=True)
class StructureView:
    """Looks at images at some nodes of a reference, with its gradient, and on a coarse grid of places around it, without."""

    band: Band
    nodes: Float[Tensor, "node 3"]  # Å
    places: Float[Tensor, "place 3"]  # Å
    sigma: float = 2.0  # Å, blur of the look at a node
    blur: float = 5.0  # Å, at a place

    @property
    def size(self) -> int:
        """How many numbers a particle becomes."""
        return 4 * len(self.nodes) + len(self.places)

    def to(self, device: torch.device) -> "StructureView":
        """The same view on another device."""
        return StructureView(
            self.band, self.nodes.to(device), self.places.to(device), self.sigma, self.blur
        )

    @torch.no_grad()
    def __call__(
        self,
        images: Float[Tensor, "batch band"],
        rotations: Float[Tensor, "batch 3 3"],
        ctf: Float[Tensor, "batch 6"] | None,
    ) -> Float[Tensor, "batch number"]:
        """Values at the nodes, their gradients in the frame of the reference, then values at the places. `ctf` are `ctf_terms`."""
        frequencies = self.band.frequencies_on(images.device).to(images)
        k2 = frequencies.square().sum(-1)
        transfer = (
            torch.ones_like(k2) if ctf is None else contrast_transfer_function(frequencies, ctf)
        )
        seen = []
        for points, sigma in ((self.nodes, self.sigma), (self.places, self.blur)):
            blurred = images * self.band.per_coefficient(
                transfer * torch.exp(-2 * (math.pi * sigma) ** 2 * k2)
            )
            values, slopes = adjoint_transform(blurred, points @ rotations.mT, self.band)
            seen.append(values)
            if points is self.nodes:
                seen.append((slopes @ rotations).flatten(1) * sigma)
        return torch.cat(seen, dim=1)


def structure_view(reference: Float[Tensor, "atom 3"], band: Band) -> StructureView:
    """A view of at most 512 nodes, evenly along the chains, and of a grid within 14 Å of the reference of at most 1,000 places."""
    nodes = reference[:: -(-len(reference) // MOST_NODES)].contiguous()
    tree, spacing = cKDTree(reference.numpy()), 8.0
    while True:
        axes = [
            torch.arange(float(low) - REACH, float(high) + REACH, spacing)
            for low, high in zip(*reference.aminmax(dim=0), strict=True)
        ]
        grid = torch.cartesian_prod(*axes)
        places = grid[torch.from_numpy(tree.query(grid.numpy())[0] < REACH)]
        if len(places) <= MOST_PLACES:
            return StructureView(band, nodes, places)
        spacing *= 1.25


def mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers of these sizes, input first, with a ReLU after each but the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Encoder(nn.Module):
    """Image, as a band vector, to the mean and log-variance of its latent; or whatever else is known of the image.

    Each image is scaled to unit rms: its brightness says nothing. Other inputs (`encoders.StructureView`) are standardised: each number by
    the `centre` and `spread` that it has over the particles, which `learn_scale` finds.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, input_size: int, config: ModelConfig, *, standardised: bool = False) -> None:
        super().__init__()
        self.layers = mlp((input_size, *config.encoder_widths, 2 * config.latent_dim))
        self.standardised = standardised
        if standardised:
            self.register_buffer("centre", torch.zeros(input_size))
            self.register_buffer("spread", torch.ones(input_size))

    def learn_scale(self, inputs: Float[Tensor, "particle number"]) -> None:
        """Take mean and standard deviation of each number from these inputs."""
        self.centre.copy_(inputs.mean(0))
        self.spread.copy_(inputs.std(0).clamp(min=1e-12))

    def forward(self, inputs: Float[Tensor, "batch number"]) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, each (batch, latent)."""
        if self.standardised:
            inputs = (inputs - self.centre) / self.spread
        else:
            inputs = torch.nn.functional.normalize(inputs, dim=-1) * math.sqrt(inputs.shape[-1])
        mean, log_variance = self.layers(inputs).chunk(2, dim=-1)
        return mean, log_variance
