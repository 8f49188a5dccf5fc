"""The encoders (section 2.1): from a particle's image, pose and CTF to a Gaussian in latent space.

The paper's encoder is given the image, and has to find out for itself from where the molecule is
seen. The pose and the CTF are known, though, so an image can be looked at *from the structure*: the
adjoint of the projector (CTF, then back along the beam) says how much density an image has at a
place in the frame of the reference, and its gradient which way it pulls a node that stands there.
For small motions and white noise these numbers hold all that the image says about the shape: the
gradient of the likelihood in the positions. They do not depend on the pose, but for their noise.

An encoder has two parts. `look(images, rotations, ctf, shifts)` makes of a particle the numbers
that the network reads; they change only when the poses do, so they are made once for many steps.
`images` are band vectors, `ctf` are `ctf_terms`, or None for images without CTF, and `shifts`, in
Å, say where the particle sits in its image, None at the centre. `forward(looks)` is the network: it
returns mean and log-variance, each (batch, latent).
"""

import itertools
import math

import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor, nn

from cryostar_nb.config import ModelConfig, TrainConfig
from cryostar_nb.ctf import contrast_transfer_function
from cryostar_nb.fast.nufft import adjoint_transform
from cryostar_nb.fourier import Band

MOST_NODES, MOST_PLACES = 512, 1000  # that an image is looked at
REACH = 14.0  # Å from the reference to the farthest of these places


def mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers of these sizes, input first, with a ReLU after each but the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class ImageEncoder(nn.Module):
    """The paper's encoder: it sees the image alone, scaled to unit rms."""

    def __init__(self, band: Band, config: ModelConfig) -> None:
        super().__init__()
        self.layers = mlp((band.size, *config.encoder_widths, 2 * config.latent_dim))

    def look(
        self,
        images: Float[Tensor, "batch band"],
        rotations: Float[Tensor, "batch 3 3"],
        ctf: Float[Tensor, "batch term"] | None,
        shifts: Float[Tensor, "batch 2"] | None = None,
    ) -> Float[Tensor, "batch band"]:
        """The image; pose and CTF are not used."""
        return images

    def forward(
        self, looks: Float[Tensor, "batch band"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Mean and log-variance of the latent."""
        inputs = nn.functional.normalize(looks, dim=-1) * math.sqrt(looks.shape[-1])
        mean, log_variance = self.layers(inputs).chunk(2, dim=-1)
        return mean, log_variance


class StructureEncoder(nn.Module):
    """Sees what an image shows at the reference: at some nodes, with the gradient, and around it.

    The nodes are at most 512, evenly along the chains; around them lie at most 1,000 places of a
    grid within 14 Å of the reference. Each number is standardised by its mean and standard
    deviation over the particles, which `learn_scale` finds.
    """

    centre: Tensor
    spread: Tensor
    nodes: Tensor
    places: Tensor
    node_blur = 2.0  # Å, Gaussian blur of the look at a node
    place_blur = 5.0  # Å, at a place

    def __init__(self, reference: Float[Tensor, "atom 3"], band: Band, config: ModelConfig) -> None:
        super().__init__()
        self.band = band
        nodes = reference[:: -(-len(reference) // MOST_NODES)].contiguous()
        self.register_buffer("nodes", nodes, persistent=False)
        self.register_buffer("places", places_around(reference), persistent=False)
        size = 4 * len(self.nodes) + len(self.places)
        self.layers = mlp((size, *config.encoder_widths, 2 * config.latent_dim))
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))

    @property
    def look_size(self) -> int:
        """Numbers in a look."""
        return len(self.centre)

    @torch.no_grad()
    def look(
        self,
        images: Float[Tensor, "batch band"],
        rotations: Float[Tensor, "batch 3 3"],
        ctf: Float[Tensor, "batch term"] | None,
        shifts: Float[Tensor, "batch 2"] | None = None,
    ) -> Float[Tensor, "batch number"]:
        """Values at the nodes, gradients there in the reference's frame, values at the places."""
        frequencies = self.band.frequencies_on(images.device).to(images)
        k2 = frequencies.square().sum(-1)
        transfer = torch.ones_like(k2)
        if ctf is not None:
            transfer = contrast_transfer_function(frequencies, ctf)
        numbers = []
        for points, sigma in ((self.nodes, self.node_blur), (self.places, self.place_blur)):
            envelope = transfer * torch.exp(-2 * (math.pi * sigma) ** 2 * k2)
            blurred = images * self.band.per_coefficient(envelope)
            seen = points @ rotations.mT
            if shifts is not None:
                seen = seen + nn.functional.pad(shifts, (0, 1)).unsqueeze(-2)
            values, slopes = adjoint_transform(blurred, seen, self.band)
            numbers.append(values)
            if points is self.nodes:
                numbers.append((slopes @ rotations).flatten(1) * sigma)
        return torch.cat(numbers, dim=1)

    def learn_scale(self, looks: Float[Tensor, "particle number"]) -> None:
        """Take the mean and the standard deviation of each number from these looks."""
        self.centre.copy_(looks.mean(0))
        self.spread.copy_(looks.std(0).clamp(min=1e-12))

    def forward(
        self, looks: Float[Tensor, "batch number"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Mean and log-variance of the latent."""
        mean, log_variance = self.layers((looks - self.centre) / self.spread).chunk(2, dim=-1)
        return mean, log_variance


def places_around(reference: Float[Tensor, "atom 3"]) -> Float[Tensor, "place 3"]:
    """At most 1,000 places of a cubic grid within 14 Å of a structure, in Å."""
    tree, spacing = cKDTree(reference.numpy()), 8.0
    while True:
        ends = zip(*reference.aminmax(dim=0), strict=True)
        axes = [
            torch.arange(float(low) - REACH, float(high) + REACH, spacing) for low, high in ends
        ]
        grid = torch.cartesian_prod(*axes)
        places = grid[torch.from_numpy(tree.query(grid.numpy())[0] < REACH)]
        if len(places) <= MOST_PLACES:
            return places
        spacing *= 1.25


def make_encoder(
    config: TrainConfig, sizes: ModelConfig, reference: Float[Tensor, "atom 3"], band: Band
) -> ImageEncoder | StructureEncoder:
    """The encoder that the settings ask for, untrained."""
    if config.encoder_input == "structure":
        return StructureEncoder(reference, band, sizes)
    return ImageEncoder(band, sizes)
