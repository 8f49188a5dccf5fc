"""Training: the loop, checkpoint and resume."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from cryostar_nb.config import ModelConfig, TrainConfig
from cryostar_nb.ctf import CTFParameters, ctf_terms
from cryostar_nb.density import Density, node_density
from cryostar_nb.encoders import StructureView, structure_view
from cryostar_nb.errors import InputError
from cryostar_nb.fast.cuda_graph import CapturedStep, can_capture
from cryostar_nb.fourier import Band
from cryostar_nb.io.batches import batches_from
from cryostar_nb.io.files import MetricsLog, replacing
from cryostar_nb.io.vectors import VectorFile
from cryostar_nb.losses import Restraints, correlation_loss, kl_divergence
from cryostar_nb.models import DeformationVAE
from cryostar_nb.normal_modes import normal_modes
from cryostar_nb.projector import make_images
from cryostar_nb.runs.machine import Hardware, deferred_interrupt, keep_freed_memory, start_fabric
from cryostar_nb.structure import Structure

if TYPE_CHECKING:
    from lightning_fabric import Fabric


DIVERGED = (
    1e5  # a loss beyond any that a structure near its reference can have: edges wrong by 300 Å
)


@dataclass(frozen=True)
class TrainingData:
    """What a training step reads of the particles: one row a particle. Poses and CTF lie on the device of the training."""

    vectors: (
        Float[Tensor, "particle band"] | VectorFile
    )  # anywhere; `io.batches.batches_from` brings them
    rotations: Float[Tensor, "particle 3 3"]
    ctf: CTFParameters | None

    def __len__(self) -> int:
        return len(self.vectors)


def build_model(
    config: TrainConfig,
    model_config: ModelConfig,
    nodes: Structure,
    band: Band,
    view: StructureView | None,
    *,
    find_modes: bool = True,
) -> DeformationVAE:
    """The network of a method, untrained, for inputs of this view or for images. Without `find_modes`, normal modes are left zero, to be loaded with the weights."""
    reference, modes = torch.from_numpy(nodes.positions).float(), None
    if config.method == "nma":
        modes = torch.zeros(config.modes, *reference.shape)
        if find_modes:
            modes = torch.from_numpy(
                normal_modes(nodes.positions, config.modes, config.elastic_cutoff).vectors
            ).float()
    size = band.size if view is None else view.size
    return DeformationVAE(size, reference, model_config, modes=modes, standardised=view is not None)


def make_restraints(
    config: TrainConfig, nodes: Structure, device: torch.device | None = None
) -> Restraints:
    """The structural losses of a configuration."""
    return Restraints(
        nodes,
        method=config.method,
        elastic_cutoff=config.elastic_cutoff,
        elastic_between_chains=config.elastic_between_chains,
        clash_distance=config.clash_distance,
        percentile=config.relaxation_percentile,
        measure=config.relaxation_measure,
        device=device,
    )


def make_view(config: TrainConfig, nodes: Structure, band: Band) -> StructureView | None:
    """What turns an image into the encoder's input, where that is not the image."""
    return (
        structure_view(torch.from_numpy(nodes.positions).float(), band)
        if config.encoder_input == "structure"
        else None
    )


def encoder_inputs(
    data: TrainingData, view: StructureView | None, batch_size: int = 1024
) -> Iterator[Float[Tensor, "batch number"]]:
    """The encoder's input for all particles in order, a batch at a time."""
    device, terms, start = (
        data.rotations.device,
        None if data.ctf is None else ctf_terms(data.ctf),
        0,
    )
    view = None if view is None else view.to(device)
    for vectors in data.vectors.split(batch_size):
        images, rows = vectors.to(device).float(), slice(start, start + len(vectors))
        start += len(vectors)
        yield (
            images
            if view is None
            else view(images, data.rotations[rows], None if terms is None else terms[rows])
        )


def _why_diverged(
    vectors: Float[Tensor, "particle band"] | VectorFile,
    batches: list[Tensor],
    step: int,
    loss: float,
) -> str:
    """The message for a loss that is lost: the steps, and the particles in them that stand out."""
    rows = torch.cat(batches).unique()
    seen = (
        vectors.read(rows)
        if isinstance(vectors, VectorFile)
        else vectors[rows.to(vectors.device)].cpu()
    )
    power = seen.float().square().sum(-1)
    odd = rows[~(power < 9 * power.nanmedian())]  # NaN too
    steps = (
        f"step {step}" if len(batches) == 1 else f"a step from {step - len(batches) + 1} to {step}"
    )
    if len(odd):
        cause = f"particles {', '.join(str(row + 1) for row in odd.tolist()[:20])} in it are not like the others (over three times their contrast, or not numbers); remove them"
    else:
        cause = f"none of its {len(rows)} particles stands out (the first is {int(batches[0][0]) + 1}); give a smaller --learning-rate, and --resume"
    return f"the loss was {loss:.3g} after {steps}, and training stopped; the last checkpoint is kept; {cause}"


def train(
    config: TrainConfig,
    data: TrainingData,
    nodes: Structure,
    band: Band,
    out: Path,
    *,
    density: Density | None = None,
    view: StructureView | None = None,
    model_config: ModelConfig | None = None,
    resume: bool = False,
    fabric: "Fabric | None" = None,
) -> DeformationVAE:
    """Train, writing `out/checkpoint.pt` and `out/metrics.csv`, and return the model. `density` is that of the nodes by default,
    and `view` that of the configuration (`make_view`).

    Ctrl-C ends the step, writes a checkpoint and is passed on as KeyboardInterrupt. With `resume`, training goes on from the
    checkpoint, and ends where an uninterrupted run would have ended, if it finds the particles where it found them before: in
    memory, or in a file. A loss that is not a number, or beyond all bounds, raises
    InputError, which names the step and the particles that stand out; the last checkpoint stays. `fabric` says where it runs (`runs.machine.start_fabric`);
    none means in this process, on the device of the poses.
    """
    config.check(len(data))
    keep_freed_memory()
    fabric = fabric or start_fabric(Hardware(str(data.rotations.device)))
    device, share = fabric.device, config.batch_size // fabric.world_size
    torch.manual_seed(config.seed)
    view = view or make_view(config, nodes, band)
    network = build_model(
        config, model_config or ModelConfig(), nodes, band, view, find_modes=not resume
    ).to(device)
    # The settings that change from step to step are tensors: a recorded step reads them anew.
    learning_rate, elastic_weight, blur = torch.zeros(3, device=device).unbind()
    on_gpu = device.type == "cuda"
    optimiser = torch.optim.AdamW(
        network.parameters(),
        learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
        capturable=on_gpu,
    )
    noise_source = torch.Generator().manual_seed(config.seed)
    window = data.vectors.window if isinstance(data.vectors, VectorFile) else None
    step, earlier = 0, 0.0
    if resume:
        state = torch.load(out / "checkpoint.pt", map_location=device, weights_only=True)
        step, earlier, window = state["step"], state["seconds"], state["window"]
        network.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        noise_source.set_state(state["noise"].cpu())
        for group in optimiser.param_groups:
            group["lr"] = learning_rate
    model, stepper = fabric.setup(network, optimiser)
    restraints = make_restraints(config, nodes, device)
    density = (density or node_density(nodes, config.sigma)).to(device)
    terms = None if data.ctf is None else ctf_terms(data.ctf)
    if view is not None:
        view = view.to(device)
        if not resume:
            network.encoder.learn_scale(
                torch.cat(list(itertools.islice(encoder_inputs(data, view), 4)))
            )
    kl_weight = 1 / band.box_size**2 if config.kl_weight is None else config.kl_weight
    unit_blur = band.per_coefficient(
        2 * math.pi**2 * band.frequencies_on(device).square().sum(-1)
    )  # exp(-this) blurs by 1 Å
    weights: dict[str, float | Tensor] = {
        "image": 1.0,
        "continuity": config.continuity_weight,
        "elastic": elastic_weight,
    }
    weights |= {"clash": config.clash_weight, "kl": kl_weight}

    def over_all(sums: Tensor) -> Tensor:
        if fabric.world_size == 1:
            return sums
        total = fabric.all_reduce(sums, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def asked_to_stop(interrupted: Callable[[], bool]) -> bool:
        """Processes that share a batch all leave after the same step, whichever of them was asked to: every tenth they confer."""
        if fabric.world_size == 1:
            return interrupted()
        return step % 10 == 0 and bool(over_all(torch.tensor(float(interrupted()), device=device)))

    def one_step(vectors: Tensor, rows: Tensor, noise: Tensor) -> dict[str, Tensor]:
        images = vectors.float()
        rotations, ctf = data.rotations[rows], None if terms is None else terms[rows]
        positions, mean, log_variance = model(
            images if view is None else view(images, rotations, ctf), noise
        )
        centres = density.centres(positions)
        predictions = make_images(
            centres, density.amplitudes, density.sigma, band, rotations=rotations, ctf=ctf
        )

        if config.initial_blur > 0:
            transfer = torch.exp(-unit_blur * blur**2).to(images)
            images, predictions = images * transfer, predictions * transfer
        losses = {
            "image": correlation_loss(images, predictions),
            "kl": kl_divergence(mean, log_variance),
        }
        losses |= restraints.losses(positions, over_all)
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()

        stepper.zero_grad()
        fabric.backward(loss)
        stepper.step()
        return {name: value.detach() for name, value in ({"loss": loss} | losses).items()}

    def save() -> None:
        state: dict[str, Any] = {
            "step": step,
            "seconds": seconds(),
            "window": window,
            "noise": noise_source.get_state(),
        }
        state |= {"model": network.state_dict(), "optimiser": optimiser.state_dict()}
        if fabric.is_global_zero:
            with replacing(out / "checkpoint.pt") as temporary:
                torch.save(state, temporary)

    def seconds() -> float:
        return earlier + time.perf_counter() - began

    take_step: Callable[..., dict[str, Tensor]] = one_step
    recording = can_capture(fabric)
    batches = batches_from(
        data.vectors,
        config.batch_size,
        seed=config.seed,
        start=step,
        device=device,
        window=window,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    model.train()
    unchecked: list[Tensor] = []  # the particles of the steps whose loss has not been looked at
    began = time.perf_counter()
    with (
        MetricsLog(out / "metrics.csv" if fabric.is_global_zero else None, keep_before=step) as log,
        deferred_interrupt() as interrupted,
        tqdm(
            total=config.steps,
            initial=step,
            desc="training",
            unit="step",
            disable=None if fabric.is_global_zero else True,
        ) as progress,
        closing(batches),
    ):
        while step < config.steps and not asked_to_stop(interrupted):
            rows, vectors = next(batches)
            noise = torch.randn(config.batch_size, network.latent_dim, generator=noise_source)
            noise = noise[fabric.global_rank * share : (fabric.global_rank + 1) * share]
            learning_rate.fill_(config.learning_rate_at(step))
            elastic_weight.fill_(config.elastic_weight_at(step))
            blur.fill_(config.blur_at(step))
            inputs = (vectors, rows.to(device), noise.to(device))
            if recording:
                take_step, recording = CapturedStep(one_step, inputs, network, optimiser), False
            losses = take_step(*inputs)

            step += 1
            progress.update()
            unchecked.append(rows)
            logged = step % config.log_every == 0 or step == config.steps
            if (
                logged or step % config.checkpoint_every == 0 or not on_gpu
            ):  # a GPU would have to be waited for
                if not losses["loss"].item() < DIVERGED:
                    raise InputError(
                        f"{out}: {_why_diverged(data.vectors, unchecked, step, losses['loss'].item())}"
                    )
                unchecked.clear()
            if logged:
                values = {
                    name: (over_all(value) / fabric.world_size).item()
                    for name, value in losses.items()
                }
                log.write({"step": step, "seconds": seconds()} | values)
                progress.set_postfix(loss=f"{values['loss']:.4f}", image=f"{values['image']:.4f}")
            if step % config.checkpoint_every == 0:
                save()
    save()
    fabric.barrier()
    if step < config.steps:
        raise KeyboardInterrupt(
            f"stopped at step {step} of {config.steps}; go on with: cryostar-nb train --resume --out {out}"
        )
    return network.eval()
