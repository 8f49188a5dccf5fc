"""What an image depends on beside its structure, and is integrated out: contrast and pose.

Both enter linearly, with Gaussian priors (`posterior`): the likelihood of an image given a
prediction is again a Gaussian, in closed form. Images and predictions are whitened.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Nuisance(NamedTuple):
    """How some images change with their poses, and the priors of contrast and pose."""

    slopes: Float[Tensor, "batch pose band"]  # of the image; no poses where they are given
    gram: Float[Tensor, "batch pose pose"]
    seen: Float[Tensor, "batch pose"]  # products with the image
    precision: Float[Tensor, " nuisance"]  # of the priors, contrast first
    at: Float[Tensor, "batch nuisance"]  # where the expansion stands, from the priors' means

    @classmethod
    def of(
        cls,
        images: Float[Tensor, "batch band"],
        slopes: Float[Tensor, "batch pose band"],
        precision: Float[Tensor, " nuisance"],
        at: Float[Tensor, "batch nuisance"],
    ) -> "Nuisance":
        """That of these images, with the products that every prediction needs."""
        gram = (slopes @ slopes.mT).double()
        seen = (slopes @ images[..., None]).squeeze(-1).double()
        return cls(slopes, gram, seen, precision, at)

    def system(
        self, images: Float[Tensor, "batch band"], made: Float[Tensor, "batch band"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The normal equations of contrast and pose: matrix, right side, and the fit without."""
        square = made.square().sum(-1, keepdim=True).double()
        cross = (images * made).sum(-1, keepdim=True).double()
        beside = (self.slopes @ made[..., None]).squeeze(-1).double()
        top = torch.cat([square, beside], dim=-1)[:, None]
        below = torch.cat([beside[..., None], self.gram], dim=-1)
        matrix = torch.cat([top, below], dim=1) + torch.diag(self.precision)
        right = torch.cat([cross - square, self.seen - beside], dim=-1)
        right = right - self.precision * self.at
        return matrix, right, (cross - 0.5 * square).squeeze(-1)

    def fit(
        self, images: Float[Tensor, "batch band"], made: Float[Tensor, "batch band"]
    ) -> Float[Tensor, " batch"]:
        """Log likelihood with contrast and pose integrated out, but for a constant."""
        matrix, right, fit = self.system(images, made)
        factor = torch.linalg.cholesky(matrix)
        found = torch.linalg.solve_triangular(factor, right[..., None], upper=False)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return fit + 0.5 * found.square().sum((-1, -2)) - log_det
