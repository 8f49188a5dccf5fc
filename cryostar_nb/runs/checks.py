"""Which motions of a run survive: other trainings on the same particles, and one without motion.

A network always answers, and its reference and its restraints have a part in the answer. So the
training is repeated: on each half of the particles; from another reference; and on particles that
do not move at all. What the same particles look like to each of them is compared, as structures.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryostar_nb.density import make_density
from cryostar_nb.gauge import Gauge
from cryostar_nb.io.files import replacing, write_json, write_text
from cryostar_nb.latents import evenly_spaced
from cryostar_nb.motions import Modes, correlation, displacement, extent, principal_angles
from cryostar_nb.pages.check_page import check_page
from cryostar_nb.poses import Corrections, refine_new
from cryostar_nb.runs.controls import common_nodes, motionless, other_reference
from cryostar_nb.runs.engine import run_training
from cryostar_nb.runs.kept import is_fresh
from cryostar_nb.runs.machine import start_fabric
from cryostar_nb.runs.parts import good_particles, half_sets
from cryostar_nb.runs.posteriors import inference_of
from cryostar_nb.runs.run_config import CheckConfig, Hardware
from cryostar_nb.runs.symptoms import symptoms_of
from cryostar_nb.runs.verdicts import FOLDER, Checked, Motion
from cryostar_nb.training import TrainingData, infer_latents

if TYPE_CHECKING:
    from cryostar_nb.runs.run import Run

COMPARED = 1000  # particles whose structures are compared
GOOD = 0.5  # their least probability of being good
TRAININGS = {
    "half1": "one half of the particles",
    "half2": "the other half",
    "reference": "another reference",
    "null": "particles that do not move",
}

Structures = Float[Tensor, "particle atom 3"]


def check(run: "Run", config: CheckConfig, hardware: Hardware | None = None) -> Checked:
    """Look for symptoms of a failure, and repeat the training to see which motions survive.

    Writes `check.json` and the page `check.html` into the folder `check` of the run. Each training
    is kept there until the checkpoint or what is asked for changes, and goes on where it was
    interrupted.
    """
    folder = run.folder / FOLDER
    _begin(run, config, folder)
    symptoms = symptoms_of(run)
    held_out = list(run.held_out["words"]) if run.held_out else []
    found = Checked(folder, symptoms, held_out)
    if config.trainings:
        try:
            found = _compare(_Trainings(run, config, folder, hardware or Hardware()), found)
        except KeyboardInterrupt:
            go_on = f"go on with: cryostar-nb check {run.folder}"
            raise KeyboardInterrupt(f"stopped; what is done is kept; {go_on}") from None
    found.write()
    page = check_page(found, run.folder.resolve().name, run.nodes.chains)
    write_text(folder / "check.html", page)
    return found


def _begin(run: "Run", config: CheckConfig, folder: Path) -> None:
    """Make the folder; delete trainings of another checkpoint, or that were asked for otherwise."""
    about = {"step": run.step, "steps": config.steps, "reference": str(config.reference)}
    path = folder / "about.json"
    if is_fresh(path, run.folder) and json.loads(path.read_text(encoding="utf-8")) == about:
        return
    for name in TRAININGS:
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    write_json(path, about)


class _Trainings:
    """The trainings of a check, and the structures that each gives to the same particles."""

    def __init__(self, run: "Run", config: CheckConfig, folder: Path, hardware: Hardware) -> None:
        self.run, self.folder, self.hardware = run, folder, hardware
        self.config = replace(run.config, steps=config.steps or run.step, stop_early=False)
        self.given = run.given()
        good = np.flatnonzero(good_particles(run, GOOD))
        good = good if len(good) else np.arange(len(self.given))
        self.sample = torch.from_numpy(good)[evenly_spaced(COMPARED, len(good))]
        self.shown = self.given.part(self.sample)
        self.atoms, self.nodes = other_reference(run, config.reference, folder)

    def of_halves(self) -> tuple[list[Structures], str]:
        """Those of the trainings on halves, and where the half-sets are from."""
        halves, source = half_sets(self.run)
        rows = [torch.nonzero(halves == half).squeeze(1) for half in (0, 1)]
        made = [
            self._structures(name, partial(self._with_shown, part))
            for name, part in zip(("half1", "half2"), rows, strict=True)
        ]
        return made, source

    def of_reference(self) -> Structures:
        """Those of the training from another reference."""
        return self._structures("reference", partial(self._with_shown, slice(None)), other=True)

    def of_null(self) -> Structures:
        """Those of the training on images of one structure, with the same poses, CTFs and noise."""

        def still() -> tuple[TrainingData, TrainingData]:
            inference = inference_of(self.run, self.run.refined(self.given))
            data = motionless(self.run, self.given, inference)
            return data, data.part(self.sample)

        return self._structures("null", still)

    def _with_shown(self, rows: slice | Int[Tensor, " row"]) -> tuple[TrainingData, TrainingData]:
        """These particles, and the sample."""
        return self.given.part(rows), self.shown

    def _structures(
        self,
        name: str,
        particles: Callable[[], tuple[TrainingData, TrainingData]],
        *,
        other: bool = False,
    ) -> Structures:
        """The structures that a training gives to a sample, unless they are there.

        `particles` gives those to train on, and the sample.
        """
        run, out = self.run, self.folder / name
        if (out / "structures.npy").exists():
            return torch.from_numpy(np.load(out / "structures.npy"))
        print(f"{run.folder}: training on {TRAININGS[name]}")
        nodes = self.nodes if other else run.nodes
        density = make_density(self.config, self.atoms, nodes) if other else run.density
        fabric, learned = start_fabric(self.hardware), []
        data, shown = particles()
        out.mkdir(exist_ok=True)
        network = run_training(
            self.config,
            _on(data, fabric.device),
            nodes,
            run.band,
            out,
            density=density,
            model_config=run.settings.model,
            resume=(out / "checkpoint.pt").exists(),
            fabric=fabric,
            finished=lambda _, __, corrections: learned.append(corrections),
        ).cpu()
        known = learned[0]
        if known is not None:
            prior = Corrections.none(shown.rotations, known.centre.cpu(), known.widths.cpu())
            shown, _ = refine_new(prior, shown, network, density=density, band=run.band)
        with torch.no_grad():
            made = network.decoder(infer_latents(network, shown))
        with replacing(out / "structures.npy") as temporary:
            np.save(temporary, made.numpy())
        (out / "checkpoint.pt").unlink()
        return made


def _on(data: TrainingData, device: torch.device) -> TrainingData:
    ctf = None if data.ctf is None else data.ctf.to(device)
    return TrainingData(data.vectors, data.rotations.to(device), ctf)


def _compare(trainings: _Trainings, found: Checked) -> Checked:
    """Train, and compare the structures of the sample, in the frame of the run's still part."""
    run = trainings.run
    here, there = common_nodes(run.nodes, trainings.nodes)
    gauge = Gauge(run.gauge.reference[here], run.gauge.weights[here])
    halves, source = trainings.of_halves()
    made = {"run": run.decode(run.latents[trainings.sample])[:, here]}
    made |= {"half1": halves[0][:, here], "half2": halves[1][:, here]}
    made |= {"reference": trainings.of_reference()[:, there], "null": trainings.of_null()[:, here]}
    made = {name: gauge.apply(structures) for name, structures in made.items()}
    modes = Modes.of(made["run"])
    scores = {name: modes.scores(structures) for name, structures in made.items()}
    extents = {name: extent(values).tolist() for name, values in scores.items()}
    still = made["null"]
    noise = float(extent(Modes.of(still, 1).scores(still))[0])
    agree = correlation(scores["half1"], scores["half2"]).tolist()
    other = correlation(scores["run"], scores["reference"]).tolist()
    motions = [
        Motion(
            extent=extents["run"][k],
            halves=(extents["half1"][k], extents["half2"][k]),
            halves_agree=agree[k],
            reference=extents["reference"][k],
            reference_agrees=other[k],
            noise=noise,
        )
        for k in range(len(modes.directions))
    ]
    count = len(motions)
    angles = principal_angles(Modes.of(made["half1"], count), Modes.of(made["half2"], count))
    moved: dict[str, Any] = {
        name: [displacement(made[name], scores[name][:, k]).tolist() for k in range(count)]
        for name in made
    }
    return replace(
        found,
        motions=motions,
        angles=angles.tolist(),
        halves=source,
        displacements=moved,
        compared=here,
        particles=len(trainings.sample),
    )
