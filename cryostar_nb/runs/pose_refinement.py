"""When a training corrects the poses of its particles, and what it keeps of that."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.config import TrainConfig
from cryostar_nb.density import Density
from cryostar_nb.encoders import ImageEncoder, StructureEncoder
from cryostar_nb.fourier import Band
from cryostar_nb.io.metadata import Poses
from cryostar_nb.io.particles import Particles
from cryostar_nb.models import DeformationVAE
from cryostar_nb.poses import Corrections, correct, corrected
from cryostar_nb.structure import Structure
from cryostar_nb.training import TrainingData

ROUNDS = 4  # the last one is at the end
SOON = 600  # steps, before a network has learned errors of the poses as if they were motion

Look = Callable[[ImageEncoder | StructureEncoder, TrainingData], TrainingData]


class PoseRefinement:
    """The corrections of a training's poses; none where `config.poses` is `given`.

    `given` are the rotations as they were. `look` makes what the encoder sees of particles whose
    poses were corrected, and `of_first` gives every process what the first one has.
    """

    def __init__(
        self,
        config: TrainConfig,
        network: DeformationVAE,
        density: Density,
        band: Band,
        given: Float[Tensor, "particle 3 3"],
        look: Look,
        of_first: Callable[[Tensor], Tensor],
    ) -> None:
        self.config, self.network, self.density = config, network, density
        self.band, self.look, self.of_first = band, look, of_first
        self.corrections: Corrections | None = None
        if config.poses == "refined":
            centre = network.decoder.reference.mean(0)
            self.corrections = Corrections.none(given, centre)

    def due(self, step: int) -> bool:
        """Whether the poses are corrected after this step; at the end they are anyway."""
        steps = self.config.steps
        rounds = [steps * turn // ROUNDS for turn in range(1, ROUNDS)]
        if rounds[0] > 2 * SOON:
            rounds.append(SOON)
        return self.corrections is not None and 0 < step < steps and step in rounds

    def refine(self, data: TrainingData) -> TrainingData:
        """The particles with poses corrected anew, and looked at again."""
        if self.corrections is None:
            return data
        first = not self.corrections.values.any()  # the longest way
        found = correct(
            self.corrections,
            data,
            self.network,
            density=self.density,
            band=self.band,
            iterations=2 if first else 1,
        )
        shared = {"values": self.of_first(found.values), "widths": self.of_first(found.widths)}
        self.corrections = replace(found, **shared)  # the same in every process, to the last digit
        return self._looked_at(data)

    def _looked_at(self, data: TrainingData) -> TrainingData:
        assert self.corrections is not None
        return self.look(self.network.encoder, self.corrections.applied_to(data))

    def state(self) -> dict[str, Tensor] | None:
        """What a checkpoint keeps."""
        if self.corrections is None:
            return None
        return {"values": self.corrections.values, "widths": self.corrections.widths}

    def load(self, state: dict[str, Any] | None, data: TrainingData) -> TrainingData:
        """Go back to what a checkpoint kept; the particles with the poses of then."""
        if self.corrections is None or state is None:
            return data
        self.corrections = replace(self.corrections, **state)
        return self._looked_at(data) if self.corrections.values.any() else data


def stored_corrections(state: dict[str, Tensor] | None, nodes: Structure) -> Corrections | None:
    """What a checkpoint kept, for particles whose rotations it does not say."""
    if state is None:
        return None
    centre = torch.from_numpy(nodes.positions).float().mean(0)
    nowhere = torch.eye(3).expand(len(state["values"]), 3, 3)
    return Corrections(nowhere, centre, state["values"], state["widths"])


def placed(particles: Particles, corrections: Corrections | None) -> Poses:
    """The poses of particles, corrected, in double precision."""
    if corrections is None:
        return Poses(particles.rotations, particles.shifts, particles.ctf)
    values, centre = corrections.values.double(), corrections.centre.double()
    rotations, moved = corrected(particles.rotations, values, centre)  # moved in Å of the band
    more = particles.aberrations
    moved = moved if more is None else moved / more.scale[:, None]
    return Poses(rotations, particles.shifts + moved, particles.ctf)
