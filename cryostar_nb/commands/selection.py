"""The command that chooses particles, also by what a run says of them."""

from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from cryostar_nb.config import settings
from cryostar_nb.errors import InputError
from cryostar_nb.io.options import Reading
from cryostar_nb.prepare.options import Choice
from cryostar_nb.runs.run_config import particles_of


@settings
class Select:
    """Write some of the particles to a STAR or .cs file, with every column that they had, to go on
    in RELION or cryoSPARC.
    """

    source: Positional[Path]
    """Particles: .star, .cs, or a stack (.mrcs) with cryoDRGN's pickles; or a run folder of
    `train`, whose particles are read as it read them but for what the flags say."""
    out: Path
    """File to write: .star or .cs."""
    overwrite: bool = False
    """Replace OUT if it is there already; never a file that is read."""
    poses: Literal["given", "refined"] = "given"
    """given: poses stay as they are in the file. refined: those of a run that was trained with
    --poses refined are written in their place, and nothing else changes."""
    choice: OmitArgPrefixes[Choice] = field(default_factory=Choice)
    """Which particles."""
    reading: OmitArgPrefixes[Reading] = field(default_factory=Reading)
    """How to read them."""

    def run(self) -> tuple[int, int, str]:
        """Select; returns how many of how many, and a remark."""
        from cryostar_nb.io.files import check_outputs
        from cryostar_nb.prepare.select import select_particles

        beside = self.out.with_name(f"{self.out.stem}_passthrough.cs")
        outputs = [self.out, beside] if self.out.suffix == ".cs" else [self.out]
        particles, reading = particles_of(self.source, self.reading)
        inputs = (particles, *reading.files())
        check_outputs(outputs, inputs=inputs, overwrite=self.overwrite)
        return select_particles(
            particles, self.out, self.choice, reading=reading, **self._of_run(reading)
        )

    def _of_run(self, reading: Reading) -> dict[str, Any]:
        """What the choice and the poses ask of a run: scores, quality, clusters, refined poses."""
        refined = self.poses == "refined"
        by_score = self.choice.above is not None or self.choice.below is not None
        by_quality = self.choice.quality is not None
        by_cluster = self.choice.cluster is not None
        if not self.source.is_dir():
            if refined:
                problem, remedy = "is no run folder, which refined poses come from", "give one"
                raise InputError(problem, file=self.source, remedy=remedy)
            return {}
        if not (refined or by_score or by_quality or by_cluster):
            return {}
        from cryostar_nb.runs.folder import open_run

        run = open_run(self.source)
        found: dict[str, Any] = {}
        if by_score:
            found["scores"] = run.components().scores.numpy()
        if by_quality:
            found["quality"] = run.quality
            if found["quality"] is None:
                problem, remedy = "has no quality of its particles", "leave --quality out"
                raise InputError(problem, file=self.source, remedy=remedy)
        if by_cluster:
            from cryostar_nb.runs.landscapes import kept_clusters

            found["clusters"] = kept_clusters(run)
        if refined:
            found["poses"] = run.poses
            if found["poses"] is None:
                problem = "was trained with the poses as given"
                remedy = "train with --poses refined, or leave --poses refined out"
                raise InputError(problem, file=self.source, remedy=remedy)
            size = run.inputs.reading.pixel_size
            if reading.pixel_size != size:
                problem = f"pixel_size = {{value}}, and the run refined its poses with {size}"
                remedy = "leave --pixel-size out"
                raise InputError(problem, value=reading.pixel_size, remedy=remedy)
        return found
