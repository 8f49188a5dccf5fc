"""Domains that turn about hinges: imposed motions for simulations whose truth is known.

A hinge is a line in space. A domain rotates about it as a rigid body, the rest does not move, and a
few residues of the chain between them may each take a part of the rotation, so no bond breaks.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cryostar_nb.errors import InputError
from cryostar_nb.structure import Structure, bonds, coarse_grain, residue_ranges

CONTACT_DISTANCE = 8.0  # Å between atoms of a domain and of the rest
CLASH_DISTANCE = 4.0  # Å between nodes


@dataclass(frozen=True)
class Hinge:
    """A line that a domain turns about, counter-clockwise as seen from the tip of `axis`."""

    axis: Float[np.ndarray, "3"]  # of length 1
    pivot: Float[np.ndarray, "3"]  # Å


def hinge_path(
    positions: Float[np.ndarray, "atom 3"],
    domain: Bool[np.ndarray, " atom"] | Float[np.ndarray, " atom"],
    *,
    axis: Float[np.ndarray, "3"],
    pivot: Float[np.ndarray, "3"],
    angles_deg: Float[np.ndarray, " state"],
) -> Float[np.ndarray, "state atom 3"]:
    """Positions in Å of every state: the domain, turned by each angle about a hinge.

    `domain` is a mask, or the part of the rotation that each atom takes (0 to 1, see `linkers`).
    With w the part, u = axis / |axis| and p the pivot, x goes to p + R(w angle u) (x - p), where R
    is the rotation by a vector. Atoms of part 0 keep their positions bit by bit. Raises InputError
    for an axis of length 0.
    """
    length = np.linalg.norm(axis)
    if not length > 0:
        value = np.asarray(axis).tolist()
        raise InputError("axis = {value}", value=value, remedy="give a direction")
    part = np.asarray(domain, dtype=np.float64)
    moving = part > 0
    angles = np.deg2rad(angles_deg)[:, None, None] * part[moving, None]
    vectors = angles * (axis / length)  # (state, moving, 3)
    arms = np.broadcast_to(positions[moving] - pivot, vectors.shape).copy()
    path = np.repeat(np.asarray(positions, dtype=np.float64)[None], len(angles_deg), axis=0)
    turned = Rotation.from_rotvec(vectors.reshape(-1, 3)).apply(arms.reshape(-1, 3))
    path[:, moving] = turned.reshape(arms.shape) + pivot
    return path


def propose_hinge(
    positions: Float[np.ndarray, "atom 3"], domain: Bool[np.ndarray, " atom"]
) -> Hinge:
    """A hinge from the structure alone.

    The pivot is the centroid of the contacts: of all atoms, on either side, within 8 Å of the other
    side. The domain swings in the plane of the pivot and the centroids of both sides; positive
    angles lead away from the rest. Raises InputError where the domain holds no atom, or all, or has
    no contact.
    """
    inside, outside = positions[domain], positions[~domain]
    if len(inside) == 0 or len(outside) == 0:
        problem = f"the domain holds {{value}} of {len(positions)} atoms"
        raise InputError(problem, value=len(inside), remedy="a hinge needs atoms on both sides")
    to_outside, to_inside = cKDTree(outside).query(inside)[0], cKDTree(inside).query(outside)[0]
    contacts = np.concatenate(
        [inside[to_outside <= CONTACT_DISTANCE], outside[to_inside <= CONTACT_DISTANCE]]
    )
    if len(contacts) == 0:
        distance = round(float(to_outside.min()), 1)
        problem = "the domain comes no nearer to the rest than {value} Å"
        remedy = f"a hinge needs contacts within {CONTACT_DISTANCE:g} Å"
        raise InputError(problem, value=distance, remedy=remedy)
    pivot = contacts.mean(axis=0)
    arm, other = inside.mean(axis=0) - pivot, outside.mean(axis=0) - pivot
    axis = np.cross(other, arm)
    if np.linalg.norm(axis) < 1e-3 * np.linalg.norm(other) * np.linalg.norm(arm):
        # The arm and the other centroid are on one line: any plane through it serves.
        axis = np.cross(np.eye(3)[np.abs(arm).argmin()], arm)
    return Hinge(axis / np.linalg.norm(axis), pivot)


def clear_hinge(
    positions: Float[np.ndarray, "atom 3"],
    domain: Bool[np.ndarray, " atom"],
    angle_deg: float,
) -> Hinge:
    """The hinge nearest to the proposed one about which the domain turns clear of the rest.

    A turn about the middle of the contacts opens one half of them and closes the other. Here the
    pivot may lie up to 40 Å beside the middle, as the hinge of a door lies at its edge, and the
    axis in any of 24 directions perpendicular to the arm. The overlap of a turn is the sum, over
    five steps, of the squared depths by which nodes of the domain come within 4 Å of the rest, less
    that at angle 0. Of the hinges with the least overlap the nearest is taken.
    """
    middle = propose_hinge(positions, domain)
    arm = positions[domain].mean(axis=0) - middle.pivot
    arm, rest, inside = arm / np.linalg.norm(arm), cKDTree(positions[~domain]), positions[domain]
    near = inside[rest.query(inside)[0] < 40.0]
    hinges = [
        Hinge(axis, middle.pivot + offset * np.cross(axis, arm))
        for offset in np.arange(0.0, 41.0, 5.0)
        for axis in Rotation.from_rotvec(
            np.linspace(0, 2 * np.pi, 24, endpoint=False)[:, None] * arm
        ).apply(middle.axis)
    ]
    everything, angles = np.ones(len(near), dtype=bool), np.linspace(0, angle_deg, 6)

    def overlap(hinge: Hinge) -> float:
        path = hinge_path(near, everything, axis=hinge.axis, pivot=hinge.pivot, angles_deg=angles)
        # (state, atom), infinite where no atom of the rest is within the clash distance
        distances, _ = rest.query(path, distance_upper_bound=CLASH_DISTANCE)
        depths = np.square(np.clip(CLASH_DISTANCE - distances, 0, None)).sum(axis=-1)
        return float(np.clip(depths - depths[0], 0, None).sum())

    return hinges[int(np.argmin([overlap(hinge) for hinge in hinges]))]


def linkers(
    atoms: Structure, domain: Bool[np.ndarray, " atom"], residues: int
) -> Float[np.ndarray, " atom"]:
    """The part of a domain's rotation that every atom takes: 1 inside, 0 outside, ramps between.

    A ramp is the running mean of the mask along the chain, over an odd number of residues; it does
    not cross gaps. All atoms of a residue share one part. A bond r Å from the axis stretches by at
    most r angle / `residues`. Raises InputError for a domain that splits a residue.
    """
    if residues < 1 or residues % 2 == 0:
        remedy = "give an odd number, 1 for no linker"
        raise InputError("residues = {value}", value=residues, remedy=remedy)
    ranges = residue_ranges(atoms)
    starts = np.array([first for first, _ in ranges])
    sizes = np.diff([*starts, len(atoms)])
    mask = domain[starts]
    split = np.flatnonzero(np.repeat(mask, sizes) != domain)
    if len(split):
        residue = atoms.residue_label(int(split[0]))
        raise InputError(f"{residue} is half inside the domain", remedy="take whole residues")
    joined = np.zeros(len(ranges) - 1, dtype=bool)
    joined[bonds(coarse_grain(atoms))[:, 0]] = True
    part = mask.astype(np.float64)
    for piece in np.split(np.arange(len(ranges)), np.flatnonzero(~joined) + 1):
        padded = np.pad(part[piece], residues // 2, mode="edge")
        part[piece] = np.lib.stride_tricks.sliding_window_view(padded, residues).mean(axis=-1)
    return np.repeat(part, sizes)
