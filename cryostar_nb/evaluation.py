"""How good is a run? RMSD to the truth, local geometry, poses, and the motion that was found."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from cryostar_nb.backbone import helix_content, local_geometry
from cryostar_nb.calibration import LEAST_MOTION, MOST_OPEN, posterior_scores
from cryostar_nb.errors import InputError
from cryostar_nb.gauge import Gauge, superpose_weighted
from cryostar_nb.geometry import rmsd
from cryostar_nb.latents import (
    ENDS,
    evenly_spaced,
    latent_modes,
    mean_around_percentiles,
    principal_components,
)
from cryostar_nb.posterior import Posterior
from cryostar_nb.structure import Structure

OF_A_PARTICLE = ("junk", "rotations", "shifts")  # arrays of the truth, beside `state`


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


@dataclass(frozen=True)
class ErrorPerState:
    """Cα-RMSD to the truth in Å: mean over particles, over each state, and at the open end.

    The first four are without alignment, in the frame of the poses. *In gauge*, the structures and
    the true states are first moved as rigid bodies until the part that is still in the true states
    lies on the reference; *superposed*, each structure onto its truth. A state without particles is
    NaN, and so is the open end where none of its states has one.
    """

    rmsd_mean: float
    rmsd_most_open: float  # mean over the last five states
    rmsd_per_state: list[float]
    rmsd_std_per_state: list[float]
    rmsd_in_gauge: float
    rmsd_in_gauge_most_open: float
    rmsd_superposed: float


@dataclass(frozen=True)
class Evaluation(ErrorPerState):
    """A run beside the truth of its simulation; local geometry as in `LocalGeometry`."""

    n_particles: int  # compared
    n_junk: int  # left out: images without a good particle
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
    pose_errors_given: dict[str, float] | None = None  # of the particle file (see `pose_errors`)
    pose_errors_refined: dict[str, float] | None = None
    posterior: dict[str, Any] | None = None  # of `posterior_scores`, where there is a posterior
    volumes: dict[str, Any] | None = None  # of `volume_scores`

    def as_dict(self) -> dict[str, Any]:
        """The numbers of `evaluation.json`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        idle = values.pop("idle")
        return values | {
            "do_nothing_mean": idle.rmsd_mean,
            "do_nothing_per_state": idle.rmsd_per_state,
            "do_nothing_in_gauge": idle.rmsd_in_gauge,
            "do_nothing_superposed": idle.rmsd_superposed,
        }


def _errors(
    structures: Float[Tensor, "*#batch atom 3"], true: Float[Tensor, "batch atom 3"], gauge: Gauge
) -> Float[Tensor, "3 batch"]:
    """RMSD of each structure: as it is, in the gauge, and superposed on its truth."""
    superposed = superpose_weighted(structures, true, torch.ones(true.shape[1]))
    in_gauge = rmsd(gauge.apply(structures), gauge.apply(true))
    return torch.stack([rmsd(structures, true), in_gauge, rmsd(superposed, true)])


def _error_per_state(
    errors: Float[Tensor, "3 particle"], states: Int[Tensor, " particle"], count: int
) -> ErrorPerState:
    def most_open(means: list[float]) -> float:
        there = [means[state] for state in range(count)[-MOST_OPEN:] if (states == state).any()]
        return float(np.mean(there)) if there else math.nan

    mean, sd = per_state(errors[0], states, count)
    at_open_end = most_open(mean), most_open(per_state(errors[1], states, count)[0])
    unaligned, in_gauge, superposed = errors.double().mean(1).tolist()
    return ErrorPerState(unaligned, at_open_end[0], mean, sd, in_gauge, at_open_end[1], superposed)


def good_particles(truth: dict[str, np.ndarray]) -> Bool[np.ndarray, " particle"]:
    """The particles that show the molecule: all, where the truth names no junk."""
    return truth["junk"] == 0 if "junk" in truth else np.ones(len(truth["state"]), dtype=bool)


def compared(
    truth: dict[str, np.ndarray], particles: int, nodes: int
) -> tuple[Int[Tensor, " particle"], Float[Tensor, "state atom 3"], Bool[Tensor, " all"]]:
    """The states of the good particles, the true positions of these nodes, and who is good.

    Raises InputError for the truth of other particles or of another molecule.
    """
    states, positions = truth["state"], truth["positions"]
    for name in {"state", *OF_A_PARTICLE} & set(truth):
        if len(truth[name]) != particles:
            raise InputError(
                f"the truth holds {name} of {{value}} particles; compared are {particles}",
                value=len(truth[name]),
                remedy="give the truth.npz of the same particles",
            )
    known = truth.get("reference_nodes")
    if known is not None and positions.shape[1] != nodes:
        positions = positions[:, known]  # the reference lacks the others
    if positions.shape[1] != nodes:
        raise InputError(
            f"the truth has {{value}} nodes and the reference {nodes}",
            value=positions.shape[1],
            remedy="give the truth of the same molecule",
        )
    good = torch.from_numpy(good_particles(truth))
    if not good.any():
        remedy = "give the truth of particles that show the molecule"
        raise InputError("all particles of the truth are junk", remedy=remedy)
    return torch.from_numpy(states)[good], torch.from_numpy(positions).float(), good


def evaluate(
    decoder: nn.Module,
    latents: Float[Tensor, "particle latent"],
    nodes: Structure,
    truth: dict[str, np.ndarray],
    posterior: Posterior | None = None,
    shared_errors: Float[Tensor, "sample atom 3"] | None = None,
) -> Evaluation:
    """Compare a run with the truth of a simulation (`state` and `positions` of `truth.npz`).

    Where the truth has `junk`, only good particles count; where it has `reference_nodes` and the
    run was made with that reference, only those nodes do. Local geometry and helices are those of
    up to 2,000 particles, evenly spread. With the `posterior` of the particles its mean structures
    and intervals are compared, too, with errors that particles share in quadrature
    (`calibration.posterior_scores`). Raises InputError for the truth of other particles or of
    another molecule.
    """
    states, positions, good = compared(truth, len(latents), len(nodes))
    about = None
    if posterior is not None:
        here = posterior.part(good)
        about = posterior_scores(decoder, here, positions, states, shared_errors)
    latents, count = latents[good], len(positions)
    reference = torch.from_numpy(nodes.positions).float()
    gauge = Gauge.of(positions, reference)
    sample = evenly_spaced(min(2000, max(50, 2_000_000 // len(nodes))), len(latents))
    with torch.no_grad():
        pairs = zip(latents.split(256), states.split(256), strict=True)
        errors = [_errors(decoder(latent), positions[state], gauge) for latent, state in pairs]
        predicted = decoder(latents[sample])
    idle = _errors(reference[None], positions, gauge)
    to_reference = local_geometry(predicted, nodes)
    to_truth = local_geometry(predicted, nodes, positions[states[sample]])
    return Evaluation(
        **vars(_error_per_state(torch.cat(errors, dim=1), states, count)),
        n_particles=len(latents),
        n_junk=int((~good).sum()),
        idle=dataclasses.replace(
            _error_per_state(idle[:, states], states, count), rmsd_per_state=idle[0].tolist()
        ),
        bond_error=to_reference.bond_error,
        local_error=to_reference.local_error,
        contacts_kept=to_reference.contacts_kept,
        bond_error_to_truth=to_truth.bond_error,
        local_error_to_truth=to_truth.local_error,
        third_neighbour_error_to_truth=to_truth.third_neighbour_error,
        helix_content=helix_content(predicted, nodes),
        helix_content_of_truth=helix_content(positions[states[sample]], nodes),
        posterior=about,
        **motion_along_first_component(decoder, latents, nodes, states, positions),
    )


def pose_errors(
    rotations: Float[Tensor, "particle 3 3"],
    shifts: Float[Tensor, "particle 2"],
    truth: dict[str, np.ndarray],
    keep: Bool[np.ndarray, " particle"],
) -> dict[str, float]:
    """How wrong the poses of the particles to `keep` are, against `rotations` and `shifts`.

    `rotation_error_deg` is the rms angle between a rotation and the true one, in degrees, and
    `shift_error` the rms distance between a shift and the true one, in Å.
    """
    turns = rotations[keep].double().numpy().swapaxes(-1, -2) @ truth["rotations"][keep]
    angles = Rotation.from_matrix(turns).magnitude()
    apart = np.linalg.norm(shifts[keep].double().numpy() - truth["shifts"][keep], axis=-1)
    return {
        "rotation_error_deg": math.degrees(np.sqrt(np.square(angles).mean())),
        "shift_error": float(np.sqrt(np.square(apart).mean())),
    }


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
