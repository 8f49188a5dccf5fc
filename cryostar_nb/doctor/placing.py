"""Docking of files: a model into a map or in front of particles, with what it gained, and the model's file moved as a whole."""

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
from cryostar_nb.doctor.docking import (
    Placement,
    Target,
    correlation,
    dock,
    map_target,
    rotation_angle,
)
from cryostar_nb.doctor.sample import take_sample
from cryostar_nb.doctor.spectrum import Spectrum, model_spectrum
from cryostar_nb.doctor.verdict import choose_band, docking_target
from cryostar_nb.fourier import first_crossing, fourier_crop, shell_correlation
from cryostar_nb.io.files import write_text
from cryostar_nb.io.maps import DensityMap, read_map
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.reading import Reading, read_particles
from cryostar_nb.io.structures import read_structure, structure_path
from cryostar_nb.structure import Structure, coarse_grain

MOST_ATOMS = 40_000  # beyond, a model is docked by its nodes
LARGEST_GRID = 128  # voxels along an edge, of the FSC
CLEARLY = 1.3  # times what chance, or the other hand, gives: a fit that means something
ROOM = 8.6  # Å^3 for each electron of a protein, its blurred rim included
TRIED = 5.3  # standard deviations of chance that the best of the places that are tried reaches
Frame = Literal["auto", "map", "poses"]


def gaussians(
    atoms: Structure,
) -> tuple[Float[Tensor, "gaussian 3"], Float[Tensor, " gaussian"], float]:
    """Positions, electrons and width of what stands for a structure: its atoms, or its nodes where it has nothing else or too many."""
    nodes = coarse_grain(atoms)
    by_node = len(nodes) == len(atoms) or len(atoms) > MOST_ATOMS
    chosen, sigma = (nodes, TrainConfig.sigma) if by_node else (atoms, TrainConfig.atom_sigma)
    return (
        torch.from_numpy(chosen.positions).float(),
        torch.from_numpy(chosen.electrons).float(),
        sigma,
    )


def structure_spectrum(atoms: Structure, resolution: float) -> Spectrum:
    """The spectrum of a structure's density."""
    return model_spectrum(*gaussians(atoms), resolution)


def docking_resolution(density: DensityMap) -> float:
    """Down to which a map is docked into: 8 Å, or 40 cycles across it, or 2.05 voxels."""
    return max(8.0, density.box_size * density.voxel_size / 40, 2.05 * density.voxel_size)


@dataclass(frozen=True)
class DockedModel:
    """A model docked; correlations are those of whitened transforms, FSC curves are None for images."""

    before: float
    after: float
    mirrored: float  # of the model's mirror image
    placement: Placement  # in the frame that was asked for
    mirror_placement: Placement  # of the mirror image, in the frame of the poses
    shift: float  # Å, of the model's centre
    angle: float  # degrees
    resolution: float  # Å, of the correlations
    frame: Frame
    chance: float = (
        0.0  # what another molecule would reach in this map; 0 for images, where it is not known
    )
    map_centre: tuple[float, float, float] | None = (
        None  # Å, of the map's centre voxel in that frame
    )
    frequencies: Float[Tensor, " shell"] | None = None  # 1/Å
    fsc_before: Float[Tensor, " shell"] | None = None
    fsc_after: Float[Tensor, " shell"] | None = None

    @property
    def means_something(self) -> bool:
        """Whether one hand fits clearly better than the other, and than chance; else the molecule is another, or the detail too little."""
        least, most = sorted((self.after, self.mirrored))
        return most > CLEARLY * max(least, self.chance)

    @property
    def other_hand(self) -> bool:
        """Whether the mirror image fits clearly better."""
        return self.means_something and self.mirrored > self.after


def chance_correlation(electrons: float, resolution: float) -> float:
    """Correlation, down to a resolution in Å, that another molecule of so many electrons would reach at its best place in a map.

    Two unlike densities in a volume V agree by 1 / sqrt(N), sd, where N = 4 pi V / (3 resolution^3) are the numbers that they hold
    to that detail (Shannon). Dockings of chains of 7PBL into maps of adenylate kinase gave 0.13 to 0.19 at 8 Å; this gives 0.19.
    """
    return min(1.0, TRIED / math.sqrt(4 * math.pi / 3 * ROOM * electrons / resolution**3))


def _dock(target: Target, model: Spectrum, resolution: float, *, either_sign: bool) -> DockedModel:
    """Dock a model and its mirror image, in the frame of the poses. With `either_sign`, correlations are of the contrast that fits."""
    straight, mirrored = (
        dock(target, model, mirrored=hand, either_sign=either_sign) for hand in (False, True)
    )
    before, after, other = (
        float(correlation(target, model, torch.eye(3), model.centre)),
        straight.correlation,
        mirrored.correlation,
    )
    if either_sign:
        before, after, other = before if after > 0 else -before, abs(after), abs(other)
    found = straight.placement
    return DockedModel(
        before=before,
        after=after,
        mirrored=other,
        placement=found,
        mirror_placement=mirrored.placement,
        shift=float((found(model.centre) - model.centre).norm()),
        angle=rotation_angle(found.matrix),
        resolution=resolution,
        frame="poses",
    )


def choose_frame(positions: Float[Tensor, "atom 3"], density: DensityMap) -> Frame:
    """The frame of a map that a model is given in.

    Where ORIGIN or NSTART say something, they are followed. RELION and cryoSPARC leave both at 0; then the model stands in the
    frame whose box has its centre nearer to it.
    """
    middle = positions.mean(0).double()
    to_file, to_poses = (
        float((middle - torch.from_numpy(density.centre)).norm()),
        float(middle.norm()),
    )
    return "map" if np.any(density.corner) or to_file < to_poses else "poses"


def dock_into_map(atoms: Structure, density: DensityMap, *, frame: Frame = "auto") -> DockedModel:
    """Dock a model into a map. In the frame `map` its coordinates are those of the file, by ORIGIN and NSTART; in `poses` the map's centre is 0."""
    positions, electrons, sigma = gaussians(atoms)
    frame = choose_frame(positions, density) if frame == "auto" else frame
    centre = torch.from_numpy(density.centre if frame == "map" else np.zeros(3))
    resolution = docking_resolution(density)
    target, model = (
        map_target(density, resolution),
        model_spectrum((positions - centre).float(), electrons, sigma, resolution),
    )
    docked = _dock(target, model, resolution, either_sign=False)
    matrix, move = docked.placement.matrix, docked.placement.move
    placement = Placement(matrix, (matrix.double() @ -centre + move + centre).float())

    size = min(density.box_size, LARGEST_GRID)
    values, voxel_size = (
        fourier_crop(density.values, size, 3),
        density.voxel_size * density.box_size / size,
    )
    curves = []
    for place in (positions, placement(positions)):
        made = model_density(
            (place - centre).float(), electrons, sigma, box_size=size, pixel_size=voxel_size
        )
        frequencies, curve = shell_correlation(made, values, pixel_size=voxel_size)
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


def dock_against_images(atoms: Structure, particles: Particles, count: int = 1000) -> DockedModel:
    """Dock a model against particle images, whose poses are trusted; the frame is that of the poses."""
    target = docking_target(take_sample(particles, choose_band(particles), count))
    resolution = 1 / float(target.frequencies.norm(dim=-1).max())
    return _dock(target, structure_spectrum(atoms, resolution), resolution, either_sign=True)


def dock_files(
    model: Path | str,
    target: Path | str,
    out: Path | str,
    *,
    frame: Frame = "auto",
    reading: Reading | None = None,
) -> DockedModel:
    """Dock a model into a map (.mrc, .map) or against particles (any format), and write it, moved as a whole.

    The pixel size of `reading` is the voxel size of a map, where its header does not say or is wrong.
    """
    reading = reading or Reading()
    atoms = read_structure(model)
    structure_path(out, atoms)  # before the search
    if Path(target).suffix.lower() in (".mrc", ".map", ".ccp4") and reading.poses_pkl is None:
        docked = dock_into_map(atoms, read_map(target, pixel_size=reading.pixel_size), frame=frame)
    else:
        docked = dock_against_images(atoms, read_particles(target, **vars(reading)))
    move_structure(model, out, docked.placement)
    return docked


def as_report(docked: DockedModel) -> str:
    """What docking did, in lines for a terminal."""
    lines = [f"{'':28}{'before':>10}{'after':>10}"]
    lines.append(
        f"{f'correlation, to {docked.resolution:.3g} Å':28}{docked.before:10.3f}{docked.after:10.3f}"
    )
    if (
        docked.frequencies is not None
        and docked.fsc_before is not None
        and docked.fsc_after is not None
    ):
        detail = 1 / docked.frequencies
        for wanted in (60, 40, 30, 20, 15, 10, 8, 6, 5, 4, 3):
            if float(detail[-1]) <= wanted <= float(detail[0]):
                shell = int((detail - wanted).abs().argmin())
                lines.append(
                    f"{f'FSC at {wanted} Å':28}{float(docked.fsc_before[shell]):10.3f}{float(docked.fsc_after[shell]):10.3f}"
                )
        ends = [
            first_crossing(docked.frequencies, curve)
            for curve in (docked.fsc_before, docked.fsc_after)
        ]
        lines.append(
            f"{'FSC falls to 0.5 at':28}"
            + "".join(f"{'never 0.5' if end is None else f'{end:.2f} Å':>10}" for end in ends)
        )
    if docked.map_centre is not None:
        said = (
            "of the map file, by its ORIGIN and NSTART" if docked.frame == "map" else "of the poses"
        )
        place = ", ".join(f"{value:g}" for value in docked.map_centre)
        lines.append(f"frame: {said}; the map's centre voxel lies at ({place}) Å")
    lines.append(f"moved by {docked.shift:.2f} Å and {docked.angle:.2f} degrees")
    remark = "; IT FITS CLEARLY BETTER: the hand is wrong" if docked.other_hand else ""
    if not docked.means_something:
        remark = "; NOT TO BE TRUSTED: neither hand fits clearly better than the other and than chance: another molecule, or too little detail"
    lines.append(f"mirror image: correlation {docked.mirrored:.3f}{remark}")
    return "\n".join(lines)


def move_structure(source: Path | str, out: Path | str, placement: Placement) -> None:
    """Write a structure file with all its atoms, ligands and waters too, moved as a rigid body or mirrored; a crystal's cell is left out."""
    out = structure_path(out)
    document = gemmi.read_structure(str(source))
    document.cell, document.spacegroup_hm = gemmi.UnitCell(), ""
    matrix, move = (
        gemmi.Mat33(placement.matrix.double().tolist()),
        gemmi.Vec3(*placement.move.double().tolist()),
    )
    for part in document:
        part.transform_pos_and_adp(gemmi.Transform(matrix, move))
    document.setup_entities()
    if out.suffix == ".cif":
        write_text(out, document.make_mmcif_document().as_string())
    else:
        document.shorten_chain_names()
        write_text(out, document.make_pdb_string(gemmi.PdbWriteOptions(cryst1_record=False)))
