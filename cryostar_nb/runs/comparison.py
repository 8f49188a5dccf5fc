"""A run beside the truth of a simulation."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from cryostar_nb.errors import about_file
from cryostar_nb.evaluation import Evaluation, compared, evaluate, good_particles, pose_errors
from cryostar_nb.io.files import write_json
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.truth import read_truth
from cryostar_nb.posterior import Posterior
from cryostar_nb.runs.pose_refinement import placed
from cryostar_nb.runs.posteriors import (
    knows_noise,
    model_errors,
    of_seen,
    posterior_of,
    was_inferred,
)
from cryostar_nb.volume_scores import volume_scores

if TYPE_CHECKING:
    from cryostar_nb.runs.run import Run


def compare(run: "Run", truth: Path | str) -> Evaluation:
    """Compare a run with the truth of the particles that it was trained on.

    Writes `evaluation.json` into its folder.
    """
    poses = {"given": run.particles, "refined": run.poses}
    said = posterior_of(run) if was_inferred(run) else None
    score = _score(run, truth, run.latents, poses, said)
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

    After `infer`, their posterior, too.
    A file of particles is read like the run's own, but for files that are about those alone.
    """
    if not isinstance(particles, Particles):
        particles = run.read(particles)
    data, latents, corrections = run.seen(run.data_of(particles))
    refined = None if corrections is None else placed(particles, corrections)
    said = of_seen(run, data, latents, corrections) if knows_noise(run) else None
    return _score(run, truth, latents, {"given": particles, "refined": refined}, said)


def _score(
    run: "Run",
    truth: Path | str,
    latents: Float[Tensor, "particle latent"],
    poses: dict[str, Any],
    posterior: Posterior | None,
) -> Evaluation:
    """The evaluation of these latents, and of poses where the truth has them."""
    true, shared = read_truth(truth), None if posterior is None else model_errors(run)
    with about_file(truth):
        score = evaluate(run.model.decoder, latents, run.nodes, true, posterior, shared)
    states, positions, shown = compared(true, len(latents), len(run.nodes))
    volumes = volume_scores(
        run.model.decoder,
        latents[shown],
        states,
        positions,
        run.reference,
        density=run.density,
        box_size=run.settings.grid.box_size,
        pixel_size=run.settings.grid.pixel_size,
    )
    score = dataclasses.replace(score, volumes=volumes)
    if not {"rotations", "shifts"} <= set(true):
        return score
    good = good_particles(true)
    errors: dict[str, Any] = {
        f"pose_errors_{name}": pose_errors(told.rotations, told.shifts, true, good)
        for name, told in poses.items()
        if told is not None
    }
    return dataclasses.replace(score, **errors)
