"""What decides a run: its files, its settings, its machine; and `config.json`, which keeps them."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from cryostar_nb import __version__
from cryostar_nb.config import (
    FROM_NUMPY,
    Count,
    Fraction,
    ModelConfig,
    Positive,
    TrainConfig,
    settings,
)
from cryostar_nb.errors import InputError
from cryostar_nb.io.options import Reading


@settings
class Hardware:
    """The machines of a run, and their memory. A distributed run shares every batch."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    devices: Count = 1
    """Processes on each machine: the number of its GPUs to use, or of processes on its CPU."""
    num_nodes: Count = 1
    """Machines; start the same command on each with torchrun or srun."""
    strategy: Literal["auto", "ddp"] = "auto"
    """How processes work together; auto is ddp (distributed data parallel) when there are
    several."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """bf16-mixed computes the encoder at half precision; positions, images and losses never are."""
    memory_gb: Positive | None = None
    """Memory that the particles may take, in GB; those that do not fit are read from disk as they
    are needed (default: half of what is free)."""
    cache: Path | None = None
    """Folder in which to keep the particles as training reads them, so that another run need not
    read all pixels again."""


@settings
class InputFiles:
    """What a run reads: particles and reference, and how to read them."""

    particles: Path
    """Particles with poses and CTF: .star (RELION), .cs (cryoSPARC), or a stack with pickles."""
    reference: Path
    """Reference structure, PDB or mmCIF, in the frame of the poses."""
    invert: bool = False
    """Set when protein is dark on a bright ground."""
    map: Path | None = None
    """Consensus map (MRC), for --low-pass auto."""
    map_pixel_size: Positive | None = None
    """Voxel size of the map in Å, where its header does not say or is wrong."""
    reading: Reading = dataclasses.field(default_factory=Reading)
    """How to read the particles."""


@settings
class Grid:
    """The images of a run."""

    box_size: Count
    """Pixels along an edge."""
    pixel_size: Positive
    """In Å."""
    n_particles: Count
    """Number of images."""


@settings
class MapConfig:
    """Of which particles of a run maps are made, and how."""

    pc: Count = 1
    """Principal component to go along; the first leads away from the reference."""
    bins: Count = 5
    """Maps along it, of equally many particles."""
    clusters: Count | None = None
    """Maps of this many clusters of latents (k-means), in place of bins."""
    indices: str | None = None
    """One map of these particles, in place of bins: a file of indices counted from 0 (.npy, .txt,
    .pkl or .csv), a mask in .npy, or START:STOP."""
    quality: Fraction = 0.5
    """Least probability of being good, as the run gives it, of the particles that count; 0: all
    do."""
    resolution: Positive | None = None
    """Finest detail in Å (default: two pixels). A coarser one takes less memory."""
    mask_radius: Positive | None = None
    """Radius in Å of a soft sphere about the centre, outside of which a map is 0 and noise does not
    count (default: nothing is masked)."""


@settings
class LandscapeConfig:
    """Which clusters of a run's particles, and their population along which motion."""

    pc: Count = 1
    """Principal component to go along; the first leads away from the reference."""
    bins: Annotated[int, FROM_NUMPY, Field(strict=True, ge=2)] | None = None
    """Bins along it (default: as many as the images can tell apart, 2 to 24)."""
    clusters: Count | None = None
    """So many clusters of latents, by k-means (default: those that stand apart by their density, by
    HDBSCAN; there may be none)."""
    between: tuple[Count, Count] | None = None
    """The two clusters that the path of highest density leads between (default: the first and the
    last along the first component)."""
    quality: Fraction = 0.5
    """Least probability of being good, as the run gives it, of the particles whose population is
    found; 0: all."""
    populations: bool = True
    """Find the populations, which takes the posteriors of `infer`."""


@settings
class CheckConfig:
    """How a run is checked."""

    steps: Count | None = None
    """Steps of each training (default: as many as the run has)."""
    reference: Path | None = None
    """Another reference, docked like the run's (default: the run's, bent by 2 Å rms along its
    softest normal modes)."""
    trainings: bool = True
    """Train on half-sets, from another reference, and on particles that do not move. Without these
    only what the run itself shows is looked at."""


@settings
class RunConfig:
    """All that decides the outcome of a run, and the version that made it."""

    inputs: InputFiles
    """Its files."""
    grid: Grid
    """Its images."""
    train: TrainConfig
    """How it is trained."""
    model: ModelConfig
    """Its network."""
    version: str = "0.1.0 or older"
    """Version of this package; the first ones did not note it."""

    def write(self, folder: Path) -> None:
        """Write `folder/config.json`, paths as absolute names."""
        from cryostar_nb.io.files import write_json

        values = _RUN.dump_python(dataclasses.replace(self, version=__version__))
        text = json.dumps(values, default=lambda path: str(path.resolve()))
        write_json(folder / "config.json", json.loads(text))

    def changes_from(self, before: "RunConfig") -> list[str]:
        """The settings and files that are not what they were, a line each."""
        lines: list[str] = []
        for part in ("train", "inputs"):
            was, now = (_plain(getattr(config, part)) for config in (before, self))
            lines += [
                f"{name} = {now[name]}, not {was[name]}" for name in now if now[name] != was[name]
            ]
        return lines


_RUN = TypeAdapter(RunConfig)
# How runs were trained before there was a choice.
OLDER = {
    "held_out": 0.0,
    "poses": "given",
    "image_loss": "correlation",
    "radial_scale": False,
    "kept_along_chain": 0,
    "side_chain_sd": 0.0,
}


def _plain(part: Any) -> dict[str, Any]:
    """Settings as words and numbers, paths as absolute names."""
    values = dataclasses.asdict(part)
    return json.loads(json.dumps(values, default=lambda path: str(path.resolve())))


def read_config(folder: Path | str) -> RunConfig:
    """The `config.json` of a run folder. Raises InputError where there is none that fits."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise InputError(
            "is not a run folder (it has no config.json)",
            file=folder,
            remedy="give the --out of `cryostar-nb train`",
        )
    version: object = "unknown"
    try:
        values = json.loads(path.read_text())
        if isinstance(values, dict):
            version = values.get("version", "0.1.0 or older")
            if isinstance(values.get("train"), dict):
                values["train"] = OLDER | values["train"]
        return _RUN.validate_json(json.dumps(values))
    except (ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"was made by version {{value}} and is not a configuration that version {__version__}"
            f" reads ({reason})",
            file=path,
            value=version,
            remedy="train into a new --out",
        ) from error


def particles_of(source: Path, reading: Reading) -> tuple[Path, Reading]:
    """The particle file of a run folder, or `source` itself, and how to read it.

    For a run that is as the run read it, but for what `reading` says.
    """
    if not source.is_dir():
        return source, reading
    inputs, defaults = read_config(source).inputs, vars(Reading())
    given = {name: value for name, value in vars(reading).items() if value != defaults[name]}
    return inputs.particles, dataclasses.replace(inputs.reading, **given)
