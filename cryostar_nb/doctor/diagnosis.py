"""A diagnosis of particle files: the doctor's verdict with all that it rests on, in words, as JSON, and as corrected files."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from cryostar_nb.doctor.docking import Placement
from cryostar_nb.doctor.hypotheses import FAULTS, Hypothesis, origins, placed
from cryostar_nb.doctor.placing import dock_into_map, move_structure, structure_spectrum
from cryostar_nb.doctor.remedies import (
    corrected_particles,
    corrected_placement,
    image_root,
    is_mirror_image,
    is_moved,
    needs_star,
)
from cryostar_nb.doctor.sample import Sample, take_sample
from cryostar_nb.doctor.spectrum import Spectrum, map_spectrum
from cryostar_nb.doctor.verdict import (
    ALIKE,
    WORTH_PLACING,
    Scored,
    at_its_limit,
    candidates,
    choose_band,
    decide,
    mirror_of,
    particles_needed,
    settle_scale,
)
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band
from cryostar_nb.io.maps import DensityMap, read_map
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.reading import Reading, read_particles
from cryostar_nb.io.star import write_star
from cryostar_nb.io.structures import read_structure
from cryostar_nb.structure import Structure

LEAST_EDGE, MOST_EDGE = 0.5, 2.0  # of a map, in edges of the particles' box


@dataclass(frozen=True)
class Diagnosis:
    """What was found; `winner` is None where nothing correlates with the images."""

    particles: Particles  # all of them
    atoms: Structure | None
    band: Band
    sample: Sample
    reference: Spectrum  # what images were compared with
    scored: list[Scored]
    winner: Scored | None  # for this reference
    rivals: list[Scored]
    twins: list[str]  # sets of faults that predict the same images as the winner
    hypothesis: Hypothesis  # the winner's, with the place of the model where images were compared with a map; else the default
    notes: list[str]
    lost: bool = False  # whether no place was found for the model in the map
    invert: bool = False  # whether the images were inverted before

    @property
    def default(self) -> Scored:
        """What the files say."""
        return next(one for one in self.scored if not one.faults)

    @property
    def decided(self) -> bool:
        """Whether there is a verdict."""
        return self.winner is not None and not self.rivals and not self.lost

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong; nothing where there is no verdict."""
        return self.hypothesis.faults() if self.decided else ()

    @property
    def verdict(self) -> str:
        """`ok`, the names of the faults joined by ` + `, or `undecided`. Faults that predict the same images are joined by ` or `."""
        return " or ".join([name_of(self.faults), *self.twins]) if self.decided else "undecided"

    @property
    def needed(self) -> int:
        """Particles that would decide it."""
        return particles_needed(self.scored, self.winner, len(self.sample.images))

    @property
    def turn_poses(self) -> bool:
        """Whether the other hand is the poses' fault, and not that of a model that is a mirror image."""
        return "hand" in self.faults and not (
            self.atoms is not None and is_mirror_image(self.atoms)
        )

    @property
    def needs_star(self) -> bool:
        """Whether the particles' file must be another."""
        return self.decided and needs_star(
            self.particles, self.hypothesis, turn_poses=self.turn_poses
        )

    @property
    def needs_model(self) -> bool:
        """Whether the model, if there is one, must stand elsewhere."""
        moved = is_moved(corrected_placement(self.hypothesis, turn_poses=self.turn_poses))
        return self.decided and self.atoms is not None and moved


def name_of(faults: tuple[str, ...]) -> str:
    """A set of faults as a verdict."""
    return " + ".join(faults) or "ok"


def diagnose(
    particles: Particles,
    *,
    atoms: Structure | None = None,
    density: DensityMap | None = None,
    count: int = 500,
    resolution: float | None = None,
    invert: bool = False,
) -> Diagnosis:
    """Diagnose particles against a model, a map, or both. With both, images are compared with the map, and the model is docked into it.

    `invert` turns the contrast of the images round first.
    """
    if count < 2:
        raise InputError(f"n_particles = {count}; give at least 2")
    if density is not None:
        check_edges(particles, density)
    band = choose_band(particles, resolution)
    sample = take_sample(particles, band, count, invert=invert)
    finest = 0.9 * sample.resolution  # a smaller pixel size looks further
    if density is not None:
        reference = map_spectrum(density, finest)
    elif atoms is not None:
        reference = structure_spectrum(atoms, finest)
    else:
        raise InputError(
            "the doctor needs something to compare the particles with; give --reference, --map, or both"
        )
    scored = candidates(sample, reference)
    winner, rivals = decide(scored)
    if winner is None:
        return Diagnosis(
            particles,
            atoms,
            band,
            sample,
            reference,
            scored,
            None,
            [],
            [],
            Hypothesis(),
            _notes(particles, scored, None),
            invert=invert,
        )
    others = [
        one
        for one in scored
        if one is not winner and not at_its_limit(one) and one.likeness(winner) >= ALIKE
    ]
    twins = [
        name_of(one.faults)
        for one in others
        if winner.faults and len(one.faults) == len(winner.faults)
    ]
    notes = _notes(particles, others, winner)
    settled, remark = settle_scale(sample, reference, winner, shape_is_known=density is not None)
    doubtful = mirror_of(winner, scored) is not None
    notes += [remark] if remark and not doubtful else []
    if settled is not winner and "pixel size" not in settled.faults:  # the same was scored before
        settled = next((one for one in scored if one.faults == settled.faults), settled)
    scored = scored if any(settled is one for one in scored) else [*scored, settled]
    if doubtful:
        notes.append(
            "Docked against the images, the reference fits about as well as its mirror image: it may not be what they show."
        )
    hypothesis, lost = settled.hypothesis, False
    if atoms is not None and density is not None:
        hypothesis, lost = _with_model(atoms, density, hypothesis, notes)
    return Diagnosis(
        particles,
        atoms,
        band,
        sample,
        reference,
        scored,
        settled,
        rivals,
        twins,
        hypothesis,
        notes,
        lost=lost,
        invert=invert,
    )


def check_edges(particles: Particles, density: DensityMap) -> None:
    """Raise InputError for a map that is so much smaller or larger than the particles' box that it cannot be theirs."""
    edge, box = density.box_size * density.voxel_size, particles.box_size * particles.pixel_size
    if not LEAST_EDGE <= edge / box <= MOST_EDGE:
        raise InputError(
            f"the map is {edge:.0f} Å wide ({density.box_size} voxels of {density.voxel_size:g} Å) and the box of {particles.source} {box:.0f} Å ({particles.box_size} pixels of {particles.pixel_size:g} Å); give the true voxel size (--map-pixel-size) or pixel size (--pixel-size), or the map of these particles"
        )


def _notes(particles: Particles, alike: list[Scored], winner: Scored | None) -> list[str]:
    """What cannot matter here; `alike` predict the same images as the winner."""
    notes = []
    if len(origins(particles)) == 1:
        notes.append(
            "The particles have no shifts, so nothing is said about how their origins are read."
        )
    elif abs(particles.pixel_size - 1) < 0.03:
        notes.append(
            f"With pixels of {particles.pixel_size:g} Å it does not matter whether origins are in Å or in pixels."
        )
    if winner is not None:
        apart = [set(one.faults) ^ set(winner.faults) for one in alike]
        names = sorted({next(iter(names)) for names in apart if len(names) == 1}, key=FAULTS.index)
        if names:
            notes.append(
                f"These make no difference to the images here, so nothing is said about them: {', '.join(names)}."
            )
    return notes


def _with_model(
    atoms: Structure, density: DensityMap, there: Hypothesis, notes: list[str]
) -> tuple[Hypothesis, bool]:
    """A hypothesis of where the map belongs, moved on to the model: first to its place in the map, then with the map.

    And whether the model is lost: it does not fit where it is, and elsewhere no better than chance or its mirror image.
    """
    docked = dock_into_map(atoms, density, frame="poses")
    notes.append(
        f"The model correlates with the map by {docked.before:.2f} where it is, by {docked.after:.2f} docked, and by {docked.mirrored:.2f} docked as its mirror image."
    )
    placement = docked.mirror_placement if docked.other_hand else docked.placement
    centre = structure_spectrum(atoms, docked.resolution).centre
    stays = not docked.other_hand and (
        not placed(placement, centre).faults() or docked.before > (1 - WORTH_PLACING) * docked.after
    )
    if stays:
        return there, False
    if not docked.means_something:
        notes.append(
            f"No place is clearly better than its mirror image's and than chance ({docked.chance:.2f}): it may not be the molecule of the map, or the map is too coarse to place it."
        )
        return there, True
    whole = Placement(
        there.placement.matrix @ placement.matrix,
        there.placement.matrix @ placement.move + there.placement.move,
    )
    place = placed(whole, centre)
    return dataclasses.replace(
        there, placement=whole, offset=place.offset, angle=place.angle
    ), False


def diagnose_files(
    particles: Path | str,
    *,
    reference: Path | str | None = None,
    density: Path | str | None = None,
    reading: Reading | None = None,
    map_pixel_size: float | None = None,
    count: int = 500,
    resolution: float | None = None,
    invert: bool = False,
) -> Diagnosis:
    """Diagnose files; `reading` says how to read the particles, and `map_pixel_size`, in Å, overrides the header of the map."""
    atoms = None if reference is None else read_structure(reference)
    values = None if density is None else read_map(density, pixel_size=map_pixel_size)
    return diagnose(
        read_particles(particles, **vars(reading or Reading())),
        atoms=atoms,
        density=values,
        count=count,
        resolution=resolution,
        invert=invert,
    )


def write_corrected(found: Diagnosis, out: Path, reference: Path | None) -> dict[str, str]:
    """Write what flags cannot say, into a folder: `particles.star`, and the model moved to where it belongs. Returns their paths."""
    written: dict[str, str] = {}
    if found.needs_star:
        star = out / "particles.star"
        written["particles"] = str(star)
        corrected = corrected_particles(
            found.particles, found.hypothesis, turn_poses=found.turn_poses
        )
        write_star(star, corrected, root=image_root(found.particles, star))
    if reference is not None and found.needs_model:
        written["reference"] = str(out / "reference.cif")
        move_structure(
            reference,
            out / "reference.cif",
            corrected_placement(found.hypothesis, turn_poses=found.turn_poses),
        )
    return written
