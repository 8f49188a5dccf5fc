"""Settings: how a dataclass of them is checked, and those of the model and of its training.

A setting is a field of a frozen dataclass: its type and bounds stand there, once. From it come
the flag of the command line, the keyword in Python and the entry of `config.json`.
"""

import dataclasses
import functools
import math
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from cryostar_nb.errors import InputError

T = TypeVar("T")
# NumPy's numbers are welcome; a truth value or a text is no number.
FROM_NUMPY = BeforeValidator(lambda value: value.item() if hasattr(value, "item") else value)
Number = Annotated[float, FROM_NUMPY, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, FROM_NUMPY, Field(strict=True, gt=0)]
WholeNumber = Annotated[int, FROM_NUMPY, Field(strict=True, ge=0)]
Positive = Annotated[float, FROM_NUMPY, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, FROM_NUMPY, Field(strict=True, ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, FROM_NUMPY, Field(strict=True, ge=0, le=1)]
Percentile = Annotated[float, FROM_NUMPY, Field(strict=True, ge=0, le=100)]


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose values are checked by the types of its fields.

    Raises InputError with the name and the value of the first setting that does not fit.
    """
    rules = ConfigDict(use_attribute_docstrings=True, extra="forbid")
    made: Any = dataclass(frozen=True, config=rules)(cls)
    initialise = made.__init__

    @functools.wraps(initialise)
    def checked(self: Any, *arguments: Any, **values: Any) -> None:
        try:
            initialise(self, *arguments, **values)
        except ValidationError as error:
            raise _as_input_error(error) from None

    made.__init__ = checked
    for entry in dataclasses.fields(made):  # the command line shows descriptions as one paragraph
        words = made.__pydantic_fields__[entry.name].description or ""
        entry.metadata = MappingProxyType({"help": " ".join(words.split())})
    return made


def _as_input_error(error: ValidationError) -> InputError:
    """The first setting that does not fit, with all that it may be."""
    first, *others = error.errors(include_url=False)
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, InputError):
        return inner
    name = next((str(part) for part in first["loc"] if isinstance(part, str)), "")
    same = [first, *(other for other in others if other["loc"][:1] == first["loc"][:1])]
    kinds = {"path_type": "a path"}
    messages = [kinds.get(e["type"], e["msg"].split("should be ")[-1]) for e in same]
    wanted = " or ".join(dict.fromkeys(messages))
    if first["type"] == "unexpected_keyword_argument":
        return InputError(f"there is no setting {name}", value=first["input"])
    value = first["input"]
    return InputError(f"{name} = {{value}}", value=value, remedy=f"it must be {wanted}")


@settings
class ModelConfig:
    """Sizes of the network; the defaults are the paper's."""

    encoder_widths: tuple[Count, ...] = (512, 256, 128, 64, 32)
    """Widths of the encoder's hidden layers."""
    decoder_widths: tuple[Count, ...] = (32, 64, 128, 256, 512)
    """Widths of the decoder's hidden layers."""
    latent_dim: Count = 8
    """Numbers in a latent."""


@settings
class TrainConfig:
    """How to train. The defaults are those of the preset `standard`, which works best.

    Where they are not the paper's, or the paper is silent, the description says so.
    """

    method: Literal["star", "cont", "nma"] = "star"
    """star: all losses. cont: continuity is the only structural loss. nma: normal modes move the
    structure, and no loss is structural."""
    steps: Count = 12_000
    """Gradient steps; the paper's 12,000 are for synthetic data, 96,000 for experimental."""
    batch_size: Count = 64
    """Particles per step."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of AdamW, after a warm-up (not given in the paper)."""
    learning_rate_schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up: a cosine decay to zero, or the peak to the end (not given in the
    paper)."""
    warmup_steps: WholeNumber = 200
    """Steps over which the learning rate rises to its peak (not given in the paper)."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of AdamW (not given in the paper)."""
    low_pass: Positive | Literal["auto"] = 4.0
    """Resolution to which images are compared, in Å (not given for the synthetic set). auto: where
    the FSC of the reference with a consensus map (--map) falls to 0.5, as in Appendix A."""
    initial_blur: NotNegative = 0.0
    """Width of a Gaussian blur, in Å, through which images are compared at the first step; it
    falls to none at half of the steps. It leads parts to their place that move further than the
    finest detail in the images. 0: no blur, as in the paper."""
    density: Literal["groups", "atoms", "nodes"] = "groups"
    """What the images are made of. groups: a Gaussian for each few neighbouring atoms of a residue,
    as few as the low-pass allows, carried by the residue. atoms: one for each heavy atom, carried
    by its residue. nodes: one for each residue, at Cα or P, as in the paper."""
    group_correlation: Annotated[float, FROM_NUMPY, Field(strict=True, gt=0, lt=1)] = 0.995
    """Correlation that images of groups keep with images of all atoms, without noise and CTF."""
    side_chain_sd: NotNegative = 30.0
    """How far side chains may turn about their node, as the sd of a prior, in degrees; the turn
    follows the latent. 0: they are carried as they stand in the reference. The paper has none."""
    encoder_input: Literal["image", "structure"] = "structure"
    """What the encoder is given. structure: what the image, with its pose and CTF, shows at the
    places of the reference. image: the image, as in the paper."""
    decoder: Literal["nodes", "chain"] = "nodes"
    """How a latent moves the structure. nodes: by a displacement of each node, as in the paper.
    chain: stretches of eight nodes of a chain turn, too, and take along what follows in the chain,
    so that a domain can turn by any angle. For turns beyond some 60 degrees."""
    poses: Literal["refined", "given"] = "refined"
    """refined: the rotation and the shift of every particle are corrected, with a prior whose
    widths the particles tell, after a quarter, half and three quarters of the steps and at the end,
    and after 600 where a quarter is more than twice that. given: they stay as they are, as in the
    paper."""
    image_loss: Literal["likelihood", "correlation"] = "likelihood"
    """How images are compared. likelihood: each as far as its contrast lets it say something.
    correlation: all alike (eq. 9), as in the paper."""
    radial_scale: bool = True
    """Give the model's images, at each spatial frequency, the amplitude that the particles have.
    The paper does not."""
    sigma: Positive = 2.0
    """Width of a node's Gaussian, in Å."""
    atom_sigma: Positive = 0.8
    """Width of an atom's Gaussian, in Å: its thermal blur, B = 8 pi^2 sigma^2 = 51 Å^2."""
    continuity_weight: NotNegative = 1.0
    """Weight of the continuity loss (eq. 2)."""
    clash_weight: NotNegative = 1.0
    """Weight of the clash loss (eq. 4)."""
    clash_distance: Positive = 4.0
    """Nodes nearer than this clash, in Å (eq. 3)."""
    elastic_weight: NotNegative = 1.0
    """Weight of the elastic network loss (eq. 6) at the first step."""
    final_elastic_weight: Positive | None = 0.005
    """Weight of the elastic network loss at the last step, reached by a geometric decay; None
    keeps it constant, as in the paper."""
    elastic_cutoff: Positive = 12.0
    """Nodes of a chain nearer than this in the reference are joined by an edge, in Å (eq. 5)."""
    elastic_between_chains: bool = False
    """Join near nodes of different chains, too. The paper does not; but then each small chain
    has to find its way alone."""
    relaxation_percentile: Annotated[float, Field(strict=True, gt=0, le=100)] = 90.0
    """p of eq. 7: edges whose length varies more than this percentile are released; 100 releases
    none. The paper has 80 for synthetic and 95 for experimental data."""
    kept_along_chain: WholeNumber = 8
    """Edges between nodes at most this many places apart in their chain are never released, so that
    no stretch of a chain is torn out of the part that it moves with. 0: none, as in the paper."""
    relaxation_measure: Literal["distance", "squared_error"] = "distance"
    """What varies: the distance of eq. 7, or, for comparison, its squared error, the term of
    eq. 6."""
    modes: Count = 16
    """Normal modes of the method nma; their network has the cutoff of the elastic one."""
    kl_weight: NotNegative | None = None
    """Weight of the KL divergence; None means 1 / box_size^2 (eq. 8)."""
    checkpoint_every: Count = 1000
    """Steps between checkpoints."""
    log_every: Count = 50
    """Steps between lines of metrics.csv."""
    held_out: Annotated[float, FROM_NUMPY, Field(strict=True, ge=0, le=0.5)] = 0.05
    """Part of the particles, at least two, that is never trained on: they tell whether the encoder
    learns its images by heart. 0: none, as in the paper. Latents are inferred for all."""
    stop_early: bool = False
    """Stop when the image loss of the particles held out has not fallen for 3 checkpoints in a row;
    the last checkpoint is kept."""
    seed: WholeNumber = 0
    """Seed of the network's initial weights, the particles held out, the order of the others, and
    the latent noise."""

    def __post_init__(self) -> None:
        if self.final_elastic_weight is not None and not self.elastic_weight > 0:
            raise InputError(
                "elastic_weight = {value} cannot decay to a final_elastic_weight above 0",
                value=self.elastic_weight,
                remedy="give one above 0, or --final-elastic-weight None",
            )
        if self.method == "nma" and self.decoder != "nodes":
            remedy = "leave --decoder out, or give another --method"
            raise InputError(
                "decoder = {value}, and the normal modes of method nma have one of their own",
                value=self.decoder,
                remedy=remedy,
            )
        if self.stop_early and not self.held_out > 0:
            raise InputError(
                "held_out = {value}, and stop_early needs particles that are held out",
                value=self.held_out,
                remedy="give --held-out 0.05, or leave --stop-early out",
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
        """Width of the Gaussian blur, in Å: from `initial_blur` to zero at half the steps."""
        return self.initial_blur * max(0.0, 1 - 2 * step / self.steps)

    def elastic_weight_at(self, step: int) -> float:
        """Geometric decay from `elastic_weight` to `final_elastic_weight`."""
        if self.final_elastic_weight is None:
            return self.elastic_weight
        ratio = self.final_elastic_weight / self.elastic_weight
        return self.elastic_weight * ratio ** (step / max(1, self.steps - 1))


PRESETS = {
    # The elastic network is stiff while the latent space takes shape and lets go of the motion at
    # the end: a constant weight of 1 holds the structures short of the open state. Images are made
    # of groups of atoms, because electrons are not at Cα; and the encoder sees each image from the
    # structure, because it need not find out a pose that is nearly known.
    "standard": TrainConfig(),
    "paper": TrainConfig(
        final_elastic_weight=None,
        density="nodes",
        encoder_input="image",
        poses="given",
        image_loss="correlation",
        radial_scale=False,
        relaxation_percentile=80.0,
        kept_along_chain=0,
        side_chain_sd=0.0,
    ),
}
