"""The deformation network (section 2.1): a variational autoencoder from an image to a structure."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryostar_nb.config import ModelConfig
from cryostar_nb.encoders import Encoder, mlp
from cryostar_nb.geometry import rotations_from_vectors


class CartesianDecoder(nn.Module):
    """Latent to structure: the reference plus a displacement of every node, S = S_ref + Delta S.

    The last layer starts small, so that training starts at the reference.
    """

    reference: Tensor

    def __init__(self, reference: Float[Tensor, "atom 3"], config: ModelConfig) -> None:
        super().__init__()
        self.layers = mlp((config.latent_dim, *config.decoder_widths, reference.numel()))
        _start_small(self.layers)
        self.register_buffer("reference", reference)

    def forward(self, latent: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch atom 3"]:
        """Positions in Å."""
        return self.reference + self.layers(latent).unflatten(-1, (-1, 3))


class NormalModeDecoder(nn.Module):
    """Latent to structure by normal modes (the NMA baseline): the reference plus a combination of them, then turned and moved.

    The network gives, for each latent, a coefficient per mode (1 moves the nodes by 1 Å rms), a rotation vector (its length
    is the angle in radians) about the centre of the reference, and a translation in Å; the last two correct the pose, which
    modes change a little. The last layer starts small, so that training starts at the reference.
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
        self.layers = mlp((config.latent_dim, *config.decoder_widths, len(modes) + 6))
        _start_small(self.layers)
        self.register_buffer("reference", reference)
        self.register_buffer("modes", modes * math.sqrt(len(reference)))

    def forward(self, latent: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch atom 3"]:
        """Positions in Å."""
        coefficients, turn, move = self.layers(latent).split([len(self.modes), 3, 3], dim=-1)
        deformed = self.reference + torch.tensordot(coefficients, self.modes, dims=1)
        centre = self.reference.mean(0)
        return (deformed - centre) @ rotations_from_vectors(turn).mT + centre + move.unsqueeze(-2)


def _start_small(layers: nn.Sequential) -> None:
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()


class DeformationVAE(nn.Module):
    """Encoder and decoder with the reparametrised sample between them (Kingma & Welling 2013). With `modes`, the decoder is theirs."""

    decoder: CartesianDecoder | NormalModeDecoder

    def __init__(
        self,
        input_size: int,
        reference: Float[Tensor, "atom 3"],
        config: ModelConfig,
        *,
        modes: Float[Tensor, "mode atom 3"] | None = None,
        standardised: bool = False,
    ) -> None:
        super().__init__()
        self.latent_dim = config.latent_dim
        self.encoder = Encoder(input_size, config, standardised=standardised)
        self.decoder = (
            CartesianDecoder(reference, config)
            if modes is None
            else NormalModeDecoder(reference, modes, config)
        )

    def forward(
        self, inputs: Float[Tensor, "batch number"], noise: Float[Tensor, "batch latent"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (batch, atom, 3) decoded from `mean + noise * sd`, the mean, and the log-variance."""
        mean, log_variance = self.encoder(inputs)
        precision = self.decoder.reference.dtype
        mean, log_variance = mean.to(precision), log_variance.to(precision)
        latent = mean + noise * torch.exp(0.5 * log_variance)
        with torch.autocast(
            inputs.device.type, enabled=False
        ):  # at 100 Å, half precision moves an atom in steps of 0.06 Å
            return self.decoder(latent), mean, log_variance


def parameter_count(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(
        math.prod(parameter.shape) for parameter in module.parameters() if parameter.requires_grad
    )
