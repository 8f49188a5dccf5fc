"""How to train: every setting with what it does, the paper's values, and ours."""

import math
from dataclasses import dataclass
from typing import Literal

from cryostar_nb.errors import InputError, check_signs


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
        lengths = ("low_pass", "sigma", "atom_sigma", "clash_distance", "elastic_cutoff")
        positive = (
            "steps",
            "batch_size",
            "learning_rate",
            *lengths,
            "modes",
            "checkpoint_every",
            "log_every",
        )
        not_negative = (
            "continuity_weight",
            "clash_weight",
            "elastic_weight",
            "initial_blur",
            "kl_weight",
            "weight_decay",
            "warmup_steps",
        )
        check_signs(self, positive=positive, not_negative=not_negative)
        if self.final_elastic_weight is not None and not (
            self.final_elastic_weight > 0 and self.elastic_weight > 0
        ):
            raise InputError(
                f"elastic_weight = {self.elastic_weight} and final_elastic_weight = {self.final_elastic_weight}; a geometric decay needs both above zero"
            )
        if not 0 < self.relaxation_percentile <= 100:
            raise InputError(
                f"relaxation_percentile = {self.relaxation_percentile}; give a percentage above 0, up to 100"
            )
        if particles < self.batch_size:
            raise InputError(
                f"batch_size = {self.batch_size} is more than the {particles} particles; give a smaller --batch-size"
            )
        if self.batch_size % processes:
            raise InputError(
                f"batch_size = {self.batch_size} cannot be shared by {processes} processes; give a multiple of {processes}"
            )

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
        return self.elastic_weight * (self.final_elastic_weight / self.elastic_weight) ** (
            step / max(1, self.steps - 1)
        )


PRESETS = {
    "paper": TrainConfig(),
    # The elastic network is stiff while the latent space takes shape and lets go of the motion at the end: a constant
    # weight of 1 holds the structures short of the open state. Images are made of all atoms, because electrons are not at Cα;
    # and the encoder sees each image from the structure, because it need not find out a pose that is known.
    "ours": TrainConfig(final_elastic_weight=0.005, density="atoms", encoder_input="structure"),
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network; the defaults are the paper's."""

    encoder_widths: tuple[int, ...] = (512, 256, 128, 64, 32)
    decoder_widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    latent_dim: int = 8
