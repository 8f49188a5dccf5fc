"""Start a run, or go on with one: everything is checked before anything is written."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cryostar_nb.config import ModelConfig, TrainConfig
from cryostar_nb.density import Density, make_density
from cryostar_nb.encoders import ImageEncoder, StructureEncoder, make_encoder
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band
from cryostar_nb.io.batches import resident
from cryostar_nb.io.files import check_outputs
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.problems import read_and_tell
from cryostar_nb.io.structures import read_atoms_and_nodes, read_structure, write_structure
from cryostar_nb.io.tables import available_memory
from cryostar_nb.io.vectors import open_looks, open_vectors
from cryostar_nb.models import DeformationVAE
from cryostar_nb.poses import Corrections
from cryostar_nb.runs.engine import check_batch, run_training, training_data
from cryostar_nb.runs.folder import FILES, open_run
from cryostar_nb.runs.kept import save_latents, save_quality
from cryostar_nb.runs.low_pass import low_pass_from_map
from cryostar_nb.runs.machine import check_hardware, start_fabric
from cryostar_nb.runs.run import Run, band_of
from cryostar_nb.runs.run_config import Grid, Hardware, InputFiles, RunConfig, read_config
from cryostar_nb.structure import Structure
from cryostar_nb.training import TrainingData

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def start_run(
    inputs: InputFiles,
    config: TrainConfig,
    out: Path | str,
    *,
    resume: bool = False,
    hardware: Hardware | None = None,
) -> Run | None:
    """Train on the user's files, in the folder `out`, and infer the latents.

    In a distributed run the first process returns the run, the others None. Raises InputError when
    `out` holds anything and `resume` is not set (but for a run that has no checkpoint yet), and,
    with `resume`, when it holds no run that can go on with these files and settings.
    """
    out, hardware = Path(out), hardware or Hardware()
    check_hardware(hardware)
    read = (inputs.particles, inputs.reference, inputs.map, *inputs.reading.files())
    check_outputs([out / name for name in FILES], inputs=read, overwrite=True)
    before = open_run(out) if resume else None
    if before is None:
        check_free(out)
    else:
        check_moved(before, inputs)
    atoms, nodes = read_atoms_and_nodes(inputs.reference)
    config = find_low_pass(config, inputs, atoms, nodes)
    particles = read_and_tell(inputs.particles, inputs.reading)
    check_batch(config, len(particles), hardware.devices * hardware.num_nodes)
    sizes = ModelConfig() if before is None else before.settings.model
    grid = Grid(particles.box_size, particles.pixel_size, len(particles))
    settings = RunConfig(inputs, grid, config, sizes)
    check_fit(inputs, config, nodes, particles)
    if before is not None:
        check_can_go_on(before, settings, atoms, nodes)
        if has_ended(before, config):
            _ = before.latents  # inferred, where they are missing
            return before
    density = make_density(config, atoms, nodes)
    fabric = start_fabric(hardware)  # other processes begin here: no input is checked twice
    data = _read(settings, particles, nodes, density, hardware, out, fabric)
    if fabric.is_global_zero:
        announce(settings, before, out)
        _write_inputs(settings, atoms, nodes, out)

    run_training(
        config,
        data,
        nodes,
        band_of(settings),
        out,
        density=density,
        model_config=sizes,
        resume=resume,
        fabric=fabric,
        look=partial(_look_again, settings, particles, hardware, out, fabric),
        finished=partial(_conclude, out, density, band_of(settings), fabric),
    )
    return open_run(out) if fabric.is_global_zero else None


def _read(
    settings: RunConfig,
    particles: Particles,
    nodes: Structure,
    density: Density,
    hardware: Hardware,
    out: Path,
    fabric: "Fabric",
) -> TrainingData:
    """The particles as training reads them; the processes share what the first one writes."""
    band, device, invert = band_of(settings), fabric.device, settings.inputs.invert
    folders = _folders(hardware, out)
    with fabric.rank_zero_first():
        vectors = open_vectors(particles, band, invert=invert, **folders)
        data = training_data(particles, resident(vectors, device), device, sigma=density.sigma)
    reference = torch.from_numpy(nodes.positions).float()
    encoder = make_encoder(settings.train, settings.model, reference, band).to(device)
    return _look(settings, particles, fabric, folders, encoder, data)


def _folders(hardware: Hardware, out: Path) -> dict[str, Any]:
    """How much memory tables may take, and where they stay otherwise."""
    memory_gb = hardware.memory_gb or available_memory() / 2e9
    return {"memory_gb": memory_gb, "cache": hardware.cache, "spill": out}


def _look(
    settings: RunConfig,
    particles: Particles,
    fabric: "Fabric",
    folders: dict[str, Any],
    encoder: ImageEncoder | StructureEncoder,
    data: TrainingData,
    *,
    name: str = "looks",
) -> TrainingData:
    """The particles with what the encoder sees of them, in a table of this name."""
    if data.looks is not None or isinstance(encoder, ImageEncoder):
        return data
    band, invert = band_of(settings), settings.inputs.invert
    with fabric.rank_zero_first():
        looks = open_looks(particles, band, encoder, data, name=name, invert=invert, **folders)
    return dataclasses.replace(data, looks=resident(looks, fabric.device, data.vectors))


def _look_again(
    settings: RunConfig,
    particles: Particles,
    hardware: Hardware,
    out: Path,
    fabric: "Fabric",
    encoder: ImageEncoder | StructureEncoder,
    data: TrainingData,
) -> TrainingData:
    """The same with corrected poses, which no other run has: they are not cached."""
    folders = _folders(hardware, out) | {"cache": None}
    return _look(settings, particles, fabric, folders, encoder, data, name="looks_refined")


def _conclude(
    out: Path,
    density: Density,
    band: Band,
    fabric: "Fabric",
    network: DeformationVAE,
    data: TrainingData,
    corrections: Corrections | None,
) -> None:
    """Write what the trained network says of every particle."""
    if fabric.is_global_zero:
        save_latents(out, network, data)
        save_quality(out, network, data, density, band, corrections)


def _write_inputs(settings: RunConfig, atoms: Structure, nodes: Structure, out: Path) -> None:
    """Write what a run is opened with, beside its checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    write_structure(out / "reference.cif", nodes)
    write_structure(out / "atoms.cif", atoms)
    settings.write(out)


def find_low_pass(
    config: TrainConfig, inputs: InputFiles, atoms: Structure, nodes: Structure
) -> TrainConfig:
    """The settings with a number for a low-pass of `auto`, which takes a map."""
    if config.low_pass != "auto":
        return config
    if inputs.map is None:
        raise InputError("--low-pass auto needs a consensus map", remedy="give --map")
    density = make_density(config, atoms, nodes)
    low_pass = low_pass_from_map(density, nodes, inputs.map, inputs.map_pixel_size)
    print(
        f"low-pass {low_pass} Å: there the FSC of {inputs.reference} with {inputs.map} falls to 0.5"
    )
    return dataclasses.replace(config, low_pass=low_pass)


def announce(settings: RunConfig, before: Run | None, out: Path) -> None:
    """Say what changes in a run that goes on, and what the images cannot give."""
    for line in [] if before is None else settings.changes_from(before.settings):
        print(f"{out}: from step {before.step + 1 if before else 1:,} on, {line}")
    finest, low_pass = 2 * settings.grid.pixel_size, settings.train.low_pass
    if isinstance(low_pass, float | int) and low_pass < finest:
        print(
            f"{settings.inputs.particles}: its pixels hold no detail of {low_pass:g} Å;"
            f" images are compared down to {finest:g} Å"
        )


def check_free(out: Path) -> None:
    """Raise InputError for a folder with a run that has a checkpoint, or with other files."""
    if (out / "checkpoint.pt").exists():
        remedy = "go on with --resume, or choose another --out"
        raise InputError("already holds a run", file=out, remedy=remedy)
    if (out / "config.json").exists():
        read_config(out)  # of a run that was stopped before its first checkpoint: it begins anew
        if (out / "latents.npy").exists():
            remedy = "restore it, or choose another --out"
            raise InputError("holds a run whose checkpoint.pt is gone", file=out, remedy=remedy)
    elif out.exists():
        names = sorted(path.name for path in out.iterdir())
        others = [name for name in names if not name.startswith((".", "vectors", "looks"))]
        if others:
            remedy = "choose a new or an empty folder (--out)"
            raise InputError("holds {value}, and no run", file=out, value=others[0], remedy=remedy)


def check_moved(before: Run, inputs: InputFiles) -> None:
    """Raise InputError when a file of a run that is to go on is no longer there."""
    named = {"PARTICLES": inputs.particles, "--reference FILE": inputs.reference}
    for name, path in named.items():
        if not path.exists():
            raise InputError(
                f"there is no such file, and {before.folder} was trained on it",
                file=path,
                remedy=f"say where it is now: train {name} --resume ...",
            )


def check_fit(
    inputs: InputFiles, config: TrainConfig, nodes: Structure, particles: Particles
) -> None:
    """Raise InputError for a reference outside the box, or with fewer modes than asked for."""
    reach = float(np.linalg.norm(nodes.positions, axis=-1).max())
    half_box = particles.box_size * particles.pixel_size / 2
    if reach > half_box:
        raise InputError(
            "a residue lies {value} Å from the origin, outside the particles' half box of"
            f" {half_box:.0f} Å",
            file=inputs.reference,
            value=round(reach),
            remedy="place the model in the frame of the poses, its centre near the origin",
        )
    if config.method == "nma" and config.modes > 3 * len(nodes) - 6:
        raise InputError(
            f"has {len(nodes)} nodes, and modes = {{value}}",
            file=inputs.reference,
            value=config.modes,
            remedy=f"give at most {3 * len(nodes) - 6} --modes",
        )


def check_can_go_on(before: Run, settings: RunConfig, atoms: Structure, nodes: Structure) -> None:
    """Raise InputError when a run that is to go on was trained on something else, or further."""
    stays = ["method", "modes", "encoder_input", "density", "group_correlation", "low_pass"]
    stays += ["side_chain_sd", "decoder"]
    stays += ["held_out", "seed"] if before.config.held_out else ["held_out"]  # it draws them
    was, now = ({name: getattr(c, name) for name in stays} for c in (before.config, settings.train))
    was, now = was | vars(before.settings.grid), now | vars(settings.grid)
    differences = [
        (f"with {name} = {was[name]}", now[name]) for name in now if now[name] != was[name]
    ]
    differences += difference_of(before.nodes, nodes)
    if before.config.density != "nodes":
        differences += difference_of(read_structure(before.folder / "atoms.cif"), atoms)
    for words, value in differences:
        raise InputError(
            f"was trained {words}, not {{value}}",
            file=before.folder,
            value=value,
            remedy="resume with the same, or train into a new --out",
        )
    if settings.train.steps < before.step:
        raise InputError(
            f"is at step {before.step:,} already, and steps = {{value}}",
            file=before.folder,
            value=settings.train.steps,
            remedy="give a larger --steps",
        )


def has_ended(before: Run, config: TrainConfig) -> bool:
    """Whether a run has nothing left to do with these settings; says so."""
    step, found = before.step, before.held_out
    if config.steps == step:
        print(f"{before.folder}: is at its last step, {step:,}; give a larger --steps to go on")
    elif config.stop_early and found and found["stopped_early"]:
        print(f"{before.folder}: stopped early, at step {step:,}; --no-stop-early lets it go on")
    else:
        return False
    return True


def difference_of(first: Structure, second: Structure) -> list[tuple[str, str]]:
    """What tells two references apart, in words of each; nothing where they agree to 0.01 Å."""
    if len(first) != len(second):
        return [(f"on a reference of {len(first)} nodes or atoms", f"{len(second)}")]
    labels = ((a, first.residue_label(a), second.residue_label(a)) for a in range(len(first)))
    for atom, was, now in labels:
        if was != now:
            return [(f"on a reference whose node {atom + 1} is {was}", now)]
    apart = float(np.abs(first.positions - second.positions).max())
    return [("on a reference at another place", f"{apart:.3g} Å away")] if apart > 0.01 else []
