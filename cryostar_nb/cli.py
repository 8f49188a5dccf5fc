"""The command line: `cryostar-nb simulate | info | preprocess | select | doctor | dock | train | evaluate | analyse`. Every subcommand is a thin call of a public function."""

import argparse
import dataclasses
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, Suppress, arg, subcommand

from cryostar_nb.config import PRESETS, TrainConfig
from cryostar_nb.doctor.diagnosis import diagnose_files, write_corrected
from cryostar_nb.doctor.placing import Frame, as_report, dock_files
from cryostar_nb.errors import InputError
from cryostar_nb.io.files import check_outputs, write_text
from cryostar_nb.io.reading import Reading
from cryostar_nb.io.structures import structure_path
from cryostar_nb.pages.doctor_report import as_json, as_text, doctor_page
from cryostar_nb.pages.run_report import analyse_run
from cryostar_nb.prepare.info import describe, inspect_particles
from cryostar_nb.prepare.preprocess import Preprocessing, preprocess_file
from cryostar_nb.prepare.select import Choice, particles_of, select_particles
from cryostar_nb.runs.config import InputFiles, read_config
from cryostar_nb.runs.folder import evaluate_run
from cryostar_nb.runs.low_pass import low_pass_from_map
from cryostar_nb.runs.machine import Hardware
from cryostar_nb.runs.start import start_run
from cryostar_nb.simulation.particles import SimulationConfig, simulate


@dataclass(frozen=True)
class Simulate:
    """Make synthetic particle images of a molecule that moves between two structures.

    Writes particles.star (RELION 3.1), particles.mrcs and truth.npz into the folder OUT.
    """

    closed: Path
    """Structure of the first state (PDB or mmCIF); with --trajectory, its topology unless --topology is given."""
    out: Path
    """Folder to write to; it is made when missing."""
    overwrite: bool = False
    """Replace what is in OUT already; never a file that is read."""
    open: Path | None = None
    """Structure of the last state (PDB or mmCIF), superposed on the first, with the same residues."""
    trajectory: Path | None = None
    """Take the states from a trajectory (DCD, XTC, multi-model PDB, ...) instead of a morph."""
    topology: Path | None = None
    """Topology of the trajectory (PDB, PSF, ...)."""
    poses: Path | None = None
    """Take rotations, shifts and CTFs from the first particles of this RELION STAR file; its images need not exist."""
    config: OmitArgPrefixes[SimulationConfig] = dataclasses.field(default_factory=SimulationConfig)

    def run(self) -> None:
        """Simulate, and say where the files are."""
        paths = {"trajectory": self.trajectory, "topology": self.topology, "poses": self.poses}
        outputs = [self.out / name for name in ("particles.star", "particles.mrcs", "truth.npz")]
        check_outputs(
            outputs, inputs=(self.closed, self.open, *paths.values()), overwrite=self.overwrite
        )
        simulate(self.config, closed=self.closed, open_=self.open, out=self.out, **paths)
        print(f"wrote {self.out / 'particles.star'}, particles.mrcs and truth.npz")


@dataclass(frozen=True)
class Info:
    """Say what a particle file was understood to hold, and what is wrong with it. Its images need not exist. Writes nothing."""

    particles: Positional[Path]
    """Particles: .star (RELION), .cs (cryoSPARC), or a stack (.mrcs) with cryoDRGN's pickles."""
    json: bool = False
    """Print one JSON object."""
    reading: OmitArgPrefixes[Reading] = dataclasses.field(default_factory=Reading)

    def run(self) -> None:
        """Print it."""
        found = inspect_particles(self.particles, self.reading)
        print(json.dumps(found) if self.json else describe(found))


@dataclass(frozen=True)
class Preprocess:
    """Crop, filter, invert, normalise or mask particle images.

    Writes particles.mrcs and particles.star (RELION 3.1) into the folder OUT, in one pass over the images.
    """

    particles: Positional[Path]
    """Particles: .star (RELION), .cs (cryoSPARC), or a stack (.mrcs) with cryoDRGN's pickles."""
    out: Path
    """Folder to write to; it is made when missing."""
    overwrite: bool = False
    """Replace what is in OUT already; never a file that is read."""
    indices: str | None = None
    """Only these: a file of indices counted from 0 (.npy, .txt, .pkl, or .csv with a column `index`, or `particle` counted from 1), a mask in .npy, or START:STOP."""
    reading: OmitArgPrefixes[Reading] = dataclasses.field(default_factory=Reading)
    config: OmitArgPrefixes[Preprocessing] = dataclasses.field(default_factory=Preprocessing)

    def run(self) -> None:
        """Preprocess, and say what was written."""
        inputs = (self.particles, *self.reading.files())
        check_outputs(
            [self.out / name for name in ("particles.star", "particles.mrcs")],
            inputs=inputs,
            overwrite=self.overwrite,
        )
        made = preprocess_file(self.particles, self.out, self.config, self.reading, self.indices)
        print(
            f"wrote {made.source} and {made.stacks[0].name}: {len(made):,} particles of {made.box_size} pixels of {made.pixel_size:.5g} Å"
        )


@dataclass(frozen=True)
class Select:
    """Write some of the particles to a STAR or .cs file, with every column that they had, to go on in RELION or cryoSPARC."""

    source: Positional[Path]
    """Particles: .star, .cs, or a stack (.mrcs) with cryoDRGN's pickles; or a run folder of `train`, whose particles are read as it
    read them but for what the flags say."""
    out: Path
    """File to write: .star or .cs."""
    overwrite: bool = False
    """Replace OUT if it is there already; never a file that is read."""
    choice: OmitArgPrefixes[Choice] = dataclasses.field(default_factory=Choice)
    reading: OmitArgPrefixes[Reading] = dataclasses.field(default_factory=Reading)

    def run(self) -> None:
        """Select, and say how many."""
        outputs = [self.out, self.out.with_name(f"{self.out.stem}_passthrough.cs")][
            : 1 + (self.out.suffix == ".cs")
        ]
        particles, reading = particles_of(self.source, self.reading)
        check_outputs(outputs, inputs=(particles, *reading.files()), overwrite=self.overwrite)
        chosen, count, remark = select_particles(self.source, self.out, self.choice, self.reading)
        print(f"wrote {self.out}: {chosen:,} of {count:,} particles; {remark}")


@dataclass(frozen=True)
class Doctor:
    """Find out what is wrong with particle files: signs, CTF, poses, origins, pixel size, hand, or the place of the model.

    Compares a few hundred particles with projections of a model, of a map, or of a map with the model docked into it.
    """

    particles: Positional[Path]
    """Particles with poses and CTF: .star (RELION), .cs (cryoSPARC), or a stack (.mrcs) with cryoDRGN's pickles."""
    reference: Path | None = None
    """Model (PDB or mmCIF), in the frame of the poses as far as you know."""
    map: Path | None = None
    """Consensus map (MRC) of these particles; its centre voxel is the origin of the poses."""
    out: Path | None = None
    """Folder for doctor.html, and for corrected files where something is wrong: particles.star, reference.cif."""
    overwrite: bool = False
    """Replace what is in OUT already; never a file that is read."""
    json: bool = False
    """Print one JSON object instead of text."""
    invert: bool = False
    """Turn the contrast of the images round first: set when protein is known to be dark on a bright ground."""
    n_particles: int = 500
    """How many particles to look at, evenly spread over the file."""
    resolution: float | None = None
    """Finest detail to compare, in Å (default: 4 Å, or 2.05 pixels, or what 2,000 coefficients hold)."""
    map_pixel_size: float | None = None
    """Voxel size of the map in Å, where its header does not say or is wrong."""
    reading: OmitArgPrefixes[Reading] = dataclasses.field(default_factory=Reading)

    def run(self) -> None:
        """Examine, and print the table and the verdict."""
        if self.out is not None:
            outputs = [
                self.out / name for name in ("doctor.html", "particles.star", "reference.cif")
            ]
            inputs = (self.particles, self.reference, self.map, *self.reading.files())
            check_outputs(outputs, inputs=inputs, overwrite=self.overwrite)
        found = diagnose_files(
            self.particles,
            reference=self.reference,
            density=self.map,
            reading=self.reading,
            map_pixel_size=self.map_pixel_size,
            count=self.n_particles,
            resolution=self.resolution,
            invert=self.invert,
        )
        written = {} if self.out is None else write_corrected(found, self.out, self.reference)
        result = as_json(found, written, self.reference, self.reading)
        if self.out is not None:
            result["written"] = written | {"page": str(self.out / "doctor.html")}
            write_text(self.out / "doctor.html", doctor_page(found, result))
        print(json.dumps(result, indent=2) if self.json else as_text(found, result))


@dataclass(frozen=True)
class Dock:
    """Place a model in a map, or in front of particles, as a rigid body: a search over all rotations and translations, then a refinement."""

    model: Positional[Path]
    """Model to dock (PDB or mmCIF)."""
    target: Positional[Path]
    """Map (.mrc, .map), or particles with good poses: .star, .cs, or a stack (.mrcs) with pickles. --pixel-size is that of either."""
    out: Path
    """File to write the docked model to, .cif or .pdb; every atom of the model is in it."""
    overwrite: bool = False
    """Replace OUT if it is there already; never a file that is read."""
    frame: Frame = "auto"
    """Frame of the model, before and after. map: the map file's own, by its ORIGIN and NSTART, where viewers show it. poses: the map's
    centre voxel is the origin, as `train` needs it, and always so against particles. auto: map, unless ORIGIN and NSTART are both 0
    and the model stands nearer to the centre of the frame of the poses."""
    reading: OmitArgPrefixes[Reading] = dataclasses.field(default_factory=Reading)

    def run(self) -> None:
        """Dock, and say what it gained."""
        check_outputs(
            [structure_path(self.out)],
            inputs=(self.model, self.target, *self.reading.files()),
            overwrite=self.overwrite,
        )
        docked = dock_files(
            self.model, self.target, self.out, frame=self.frame, reading=self.reading
        )
        print(f"{as_report(docked)}\nwrote {self.out}")


@dataclass(frozen=True)
class Train:
    """Learn the atomic shape behind every particle.

    Writes a run folder: checkpoint.pt, metrics.csv, config.json, reference.cif and latents.npy. Ctrl-C leaves a run that
    --resume continues; a resumed run takes its files and settings from its folder, but for those given again.
    """

    particles: Positional[Path]
    """Particles with poses and CTF: .star (RELION), .cs (cryoSPARC), or a stack (.mrcs) with cryoDRGN's pickles."""
    reference: Path
    """Reference structure (PDB or mmCIF), in the frame of the poses."""
    out: Path
    """Run folder to write to."""
    preset: Literal["paper", "ours"] = "paper"
    """paper: every constant as the paper prints it. ours: images of all atoms, an encoder that sees them from the structure, and an
    elastic weight that falls from 1 to 0.005. Other flags override."""
    resume: bool = False
    """Continue the run in OUT from its last checkpoint."""
    invert: bool = False
    """Set when protein is dark on a bright ground."""
    map: Path | None = None
    """Consensus map (MRC) for `--low-pass auto`: the low-pass becomes the resolution where its FSC with the reference falls to 0.5."""
    map_pixel_size: float | None = None
    """Voxel size of the map in Å, where its header does not say or is wrong."""
    low_pass_is_auto: Suppress[bool] = False
    reading: OmitArgPrefixes[Reading] = dataclasses.field(default_factory=Reading)
    hardware: OmitArgPrefixes[Hardware] = dataclasses.field(default_factory=Hardware)
    config: OmitArgPrefixes[TrainConfig] = dataclasses.field(default_factory=TrainConfig)

    def run(self) -> None:
        """Train, and say what to do next."""
        inputs = InputFiles(self.particles, self.reference, self.invert, self.reading)
        config = self.config
        if self.low_pass_is_auto:
            config = dataclasses.replace(
                config,
                low_pass=low_pass_from_map(self.reference, self.map, config, self.map_pixel_size),
            )
            print(
                f"low-pass {config.low_pass} Å: there the FSC of {self.reference} with {self.map} falls to 0.5"
            )
        if start_run(inputs, config, self.out, resume=self.resume, hardware=self.hardware):
            print(f"trained; now try: cryostar-nb analyse {self.out}")


@dataclass(frozen=True)
class Evaluate:
    """Compare a run with the truth of its simulation; writes evaluation.json into the run folder."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder of `train`."""
    truth: Path
    """The truth.npz of `simulate`."""

    def run(self) -> None:
        """Evaluate, and print the table beside the predictor that does nothing."""
        result = evaluate_run(self.run_folder, self.truth)
        count = len(result["rmsd_per_state"])
        print(f"{'Cα-RMSD to the truth (Å)':28s}{'this run':>18s}{'do nothing':>12s}")
        for state in sorted({round(i * (count - 1) / 5) for i in range(6)}):
            mean, sd, idle = (
                result[key][state]
                for key in ("rmsd_per_state", "rmsd_std_per_state", "do_nothing_per_state")
            )
            print(f"{f'state {state + 1} of {count}':28s}{mean:9.2f} ± {sd:5.2f} {idle:12.2f}")
        print(f"{'all particles':28s}{result['rmsd_mean']:9.2f} {result['do_nothing_mean']:20.2f}")
        print(f"{'bond error (Å)':28s}{result['bond_error']:9.3f}")
        print(f"wrote {self.run_folder / 'evaluation.json'}")


@dataclass(frozen=True)
class Analyse:
    """Write latents, principal components, a traversal of structures, and report.html into the run folder."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder of `train`."""

    def run(self) -> None:
        """Analyse, and say where the page is."""
        print(f"open {analyse_run(self.run_folder).resolve()}")


Command = (
    Annotated[Simulate, subcommand("simulate")]
    | Annotated[Info, subcommand("info")]
    | Annotated[Preprocess, subcommand("preprocess")]
    | Annotated[Select, subcommand("select")]
    | Annotated[Doctor, subcommand("doctor")]
    | Annotated[Dock, subcommand("dock")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Analyse, subcommand("analyse")]
)


def parse(arguments: list[str]) -> Any:
    """Read the command line. The defaults of `train` are those of --preset, or of the run that --resume continues."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--preset", choices=sorted(PRESETS))
    early.add_argument("--resume", action="store_true")
    early.add_argument("--out", type=Path)
    early.add_argument("--low-pass", "--low_pass")
    if arguments[:1] != ["train"] or {"-h", "--help"} & set(arguments):
        return tyro.cli(Command, args=arguments, prog="cryostar-nb", description=__doc__)
    known, _ = early.parse_known_args(arguments[1:])
    preset: Literal["paper", "ours"] = known.preset or "paper"
    if known.resume and known.preset is not None:
        raise InputError(
            f"--preset {preset}: a run that is resumed has its settings already; leave it out, and change single ones by their flags"
        )
    if known.resume and known.out is not None:
        stored = read_config(known.out)
        default = Train(out=known.out, resume=True, config=stored.train, **vars(stored.inputs))
    else:
        default = Train(
            tyro.MISSING, tyro.MISSING, tyro.MISSING, preset=preset, config=PRESETS[preset]
        )
    arguments = arguments[1:]
    if known.low_pass == "auto":  # the flag is a number; this one is found when the command runs
        default = dataclasses.replace(default, low_pass_is_auto=True)
        place = next(
            i for i, word in enumerate(arguments) if re.fullmatch(r"--low[-_]pass(=auto)?", word)
        )
        del arguments[place : place + (1 if "=" in arguments[place] else 2)]
    return tyro.cli(Train, args=arguments, prog="cryostar-nb train", default=default)


def main() -> None:
    """Run a subcommand. Bad input is one line on standard error and exit code 2; Ctrl-C is exit code 130."""
    try:
        parse(sys.argv[1:]).run()
    except InputError as error:
        print(f"cryostar-nb: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(f"cryostar-nb: {str(stop) or 'stopped'}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os._exit(1)


if __name__ == "__main__":
    main()
