"""The posterior of every particle of a run, or of other particles: in parts, resumable, on disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from cryostar_nb.calibration import AT_ONCE, SILENT, errors_between, node_sd
from cryostar_nb.errors import InputError
from cryostar_nb.gauge import superpose_weighted
from cryostar_nb.io.files import clear_when_full, replacing
from cryostar_nb.io.particles import Particles
from cryostar_nb.latents import Directions, evenly_spaced
from cryostar_nb.mixture import Mixture
from cryostar_nb.poses import Corrections
from cryostar_nb.posterior import FEW, Inference, Posterior
from cryostar_nb.runs.kept import is_fresh
from cryostar_nb.structure import shared_residues
from cryostar_nb.training import TrainingData

if TYPE_CHECKING:
    from cryostar_nb.runs.run import Run

PART = 2048  # particles; each part is kept as it is done
GOOD = 0.5  # probability of the particles that the prior is learned from
COMPARED = 256  # particles that two runs are compared on
MADE_OF = {"directions": Directions, "prior": Mixture}  # tensors
LEARNED = (*MADE_OF, "whitening", "amplitude", "contrast_sd", "widths", "centre")  # of `Inference`


@dataclass(frozen=True)
class Inferred:
    """What `infer` found: the posteriors, and where they are kept."""

    posterior: Posterior
    folder: Path
    run: "Run"

    @classmethod
    def of(cls, run: "Run") -> "Inferred":
        """What is kept of a run."""
        return cls(posterior_of(run), home(run), run)

    def words(self) -> list[str]:
        """What it says, in a few lines."""
        found = self.posterior
        count, draws = found.weights.shape
        silent = int((found.information < SILENT).sum())
        few = int((found.effective < FEW).sum())
        lines = [
            f"{count:,} particles, {draws} draws each",
            f"structures are known to {float(found.spread.square().mean().sqrt()):.2f} Å"
            " (sd, rms over particles and nodes), beside errors that all of them share",
            f"an image says {float(found.information.mean()):.1f} nats about its structure;"
            f" {silent:,} particles say nothing (less than {SILENT} nats)",
            f"{float((found.near_encoder > 0.5).float().mean()):.0%} of the particles are probably"
            " where the encoder says (within 1 Å)",
            f"draws: as good as {float(found.effective.median()):.0f} independent ones (median);"
            f" {few:,} particles have fewer than {FEW:.0f}",
        ]
        errors = model_errors(self.run)
        if errors is not None:
            sd = float(errors.square().sum(-1).mean().sqrt())
            lines.append(f"errors that particles share, by other runs: {sd:.2f} Å rms")
        return lines


def home(run: "Run") -> Path:
    """Where a run keeps its posteriors."""
    return run.folder / "posterior"


def knows_noise(run: "Run") -> bool:
    """Whether noise and priors were learned from this checkpoint, by `infer`."""
    return is_fresh(home(run) / "inference.pt", run.folder)


def was_inferred(run: "Run") -> bool:
    """Whether the posteriors of its own particles are there, from this checkpoint."""
    return knows_noise(run) and is_fresh(home(run) / "posterior.npz", run.folder)


def inference_of(run: "Run", data: TrainingData | None = None) -> Inference:
    """Noise and priors of a run, learned from its particles and kept in `posterior/inference.pt`.

    They are learned again where the checkpoint is newer.
    """
    path = home(run) / "inference.pt"
    if knows_noise(run):
        state = torch.load(path, weights_only=True)
        for name, kind in MADE_OF.items():
            state[name] = kind(*state[name])
        return Inference(run.model, run.density, run.band, **state)
    found = Inference.learn(
        run.model,
        data or run.data(),
        run.latents,
        density=run.density,
        band=run.band,
        corrections=run.corrections,
        good=_good(run),
        seed=run.config.seed,
    )
    state = {name: getattr(found, name) for name in LEARNED}
    for name in MADE_OF:
        state[name] = list(vars(state[name]).values())
    with replacing(path) as temporary:
        torch.save(state, temporary)
    return found


def _good(run: "Run") -> Tensor | None:
    """The particles that are probably good ones; None where too few are, and all count."""
    good = torch.from_numpy(run.quality > GOOD)
    return good if good.sum() >= min(100, len(good)) else None


def infer(
    run: "Run",
    particles: Particles | None = None,
    out: Path | str | None = None,
    *,
    draws: int = 48,
) -> Inferred:
    """Find the posterior of every particle of a run, or of other `particles`; write it to `out`.

    `out` is the run's folder `posterior` by default, for its own particles. What is done is kept
    part by part: the same call goes on after an interruption. Raises InputError for other
    particles without `out`.
    """
    if particles is not None and out is None:
        problem = "other particles than the run's need a folder of their own"
        raise InputError(problem, file=particles.source, remedy="give --out")
    folder = home(run) if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    found = Posterior(*map(torch.cat, zip(*_parts(run, particles, folder, draws), strict=True)))
    _write(folder / "posterior.npz", found)
    for path in folder.glob("part_*.npz"):
        path.unlink()
    return Inferred(found, folder, run)


def _parts(
    run: "Run", particles: Particles | None, folder: Path, draws: int
) -> Iterator[Posterior]:
    """The posteriors of 2,048 particles at a time, each kept in a file of the folder."""
    own = particles is None
    data = run.data() if particles is None else run.data_of(particles, spill=folder)
    inference = inference_of(run, data if own else None)
    about = str((particles or run.particles).source)
    newest = (home(run) / "inference.pt").stat().st_mtime
    bar = tqdm(total=len(data), desc="inferring", unit="particle")
    with bar, clear_when_full(folder / "posterior.npz"):
        for first in range(0, len(data), PART):
            rows = slice(first, min(first + PART, len(data)))
            path = folder / f"part_{first:09d}.npz"
            found = _kept_part(path, newest, about, draws)
            if found is None:
                part = data.part(rows)
                if own:
                    latents, corrections = run.latents[rows], run.corrections
                    corrections = None if corrections is None else corrections.part(rows)
                else:
                    part, latents, corrections = run.seen(part)
                found = inference.infer(
                    part,
                    latents,
                    corrections=corrections,
                    draws=draws,
                    seed=first,
                    progress=bar,
                )
                _write(path, found, about=about)
            else:
                bar.update(len(found.weights))
            bar.set_postfix(sd=f"{float(found.spread.square().mean().sqrt()):.2f} Å")
            yield found


def _kept_part(path: Path, newest: float, about: str, draws: int) -> Posterior | None:
    """A part that was done before, from the same particles, draws and priors; else None."""
    if not path.exists() or path.stat().st_mtime < newest:
        return None
    with np.load(path) as arrays:
        fits = str(arrays["about"]) == about and arrays["weights"].shape[1] == draws
    return _read(path) if fits else None


def _read(path: Path) -> Posterior:
    with np.load(path) as arrays:
        return Posterior(*(torch.from_numpy(arrays[name]) for name in Posterior._fields))


def _write(path: Path, posterior: Posterior, **more: str) -> None:
    arrays: dict[str, Any] = {name: v.numpy() for name, v in posterior._asdict().items()}
    with replacing(path) as temporary:
        np.savez(temporary, **(arrays | more))


@lru_cache(maxsize=1)
def _stored(path: Path, _modified: int) -> Posterior:
    """The posterior in a file; several parts of a report ask for it."""
    return _read(path)


def posterior_of(run: "Run", particles: Particles | None = None) -> Posterior:
    """The stored posterior of a run's particles, found first where there is none, or a new one of
    other particles, which is not stored.
    """
    if particles is not None:
        return of_seen(run, *run.seen(run.data_of(particles)))
    if not was_inferred(run):
        return infer(run).posterior
    path = home(run) / "posterior.npz"
    return _stored(path, path.stat().st_mtime_ns)


def of_seen(
    run: "Run",
    data: TrainingData,
    latents: Float[Tensor, "particle latent"],
    corrections: Corrections | None,
) -> Posterior:
    """The posterior of particles that a run has seen (`Run.seen`)."""
    return inference_of(run).infer(data, latents, corrections=corrections)


def compare_runs(run: "Run", others: Sequence["Run"]) -> Float[Tensor, "sample node 3"]:
    """Samples of the errors that particles share, from other runs of the same molecule; kept in
    `posterior/errors.npy`, in Å.

    The mean structures of up to 256 particles of `run` by each of the others are compared with its
    own, what is still in the same place (`calibration.errors_between`). A node that another run
    lacks is left without an error from it. Raises InputError for runs without common nodes.
    """
    rows = evenly_spaced(COMPARED, len(run.particles))
    some = run.particles[rows]
    mine = run.gauge.apply(posterior_of(run).part(rows).structures(run.model.decoder)[0])
    found = []
    for other in others:
        here, there = nodes_of_both(run, other)
        theirs = posterior_of(other, some).structures(other.model.decoder)[0][:, there]
        weights = run.gauge.weights[here]
        theirs = superpose_weighted(theirs, run.reference[here], weights)
        errors = torch.zeros_like(mine)
        errors[:, here] = errors_between(mine[:, here], theirs)
        found.append(errors)
    errors = torch.cat(found)
    with replacing(home(run) / "errors.npy") as temporary:
        np.save(temporary, errors.numpy())
    return errors


def nodes_of_both(run: "Run", other: "Run") -> tuple[list[int], list[int]]:
    """The nodes that two runs have in common: their places in the one and in the other.

    Raises InputError for fewer than three.
    """
    here, there = shared_residues(run.nodes, other.nodes)
    if len(here) < 3:
        problem = f"has {{value}} nodes in common with {run.folder}"
        remedy = "give runs of one molecule"
        raise InputError(problem, file=other.folder, value=len(here), remedy=remedy)
    return here, there


def model_errors(run: "Run") -> Float[Tensor, "sample node 3"] | None:
    """What `compare_runs` found last, if anything."""
    path = home(run) / "errors.npy"
    return torch.from_numpy(np.load(path)) if is_fresh(path, run.folder) else None


def node_sds(run: "Run", rows: Int[Tensor, " row"]) -> Float[Tensor, " node"]:
    """How surely each node is known, as an sd in three dimensions, in Å: of the posteriors of these
    particles, root mean square, and of the errors that particles share, where `compare_runs` told.
    """
    parts = posterior_of(run).part(rows)
    decoder = run.model.decoder
    squares = [
        parts.part(some).structures(decoder)[1].square()
        for some in torch.arange(len(rows)).split(AT_ONCE)
    ]
    variance, errors = torch.cat(squares).mean(0), model_errors(run)
    if errors is not None:
        variance = variance + node_sd(errors).square()
    return variance.sqrt()
