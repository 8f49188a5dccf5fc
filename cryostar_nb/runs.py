"""A run folder: start one, open one, and read what it holds.

`config.json` says what was trained, on what; `reference.cif` is the coarse-grained reference, `atoms.cif` all of it where the
density is that of the atoms; `checkpoint.pt` and `metrics.csv` come from training; `latents.npy` is the latent mean of every
particle, (particle, latent).
"""

import csv
import dataclasses
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.agreement import agreement_with_map
from cryostar_nb.density import Density, atom_density, node_density
from cryostar_nb.errors import InputError
from cryostar_nb.evaluation import evaluate
from cryostar_nb.files import check_outputs, existing_file, replacing, write_json
from cryostar_nb.fourier import Band
from cryostar_nb.hardware import Hardware, start_fabric
from cryostar_nb.loading import resident
from cryostar_nb.maps import read_map
from cryostar_nb.models import DeformationVAE, ModelConfig
from cryostar_nb.particles import Particles
from cryostar_nb.reading import Reading, read_particles
from cryostar_nb.structure import Structure
from cryostar_nb.structure_files import read_atoms_and_nodes, read_nodes, read_structure, write_structure
from cryostar_nb.training import TrainConfig, TrainingData, build_model, encoder_inputs, make_view, train
from cryostar_nb.vectors import VectorFile, open_vectors
from cryostar_nb.view import StructureView

FILES = ("config.json", "reference.cif", "atoms.cif", "checkpoint.pt", "metrics.csv", "latents.npy")
PATHS = ("particles", "reference", "root", "passthrough", "poses_pkl", "ctf_pkl")  # among the settings in config.json


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
class Run:
    """A trained, or partly trained, model with all that it was trained on."""

    folder: Path
    inputs: InputFiles
    config: TrainConfig
    nodes: Structure
    band: Band
    view: StructureView | None
    model: DeformationVAE
    sizes: ModelConfig
    n_particles: int | None  # None: a version that did not note it
    step: int

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

    def metrics(self) -> dict[str, list[float]]:
        """The columns of `metrics.csv`."""
        with (self.folder / "metrics.csv").open(newline="") as handle:
            rows = list(csv.DictReader(handle))
        return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}


@torch.no_grad()
def save_latents(folder: Path, model: DeformationVAE, data: TrainingData, view: StructureView | None) -> Float[Tensor, "particle latent"]:
    """Infer the latent mean of every particle and write `latents.npy`."""
    latents = torch.cat([model.encoder(inputs)[0] for inputs in encoder_inputs(data, view)]).cpu()
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
    band = Band(particles.box_size, particles.pixel_size, config.low_pass)
    check_fit(inputs, nodes, particles)
    if config.method == "nma" and config.modes > 3 * len(nodes) - 6:
        raise InputError(f"modes = {config.modes}: {inputs.reference} has {len(nodes)} nodes, and no more than {3 * len(nodes) - 6} modes")
    if before is not None:
        check_can_go_on(before, config, nodes, band, len(particles))
        if config.steps == before.step:
            print(f"{out}: is at its last step, {before.step:,}, already; give a larger --steps to go on")
            before.latents()
            return before
    sizes = ModelConfig() if before is None else before.sizes
    fabric = start_fabric(hardware)  # here, and not before, other processes come into being: they need no input checked twice
    with fabric.rank_zero_first():  # the others find the file that the first one wrote, if it wrote one
        vectors = open_vectors(particles, band, invert=inputs.invert, memory_gb=hardware.memory_gb, cache=hardware.cache, spill=out)
    if fabric.is_global_zero:
        if before is not None:
            for line in changes(before, inputs, config):
                print(f"{out}: from step {before.step + 1:,} on, {line}")
        finest = 2 * particles.pixel_size
        if config.low_pass < finest:
            print(f"{inputs.particles}: its pixels hold no detail of {config.low_pass:g} Å; images are compared down to {finest:g} Å")
        if isinstance(vectors, VectorFile):
            gigabytes = 2 * vectors.size * len(vectors) / 1e9
            print(
                f"{inputs.particles}: {len(vectors):,} particles ({gigabytes:.3g} GB) are more than memory may hold; they are read from {vectors.path}"
            )
        describe_run(out, inputs, config, nodes, band, len(particles), sizes)
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


def check_can_go_on(before: Run, config: TrainConfig, nodes: Structure, band: Band, particles: int) -> None:
    """Raise InputError when a run that is to be resumed was trained on something else, or further."""
    help_ = "resume with the same, or train into a new --out"
    if band != before.band:
        was, wanted = (f"{b.box_size} pixels of {b.pixel_size:g} Å down to {b.resolution:g} Å" for b in (before.band, band))
        raise InputError(f"{before.folder}: was trained on images of {was}, not of {wanted}; {help_}")
    if before.n_particles not in (None, particles):
        raise InputError(f"{before.folder}: was trained on {before.n_particles:,} particles, not on {particles:,}; {help_}")
    for name in ("method", "modes", "encoder_input", "density"):
        was, wanted = getattr(before.config, name), getattr(config, name)
        if was != wanted:
            raise InputError(f"{before.folder}: was trained with {name} = {was}, not {wanted}; {help_}")
    difference = difference_of(before.nodes, nodes)
    if difference:
        raise InputError(f"{before.folder}: was trained on another reference: {difference}; {help_}")
    if config.steps < before.step:
        raise InputError(f"{before.folder}: is at step {before.step:,} already, and steps = {config.steps:,}; give a larger --steps")


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


def changes(before: Run, inputs: InputFiles, config: TrainConfig) -> list[str]:
    """The settings and files of a run that are not what they were."""
    was, now = vars(before.config), vars(config)
    lines = [f"{name} = {now[name]}, not {was[name]}" for name in now if now[name] != was[name]]
    for name, old in _plain_inputs(before.inputs).items():
        new = _plain_inputs(inputs)[name]
        lines += [f"{name} is {new}, not {old}"] * (new != old)
    return lines


def make_density(config: TrainConfig, atoms: Structure, nodes: Structure) -> Density:
    """What the images of a run are made of."""
    return atom_density(atoms, config.atom_sigma) if config.density == "atoms" else node_density(nodes, config.sigma)


def describe_run(
    out: Path, inputs: InputFiles, config: TrainConfig, nodes: Structure, band: Band, particles: int, sizes: ModelConfig
) -> None:
    """Write `reference.cif` and `config.json`."""
    out.mkdir(parents=True, exist_ok=True)
    write_structure(out / "reference.cif", nodes)
    grid = {"box_size": band.box_size, "pixel_size": band.pixel_size, "n_particles": particles}
    settings = {"train": dataclasses.asdict(config), "model": dataclasses.asdict(sizes)}
    write_json(out / "config.json", {"inputs": _plain_inputs(inputs), "grid": grid} | settings)


def _plain_inputs(inputs: InputFiles) -> dict[str, Any]:
    reading = {name: _plain(value) for name, value in vars(inputs.reading).items()}
    return {name: _plain(value) for name, value in vars(inputs).items()} | {"reading": reading}


def _plain(value: Any) -> Any:
    """A path as an absolute name, anything else as it is."""
    return str(value.resolve()) if isinstance(value, Path) else value


def _with_paths(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: Path(value) if name in PATHS and value else value for name, value in settings.items()}


def check_fit(inputs: InputFiles, nodes: Structure, particles: Particles) -> None:
    """Raise InputError when the reference reaches out of the box: it is not docked, or the pixel size is wrong."""
    reach, half_box = float(np.linalg.norm(nodes.positions, axis=-1).max()), particles.box_size * particles.pixel_size / 2
    if reach > half_box:
        raise InputError(
            f"{inputs.reference}: a residue lies {reach:.0f} Å from the origin, outside the particles' half box of {half_box:.0f} Å; place the model in the frame of the poses, its centre near the origin"
        )


def read_config(folder: Path | str) -> dict[str, Any]:
    """The contents of a run's `config.json`, with `inputs` and `train` as their dataclasses."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise InputError(f"{folder}: is not a run folder (it has no config.json); give the --out of `cryostar-nb train`")
    try:
        values = json.loads(path.read_text())
        files = _with_paths(values["inputs"])
        files["reading"] = Reading(**_with_paths(files["reading"]))
        model: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values["model"].items()}
        _check_kinds(values["train"], vars(TrainConfig()), get_type_hints(TrainConfig))
        _check_kinds(values["grid"], {"box_size": 1, "pixel_size": 1.0, "n_particles": None}, {})
        return {
            "inputs": InputFiles(**files),
            "train": TrainConfig(**values["train"]),
            "model": ModelConfig(**model),
            "grid": values["grid"],
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: is not a configuration that this version wrote ({' '.join(str(error).split())[:200]}); train into a new --out"
        ) from error


def _check_kinds(values: dict[str, Any], usual: dict[str, Any], hints: dict[str, Any]) -> None:
    """Raise TypeError for a value that is of another kind than the usual one, or not one of the words that its type lists."""
    for name, value in values.items():
        default, words = usual.get(name), get_args(hints.get(name))
        if isinstance(default, str):
            good = value in words
        elif isinstance(default, bool) or isinstance(value, bool):
            good = isinstance(default, bool) and isinstance(value, bool)
        else:
            good = isinstance(value, int if isinstance(default, int) else int | float) or (default is None and value is None)
        if not good:
            raise TypeError(f"{name} = {value!r}")


def open_run(folder: Path | str) -> Run:
    """Load a run's last checkpoint, on the CPU, ready for inference."""
    folder = Path(folder)
    values = read_config(folder)
    checkpoint = folder / "checkpoint.pt"
    if not checkpoint.exists():
        raise InputError(f"{folder}: has no checkpoint yet (checkpoint.pt); train it anew, without --resume")
    nodes = read_nodes(folder / "reference.cif")
    band = Band(values["grid"]["box_size"], values["grid"]["pixel_size"], values["train"].low_pass)
    view = make_view(values["train"], nodes, band)
    model = build_model(values["train"], values["model"], nodes, band, view, find_modes=False)
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
    return Run(
        folder,
        values["inputs"],
        values["train"],
        nodes,
        band,
        view,
        model.eval(),
        values["model"],
        values["grid"].get("n_particles"),
        step,
    )


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
