"""The particles that a training keeps aside: what they say while it runs, and at its end."""

import math
from pathlib import Path

import torch

from cryostar_nb.config import TrainConfig
from cryostar_nb.density import Density
from cryostar_nb.fourier import Band
from cryostar_nb.io.batches import held_out_rows
from cryostar_nb.io.files import write_json
from cryostar_nb.latents import evenly_spaced
from cryostar_nb.models import DeformationVAE
from cryostar_nb.training import TrainingData
from cryostar_nb.validation import generalisation, image_losses, latents_of

AT_CHECKPOINT, AT_END = 250, 2000  # particles held out, and as many of the training
PATIENCE = 3  # checkpoints


class HeldOut:
    """Which of the `count` particles of a training are held out, and which are trained on."""

    def __init__(
        self,
        config: TrainConfig,
        network: DeformationVAE,
        density: Density,
        band: Band,
        count: int,
    ) -> None:
        self.config, self.network, self.density, self.band = config, network, density, band
        self.rows = held_out_rows(count, config.held_out, seed=config.seed)
        kept = torch.ones(count, dtype=torch.bool)
        kept[self.rows] = False
        self.trained = kept.nonzero().squeeze(1)
        self.history: list[float] = []  # image loss whenever it was measured, at checkpoints

    def __len__(self) -> int:
        return len(self.rows)

    def _samples(self, count: int) -> list[torch.Tensor]:
        """Up to so many particles held out, and as many of the training."""
        count = min(count, len(self.rows), len(self.trained))
        return [rows[evenly_spaced(count, len(rows))] for rows in (self.rows, self.trained)]

    def columns(self, data: TrainingData, *, measured: bool) -> dict[str, float]:
        """Mean image loss of particles held out and trained on, in the unit of that of a batch, or
        NaN; nothing without any.
        """
        if not len(self):
            return {}
        losses = [math.nan, math.nan]
        half = 0.5 if self.config.image_loss == "likelihood" else 1.0  # as the loss of a batch
        if measured:
            where = (self.density, self.band, data)
            for number, rows in enumerate(self._samples(AT_CHECKPOINT)):
                latents = latents_of(self.network, data, rows)
                loss = float(image_losses(self.network, *where, rows, latents).mean())
                losses[number] = half * loss
            self.history.append(losses[0])
        return {"held_out": losses[0], "trained": losses[1]}

    @property
    def latest(self) -> dict[str, float]:
        """The loss that was measured last, by the name of its column, if any was."""
        return {"held_out": self.history[-1]} if self.history else {}

    @property
    def stalled(self) -> bool:
        """Whether the loss has not fallen for three checkpoints in a row, and that ends the run."""
        before, last = self.history[:-PATIENCE], self.history[-PATIENCE:]
        return self.config.stop_early and bool(before) and min(last) >= min(before)

    def conclude(self, data: TrainingData, out: Path, step: int, *, stopped_early: bool) -> None:
        """Say what the particles held out say at the end, and write `out/held_out.json`."""
        if not len(self):
            return
        held_out, trained = self._samples(AT_END)
        found = generalisation(
            self.network, self.density, self.band, data, held_out=held_out, trained=trained
        )
        if stopped_early:
            print(
                f"{out}: stopped early, at step {step:,}: the image loss of the particles held out"
                f" has not fallen for {PATIENCE} checkpoints"
            )
        print("\n".join(f"{out}: {line}" for line in found.words()))
        about = {"step": step, "stopped_early": stopped_early, "held_out": len(self)}
        write_json(out / "held_out.json", about | found.as_dict())
