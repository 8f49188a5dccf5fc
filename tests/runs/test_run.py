"""A run as an object: latents, structures, images and numbers, from its folder alone."""

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused

from cryostar_nb.atoms import link_error
from cryostar_nb.config import PRESETS
from cryostar_nb.density import atom_density, group_density
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import rmsd, rotations_from_vectors
from cryostar_nb.io.metadata import Poses
from cryostar_nb.io.structures import read_structure, write_structure
from cryostar_nb.io.vectors import load_band_vectors
from cryostar_nb.projector import make_images
from cryostar_nb.runs.folder import FILES, open_run
from cryostar_nb.runs.run_config import Hardware, InputFiles
from cryostar_nb.runs.start import start_run
from cryostar_nb.structure import coarse_grain, node_atoms

REFERENCE = Path(__file__).parents[2] / "data" / "1ake.pdb"
STATES, COUNT, NODES, BOX = 4, 96, 214, 32


@pytest.fixture(scope="module", params=PRESETS)
def finished(request, particles, tmp_path_factory):
    """The folder of a short run with a preset."""
    config = dataclasses.replace(PRESETS[request.param], steps=20, batch_size=16, low_pass=9.0)
    inputs = InputFiles(particles / "particles.star", REFERENCE)
    folder = tmp_path_factory.mktemp("run") / request.param
    start_run(inputs, config, folder, hardware=Hardware("cpu"))
    return folder


@pytest.fixture
def run(finished):
    return open_run(finished)


@pytest.fixture
def copy(finished, tmp_path):
    """The same run in a folder that may be changed."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_a_folder_holds_what_it_promises_and_no_more(run):
    assert {path.name for path in run.folder.iterdir()} == set(FILES)
    assert run.step == 20 and not run.model.training


def test_nodes_keep_the_electrons_of_residues_that_have_no_formula(copy):
    atoms = read_structure(copy / "atoms.cif")
    atoms = dataclasses.replace(atoms, residue_names=np.full(len(atoms), "UNK"))
    nodes = coarse_grain(atoms)
    write_structure(copy / "atoms.cif", atoms)
    write_structure(copy / "reference.cif", nodes)
    assert open_run(copy).nodes.electrons.tolist() == nodes.electrons.tolist()


# Latents


def test_there_is_a_latent_for_every_particle(run):
    assert run.latents.shape == (COUNT, 8)
    assert len(run.particles) == COUNT


def test_the_latents_are_those_that_the_encoder_infers(run):
    """Training keeps images at half precision; `infer` reads them at single precision."""
    rows, particles = np.array([5, 3, 90]), run.particles
    scale = float(run.latents.abs().max())
    if run.poses is not None:  # the same images and structures, in the poses that training found
        particles = dataclasses.replace(
            particles, rotations=run.poses.rotations, shifts=run.poses.shifts
        )
    found = dataclasses.replace(run, corrections=None).infer(particles[rows])
    torch.testing.assert_close(found, run.latents[rows], atol=5e-3 * scale, rtol=0)


def test_the_latents_inferred_of_new_particles_are_nearly_those_of_training(run):
    """Where poses are refined, training and `infer` come to them on different ways."""
    rows = np.array([5, 3, 90])
    tolerance = 5e-3 if run.poses is None else 2e-2
    scale = float(run.latents.abs().max())
    found = run.infer(run.particles[rows])
    torch.testing.assert_close(found, run.latents[rows], atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("age", ["missing", "stale"])
def test_latents_that_are_missing_or_older_than_the_checkpoint_are_inferred_anew(age, copy):
    kept = np.load(copy / "latents.npy")
    if age == "missing":
        (copy / "latents.npy").unlink()
    else:
        np.save(copy / "latents.npy", kept + 1)
        os.utime(copy / "latents.npy", (0, 0))
    scale = float(np.abs(kept).max())  # training keeps what the encoder sees at half precision
    found = open_run(copy).latents
    torch.testing.assert_close(found, torch.from_numpy(kept), atol=1e-3 * scale, rtol=0)
    assert np.array_equal(np.load(copy / "latents.npy"), found)


def test_the_first_component_leads_away_from_the_reference(run):
    components = run.components()
    assert components.scores.shape == (COUNT, 8)
    assert float(components.explained.sum()) == pytest.approx(1)
    ends = run.traverse(frames=2)
    low, high = rmsd(ends, run.reference)
    assert low <= high


# Structures


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8)])
def test_latents_are_decoded_to_structures(shape, run, generator):
    latents = torch.randn(shape, generator=generator)
    structures = run.decode(latents)
    assert structures.shape == (*shape[:-1], NODES, 3) and not structures.requires_grad
    assert torch.equal(structures, run.model.decoder(latents).detach())


def test_a_traversal_goes_from_the_5th_to_the_95th_percentile(run):
    """Its ends are decoded from the mean of the three particles around place 5 and 90 of 96."""
    frames = run.traverse(in_gauge=False)
    assert frames.shape == (21, NODES, 3)
    order = run.components().scores[:, 0].argsort()
    for frame, place in ((0, 5), (-1, 90)):
        expected = run.decode(run.latents[order[place - 1 : place + 2]].mean(0))
        torch.testing.assert_close(frames[frame], expected, atol=1e-4, rtol=0)


def test_in_a_traversal_what_does_not_move_stays_where_the_reference_has_it(run, monkeypatch):
    """Whatever frame the decoder puts each structure in."""
    expected, decode = run.traverse(), run.model.decoder.forward

    def adrift(latents):
        turns = rotations_from_vectors(0.3 * torch.sin(1e3 * latents[:, :3]))
        return decode(latents) @ turns.mT + 10

    monkeypatch.setattr(run.model.decoder, "forward", adrift)
    assert rmsd(run.traverse(in_gauge=False), expected).min() > 10
    drifting = dataclasses.replace(run)  # without the gauge that was kept
    torch.testing.assert_close(drifting.traverse(), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("pc", [0, 9])
def test_a_component_that_the_latents_do_not_have_is_refused(pc, run):
    with refused(value=pc):
        run.traverse(pc)


# All atoms


def test_every_atom_goes_with_its_residue_and_turns_with_its_side_chain(run):
    if run.config.density == "nodes":
        with refused(run.folder.name, value="nodes"):
            run.structures([0])
        return
    latents = run.latents[[5, 3]]
    nodes, turns = node_atoms(run.atoms), run.turns(latents)
    stiff = run.all_atoms(latents, relaxed=False)
    torch.testing.assert_close(stiff[:, nodes], run.gauge.apply(run.decode(latents)))
    assert turns.abs().max() > 0
    carried = atom_density(run.atoms, 0.8).carried
    unturned = carried.centres(run.gauge.apply(run.decode(latents)))
    assert (stiff - unturned).abs().max() > 1e-3
    relaxed = run.structures([5, 3])
    assert torch.equal(relaxed, run.all_atoms(latents)) and not relaxed.requires_grad
    assert 0 < link_error(run.atoms, relaxed) < link_error(run.atoms, stiff)


def test_side_chains_that_turn_are_seen_in_projections(run):
    if run.config.density == "nodes":
        assert run.turns(run.latents[:2]) is None
        return
    structures, particles = run.decode(run.latents[:2]), run.particles[:2]
    turns = run.turns(run.latents[:2])
    images = run.project(structures, particles, turns=turns)
    assert (images - run.project(structures, particles)).abs().max() > 0


# Images


@pytest.mark.parametrize("band", [None, Band(BOX, 4.0, 16.0)], ids=["the run's band", "another"])
def test_a_projection_is_the_image_of_the_density_of_the_structures(band, run):
    structures, particles = run.decode(run.latents[:5]), run.particles[:5]
    vectors = make_images(
        run.density.centres(structures),
        run.density.amplitudes,
        run.density.sigma,
        band or run.band,
        rotations=particles.rotations.float(),
        ctf=particles.ctf.to(torch.float32),
    )
    images = run.project(structures, particles, band)
    assert images.shape == (5, BOX, BOX) and not images.requires_grad
    assert torch.equal(images, (band or run.band).decode(vectors))


def test_the_gaussians_are_groups_of_atoms_or_the_nodes(run):
    count = NODES
    if run.config.density == "groups":
        atoms = read_structure(REFERENCE)
        count = len(group_density(atoms, 0.8, run.band.resolution).amplitudes)
    assert run.density.centres(run.reference).shape == (count, 3)
    electrons = float(run.density.amplitudes.sum())
    assert electrons == pytest.approx(run.nodes.electrons.sum(), rel=1e-5)


def test_projections_without_a_ctf_are_without_one(run):
    without = dataclasses.replace(run.particles[:3], ctf=None)
    images = run.project(run.decode(run.latents[:3]), without)
    assert (images.amax((1, 2)) > -2 * images.amin((1, 2))).all()  # bright, and without rings


def test_the_images_are_those_that_training_compares(run):
    vectors = load_band_vectors(run.particles[4:8], run.band)
    images = run.images(run.particles[4:8])
    assert images.shape == (4, BOX, BOX)
    assert torch.equal(images, run.band.decode(vectors))


def test_the_reference_looks_more_like_its_images_than_like_those_of_others(run):
    """At a signal-to-noise ratio of 1, each image resembles its own projection the most."""
    rows = np.arange(8)
    given = run.images(run.particles[rows]).flatten(1)
    made = run.project(run.reference.expand(8, -1, -1), run.particles[rows]).flatten(1)
    correlation = torch.nn.functional.cosine_similarity(given[:, None], made, dim=-1)
    assert correlation.argmax(1).tolist() == rows.tolist()


# The truth


def test_an_evaluation_is_returned_and_written(copy, particles):
    run = open_run(copy)
    assert run.evaluation is None
    score = run.evaluate(particles / "truth.npz")
    written = json.loads((copy / "evaluation.json").read_text())
    assert run.evaluation == written
    about = {"method": "star", "steps": 20, "seed": 0, "version": run.settings.version}
    assert about.items() <= written.items()
    assert score.as_dict().items() <= written.items()
    assert score.n_particles == COUNT and len(score.rmsd_per_state) == STATES


def test_new_particles_are_compared_with_their_own_truth_and_nothing_is_written(copy, particles):
    run, truth = open_run(copy), dict(np.load(particles / "truth.npz"))
    rows = np.arange(90, 20, -3)
    per_particle = {k: v[rows] for k, v in truth.items() if v.shape[:1] == (COUNT,)}
    np.savez(copy / "some.npz", **(truth | per_particle))
    score = run.evaluate(copy / "some.npz", run.particles[rows])
    assert not (copy / "evaluation.json").exists()
    assert score.n_particles == len(rows)
    assert (score.pose_errors_refined is None) == (run.poses is None)
    true, states = torch.from_numpy(truth["positions"]).float(), truth["state"][rows]
    found = rmsd(run.decode(run.infer(run.particles[rows])), true[states]).mean()
    assert score.rmsd_mean == pytest.approx(float(found), rel=1e-5)
    with refused("some.npz", value=len(rows)):
        run.evaluate(copy / "some.npz", particles / "particles.star")


def test_new_particles_may_be_a_file(copy, particles):
    run = open_run(copy)
    again = run.evaluate(particles / "truth.npz", particles / "particles.star")
    assert not (copy / "evaluation.json").exists()
    # Kept latents were inferred from half precision.
    assert again.rmsd_mean == pytest.approx(run.evaluate(particles / "truth.npz").rmsd_mean, 1e-3)


def test_particles_of_another_box_are_refused(run):
    other = dataclasses.replace(run.particles, pixel_size=3.0)
    with refused("particles.star", value="32 x 3"):
        run.infer(other)


def test_poses_given_and_refined_are_compared_with_the_true_ones(copy, particles, monkeypatch):
    run, truth = open_run(copy), dict(np.load(particles / "truth.npz"))
    turn = rotations_from_vectors(torch.tensor([0.0, 0.0, math.radians(2)])).double()
    truth["rotations"] = truth["rotations"] @ turn.numpy()
    truth["shifts"] = truth["shifts"] + [3.0, 4.0]
    np.savez(copy / "true.npz", **truth)
    score = run.evaluate(copy / "true.npz")
    given = {"rotation_error_deg": 2.0, "shift_error": 5.0}
    assert score.pose_errors_given == pytest.approx(given, abs=1e-3)
    assert (score.pose_errors_refined is None) == (run.config.poses == "given")
    true = Poses(torch.from_numpy(truth["rotations"]), torch.from_numpy(truth["shifts"]), None)
    monkeypatch.setattr(type(run), "poses", true)
    refined = run.evaluate(copy / "true.npz").pose_errors_refined
    assert refined == pytest.approx({"rotation_error_deg": 0, "shift_error": 0}, abs=1e-3)
    assert run.evaluation["pose_errors_refined"] == refined


def test_doing_nothing_is_the_distance_of_the_reference_to_each_state(copy, particles):
    run, truth = open_run(copy), np.load(particles / "truth.npz")
    score = run.evaluate(particles / "truth.npz")
    apart = np.square(truth["positions"] - run.nodes.positions).sum(-1).mean(-1) ** 0.5
    assert score.idle.rmsd_per_state == pytest.approx(apart, rel=1e-4, abs=2e-3)
    assert score.idle.rmsd_mean == pytest.approx(apart[truth["state"]].mean(), rel=1e-4)
    assert score.idle.rmsd_std_per_state == pytest.approx([0] * STATES, abs=1e-5)
    assert score.idle.rmsd_most_open == pytest.approx(apart.mean(), rel=1e-3)
