"""How good is a run? RMSD to the truth, local geometry, helices, and the motion that was found."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cryostar_nb.errors import InputError
from cryostar_nb.geometry import pair_distances, rmsd
from cryostar_nb.latents import (
    ENDS,
    evenly_spaced,
    latent_modes,
    mean_around_percentiles,
    principal_components,
)
from cryostar_nb.structure import Structure, bonds, elastic_edges

CONTACT_DISTANCE = 8.0  # Å
LEAST_MOTION = 1.0  # Å between the true ends; a node that goes less far is at rest
MOST_OPEN = 5  # states at the open end


@torch.no_grad()
def rmsd_to_truth(
    decoder: nn.Module,
    latents: Float[Tensor, "particle latent"],
    state_positions: Float[Tensor, "state atom 3"],
    states: Int[Tensor, " particle"],
) -> Float[Tensor, " particle"]:
    """RMSD of each particle's structure to its true one, in Å, unaligned (poses are given)."""
    pairs = zip(latents.split(1024), states.split(1024), strict=True)
    return torch.cat([rmsd(decoder(latent), state_positions[state]) for latent, state in pairs])


def per_state(
    values: Float[Tensor, " particle"], states: Int[Tensor, " particle"], count: int
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each state's values (the band of Figure 3).

    A state without particles is NaN.
    """
    groups = [values[states == state].double() for state in range(count)]
    means = [group.mean() for group in groups]
    variances = [(g - mean).square().mean() for g, mean in zip(groups, means, strict=True)]
    return [float(mean) for mean in means], [float(variance.sqrt()) for variance in variances]


def sequence_pairs(nodes: Structure, separation: int) -> Int[np.ndarray, "pair 2"]:
    """Pairs (i, i + separation) whose nodes are joined by an unbroken run of bonds."""
    bonded = np.zeros(len(nodes), dtype=bool)
    bonded[bonds(nodes)[:, 0]] = True
    start = np.arange(len(nodes) - separation)
    unbroken = np.all([bonded[start + step] for step in range(separation)], axis=0)
    return np.stack([start[unbroken], start[unbroken] + separation], axis=-1)


@dataclass(frozen=True)
class LocalGeometry:
    """How well structures keep the local geometry of others; errors are rms, in Å."""

    bond_error: float
    """Error of the distance between bonded nodes."""
    local_error: float
    """Error of the i -> i+2 and i -> i+3 distances, which turns and helices fix."""
    third_neighbour_error: float
    """Error of the i -> i+3 distances alone, which no bond angle fixes."""
    contacts_kept: float
    """Fraction of the reference's contacts (same chain, nearer than 8 Å, three or more residues
    apart) that are at most 1.2 times as long."""


@torch.no_grad()
def local_geometry(
    positions: Float[Tensor, "batch atom 3"],
    nodes: Structure,
    target: Float[Tensor, "*batch atom 3"] | None = None,
) -> LocalGeometry:
    """Local geometry against `target` positions, one for all or one for each structure (default:
    the reference).
    """
    reference = torch.from_numpy(nodes.positions).to(positions)
    target = reference if target is None else target
    contacts = elastic_edges(nodes, CONTACT_DISTANCE)
    contacts = contacts[contacts[:, 1] - contacts[:, 0] >= 3]

    def error(pairs: Int[np.ndarray, "pair 2"]) -> float:
        change = pair_distances(positions, pairs) - pair_distances(target, pairs)
        return float(change.square().mean().sqrt())

    kept = pair_distances(positions, contacts) < 1.2 * pair_distances(reference, contacts)
    third = sequence_pairs(nodes, 3)
    local = np.concatenate([sequence_pairs(nodes, 2), third])
    return LocalGeometry(
        error(bonds(nodes)), error(local), error(third), float(kept.double().mean())
    )


@torch.no_grad()
def in_helix(
    positions: Float[Tensor, "*batch atom 3"], nodes: Structure
) -> Bool[Tensor, "*batch atom"]:
    """Residues in an α-helix, from Cα alone (P-SEA; Labesse et al., Comput. Appl. Biosci. 1997).

    Residue i is helical when d(i-1, i+2) is 5.3 ± 0.5 Å and d(i-1, i+3) is 6.4 ± 0.6 Å, or when the
    angle at i is 89 ± 12° and the dihedral of i-1 to i+2 is 50 ± 20°. Five helical residues in a
    row are a helix, and the residue at either end of it joins when its distance or its angle fits.
    Nothing fits across a gap in the chain, and nothing but Cα is helical.
    """

    def fits(
        measure: Callable[..., Tensor], span: int, value: float, tolerance: float
    ) -> Bool[Tensor, "*batch atom"]:
        """For each residue i, whether the measure of nodes i-1 to i-1+span is near the value."""
        start = sequence_pairs(nodes, span)[:, 0]
        start = start[nodes.atom_names[start] == "CA"]
        fitting = torch.zeros(positions.shape[:-1], dtype=torch.bool, device=positions.device)
        nearby = (positions[..., start + step, :] for step in range(span + 1))
        fitting[..., start + 1] = (measure(*nearby) - value).abs() <= tolerance
        return fitting

    def windows(
        flags: Bool[Tensor, "*batch number"], width: int, beyond: int
    ) -> Bool[Tensor, "*batch window width"]:
        return torch.nn.functional.pad(flags, (beyond, beyond)).unfold(-1, width, 1)

    third, fourth = fits(_distance, 3, 5.3, 0.5), fits(_distance, 4, 6.4, 0.6)
    angle, dihedral = fits(_angle, 2, 89, 12), fits(_dihedral, 3, 50, 20)
    five_in_a_row = windows((third & fourth) | (angle & dihedral), 5, beyond=4).all(-1)
    helix = windows(five_in_a_row, 5, beyond=0).any(-1)
    return helix | (windows(helix, 3, beyond=1).any(-1) & (third | angle))


def _distance(first: Tensor, *others: Tensor) -> Tensor:
    return (others[-1] - first).norm(dim=-1)


def _angle(first: Tensor, middle: Tensor, last: Tensor) -> Tensor:
    return torch.cosine_similarity(first - middle, last - middle, dim=-1).acos().rad2deg()


def _dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Angle between the planes of a, b, c and of b, c, d; positive for a right-handed screw."""
    left, right = torch.linalg.cross(b - a, c - b), torch.linalg.cross(c - b, d - c)
    along = torch.nn.functional.normalize(c - b, dim=-1)
    sine = (torch.linalg.cross(left, right) * along).sum(-1)
    return torch.atan2(sine, (left * right).sum(-1)).rad2deg()


def helix_content(positions: Float[Tensor, "*batch atom 3"], nodes: Structure) -> float:
    """Fraction of the amino acids in a helix, mean over the structures; NaN without any."""
    amino_acids = nodes.atom_names == "CA"
    parts = positions.reshape(-1, len(nodes), 3).split(64)  # in parts: memory stays small
    fractions = [in_helix(part, nodes)[:, amino_acids].double().mean(-1) for part in parts]
    return float(torch.cat(fractions).mean())


@dataclass(frozen=True)
class ErrorPerState:
    """Cα-RMSD to the truth in Å: mean over particles, over each state, and at the open end.

    A state without particles is NaN, and so is the open end where none of its states has one.
    """

    rmsd_mean: float
    rmsd_most_open: float  # mean over the last five states
    rmsd_per_state: list[float]
    rmsd_std_per_state: list[float]


@dataclass(frozen=True)
class Evaluation(ErrorPerState):
    """A run beside the truth of its simulation; local geometry as in `LocalGeometry`."""

    n_particles: int
    idle: ErrorPerState  # of doing nothing: always answering with the reference
    bond_error: float
    local_error: float
    contacts_kept: float
    bond_error_to_truth: float
    local_error_to_truth: float
    third_neighbour_error_to_truth: float
    helix_content: float
    helix_content_of_truth: float
    latent_modes: list[float]  # places of the modes of the first component
    motion: dict[str, Any]  # displacements between its ends (see `motion_along_first_component`)

    def as_dict(self) -> dict[str, Any]:
        """The numbers of `evaluation.json`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        idle = values.pop("idle")
        return values | {
            "do_nothing_mean": idle.rmsd_mean,
            "do_nothing_per_state": idle.rmsd_per_state,
        }


def _error_per_state(
    errors: Float[Tensor, " particle"], states: Int[Tensor, " particle"], count: int
) -> ErrorPerState:
    mean, sd = per_state(errors, states, count)
    most_open = [mean[state] for state in range(count)[-MOST_OPEN:] if (states == state).any()]
    at_open_end = float(np.mean(most_open)) if most_open else math.nan
    return ErrorPerState(float(errors.double().mean()), at_open_end, mean, sd)


def evaluate(
    decoder: nn.Module,
    latents: Float[Tensor, "particle latent"],
    nodes: Structure,
    truth: dict[str, np.ndarray],
) -> Evaluation:
    """Compare a run with the truth of a simulation (`state` and `positions` of `truth.npz`).

    Local geometry and helices are those of up to 2,000 particles, evenly spread. Raises InputError
    for the truth of other particles or of another molecule.
    """
    states = torch.from_numpy(truth["state"])
    positions = torch.from_numpy(truth["positions"]).float()
    if len(states) != len(latents):
        raise InputError(
            f"the truth holds {{value}} particles and the run {len(latents)}",
            value=len(states),
            remedy="give the truth.npz of the same simulation",
        )
    if positions.shape[1] != len(nodes):
        raise InputError(
            f"the truth has {{value}} nodes and the reference {len(nodes)}",
            value=positions.shape[1],
            remedy="give the truth of the same molecule",
        )
    errors = rmsd_to_truth(decoder, latents, positions, states)
    idle = rmsd(torch.from_numpy(nodes.positions).float(), positions)
    sample = evenly_spaced(min(2000, max(50, 2_000_000 // len(nodes))), len(latents))
    with torch.no_grad():
        predicted = decoder(latents[sample])
    to_reference = local_geometry(predicted, nodes)
    to_truth = local_geometry(predicted, nodes, positions[states[sample]])
    return Evaluation(
        **vars(_error_per_state(errors, states, len(positions))),
        n_particles=len(latents),
        idle=dataclasses.replace(
            _error_per_state(idle[states], states, len(positions)), rmsd_per_state=idle.tolist()
        ),
        bond_error=to_reference.bond_error,
        local_error=to_reference.local_error,
        contacts_kept=to_reference.contacts_kept,
        bond_error_to_truth=to_truth.bond_error,
        local_error_to_truth=to_truth.local_error,
        third_neighbour_error_to_truth=to_truth.third_neighbour_error,
        helix_content=helix_content(predicted, nodes),
        helix_content_of_truth=helix_content(positions[states[sample]], nodes),
        **motion_along_first_component(decoder, latents, nodes, states, positions),
    )


@dataclass(frozen=True)
class Displacement:
    """How far some nodes go from one structure to another, rms in Å."""

    nodes: int
    true: float
    found: float
    error: float  # rms distance between the displacement found and the true one, as vectors


def displacement(
    found: Float[np.ndarray, "2 atom 3"],
    true: Float[np.ndarray, "2 atom 3"],
    nodes: Bool[np.ndarray, " atom"],
) -> Displacement:
    """The displacement of some nodes between two predicted structures, beside the true one."""
    predicted, expected = ((pair[1] - pair[0])[nodes] for pair in (found, true))
    rms_true, rms_found, rms_error = (
        float(np.sqrt(np.square(move).sum(-1).mean()))
        for move in (expected, predicted, predicted - expected)
    )
    return Displacement(int(nodes.sum()), rms_true, rms_found, rms_error)


@torch.no_grad()
def motion_along_first_component(
    decoder: nn.Module,
    latents: Float[Tensor, "particle latent"],
    nodes: Structure,
    states: Int[Tensor, " particle"],
    positions: Float[Tensor, "state atom 3"],
) -> dict[str, Any]:
    """Modes of the first component, and what moves between its 5th and its 95th percentile.

    Beside it stands the truth: the states at the same percentiles of the particles' states.
    `moving` are the nodes that are more than 1 Å apart there, `still` the others; `chains` are the
    chains (`Displacement` of each).
    """
    scores, percentiles = principal_components(latents).scores[:, 0], torch.tensor(ENDS)
    if ((states - states.double().mean()) * scores).sum() < 0:  # a component's sign is arbitrary
        scores = -scores
    predicted = decoder(mean_around_percentiles(latents, scores, percentiles)).numpy()
    ends = states.sort().values[(percentiles / 100 * (len(states) - 1)).round().long()]
    true = positions[ends].numpy()
    moving = np.linalg.norm(true[1] - true[0], axis=-1) > LEAST_MOTION

    def displaced(parts: dict[str, np.ndarray]) -> dict[str, Any]:
        moved = {name: displacement(predicted, true, part) for name, part in parts.items()}
        return {name: dataclasses.asdict(value) for name, value in moved.items()}

    halves = {"moving": moving, "still": ~moving}
    chains = {str(chain): nodes.chains == chain for chain in dict.fromkeys(nodes.chains)}
    motion = displaced({name: part for name, part in halves.items() if part.any()})
    motion |= {"states": ends.tolist(), "chains": displaced(chains)}
    return {"latent_modes": latent_modes(scores.numpy()).tolist(), "motion": motion}
