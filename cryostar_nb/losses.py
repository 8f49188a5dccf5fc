"""The losses of sections 2.3 and 2.4, one small function each.

The structural losses take *distances*, in Å, of a batch of predicted structures, (batch, pair), beside those of the
reference, (pair,). `geometry.pair_distances` makes them. NumPy arrays and lists are welcome too.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
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
    """P'_EN of eq. 7: True for the edges to keep, those whose distance varies least over the batch.

    An edge stays when the variance of its distance is below the `percentile`-th percentile of all variances; 100 keeps
    every edge. Where all edges vary alike (a batch of one, the first step) there is nothing to choose, and all stay.
    """
    distances = torch.as_tensor(distances).detach()
    if percentile >= 100:
        return torch.ones(distances.shape[-1], dtype=torch.bool, device=distances.device)
    variance = distances.var(dim=0, correction=0)
    keep = variance < torch.quantile(variance, percentile / 100)
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


def close_pairs(positions: Float[Tensor, "*batch atom 3"], bonds: Int[np.ndarray, "bond 2"], cutoff: float) -> Int[Tensor, "pair 2"]:
    """Non-bonded pairs of nodes, of any chains, nearer than `cutoff` Å in at least one structure of the batch; i < j.

    These are the candidates of the clash loss. A tree per structure finds them in O(N log N). Call it again as the
    structures move: a candidate list with a margin over the clash threshold stays complete while no pair comes nearer by
    more than that margin.
    """
    structures = positions.detach().reshape(-1, *positions.shape[-2:]).cpu().numpy()
    count = structures.shape[-2]
    found = [cKDTree(structure).query_pairs(cutoff, output_type="ndarray") for structure in structures]
    pairs = np.sort(np.concatenate(found), axis=-1)
    keys = np.setdiff1d(pairs[:, 0] * count + pairs[:, 1], bonds[:, 0] * count + bonds[:, 1])
    return torch.from_numpy(np.stack([keys // count, keys % count], axis=-1)).to(positions.device)
