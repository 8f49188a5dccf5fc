"""Mixtures of Gaussians: the prior of a latent, and what an image makes of it.

All tensors are float64. A mixture may have batch dimensions: one mixture for each particle.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.cluster.vq import kmeans2
from torch import Tensor

NARROWEST = 0.03  # sd that a component keeps in every direction
LEAST_WEIGHT = 1e-4  # of a component that stays


@dataclass(frozen=True)
class Mixture:
    """A sum of Gaussians, whose weights have the sum 1."""

    weights: Float[Tensor, "*batch component"]
    means: Float[Tensor, "*batch component number"]
    factors: Float[Tensor, "*batch component number number"]  # L, of the precision L L^T

    @classmethod
    def fit(
        cls,
        points: Float[Tensor, "point number"],
        weights: Float[Tensor, " point"],
        start: "Mixture | int",
        *,
        steps: int = 30,
        seed: int = 0,
    ) -> "Mixture":
        """The mixture of the largest likelihood of weighted points, by expectation-maximisation.

        `start` is another mixture, or a number of components: then k-means starts it. No component
        is narrower than 0.03 in any direction; one without points is left out.
        """
        if isinstance(start, int):
            count = min(start, len(points))
            closest = kmeans2(points.numpy(), count, minit="++", seed=seed)[1]
            share = torch.nn.functional.one_hot(torch.from_numpy(closest).long(), count).double()
            steps -= 1
            start = _maximise(points, share * (weights / weights.sum())[:, None])
        mixture = start
        for _ in range(steps):
            share = torch.softmax(mixture._log_terms(points), -1)
            mixture = _maximise(points, share * (weights / weights.sum())[:, None])
        return mixture

    def log_density(
        self, points: Float[Tensor, "*#batch point number"]
    ) -> Float[Tensor, "*batch point"]:
        """Logarithm of the density at some points of each mixture."""
        return torch.logsumexp(self._log_terms(points), -1)

    def _log_terms(self, points: Tensor) -> Float[Tensor, "*batch point component"]:
        """Logarithm of each component's weight times its density."""
        apart = points.unsqueeze(-2) - self.means.unsqueeze(-3)
        scaled = (self.factors.mT.unsqueeze(-4) @ apart.unsqueeze(-1)).squeeze(-1)
        log_norm = _half_log_det(self.factors) - 0.5 * math.log(2 * math.pi) * points.shape[-1]
        return (self.weights.log() + log_norm).unsqueeze(-2) - 0.5 * scaled.square().sum(-1)

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "*batch count number"]:
        """Random points of each mixture."""
        batch, size = self.weights.shape[:-1], self.means.shape[-1]
        flat = self.weights.reshape(-1, self.weights.shape[-1])
        chosen = torch.multinomial(flat, count, replacement=True, generator=generator)
        noise = torch.randn(len(flat), count, size, 1, generator=generator, dtype=flat.dtype)
        rows = torch.arange(len(flat))[:, None]
        means = self.means.reshape(*flat.shape, size)[rows, chosen]
        factors = self.factors.reshape(*flat.shape, size, size)[rows, chosen]
        apart = torch.linalg.solve_triangular(factors.mT, noise, upper=True).squeeze(-1)
        return (means + apart).reshape(*batch, count, size)

    def times_gaussian(
        self,
        slope: Float[Tensor, "batch number"],
        curvature: Float[Tensor, "batch number number"],
    ) -> "Mixture":
        """A mixture times exp(slope . x - x . curvature x / 2), for each of a batch: mixtures."""
        precision = self.factors @ self.factors.mT
        pull = (precision @ self.means.unsqueeze(-1)).squeeze(-1)
        inside = (pull * self.means).sum(-1)
        factors = torch.linalg.cholesky(precision + curvature.unsqueeze(-3))
        pull = pull + slope.unsqueeze(-2)
        means = torch.cholesky_solve(pull.unsqueeze(-1), factors).squeeze(-1)
        gained = (means * pull).sum(-1) - inside
        spread = _half_log_det(self.factors) - _half_log_det(factors)
        weights = torch.softmax(self.weights.log() + spread + gained / 2, -1)
        return Mixture(weights, means, factors)

    def part(self, rows: Int[Tensor, " row"]) -> "Mixture":
        """Some mixtures of a batch."""
        return Mixture(self.weights[rows], self.means[rows], self.factors[rows])

    def beside(self, other: "Mixture") -> "Mixture":
        """The components of two mixtures, each of which has half of the weight."""
        return Mixture(
            torch.cat([self.weights, other.weights], -1) / 2,
            torch.cat([self.means, other.means], -2),
            torch.cat([self.factors, other.factors], -3),
        )

    def widened(self, times: float) -> "Mixture":
        """The same mixture, each component so many times as wide."""
        return Mixture(self.weights, self.means, self.factors / times)

    def along(self, slope: Float[Tensor, " number"], offset: float = 0.0) -> "Mixture":
        """The mixture, in one dimension, of offset + slope . x; not of a batch."""
        sds = torch.linalg.solve_triangular(self.factors, slope[:, None], upper=False).norm(dim=-2)
        means = offset + self.means @ slope
        return Mixture(self.weights, means[:, None], sds.reciprocal()[..., None])

    def mode(self) -> Float[Tensor, "*batch number"]:
        """The mean of the component that weighs most."""
        first = self.weights.argmax(-1)[..., None, None]
        return self.means.gather(-2, first.expand(*first.shape[:-1], self.means.shape[-1]))[
            ..., 0, :
        ]


def _half_log_det(factors: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """Half of the logarithm of the determinant of L L^T."""
    return factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _maximise(
    points: Float[Tensor, "point number"], shares: Float[Tensor, "point component"]
) -> Mixture:
    """The mixture whose components have these shares of the points (the M step)."""
    shares = shares[:, shares.sum(0) > LEAST_WEIGHT]
    weights = shares.sum(0)
    means = shares.mT @ points / weights[:, None]
    apart = points[:, None] - means
    covariance = torch.einsum("pc,pci,pcj->cij", shares, apart, apart) / weights[:, None, None]
    narrowest = NARROWEST**2 * torch.eye(points.shape[1], dtype=points.dtype)
    factors = torch.linalg.cholesky(torch.linalg.inv(covariance + narrowest))
    return Mixture(weights / weights.sum(), means, factors)


def effective_number(weights: Float[Tensor, "*batch draw"]) -> Float[Tensor, "*batch"]:
    """How many equal draws are worth weighted ones: 1 / sum of their squares (Kish 1965)."""
    return weights.square().sum(-1).reciprocal()


def weighted_quantiles(
    values: Float[Tensor, "*draw"],
    weights: Float[Tensor, "*draw"],
    parts: Float[Tensor, " part"],
) -> Float[Tensor, " part"]:
    """Of all values together the ones below which these parts of the weight lie."""
    order = values.flatten().argsort()
    total = weights.flatten()[order].double().cumsum(0)
    places = torch.searchsorted(total, total[-1] * parts).clamp(max=len(order) - 1)
    return values.flatten()[order[places]]


def quantiles(
    values: Float[Tensor, "*batch draw"],
    weights: Float[Tensor, "*#batch draw"],
    points: Float[Tensor, " point"],
) -> Float[Tensor, "*batch point"]:
    """Quantiles of weighted draws, such that a new draw lies below the q-th with probability q.

    Equal draws, sorted, stand at k / (n + 1); weighted ones at the middles of their weights,
    drawn together likewise with the effective number for n. Between them goes a straight line, and
    a little beyond the outermost.
    """
    order: Int[Tensor, "*batch draw"] = values.argsort(-1)
    sorted_values = values.gather(-1, order)
    sorted_weights = weights.expand_as(values).gather(-1, order)
    number = effective_number(sorted_weights)[..., None]
    middles = sorted_weights.cumsum(-1) - sorted_weights / 2
    places = (number * middles + 0.5) / (number + 1)
    wanted = points.to(places).expand(*values.shape[:-1], -1).contiguous()
    above = torch.searchsorted(places.contiguous(), wanted).clamp(1, values.shape[-1] - 1)
    low, high = (places.gather(-1, place) for place in (above - 1, above))
    part = ((wanted - low) / (high - low).clamp(min=1e-12)).clamp(-1, 2).to(values)
    low, high = (sorted_values.gather(-1, place) for place in (above - 1, above))
    return torch.lerp(low, high, part)
