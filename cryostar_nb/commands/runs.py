"""The commands about runs: train one, evaluate and check it, make maps, find its landscape."""

import dataclasses
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from tyro.conf import OmitArgPrefixes, Positional

from cryostar_nb.config import FROM_NUMPY, PRESETS, Positive, TrainConfig, settings
from cryostar_nb.errors import InputError
from cryostar_nb.io.options import Reading
from cryostar_nb.runs.run_config import (
    CheckConfig,
    Hardware,
    InputFiles,
    LandscapeConfig,
    MapConfig,
    read_config,
)

if TYPE_CHECKING:
    from cryostar_nb.evaluation import Evaluation
    from cryostar_nb.runs.landscapes import Mapped
    from cryostar_nb.runs.maps import Maps
    from cryostar_nb.runs.posteriors import Inferred
    from cryostar_nb.runs.run import Run
    from cryostar_nb.runs.verdicts import Checked


@settings
class Train:
    """Learn the structure behind every particle.

    Writes a run folder: checkpoint.pt, metrics.csv, config.json, reference.cif, latents.npy, and
    held_out.json, which says whether images were learned by heart.
    Ctrl-C leaves a run that --resume continues; a resumed run takes its files and settings from
    its folder, but for those given again.
    """

    particles: Positional[Path]
    """Particles with poses and CTF: .star (RELION), .cs (cryoSPARC), or a stack (.mrcs) with
    cryoDRGN's pickles."""
    reference: Path
    """Reference structure (PDB or mmCIF), in the frame of the poses."""
    out: Path
    """Run folder to write to."""
    preset: Literal["standard", "paper"] = "standard"
    """standard: the one to begin with. paper: every constant as the paper prints it. Other flags
    override."""
    resume: bool = False
    """Continue the run in OUT from its last checkpoint."""
    invert: bool = False
    """Set when protein is dark on a bright ground."""
    map: Path | None = None
    """Consensus map (MRC) for --low-pass auto."""
    map_pixel_size: Positive | None = None
    """Voxel size of the map in Å, where its header does not say or is wrong."""
    reading: OmitArgPrefixes[Reading] = field(default_factory=Reading)
    """How to read the particles."""
    hardware: OmitArgPrefixes[Hardware] = field(default_factory=Hardware)
    """Where to train."""
    config: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    """How to train."""

    @classmethod
    def defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What is not given: the settings of the preset, or of the run that is resumed."""
        preset = given.get("preset")
        if not given.get("resume"):
            name = preset or "standard"
            if name not in PRESETS:
                raise InputError("preset = {value}", value=name, remedy="give standard or paper")
            return {"preset": name, "config": PRESETS[name]}
        if preset is not None:
            raise InputError(
                "preset = {value}: a run that is resumed has its settings already",
                value=preset,
                remedy="leave it out, and change single ones by their flags",
            )
        if given.get("out") is None:
            raise InputError("--resume needs the folder of the run", remedy="give --out")
        stored = read_config(given["out"])
        return {"out": Path(given["out"]), "resume": True, "config": stored.train} | vars(
            stored.inputs
        )

    def run(self) -> "Run | None":
        """Train; returns the run (in a distributed run, in the first process)."""
        from cryostar_nb.runs.start import start_run

        names = [f.name for f in dataclasses.fields(InputFiles)]
        inputs = InputFiles(**{name: getattr(self, name) for name in names})
        if self.preset == "paper" and not self.resume:
            print(self._about_the_paper())
        return start_run(inputs, self.config, self.out, resume=self.resume, hardware=self.hardware)

    def _about_the_paper(self) -> str:
        """What the preset `paper` is, where it is left, and what the paper has for real data."""
        paper = vars(PRESETS["paper"])
        changes = [f"{k} = {v}" for k, v in vars(self.config).items() if v != paper[k]]
        words = "preset paper: every constant as the paper prints it"
        words += f", but for {', '.join(changes)}" if changes else ""
        if not (self.particles.parent / "truth.npz").exists():
            words += "\nfor experimental data the paper has p = 95 and 96,000 steps:"
            words += " --relaxation-percentile 95 --steps 96000"
        return words


@settings
class Evaluate:
    """Compare a run with the truth of its simulation; writes evaluation.json into its folder, but
    for new particles.
    """

    run_folder: Positional[Path]
    """Run folder of `train`."""
    truth: Path
    """The truth.npz of `simulate`."""
    particles: Path | None = None
    """New particles that the truth is of, simulated alike (default: those of the training). Their
    latents are inferred."""

    def run(self) -> "Evaluation":
        """Evaluate."""
        from cryostar_nb.runs.folder import open_run

        return open_run(self.run_folder).evaluate(self.truth, self.particles)


@settings
class Infer:
    """Find the posterior of every particle: which structures its image allows, and how surely.

    Writes posterior.npz into the folder `posterior` of the run, or into OUT. What is done is kept:
    the same command goes on after Ctrl-C. `evaluate` and `analyse` take the posterior into account
    once it is there.
    """

    run_folder: Positional[Path]
    """Run folder of `train`."""
    particles: Path | None = None
    """Other particles, of the same box and pixel size (default: those of the training)."""
    out: Path | None = None
    """Folder for the posterior of other particles."""
    draws: Annotated[int, FROM_NUMPY, Field(strict=True, ge=8)] = 48
    """Structures drawn for each particle, at least 8."""
    beside: tuple[Path, ...] = ()
    """Run folders of other trainings of the same molecule, from another reference or from other
    particles: what they say of the same particles tells how large the errors are that particles
    share."""

    def run(self) -> "Inferred":
        """Infer."""
        from cryostar_nb.runs.folder import open_run
        from cryostar_nb.runs.posteriors import compare_runs, infer

        run = open_run(self.run_folder)
        others = [open_run(folder) for folder in self.beside]
        particles = None if self.particles is None else run.read(self.particles)
        found = infer(run, particles, self.out, draws=self.draws)
        if others:
            compare_runs(run, others)
        return found


@settings
class Check:
    """Look for what may be wrong with a run, and find out which of its motions survive: on half of
    the particles, from another reference, and beside what noise alone makes.

    It trains four times. Writes check.html and check.json into the folder `check` of the run. What
    is done is kept: the same command goes on after Ctrl-C.
    """

    run_folder: Positional[Path]
    """Run folder of `train`."""
    config: OmitArgPrefixes[CheckConfig] = field(default_factory=CheckConfig)
    """How to check."""
    hardware: OmitArgPrefixes[Hardware] = field(default_factory=Hardware)
    """Where to train."""

    def run(self) -> "Checked":
        """Check."""
        from cryostar_nb.runs.checks import check
        from cryostar_nb.runs.folder import open_run

        return check(open_run(self.run_folder), self.config, self.hardware)


@settings
class Reconstruct:
    """Make maps from the particles of a run, which the atomic model had no part in: along a motion,
    of clusters, or of chosen particles.

    Writes for each of them a map (MRC), two half-maps, and the model of the same particles, all in
    one frame, and a table of how well they agree. `analyse` shows it.
    """

    run_folder: Positional[Path]
    """Run folder of `train`."""
    out: Path | None = None
    """Folder to write to (default: `maps` in the run folder)."""
    config: OmitArgPrefixes[MapConfig] = field(default_factory=MapConfig)
    """Which particles, and how."""

    def run(self) -> "Maps":
        """Reconstruct."""
        from cryostar_nb.runs.folder import open_run
        from cryostar_nb.runs.maps import make_maps

        return make_maps(open_run(self.run_folder), self.config, self.out)


@settings
class Landscape:
    """Find clusters of a run's particles, their population along a motion with errors, and the path
    of highest density between two clusters.

    Writes into the folder `landscape` of the run: the cluster of every particle and a structure of
    each, populations and energies, and the path as structures. `analyse` shows them, `select
    --cluster` writes the particles of one.
    """

    run_folder: Positional[Path]
    """Run folder of `train`, after `infer`."""
    beside: tuple[Path, ...] = ()
    """Run folders of other trainings of the same molecule, after `infer`, from another reference or
    from other particles: what they say of the same bins tells how large the errors of populations
    are that particles share."""
    config: OmitArgPrefixes[LandscapeConfig] = field(default_factory=LandscapeConfig)
    """Which clusters, along which motion."""

    def run(self) -> "Mapped":
        """Find and write them."""
        from cryostar_nb.runs.folder import open_run
        from cryostar_nb.runs.landscapes import make_map

        others = [open_run(folder) for folder in self.beside]
        return make_map(open_run(self.run_folder), self.config, others)


@settings
class Analyse:
    """Write latents, principal components, a traversal of structures, and report.html into the run
    folder.
    """

    run_folder: Positional[Path]
    """Run folder of `train`."""

    def run(self) -> Path:
        """Analyse; returns the path of the page."""
        from cryostar_nb.runs.folder import open_run

        return open_run(self.run_folder).report()
