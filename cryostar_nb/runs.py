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

from cryostar_nb.agreement import agreement_with_map
from cryostar_nb.density import Density, atom_density, node_density
from cryostar_nb.errors import InputError
from cryostar_nb.evaluation import PrincipalComponents, components_from_reference, evaluate
from cryostar_nb.files import check_outputs, existing_file, replacing, write_json
from cryostar_nb.fourier import Band
from cryostar_nb.hardware import Hardware, start_fabric
from cryostar_nb.loading import resident
from cryostar_nb.maps import read_map
from cryostar_nb.models import DeformationVAE, ModelConfig
from cryostar_nb.particles import Particles
from cryostar_nb.run_config import InputFiles, RunConfig, read_config
from cryostar_nb.structure import Structure
from cryostar_nb.structure_files import read_atoms_and_nodes, read_nodes, read_structure, write_structure
from cryostar_nb.train_config import TrainConfig
from cryostar_nb.training import TrainingData, build_model, encoder_inputs, make_view, train
from cryostar_nb.vectors import VectorFile, open_vectors
from cryostar_nb.view import StructureView

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
        atoms = read_structure(self.folder / "atoms.cif") if self.config.density == "atoms" else self.nodes
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
def infer_latents(model: DeformationVAE, data: TrainingData, view: StructureView | None) -> Float[Tensor, "particle latent"]:
    """The latent mean of every particle, on the CPU."""
    return torch.cat([model.encoder(inputs)[0] for inputs in encoder_inputs(data, view)]).cpu()


def save_latents(folder: Path, model: DeformationVAE, data: TrainingData, view: StructureView | None) -> Float[Tensor, "particle latent"]:
    """Infer the latent mean of every particle and write `latents.npy`."""
    latents = infer_latents(model, data, view)
    with replacing(folder / "latents.npy") as temporary:
        np.save(temporary, latents.numpy())
    return latents


def training_data(
    particles: Particles, vectors: Float[Tensor, "particle band"] | VectorFile, device: torch.device | None = None
) -> TrainingData:
    """What training reads, poses and CTF on a device, the CPU by default."""
    device = device or torch.device("cpu")
    assert particles.ctf is not None
    return TrainingData(vectors, particles.rotations.float().to(device), particles.ctf.to(torch.float32).to(device))


def start_run(
    inputs: InputFiles, config: TrainConfig, out: Path | str, *, resume: bool = False, hardware: Hardware | None = None
) -> Run | None:
    """Train on the user's files, in the folder `out`, and infer the latents. In a distributed run the first process returns.

    Everything is checked before anything is written. Raises InputError when `out` holds anything and `resume` is not set (but
    for a run that has no checkpoint yet), and when it holds no run that can go on with these files and settings and `resume` is.
    """
    out, hardware = Path(out), hardware or Hardware()
    hardware.check()
    check_outputs([out / name for name in FILES], inputs=(inputs.particles, inputs.reference, *inputs.reading.files()), overwrite=True)
    before = open_run(out) if resume else None
    if before is None:
        check_free(out)
    else:
        for path, name in ((inputs.particles, "PARTICLES"), (inputs.reference, "--reference FILE")):
            if not path.exists():
                raise InputError(
                    f"{path}: there is no such file, and {out} was trained on it; say where it is now: train {name} --resume ..."
                )
    atoms, nodes = read_atoms_and_nodes(inputs.reference)
    density = make_density(config, atoms, nodes)
    particles = inputs.read_particles()
    config.check(len(particles), hardware.devices * hardware.num_nodes)
    sizes = ModelConfig() if before is None else before.settings.model
    settings = RunConfig(inputs, config, sizes, particles.box_size, particles.pixel_size, len(particles))
    band = settings.band
    check_fit(inputs, nodes, particles)
    if config.method == "nma" and config.modes > 3 * len(nodes) - 6:
        raise InputError(f"modes = {config.modes}: {inputs.reference} has {len(nodes)} nodes, and no more than {3 * len(nodes) - 6} modes")
    if before is not None:
        check_can_go_on(before, settings, nodes)
        if config.steps == before.step:
            print(f"{out}: is at its last step, {before.step:,}, already; give a larger --steps to go on")
            before.latents()
            return before
    fabric = start_fabric(hardware)  # here, and not before, other processes come into being: they need no input checked twice
    with fabric.rank_zero_first():  # the others find the file that the first one wrote, if it wrote one
        vectors = open_vectors(particles, band, invert=inputs.invert, memory_gb=hardware.memory_gb, cache=hardware.cache, spill=out)
    if fabric.is_global_zero:
        if before is not None:
            for line in settings.changes_from(before.settings):
                print(f"{out}: from step {before.step + 1:,} on, {line}")
        finest = 2 * particles.pixel_size
        if config.low_pass < finest:
            print(f"{inputs.particles}: its pixels hold no detail of {config.low_pass:g} Å; images are compared down to {finest:g} Å")
        if isinstance(vectors, VectorFile):
            gigabytes = 2 * vectors.size * len(vectors) / 1e9
            print(
                f"{inputs.particles}: {len(vectors):,} particles ({gigabytes:.3g} GB) are more than memory may hold; they are read from {vectors.path}"
            )
        out.mkdir(parents=True, exist_ok=True)
        write_structure(out / "reference.cif", nodes)
        settings.write(out)
        if config.density == "atoms":
            write_structure(out / "atoms.cif", atoms)
    data = training_data(particles, resident(vectors, fabric.device), fabric.device)
    view = make_view(config, nodes, band)
    model = train(config, data, nodes, band, out, density=density, view=view, model_config=sizes, resume=resume, fabric=fabric)
    if not fabric.is_global_zero:
        return None
    save_latents(out, model, data, view)
    return open_run(out)


def low_pass_from_map(reference: Path | str, density: Path | str | None, config: TrainConfig, map_pixel_size: float | None = None) -> float:
    """Resolution, in Å to two decimals, at which the FSC of a reference's density with a consensus map falls to 0.5 (appendix A)."""
    if density is None:
        raise InputError("--low-pass auto needs a consensus map; give --map")
    atoms, nodes = read_atoms_and_nodes(reference)
    made = make_density(config, atoms, nodes)
    centres = made.centres(torch.from_numpy(nodes.positions).float())
    return round(agreement_with_map(centres, made.amplitudes, float(made.sigma), read_map(density, pixel_size=map_pixel_size)).cutoff, 2)


def check_free(out: Path) -> None:
    """Raise InputError for a folder that holds a run with a checkpoint, or files that are no run's."""
    if (out / "checkpoint.pt").exists():
        raise InputError(f"{out}: already holds a run; go on with --resume, or choose another --out")
    if (out / "config.json").exists():
        read_config(out)  # of a run that was stopped before its first checkpoint, and is begun anew
        if (out / "latents.npy").exists():
            raise InputError(f"{out}: holds a run whose checkpoint.pt is gone; restore it, or choose another --out")
    elif out.exists():
        others = sorted(path.name for path in out.iterdir() if not path.name.startswith((".", "vectors")))
        if others:
            raise InputError(f"{out}: holds {others[0]}, and no run; choose a new or an empty folder (--out)")


def check_can_go_on(before: Run, settings: RunConfig, nodes: Structure) -> None:
    """Raise InputError when a run that is to be resumed was trained on something else, or further."""
    help_ = "resume with the same, or train into a new --out"
    if settings.band != before.band:
        was, wanted = (f"{b.box_size} pixels of {b.pixel_size:g} Å down to {b.resolution:g} Å" for b in (before.band, settings.band))
        raise InputError(f"{before.folder}: was trained on images of {was}, not of {wanted}; {help_}")
    if settings.n_particles != before.settings.n_particles:
        was, wanted = f"{before.settings.n_particles:,}", f"{settings.n_particles:,}"
        raise InputError(f"{before.folder}: was trained on {was} particles, not on {wanted}; {help_}")
    for name in ("method", "modes", "encoder_input", "density"):
        was, wanted = getattr(before.config, name), getattr(settings.train, name)
        if was != wanted:
            raise InputError(f"{before.folder}: was trained with {name} = {was}, not {wanted}; {help_}")
    difference = difference_of(before.nodes, nodes)
    if difference:
        raise InputError(f"{before.folder}: was trained on another reference: {difference}; {help_}")
    steps = settings.train.steps
    if steps < before.step:
        raise InputError(f"{before.folder}: is at step {before.step:,} already, and steps = {steps:,}; give a larger --steps")


def difference_of(first: Structure, second: Structure) -> str:
    """What tells two references apart, in words; nothing where they are the same, to the digits of a file."""
    if len(first) != len(second):
        return f"{len(first)} nodes, not {len(second)}"
    for atom in range(len(first)):
        was, wanted = first.residue_label(atom), second.residue_label(atom)
        if was != wanted:
            return f"node {atom + 1} is {was}, not {wanted}"
    apart = float(np.abs(first.positions - second.positions).max())
    return f"its nodes lie up to {apart:.3g} Å from these" if apart > 0.01 else ""


def make_density(config: TrainConfig, atoms: Structure, nodes: Structure) -> Density:
    """What the images of a run are made of."""
    return atom_density(atoms, config.atom_sigma) if config.density == "atoms" else node_density(nodes, config.sigma)


def check_fit(inputs: InputFiles, nodes: Structure, particles: Particles) -> None:
    """Raise InputError when the reference reaches out of the box: it is not docked, or the pixel size is wrong."""
    reach, half_box = float(np.linalg.norm(nodes.positions, axis=-1).max()), particles.box_size * particles.pixel_size / 2
    if reach > half_box:
        raise InputError(
            f"{inputs.reference}: a residue lies {reach:.0f} Å from the origin, outside the particles' half box of {half_box:.0f} Å; place the model in the frame of the poses, its centre near the origin"
        )


def open_run(folder: Path | str) -> Run:
    """Load a run's last checkpoint, on the CPU, ready for inference."""
    folder = Path(folder)
    settings = read_config(folder)
    checkpoint = folder / "checkpoint.pt"
    if not checkpoint.exists():
        raise InputError(f"{folder}: has no checkpoint yet (checkpoint.pt); train it anew, without --resume")
    nodes = read_nodes(folder / "reference.cif")
    view = make_view(settings.train, nodes, settings.band)
    model = build_model(settings.train, settings.model, nodes, settings.band, view, find_modes=False)
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        weights, step = state["model"], int(state["step"])
    except (RuntimeError, EOFError, KeyError, TypeError, OSError, pickle.UnpicklingError) as error:
        raise InputError(f"{checkpoint}: is damaged, or no checkpoint ({type(error).__name__}); train into a new --out") from error
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
    result = {"method": run.config.method, "steps": run.step, "seed": run.config.seed, "seconds_per_step": seconds}
    result |= evaluate(run.model.decoder, run.latents(), run.nodes, values)
    write_json(run.folder / "evaluation.json", result)
    return result
