"""How likely an image is, given its prediction: with any contrast, and the data's own amplitudes.

An image is a multiple of its prediction, its contrast, plus white noise of unit variance. With the
contrast of each image at its best, the logarithm of the likelihood is (I . P)^2 / 2 |P|^2 and a
constant. An empty image, whose product with any prediction is small, has hardly a voice in it.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from cryostar_nb.fourier import Band

MEMORY = 0.02  # part of the averages that a step brings
LEAST_SCALE, LARGEST_SCALE = 0.02, 10.0


def contrasts(
    images: Float[Tensor, "batch band"], predictions: Float[Tensor, "batch band"]
) -> Float[Tensor, " batch"]:
    """The multiple of its prediction, not negative, that is nearest to each image."""
    power = predictions.square().sum(-1).clamp(min=1e-12)
    return (images * predictions).sum(-1).clamp(min=0) / power


def likelihood_loss(
    images: Float[Tensor, "batch band"],
    predictions: Float[Tensor, "batch band"],
    sum_over_processes: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Float[Tensor, ""]:
    """Minus the logarithm of the likelihood, contrast profiled out, in the units of eq. 9.

    Over the batch it is divided by the mean of |I| (I . P) / |P|. So its gradient is, for images
    that are all as good, that of the correlation loss (eq. 9), and a worse image has less of it.
    `sum_over_processes` adds up a tensor over the processes that share the batch.
    """
    signal = (images * normalize(predictions, dim=-1)).sum(-1).clamp(min=0)
    length = images.norm(dim=-1)
    units = length * signal.detach().clamp(min=0.01 * length)
    total, count = sum_over_processes(torch.stack([units.sum(), torch.ones_like(units).sum()]))
    return -0.5 * signal.square().mean() / (total / count)


def shell_members(band: Band) -> Float[Tensor, "band shell"]:
    """1 where an element of a band vector is in a shell: its frequency index, rounded; else 0."""
    radius = band.per_coefficient(band.indices.double().norm(dim=-1).round())
    return nn.functional.one_hot(radius.long()).float()


class RadialScale(nn.Module):
    """How much of the model's amplitude the images have, at each spatial frequency.

    Solvent takes coarse detail away, and B-factors, detectors and errors of the poses fine detail.
    The scale of a shell is the regression of images on predictions, averaged over some fifty
    steps; it is 1 before the first.
    """

    shell: Tensor
    cross: Tensor
    power: Tensor
    members: Tensor

    def __init__(self, band: Band) -> None:
        super().__init__()
        members = shell_members(band)
        self.register_buffer("shell", members.argmax(-1), persistent=False)
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("cross", torch.zeros(members.shape[1]))
        self.register_buffer("power", torch.zeros(members.shape[1]))

    @torch.no_grad()
    def update(
        self,
        images: Float[Tensor, "batch band"],
        predictions: Float[Tensor, "batch band"],
        sum_over_processes: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> None:
        """Take in these images and their predictions, each at its best contrast."""
        scaled = predictions * contrasts(images, predictions)[:, None]
        sums = torch.stack([(images * scaled).sum(0), scaled.square().sum(0)]) @ self.members
        cross, power = sum_over_processes(sums)
        self.cross.lerp_(cross, MEMORY)
        self.power.lerp_(power, MEMORY)

    def scale(self) -> Float[Tensor, " shell"]:
        """The factor of each shell, that of frequency index 0 first."""
        known = self.power > 0
        scale = self.cross / torch.where(known, self.power, 1)
        return torch.where(known, scale.clamp(LEAST_SCALE, LARGEST_SCALE), 1)

    def forward(self, predictions: Float[Tensor, "*batch band"]) -> Float[Tensor, "*batch band"]:
        """The predictions with the amplitude that the images have."""
        return predictions * self.scale().index_select(0, self.shell).to(predictions)
