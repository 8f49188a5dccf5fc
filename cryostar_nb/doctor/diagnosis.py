"""A diagnosis of particle files: the doctor's verdict as data, and the corrected files."""

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cryostar_nb.doctor import remedies
from cryostar_nb.doctor import thresholds as limits
from cryostar_nb.doctor.docking import Placement
from cryostar_nb.doctor.hypotheses import FAULTS, Hypothesis, name_of, reference_at
from cryostar_nb.doctor.placing import (
    DockedModel,
    dock_into_map,
    move_structure,
    structure_spectrum,
)
from cryostar_nb.doctor.sample import Sample, take_sample
from cryostar_nb.doctor.scoring import ApparentScale, Scored, choose_band, settle_scale
from cryostar_nb.doctor.spectrum import Spectrum, map_spectrum
from cryostar_nb.doctor.verdict import Decision, candidates, decide, particles_needed
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band
from cryostar_nb.io.cryosparc import fits_cs, write_cs
from cryostar_nb.io.maps import DensityMap, read_map
from cryostar_nb.io.options import Reading
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.problems import read_and_tell
from cryostar_nb.io.star import write_star
from cryostar_nb.io.structures import read_structure
from cryostar_nb.structure import Structure

UNCHANGED, AS_WRITTEN = Hypothesis(), Reading()  # what the files say


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on particles, with all that it rests on."""

    particles: Particles  # all of them
    atoms: Structure | None
    invert: bool  # whether the images were inverted before
    band: Band
    sample: Sample
    reference: Spectrum  # what images were compared with
    scored: list[Scored]
    decision: Decision
    winner: Scored | None = None  # the decision's, with its pixel size settled
    hypothesis: Hypothesis = UNCHANGED  # the winner's; moved on to a model docked into a map
    apparent_scale: ApparentScale | None = None  # that may be of the shape
    docked: DockedModel | None = None  # into the map
    lost: bool = False  # whether no place was found for the model in the map
    # Of files:
    reading: Reading = AS_WRITTEN
    model_file: Path | None = None
    out: Path | None = None  # the folder for what is written
    written: dict[str, str] = field(default_factory=dict)  # corrected files

    @property
    def default(self) -> Scored:
        """What the files say."""
        return next(candidate for candidate in self.scored if not candidate.faults)

    @property
    def decided(self) -> bool:
        """Whether there is a verdict."""
        return self.winner is not None and not self.decision.rivals and not self.lost

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong; nothing where there is no verdict."""
        return self.hypothesis.faults() if self.decided else ()

    @property
    def twins(self) -> list[str]:
        """As many faults that predict the same images as the winner's."""
        winner = self.decision.winner
        count = 0 if winner is None else len(winner.faults)
        same = [other.faults for other in self.decision.same]
        return [name_of(faults) for faults in same if count and len(faults) == count]

    @property
    def indifferent(self) -> list[str]:
        """Faults that make no difference to the images here."""
        if self.decision.winner is None:
            return []
        winner = set(self.decision.winner.faults)
        differences = [winner ^ set(other.faults) for other in self.decision.same]
        return sorted(
            {n for names in differences if len(names) == 1 for n in names}, key=FAULTS.index
        )

    @property
    def verdict(self) -> str:
        """`ok`, the faults joined by ` + `, or `undecided`; twins are joined by ` or `."""
        return " or ".join([name_of(self.faults), *self.twins]) if self.decided else "undecided"

    @cached_property
    def needed(self) -> int:
        """Particles that would decide it."""
        return particles_needed(self.scored, self.winner, len(self.sample))

    @cached_property
    def turn_poses(self) -> bool:
        """Whether the poses are of the other hand, and not a model that is a mirror image."""
        mirrored = self.atoms is not None and remedies.is_mirror_image(self.atoms)
        return "hand" in self.faults and not mirrored

    @property
    def placement(self) -> Placement:
        """Where the reference goes."""
        return remedies.corrected_placement(self.hypothesis, turn_poses=self.turn_poses)

    @property
    def needs_star(self) -> bool:
        """Whether the particles' file must be another."""
        h, turn = self.hypothesis, self.turn_poses
        return self.decided and remedies.needs_star(self.particles, h, turn_poses=turn)

    @property
    def needs_model(self) -> bool:
        """Whether the model, if there is one, must stand elsewhere."""
        return self.decided and self.atoms is not None and remedies.is_moved(self.placement)

    @property
    def train_flags(self) -> list[str]:
        """What to pass to `train` beside the files."""
        star = Path(self.written["particles"]) if "particles" in self.written else None
        particles, h, reading = self.particles, self.hypothesis, self.reading
        return remedies.train_flags(particles, h, reading, star, invert=self.invert)


def diagnose(
    particles: Particles,
    *,
    atoms: Structure | None = None,
    density_map: DensityMap | None = None,
    count: int = 500,
    resolution: float | None = None,
    invert: bool = False,
    rotations: int = limits.SEARCH_ROTATIONS,
) -> Diagnosis:
    """Diagnose particles against a model, a map, or both.

    With both, images are compared with the map, and the model is docked into it. `count` particles
    are compared, down to `resolution` in Å; `invert` changes the sign of their contrast first.
    Docking tries so many `rotations`, and is left out for images with 0. Raises InputError without
    a reference, for less than 2 particles, or for a map of another width than the box.
    """
    if count < 2:
        raise InputError("n_particles = {value}", value=count, remedy="give at least 2")
    if density_map is not None:
        check_edges(particles, density_map)
    band = choose_band(particles, resolution)
    sample = take_sample(particles, band, count, invert=invert)
    finest = 0.9 * sample.resolution  # a smaller pixel size looks further
    if density_map is not None:
        reference = map_spectrum(density_map, finest)
    elif atoms is not None:
        reference = structure_spectrum(atoms, finest)
    else:
        problem = "the doctor needs something to compare the particles with"
        raise InputError(problem, remedy="give --reference, --map, or both")
    scored = candidates(sample, reference, rotations=rotations)
    decision = decide(scored)
    diagnosis = Diagnosis(particles, atoms, invert, band, sample, reference, scored, decision)
    if decision.winner is None:
        return diagnosis
    known = density_map is not None
    winner, apparent = settle_scale(sample, reference, decision.winner, shape_is_known=known)
    if winner is not decision.winner and "pixel size" not in winner.faults:  # scored before
        winner = next((other for other in scored if other.faults == winner.faults), winner)
    if not any(winner is other for other in scored):
        scored.append(winner)
    diagnosis = dataclasses.replace(
        diagnosis, winner=winner, hypothesis=winner.hypothesis, apparent_scale=apparent
    )
    if atoms is None or density_map is None:
        return diagnosis
    return _with_model(diagnosis, atoms, density_map, rotations)


def check_edges(particles: Particles, density_map: DensityMap) -> None:
    """Raise InputError for a map that is too small or too large to be these particles'."""
    edge = density_map.box_size * density_map.voxel_size
    box = particles.box_size * particles.pixel_size
    if not 1 / limits.MAP_EDGE_RATIO <= edge / box <= limits.MAP_EDGE_RATIO:
        raise InputError(
            f"has boxes of {box:.0f} Å ({particles.box_size} pixels of {particles.pixel_size:g} Å) "
            f"and the map of {density_map.box_size} voxels is {{value}} Å wide",
            file=particles.source,
            value=edge,
            remedy="give the true --map-pixel-size or --pixel-size, or the map of these particles",
        )


def _with_model(
    diagnosis: Diagnosis, atoms: Structure, density_map: DensityMap, rotations: int
) -> Diagnosis:
    """Move on to the model: first to its place in the map, then with the map.

    It is lost where it does not fit as it is, and elsewhere no better than chance or mirrored.
    """
    docked = dock_into_map(atoms, density_map, frame="poses", rotations=rotations)
    diagnosis = dataclasses.replace(diagnosis, docked=docked)
    into_map = docked.mirror_placement if docked.other_hand else docked.placement
    centre = structure_spectrum(atoms, docked.resolution).centre
    fits = docked.before > (1 - limits.LEAST_DOCKING_GAIN) * docked.after
    if not docked.other_hand and (fits or not reference_at(into_map, centre).faults()):
        return diagnosis
    if not docked.means_something:
        return dataclasses.replace(diagnosis, lost=True)
    of_map = diagnosis.hypothesis.placement
    total = Placement(of_map.matrix @ into_map.matrix, of_map(into_map.move))
    place = reference_at(total, centre)
    hypothesis = dataclasses.replace(
        diagnosis.hypothesis, placement=total, offset=place.offset, angle=place.angle
    )
    return dataclasses.replace(diagnosis, hypothesis=hypothesis)


def diagnose_files(
    particles: Path | str,
    *,
    reference: Path | str | None = None,
    map_path: Path | str | None = None,
    reading: Reading | None = None,
    map_pixel_size: float | None = None,
    out: Path | str | None = None,
    **settings: Any,
) -> Diagnosis:
    """`diagnose` files, with its other `settings`: a model, a map, or both.

    `reading` says how to read the particles, and `map_pixel_size`, in Å, overrides the header of
    the map. Into the folder `out` go corrected files, where something is wrong.
    """
    reading = reading or AS_WRITTEN
    diagnosis = diagnose(
        read_and_tell(particles, reading),
        atoms=None if reference is None else read_structure(reference),
        density_map=None if map_path is None else read_map(map_path, pixel_size=map_pixel_size),
        **settings,
    )
    diagnosis = dataclasses.replace(
        diagnosis,
        reading=reading,
        model_file=None if reference is None else Path(reference),
        out=None if out is None else Path(out),
    )
    return dataclasses.replace(diagnosis, written=write_corrected(diagnosis))


def write_corrected(diagnosis: Diagnosis) -> dict[str, str]:
    """Write what flags cannot say into the folder `out`, if there is one, and return the paths.

    `particles.star`, or `particles.cs` where that is what was read and the format can say it all;
    and `reference.cif`, the model moved to where it belongs.
    """
    written: dict[str, str] = {}
    out, particles, h = diagnosis.out, diagnosis.particles, diagnosis.hypothesis
    if out is None:
        return written
    if diagnosis.needs_star:
        turn = diagnosis.turn_poses
        corrected = remedies.corrected_particles(particles, h, turn_poses=turn)
        as_cs = particles.source.suffix == ".cs" and fits_cs(corrected)
        path = out / ("particles.cs" if as_cs else "particles.star")
        (write_cs if as_cs else write_star)(
            path, corrected, root=remedies.image_root(particles, path)
        )
        written["particles"] = str(path)
    if diagnosis.model_file is not None and diagnosis.needs_model:
        written["reference"] = str(out / "reference.cif")
        move_structure(diagnosis.model_file, out / "reference.cif", diagnosis.placement)
    return written
