"""The commands about particle files and models; those about runs stand in `commands.runs`, and
`select`, which is about both, in `commands.selection`.
"""

import dataclasses
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from cryostar_nb.config import Count, Positive, settings
from cryostar_nb.errors import InputError
from cryostar_nb.io.options import Reading
from cryostar_nb.prepare.options import Preprocessing
from cryostar_nb.simulation.options import (
    REALISTIC,
    REALISTIC_SNR,
    Faults,
    ImperfectReference,
    SimulationConfig,
    not_default,
)

if TYPE_CHECKING:
    from cryostar_nb.doctor.diagnosis import Diagnosis
    from cryostar_nb.doctor.placing import DockedModel
    from cryostar_nb.io.particles import Particles


@settings
class Simulate:
    """Make synthetic particle images of a molecule that moves from one structure to another.

    Writes particles.star (RELION 3.1), particles.mrcs and truth.npz into the folder OUT; and
    reference.cif where an imperfect reference is asked for.
    """

    start: Path
    """Structure of the first state (PDB or mmCIF); with --trajectory, its topology unless
    --topology is given."""
    out: Path
    """Folder to write to; it is made when missing."""
    overwrite: bool = False
    """Replace what is in OUT already; never a file that is read."""
    end: Path | None = None
    """Structure of the last state (PDB or mmCIF), superposed on the first, with the same
    residues."""
    trajectory: Path | None = None
    """Take the states from a trajectory (DCD, XTC, multi-model PDB, ...) instead of a morph."""
    topology: Path | None = None
    """Topology of the trajectory (PDB, PSF, ...)."""
    poses: Path | None = None
    """Take rotations, shifts and CTFs from the first particles of this RELION STAR file; its
    images need not exist."""
    realistic: bool = False
    """Particles like real ones: an SNR of 0.05, and errors, envelopes, ice, neighbours and junk of
    a size that a good data set may have. Other flags override."""
    config: OmitArgPrefixes[SimulationConfig] = field(default_factory=SimulationConfig)
    """What is simulated."""
    faults: OmitArgPrefixes[Faults] = field(default_factory=Faults)
    """What makes the particles like real ones."""
    imperfect: OmitArgPrefixes[ImperfectReference] = field(default_factory=ImperfectReference)
    """What is wrong with the reference that is written."""

    @classmethod
    def defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What is not given, where particles like real ones are asked for."""
        realistic = given.get("realistic", False)
        if not isinstance(realistic, bool):
            remedy = "give True or False"
            raise InputError("realistic = {value}", value=realistic, remedy=remedy)
        if not realistic:
            return {}
        # CTFs that are given have their own astigmatism.
        drawn = given.get("poses") is None
        faults = REALISTIC if drawn else dataclasses.replace(REALISTIC, astigmatism=0.0)
        config = SimulationConfig(snr=REALISTIC_SNR)
        return {"realistic": True, "config": config, "faults": faults}

    @property
    def writes_reference(self) -> bool:
        """Whether an imperfect reference is asked for."""
        return bool(not_default(self.imperfect))

    def run(self) -> Path:
        """Simulate; returns the path of the particles."""
        from cryostar_nb.io.files import check_outputs
        from cryostar_nb.simulation.particles import simulate

        outputs = [self.out / name for name in ("particles.star", "particles.mrcs", "truth.npz")]
        if self.writes_reference:
            outputs.append(self.out / "reference.cif")
        files = (self.faults.noise_spectrum, self.faults.mtf)
        inputs = [self.start, self.end, self.trajectory, self.topology, self.poses]
        inputs += [file for file in files if isinstance(file, Path)]
        check_outputs(outputs, inputs=inputs, overwrite=self.overwrite)
        simulate(
            self.config,
            start=self.start,
            end=self.end,
            out=self.out,
            trajectory=self.trajectory,
            topology=self.topology,
            poses=self.poses,
            faults=self.faults,
            imperfect=self.imperfect,
        )
        return outputs[0]


@settings
class Info:
    """Say what a particle file was understood to hold, and what is wrong with it; of a run, how
    many of its particles are probably good, too.

    Its images need not exist. Writes nothing.
    """

    particles: Positional[Path]
    """Particles: .star (RELION), .cs (cryoSPARC), a stack (.mrcs) with cryoDRGN's pickles, or a
    run folder of `train`."""
    json: bool = False
    """Print one JSON object."""
    reading: OmitArgPrefixes[Reading] = field(default_factory=Reading)
    """How to read them."""

    def run(self) -> dict[str, Any]:
        """All that was understood, and `problems`."""
        from cryostar_nb.prepare.info import inspect_particles
        from cryostar_nb.runs.run_config import particles_of

        facts = inspect_particles(*particles_of(self.particles, self.reading))
        if self.particles.is_dir():
            from cryostar_nb.runs.kept import kept

            quality = kept(self.particles, "quality.npy")
            facts["good_particles"] = None if quality is None else int((quality >= 0.5).sum())
        return facts


@settings
class Preprocess:
    """Crop, filter, invert, normalise or mask particle images.

    Writes particles.mrcs and particles.star (RELION 3.1) into the folder OUT, in one pass over the
    images.
    """

    particles: Positional[Path]
    """Particles: .star (RELION), .cs (cryoSPARC), or a stack (.mrcs) with cryoDRGN's pickles."""
    out: Path
    """Folder to write to; it is made when missing."""
    overwrite: bool = False
    """Replace what is in OUT already; never a file that is read."""
    indices: str | None = None
    """Only these: a file of indices counted from 0 (.npy, .txt, .pkl, or .csv with a column
    `index`, or `particle` counted from 1), a mask in .npy, or START:STOP."""
    reading: OmitArgPrefixes[Reading] = field(default_factory=Reading)
    """How to read them."""
    config: OmitArgPrefixes[Preprocessing] = field(default_factory=Preprocessing)
    """What is done to the images."""

    def run(self) -> "Particles":
        """Preprocess; returns the new particles."""
        from cryostar_nb.io.files import check_outputs
        from cryostar_nb.prepare.preprocess import preprocess_file

        outputs = [self.out / name for name in ("particles.star", "particles.mrcs")]
        inputs = (self.particles, *self.reading.files())
        check_outputs(outputs, inputs=inputs, overwrite=self.overwrite)
        return preprocess_file(self.particles, self.out, self.config, self.reading, self.indices)


@settings
class Doctor:
    """Find out what is wrong with particle files: signs, CTF, poses, origins, pixel size, hand, or
    the place of the model.

    Compares a few hundred particles with projections of a model, of a map, or of a map with the
    model docked into it.
    """

    particles: Positional[Path]
    """Particles with poses and CTF: .star (RELION), .cs (cryoSPARC), or a stack (.mrcs) with
    cryoDRGN's pickles."""
    reference: Path | None = None
    """Model (PDB or mmCIF), in the frame of the poses as far as you know."""
    map: Path | None = None
    """Consensus map (MRC) of these particles; its centre voxel is the origin of the poses."""
    out: Path | None = None
    """Folder for doctor.html, and for corrected files where something is wrong: particles.star, or
    particles.cs for a .cs file, and reference.cif."""
    overwrite: bool = False
    """Replace what is in OUT already; never a file that is read."""
    json: bool = False
    """Print one JSON object instead of text."""
    invert: bool = False
    """Turn the contrast of the images round first: set when protein is known to be dark on a
    bright ground."""
    n_particles: Count = 500
    """How many particles to look at, evenly spread over the file."""
    resolution: Positive | None = None
    """Finest detail to compare, in Å (default: 4 Å, or 2.05 pixels, or what 2,000 coefficients
    hold)."""
    map_pixel_size: Positive | None = None
    """Voxel size of the map in Å, where its header does not say or is wrong."""
    reading: OmitArgPrefixes[Reading] = field(default_factory=Reading)
    """How to read the particles."""

    def run(self) -> "Diagnosis":
        """Examine; returns the diagnosis, and writes its page and corrected files into OUT."""
        from cryostar_nb.doctor.diagnosis import diagnose_files

        if self.out is not None:
            from cryostar_nb.io.files import check_outputs

            names = ("doctor.html", "particles.star", "particles.cs", "reference.cif")
            inputs = (self.particles, self.reference, self.map, *self.reading.files())
            outputs = [self.out / name for name in names]
            check_outputs(outputs, inputs=inputs, overwrite=self.overwrite)
        diagnosis = diagnose_files(
            self.particles,
            reference=self.reference,
            map_path=self.map,
            reading=self.reading,
            map_pixel_size=self.map_pixel_size,
            count=self.n_particles,
            resolution=self.resolution,
            invert=self.invert,
            out=self.out,
        )
        if self.out is not None:
            from cryostar_nb.io.files import write_text
            from cryostar_nb.pages.doctor_report import doctor_page

            write_text(self.out / "doctor.html", doctor_page(diagnosis))
        return diagnosis


@settings
class Dock:
    """Place a model in a map, or in front of particles, as a rigid body: a search over all
    rotations and translations, then a refinement.
    """

    model: Positional[Path]
    """Model to dock (PDB or mmCIF)."""
    target: Positional[Path]
    """Map (.mrc, .map), or particles with good poses: .star, .cs, or a stack (.mrcs) with pickles.
    --pixel-size is that of either."""
    out: Path
    """File to write the docked model to, .cif or .pdb; every atom of the model is in it."""
    overwrite: bool = False
    """Replace OUT if it is there already; never a file that is read."""
    frame: Literal["auto", "map", "poses"] = "auto"
    """Frame of the model, before and after. map: the map file's own, by its ORIGIN and NSTART,
    where viewers show it. poses: the map's centre voxel is the origin, as `train` needs it, and
    always so against particles. auto: map, unless ORIGIN and NSTART are both 0 and the model
    stands nearer to the centre of the frame of the poses."""
    reading: OmitArgPrefixes[Reading] = field(default_factory=Reading)
    """How to read the target."""

    def run(self) -> "DockedModel":
        """Dock, and write the model."""
        from cryostar_nb.doctor.placing import dock_files
        from cryostar_nb.io.files import check_outputs
        from cryostar_nb.io.structures import structure_path

        inputs = (self.model, self.target, *self.reading.files())
        check_outputs([structure_path(self.out)], inputs=inputs, overwrite=self.overwrite)
        return dock_files(self.model, self.target, self.out, frame=self.frame, reading=self.reading)
