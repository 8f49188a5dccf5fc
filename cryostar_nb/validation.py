"""What a network says of particles that it was not trained on.

An encoder can learn its images by heart: then the structures that it gives to the particles of the
training explain them well, and those of other particles do not. The *gain* of a particle is how
much more its image loss is with one structure for all, that of the mean latent, than with its own:
a network that generalises gains nearly as much on particles held out as on those it was trained on.
As a control the latents are permuted between the particles.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cryostar_nb.density import Density
from cryostar_nb.fourier import Band
from cryostar_nb.losses import correlation_loss
from cryostar_nb.models import DeformationVAE
from cryostar_nb.training import TrainingData

AT_ONCE = 64  # particles
CLEAR = 3.0  # standard errors
LEAST_RATIO = 0.5  # of the gains, of a network that generalises
LEAST_PARTICLES = 20  # held out, for a verdict
LEAST_SPREAD = 0.1  # Å rms; structures nearer to their mean are one structure


@dataclass(frozen=True)
class Estimate:
    """A mean over particles, and its standard error."""

    mean: float
    error: float

    @property
    def clear(self) -> bool:
        """Whether it is above zero by three standard errors."""
        return self.mean > CLEAR * self.error

    @property
    def z(self) -> float:
        """Standard errors above zero."""
        return self.mean / self.error if self.error > 0 else math.nan


def mean_of(values: Float[Tensor, " particle"]) -> Estimate:
    """The mean of these values with its standard error."""
    values = values.double()
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(len(values))))


@dataclass(frozen=True)
class Generalisation:
    """How structures explain particles that were held out, beside those that were trained on."""

    particles: int
    """Particles held out that were looked at."""
    loss: float
    """Mean image loss of the particles held out, each with its own structure."""
    trained_loss: float
    """The same of as many particles of the training."""
    gain: Estimate
    """Image loss of the particles held out with the structure of the mean latent, less the loss
    with their own."""
    trained_gain: Estimate
    """The same of the particles of the training."""
    gain_over_others: Estimate
    """Image loss of the particles held out with the structure of another of them, less the loss
    with their own."""
    spread: float
    """How far their structures lie from their mean, rms over particles and nodes, in Å."""

    @property
    def ratio(self) -> Estimate:
        """The gain of the particles held out, in gains of those trained on."""
        held, trained = self.gain, self.trained_gain
        if trained.mean == 0:
            return Estimate(math.nan, math.nan)
        ratio = held.mean / trained.mean
        return Estimate(ratio, math.hypot(held.error, ratio * trained.error) / abs(trained.mean))

    @property
    def verdict(self) -> str:
        """`generalises`, `learns by heart`, or `undecided`: of few particles or one structure.

        By heart: the gain is clearly less than half of that of the particles of the training.
        """
        held, trained = self.gain, self.trained_gain
        short = LEAST_RATIO * trained.mean - held.mean
        error = math.hypot(held.error, LEAST_RATIO * trained.error)
        if self.particles < LEAST_PARTICLES or self.collapsed:
            return "undecided"
        if short > CLEAR * error:
            return "learns by heart"
        return "generalises" if held.clear else "undecided"

    @property
    def collapsed(self) -> bool:
        """Whether all latents are decoded to nearly one structure."""
        return self.spread < LEAST_SPREAD

    @property
    def moves(self) -> bool:
        """Whether there is motion beyond noise: the particles held out are explained better by
        their own structure than by the mean one, and than by that of another particle.
        """
        enough = self.particles >= LEAST_PARTICLES and not self.collapsed
        return enough and self.gain.clear and self.gain_over_others.clear

    def words(self) -> list[str]:
        """What it means, in two sentences."""
        count, spread = f"{self.particles:,} particles held out", f"{self.spread:.2f} Å rms"
        gain = f"the gain of the {count} is {self.ratio.mean:.2f} ± {self.ratio.error:.2f} of that"
        gain += " of particles trained on"
        if self.verdict == "undecided":
            gain = f"the {count} gain too little by their own structures to tell"
        if self.particles < LEAST_PARTICLES:
            return [f"undecided: {count} are too few to tell", f"structures differ by {spread}"]
        beside = f"(z = {self.gain.z:.1f} over the mean structure, {self.gain_over_others.z:.1f}"
        beside += " over those of other particles)"
        motion = f"structures differ by {spread}"
        if self.collapsed:
            motion = f"collapsed: all latents are decoded to nearly one structure ({spread})"
        elif self.moves:
            motion = f"motion: {motion}, and explain the particles held out {beside}"
        else:
            motion = f"no motion found above noise: {motion}, but explain the particles held out"
            motion += f" too little {beside}"
        return [f"{self.verdict}: {gain}", motion]

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        verdict: dict[str, Any] = {"verdict": self.verdict, "ratio": asdict(self.ratio)}
        verdict |= {"collapsed": self.collapsed, "moves": self.moves, "words": self.words()}
        return verdict | asdict(self)


@torch.no_grad()
def latents_of(
    network: DeformationVAE, data: TrainingData, rows: Int[Tensor, " row"]
) -> Float[Tensor, "row latent"]:
    """Latent means of these particles, whose looks are made, on the device of the poses."""
    assert data.looks is not None
    means = []
    for part in rows.split(AT_ONCE):
        looks = data.looks[part.to(data.looks.device)].to(data.rotations.device)
        means.append(network.encoder(looks.float())[0])
    return torch.cat(means)


@torch.no_grad()
def image_losses(
    network: DeformationVAE,
    density: Density,
    band: Band,
    data: TrainingData,
    rows: Int[Tensor, " row"],
    latents: Float[Tensor, "row latent"],
) -> Float[Tensor, " row"]:
    """The image loss of each of these particles, without blur, with the structure of a latent."""
    losses = []
    for part, latent in zip(rows.split(AT_ONCE), latents.split(AT_ONCE), strict=True):
        here = part.to(data.rotations.device)
        positions, turns = network.decoder.deform(latent)
        predictions = density.images(
            positions,
            band,
            turns=turns,
            rotations=data.rotations[here],
            shifts=None if data.shifts is None else data.shifts[here],
            ctf=None if data.ctf is None else data.ctf[here],
        )
        images = data.vectors[part.to(data.vectors.device)].to(predictions)
        losses.append(torch.vmap(correlation_loss)(images, network.scaled(predictions)))
    return torch.cat(losses)


@torch.no_grad()
def spread_of(decoder: nn.Module, latents: Float[Tensor, "particle latent"]) -> float:
    """Rms distance of the structures of these latents from their mean, in Å, unaligned."""
    parts = latents.split(AT_ONCE)
    mean = torch.stack([decoder(part).double().sum(0) for part in parts]).sum(0) / len(latents)
    squares = [(decoder(part) - mean).square().sum(-1).mean(-1) for part in parts]
    return float(torch.cat(squares).mean().sqrt())


def others_of(count: int) -> Int[Tensor, " particle"]:
    """For each of `count` particles another one, at random, the same every time."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    others = torch.empty_like(order)
    others[order] = order.roll(1)
    return others


def generalisation(
    network: DeformationVAE,
    density: Density,
    band: Band,
    data: TrainingData,
    *,
    held_out: Int[Tensor, " row"],
    trained: Int[Tensor, " row"],
) -> Generalisation:
    """Compare particles that were held out with particles that were trained on."""
    latents, trained_latents = (latents_of(network, data, rows) for rows in (held_out, trained))
    mean = trained_latents.mean(0)

    def losses(rows: Tensor, latents: Tensor) -> Tensor:
        return image_losses(network, density, band, data, rows, latents)

    own, own_trained = losses(held_out, latents), losses(trained, trained_latents)
    others = latents[others_of(len(latents)).to(latents.device)]
    return Generalisation(
        particles=len(held_out),
        loss=float(own.mean()),
        trained_loss=float(own_trained.mean()),
        gain=mean_of(losses(held_out, mean.expand_as(latents)) - own),
        trained_gain=mean_of(losses(trained, mean.expand_as(trained_latents)) - own_trained),
        gain_over_others=mean_of(losses(held_out, others) - own),
        spread=spread_of(network.decoder, latents),
    )
