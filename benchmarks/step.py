"""Time of a training step, and of its parts, on this machine.

    python benchmarks/step.py

The network is the paper's, the molecule adenylate kinase, the images 128 x 128 at 1 Å low-passed to 4 Å, batch 64; pixels are
noise, which costs what pictures cost. A part's time is that of running it alone, forward and backward, the median over the
repeats; the parts are interleaved, so that a busy moment of the machine falls on all of them. Results go to
`benchmarks/results/`.
"""

import datetime
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cryostar_nb.fourier import Band
from cryostar_nb.losses import correlation_loss, kl_divergence
from cryostar_nb.models import DeformationVAE, ModelConfig
from cryostar_nb.projector import make_images
from cryostar_nb.simulation import SimulationConfig, draw_particles
from cryostar_nb.structure_files import read_nodes
from cryostar_nb.training import Restraints, TrainConfig, TrainingData, train

HERE = Path(__file__).parent
REPEATS, BATCH, PARTICLES = 40, 64, 4000


def main() -> None:
    config = TrainConfig(steps=300)
    nodes, band = read_nodes(HERE.parent / "data" / "1ake.pdb"), Band(128, 1.0, config.low_pass)
    drawn = draw_particles(SimulationConfig(n_particles=PARTICLES), Path("none"), Path("none"), np.random.default_rng(0))
    assert drawn.ctf is not None
    data = TrainingData(torch.randn(PARTICLES, band.size), drawn.rotations.float(), drawn.ctf.to(torch.float32))
    model = DeformationVAE(band.size, torch.from_numpy(nodes.positions).float(), ModelConfig())
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    restraints = Restraints(nodes, config, torch.device("cpu"))
    amplitudes, sigma = torch.from_numpy(nodes.electrons).float(), torch.tensor(config.sigma)
    batch = data[torch.arange(BATCH)]
    positions = (model.decoder.reference + torch.randn(BATCH, len(nodes), 3)).requires_grad_()
    restraints.watch_clashes(positions)
    latent = torch.randn(BATCH, model.latent_dim)

    def loading() -> None:
        _ = data[torch.randint(PARTICLES, (BATCH,))]

    def encoder() -> None:
        kl_divergence(*model.encoder(batch.vectors)).backward()

    def decoder() -> None:
        model.decoder(latent).sum().backward()

    def projector() -> None:
        images = make_images(positions, amplitudes, sigma, band, rotations=batch.rotations, ctf=batch.ctf)
        correlation_loss(batch.vectors, images).backward()

    def structural_losses() -> None:
        torch.stack(list(restraints.losses(positions).values())).sum().backward()

    def optimiser_step() -> None:
        optimiser.step()

    parts = [loading, encoder, decoder, projector, structural_losses, optimiser_step]
    times: dict[str, list[float]] = {part.__name__: [] for part in parts}
    for repeat in range(REPEATS + 5):
        for part in parts:
            began = time.perf_counter()
            part()
            if repeat >= 5:
                times[part.__name__].append(time.perf_counter() - began)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        train(config, data, nodes, band, Path(folder))
        whole = (time.perf_counter() - began) / config.steps
    milliseconds = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    total = sum(milliseconds.values())
    print(f"{'part':20s}{'ms':>8s}{'share':>8s}")
    for name, value in milliseconds.items():
        print(f"{name:20s}{value:8.2f}{value / total:8.0%}")
    print(f"{'sum of the parts':20s}{total:8.2f}\n{'a step of train()':20s}{1e3 * whole:8.2f}")
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    result = {"date": datetime.date.today().isoformat(), "machine": machine, "milliseconds": milliseconds, "step_milliseconds": 1e3 * whole}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "step.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
