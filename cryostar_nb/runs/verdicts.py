"""What a check found: symptoms, and motions that survive other trainings or do not."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cryostar_nb.io.files import write_json
from cryostar_nb.runs.kept import is_fresh
from cryostar_nb.runs.symptoms import Symptom

if TYPE_CHECKING:
    from cryostar_nb.runs.run import Run

FOLDER = "check"
LEAST_AGREEMENT = 0.5  # correlation of the scores of two trainings along a motion
LEAST_RATIO = 2.0  # of a motion, in that of noise alone


@dataclass(frozen=True)
class Motion:
    """A principal mode of a run's structures, and what other trainings make of it; extents in Å rms
    over the nodes, from the 5th to the 95th percentile of the particles.
    """

    extent: float
    halves: tuple[float, float]  # its extent in the trainings on halves
    halves_agree: float  # correlation of the particles' scores between these two
    reference: float  # its extent in the training from another reference
    reference_agrees: float  # correlation of that training's scores with the run's
    noise: float  # the largest extent that any mode has in particles that do not move

    @property
    def error(self) -> float:
        """Half of the difference between the halves, in Å."""
        return abs(self.halves[0] - self.halves[1]) / 2

    @property
    def doubts(self) -> list[str]:
        """Why it does not survive."""
        said = []
        if self.extent < LEAST_RATIO * self.noise:
            said.append(f"noise alone makes {self.noise:.2f} Å")
        if self.halves_agree < LEAST_AGREEMENT or 2 * min(self.halves) < self.extent:
            said.append("the halves do not agree")
        if self.reference_agrees < LEAST_AGREEMENT or 2 * self.reference < self.extent:
            said.append("another reference does not lead to it")
        return said

    def words(self, number: int) -> str:
        """What it says, in a line."""
        size = f"motion {number}, {self.extent:.2f} ± {self.error:.2f} Å"
        if self.doubts:
            return f"{size}, does not survive: {'; '.join(self.doubts)}"
        agree = f"{self.halves_agree:.2f} between the halves, {self.reference_agrees:.2f} with"
        return f"{size}, survives: correlations {agree} another reference"


@dataclass(frozen=True)
class Checked:
    """What `check` found of a run; `displacements` are of its motions, in Å for each node."""

    folder: Path
    symptoms: list[Symptom]
    held_out: list[str]
    motions: list[Motion] = field(default_factory=list)
    angles: list[float] = field(default_factory=list)  # between the motions of the halves, degrees
    halves: str = ""  # where the half-sets are from
    displacements: dict[str, list[list[float]]] = field(default_factory=dict)
    compared: list[int] = field(default_factory=list)  # nodes that all trainings have
    particles: int = 0  # whose structures were compared

    @property
    def verdict(self) -> str:
        """Of a run without symptoms "sound", if a motion survives, and where that was not tried "no
        symptom"; of others "doubtful".
        """
        if self.symptoms or (self.motions and all(motion.doubts for motion in self.motions)):
            return "doubtful"
        return "sound" if self.motions else "no symptom"

    @property
    def summary(self) -> str:
        """What it says, in a line."""
        names = ", ".join(symptom.name for symptom in self.symptoms) or "no symptom of a failure"
        if not self.motions:
            return names
        survive = sum(not motion.doubts for motion in self.motions)
        return f"{names}; {survive} of {len(self.motions)} motions survive other trainings"

    def words(self) -> list[str]:
        """What it says, in a few lines."""
        lines = [f"{symptom.name}: {symptom.words}; {symptom.remedy}" for symptom in self.symptoms]
        lines = lines or ["no symptom of a failure was found"]
        lines += [motion.words(number) for number, motion in enumerate(self.motions, start=1)]
        return [*lines, *self.held_out]

    @classmethod
    def kept_of(cls, run: "Run") -> "Checked | None":
        """What is kept of a run's last checkpoint; None before `check`."""
        path = run.folder / FOLDER / "check.json"
        if not is_fresh(path, run.folder):
            return None
        told = json.loads(path.read_text(encoding="utf-8"))
        told["symptoms"] = [Symptom(**one) for one in told["symptoms"]]
        motions = [Motion(**one | {"halves": tuple(one["halves"])}) for one in told["motions"]]
        told["motions"] = motions
        return cls(folder=run.folder / FOLDER, **told)

    def write(self) -> None:
        """Write `check.json`."""
        values = asdict(self)
        values.pop("folder")
        write_json(self.folder / "check.json", values)
