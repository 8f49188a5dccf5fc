"""How good is it? RMSD to the truth, local geometry, and the shape of the latent space."""

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
from cryostar_nb.latents import ENDS, latent_modes, mean_around_percentiles, principal_components
from cryostar_nb.structure import Structure, bonds, elastic_edges

CONTACT_DISTANCE = 8.0  # Å
STILL = 1.0  # Å; a node that goes less far than this between the true ends is at rest
_BATCH = 1024


@torch.no_grad()
def rmsd_to_truth(
    decoder: nn.Module,
    latents: Float[Tensor, "particle latent"],
    state_positions: Float[Tensor, "state atom 3"],
    states: Int[Tensor, " particle"],
) -> Float[Tensor, " particle"]:
    """RMSD, in Å, of the structure decoded for each particle from the true one, without alignment (poses are given)."""
    pairs = zip(latents.split(_BATCH), states.split(_BATCH), strict=True)
    return torch.cat([rmsd(decoder(latent), state_positions[state]) for latent, state in pairs])


def per_state(
    values: Float[Tensor, " particle"], states: Int[Tensor, " particle"], count: int
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the values of each state; the band of Figure 3. A state without particles is NaN."""
    groups = [values[states == state].double() for state in range(count)]
    means = [group.mean() for group in groups]
    variances = [(group - mean).square().mean() for group, mean in zip(groups, means, strict=True)]
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
    """How well predicted structures keep the local geometry of what they are compared with; distances in Å, rms."""

    bond_error: float
    """Error of the distance between bonded nodes."""
    local_error: float
    """Error of the i -> i+2 and i -> i+3 distances, which turns and helices fix."""
    third_neighbour_error: float
    """Error of the i -> i+3 distances alone, which no bond angle fixes."""
    contacts_kept: float
    """Fraction of the reference's contacts (same chain, nearer than 8 Å, three or more apart) still within 1.2 times their length."""


@torch.no_grad()
def local_geometry(
    positions: Float[Tensor, "batch atom 3"],
    nodes: Structure,
    target: Float[Tensor, "*batch atom 3"] | None = None,
) -> LocalGeometry:
    """Local geometry of structures against `target` positions, one or one for each; the reference by default."""
    reference = torch.from_numpy(nodes.positions).to(positions)
    target = reference if target is None else target
    contacts = elastic_edges(nodes, CONTACT_DISTANCE)
    contacts = contacts[contacts[:, 1] - contacts[:, 0] >= 3]

    def error(pairs: Int[np.ndarray, "pair 2"]) -> float:
        return float(
            (pair_distances(positions, pairs) - pair_distances(target, pairs))
            .square()
            .mean()
            .sqrt()
        )

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
    """Residues in an α-helix, told from Cα alone by the criteria of P-SEA (Labesse et al., Comput. Appl. Biosci. 1997).

    Residue i is helical when d(i-1, i+2) is 5.3 ± 0.5 Å and d(i-1, i+3) is 6.4 ± 0.6 Å, or when the angle at i is 89 ± 12° and the
    dihedral of i-1 to i+2 is 50 ± 20°. Five helical residues in a row are a helix, and the residue at either end of it joins when
    its distance or its angle fits. Nothing fits across a gap in the chain, and nothing but Cα is helical.
    """

    def fits(
        measure: Callable[..., Tensor], span: int, value: float, tolerance: float
    ) -> Bool[Tensor, "*batch atom"]:
        """For each residue i, whether the measure of the nodes i-1 to i-1 + span is near the value."""
        start = sequence_pairs(nodes, span)[:, 0]
        start = start[nodes.atom_names[start] == "CA"]
        fitting = torch.zeros(positions.shape[:-1], dtype=torch.bool, device=positions.device)
        fitting[..., start + 1] = (
            measure(*(positions[..., start + step, :] for step in range(span + 1))) - value
        ).abs() <= tolerance
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
    return torch.atan2(
        (torch.linalg.cross(left, right) * along).sum(-1), (left * right).sum(-1)
    ).rad2deg()


def helix_content(positions: Float[Tensor, "*batch atom 3"], nodes: Structure) -> float:
    """Fraction of the amino acids that are in a helix (`in_helix`), mean over the structures; NaN without amino acids."""
    parts = positions.reshape(-1, len(nodes), 3).split(64)  # in parts, for the memory's sake
    return float(
        torch.cat(
            [in_helix(part, nodes)[:, nodes.atom_names == "CA"].double().mean(-1) for part in parts]
        ).mean()
    )


def evaluate(
    decoder: nn.Module,
    latents: Float[Tensor, "particle latent"],
    nodes: Structure,
    truth: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Compare a run with the truth of a simulation (`state` and `positions` of `truth.npz`).

    Returns the numbers of `evaluation.json`: mean RMSD over particles, its mean and sd per state, the mean of the five most open
    states (of those that have a particle; NaN where none has), the same for the predictor that does nothing (always the
    reference), local geometry against the reference and against the truth, helix content, and `motion_along_first_component`.
    """
    states, positions = (
        torch.from_numpy(truth["state"]),
        torch.from_numpy(truth["positions"]).float(),
    )
    if len(states) != len(latents):
        raise InputError(
            f"the truth holds {len(states)} particles and the run {len(latents)}; give the truth.npz of the same simulation"
        )
    if positions.shape[1] != len(nodes):
        raise InputError(
            f"the truth has {positions.shape[1]} nodes and the reference {len(nodes)}; give the truth of the same molecule"
        )
    errors = rmsd_to_truth(decoder, latents, positions, states)
    mean, sd = per_state(errors, states, len(positions))
    most_open = [mean[state] for state in range(len(mean))[-5:] if (states == state).any()]
    idle = rmsd(torch.from_numpy(nodes.positions).float(), positions)
    sample = torch.linspace(
        0, len(latents) - 1, min(len(latents), 2000, max(50, 2_000_000 // len(nodes)))
    ).long()
    with torch.no_grad():
        predicted = decoder(latents[sample])
    to_reference = local_geometry(predicted, nodes)
    to_truth = local_geometry(predicted, nodes, positions[states[sample]])
    return {
        "n_particles": len(latents),
        "rmsd_mean": float(errors.double().mean()),
        "rmsd_most_open": float(np.mean(most_open)) if most_open else math.nan,
        "rmsd_per_state": mean,
        "rmsd_std_per_state": sd,
        "do_nothing_mean": float(idle[states].double().mean()),
        "do_nothing_per_state": idle.tolist(),
        "bond_error": to_reference.bond_error,
        "local_error": to_reference.local_error,
        "contacts_kept": to_reference.contacts_kept,
        "bond_error_to_truth": to_truth.bond_error,
        "local_error_to_truth": to_truth.local_error,
        "third_neighbour_error_to_truth": to_truth.third_neighbour_error,
        "helix_content": helix_content(predicted, nodes),
        "helix_content_of_truth": helix_content(positions[states[sample]], nodes),
    } | motion_along_first_component(decoder, latents, nodes, states, positions)


@torch.no_grad()
def motion_along_first_component(
    decoder: nn.Module,
    latents: Float[Tensor, "particle latent"],
    nodes: Structure,
    states: Int[Tensor, " particle"],
    positions: Float[Tensor, "state atom 3"],
) -> dict[str, Any]:
    """How many modes the first component has, and what moves between its 5th and its 95th percentile, beside the truth.

    The true ends are the states at the same percentiles of the particles' states. `moving` are the nodes that are more than
    1 Å apart there, `still` the others; `chains` are the chains, each whole (see `evaluation.Displacement`).
    """
    scores, percentiles = principal_components(latents).scores[:, 0], torch.tensor(ENDS)
    if (
        (states - states.double().mean()) * scores
    ).sum() < 0:  # the sign of a component is arbitrary
        scores = -scores
    found = decoder(mean_around_percentiles(latents, scores, percentiles)).numpy()
    ends = states.sort().values[(percentiles / 100 * (len(states) - 1)).round().long()]
    true = positions[ends].numpy()
    moving = np.linalg.norm(true[1] - true[0], axis=-1) > STILL
    parts = {"moving": moving, "still": ~moving}
    motion = {
        name: dataclasses.asdict(displacement(found, true, part))
        for name, part in parts.items()
        if part.any()
    }
    chains = {
        str(chain): dataclasses.asdict(displacement(found, true, nodes.chains == chain))
        for chain in dict.fromkeys(nodes.chains)
    }
    return {
        "latent_modes": latent_modes(scores.numpy()).tolist(),
        "motion": motion | {"states": ends.tolist(), "chains": chains},
    }


@dataclass(frozen=True)
class Displacement:
    """How far some nodes go from one structure to another, rms in Å."""

    nodes: int
    true: float
    found: float
    error: float  # rms distance between the displacement that was found and the true one, direction included


def displacement(
    found: Float[np.ndarray, "2 atom 3"],
    true: Float[np.ndarray, "2 atom 3"],
    nodes: Bool[np.ndarray, " atom"],
) -> Displacement:
    """The displacement of some nodes between two structures that were found, beside that between the two true ones."""
    moves = [(pair[1] - pair[0])[nodes] for pair in (found, true)]
    far, expected, wrong = (
        float(np.sqrt(np.square(move).sum(-1).mean())) for move in (*moves, moves[0] - moves[1])
    )
    return Displacement(int(nodes.sum()), expected, far, wrong)
