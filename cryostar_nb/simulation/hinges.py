"""Domains that turn about hinges: imposed motions for simulations whose truth is known.

A hinge is a line in space. The atoms of a domain rotate about it as a rigid body, the rest stays, and between them a few
residues of the chain may share the rotation out, so that no bond breaks.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cryostar_nb.errors import InputError
from cryostar_nb.structure import Structure, bonds, coarse_grain, residue_ranges


@dataclass(frozen=True)
class Hinge:
    """A line that a domain turns about: seen from the tip of `axis`, positive angles are counter-clockwise."""

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
    """Positions in Å of every state: the domain is turned by each angle about the line through `pivot` along `axis`.

    `domain` is a mask, or the part of the rotation that each atom takes (0 to 1, see `linkers`). With w the part,
    u = axis / |axis| and p the pivot, x goes to p + R(w angle u) (x - p), where R is the rotation by a vector. Atoms of part
    0 keep their positions bit by bit. Raises InputError for an axis of length 0.
    """
    length = np.linalg.norm(axis)
    if not length > 0:
        raise InputError(f"axis = {np.asarray(axis).tolist()}; give a direction")
    part = np.asarray(domain, dtype=np.float64)
    moving = part > 0
    vectors = (
        np.deg2rad(angles_deg)[:, None, None] * part[moving, None] * (axis / length)
    )  # (state, moving, 3)
    arms = np.broadcast_to(positions[moving] - pivot, vectors.shape).copy()
    path = np.repeat(np.asarray(positions, dtype=np.float64)[None], len(angles_deg), axis=0)
    path[:, moving] = (
        Rotation.from_rotvec(vectors.reshape(-1, 3)).apply(arms.reshape(-1, 3)).reshape(arms.shape)
        + pivot
    )
    return path


def propose_hinge(
    positions: Float[np.ndarray, "atom 3"],
    domain: Bool[np.ndarray, " atom"],
    *,
    swing: Literal["open", "sideways"] = "open",
    cutoff: float = 8.0,
) -> Hinge:
    """A hinge from the structure alone.

    The pivot is the centroid of the contacts: of all atoms, on either side, within `cutoff` Å of the other. The axis is
    perpendicular to the arm, pivot to domain centroid. "open" swings in the plane of the arm and the centroid of the rest, and
    positive angles lead away from the rest; "sideways" swings out of that plane. Raises InputError where the domain is empty
    or everything, or touches nothing.
    """
    inside, outside = positions[domain], positions[~domain]
    if len(inside) == 0 or len(outside) == 0:
        raise InputError(
            f"the domain holds {len(inside)} of {len(positions)} atoms; a hinge needs atoms on both sides"
        )
    to_outside, to_inside = cKDTree(outside).query(inside)[0], cKDTree(inside).query(outside)[0]
    contacts = np.concatenate([inside[to_outside <= cutoff], outside[to_inside <= cutoff]])
    if len(contacts) == 0:
        raise InputError(
            f"the domain comes no nearer to the rest than {to_outside.min():.1f} Å; give a cutoff above {cutoff:g} Å"
        )
    pivot = contacts.mean(axis=0)
    arm, other = inside.mean(axis=0) - pivot, outside.mean(axis=0) - pivot
    axis = np.cross(other, arm)
    if np.linalg.norm(axis) < 1e-3 * np.linalg.norm(other) * np.linalg.norm(
        arm
    ):  # on one line: any plane through it will do
        axis = np.cross(np.eye(3)[np.abs(arm).argmin()], arm)
    if swing == "sideways":
        axis = np.cross(arm, axis)
    return Hinge(axis / np.linalg.norm(axis), pivot)


def clear_hinge(
    positions: Float[np.ndarray, "atom 3"],
    domain: Bool[np.ndarray, " atom"],
    angle_deg: float,
    *,
    clash_distance: float = 4.0,
) -> Hinge:
    """The hinge nearest to the proposed one about which the domain can turn by this angle without running into the rest.

    A turn about the middle of the contacts opens one half of them and closes the other. Here the pivot may lie up to 40 Å
    beside the middle, as the hinge of a door lies at its edge, and the axis in any of 24 directions perpendicular to the arm.
    Of these lines, nearest pivot first, the first is taken on whose path, in five steps, atoms of the domain come least within
    `clash_distance` Å of the rest, by the sum of the squared depths beyond that at angle 0. Pass nodes rather than all atoms.
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

    def depth(hinge: Hinge) -> float:
        angles = np.linspace(0, angle_deg, 6)
        path = hinge_path(
            near,
            np.ones(len(near), dtype=bool),
            axis=hinge.axis,
            pivot=hinge.pivot,
            angles_deg=angles,
        )
        distances = rest.query(path, distance_upper_bound=clash_distance)[
            0
        ]  # (state, atom), inf where there is none
        depths = np.square(np.clip(clash_distance - distances, 0, None)).sum(axis=-1)
        return float(np.clip(depths - depths[0], 0, None).sum())

    return hinges[int(np.argmin([depth(hinge) for hinge in hinges]))]


def linkers(
    atoms: Structure, domain: Bool[np.ndarray, " atom"], residues: int
) -> Float[np.ndarray, " atom"]:
    """The part of a domain's rotation that every atom takes: 1 inside, 0 outside, a ramp over `residues` across each border.

    A border is a bond of the chain with the domain on one side only; the ramp is the running mean of the mask along the chain,
    over an odd number of residues, not across gaps. All atoms of a residue share one part. A bond r Å from the axis stretches
    by at most r angle / `residues`. Raises InputError for a domain that splits a residue.
    """
    if residues < 1 or residues % 2 == 0:
        raise InputError(f"residues = {residues}; give an odd number, 1 for no linker")
    ranges = residue_ranges(atoms)
    starts = np.array([first for first, _ in ranges])
    sizes = np.diff([*starts, len(atoms)])
    mask = domain[starts]
    split = np.flatnonzero(np.repeat(mask, sizes) != domain)
    if len(split):
        raise InputError(
            f"{atoms.residue_label(int(split[0]))} is half inside the domain; take whole residues"
        )
    joined = np.zeros(len(ranges) - 1, dtype=bool)
    joined[bonds(coarse_grain(atoms))[:, 0]] = True
    part = mask.astype(np.float64)
    for piece in np.split(np.arange(len(ranges)), np.flatnonzero(~joined) + 1):
        padded = np.pad(part[piece], residues // 2, mode="edge")
        part[piece] = np.lib.stride_tricks.sliding_window_view(padded, residues).mean(axis=-1)
    return np.repeat(part, sizes)
