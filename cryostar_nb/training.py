"""Training: the configuration, the loop, checkpoint and resume."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from cryostar_nb.ctf import CTFParameters, ctf_terms
from cryostar_nb.density import Density, node_density
from cryostar_nb.errors import InputError
from cryostar_nb.files import MetricsLog, replacing
from cryostar_nb.fourier import Band
from cryostar_nb.hardware import CapturedStep, Hardware, can_capture, deferred_interrupt, keep_freed_memory, start_fabric
from cryostar_nb.loading import batches_from
from cryostar_nb.losses import correlation_loss, kl_divergence
from cryostar_nb.models import DeformationVAE, ModelConfig
from cryostar_nb.normal_modes import normal_modes
from cryostar_nb.projector import make_images
from cryostar_nb.restraints import Restraints
from cryostar_nb.structure import Structure
from cryostar_nb.vectors import VectorFile
from cryostar_nb.view import StructureView, structure_view

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the paper's; where the paper is silent, the description says so."""

    method: Literal["star", "cont", "nma"] = "star"
    """star: all losses. cont: continuity is the only structural loss. nma: normal modes move the structure, and no loss is structural."""
    steps: int = 12_000
    """Gradient steps; the paper's 12,000 are for synthetic data, 96,000 for experimental."""
    batch_size: int = 64
    """Particles per step."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, after a warm-up (not given in the paper)."""
    learning_rate_schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up: a cosine decay to zero, or the peak to the end (not given in the paper)."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises to its peak (not given in the paper)."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW (not given in the paper)."""
    low_pass: float = 4.0
    """Resolution to which images are compared, in Å (not given for the synthetic set); auto, with --map, finds it as Appendix A does."""
    initial_blur: float = 0.0
    """Width of a Gaussian blur, in Å, through which images are compared at the first step; it falls to none at half of the steps.

    A part that moves further than the finest detail in the images is not drawn to its place by them, but is by their blur. 0: no blur."""
    density: Literal["nodes", "atoms"] = "nodes"
    """What the images are made of. nodes: a Gaussian for each residue, at Cα or P. atoms: one for each heavy atom, carried by its residue."""
    encoder_input: Literal["image", "structure"] = "image"
    """What the encoder is given. image: the image. structure: what the image, with its pose and CTF, shows at the places of the reference."""
    sigma: float = 2.0
    """Width of a node's Gaussian, in Å."""
    atom_sigma: float = 0.8
    """Width of an atom's Gaussian, in Å: its thermal blur, B = 8 pi^2 sigma^2 = 51 Å^2."""
    continuity_weight: float = 1.0
    """Weight of the continuity loss (eq. 2)."""
    clash_weight: float = 1.0
    """Weight of the clash loss (eq. 4)."""
    clash_distance: float = 4.0
    """Nodes nearer than this clash, in Å (eq. 3)."""
    elastic_weight: float = 1.0
    """Weight of the elastic network loss (eq. 6) at the first step."""
    final_elastic_weight: float | None = None
    """Weight of the elastic network loss at the last step, reached by a geometric decay; none keeps it constant."""
    elastic_cutoff: float = 12.0
    """Nodes of a chain nearer than this in the reference are joined by an edge, in Å (eq. 5)."""
    elastic_between_chains: bool = False
    """Join near nodes of different chains, too. The paper does not; but small chains then find their way alone, far or not."""
    relaxation_percentile: float = 80.0
    """p of eq. 7: edges whose length varies more than this percentile are released; 100 releases none. 95 for experimental data."""
    relaxation_measure: Literal["distance", "squared_error"] = "distance"
    """What varies: the distance of eq. 7, or, for comparison, its squared error, the term of eq. 6."""
    modes: int = 16
    """Normal modes of the method nma; their network has the cutoff of the elastic one."""
    kl_weight: float | None = None
    """Weight of the KL divergence; none means 1 / box_size^2 (eq. 8)."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    log_every: int = 50
    """Steps between lines of metrics.csv."""
    seed: int = 0
    """Seed of the network's initial weights, the order of the particles and the latent noise."""

    def check(self, particles: int, processes: int = 1) -> None:
        """Raise InputError for a value that cannot be meant, or not with this number of particles and of processes."""
        for name in (
            "steps",
            "batch_size",
            "learning_rate",
            "low_pass",
            "sigma",
            "elastic_cutoff",
            "modes",
            "checkpoint_every",
            "log_every",
        ):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} = {getattr(self, name)}; give a positive number")
        for name in ("continuity_weight", "clash_weight", "elastic_weight", "initial_blur"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} = {getattr(self, name)}; give zero or a positive number")
        if self.final_elastic_weight is not None and not (self.final_elastic_weight > 0 and self.elastic_weight > 0):
            raise InputError(
                f"elastic_weight = {self.elastic_weight} and final_elastic_weight = {self.final_elastic_weight}; a geometric decay needs both above zero"
            )
        if not 0 < self.relaxation_percentile <= 100:
            raise InputError(f"relaxation_percentile = {self.relaxation_percentile}; give a percentage above 0, up to 100")
        if particles < self.batch_size:
            raise InputError(f"batch_size = {self.batch_size} is more than the {particles} particles; give a smaller --batch-size")
        if self.batch_size % processes:
            raise InputError(f"batch_size = {self.batch_size} cannot be shared by {processes} processes; give a multiple of {processes}")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then the schedule."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.learning_rate_schedule == "constant":
            return self.learning_rate
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def blur_at(self, step: int) -> float:
        """Width of the Gaussian blur, in Å: a line from `initial_blur` to zero, over the first half of the steps."""
        return self.initial_blur * max(0.0, 1 - 2 * step / self.steps)

    def elastic_weight_at(self, step: int) -> float:
        """Geometric decay from `elastic_weight` to `final_elastic_weight`."""
        if self.final_elastic_weight is None:
            return self.elastic_weight
        return self.elastic_weight * (self.final_elastic_weight / self.elastic_weight) ** (step / max(1, self.steps - 1))


DIVERGED = 1e5  # a loss beyond any that a structure near its reference can have: edges wrong by 300 Å

PRESETS = {
    "paper": TrainConfig(),
    # The elastic network is stiff while the latent space takes shape and lets go of the motion at the end: a constant
    # weight of 1 holds the structures short of the open state. Images are made of all atoms, because electrons are not at Cα;
    # and the encoder sees each image from the structure, because it need not find out a pose that is known.
    "ours": TrainConfig(final_elastic_weight=0.005, density="atoms", encoder_input="structure"),
}


@dataclass(frozen=True)
class TrainingData:
    """What a training step reads of the particles: one row a particle. Poses and CTF lie on the device of the training."""

    vectors: Float[Tensor, "particle band"] | VectorFile  # anywhere; `loading.batches_from` brings them
    rotations: Float[Tensor, "particle 3 3"]
    ctf: CTFParameters | None

    def __len__(self) -> int:
        return len(self.vectors)


def build_model(
    config: TrainConfig, model_config: ModelConfig, nodes: Structure, band: Band, view: StructureView | None, *, find_modes: bool = True
) -> DeformationVAE:
    """The network of a method, untrained, for inputs of this view or for images. Without `find_modes`, normal modes are left zero, to be loaded with the weights."""
    reference, modes = torch.from_numpy(nodes.positions).float(), None
    if config.method == "nma":
        modes = torch.zeros(config.modes, *reference.shape)
        if find_modes:
            modes = torch.from_numpy(normal_modes(nodes.positions, config.modes, config.elastic_cutoff).vectors).float()
    size = band.size if view is None else view.size
    return DeformationVAE(size, reference, model_config, modes=modes, standardised=view is not None)


def make_restraints(config: TrainConfig, nodes: Structure, device: torch.device | None = None) -> Restraints:
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
    return structure_view(torch.from_numpy(nodes.positions).float(), band) if config.encoder_input == "structure" else None


def encoder_inputs(data: TrainingData, view: StructureView | None, batch_size: int = 1024) -> Iterator[Float[Tensor, "batch number"]]:
    """The encoder's input for all particles in order, a batch at a time."""
    device, terms, start = data.rotations.device, None if data.ctf is None else ctf_terms(data.ctf), 0
    view = None if view is None else view.to(device)
    for vectors in data.vectors.split(batch_size):
        images, rows = vectors.to(device).float(), slice(start, start + len(vectors))
        start += len(vectors)
        yield images if view is None else view(images, data.rotations[rows], None if terms is None else terms[rows])


def _why_diverged(vectors: Float[Tensor, "particle band"] | VectorFile, batches: list[Tensor], step: int, loss: float) -> str:
    """The message for a loss that is lost: the steps, and the particles in them that stand out."""
    rows = torch.cat(batches).unique()
    seen = vectors.read(rows) if isinstance(vectors, VectorFile) else vectors[rows.to(vectors.device)].cpu()
    power = seen.float().square().sum(-1)
    odd = rows[~(power < 9 * power.nanmedian())]  # NaN too
    steps = f"step {step}" if len(batches) == 1 else f"a step from {step - len(batches) + 1} to {step}"
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
    checkpoint, and ends where an uninterrupted run would have ended. A loss that is not a number, or beyond all bounds, raises
    InputError, which names the step and the particles that stand out; the last checkpoint stays. `fabric` says where it runs (`hardware.start_fabric`);
    none means in this process, on the device of the poses.
    """
    config.check(len(data))
    keep_freed_memory()
    fabric = fabric or start_fabric(Hardware(str(data.rotations.device)))
    device, share = fabric.device, config.batch_size // fabric.world_size
    torch.manual_seed(config.seed)
    view = view or make_view(config, nodes, band)
    network = build_model(config, model_config or ModelConfig(), nodes, band, view, find_modes=not resume).to(device)
    # The settings that change from step to step are tensors: a recorded step reads them anew.
    learning_rate, elastic_weight, blur = torch.zeros(3, device=device).unbind()
    on_gpu = device.type == "cuda"
    optimiser = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=config.weight_decay, fused=True, capturable=on_gpu)
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
            network.encoder.learn_scale(torch.cat(list(itertools.islice(encoder_inputs(data, view), 4))))
    kl_weight = 1 / band.box_size**2 if config.kl_weight is None else config.kl_weight
    unit_blur = band.per_coefficient(2 * math.pi**2 * band.frequencies_on(device).square().sum(-1))  # exp(-this) blurs by 1 Å
    weights: dict[str, float | Tensor] = {"image": 1.0, "continuity": config.continuity_weight, "elastic": elastic_weight}
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
        positions, mean, log_variance = model(images if view is None else view(images, rotations, ctf), noise)
        centres = density.centres(positions)
        predictions = make_images(centres, density.amplitudes, density.sigma, band, rotations=rotations, ctf=ctf)

        if config.initial_blur > 0:
            transfer = torch.exp(-unit_blur * blur**2).to(images)
            images, predictions = images * transfer, predictions * transfer
        losses = {"image": correlation_loss(images, predictions), "kl": kl_divergence(mean, log_variance)}
        losses |= restraints.losses(positions, over_all)
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()

        stepper.zero_grad()
        fabric.backward(loss)
        stepper.step()
        return {name: value.detach() for name, value in ({"loss": loss} | losses).items()}

    def save() -> None:
        state: dict[str, Any] = {"step": step, "seconds": seconds(), "window": window, "noise": noise_source.get_state()}
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
        tqdm(total=config.steps, initial=step, desc="training", unit="step", disable=None if fabric.is_global_zero else True) as progress,
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
            if logged or step % config.checkpoint_every == 0 or not on_gpu:  # a GPU would have to be waited for
                if not losses["loss"].item() < DIVERGED:
                    raise InputError(f"{out}: {_why_diverged(data.vectors, unchecked, step, losses['loss'].item())}")
                unchecked.clear()
            if logged:
                values = {name: (over_all(value) / fabric.world_size).item() for name, value in losses.items()}
                log.write({"step": step, "seconds": seconds()} | values)
                progress.set_postfix(loss=f"{values['loss']:.4f}", image=f"{values['image']:.4f}")
            if step % config.checkpoint_every == 0:
                save()
    save()
    fabric.barrier()
    if step < config.steps:
        raise KeyboardInterrupt(f"stopped at step {step} of {config.steps}; go on with: cryostar-nb train --resume --out {out}")
    return network.eval()
