"""How honest error bars are: how often intervals hold the truth, and what no posterior can see.

The posterior of a particle knows the noise of its image. It does not know that the decoder's
structures may all be a little wrong, because the reference, the images' model or the particles of
the training led them astray. Two runs that differ in one of these answer differently to the same
image; half of the mean square of the difference is the variance of such errors.
"""

import math
from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryostar_nb.geometry import rmsd
from cryostar_nb.mixture import quantiles
from cryostar_nb.posterior import Posterior, mean_and_sd

LEVELS = (0.5, 0.9, 0.95)
AT_ONCE = 32  # particles
LEAST_PART = 1e-4  # of the variance, that draws need for their intervals to be scaled
LEAST_MOTION = 1.0  # Å between the ends of the truth, of nodes whose coverage counts
MOST_OPEN = 5  # states at the open end
SILENT = 0.1  # nats; a particle with less information says nothing


def errors_between(
    first: Float[Tensor, "particle atom 3"], other: Float[Tensor, "particle atom 3"]
) -> Float[Tensor, "particle atom 3"]:
    """Samples of the error of one run, in Å, from mean structures of the same particles by two.

    Their errors are taken to be alike and independent, so the difference is sqrt(2) times one.
    """
    return (first - other) / math.sqrt(2)


def node_sd(errors: Float[Tensor, "particle atom 3"]) -> Float[Tensor, " atom"]:
    """The sd of each node that goes with these errors, in three dimensions, in Å."""
    return errors.square().sum(-1).mean(0).sqrt()


def coverage(
    values: Float[Tensor, "*batch draw"],
    weights: Float[Tensor, "*#batch draw"],
    truth: Float[Tensor, "*batch"],
    errors: Float[Tensor, "*#batch sample"] | None = None,
) -> Float[Tensor, "*batch level"]:
    """Whether the central 50, 90 and 95 % intervals of weighted draws hold the truth: 1 or 0.

    With `errors`, samples of an error that the draws lack, intervals are widened as if it were
    Gaussian: from the mean, by the ratio of the sd with it to the sd without.
    """
    levels = torch.tensor(LEVELS)
    ends = quantiles(values, weights, torch.cat([0.5 - levels / 2, 0.5 + levels / 2]))
    if errors is not None:
        mean = (weights * values).sum(-1, keepdim=True)
        variance = (weights * (values - mean).square()).sum(-1, keepdim=True)
        wider = variance + errors.square().mean(-1, keepdim=True)
        normal = torch.distributions.Normal(0.0, 1.0).icdf(0.5 + levels / 2)
        sd = torch.cat([-normal, normal]) * wider.sqrt()
        scaled = (ends - mean) * (wider / variance.clamp(min=1e-12)).sqrt()
        ends = mean + torch.where(variance > LEAST_PART * wider, scaled, sd)
    low, high = ends.chunk(2, dim=-1)
    inside = (truth[..., None] >= low) & (truth[..., None] <= high)
    return inside.to(values)


@torch.no_grad()
def posterior_scores(
    decoder: nn.Module,
    posterior: Posterior,
    true: Float[Tensor, "state atom 3"],
    states: Tensor,
    errors: Float[Tensor, "sample atom 3"] | None = None,
) -> dict[str, Any]:
    """The posterior beside the truth: errors of its mean in Å, and how often intervals hold it.

    `along` is the coordinate on the line from the first true state to the last, `residues` are
    coordinates of the nodes that move by more than 1 Å between them; each has the coverage of
    50, 90 and 95 % intervals. With `errors` that particles share (`errors_between`) there is the
    coverage with these in quadrature, too, and their sd.
    """
    move = true[-1] - true[0]
    moving = move.norm(dim=-1) > LEAST_MOTION
    line = move / move.norm() / math.sqrt(len(move))
    found: dict[str, list[Tensor]] = defaultdict(list)
    kinds = {"": None} if errors is None else {"": None, "_with_shared": errors}
    for rows in torch.arange(len(states)).split(AT_ONCE):
        drawn, weights, here = (
            decoder(posterior.latents[rows]),
            posterior.weights[rows],
            true[states[rows]],
        )
        mean, sd = mean_and_sd(drawn, weights)
        found["rmsd"].append(rmsd(mean, here))
        found["variance"].append(sd.square().mean(-1))
        found["off"].append(((mean - here) * line).sum((-1, -2)))
        on_line, truth = (((x - true[0]) * line).sum((-1, -2)) for x in (drawn, here))
        nodes = drawn[:, :, moving].permute(0, 2, 3, 1)
        for name, shared in kinds.items():
            beside = None if shared is None else (shared * line).sum((-1, -2))
            found["coverage_along" + name].append(coverage(on_line, weights, truth, beside))
            beside = None if shared is None else shared[:, moving].permute(1, 2, 0)
            held = coverage(nodes, weights[:, None, None], here[:, moving], beside)
            found["coverage_residues" + name].append(held.mean((1, 2)))
    values = {name: torch.cat(parts).double() for name, parts in found.items()}
    last = states >= len(true) - MOST_OPEN
    scores = {
        "rmsd_mean": float(values["rmsd"].mean()),
        "rmsd_most_open": float(values["rmsd"][last].mean()) if last.any() else math.nan,
        "sd": float(values["variance"].mean().sqrt()),
        "error_along": float(values["off"].square().mean().sqrt()),
        "levels": list(LEVELS),
        "effective": float(posterior.effective.median()),
        "information": float(posterior.information.mean()),
        "silent": float((posterior.information < SILENT).double().mean()),
    }
    if errors is not None:
        scores["shared_sd"] = float(node_sd(errors).square().mean().sqrt())
    return scores | {k: v.mean(0).tolist() for k, v in values.items() if k.startswith("coverage")}
