"""Docking of files: a model into a map or in front of particles, what it gained, and the file."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gemmi
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.config import TrainConfig
from cryostar_nb.density import model_density
from cryostar_nb.doctor import thresholds as limits
from cryostar_nb.doctor.docking import (
    Placement,
    Target,
    correlation,
    dock,
    map_target,
    rotation_angle,
)
from cryostar_nb.doctor.sample import take_sample
from cryostar_nb.doctor.scoring import choose_band, docking_target
from cryostar_nb.doctor.spectrum import Spectrum, model_spectrum
from cryostar_nb.fourier import first_crossing, fourier_crop, shell_correlation
from cryostar_nb.io.atom_records import read_document
from cryostar_nb.io.files import write_text
from cryostar_nb.io.maps import DensityMap, read_map
from cryostar_nb.io.options import Reading
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.problems import read_and_tell
from cryostar_nb.io.structures import read_structure, structure_path
from cryostar_nb.structure import Structure, coarse_grain

MOST_ATOMS = 40_000  # beyond, a model is docked by its nodes
MOST_CYCLES = 40  # across a map that is docked into
MOST_FSC_VOXELS = 128  # along an edge
FSC_RESOLUTIONS = (60, 40, 30, 20, 15, 10, 8, 6, 5, 4, 3)  # Å, of the report
Frame = Literal["auto", "map", "poses"]


def gaussians(
    atoms: Structure,
) -> tuple[Float[Tensor, "gaussian 3"], Float[Tensor, " gaussian"], float]:
    """Positions, electrons and width of a structure's atoms; of its nodes if they are too many."""
    nodes = coarse_grain(atoms)
    by_node = len(nodes) == len(atoms) or len(atoms) > MOST_ATOMS
    chosen, sigma = (nodes, TrainConfig.sigma) if by_node else (atoms, TrainConfig.atom_sigma)
    positions, electrons = map(torch.from_numpy, (chosen.positions, chosen.electrons))
    return positions.float(), electrons.float(), sigma


def structure_spectrum(atoms: Structure, resolution: float) -> Spectrum:
    """The spectrum of a structure's density."""
    return model_spectrum(*gaussians(atoms), resolution)


@dataclass(frozen=True)
class DockedModel:
    """A docked model; correlations are those of whitened transforms."""

    before: float
    after: float
    mirrored: float  # of the model's mirror image
    placement: Placement  # in the frame that was asked for
    mirror_placement: Placement  # of the mirror image, in the frame of the poses
    shift: float  # Å, of the model's centre
    angle: float  # degrees
    resolution: float  # Å, of the correlations
    frame: Frame
    # Of a map only:
    chance: float = 0.0  # correlation that another molecule would reach
    map_centre: tuple[float, ...] | None = None  # Å, of the centre voxel in that frame
    frequencies: Float[Tensor, " shell"] | None = None  # 1/Å
    fsc_before: Float[Tensor, " shell"] | None = None
    fsc_after: Float[Tensor, " shell"] | None = None

    @property
    def means_something(self) -> bool:
        """Whether one hand fits clearly better than the other, and than chance."""
        worse, better = sorted((self.after, self.mirrored))
        return better > limits.MAP_HAND_RATIO * max(worse, self.chance)

    @property
    def other_hand(self) -> bool:
        """Whether the mirror image fits clearly better."""
        return self.means_something and self.mirrored > self.after


def chance_correlation(electrons: float, resolution: float) -> float:
    """Correlation, down to a resolution in Å, of another molecule at its best place in a map.

    Two unlike densities in a volume V agree by 1 / sqrt(n), sd, where n = 4 pi V / (3 resolution^3)
    are the numbers that they hold to that detail (Shannon). The best of N places is at
    sqrt(2 log N) of these.
    """
    volume = limits.PROTEIN_VOLUME_PER_ELECTRON * electrons
    numbers = 4 * math.pi / 3 * volume / resolution**3
    return min(1.0, math.sqrt(2 * math.log(limits.INDEPENDENT_PLACES) / numbers))


def _dock_both_hands(
    target: Target, model: Spectrum, resolution: float, *, either_sign: bool, rotations: int
) -> DockedModel:
    """Dock a model and its mirror image; with `either_sign`, in the contrast that fits."""
    (after, placement), (mirrored, mirror_placement) = (
        dock(target, model, mirrored=hand, either_sign=either_sign, rotations=rotations)
        for hand in (False, True)
    )
    before = float(correlation(target, model, torch.eye(3), model.centre))
    if either_sign:
        before, after, mirrored = before if after > 0 else -before, abs(after), abs(mirrored)
    return DockedModel(
        before=before,
        after=after,
        mirrored=mirrored,
        placement=placement,
        mirror_placement=mirror_placement,
        shift=float((placement(model.centre) - model.centre).norm()),
        angle=rotation_angle(placement.matrix),
        resolution=resolution,
        frame="poses",
    )


def choose_frame(positions: Float[Tensor, "atom 3"], density_map: DensityMap) -> Frame:
    """The frame of a map that a model is given in: as ORIGIN and NSTART say.

    RELION and cryoSPARC leave both at 0; then the frame whose box's centre is nearer to the model.
    """
    middle = positions.mean(0).double()
    to_file = float((middle - torch.from_numpy(density_map.centre)).norm())
    return "map" if np.any(density_map.corner) or to_file < float(middle.norm()) else "poses"


def dock_into_map(
    atoms: Structure,
    density_map: DensityMap,
    *,
    frame: Frame = "auto",
    rotations: int = limits.SEARCH_ROTATIONS,
) -> DockedModel:
    """Dock a model into a map, to 8 Å, or what the map holds.

    In the frame `map`, coordinates are those of the file, by ORIGIN and NSTART; in `poses`, the
    map's centre is 0. `rotations` are tried.
    """
    positions, electrons, sigma = gaussians(atoms)
    frame = choose_frame(positions, density_map) if frame == "auto" else frame
    centre = torch.from_numpy(density_map.centre if frame == "map" else np.zeros(3))
    edge, voxel_size = density_map.box_size * density_map.voxel_size, density_map.voxel_size
    resolution = max(
        limits.DETAIL_RESOLUTION, edge / MOST_CYCLES, limits.FINEST_PIXELS * voxel_size
    )
    target = map_target(density_map, resolution)
    model = model_spectrum((positions - centre).float(), electrons, sigma, resolution)
    docked = _dock_both_hands(target, model, resolution, either_sign=False, rotations=rotations)
    matrix, move = docked.placement.matrix, docked.placement.move
    placement = Placement(matrix, (matrix.double() @ -centre + move + centre).float())

    size = min(density_map.box_size, MOST_FSC_VOXELS)
    values = fourier_crop(density_map.values, size, 3)
    curves = []
    for points in (positions, placement(positions)):
        volume = model_density(
            (points - centre).float(), electrons, sigma, box_size=size, pixel_size=edge / size
        )
        frequencies, curve = shell_correlation(volume, values, pixel_size=edge / size)
        curves.append(curve)
    return dataclasses.replace(
        docked,
        placement=placement,
        frame=frame,
        chance=chance_correlation(float(electrons.sum()), resolution),
        map_centre=tuple(centre.tolist()),
        frequencies=frequencies,
        fsc_before=curves[0],
        fsc_after=curves[1],
    )


def dock_against_images(
    atoms: Structure,
    particles: Particles,
    count: int = 1000,
    *,
    rotations: int = limits.SEARCH_ROTATIONS,
) -> DockedModel:
    """Dock a model against images, whose poses are trusted; the frame is that of the poses."""
    sample = take_sample(particles, choose_band(particles), count)
    target = docking_target(sample)
    resolution = 1 / float(target.frequencies.norm(dim=-1).max())
    model = structure_spectrum(atoms, resolution)
    return _dock_both_hands(target, model, resolution, either_sign=True, rotations=rotations)


def dock_files(
    model: Path | str,
    target: Path | str,
    out: Path | str,
    *,
    frame: Frame = "auto",
    reading: Reading | None = None,
    rotations: int = limits.SEARCH_ROTATIONS,
) -> DockedModel:
    """Dock a model into a map (.mrc, .map) or against particles, and write it, moved as a whole.

    The pixel size of `reading` is the voxel size of a map, where its header does not say or is
    wrong. Raises InputError for a file that cannot be read, or cannot hold the model.
    """
    reading = reading or Reading()
    atoms = read_structure(model)
    structure_path(out, atoms)  # before the search
    if Path(target).suffix.lower() in (".mrc", ".map", ".ccp4") and reading.poses_pkl is None:
        density_map = read_map(target, pixel_size=reading.pixel_size)
        docked = dock_into_map(atoms, density_map, frame=frame, rotations=rotations)
    else:
        docked = dock_against_images(atoms, read_and_tell(target, reading), rotations=rotations)
    move_structure(model, out, docked.placement)
    return docked


def as_report(docked: DockedModel) -> str:
    """What docking did, in lines for a terminal."""
    rows: list[tuple[str, str | float, str | float]] = [
        ("", "before", "after"),
        (f"correlation, to {docked.resolution:.3g} Å", docked.before, docked.after),
    ]
    lines = []
    if docked.frequencies is not None and docked.map_centre is not None:
        before, after = docked.fsc_before, docked.fsc_after
        assert before is not None and after is not None
        detail = 1 / docked.frequencies
        for wanted in FSC_RESOLUTIONS:
            if float(detail[-1]) <= wanted <= float(detail[0]):
                shell = int((detail - wanted).abs().argmin())
                rows.append((f"FSC at {wanted} Å", float(before[shell]), float(after[shell])))
        ends = [first_crossing(docked.frequencies, curve) for curve in (before, after)]
        falls = ["never 0.5" if end is None else f"{end:.2f} Å" for end in ends]
        rows.append(("FSC falls to 0.5 at", falls[0], falls[1]))
        by = (
            "of the map file, by its ORIGIN and NSTART" if docked.frame == "map" else "of the poses"
        )
        place = ", ".join(f"{value:g}" for value in docked.map_centre)
        lines.append(f"frame: {by}; the map's centre voxel lies at ({place}) Å")
    lines.append(f"moved by {docked.shift:.2f} Å and {docked.angle:.2f} degrees")
    remark = "; IT FITS CLEARLY BETTER: the hand is wrong" if docked.other_hand else ""
    if not docked.means_something:
        remark = "; NOT TO BE TRUSTED: neither hand fits clearly better than the other and than "
        remark += "chance: another molecule, or too little detail"
    lines.append(f"mirror image: correlation {docked.mirrored:.3f}{remark}")

    def cell(value: str | float) -> str:
        return f"{value if isinstance(value, str) else f'{value:.3f}':>10}"

    table = [f"{name:28}{cell(first)}{cell(second)}" for name, first, second in rows]
    return "\n".join([*table, *lines])


def move_structure(source: Path | str, out: Path | str, placement: Placement) -> None:
    """Write a structure file with all its atoms, ligands and waters too, placed elsewhere.

    A crystal's cell is left out. Raises InputError for a name that is neither .pdb nor .cif.
    """
    out = structure_path(out)
    document = read_document(source)
    document.cell, document.spacegroup_hm = gemmi.UnitCell(), ""
    matrix = gemmi.Mat33(placement.matrix.double().tolist())
    move = gemmi.Vec3(*placement.move.double().tolist())
    for part in document:
        part.transform_pos_and_adp(gemmi.Transform(matrix, move))
    document.setup_entities()
    if out.suffix == ".cif":
        write_text(out, document.make_mmcif_document().as_string())
    else:
        document.shorten_chain_names()
        write_text(out, document.make_pdb_string(gemmi.PdbWriteOptions(cryst1_record=False)))
