"""The deformation network (section 2.1): a variational autoencoder from an image to a structure.

To try another decoder, write a module like `CartesianDecoder` and choose it in `make_network`.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cryostar_nb.config import ModelConfig, TrainConfig
from cryostar_nb.encoders import ImageEncoder, StructureEncoder, make_encoder, mlp
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import rotations_from_columns, rotations_from_vectors
from cryostar_nb.likelihood import RadialScale
from cryostar_nb.normal_modes import normal_modes
from cryostar_nb.structure import Structure

STRETCH = 8  # nodes of a chain that turn together
LEVER = 20.0  # Å; one Å of output turns by an arc of one Å at this distance


class Deformation(NamedTuple):
    """What a decoder makes of latents."""

    positions: Float[Tensor, "*batch atom 3"]  # of the nodes, Å
    turns: Float[Tensor, "*batch atom 3"] | None  # of each side chain about its node; None: none


class CartesianDecoder(nn.Module):
    """Latent to structure: the reference plus a displacement of every node, S = S_ref + Delta S.

    With `side_chains`, what each node carries is turned about it, too (`fast.carry`). The last
    layer starts small, so that training starts at the reference.
    """

    reference: Tensor

    def __init__(
        self, reference: Float[Tensor, "atom 3"], config: ModelConfig, *, side_chains: bool = False
    ) -> None:
        super().__init__()
        self.latent_dim = config.latent_dim
        self.layers = mlp((config.latent_dim, *config.decoder_widths, reference.numel()))
        _start_small(self.layers)
        self.side_chains = None
        if side_chains:
            self.side_chains = nn.Linear(config.decoder_widths[-1], reference.numel())
            nn.init.zeros_(self.side_chains.weight)
            nn.init.zeros_(self.side_chains.bias)
        self.register_buffer("reference", reference)

    def forward(self, latent: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch atom 3"]:
        """Positions in Å."""
        return self.deform(latent).positions

    def deform(self, latent: Float[Tensor, "*batch latent"]) -> Deformation:
        """Positions and turns."""
        hidden = self.layers[:-1](latent)
        positions = self.reference + self.layers[-1](hidden).unflatten(-1, (-1, 3))
        if self.side_chains is None:
            return Deformation(positions, None)
        return Deformation(positions, self.side_chains(hidden).unflatten(-1, (-1, 3)))


class ChainDecoder(CartesianDecoder):
    """Latent to structure by turns along the chains, and a displacement of every node besides.

    Each stretch of `STRETCH` nodes of a chain has a rotation, which turns the links from node to
    node, and a chain is put together from its links: bonds keep their lengths. A rotation is given
    by its first two columns, made orthonormal (`rotations_from_columns`): for a full circle they
    are linear in the cosine and the sine of the angle. The network gives the change of the columns
    from each stretch to the next, so that a turn at a joint takes along all that follows in the
    chain, as one body. Displacements alone would have to pass through torn or squeezed domains.
    Each chain also has a shift of its centroid.
    """

    links: Tensor
    averages: Tensor
    chain_of: Tensor
    stretch_of: Tensor
    first_of: Tensor  # of each stretch, the first one of its chain

    def __init__(
        self,
        reference: Float[Tensor, "atom 3"],
        config: ModelConfig,
        chain_of: Int[Tensor, " atom"],
        *,
        side_chains: bool = False,
    ) -> None:
        super().__init__(reference, config, side_chains=side_chains)
        starts = torch.ones_like(chain_of, dtype=torch.bool)
        starts[1:] = chain_of.diff() != 0
        chain_of = starts.cumsum(0) - 1
        place = torch.arange(len(chain_of)) - torch.nonzero(starts)[chain_of, 0]
        stretch_starts = place % STRETCH == 0
        stretch_of = stretch_starts.cumsum(0) - 1
        links = reference.diff(dim=0, prepend=reference[:1]).masked_fill(starts[:, None], 0.0)
        members = nn.functional.one_hot(chain_of).to(reference).mT
        self.turns = nn.Linear(config.decoder_widths[-1], 6 * int(stretch_of[-1] + 1))
        self.shifts = nn.Linear(config.decoder_widths[-1], 3 * len(members))
        _start_small(nn.Sequential(self.turns))
        _start_small(nn.Sequential(self.shifts))
        self.register_buffer("links", links, persistent=False)
        self.register_buffer("averages", members / members.sum(1, keepdim=True), persistent=False)
        self.register_buffer("chain_of", chain_of, persistent=False)
        self.register_buffer(
            "first_of", stretch_of[starts][chain_of[stretch_starts]], persistent=False
        )
        # The link to a node turns with the stretch of the node before it.
        self.register_buffer("stretch_of", stretch_of.roll(1), persistent=False)

    def deform(self, latent: Float[Tensor, "*batch latent"]) -> Deformation:
        """Positions and turns of side chains."""
        hidden = self.layers[:-1](latent)
        changes = self.turns(hidden).unflatten(-1, (-1, 2, 3)) / LEVER
        sums = nn.functional.pad(changes.cumsum(-3), (0, 0, 0, 0, 1, 0))
        columns = sums[..., 1:, :, :] - sums[..., self.first_of, :, :]
        identity = torch.eye(3, dtype=columns.dtype, device=columns.device)
        rotations = rotations_from_columns(columns + identity[:2])
        links = (rotations[..., self.stretch_of, :, :] @ self.links[..., None])[..., 0]
        chains = links.cumsum(-2)
        own, shifts = (f(hidden).unflatten(-1, (-1, 3)) for f in (self.layers[-1], self.shifts))
        moved = self.averages @ (self.reference - chains) + shifts
        positions = chains + moved[..., self.chain_of, :] + own
        if self.side_chains is None:
            return Deformation(positions, None)
        return Deformation(positions, self.side_chains(hidden).unflatten(-1, (-1, 3)))


class NormalModeDecoder(nn.Module):
    """Latent to structure by normal modes (the NMA baseline): deformed, then turned and moved.

    For each latent the network gives a coefficient per mode (1 moves the nodes by 1 Å rms), a
    rotation vector about the centre of the reference (its length is the angle in radians), and a
    translation in Å; the last two correct the pose, which modes change a little. The last layer
    starts small, so that training starts at the reference.
    """

    reference: Tensor
    modes: Tensor

    def __init__(
        self,
        reference: Float[Tensor, "atom 3"],
        modes: Float[Tensor, "mode atom 3"],
        config: ModelConfig,
    ) -> None:
        super().__init__()
        self.latent_dim = config.latent_dim
        self.layers = mlp((config.latent_dim, *config.decoder_widths, len(modes) + 6))
        _start_small(self.layers)
        self.register_buffer("reference", reference)
        self.register_buffer("modes", modes.contiguous() * math.sqrt(len(reference)))

    def deform(self, latent: Float[Tensor, "*batch latent"]) -> Deformation:
        """Positions; side chains stay as they are."""
        return Deformation(self(latent), None)

    def forward(self, latent: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch atom 3"]:
        """Positions in Å."""
        coefficients, turn, move = self.layers(latent).split([len(self.modes), 3, 3], dim=-1)
        deformed = self.reference + torch.tensordot(coefficients, self.modes, dims=1)
        centre = self.reference.mean(0)
        turned = (deformed - centre) @ rotations_from_vectors(turn).mT
        return turned + centre + move.unsqueeze(-2)


def _start_small(layers: nn.Sequential) -> None:
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()


class DeformationVAE(nn.Module):
    """Encoder and decoder, and between them the reparametrised sample (Kingma & Welling 2013)."""

    def __init__(
        self,
        encoder: ImageEncoder | StructureEncoder,
        decoder: CartesianDecoder | NormalModeDecoder,
        radial_scale: RadialScale | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.radial_scale = radial_scale  # of the images; not used by `forward`
        self.latent_dim = decoder.latent_dim

    def forward(
        self,
        looks: Float[Tensor, "batch number"],
        noise: Float[Tensor, "batch latent"],
    ) -> tuple[Deformation, Tensor, Tensor]:
        """What is decoded from `mean + noise * sd`, mean, and log-variance.

        `looks` are what the encoder sees of the particles (`encoder.look`).
        """
        mean, log_variance = self.encoder(looks)
        precision = self.decoder.reference.dtype
        mean, log_variance = mean.to(precision), log_variance.to(precision)
        latent = mean + noise * torch.exp(0.5 * log_variance)
        # At 100 Å, half precision would move an atom in steps of 0.06 Å.
        with torch.autocast(looks.device.type, enabled=False):
            return self.decoder.deform(latent), mean, log_variance

    def scaled(self, predictions: Float[Tensor, "*batch band"]) -> Float[Tensor, "*batch band"]:
        """Predictions with the amplitude that the images have, where that was learned."""
        return predictions if self.radial_scale is None else self.radial_scale(predictions)


def make_network(
    config: TrainConfig,
    sizes: ModelConfig,
    nodes: Structure,
    band: Band,
    *,
    find_modes: bool = True,
) -> DeformationVAE:
    """The network of a method, untrained. Without `find_modes`, the normal modes are left zero,
    to be loaded with the weights.
    """
    reference = torch.from_numpy(nodes.positions).float()
    encoder = make_encoder(config, sizes, reference, band)
    scale = RadialScale(band) if config.radial_scale else None
    if config.method != "nma":
        side_chains = config.side_chain_sd > 0 and config.density != "nodes"
        decoder = CartesianDecoder(reference, sizes, side_chains=side_chains)
        if config.decoder == "chain":
            chain_of = torch.from_numpy(np.unique(nodes.chains, return_inverse=True)[1])
            decoder = ChainDecoder(reference, sizes, chain_of, side_chains=side_chains)
        return DeformationVAE(encoder, decoder, scale)
    modes = torch.zeros(config.modes, *reference.shape)
    if find_modes:
        vectors = normal_modes(nodes.positions, config.modes, config.elastic_cutoff).vectors
        modes = torch.from_numpy(vectors).float()
    return DeformationVAE(encoder, NormalModeDecoder(reference, modes, sizes), scale)


def parameter_count(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
