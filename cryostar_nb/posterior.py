"""A posterior for every particle: which structures of the decoder its image allows.

The encoder answers with one latent; what the image says is the likelihood of all of them. The
prior is where the particles of the training lie, a mixture of Gaussians, in the directions of the
latent space in which structures move. An image I is

    I = c P(z) + sum_j d_j dP/dd_j + noise,

with the prediction P(z) of a structure, a contrast c, and errors d of the pose, five numbers where
the run corrects poses. Contrast and pose have Gaussian priors, learned from the particles, and
enter linearly: their integral is exact. What is left is the posterior of z. It is drawn by
importance sampling: from the encoder's latent two Gauss-Newton steps lead to the best one; there
the likelihood is nearly Gaussian, and the prior times that Gaussian is a mixture again, of which
most draws come. The others come from the prior, for what lies elsewhere. Each draw is weighed by
its true posterior over the density it was drawn with. Where a few draws have nearly all the weight,
the encoder was far off: a second look starts from the best of them, and weighs the draws of both by
the mean of their densities (the balance heuristic of Veach and Guibas 1995).
"""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from tqdm.auto import tqdm

from cryostar_nb.density import Density
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import rmsd
from cryostar_nb.latents import Directions, evenly_spaced
from cryostar_nb.likelihood import shell_members
from cryostar_nb.mixture import Mixture, effective_number
from cryostar_nb.models import CartesianDecoder, DeformationVAE, NormalModeDecoder
from cryostar_nb.nuisance import Nuisance
from cryostar_nb.poses import NARROWEST, Corrections, corrected, pose_slopes, transfer_of
from cryostar_nb.training import TrainingData

AT_ONCE = 64  # particles
COMPONENTS = 16  # of the prior, at most
LATENTS = 20_000  # that the first prior is fitted to
SAMPLES = (192, 384, 768, 1536)  # particles that correct the prior, round by round
DIFFERENCE = 0.05  # sd of the prior, of the finite differences
ITERATIONS, LONGEST = 2, 1.5  # Gauss-Newton steps, and their greatest length in sd of the prior
FROM_PRIOR = 0.25  # of the draws
FEW = 5.0  # draws; where all of a particle are worth fewer, there is a second look
WIDER = 1.2  # than the approximation, are the components that the others come from
NEAR = 1.0  # Å rms, from the encoder's structure
LEAST_CONTRAST_SD = 0.02  # of contrasts, whose mean is 1
LIKELY = 4  # structures of each particle that amplitudes are found with


class Posterior(NamedTuple):
    """What the images of some particles say of their latents."""

    latents: Float[Tensor, "particle draw latent"]
    weights: Float[Tensor, "particle draw"]  # of the draws; their sum is 1
    information: Float[Tensor, " particle"]  # nats, by which the posterior differs from the prior
    effective: Float[Tensor, " particle"]  # number of equal draws that these are worth
    near_encoder: Float[Tensor, " particle"]  # probability to be within 1 Å of its structure
    spread: Float[Tensor, " particle"]  # Å, sd of the structure, rms over its nodes

    def part(self, rows: Shaped[Tensor, " row"] | slice) -> "Posterior":
        """That of these particles."""
        return Posterior(*(values[rows] for values in self))

    def resampled(self, count: int, seed: int = 0) -> Float[Tensor, "particle count latent"]:
        """Latents drawn from the weighted ones: all are as likely."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return self.latents.gather(1, chosen[..., None].expand(-1, -1, self.latents.shape[-1]))

    @torch.no_grad()
    def structures(
        self, decoder: CartesianDecoder | NormalModeDecoder
    ) -> tuple[Float[Tensor, "particle atom 3"], Float[Tensor, "particle atom"]]:
        """The mean structure of each particle, and the sd of its nodes in it, both in Å.

        The sd of a node is the root of its mean squared distance from its mean position.
        """
        return mean_and_sd(decoder(self.latents), self.weights)


def mean_and_sd(
    structures: Float[Tensor, "particle draw atom 3"], weights: Float[Tensor, "particle draw"]
) -> tuple[Float[Tensor, "particle atom 3"], Float[Tensor, "particle atom"]]:
    """Mean of weighted structures, and the sd of each node about it in three dimensions, in Å."""
    weights = weights[..., None].to(structures)
    mean = (weights[..., None] * structures).sum(1)
    squares = (structures - mean[:, None]).square().sum(-1)
    return mean, (weights * squares).sum(1).sqrt()


class _Batch(NamedTuple):
    """Some particles, whitened."""

    images: Float[Tensor, "batch band"]
    factors: Float[Tensor, "batch band"]  # CTF, amplitudes and whitening of predictions
    rotations: Float[Tensor, "batch 3 3"]
    shifts: Float[Tensor, "batch 2"] | None
    values: Float[Tensor, "batch 5"] | None  # corrections of the poses, as they are

    def part(self, rows: Int[Tensor, " row"]) -> "_Batch":
        """Some of these."""
        some = [None if values is None else values[rows] for values in (self.shifts, self.values)]
        return _Batch(self.images[rows], self.factors[rows], self.rotations[rows], *some)


@dataclass(frozen=True)
class Inference:
    """All that stands between an image and its posterior: decoder, projector, noise and priors."""

    network: DeformationVAE
    density: Density
    band: Band
    directions: Directions
    prior: Mixture
    whitening: Float[Tensor, " band"]  # 1 / sd of the noise
    amplitude: Float[Tensor, " band"]  # of predictions, beside the network's
    contrast_sd: float = 1.0  # of the contrasts, whose mean is 1
    widths: Float[Tensor, "2"] | None = None  # of the prior of poses, rad and Å; None: given
    centre: Float[Tensor, "3"] | None = None  # Å, about which poses turn

    @classmethod
    @torch.no_grad()
    def learn(
        cls,
        network: DeformationVAE,
        data: TrainingData,
        latents: Float[Tensor, "particle latent"],
        *,
        density: Density,
        band: Band,
        corrections: Corrections | None = None,
        good: Bool[Tensor, " particle"] | None = None,
        seed: int = 0,
    ) -> "Inference":
        """Noise, contrast and prior of the particles of a training, from the `good` ones (all).

        `latents` are the encoder's, and `corrections` those of the poses that `data` has. The
        first prior is fitted to the latents; it is corrected by the posteriors of a sample, in
        turn (empirical Bayes), because the encoder's latents hold the noise of the images, too.
        """
        rows = torch.arange(len(data)) if good is None else good.nonzero().squeeze(1)
        directions = Directions.of(network.decoder, latents[rows])
        places = directions.place(latents[rows[evenly_spaced(LATENTS, len(rows))]]).cpu()
        prior = Mixture.fit(places, torch.ones_like(places[:, 0]), COMPONENTS, seed=seed)
        flat = torch.ones(band.size, device=data.rotations.device)
        found = cls(network, density, band, directions, prior, flat, flat)
        if corrections is not None and corrections.widths.any():
            found = replace(found, widths=corrections.widths, centre=corrections.centre)
        samples = [rows[evenly_spaced(count, len(rows))] for count in SAMPLES]
        found = found._with_amplitudes(data, latents[samples[-1], None], samples[-1])
        total = sum(map(len, samples))
        with tqdm(total=total, desc="learning noise and prior", unit="particle") as progress:
            for turn, sample in enumerate(samples, start=seed):
                said = found.infer(
                    data, latents, sample, corrections=corrections, seed=turn, progress=progress
                )
                places = directions.place(said.latents).flatten(0, 1).cpu()
                prior = Mixture.fit(places, said.weights.flatten().double(), found.prior, steps=10)
                found = replace(found, prior=prior)
                found = found._with_amplitudes(data, said.resampled(LIKELY, turn), sample)
        return found

    def _with_amplitudes(
        self, data: TrainingData, latents: Float[Tensor, "row draw latent"], rows: Tensor
    ) -> "Inference":
        """Amplitudes of the predictions, power of the noise, and how contrasts scatter.

        The first two are found in each shell of frequencies, from the images of these rows and
        structures that are likely for them. The noise is a median over particles, because a few
        may be of something else.
        """
        members = shell_members(self.band).to(data.rotations.device)
        plain = torch.ones_like(self.whitening)
        fresh = replace(self, whitening=plain, amplitude=plain)
        sums: list[list[Tensor]] = [[], [], []]
        for part, drawn in zip(rows.split(AT_ONCE), latents.split(AT_ONCE), strict=True):
            batch = fresh._batch(data, part, None)
            for z in drawn.unbind(1):
                made = fresh._predict(batch, z)
                parts = (batch.images * made, made.square(), batch.images.square())
                for kept, values in zip(sums, parts, strict=True):
                    kept.append(values @ members)
        cross, power, square = (torch.cat(parts).double() for parts in sums)
        scale = (cross.sum(0) / power.sum(0).clamp(min=1e-12)).clamp(min=0)
        residual = square - 2 * scale * cross + scale.square() * power
        noise = (residual.median(0).values / members.sum(0).clamp(min=1)).clamp(min=1e-6)
        cross, power = (cross * scale / noise).sum(-1), (power * scale.square() / noise).sum(-1)
        known = power.clamp(min=1e-12)
        scatter = (cross / known - 1).square() - known.reciprocal()
        variance = float((scatter * power.square()).sum() / power.square().sum())
        of_band = [members @ values.to(members) for values in (noise.rsqrt(), scale)]
        sd = max(math.sqrt(max(variance, 0.0)), LEAST_CONTRAST_SD)
        return replace(self, whitening=of_band[0], amplitude=of_band[1], contrast_sd=sd)

    @torch.no_grad()
    def infer(
        self,
        data: TrainingData,
        latents: Float[Tensor, "particle latent"],
        rows: Int[Tensor, " row"] | None = None,
        *,
        corrections: Corrections | None = None,
        draws: int = 48,
        seed: int = 0,
        progress: "tqdm[Any] | None" = None,
    ) -> Posterior:
        """The posterior of these particles (all), on the CPU.

        `latents` are those of the encoder. `data` has the poses that `corrections` gave it.
        `progress` is a bar that counts particles.
        """
        generator = torch.Generator().manual_seed(seed)
        rows = torch.arange(len(data)) if rows is None else rows
        at_once = max(1, min(AT_ONCE, 4_000_000 // (draws * len(self.network.decoder.reference))))
        parts = []
        for part in rows.split(at_once):
            batch = self._batch(data, part, corrections)
            parts.append(self._infer(batch, latents[part], draws, generator))
            if progress is not None:
                progress.update(len(part))
        return Posterior(*(torch.cat(values).cpu() for values in zip(*parts, strict=True)))

    def _batch(self, data: TrainingData, part: Tensor, corrections: Corrections | None) -> _Batch:
        here = part.to(data.rotations.device)
        images = data.vectors[part.to(data.vectors.device)].to(data.rotations.device).float()
        ctf, shifts = (None if v is None else v[here] for v in (data.ctf, data.shifts))
        factors = self.network.scaled(transfer_of(ctf, images, self.band))
        factors = factors * (self.amplitude * self.whitening)
        values = None if corrections is None else corrections.values[here]
        rotations = data.rotations[here]
        return _Batch(images * self.whitening, factors, rotations, shifts, values)

    def _predict(self, batch: _Batch, latents: Tensor, moved: Tensor | None = None) -> Tensor:
        """Predictions with these latents, and with poses that are moved."""
        rotations, shifts = batch.rotations, batch.shifts
        if moved is not None:
            assert self.centre is not None
            rotations, extra = corrected(rotations, moved, self.centre)
            shifts = extra if shifts is None else shifts + extra
        positions, turns = self.network.decoder.deform(latents.to(rotations))
        return batch.factors * self.density.images(
            positions, self.band, rotations=rotations, shifts=shifts, turns=turns
        )

    def _infer(
        self, batch: _Batch, latents: Tensor, draws: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        places = self.directions.place(latents)
        nuisance = self._nuisance(batch, places)
        nearby = self._nearby(batch, places, nuisance)
        places = self._draw(nearby, draws, generator)
        share = round(draws * FROM_PRIOR) / draws
        found = self._weighed(batch, places, nearby, share, nuisance)
        few = (found.effective < FEW).nonzero().squeeze(1)
        if len(few):
            batch, nearby = batch.part(few), nearby.part(few)
            best = places[few, found.weights[few].argmax(1)].to(self.directions.mean)
            nuisance = self._nuisance(batch, best)
            other = self._nearby(batch, best, nuisance)
            places = torch.cat([places[few], self._draw(other, draws, generator)], dim=1)
            # All are weighed anew: how the image changes with the pose was expanded about `best`.
            pool = self._weighed(batch, places, nearby.beside(other), share, nuisance)
            for values, better in zip(found, pool.resampled(draws, generator), strict=True):
                values[few] = better
        structures = self.network.decoder(found.latents)
        here = self.network.decoder(latents.to(structures))[:, None]
        near = (found.weights * (rmsd(structures, here) < NEAR).cpu()).sum(1)
        sd = mean_and_sd(structures, found.weights.to(structures.device))[1]
        return *found, near, sd.square().mean(-1).sqrt()

    def _nearby(self, batch: _Batch, places: Tensor, nuisance: Nuisance) -> Mixture:
        """What the image makes of the prior, nearly, where the best place near these ones is."""
        for turn in range(ITERATIONS):
            slope, curvature = self._expand(batch, places, nuisance)
            nearby = self.prior.times_gaussian(slope.cpu(), curvature.cpu())
            if turn + 1 < ITERATIONS:
                change = nearby.mode().to(places) - places
                excess = change.norm(dim=-1, keepdim=True) / LONGEST
                places = places + change / excess.clamp(min=1)
        return nearby.widened(WIDER)

    def _draw(
        self, nearby: Mixture, draws: int, generator: torch.Generator
    ) -> Float[Tensor, "batch draw direction"]:
        """Places drawn from a mixture for each particle, and from the prior."""
        size, count = len(nearby.weights), round(draws * FROM_PRIOR)
        elsewhere = self.prior.draw(size * count, generator).unflatten(0, (size, count))
        return torch.cat([nearby.draw(draws - count, generator), elsewhere], dim=1)

    def _weighed(
        self,
        batch: _Batch,
        places: Tensor,
        nearby: Mixture,
        share: float,
        nuisance: Nuisance,
    ) -> "_Drawn":
        """Draws, a share of them from the prior, by their posterior over the density of `_draw`."""
        prior = self.prior.log_density(places.flatten(0, 1)).unflatten(0, places.shape[:2])
        proposal = torch.logaddexp(
            math.log1p(-share) + nearby.log_density(places), math.log(share) + prior
        )
        drawn = self.directions.latents(places.to(self.directions.mean))
        fits = [nuisance.fit(batch.images, self._predict(batch, z)) for z in drawn.unbind(1)]
        fit = torch.stack(fits, dim=1).cpu()
        log_weights = fit + prior - proposal
        weights = torch.softmax(log_weights, dim=1)
        evidence = torch.logsumexp(log_weights, 1) - math.log(places.shape[1])
        information = ((weights * fit).sum(1) - evidence).clamp(min=0)
        effective = effective_number(weights)
        return _Drawn(drawn, weights.float(), information.float(), effective.float())

    def _nuisance(self, batch: _Batch, places: Tensor) -> Nuisance:
        """How the image changes with the pose, and the priors of contrast and pose."""
        precision, at = [self.contrast_sd**-2], [torch.zeros_like(places[:, :1])]
        slopes = batch.images[:, None][:, :0]
        if batch.values is not None and self.widths is not None:
            z = self.directions.latents(places)
            slopes = pose_slopes(
                lambda moved: self._predict(batch, z, moved),
                torch.zeros_like(batch.values),
                self._predict(batch, z),
                self.band,
            )
            at.append(batch.values.double())
            turn, shift = self.widths.clamp(min=NARROWEST).double().square().reciprocal().tolist()
            precision += [turn] * 3 + [shift] * 2
        diagonal = torch.tensor(precision, dtype=torch.double, device=places.device)
        return Nuisance.of(batch.images, slopes, diagonal, torch.cat(at, dim=1))

    def _expand(
        self, batch: _Batch, places: Tensor, nuisance: Nuisance
    ) -> tuple[Float[Tensor, "batch direction"], Float[Tensor, "batch direction direction"]]:
        """The log likelihood near these places as slope . x - x . curvature x / 2."""
        made = self._predict(batch, self.directions.latents(places))
        steps = DIFFERENCE * torch.eye(places.shape[1]).to(places)
        moved = [self._predict(batch, self.directions.latents(places + s)) - made for s in steps]
        matrix, right, _ = nuisance.system(batch.images, made)
        best = torch.linalg.solve(matrix, right)
        contrast = (1 + best[:, :1, None]).clamp(min=0).to(made)
        slopes = torch.stack(moved, dim=1) * (contrast / DIFFERENCE)
        all_slopes = torch.cat([made[:, None], nuisance.slopes], dim=1)
        residual = batch.images - made - (best.float()[:, None] @ all_slopes).squeeze(1)
        across = (slopes @ all_slopes.mT).double()
        curvature = (slopes @ slopes.mT).double()
        curvature = curvature - across @ torch.linalg.solve(matrix, across.mT)
        gradient = (slopes @ residual[..., None]).squeeze(-1).double()
        return gradient + (curvature @ places[..., None]).squeeze(-1), curvature


class _Drawn(NamedTuple):
    """What `Posterior` has of the same names."""

    latents: Float[Tensor, "batch draw latent"]
    weights: Float[Tensor, "batch draw"]
    information: Float[Tensor, " batch"]
    effective: Float[Tensor, " batch"]

    def resampled(self, count: int, generator: torch.Generator) -> "_Drawn":
        """So many of the draws, which weigh the same: systematic resampling."""
        marks = torch.arange(count) + torch.rand(len(self.weights), 1, generator=generator)
        chosen = torch.searchsorted(self.weights.cumsum(1), marks / count)
        chosen = chosen.clamp(max=self.weights.shape[1] - 1).to(self.latents.device)
        latents = self.latents.take_along_dim(chosen[..., None], 1)
        return self._replace(latents=latents, weights=torch.full(chosen.shape, 1 / count))
