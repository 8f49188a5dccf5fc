"""Time of a training step, and of its parts, beside the floor (floor.py) and the peer (peer.py).

    python benchmarks/step.py [--peer PATH] [--device cuda] [--quick] [--structure FILE]

The settings are those of the two presets, the default first, with a batch of 64 and a band of half
of Nyquist. 214 nodes are adenylate kinase, 1,948 RuvB, any other number a synthetic
complex; `--structure` takes a real one, in the place of the one of its size. Pixels are noise,
which costs what pictures cost.

* A part's time is that of running it alone, forward and backward: the median over the repeats, the
  parts interleaved.
* The step's is that of `run_training()`, loading included: its log tells the time after every few
  steps, and the first few and the last do not count. On one GPU it replays a recorded step; the
  parts there are launched one by one and add up to more. Poses that are corrected have shifts in a
  step, and no round of corrections between steps: a training has five at most, however many its
  steps.
* A round's is the time to correct the pose of a particle once, with one Gauss-Newton iteration.
* The peer's is that of its own step, in the same run and in turn with ours: at 128 x 128 for every
  number of nodes, and at 214 nodes for every box, beside the preset `paper`, whose settings it has;
  with the default the same time is compared. For 214 nodes at 128 x 128 it reads its particles
  as in a run; elsewhere its batch is ready.

Writes results/step.json, step.md, step.svg and step.png.
"""

import contextlib
import csv
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import tyro
from common import (
    BATCH,
    KINASE,
    RESULTS,
    Parts,
    machine,
    milliseconds,
    molecule,
    particle_parameters,
    quarter_band,
    wait,
)
from floor import Work, measure_ceilings, sizes_of, step_work
from step_report import draw, summary

from cryostar_nb.config import PRESETS, ModelConfig, TrainConfig
from cryostar_nb.ctf import ctf_terms
from cryostar_nb.density import Density, make_density
from cryostar_nb.fourier import Band
from cryostar_nb.io.batches import batches_from, gather, resident
from cryostar_nb.io.files import write_json, write_text
from cryostar_nb.io.structures import read_atoms_and_nodes
from cryostar_nb.likelihood import likelihood_loss
from cryostar_nb.losses import Restraints, correlation_loss, kl_divergence
from cryostar_nb.models import make_network
from cryostar_nb.poses import AT_ONCE, Corrections, correct
from cryostar_nb.runs.engine import run_training
from cryostar_nb.runs.machine import keep_freed_memory
from cryostar_nb.structure import Structure
from cryostar_nb.training import TrainingData, with_looks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PARTICLES = 4096
ROUNDS = 3  # runs of training in turn with the peer
SPANS = 4  # stretches of steps that count in each
SPAN_SECONDS = 0.2  # of a stretch, about


def training_data(band: Band, device: str) -> TrainingData:
    """Particles of noise, at half precision, where training would have them."""
    vectors = torch.empty(PARTICLES, band.size, dtype=torch.float16)
    for rows in vectors.split(512):
        rows.copy_(torch.randn(rows.shape))
    rotations, ctf = particle_parameters(PARTICLES)
    vectors = resident(vectors, torch.device(device))
    return TrainingData(vectors, rotations.to(device), ctf_terms(ctf).to(device))


@contextlib.contextmanager
def parts_of(
    config: TrainConfig,
    data: TrainingData,
    nodes: Structure,
    density: Density,
    band: Band,
    device: str,
) -> Iterator[Parts]:
    """The parts of a step.

    `autograd.grad` makes new gradients each time, as a step does; the optimiser's stay as they are.
    """
    on, size = torch.device(device), config.batch_size
    model = make_network(config, ModelConfig(), nodes, band).to(on)
    data = with_looks(model.encoder, data)
    assert data.ctf is not None and data.looks is not None
    its_images = data.looks is data.vectors
    encoder_weights = list(model.encoder.parameters())
    decoder_weights = list(model.decoder.parameters())
    decay = config.weight_decay
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=decay, fused=True)
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    restraints = Restraints(nodes, config, device=on)
    density = density.to(on)
    noise = 0.5 * torch.randn(size, len(nodes), 3, device=on)
    positions = (model.decoder.reference + noise).requires_grad_()
    gradient = torch.randn_like(positions)
    side_chains = getattr(model.decoder, "side_chains", None)
    turns = None if side_chains is None else 0.1 * torch.randn_like(positions)
    image_loss = likelihood_loss if config.image_loss == "likelihood" else correlation_loss
    scale, blur = model.radial_scale, torch.ones(band.size, device=on)
    moving = [x.requires_grad_() for x in (positions, turns) if x is not None]
    latent = torch.randn(size, model.latent_dim, device=on, requires_grad=True)
    with contextlib.closing(batches_from(data.vectors, size, seed=0, device=on)) as batches:
        rows, vectors = next(batches)
        images = vectors.float()
        looks = images if its_images else gather(data.looks, rows, on).float()
        rows = rows.to(on)
        shifts = None if data.shifts is None else data.shifts[rows]
        pose = {"rotations": data.rotations[rows], "ctf": data.ctf[rows], "shifts": shifts}

        def loading() -> None:
            rows, vectors = next(batches)
            vectors.float()
            if not its_images:
                gather(data.looks, rows, on).float()

        def encoder() -> None:
            torch.autograd.grad(kl_divergence(*model.encoder(looks)), encoder_weights)

        def decoder() -> None:
            made = [x for x in model.decoder.deform(latent) if x is not None]
            torch.autograd.grad(made, [latent, *decoder_weights], [gradient] * len(made))

        def projector() -> None:
            predictions, seen = density.images(positions, band, turns=turns, **pose), images
            if scale is not None:
                scale.update(images, predictions.detach())
                predictions = scale(predictions)
            if config.initial_blur > 0:
                seen, predictions = images * blur, predictions * blur
            torch.autograd.grad(image_loss(seen, predictions), moving)

        def structural_losses() -> None:
            losses = restraints.losses(positions)
            torch.autograd.grad(torch.stack(list(losses.values())).sum(), positions)

        def optimiser_step() -> None:
            optimiser.step()

        yield {
            "loading": loading,
            "encoder": encoder,
            "decoder": decoder,
            "projector": projector,
            "structural losses": structural_losses,
            "optimiser": optimiser_step,
        }


def with_shifts(config: TrainConfig, data: TrainingData) -> tuple[TrainConfig, TrainingData]:
    """A training whose steps are those of corrected poses, without the rounds between them."""
    if config.poses == "given":
        return config, data
    shifts = data.rotations.new_zeros(len(data), 2)
    return dataclasses.replace(config, poses="given"), dataclasses.replace(data, shifts=shifts)


def round_time(
    config: TrainConfig, data: TrainingData, nodes: Structure, density: Density, band: Band
) -> float:
    """Milliseconds to correct the pose of a particle once."""
    on, some = data.rotations.device, data.part(slice(0, 2 * AT_ONCE))
    model = make_network(config, ModelConfig(), nodes, band).to(on)
    some = with_looks(model.encoder, some)
    none = Corrections.none(some.rotations, model.decoder.reference.mean(0))
    on_device = density.to(on)

    def one_round() -> None:
        correct(none, some, model, density=on_device, band=band)

    times = milliseconds({"round": one_round}, repeats=3, warm_up=1, device=on.type)
    return times["round"] / len(some)


def train_times(
    config: TrainConfig,
    data: TrainingData,
    nodes: Structure,
    density: Density,
    band: Band,
    span: int,
    fabric: "Fabric | None" = None,
) -> list[float]:
    """Milliseconds a step of training, over stretches of `span` steps.

    Set-up and the first stretch are left out, and the last, which ends with the particles held out.
    """
    config, data = with_shifts(config, data)
    config = dataclasses.replace(config, steps=span * (SPANS + 2), log_every=span)
    with tempfile.TemporaryDirectory() as folder:
        run_training(config, data, nodes, band, Path(folder), density=density, fabric=fabric)
        with (Path(folder) / "metrics.csv").open(newline="") as handle:
            seconds = [float(row["seconds"]) for row in csv.DictReader(handle)]
    return [1e3 * (after - before) / span for before, after in itertools.pairwise(seconds[:-1])]


def peer_step(
    peer: Any, nodes: Structure, band: Band, batch: int, device: str, folder: Path
) -> Callable[[], Any]:
    """A step of the peer: from files for adenylate kinase at 128 x 128, else from a ready batch."""
    from peer import PeerStep

    from cryostar_nb.simulation.options import SimulationConfig
    from cryostar_nb.simulation.particles import simulate

    arrays = (nodes.positions, nodes.electrons, nodes.chains, nodes.residue_numbers)
    box = {"box_size": band.box_size, "pixel_size": band.pixel_size, "low_pass": band.resolution}
    theirs = PeerStep(peer, *arrays, **box, device=device)
    if len(nodes) != 214 or band.box_size != 128 or device != "cpu":
        ready = theirs.noise_batch(batch)
        return lambda: theirs.step(ready)
    config, end = SimulationConfig(n_particles=2000), KINASE.with_name("4ake.pdb")
    simulate(config, start=KINASE, end=end, out=folder)
    loader = theirs.loader(folder / "particles.star", batch)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    return lambda: theirs.step(next(batches))


def measure(
    preset: str,
    of: tuple[Structure, Structure],
    box_size: int,
    batch: int,
    repeats: int,
    device: str,
    peer: Any,
) -> dict[str, Any]:
    """An entry of the table."""
    torch.manual_seed(0)
    atoms, nodes = of
    band = quarter_band(nodes, box_size)
    config = dataclasses.replace(PRESETS[preset], batch_size=batch, low_pass=band.resolution)
    data, density = training_data(band, device), make_density(config, atoms, nodes)
    with parts_of(*with_shifts(config, data), nodes, density, band, device) as parts:
        times = milliseconds(parts, repeats, at_most=5.0, device=device)
    span = int(np.clip(1e3 * SPAN_SECONDS / sum(times.values()), 50 if device != "cpu" else 1, 100))
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        step = None
        if peer is not None:
            step = peer_step(peer, nodes, band, config.batch_size, device, Path(folder))
        for _ in range(ROUNDS):
            ours += train_times(config, data, nodes, density, band, span)
            began = time.perf_counter()
            while step and (len(theirs) < 2 or time.perf_counter() - began < 4 * SPAN_SECONDS):
                wait(device)
                before = time.perf_counter()
                step()
                wait(device)
                theirs.append(1e3 * (time.perf_counter() - before))
    works = step_work(sizes_of(preset, density, nodes, band), batch)
    return {
        "preset": preset,
        "gaussians": len(density.amplitudes),
        "nodes": len(nodes),
        "box_size": box_size,
        "band": band.size,
        "parts": times,
        "step": statistics.median(ours),
        "pose": round_time(config, data, nodes, density, band)
        if config.poses == "refined"
        else None,
        "work": {name: dataclasses.asdict(work) for name, work in works.items()},
        "peer": statistics.median(theirs[1:]) if theirs else None,
    }


def main(
    peer: Path | None = None,
    nodes: tuple[int, ...] = (214, 1948, 13_936),
    boxes: tuple[int, ...] = (64, 128, 256),
    batch: int = BATCH,
    repeats: int = 15,
    device: str = "cpu",
    structure: Path | None = None,
    quick: bool = False,
) -> None:
    """Fill the table. `quick`: two small molecules and boxes. `structure`: a PDB or mmCIF file,
    beside those of `nodes`, or in the place of the one of its size.
    """
    if quick:
        nodes, boxes, repeats = (214, 1948), (64, 128), 5
    keep_freed_memory()  # as training does
    here, modules, entries = machine(device), None, []
    if peer is not None:
        from peer_modules import load

        modules = load(peer)
    molecules = {count: molecule(count) for count in nodes}
    if structure is not None:
        real = read_atoms_and_nodes(structure)
        molecules[len(real[1])] = real
    sources = {} if structure is None else {structure.name: len(real[1])}
    ceilings = measure_ceilings(device)
    for (count, of), box_size in itertools.product(molecules.items(), boxes):
        for preset in PRESETS:
            its = preset == "paper" and (count == 214 or box_size == 128)
            beside = modules if its else None
            entries.append(measure(preset, of, box_size, batch, repeats, device, beside))
            # A busy moment of the machine lowers the ceilings.
            ceilings = ceilings.or_better(measure_ceilings(device))
            took = entries[-1]["step"]
            print(f"{preset:8}  N = {count:6,}  D = {box_size:3}  {took:9.2f} ms", flush=True)
        entries[-2]["peer"] = entries[-1]["peer"]
    for entry in entries:
        works = {name: Work(**work) for name, work in entry["work"].items()}
        entry["floor_parts"] = {name: work.milliseconds(ceilings) for name, work in works.items()}
        entry["floor"] = sum(entry["floor_parts"].values())
    result = {
        "machine": here,
        "batch": batch,
        "structures": sources,
        "ceilings": dataclasses.asdict(ceilings),
        "entries": entries,
    }
    text = summary(result)
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / "step.json", result)
    write_text(RESULTS / "step.md", text)
    draw(result, RESULTS)
    print("\n" + text)


if __name__ == "__main__":
    tyro.cli(main)
