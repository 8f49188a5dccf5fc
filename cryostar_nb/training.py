"""Training: the configuration, the loop, checkpoint and resume."""

import csv
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.errors import InputError
from cryostar_nb.files import replacing
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import pair_distances
from cryostar_nb.losses import (
    clash_loss,
    close_pairs,
    continuity_loss,
    correlation_loss,
    elastic_network_loss,
    kl_divergence,
    relaxed_edges,
)
from cryostar_nb.models import DeformationVAE, ModelConfig
from cryostar_nb.projector import make_images
from cryostar_nb.structure import Structure, bonds, elastic_edges


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the paper's; where the paper is silent, the description says so."""

    method: Literal["star", "cont"] = "star"
    """star: all losses. cont: continuity is the only structural loss."""
    steps: int = 12_000
    """Gradient steps; the paper's 12,000 are for synthetic data, 96,000 for experimental."""
    batch_size: int = 64
    """Particles per step."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, after a warm-up and before a cosine decay (not given in the paper)."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises to its peak (not given in the paper)."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW (not given in the paper)."""
    low_pass: float = 4.0
    """Resolution to which images are compared, in Å (Appendix A finds it from the data; not given for the synthetic set)."""
    sigma: float = 2.0
    """Width of a node's Gaussian, in Å."""
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
    relaxation_percentile: float = 80.0
    """p of eq. 7: edges whose length varies more than this percentile are released; 100 releases none. 95 for experimental data."""
    kl_weight: float | None = None
    """Weight of the KL divergence; none means 1 / box_size^2 (eq. 8)."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    seed: int = 0
    """Seed of the network's initial weights, the order of the particles and the latent noise."""

    def check(self, particles: int) -> None:
        """Raise InputError for a value that cannot be meant, or not with this number of particles."""
        for name in ("steps", "batch_size", "learning_rate", "low_pass", "sigma", "elastic_cutoff", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} = {getattr(self, name)}; give a positive number")
        for name in ("continuity_weight", "clash_weight", "elastic_weight"):
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

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then cosine decay to zero."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def elastic_weight_at(self, step: int) -> float:
        """Geometric decay from `elastic_weight` to `final_elastic_weight`."""
        if self.final_elastic_weight is None:
            return self.elastic_weight
        return self.elastic_weight * (self.final_elastic_weight / self.elastic_weight) ** (step / max(1, self.steps - 1))


PRESETS = {
    "paper": TrainConfig(),
    # The elastic network is stiff while the latent space takes shape and lets go of the motion at the end: a constant
    # weight of 1 holds the structures short of the open state.
    "ours": TrainConfig(final_elastic_weight=0.02),
}
CLASH_MARGIN = 4.0  # Å over the clash distance, within which pairs are watched
CLASH_REFRESH = 50  # steps between two searches for such pairs
LOG_EVERY = 50


@dataclass(frozen=True)
class TrainingData:
    """What a training step reads of the particles: everything on one device, one row a particle."""

    vectors: Float[Tensor, "particle band"]
    rotations: Float[Tensor, "particle 3 3"]
    ctf: CTFParameters | None

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: Tensor) -> "TrainingData":
        return TrainingData(self.vectors[rows], self.rotations[rows], None if self.ctf is None else self.ctf[rows])


class Restraints:
    """The structural losses of one reference: its bonds, its elastic edges, and the pairs that might clash."""

    def __init__(self, nodes: Structure, config: TrainConfig, device: torch.device) -> None:
        reference = torch.from_numpy(nodes.positions).float().to(device)
        self.config = config
        self.bonds = torch.from_numpy(bonds(nodes)).to(device)
        self.edges = torch.from_numpy(elastic_edges(nodes, config.elastic_cutoff)).to(device)
        self.bond_lengths = pair_distances(reference, self.bonds)
        self.edge_lengths = pair_distances(reference, self.edges)
        self.clash_pairs = torch.zeros(0, 2, dtype=torch.int64, device=device)

    def watch_clashes(self, positions: Float[Tensor, "batch atom 3"]) -> None:
        """Add the pairs that stand near each other in these structures to those that the clash loss looks at."""
        found = close_pairs(positions, self.bonds.cpu().numpy(), self.config.clash_distance + CLASH_MARGIN)
        self.clash_pairs = torch.unique(torch.cat([self.clash_pairs, found]), dim=0)

    def losses(self, positions: Float[Tensor, "batch atom 3"]) -> dict[str, Tensor]:
        """Unweighted structural losses of the method, by name."""
        losses = {"continuity": continuity_loss(pair_distances(positions, self.bonds), self.bond_lengths)}
        if self.config.method == "star":
            distances = pair_distances(positions, self.edges)
            keep = relaxed_edges(distances, self.config.relaxation_percentile)
            losses["elastic"] = elastic_network_loss(distances, self.edge_lengths, keep)
            losses["clash"] = clash_loss(pair_distances(positions, self.clash_pairs), self.config.clash_distance)
        return losses


def particle_order(count: int, batch_size: int, seed: int, start: int) -> Iterator[Int[Tensor, " batch"]]:
    """Endless batches of particle numbers: a fresh permutation every epoch, the same for the same seed, from step `start`."""
    per_epoch = count // batch_size
    for step in range(start, 1 << 62):
        epoch, place = divmod(step, per_epoch)
        if place == 0 or step == start:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        yield order[place * batch_size : (place + 1) * batch_size]


def train(
    config: TrainConfig,
    data: TrainingData,
    nodes: Structure,
    band: Band,
    out: Path,
    *,
    model_config: ModelConfig | None = None,
    resume: bool = False,
) -> DeformationVAE:
    """Train, writing `out/checkpoint.pt` and `out/metrics.csv`, and return the model.

    Ctrl-C ends the step, writes a checkpoint and is passed on as KeyboardInterrupt. With `resume`, training goes on from the
    checkpoint, and ends where an uninterrupted run would have ended.
    """
    config.check(len(data))
    device = data.vectors.device
    torch.manual_seed(config.seed)
    reference = torch.from_numpy(nodes.positions).float()
    model = DeformationVAE(band.size, reference, model_config or ModelConfig()).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    noise_source = torch.Generator().manual_seed(config.seed)
    restraints = Restraints(nodes, config, device)
    amplitudes, sigma = torch.from_numpy(nodes.electrons).float().to(device), torch.tensor(config.sigma, device=device)
    kl_weight = 1 / band.box_size**2 if config.kl_weight is None else config.kl_weight
    weights = {"image": 1.0, "continuity": config.continuity_weight, "clash": config.clash_weight, "kl": kl_weight}

    def save(step: int) -> None:
        state = {"step": step, "seconds": seconds(), "model": model.state_dict(), "optimiser": optimiser.state_dict()}
        state |= {"noise": noise_source.get_state(), "clash_pairs": restraints.clash_pairs}
        with replacing(out / "checkpoint.pt") as temporary:
            torch.save(state, temporary)

    def seconds() -> float:
        return earlier + time.perf_counter() - began

    step, earlier = 0, 0.0
    if resume:
        state = torch.load(out / "checkpoint.pt", map_location=device, weights_only=True)
        step, earlier = state["step"], state["seconds"]
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        noise_source.set_state(state["noise"].cpu())
        restraints.clash_pairs = state["clash_pairs"]
    model.train()
    began = time.perf_counter()
    with (
        MetricsLog(out / "metrics.csv", keep_before=step) as log,
        deferred_interrupt() as interrupted,
        tqdm(total=config.steps, initial=step, desc="training", unit="step", disable=None) as progress,
    ):
        for rows in particle_order(len(data), config.batch_size, config.seed, start=step):
            if step >= config.steps or interrupted():
                break
            batch = data[rows.to(device)]
            noise = torch.randn(config.batch_size, model.latent_dim, generator=noise_source).to(device)

            positions, mean, log_variance = model(batch.vectors, noise)
            predictions = make_images(positions, amplitudes, sigma, band, rotations=batch.rotations, ctf=batch.ctf)

            if step % CLASH_REFRESH == 0 and config.method == "star":
                restraints.watch_clashes(positions)
            losses = {"image": correlation_loss(batch.vectors, predictions), "kl": kl_divergence(mean, log_variance)}
            losses |= restraints.losses(positions)
            weights["elastic"] = config.elastic_weight_at(step)
            loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()

            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate_at(step)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

            step += 1
            progress.update()
            if step % LOG_EVERY == 0 or step == config.steps:
                values = {"loss": loss.item()} | {name: value.item() for name, value in losses.items()}
                log.write({"step": step, "seconds": seconds()} | values)
                progress.set_postfix(loss=f"{values['loss']:.4f}", image=f"{values['image']:.4f}")
            if step % config.checkpoint_every == 0:
                save(step)
    save(step)
    if interrupted():
        raise KeyboardInterrupt(f"stopped at step {step} of {config.steps}")
    return model.eval()


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C (and a polite kill) wait for the end of a step. Yields a function that says whether one has come."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield lambda: False
        return
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in wanted]
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in zip(wanted, before, strict=True):
            signal.signal(number, handler)


class MetricsLog:
    """One CSV line per logged step; a resumed run drops the lines that its checkpoint does not cover."""

    def __init__(self, path: Path, keep_before: int) -> None:
        kept: list[dict[str, Any]] = []
        if keep_before and path.exists():
            with path.open(newline="") as handle:
                kept = [row for row in csv.DictReader(handle) if int(row["step"]) <= keep_before]
        self._handle = path.open("w", newline="")
        self._writer: Any = None
        for row in kept:
            self.write(row)

    def write(self, row: dict[str, Any]) -> None:
        """Append a line; the first one decides the columns."""
        if self._writer is None:
            self._writer = csv.DictWriter(self._handle, fieldnames=list(row))
            self._writer.writeheader()
        self._writer.writerow(row)
        self._handle.flush()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()
