"""Training (section 2.4): one gradient step, and the loop over steps.

Nothing here knows of files, signals or processes: `runs.engine` hands in what it takes to save,
log, stop and share the work.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryostar_nb.config import TrainConfig
from cryostar_nb.density import Density
from cryostar_nb.encoders import ImageEncoder, StructureEncoder
from cryostar_nb.fourier import Band
from cryostar_nb.likelihood import RadialScale, likelihood_loss
from cryostar_nb.losses import Restraints, correlation_loss, kl_divergence, side_chain_loss
from cryostar_nb.models import Deformation, DeformationVAE

# Images as band vectors, what the encoder sees of them, rotations, `ctf_terms` or None, the noise
# of the latent sample, and shifts or None.
Batch = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor | None]
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingData:
    """The particles as training reads them, one row each. Poses and CTF lie on its device."""

    vectors: Float[Tensor, "particle band"]  # float16 or float32, in memory, on disk or on a GPU
    rotations: Float[Tensor, "particle 3 3"]
    ctf: Float[Tensor, "particle term"] | None = None  # `ctf_terms`; None: images without CTF
    looks: Float[Tensor, "particle number"] | None = None  # of the encoder; None: not made yet
    shifts: Float[Tensor, "particle 2"] | None = None  # Å, of the particles in their images

    def __len__(self) -> int:
        return len(self.vectors)

    def part(self, rows: slice | Int[Tensor, " row"]) -> "TrainingData":
        """These particles."""
        others = (self.ctf, self.looks, self.shifts)
        some = (None if entry is None else entry[rows] for entry in others)
        return TrainingData(self.vectors[rows], self.rotations[rows], *some)

    def split(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
        """Images as float32, rotations, CTF and shifts, on one device, `size` at a time."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            images = self.vectors[rows].to(self.rotations.device).float()
            ctf, shifts = (None if v is None else v[rows] for v in (self.ctf, self.shifts))
            yield images, self.rotations[rows], ctf, shifts


def make_optimiser(config: TrainConfig, network: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019). Its learning rate is a tensor that `train` fills."""
    device = next(network.parameters()).device
    return torch.optim.AdamW(
        network.parameters(),
        torch.zeros((), device=device),
        weight_decay=config.weight_decay,
        fused=True,
        capturable=device.type == "cuda",
    )


def looks_of(
    encoder: ImageEncoder | StructureEncoder, data: TrainingData, size: int = 1024
) -> Iterator[Float[Tensor, "batch number"]]:
    """What an encoder sees of the particles, `size` at a time, on the device of the poses."""
    if data.looks is None:
        yield from (encoder.look(*batch) for batch in data.split(size))
    else:
        yield from (part.to(data.rotations.device).float() for part in data.looks.split(size))


def with_looks(encoder: ImageEncoder | StructureEncoder, data: TrainingData) -> TrainingData:
    """The particles with what the encoder sees of them: their vectors, or looks as float16."""
    if data.looks is not None:
        return data
    if isinstance(encoder, ImageEncoder):
        return replace(data, looks=data.vectors)
    return replace(data, looks=torch.cat([part.half() for part in looks_of(encoder, data)]))


def learn_scale(network: DeformationVAE, data: TrainingData) -> None:
    """Give an encoder that standardises its looks their scale, from the first 4,096 particles."""
    if isinstance(network.encoder, StructureEncoder):
        first = itertools.islice(looks_of(network.encoder, data), 4)
        network.encoder.learn_scale(torch.cat(list(first)))


def train(
    config: TrainConfig,
    network: Callable[[Tensor, Tensor], tuple[Deformation, Tensor, Tensor]],
    optimiser: torch.optim.Optimizer,
    batches: Iterable[Batch],
    *,
    band: Band,
    density: Density,
    restraints: Restraints,
    start: int = 0,
    scale: RadialScale | None = None,
    backward: Callable[[Tensor], object] = Tensor.backward,
    sum_over_processes: Callable[[Tensor], Tensor] = lambda sums: sums,
    record: Callable[[Callable[..., Losses]], Callable[..., Losses]] = lambda step: step,
    stop_after: Callable[[int, Losses], bool] = lambda step, losses: False,
) -> int:
    """Take the steps from `start` to `config.steps` on these batches; return the last one's number.

    The loss is the weighted sum of eq. 8. `scale` learns the amplitudes of the images. `stop_after`
    is called with the number and the losses of every step, logs what it likes, and says whether to
    stop. `record` may replace the step by a faster one that does the same, and `backward` makes the
    gradients. `sum_over_processes` adds up a tensor over the processes that share a batch.
    """
    # The settings that change from step to step are tensors: a recorded step reads them anew.
    learning_rate = optimiser.param_groups[0]["lr"]
    elastic_weight, blur = torch.zeros(2, device=learning_rate.device).unbind()
    kl_weight = 1 / band.box_size**2 if config.kl_weight is None else config.kl_weight
    weights: dict[str, float | Tensor] = {"image": 1.0, "kl": kl_weight}
    weights |= {
        "continuity": config.continuity_weight,
        "elastic": elastic_weight,
        "clash": config.clash_weight,
        "side_chains": kl_weight,
    }
    k2 = band.frequencies_on(learning_rate.device).square().sum(-1)
    unit_blur = band.per_coefficient(2 * math.pi**2 * k2)  # exp(-this) blurs by 1 Å

    image_loss: Callable[[Tensor, Tensor], Tensor] = correlation_loss
    if config.image_loss == "likelihood":
        image_loss = partial(likelihood_loss, sum_over_processes=sum_over_processes)

    def one_step(
        images: Tensor,
        looks: Tensor,
        rotations: Tensor,
        ctf: Tensor | None,
        noise: Tensor,
        shifts: Tensor | None = None,
    ) -> Losses:
        images = images.float()
        (positions, turns), mean, log_variance = network(looks.float(), noise)
        predictions = density.images(
            positions, band, rotations=rotations, shifts=shifts, ctf=ctf, turns=turns
        )
        if scale is not None:
            scale.update(images, predictions.detach(), sum_over_processes)
            predictions = scale(predictions)
        if config.initial_blur > 0:
            transfer = torch.exp(-unit_blur * blur**2).to(images)
            images, predictions = images * transfer, predictions * transfer
        losses = {"image": image_loss(images, predictions)}
        losses |= {"kl": kl_divergence(mean, log_variance)} | restraints.losses(positions)
        if turns is not None:
            losses["side_chains"] = side_chain_loss(turns, config.side_chain_sd)
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()

        optimiser.zero_grad()
        backward(loss)
        optimiser.step()
        return {name: value.detach() for name, value in ({"loss": loss} | losses).items()}

    take_step, step = record(one_step), start
    for batch in itertools.islice(batches, config.steps - start):
        learning_rate.fill_(config.learning_rate_at(step))
        elastic_weight.fill_(config.elastic_weight_at(step))
        blur.fill_(config.blur_at(step))
        losses = take_step(*batch)
        step += 1
        if stop_after(step, losses):
            break
    return step


@torch.no_grad()
def infer_latents(network: DeformationVAE, data: TrainingData) -> Float[Tensor, "particle latent"]:
    """The latent mean of every particle, on the CPU."""
    means = [network.encoder(looks)[0] for looks in looks_of(network.encoder, data)]
    return torch.cat(means).cpu()
