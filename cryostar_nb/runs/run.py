"""A run: what was trained, as an object to work with. `folder.open_run` makes it."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryostar_nb.atoms import relax
from cryostar_nb.config import TrainConfig
from cryostar_nb.ctf import ctf_terms
from cryostar_nb.density import CarriedGaussians, Density, atom_density, make_density
from cryostar_nb.errors import InputError
from cryostar_nb.evaluation import Evaluation
from cryostar_nb.fourier import Band
from cryostar_nb.gauge import Gauge
from cryostar_nb.io.metadata import LARGEST_MAGNIFICATION, Poses
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.problems import read_and_tell
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.structures import read_structure
from cryostar_nb.io.vectors import load_band_vectors, open_vectors
from cryostar_nb.latents import (
    ENDS,
    PrincipalComponents,
    components_from_reference,
    evenly_spaced,
    traverse,
)
from cryostar_nb.models import DeformationVAE
from cryostar_nb.poses import Corrections, refine_new
from cryostar_nb.posterior import Posterior
from cryostar_nb.runs.engine import training_data
from cryostar_nb.runs.kept import kept, save_latents, save_quality
from cryostar_nb.runs.pose_refinement import placed
from cryostar_nb.runs.run_config import (
    CheckConfig,
    InputFiles,
    LandscapeConfig,
    MapConfig,
    RunConfig,
)
from cryostar_nb.structure import Structure
from cryostar_nb.training import TrainingData, infer_latents

if TYPE_CHECKING:
    from cryostar_nb.clusters import Clusters
    from cryostar_nb.landscape import Landscape
    from cryostar_nb.pages.html import Fragment
    from cryostar_nb.runs.landscapes import Mapped
    from cryostar_nb.runs.maps import Maps
    from cryostar_nb.runs.verdicts import Checked


@dataclass(frozen=True)
class Run:
    """A trained, or partly trained, model with all that it was trained on."""

    folder: Path
    settings: RunConfig
    nodes: Structure  # of the reference
    model: DeformationVAE
    step: int
    corrections: Corrections | None = None  # of its particles' poses (`poses`)

    @property
    def inputs(self) -> InputFiles:
        """Its files."""
        return self.settings.inputs

    @property
    def config(self) -> TrainConfig:
        """How it was trained."""
        return self.settings.train

    @cached_property
    def band(self) -> Band:
        """The Fourier coefficients that were compared."""
        return band_of(self.settings)

    @cached_property
    def reference(self) -> Float[Tensor, "atom 3"]:
        """Positions of the reference's nodes, in Å."""
        return torch.from_numpy(self.nodes.positions).float()

    @cached_property
    def density(self) -> Density:
        """The Gaussians that its images are made of."""
        atoms = self.nodes if self.config.density == "nodes" else self.atoms
        return make_density(self.config, atoms, self.nodes)

    @cached_property
    def atoms(self) -> Structure:
        """The heavy atoms of the reference. Raises InputError where a run knows its nodes only."""
        if self.config.density == "nodes":
            raise InputError(
                "was trained with density = {value}, and knows no other atoms",
                file=self.folder,
                value="nodes",
                remedy="train with --density groups",
            )
        return read_structure(self.folder / "atoms.cif")

    @cached_property
    def carried(self) -> CarriedGaussians:
        """Its heavy atoms, carried by their nodes. Raises InputError as `atoms` does."""
        carried = atom_density(self.atoms, self.config.atom_sigma).carried
        assert carried is not None
        return carried

    @cached_property
    def particles(self) -> Particles:
        """The particles that it was trained on; their pixels stay on disk."""
        return read_particles(self.inputs.particles, self.inputs.reading)

    @cached_property
    def latents(self) -> Float[Tensor, "particle latent"]:
        """Latent mean of every particle; kept in `latents.npy` until the checkpoint changes."""
        stored = kept(self.folder, "latents.npy")
        if stored is not None:
            return torch.from_numpy(stored)
        return save_latents(self.folder, self.model, self.data())

    @cached_property
    def quality(self) -> Float[np.ndarray, " particle"]:
        """Probability of every particle to be a good one (`quality.probability_good`), 0 to 1;
        kept in `quality.npy` until the checkpoint changes.
        """
        stored = kept(self.folder, "quality.npy")
        if stored is not None:
            return stored
        known = (self.density, self.band, self.corrections)
        return save_quality(self.folder, self.model, self.data(), *known)

    def read(self, path: Path | str) -> Particles:
        """Read other particles like its own, but for files that are about its own alone."""
        reading = self.inputs.reading
        alone = replace(reading, passthrough=None, poses_pkl=None, ctf_pkl=None)
        return read_and_tell(path, alone)

    def data(self) -> TrainingData:
        """Its particles as training reads them, with the poses that it corrected."""
        return self.refined(self.given())

    def given(self) -> TrainingData:
        """Its particles as training reads them, with the poses as they were given."""
        vectors = open_vectors(
            self.particles, self.band, invert=self.inputs.invert, spill=self.folder
        )
        return training_data(self.particles, vectors, sigma=self.density.sigma)

    def refined(self, data: TrainingData) -> TrainingData:
        """These particles, all of its own, with the poses that it corrected."""
        if self.corrections is None:
            return data
        return replace(self.corrections, given=data.rotations).applied_to(data)

    def data_of(self, particles: Particles, *, spill: Path | None = None) -> TrainingData:
        """Other particles as training reads them: in memory, or what does not fit in `spill`.

        Raises InputError for images of another size.
        """
        grid, box = self.settings.grid, particles.box_size
        off = abs(particles.pixel_size / grid.pixel_size - 1)
        if box != grid.box_size or off > LARGEST_MAGNIFICATION:
            raise InputError(
                f"has images of {{value}} Å; the run's: {grid.box_size} x {grid.pixel_size:.5g} Å",
                file=particles.source,
                value=f"{box} x {particles.pixel_size:.5g}",
                remedy="give particles of the same box, and of a pixel size within 5 %",
            )
        particles = particles.on_band(grid.pixel_size)
        invert = self.inputs.invert
        if spill is None:
            vectors = load_band_vectors(particles, self.band, invert=invert)
        else:
            vectors = open_vectors(particles, self.band, invert=invert, spill=spill)
        return training_data(particles, vectors, sigma=self.density.sigma)

    def seen(
        self, data: TrainingData
    ) -> tuple[TrainingData, Float[Tensor, "particle latent"], Corrections | None]:
        """Particles that were not trained on, with poses corrected where the run corrects them,
        their latent means, and the corrections.
        """
        corrections = None
        if self.corrections is not None:
            data, corrections = refine_new(
                self.corrections, data, self.model, density=self.density, band=self.band
            )
        return data, infer_latents(self.model, data), corrections

    @property
    def poses(self) -> Poses | None:
        """The corrected poses of its particles, float64, with their CTFs; None: as given."""
        return None if self.corrections is None else placed(self.particles, self.corrections)

    @cached_property
    def refined_particles(self) -> Particles:
        """Its particles with the poses that it corrected, or as they are."""
        poses = self.poses
        if poses is None:
            return self.particles
        return replace(self.particles, rotations=poses.rotations, shifts=poses.shifts)

    def infer(self, particles: Particles) -> Float[Tensor, "particle latent"]:
        """Latent mean of any particles of the same box and pixel size.

        Where the run corrects poses, theirs are corrected first (`refine`).
        """
        return self.refine(particles)[0]

    def refine(self, particles: Particles) -> tuple[Float[Tensor, "particle latent"], Poses]:
        """Latent means of any particles of the same box and pixel size, and their poses.

        Where the run corrects poses these are corrected, in three rounds, each with the structures
        of the one before.
        """
        _, latents, corrections = self.seen(self.data_of(particles))
        return latents, placed(particles, corrections)

    def posterior(self, particles: Particles | None = None) -> Posterior:
        """Which latents the image of each particle allows: of its own particles, or of others.

        That of its own is kept in `posterior/` until the checkpoint changes; `cryostar-nb infer`
        finds it with progress, and goes on where it was interrupted.
        """
        from cryostar_nb.runs.posteriors import posterior_of

        return posterior_of(self, particles)

    @property
    def certainty(self) -> list[str]:
        """What `infer` found, in a few lines; none before it."""
        from cryostar_nb.runs.posteriors import Inferred, was_inferred

        return Inferred.of(self).words() if was_inferred(self) else []

    def node_sd(
        self, particles: Int[Tensor, " particle"] | None = None
    ) -> Float[Tensor, " atom"] | None:
        """How surely the position of each node is known, after `infer`: an sd in Å, in three
        dimensions; None before it.

        It is that of the posteriors of some particles (256, evenly spaced), with the errors that
        particles share in quadrature where `infer --beside` told them.
        """
        from cryostar_nb.runs.posteriors import node_sds, was_inferred

        if not was_inferred(self):
            return None
        rows = evenly_spaced(256, len(self.latents)) if particles is None else particles
        return node_sds(self, rows)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch atom 3"]:
        """Structures of these latents: positions of the nodes in Å."""
        return self.model.decoder(latents)

    @torch.no_grad()
    def turns(self, latents: Float[Tensor, "*batch latent"]) -> Tensor | None:
        """How the side chains of these latents turn about their nodes; None: not at all."""
        return self.model.decoder.deform(latents).turns

    @torch.no_grad()
    def all_atoms(
        self,
        latents: Float[Tensor, "structure latent"],
        *,
        relaxed: bool = True,
        in_gauge: bool = True,
    ) -> Float[Tensor, "structure atom 3"]:
        """Every heavy atom of the structures of these latents, in Å, in the order of `atoms`.

        What does not move stays still; with in_gauge=False they are as the decoder places them.
        Atoms go with their residues and turn with their side chains; `relaxed` mends the bonds
        between residues (`atoms.relax`).
        """
        nodes = self.decode(latents)
        nodes = self.gauge.apply(nodes) if in_gauge else nodes
        placed = self.carried.centres(nodes, self.turns(latents))
        return relax(self.atoms, placed) if relaxed else placed

    def models(
        self, latents: Float[Tensor, "structure latent"], *, in_gauge: bool = True
    ) -> tuple[Structure, Float[np.ndarray, "structure atom 3"]]:
        """`all_atoms` of these latents, or nodes where a run knows no others, to be written."""
        if self.config.density != "nodes":
            return self.atoms, self.all_atoms(latents, in_gauge=in_gauge).numpy()
        nodes = self.decode(latents)
        return self.nodes, (self.gauge.apply(nodes) if in_gauge else nodes).numpy()

    def structures(
        self, particles: Sequence[int] | Int[np.ndarray, " structure"]
    ) -> Float[Tensor, "structure atom 3"]:
        """Every heavy atom of the structures of these particles, counted from 0 (`all_atoms`)."""
        return self.all_atoms(self.latents[torch.as_tensor(particles)])

    @torch.no_grad()
    def project(
        self,
        structures: Float[Tensor, "particle atom 3"],
        particles: Particles,
        band: Band | None = None,
        *,
        turns: Float[Tensor, "particle atom 3"] | None = None,
    ) -> Float[Tensor, "particle y x"]:
        """Images of structures with the poses and CTFs of particles, without noise or shift.

        They are in electrons/Å^2, without their mean, down to the resolution of the run's band, or
        of another one. `turns` are of the side chains, which stand as in the reference without.
        """
        band, ctf = band or self.band, particles.ctf
        vectors = self.density.images(
            structures,
            band,
            rotations=particles.views.float(),
            ctf=None if ctf is None else ctf_terms(ctf.to(torch.float32), self.density.sigma),
            turns=turns,
        )
        return band.decode(vectors)

    def images(
        self, particles: Particles, band: Band | None = None
    ) -> Float[Tensor, "particle y x"]:
        """The particles' own images as training sees them: centred, normalised, low-passed.

        `band` must be of the particles' box; the run's by default.
        """
        band = band or self.band
        return band.decode(load_band_vectors(particles, band, invert=self.inputs.invert))

    def components(self) -> PrincipalComponents:
        """Principal components of the latents; the first leads away from the reference."""
        return components_from_reference(self.model.decoder, self.latents, self.reference)

    @cached_property
    def gauge(self) -> Gauge:
        """The frame in which the part that its structures move least lies on the reference."""
        count = min(500, max(50, 1_000_000 // len(self.nodes)))
        sample = self.latents[evenly_spaced(count, len(self.latents))]
        return Gauge.of(self.decode(sample), self.reference)

    def traverse(
        self, pc: int = 1, frames: int = 21, *, in_gauge: bool = True
    ) -> Float[Tensor, "frame atom 3"]:
        """Structures along a component, from the 5th to the 95th percentile of its scores, in Å.

        What does not move stays still; with in_gauge=False they are as the decoder places them.
        """
        pca = self.components()
        scores = pca.scores[:, pca.place(pc)]
        percentiles = torch.linspace(*ENDS, frames)
        structures = traverse(self.model.decoder, self.latents, scores, percentiles)
        return self.gauge.apply(structures) if in_gauge else structures

    def maps(self, *, out: Path | str | None = None, **choice: Any) -> "Maps":
        """Maps of parts of its particles, which the model had no part in (`MapConfig`)."""
        from cryostar_nb.runs.maps import make_maps

        return make_maps(self, MapConfig(**choice), None if out is None else Path(out))

    @property
    def made_maps(self) -> "list[Maps]":
        """What `maps` made in its folder, of the last checkpoint."""
        from cryostar_nb.runs.maps import Maps

        return Maps.of(self)

    def clusters(self, count: int | None = None) -> "Clusters":
        """So many clusters of its latents, or those that stand apart by density."""
        from cryostar_nb.runs.parts import clusters_of

        return clusters_of(self, count)

    def landscape(self, beside: "Sequence[Run]" = (), **choice: Any) -> "Landscape":
        """Its population along a component, after `infer` (`LandscapeConfig`); other runs of the
        same molecule, `beside` it, tell an error that its particles share.
        """
        from cryostar_nb.runs.landscapes import landscape_of

        return landscape_of(self, LandscapeConfig(**choice), beside)

    @property
    def mapped(self) -> "Mapped | None":
        """What the command `landscape` found last, if anything."""
        from cryostar_nb.runs.landscapes import Mapped

        return Mapped.kept_of(self)

    def check(self, **choice: Any) -> "Checked":
        """Symptoms of a failure, and the motions that survive other trainings (`CheckConfig`)."""
        from cryostar_nb.runs.checks import check

        return check(self, CheckConfig(**choice))

    @property
    def checked(self) -> "Checked | None":
        """What `check` found last, if anything."""
        from cryostar_nb.runs.verdicts import Checked

        return Checked.kept_of(self)

    def evaluate(
        self, truth: Path | str, particles: Particles | Path | str | None = None
    ) -> Evaluation:
        """Compare with the `truth.npz` of its simulation; writes `evaluation.json`, too.

        Of new `particles`, simulated like those that it was trained on, the latents are inferred;
        `truth` is theirs, and nothing is written.
        """
        from cryostar_nb.runs.comparison import compare, compare_new

        return compare(self, truth) if particles is None else compare_new(self, truth, particles)

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """What `evaluate` wrote last, if anything."""
        path = self.folder / "evaluation.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    @property
    def held_out(self) -> dict[str, Any] | None:
        """What the particles say that were held out (`validation.Generalisation`), if the training
        has come to its end.
        """
        path = self.folder / "held_out.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return found if found.get("step") == self.step else None

    @property
    def metrics(self) -> dict[str, list[float]]:
        """The columns of `metrics.csv`; none before its first line. A cut last line is left out.

        Losses of particles held out are NaN where they were not measured: between checkpoints.
        """
        text = (self.folder / "metrics.csv").read_text(encoding="utf-8")
        complete = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        rows = list(csv.DictReader(complete))
        return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}

    def explorer(self, points: int = 100, truth: Path | str | None = None) -> "Fragment":
        """The latent space to walk through, as HTML that a notebook shows.

        With the `truth.npz` of a simulation its points have the colours of their true states.
        """
        from cryostar_nb.pages.explorer import latent_explorer  # matplotlib is slow to import
        from cryostar_nb.pages.html import Fragment

        return Fragment.with_3dmol(latent_explorer(self, points, truth))

    def report(self) -> Path:
        """Write latents, scores, a traversal and `report.html` into the folder; its path."""
        from cryostar_nb.pages.run_report import write_report

        return write_report(self)


def band_of(settings: RunConfig) -> Band:
    """The Fourier coefficients that a run compares."""
    low_pass = settings.train.low_pass
    assert not isinstance(low_pass, str), "found when a run starts"
    return Band(settings.grid.box_size, settings.grid.pixel_size, low_pass)
