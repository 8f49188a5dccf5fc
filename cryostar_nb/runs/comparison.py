"""A run beside the truth of a simulation."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from cryostar_nb.evaluation import Evaluation, evaluate, good_particles, pose_errors
from cryostar_nb.io.files import write_json
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.truth import read_truth

if TYPE_CHECKING:
    from cryostar_nb.runs.folder import Run


def compare(run: "Run", truth: Path | str) -> Evaluation:
    """Compare a run with the truth of the particles that it was trained on.

    Writes `evaluation.json` into its folder.
    """
    poses = {"given": run.particles, "refined": run.poses}
    score = _score(run, truth, run.latents, poses)
    seconds = run.metrics.get("seconds", [])
    about = {
        "method": run.config.method,
        "steps": run.step,
        "seed": run.config.seed,
        "seconds_per_step": seconds[-1] / run.step if seconds else float("nan"),
        "version": run.settings.version,
    }
    write_json(run.folder / "evaluation.json", about | score.as_dict())
    return score


def compare_new(run: "Run", truth: Path | str, particles: Particles | Path | str) -> Evaluation:
    """Compare what a run makes of particles that it was not trained on with their truth.

    A file of particles is read like the run's own, but for files that are about those alone.
    """
    if not isinstance(particles, Particles):
        reading = dataclasses.replace(
            run.inputs.reading, passthrough=None, poses_pkl=None, ctf_pkl=None
        )
        particles = read_particles(particles, reading)
    latents, poses = run.refine(particles)
    refined = None if run.corrections is None else poses
    return _score(run, truth, latents, {"given": particles, "refined": refined})


def _score(
    run: "Run",
    truth: Path | str,
    latents: Float[Tensor, "particle latent"],
    poses: dict[str, Any],
) -> Evaluation:
    """The evaluation of these latents, and of poses where the truth has them."""
    true = read_truth(truth)
    score = evaluate(run.model.decoder, latents, run.nodes, true)
    if not {"rotations", "shifts"} <= set(true):
        return score
    good = good_particles(true)
    errors: dict[str, Any] = {
        f"pose_errors_{name}": pose_errors(told.rotations, told.shifts, true, good)
        for name, told in poses.items()
        if told is not None
    }
    return dataclasses.replace(score, **errors)
