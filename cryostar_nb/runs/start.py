"""Start a run: check files and settings, read the particles, train, and infer the latents."""

from pathlib import Path

import numpy as np

from cryostar_nb.config import ModelConfig, TrainConfig
from cryostar_nb.density import make_density
from cryostar_nb.errors import InputError
from cryostar_nb.io.batches import resident
from cryostar_nb.io.files import check_outputs
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.structures import read_atoms_and_nodes, write_structure
from cryostar_nb.io.vectors import VectorFile, open_vectors
from cryostar_nb.runs.config import InputFiles, RunConfig, read_config
from cryostar_nb.runs.engine import training_data
from cryostar_nb.runs.folder import FILES, Run, open_run, save_latents
from cryostar_nb.runs.machine import Hardware, start_fabric
from cryostar_nb.structure import Structure
from cryostar_nb.training import make_view, train


def start_run(
    inputs: InputFiles,
    config: TrainConfig,
    out: Path | str,
    *,
    resume: bool = False,
    hardware: Hardware | None = None,
) -> Run | None:
    """Train on the user's files, in the folder `out`, and infer the latents. In a distributed run the first process returns.

    Everything is checked before anything is written. Raises InputError when `out` holds anything and `resume` is not set (but
    for a run that has no checkpoint yet), and when it holds no run that can go on with these files and settings and `resume` is.
    """
    out, hardware = Path(out), hardware or Hardware()
    hardware.check()
    check_outputs(
        [out / name for name in FILES],
        inputs=(inputs.particles, inputs.reference, *inputs.reading.files()),
        overwrite=True,
    )
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
    settings = RunConfig(
        inputs, config, sizes, particles.box_size, particles.pixel_size, len(particles)
    )
    band = settings.band
    check_fit(inputs, nodes, particles)
    if config.method == "nma" and config.modes > 3 * len(nodes) - 6:
        raise InputError(
            f"modes = {config.modes}: {inputs.reference} has {len(nodes)} nodes, and no more than {3 * len(nodes) - 6} modes"
        )
    if before is not None:
        check_can_go_on(before, settings, nodes)
        if config.steps == before.step:
            print(
                f"{out}: is at its last step, {before.step:,}, already; give a larger --steps to go on"
            )
            before.latents()
            return before
    fabric = start_fabric(
        hardware
    )  # here, and not before, other processes come into being: they need no input checked twice
    with (
        fabric.rank_zero_first()
    ):  # the others find the file that the first one wrote, if it wrote one
        vectors = open_vectors(
            particles,
            band,
            invert=inputs.invert,
            memory_gb=hardware.memory_gb,
            cache=hardware.cache,
            spill=out,
        )
    if fabric.is_global_zero:
        if before is not None:
            for line in settings.changes_from(before.settings):
                print(f"{out}: from step {before.step + 1:,} on, {line}")
        finest = 2 * particles.pixel_size
        if config.low_pass < finest:
            print(
                f"{inputs.particles}: its pixels hold no detail of {config.low_pass:g} Å; images are compared down to {finest:g} Å"
            )
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
    model = train(
        config,
        data,
        nodes,
        band,
        out,
        density=density,
        view=view,
        model_config=sizes,
        resume=resume,
        fabric=fabric,
    )
    if not fabric.is_global_zero:
        return None
    save_latents(out, model, data, view)
    return open_run(out)


def check_free(out: Path) -> None:
    """Raise InputError for a folder that holds a run with a checkpoint, or files that are no run's."""
    if (out / "checkpoint.pt").exists():
        raise InputError(
            f"{out}: already holds a run; go on with --resume, or choose another --out"
        )
    if (out / "config.json").exists():
        read_config(out)  # of a run that was stopped before its first checkpoint, and is begun anew
        if (out / "latents.npy").exists():
            raise InputError(
                f"{out}: holds a run whose checkpoint.pt is gone; restore it, or choose another --out"
            )
    elif out.exists():
        others = sorted(
            path.name for path in out.iterdir() if not path.name.startswith((".", "vectors"))
        )
        if others:
            raise InputError(
                f"{out}: holds {others[0]}, and no run; choose a new or an empty folder (--out)"
            )


def check_can_go_on(before: Run, settings: RunConfig, nodes: Structure) -> None:
    """Raise InputError when a run that is to be resumed was trained on something else, or further."""
    help_ = "resume with the same, or train into a new --out"
    if settings.band != before.band:
        was, wanted = (
            f"{b.box_size} pixels of {b.pixel_size:g} Å down to {b.resolution:g} Å"
            for b in (before.band, settings.band)
        )
        raise InputError(
            f"{before.folder}: was trained on images of {was}, not of {wanted}; {help_}"
        )
    if settings.n_particles != before.settings.n_particles:
        was, wanted = f"{before.settings.n_particles:,}", f"{settings.n_particles:,}"
        raise InputError(
            f"{before.folder}: was trained on {was} particles, not on {wanted}; {help_}"
        )
    for name in ("method", "modes", "encoder_input", "density"):
        was, wanted = getattr(before.config, name), getattr(settings.train, name)
        if was != wanted:
            raise InputError(
                f"{before.folder}: was trained with {name} = {was}, not {wanted}; {help_}"
            )
    difference = difference_of(before.nodes, nodes)
    if difference:
        raise InputError(
            f"{before.folder}: was trained on another reference: {difference}; {help_}"
        )
    steps = settings.train.steps
    if steps < before.step:
        raise InputError(
            f"{before.folder}: is at step {before.step:,} already, and steps = {steps:,}; give a larger --steps"
        )


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


def check_fit(inputs: InputFiles, nodes: Structure, particles: Particles) -> None:
    """Raise InputError when the reference reaches out of the box: it is not docked, or the pixel size is wrong."""
    reach, half_box = (
        float(np.linalg.norm(nodes.positions, axis=-1).max()),
        particles.box_size * particles.pixel_size / 2,
    )
    if reach > half_box:
        raise InputError(
            f"{inputs.reference}: a residue lies {reach:.0f} Å from the origin, outside the particles' half box of {half_box:.0f} Å; place the model in the frame of the poses, its centre near the origin"
        )
