"""The losses of sections 2.3 and 2.4, one small function each.

The structural losses take *distances*, in Å, of a batch of predicted structures, (batch, pair), beside those of the
reference, (pair,). `geometry.pair_distances` makes them. NumPy arrays and lists are welcome too. Training takes the same
losses from `pairs`, which sums over the pairs without storing their distances (`restraints.Restraints`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

Numbers = np.ndarray | Sequence[Any]


def correlation_loss(
    images: Float[Tensor, "*batch band"] | Numbers, predictions: Float[Tensor, "*batch band"] | Numbers
) -> Float[Tensor, ""]:
    """L_image, eq. 9: minus the normalised cross correlation of each image with its prediction, mean over the batch."""
    images, predictions = torch.as_tensor(images), torch.as_tensor(predictions)
    return -torch.nn.functional.cosine_similarity(images, predictions, dim=-1).mean()


def continuity_loss(
    distances: Float[Tensor, "*batch bond"] | Numbers, reference_distances: Float[Tensor, " bond"] | Numbers
) -> Float[Tensor, ""]:
    """L_cont, eq. 2: mean squared change of the distance between bonded nodes, in Å^2."""
    return (torch.as_tensor(distances) - torch.as_tensor(reference_distances)).square().mean()


def clash_loss(distances: Float[Tensor, "*batch pair"] | Numbers, threshold: float = 4.0) -> Float[Tensor, ""]:
    """L_clash, eq. 3 and 4: mean over the clashing pairs of the squared depth below `threshold`, in Å^2.

    The mean is over the pairs of each structure that clash, then over the batch; a structure without a clash adds 0.
    Pass non-adjacent pairs only: bonded nodes stand 3.8 Å apart and would count.
    """
    depth = (threshold - torch.as_tensor(distances)).clamp(min=0)
    clashes = (depth.detach() > 0).sum(-1).clamp(min=1)
    return (depth.square().sum(-1) / clashes).mean()


def relaxed_edges(distances: Float[Tensor, "batch edge"] | Numbers, percentile: float) -> Bool[Tensor, " edge"]:
    """P'_EN of eq. 7: True for the edges to keep, those whose distance varies least over the batch."""
    return stable_edges(torch.as_tensor(distances).detach().var(dim=0, correction=0), percentile)


def stable_edges(variance: Float[Tensor, " edge"], percentile: float) -> Bool[Tensor, " edge"]:
    """P'_EN of eq. 7, from the variance of each edge's distance over the batch, in Å^2.

    An edge stays when its variance is below the `percentile`-th percentile of all variances; 100 keeps every edge. Where all
    edges vary alike (a batch of one, the first step) there is nothing to choose, and all stay.
    """
    if percentile >= 100 or len(variance) == 0:
        return torch.ones_like(variance, dtype=torch.bool)
    rank = percentile / 100 * (len(variance) - 1)
    # Two order statistics by selection, and the line between them, as NumPy's percentile has it: no sorting.
    below, above = (torch.kthvalue(variance, 1 + int(place)).values for place in (rank, min(rank + 1, len(variance) - 1)))
    keep = variance < torch.lerp(below, above, rank - int(rank))
    return keep | ~keep.any()


def elastic_network_loss(
    distances: Float[Tensor, "batch edge"] | Numbers,
    reference_distances: Float[Tensor, " edge"] | Numbers,
    keep: Bool[Tensor, " edge"] | Numbers | None = None,
) -> Float[Tensor, ""]:
    """L_EN, eq. 6: mean squared change of the edge lengths, in Å^2, over the edges to `keep` (all by default)."""
    change = (torch.as_tensor(distances) - torch.as_tensor(reference_distances)).square()
    if keep is None:
        return change.mean()
    weights = torch.as_tensor(keep).to(change)
    return (change.mean(0) * weights).sum() / weights.sum().clamp(min=1)


def kl_divergence(
    mean: Float[Tensor, "*batch latent"] | Numbers, log_variance: Float[Tensor, "*batch latent"] | Numbers
) -> Float[Tensor, ""]:
    """L_KL of eq. 8: divergence of N(mean, variance) from N(0, 1), summed over the latent, mean over the batch, in nats."""
    mean, log_variance = torch.as_tensor(mean), torch.as_tensor(log_variance)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()
