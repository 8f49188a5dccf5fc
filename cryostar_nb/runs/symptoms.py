"""What is wrong with a run, as far as it shows without another training: symptoms by name.

Each is a number with a threshold. They were set on trainings that fail in known ways and on sound
ones (`benchmarks/check.py`): a number beyond its threshold convicts, one within it does not acquit.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryostar_nb.backbone import local_geometry
from cryostar_nb.doctor.diagnosis import diagnose
from cryostar_nb.doctor.hypotheses import name_of
from cryostar_nb.doctor.scoring import is_docked
from cryostar_nb.doctor.thresholds import SEARCH_ROTATIONS
from cryostar_nb.fast.nufft import adjoint_transform
from cryostar_nb.gauge import superpose_weighted
from cryostar_nb.geometry import kabsch, rmsd
from cryostar_nb.latents import evenly_spaced
from cryostar_nb.likelihood import contrasts
from cryostar_nb.poses import transfer_of

if TYPE_CHECKING:
    from cryostar_nb.runs.run import Run

SAMPLE = 600  # particles whose residuals make the difference map
DOCTORED, SEARCHED = 500, SEARCH_ROTATIONS  # particles that the doctor looks at, and rotations
AT_ONCE = 64  # particles
GRID, MARGIN = 3.0, 15.0  # Å, between points of the difference map, and around the molecule
MOST_POINTS = 40  # of the grid, along an edge
DETAIL = 10 / 3  # grid spacings, the finest detail of the difference map
FAR, TURNED = 3.0, 5.0  # Å and degrees, of a reference that was not docked
LEAST_SHAPE, LEAST_MOTION = 0.4, 1.0  # part of a motion that changes the shape; Å of a motion
LARGEST_LOCAL = 0.75  # Å, change of distances that turns and helices fix
LEAST_Z, LEAST_DIFFERENCE = 8.0, 0.2  # of the difference map: in errors, in the model's peak
FOLLOWS = 0.15  # R^2 of the first component by something that is no conformation

REMEDIES = {
    "reference misplaced": "dock it first: cryostar-nb dock",
    "moves as a whole": "look at the origins and poses, and loosen the restraints: a lower"
    " --final-elastic-weight or --relaxation-percentile",
    "helices deformed": "the restraints are too weak for these images: a higher"
    " --final-elastic-weight, --method star; or a part is missing from the reference",
    "part missing": "complete the reference: the map has density where it has no atoms",
    "part misplaced": "build the part anew into a consensus map: images lack it where the model has"
    " it, and training does not turn it back",
    "follows the defocus": "find out what was done to the images: cryostar-nb doctor",
    "follows the view": "look at the angles, and whether some views are rare",
    "follows the origin": "look at the origins: their sign, their unit, the poses",
    "learns by heart": "fewer --steps or more particles",
    "collapsed": "a lower --kl-weight, or more particles; or there is no motion",
}


@dataclass(frozen=True)
class Symptom:
    """Something that is wrong, by name, with the number that says so."""

    name: str
    words: str

    @property
    def remedy(self) -> str:
        """What helps."""
        return REMEDIES.get(self.name, "cryostar-nb doctor says what to do, and writes files")


@dataclass(frozen=True)
class DifferenceMap:
    """What images show and the model does not (positive), or the other way round (negative)."""

    values: Float[Tensor, " point"]  # in the peak of the model's own map
    z: Float[Tensor, " point"]  # the same in standard errors over the particles
    points: Float[Tensor, "point 3"]  # Å, in the frame of the poses


def symptoms_of(run: "Run") -> list[Symptom]:
    """All that is found."""
    rows = evenly_spaced(1000, len(run.latents))
    structures = run.decode(run.latents[rows])
    misplaced = _of_placement(run, structures)
    found = _of_doctor(run, moved=bool(misplaced)) + misplaced + _of_motion(run)
    found += _of_geometry(run, structures) + _of_difference(run, difference_map(run))
    return found + _of_metadata(run) + _of_held_out(run)


def _of_placement(run: "Run", structures: Float[Tensor, "structure atom 3"]) -> list[Symptom]:
    """Whether training moved the molecule: as a whole, and the part of it that is still."""
    mean = structures.mean(0)
    whole = superpose_weighted(mean, run.reference, torch.ones(len(mean)))
    moves = [_move(placed, mean) for placed in (whole, run.gauge.apply(mean))]
    moved, angle = (min(values) for values in zip(*moves, strict=True))
    if moved < FAR and angle < TURNED:
        return []
    words = f"training moved the molecule by {moved:.1f} Å and turned it by {angle:.0f}°"
    return [Symptom("reference misplaced", words)]


def _move(first: Float[Tensor, "atom 3"], second: Float[Tensor, "atom 3"]) -> tuple[float, float]:
    """The shift in Å and the angle in degrees between two placements of a rigid body."""
    rotation, _ = kabsch(first.double().numpy(), second.double().numpy())
    angle = float(np.degrees(Rotation.from_matrix(rotation).magnitude()))
    return float((first.mean(0) - second.mean(0)).norm()), angle


def _of_motion(run: "Run") -> list[Symptom]:
    """How much of the motion along the first component is a change of shape."""
    frames = run.traverse(in_gauge=False)
    first, last = frames[0], frames[-1]
    motion = float(rmsd(first, last))
    shape = float(rmsd(superpose_weighted(first, last, torch.ones(len(last))), last))
    if motion < LEAST_MOTION or shape > LEAST_SHAPE * motion:
        return []
    words = f"of {motion:.1f} Å of motion, {shape:.1f} Å are left when the ends are superposed"
    return [Symptom("moves as a whole", words)]


def _of_geometry(run: "Run", structures: Float[Tensor, "structure atom 3"]) -> list[Symptom]:
    change = local_geometry(structures, run.nodes).local_error
    if change < LARGEST_LOCAL:
        return []
    words = f"distances within helices and turns change by {change:.2f} Å rms"
    return [Symptom("helices deformed", words)]


@torch.no_grad()
def difference_map(run: "Run") -> DifferenceMap:
    """The adjoint of image formation on residuals, averaged over particles, at coarse detail.

    dV(x) = < P_R^T CTF (I - a I_hat) >(x), with the best brightness a of each particle; the unit is
    the highest value of the same with a I_hat in place of the residual.
    """
    rows = evenly_spaced(SAMPLE, len(run.latents))
    data, band = run.data_of(run.refined_particles[rows]), run.band
    middle = (run.reference.amax(0) + run.reference.amin(0)) / 2
    half = float((run.reference - middle).norm(dim=-1).max()) + MARGIN
    spacing = max(GRID, 2 * half / MOST_POINTS)
    axis = torch.arange(-half, half + spacing / 2, spacing)
    points = torch.cartesian_prod(axis, axis, axis) + middle
    finest = 1 / (DETAIL * spacing)
    coarse = band.per_coefficient((band.frequencies.norm(dim=-1) < finest).float())
    total, squares, model = torch.zeros(3, len(points))
    latents = run.latents[rows].split(AT_ONCE)
    for (images, rotations, ctf, _), latent in zip(data.split(AT_ONCE), latents, strict=True):
        positions, turns = run.model.decoder.deform(latent)
        made = run.density.images(positions, band, turns=turns, rotations=rotations, ctf=ctf)
        made = run.model.scaled(made)
        made = made * contrasts(images, made)[:, None]
        back = transfer_of(ctf, images, band) * coarse
        places = points @ rotations.mT
        values, _ = adjoint_transform((images - made) * back, places, band)
        total += values.sum(0)
        squares += values.square().sum(0)
        model += adjoint_transform(made * back, places, band)[0].sum(0)
    mean = total / len(rows)
    error = ((squares / len(rows) - mean.square()) / len(rows)).sqrt()
    return DifferenceMap(total / model.max(), mean / error, points)


def _of_difference(run: "Run", found: DifferenceMap) -> list[Symptom]:
    """A part that the images show and the model lacks, or has elsewhere."""
    missing, excess = (_extreme(run, found, sign) for sign in (1, -1))
    if excess is not None:
        words = f"the model has density that the images lack, {excess}"
        words += "" if missing is None else f"; the images have some that it lacks, {missing}"
        return [Symptom("part misplaced", words)]
    if missing is None:
        return []
    return [Symptom("part missing", f"the images have density that the model lacks, {missing}")]


def _extreme(run: "Run", found: DifferenceMap, sign: int) -> str | None:
    """How high the difference is where it is clearest, and by which residue; None: it is low."""
    values = torch.where(found.z.abs() > LEAST_Z, sign * found.values, 0.0)
    place = int(values.argmax())
    if float(values[place]) < LEAST_DIFFERENCE:
        return None
    near = int((run.reference - found.points[place]).norm(dim=-1).argmin())
    height = f"{float(values[place]):.0%} of its peak ({abs(float(found.z[place])):.0f} standard"
    return f"{height} errors) near {run.nodes.residue_label(near)}"


def explained(
    columns: Float[np.ndarray, "particle column"], values: Float[np.ndarray, " particle"]
) -> float:
    """R^2 of a linear regression of values on columns."""
    design = np.column_stack([np.ones(len(values)), columns])
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(1 - np.var(values - fitted) / max(np.var(values), 1e-30))


def _of_metadata(run: "Run") -> list[Symptom]:
    """Whether the first component can be computed from what is no conformation."""
    particles, pc1 = run.particles, run.components().scores[:, 0].double().numpy()
    views = particles.rotations.double()
    x, y, z = views[:, 2].T.numpy()
    columns = {"view": np.column_stack([x, y, z, x * x, y * y, x * y, x * z, y * z])}
    columns["origin"] = torch.einsum("nij,ni->nj", views[:, :2], particles.shifts.double()).numpy()
    if particles.ctf is not None:
        defocus = particles.ctf.defocus_u.double().abs().clamp(min=1).log().numpy()
        columns["defocus"] = defocus[:, None]
    found = {name: explained(values, pc1) for name, values in columns.items()}
    return [
        Symptom(f"follows the {name}", f"it explains {part:.0%} of the first component")
        for name, part in found.items()
        if part > FOLLOWS
    ]


def _of_held_out(run: "Run") -> list[Symptom]:
    said = run.held_out
    if said is None:
        return []
    words = said["words"]
    if said["collapsed"]:
        return [Symptom("collapsed", words[-1])]
    return [Symptom("learns by heart", words[0])] if said["verdict"] == "learns by heart" else []


def _of_doctor(run: "Run", *, moved: bool) -> list[Symptom]:
    """Whether particles and reference fit better under other conventions.

    Another place of the reference counts only where training `moved` the molecule as well: a rigid
    reference that stands right fits particles of other shapes better if it leans towards them.
    """
    atoms = run.nodes if run.config.density == "nodes" else run.atoms
    count = min(DOCTORED, len(run.particles))
    found = diagnose(
        run.particles, atoms=atoms, count=count, invert=run.inputs.invert, rotations=SEARCHED
    )
    others = [name for name in found.faults if not is_docked((name,))]
    if not found.faults or not (others or moved):
        return []
    winner, default = found.winner, found.default
    assert winner is not None
    words = f"particles correlate with the reference by {winner.mean:.3f} that way, by"
    words += f" {default.mean:.3f} as the files say"
    return [Symptom(name_of(found.faults), words)]
