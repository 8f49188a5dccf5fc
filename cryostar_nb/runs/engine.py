"""What surrounds the training loop on a real machine."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.io.particles import Particles
from cryostar_nb.io.vectors import VectorFile
from cryostar_nb.training import TrainingData


def training_data(
    particles: Particles,
    vectors: Float[Tensor, "particle band"] | VectorFile,
    device: torch.device | None = None,
) -> TrainingData:
    """What training reads, poses and CTF on a device, the CPU by default."""
    device = device or torch.device("cpu")
    assert particles.ctf is not None
    return TrainingData(
        vectors, particles.rotations.float().to(device), particles.ctf.to(torch.float32).to(device)
    )
