"""The time that no training step can beat on this machine: necessary work over two ceilings.

    python benchmarks/floor.py [--device cuda]

The work of each part is counted by the formulas of `step_work`, which README.md explains. The
ceilings are measured: the rate of a float32 matrix product, and that of a copy in memory. A part
takes at least the longer of the two times that they give. Prints the table for 214 and 13,936
nodes, with both presets, and writes it to `results/floor.md`.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from common import (
    BATCH,
    RESULTS,
    figures,
    machine,
    machine_line,
    milliseconds,
    molecule,
    quarter_band,
    table,
)

from cryostar_nb.config import PRESETS, ModelConfig
from cryostar_nb.density import Density, make_density
from cryostar_nb.encoders import StructureEncoder, make_encoder
from cryostar_nb.fast.grid_cpu import DEGREE, WINDOW
from cryostar_nb.fast.nufft import plan
from cryostar_nb.fourier import Band
from cryostar_nb.io.files import write_text
from cryostar_nb.structure import Structure, bonds, elastic_edges

FLOAT, HALF = 4, 2  # bytes


@dataclass(frozen=True)
class Ceilings:
    """What a machine can do at most."""

    operations: float  # floating-point operations a second, of a float32 matrix product
    bytes: float  # read or written a second, by a copy

    def or_better(self, other: "Ceilings") -> "Ceilings":
        """The higher of each."""
        return Ceilings(max(self.operations, other.operations), max(self.bytes, other.bytes))


@dataclass(frozen=True)
class Work:
    """What a part has to do, whoever writes it."""

    operations: float
    bytes: float  # to and from memory, each array once: what fits a cache in between is free

    def milliseconds(self, ceilings: Ceilings) -> float:
        """The longer of the two times."""
        return 1e3 * max(self.operations / ceilings.operations, self.bytes / ceilings.bytes)


def measure_ceilings(device: str = "cpu") -> Ceilings:
    """The best of several tries: a busy moment of the machine must not lower them."""
    side, length = (8192, 1 << 28) if device.startswith("cuda") else (2048, 1 << 26)
    a, b, c = (torch.rand(side, side, device=device) for _ in range(3))
    source, target = torch.rand(2, length, device=device)
    tries: list[dict[str, float]] = []
    for _ in range(5):
        parts = {"product": lambda: torch.mm(a, b, out=c), "copy": lambda: target.copy_(source)}
        tries.append(milliseconds(parts, 1, warm_up=1, device=device))
    product, copy = (1e-3 * min(times[name] for times in tries) for name in ("product", "copy"))
    return Ceilings(operations=2 * side**3 / product, bytes=2 * length * FLOAT / copy)


def layer_sizes(sizes: tuple[int, ...]) -> list[int]:
    """Parameters of each linear layer of a network, its weights and biases."""
    return [(inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes)]


def projection_operations(nodes: int, band: Band) -> float:
    """Of one image, forward and backward, by matrix products or by spreading: the fewer of them."""
    m, size = band.max_index, plan(band, torch.device("cpu"), torch.float32).size
    # Two tables of powers; a product and its two gradients.
    exact = nodes * (2 * 6 * (m + 1) + 3 * 2 * (2 * (m + 1)) ** 2)
    # Windows along x and y: forward, and with their slopes backward.
    windows = 2 * WINDOW * 2 * (DEGREE + DEGREE + DEGREE - 1)
    # Onto the grid; off it through the window and through its slope.
    spread = nodes * (windows + 3 * 2 * WINDOW**2)
    one_axis = 5 * size * math.log2(size)  # of a complex transform; half for a real one
    # Along y, only the columns of the band.
    transforms = 2 * (size * one_axis / 2 + (m + 1) * one_axis)
    return min(exact, spread + transforms)


@dataclass(frozen=True)
class Sizes:
    """What the work of a step depends on."""

    nodes: int
    bonds: int
    edges: int
    gaussians: int  # that the images are made of
    carried: bool  # whether they go with the frames of nodes
    turning: bool  # whether the decoder says how they turn, beside where the nodes are
    looks: int  # numbers that the encoder is given
    band: Band


def step_work(
    sizes: Sizes, batch: int = BATCH, model: ModelConfig | None = None
) -> dict[str, Work]:
    """Operations and bytes of each part of a step, forward and backward (reasons: README.md)."""
    model, band, nodes, gaussians = model or ModelConfig(), sizes.band, sizes.nodes, sizes.gaussians
    b, c, pairs = batch, band.size // 2, sizes.bonds + sizes.edges
    encoder = layer_sizes((sizes.looks, *model.encoder_widths, 2 * model.latent_dim))
    decoded = (6 if sizes.turning else 3) * nodes
    decoder = layer_sizes((model.latent_dim, *model.decoder_widths, decoded))
    p_e, p_d = sum(encoder), sum(decoder)
    vectors, looks, structures = b * band.size, b * sizes.looks, b * 3 * nodes  # in a batch
    read = vectors if looks == vectors else vectors + looks
    carrying = 140 * nodes + 36 * gaussians if sizes.carried else 0
    return {
        "loading": Work(read, HALF * read),
        "encoder": Work(2 * b * (3 * p_e - encoder[0]), FLOAT * (3 * p_e - encoder[0] + looks)),
        "decoder": Work(2 * b * 3 * p_d, FLOAT * (3 * p_d + 2 * b * decoded)),
        "projector": Work(
            b * (projection_operations(gaussians, band) + 24 * gaussians + carrying + 30 * c)
            + 10 * vectors,
            FLOAT * (2 * b * decoded + vectors),
        ),
        "structural losses": Work(
            b * (34 * pairs + 30 * nodes), FLOAT * (2 * structures + 3 * pairs)
        ),
        "optimiser": Work(12 * (p_e + p_d), 7 * FLOAT * (p_e + p_d)),
    }


def sizes_of(preset: str, density: Density, nodes: Structure, band: Band) -> Sizes:
    """Those of a molecule with a preset and its density."""
    config = dataclasses.replace(PRESETS[preset], low_pass=band.resolution)
    encoder = make_encoder(config, ModelConfig(), torch.from_numpy(nodes.positions).float(), band)
    looks = encoder.look_size if isinstance(encoder, StructureEncoder) else band.size
    edges = len(elastic_edges(nodes, config.elastic_cutoff))
    carried = density.carried is not None
    turning = carried and config.side_chain_sd > 0
    sizes = len(nodes), len(bonds(nodes)), edges, len(density.amplitudes)
    return Sizes(*sizes, carried, turning, looks, band)


def main(
    device: str = "cpu",
    nodes: Annotated[tuple[int, ...], tyro.conf.arg(help="numbers of nodes")] = (214, 13_936),
) -> None:
    """Measure the ceilings; print the floor of a step: 128 x 128 pixels and the paper's network."""
    ceilings, here = measure_ceilings(device), machine(device)
    text = machine_line(here) + "\n\n"
    text += f"Ceilings: {ceilings.operations / 1e9:,.0f} GFLOP/s (float32 matrix product), "
    text += f"{ceilings.bytes / 1e9:,.1f} GB/s (copy).\n"
    for count, preset in itertools.product(nodes, PRESETS):
        atoms, structure = molecule(count)
        band = quarter_band(structure, 128)
        config = dataclasses.replace(PRESETS[preset], low_pass=band.resolution)
        sizes = sizes_of(preset, make_density(config, atoms, structure), structure, band)
        work = step_work(sizes)
        rows = [
            [
                name,
                figures(part.operations / 1e6),
                figures(part.bytes / 1e6),
                figures(part.milliseconds(ceilings)),
            ]
            for name, part in work.items()
        ]
        operations = sum(part.operations for part in work.values()) / 1e6
        megabytes = sum(part.bytes for part in work.values()) / 1e6
        floor = sum(part.milliseconds(ceilings) for part in work.values())
        total = [figures(operations), figures(megabytes), f"**{figures(floor)}**"]
        rows.append(["**step**", *total])
        text += (
            f"\n`{preset}`, N = {count:,}, {sizes.edges:,} edges, {sizes.gaussians:,} Gaussians, "
        )
        text += f"128 × 128 pixels, {sizes.band.size:,} numbers a particle, "
        text += f"{sizes.looks:,} for the encoder, batch {BATCH}:\n\n"
        text += table(["part", "MFLOP", "MB", "floor, ms"], rows)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    write_text(RESULTS / "floor.md", text)


if __name__ == "__main__":
    tyro.cli(main)
