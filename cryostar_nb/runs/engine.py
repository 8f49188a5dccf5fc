"""Around the training loop: its batches, log, checkpoints, interruption, GPUs and processes.

The loop itself is `training.train`.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from cryostar_nb.config import ModelConfig, TrainConfig
from cryostar_nb.ctf import ctf_terms
from cryostar_nb.density import Density, node_density
from cryostar_nb.errors import InputError
from cryostar_nb.fast.cuda_graph import RecordedStep, can_capture
from cryostar_nb.fourier import Band
from cryostar_nb.io.batches import batches_from, gather, held_out_rows, share_of
from cryostar_nb.io.files import MetricsLog, replacing
from cryostar_nb.io.particles import Particles
from cryostar_nb.losses import Restraints
from cryostar_nb.models import Deformation, DeformationVAE, make_network
from cryostar_nb.runs.held_out import HeldOut
from cryostar_nb.runs.machine import deferred_interrupt, keep_freed_memory, start_fabric
from cryostar_nb.runs.pose_refinement import Look, PoseRefinement
from cryostar_nb.runs.run_config import Hardware
from cryostar_nb.structure import Structure
from cryostar_nb.training import (
    Batch,
    Losses,
    TrainingData,
    learn_scale,
    make_optimiser,
    train,
    with_looks,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LARGEST_LOSS = 1e5  # beyond any that a structure near its reference can have: edges off by 300 Å


def training_data(
    particles: Particles,
    vectors: Float[Tensor, "particle band"],
    device: torch.device | None = None,
    *,
    sigma: Float[Tensor, ""] | float = 0.0,
) -> TrainingData:
    """What training reads, poses and CTF on a device, the CPU by default.

    `sigma` is the width of the Gaussians, in Å, which a magnification changes.
    """
    assert particles.ctf is not None
    ctf = ctf_terms(particles.ctf.to(torch.float32), float(sigma))
    return TrainingData(vectors, particles.views.float().to(device), ctf.to(device))


def run_training(
    config: TrainConfig,
    data: TrainingData,
    nodes: Structure,
    band: Band,
    out: Path,
    *,
    density: Density | None = None,
    model_config: ModelConfig | None = None,
    resume: bool = False,
    fabric: "Fabric | None" = None,
    look: Look = with_looks,
    finished: Callable[..., object] = lambda network, data, corrections: None,
) -> DeformationVAE:
    """Train, writing `out/checkpoint.pt` and `out/metrics.csv`, and return the model.

    `out/held_out.json` has what the particles say that were held out, if any. `density` is that of
    the nodes by default. Ctrl-C ends the step, writes a checkpoint and is passed on as
    KeyboardInterrupt. With `resume`, training goes on from the checkpoint and ends where an
    uninterrupted run would have ended. `fabric` says where it runs; None means in this process, on
    the device of the poses. `look` makes what the encoder sees of particles whose poses
    were corrected; `finished` gets the model, the particles and the corrections of their poses at
    the end. Raises InputError for a batch that the particles or the processes cannot fill, and for
    a loss that diverges: the last checkpoint stays.
    """
    fabric = fabric or start_fabric(Hardware(device=str(data.rotations.device)))
    check_batch(config, len(data), fabric.world_size)
    density = (density or node_density(nodes, config.sigma)).to(fabric.device)
    keep_freed_memory()
    torch.manual_seed(config.seed)
    sizes = model_config or ModelConfig()
    network = make_network(config, sizes, nodes, band, find_modes=not resume).to(fabric.device)
    data = with_looks(network.encoder, data)
    if config.poses == "refined":
        data = replace(data, shifts=data.rotations.new_zeros(len(data), 2))
    held_out = HeldOut(config, network, density, band, len(data))
    poses = PoseRefinement(config, network, density, band, data.rotations, look, fabric.broadcast)
    engine = Engine(config, data, out, network, fabric, held_out, poses)
    if resume:
        engine.load()
    model, optimiser = fabric.setup(network, engine.optimiser)
    if not resume:
        learn_scale(network, data)
    model.train()
    restraints = Restraints(
        nodes, config, device=fabric.device, sum_over_processes=engine.sum_over_processes
    )
    engine.take_steps(model, optimiser, band=band, density=density, restraints=restraints)
    engine.finish()
    finished(network.eval(), engine.data, poses.corrections)
    return network


def check_batch(config: TrainConfig, particles: int, processes: int) -> None:
    """Raise InputError for a batch that these particles or processes cannot fill."""
    held_out = len(held_out_rows(particles, config.held_out, seed=config.seed))
    if particles - held_out < config.batch_size:
        kept = f", less {held_out} that are held out" if held_out else ""
        raise InputError(
            f"batch_size = {{value}} is more than the {particles} particles{kept}",
            value=config.batch_size,
            remedy="give a smaller --batch-size",
        )
    share_of(config.batch_size, 0, processes)


class Engine:
    """What a training holds beside its loop: where it stands, its log, and who shares the work."""

    def __init__(
        self,
        config: TrainConfig,
        data: TrainingData,
        out: Path,
        network: DeformationVAE,
        fabric: "Fabric",
        held_out: HeldOut,
        poses: PoseRefinement,
    ) -> None:
        self.config, self.data, self.out, self.network = config, data, out, network
        self.fabric, self.held_out, self.poses, self.stopped_early = fabric, held_out, poses, False
        self.optimiser = make_optimiser(config, network)
        self.noise_source = torch.Generator().manual_seed(config.seed)
        self.step, self.seconds_before = 0, 0.0
        self.unchecked: list[Tensor] = []  # particles of the steps whose loss was not looked at

    def load(self) -> None:
        """Go back to where `out/checkpoint.pt` stands."""
        device = self.fabric.device
        state = torch.load(self.out / "checkpoint.pt", map_location=device, weights_only=True)
        self.step, self.seconds_before = state["step"], state["seconds"]
        self.network.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        for group in self.optimiser.param_groups:
            group["lr"] = torch.zeros((), device=device)
        self.noise_source.set_state(state["noise"].cpu())
        self.held_out.history = state.get("held_out", [])
        self.data = self.poses.load(state.get("poses"), self.data)

    def save(self) -> None:
        """Write `out/checkpoint.pt`: all that it takes to go on."""
        if not self.fabric.is_global_zero:
            return
        state = {"step": self.step, "seconds": self.seconds, "model": self.network.state_dict()}
        state |= {"optimiser": self.optimiser.state_dict(), "noise": self.noise_source.get_state()}
        state |= {"held_out": self.held_out.history, "poses": self.poses.state()}
        with replacing(self.out / "checkpoint.pt") as temporary:
            torch.save(state, temporary)

    def take_steps(
        self,
        model: Callable[[Tensor, Tensor], tuple[Deformation, Tensor, Tensor]],
        optimiser: torch.optim.Optimizer,
        *,
        band: Band,
        density: Density,
        restraints: Restraints,
    ) -> None:
        """Take the steps that are left. `model` and `optimiser` are as `fabric` set them up."""
        with self.watching() as batches:
            self.step = train(
                self.config,
                model,
                optimiser,
                batches,
                band=band,
                density=density,
                restraints=restraints,
                start=self.step,
                scale=self.network.radial_scale,
                backward=self.fabric.backward,
                sum_over_processes=self.sum_over_processes,
                record=self.record,
                stop_after=self.after_step,
            )

    @property
    def seconds(self) -> float:
        """Time spent in steps, over all sittings."""
        return self.seconds_before + time.perf_counter() - self.began

    @contextmanager
    def watching(self) -> Iterator[Iterator[Batch]]:
        """Open the log, show progress and hold Ctrl-C back; yields this process's batches."""
        first, batches = self.fabric.is_global_zero, self._batches()
        bar = {"desc": "training", "unit": "step", "disable": None if first else True}
        with (
            MetricsLog(self.out / "metrics.csv" if first else None, keep_before=self.step) as log,
            deferred_interrupt() as interrupted,
            tqdm(total=self.config.steps, initial=self.step, **bar) as progress,
            closing(batches),
        ):
            self.log, self.interrupted, self.progress = log, interrupted, progress
            self.began = time.perf_counter()
            yield batches

    def _batches(self) -> Generator[Batch, None, None]:
        """The part of every batch that is this process's, from the present step on."""
        rank, processes = self.fabric.global_rank, self.fabric.world_size
        size, device = self.config.batch_size, self.fabric.device
        share = share_of(size, rank, processes)
        latent_dim = self.network.latent_dim
        rows_and_vectors = batches_from(
            self.data.vectors,
            size,
            seed=self.config.seed,
            start=self.step,
            device=device,
            rank=rank,
            world_size=processes,
            among=self.held_out.trained,
        )
        with closing(rows_and_vectors):
            for rows, vectors in rows_and_vectors:
                self.unchecked.append(rows)
                looks = self.data.looks
                assert looks is not None, "made when the training starts"
                noise = torch.randn(size, latent_dim, generator=self.noise_source)[share]
                here, ctf = rows.to(device), self.data.ctf
                rotations, ctf = self.data.rotations[here], None if ctf is None else ctf[here]
                seen = vectors if looks is self.data.vectors else gather(looks, rows, device)
                shifts = None if self.data.shifts is None else self.data.shifts[here]
                yield vectors, seen, rotations, ctf, noise.to(device), shifts

    def record(self, one_step: Callable[..., Losses]) -> Callable[..., Losses]:
        """The step recorded as a CUDA graph, where that can be done."""
        if not can_capture(self.fabric):
            return one_step
        return RecordedStep(one_step, self.network, self.optimiser)

    def sum_over_processes(self, sums: Tensor) -> Tensor:
        """Add up a tensor over the processes that share a batch."""
        if self.fabric.world_size == 1:
            return sums
        total = self.fabric.all_reduce(sums, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def after_step(self, step: int, losses: Losses) -> bool:
        """Check, show and log the losses of a step, and save at times; True ends the training."""
        config, self.step = self.config, step
        self.progress.update()
        saved = step % config.checkpoint_every == 0
        measured = len(self.held_out) > 0 and (saved or step == config.steps)
        logged = step % config.log_every == 0 or step == config.steps or measured
        if logged or saved or self.fabric.device.type != "cuda":  # a GPU would have to be awaited
            if not losses["loss"].item() < LARGEST_LOSS:
                raise self._divergence(losses["loss"].item())
            self.unchecked.clear()
        if self.poses.due(step):
            self.data = self.poses.refine(self.data)
        if logged:
            sums = {name: self.sum_over_processes(value) for name, value in losses.items()}
            means = {name: (value / self.fabric.world_size).item() for name, value in sums.items()}
            apart = {}
            if self.fabric.is_global_zero:
                apart = self.held_out.columns(self.data, measured=measured)
            self.log.write({"step": step, "seconds": self.seconds} | means | apart)
            shown = {name: means[name] for name in ("loss", "image")} | self.held_out.latest
            self.progress.set_postfix(**{name: f"{value:.4f}" for name, value in shown.items()})
        if saved:
            self.save()
            stalled = self.fabric.is_global_zero and self.held_out.stalled
            self.stopped_early = step < config.steps and self._any_process(stalled)
        return self.stopped_early or (step < config.steps and self._asked_to_stop())

    def _asked_to_stop(self) -> bool:
        """Processes that share a batch all leave after the same step: every tenth they confer."""
        if self.fabric.world_size > 1 and self.step % 10:
            return False
        return self._any_process(self.interrupted())

    def _any_process(self, flag: bool) -> bool:
        """Whether this is so in any of the processes that share a batch."""
        if self.fabric.world_size == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.fabric.device)
        return bool(self.sum_over_processes(flags))

    def finish(self) -> None:
        """Save, and say what was learned, or that the training was stopped."""
        if self.step == self.config.steps or self.stopped_early:
            self.data = self.poses.refine(self.data)
        self.save()
        self.fabric.barrier()
        if self.step < self.config.steps and not self.stopped_early:
            go_on = f"go on with: cryostar-nb train --resume --out {self.out}"
            raise KeyboardInterrupt(f"stopped at step {self.step} of {self.config.steps}; {go_on}")
        if self.fabric.is_global_zero:
            where = (self.data, self.out, self.step)
            self.held_out.conclude(*where, stopped_early=self.stopped_early)

    def _divergence(self, loss: float) -> InputError:
        """What to say of a loss that diverges: the steps, and the particles that stand out."""
        rows, count = torch.cat(self.unchecked).unique(), len(self.unchecked)
        vectors = self.data.vectors[rows.to(self.data.vectors.device)].cpu()
        power = vectors.float().square().sum(-1)
        odd = (rows[~(power < 9 * power.nanmedian())] + 1).tolist()  # NaN too
        when = f"step {self.step}"
        if count > 1:
            when = f"a step from {self.step - count + 1} to {self.step}"
        if odd:
            cause = f"particles {', '.join(map(str, odd[:20]))} in it are not numbers, or have more"
            cause += " than three times the contrast of the others"
            remedy = "remove them"
        else:
            cause = f"none of its {len(rows)} particles stands out"
            cause += f" (the first is {int(self.unchecked[0][0]) + 1})"
            remedy = "give a smaller --learning-rate, and --resume"
        problem = f"the loss was {{value}} after {when}, and training stopped; the last checkpoint"
        problem += f" is kept; {cause}"
        return InputError(problem, file=self.out, value=float(f"{loss:.3g}"), remedy=remedy)
