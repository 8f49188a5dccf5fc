"""What several tests share: a training on the particles of `helix_data`, and a decoder."""

import csv
import dataclasses

import torch
from torch import nn

from cryostar_nb.config import PRESETS, ModelConfig
from cryostar_nb.fourier import Band

BAND = Band(24, 3.0, 9.0)
SIZES = ModelConfig(encoder_widths=(32, 16), decoder_widths=(16, 32), latent_dim=2)
CONFIG = dataclasses.replace(
    PRESETS["paper"],
    steps=60,
    batch_size=8,
    warmup_steps=10,
    log_every=1,
    final_elastic_weight=0.1,
    low_pass=BAND.resolution,
    held_out=0.0,
)
# Neighbours in a turn of the helix clash at 6 Å.
CROWDED = dataclasses.replace(CONFIG, clash_distance=6.0, checkpoint_every=30)


def metrics(folder):
    """The lines of metrics.csv as numbers, without the time and what was not measured."""
    with (folder / "metrics.csv").open(newline="") as handle:
        return [
            {k: float(value) for k, value in row.items() if k != "seconds" and value != "nan"}
            for row in csv.DictReader(handle)
        ]


def assert_same_weights(first, second):
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


class Line(nn.Module):
    """A decoder without parameters: the latent's first number moves every node along x."""

    def __init__(self, reference):
        super().__init__()
        self.reference = reference

    def forward(self, latent):
        return self.reference + torch.nn.functional.pad(latent[..., None, :1], (0, 2))
