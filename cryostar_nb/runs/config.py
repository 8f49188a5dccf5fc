"""A run's `config.json`: what was trained, and on what; written, read and compared."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from cryostar_nb.config import ModelConfig, TrainConfig
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band
from cryostar_nb.io.files import write_json
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.reading import Reading, read_particles

PATHS = (
    "particles",
    "reference",
    "root",
    "passthrough",
    "poses_pkl",
    "ctf_pkl",
)  # among the settings in config.json


@dataclass(frozen=True)
class InputFiles:
    """What a run reads: particles and reference, and how to read them."""

    particles: Path
    """Particles with poses and CTF: .star (RELION), .cs (cryoSPARC), or a stack with cryoDRGN's pickles."""
    reference: Path
    """Reference structure, PDB or mmCIF, in the frame of the poses."""
    invert: bool = False
    """Set when protein is dark on a bright ground."""
    reading: Reading = field(default_factory=Reading)
    """How to read the particles."""

    def read_particles(self) -> Particles:
        """The particles, their pixels still on disk."""
        return read_particles(self.particles, **vars(self.reading))


@dataclass(frozen=True)
class RunConfig:
    """All that decides a run: its files, its settings, its network, and the size of what the files held."""

    inputs: InputFiles
    train: TrainConfig
    model: ModelConfig
    box_size: int
    pixel_size: float  # in Å
    n_particles: int

    @property
    def band(self) -> Band:
        """The Fourier coefficients that are compared."""
        return Band(self.box_size, self.pixel_size, self.train.low_pass)

    def write(self, folder: Path) -> None:
        """Write `folder/config.json`."""
        grid = {
            "box_size": self.box_size,
            "pixel_size": self.pixel_size,
            "n_particles": self.n_particles,
        }
        settings = {
            "train": dataclasses.asdict(self.train),
            "model": dataclasses.asdict(self.model),
        }
        write_json(folder / "config.json", {"inputs": plain(self.inputs), "grid": grid} | settings)

    def changes_from(self, before: "RunConfig") -> list[str]:
        """The settings and files that are not what they were, a line each."""
        lines: list[str] = []
        for was, now in (
            (vars(before.train), vars(self.train)),
            (plain(before.inputs), plain(self.inputs)),
        ):
            lines += [
                f"{name} = {now[name]}, not {was[name]}" for name in now if now[name] != was[name]
            ]
        return lines


def plain(inputs: InputFiles) -> dict[str, Any]:
    """Input files as words and numbers, paths as absolute names."""
    values = vars(inputs) | {"reading": vars(inputs.reading)}
    return json.loads(json.dumps(values, default=lambda path: str(path.resolve())))


def read_config(folder: Path | str) -> RunConfig:
    """The `config.json` of a run folder. Raises InputError where there is none, or another program's."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise InputError(
            f"{folder}: is not a run folder (it has no config.json); give the --out of `cryostar-nb train`"
        )
    try:
        values = json.loads(path.read_text())
        files = _with_paths(values["inputs"])
        files["reading"] = Reading(**_with_paths(files["reading"]))
        model: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values["model"].items()
        }
        _check_kinds(values["train"], vars(TrainConfig()), get_type_hints(TrainConfig))
        _check_kinds(values["grid"], {"box_size": 1, "pixel_size": 1.0, "n_particles": 1}, {})
        return RunConfig(
            InputFiles(**files),
            TrainConfig(**values["train"]),
            ModelConfig(**model),
            **values["grid"],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: is not a configuration that this version wrote ({' '.join(str(error).split())[:200]}); train into a new --out"
        ) from error


def _with_paths(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        name: Path(value) if name in PATHS and value else value for name, value in settings.items()
    }


def _check_kinds(values: dict[str, Any], usual: dict[str, Any], hints: dict[str, Any]) -> None:
    """Raise TypeError for a value that is of another kind than the usual one, or not one of the words that its type lists."""
    for name, value in values.items():
        default, words = usual.get(name), get_args(hints.get(name))
        if isinstance(default, str):
            good = value in words
        elif isinstance(default, bool) or isinstance(value, bool):
            good = isinstance(default, bool) and isinstance(value, bool)
        else:
            good = isinstance(value, int if isinstance(default, int) else int | float) or (
                default is None and value is None
            )
        if not good:
            raise TypeError(f"{name} = {value!r}")
