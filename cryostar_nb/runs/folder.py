"""A run folder: start one, open one, and read what it holds.

`config.json` says what was trained, on what; `reference.cif` is the coarse-grained reference, `atoms.cif` all of it where the
density is that of the atoms; `checkpoint.pt` and `metrics.csv` come from training; `latents.npy` is the latent mean of every
particle, (particle, latent).
"""

import csv
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.config import TrainConfig
from cryostar_nb.density import Density, make_density
from cryostar_nb.encoders import StructureView
from cryostar_nb.errors import InputError
from cryostar_nb.evaluation import evaluate
from cryostar_nb.fourier import Band
from cryostar_nb.io.files import existing_file, replacing, write_json
from cryostar_nb.io.structures import read_nodes, read_structure
from cryostar_nb.io.vectors import open_vectors
from cryostar_nb.latents import PrincipalComponents, components_from_reference
from cryostar_nb.models import DeformationVAE
from cryostar_nb.runs.config import InputFiles, RunConfig, read_config
from cryostar_nb.runs.engine import training_data
from cryostar_nb.structure import Structure
from cryostar_nb.training import TrainingData, build_model, encoder_inputs, make_view

FILES = ("config.json", "reference.cif", "atoms.cif", "checkpoint.pt", "metrics.csv", "latents.npy")


@dataclass(frozen=True)
class Run:
    """A trained, or partly trained, model with all that it was trained on."""

    folder: Path
    settings: RunConfig
    nodes: Structure
    view: StructureView | None
    model: DeformationVAE
    step: int

    @property
    def inputs(self) -> InputFiles:
        """What it read."""
        return self.settings.inputs

    @property
    def config(self) -> TrainConfig:
        """How it was trained."""
        return self.settings.train

    @property
    def band(self) -> Band:
        """The Fourier coefficients that were compared."""
        return self.settings.band

    @property
    def reference(self) -> Float[Tensor, "atom 3"]:
        """Positions of the reference's nodes, in Å."""
        return torch.from_numpy(self.nodes.positions).float()

    def density(self) -> Density:
        """What its images are made of."""
        atoms = (
            read_structure(self.folder / "atoms.cif")
            if self.config.density == "atoms"
            else self.nodes
        )
        return make_density(self.config, atoms, self.nodes)

    def latents(self) -> Float[Tensor, "particle latent"]:
        """Latent mean of every particle; inferred once and kept in `latents.npy` until the checkpoint changes."""
        path, checkpoint = self.folder / "latents.npy", self.folder / "checkpoint.pt"
        if path.exists() and path.stat().st_mtime >= checkpoint.stat().st_mtime:
            return torch.from_numpy(np.load(path))
        particles = self.inputs.read_particles()
        vectors = open_vectors(particles, self.band, invert=self.inputs.invert, spill=self.folder)
        return save_latents(self.folder, self.model, training_data(particles, vectors), self.view)

    def components(self) -> PrincipalComponents:
        """Principal components of the latents; the first leads away from the reference."""
        return components_from_reference(self.model.decoder, self.latents(), self.reference)

    def metrics(self) -> dict[str, list[float]]:
        """The columns of `metrics.csv`; none before the first line is written. A last line that was cut is left out."""
        lines = (self.folder / "metrics.csv").read_text(encoding="utf-8").splitlines(keepends=True)
        rows = list(csv.DictReader(line for line in lines if line.endswith("\n")))
        return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}


@torch.no_grad()
def infer_latents(
    model: DeformationVAE, data: TrainingData, view: StructureView | None
) -> Float[Tensor, "particle latent"]:
    """The latent mean of every particle, on the CPU."""
    return torch.cat([model.encoder(inputs)[0] for inputs in encoder_inputs(data, view)]).cpu()


def save_latents(
    folder: Path, model: DeformationVAE, data: TrainingData, view: StructureView | None
) -> Float[Tensor, "particle latent"]:
    """Infer the latent mean of every particle and write `latents.npy`."""
    latents = infer_latents(model, data, view)
    with replacing(folder / "latents.npy") as temporary:
        np.save(temporary, latents.numpy())
    return latents


def open_run(folder: Path | str) -> Run:
    """Load a run's last checkpoint, on the CPU, ready for inference."""
    folder = Path(folder)
    settings = read_config(folder)
    checkpoint = folder / "checkpoint.pt"
    if not checkpoint.exists():
        raise InputError(
            f"{folder}: has no checkpoint yet (checkpoint.pt); train it anew, without --resume"
        )
    nodes = read_nodes(folder / "reference.cif")
    view = make_view(settings.train, nodes, settings.band)
    model = build_model(
        settings.train, settings.model, nodes, settings.band, view, find_modes=False
    )
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        weights, step = state["model"], int(state["step"])
    except (RuntimeError, EOFError, KeyError, TypeError, OSError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{checkpoint}: is damaged, or no checkpoint ({type(error).__name__}); train into a new --out"
        ) from error
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            f"{checkpoint}: does not fit the network that config.json beside it describes; restore the two of one run"
        ) from error
    return Run(folder, settings, nodes, view, model.eval(), step)


def evaluate_run(folder: Path | str, truth: Path | str) -> dict[str, Any]:
    """Compare a run with `truth.npz` of its simulation; write and return `evaluation.json`."""
    run = open_run(folder)
    path = existing_file(truth, "the truth.npz of a simulation")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in ("state", "positions")}
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise InputError(f"{path}: is not the truth.npz of a simulation ({error})") from error
    metrics = run.metrics()
    seconds = metrics["seconds"][-1] / run.step if metrics else float("nan")
    result = {
        "method": run.config.method,
        "steps": run.step,
        "seed": run.config.seed,
        "seconds_per_step": seconds,
    }
    result |= evaluate(run.model.decoder, run.latents(), run.nodes, values)
    write_json(run.folder / "evaluation.json", result)
    return result
