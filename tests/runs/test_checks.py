"""A check of a run: symptoms by name, other trainings, and which motions survive them."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import gemmi
import numpy as np
import pytest
import torch
from refusals import refused

from cryostar_nb.io.structures import read_structure, write_structure
from cryostar_nb.runs import checks, symptoms
from cryostar_nb.runs.controls import common_nodes, motionless, other_reference
from cryostar_nb.runs.folder import open_run
from cryostar_nb.runs.posteriors import inference_of
from cryostar_nb.runs.run_config import CheckConfig
from cryostar_nb.runs.symptoms import Symptom, difference_map, symptoms_of
from cryostar_nb.runs.verdicts import Checked, Motion

DATA = Path(__file__).parents[2] / "data"
QUICK = CheckConfig(steps=4)
FINE = Motion(4.0, (3.9, 4.1), 0.9, 3.8, 0.9, 0.3)


@pytest.fixture(scope="module")
def finished(train_briefly, tmp_path_factory):
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("check") / "run"
    train_briefly(folder, steps=60)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return open_run(tmp_path / "run")


@pytest.fixture
def no_symptoms(monkeypatch):
    monkeypatch.setattr(checks, "symptoms_of", lambda run: [])


def names(found):
    return [symptom.name for symptom in found]


def test_a_motion_survives_what_everything_agrees_on():
    assert FINE.doubts == [] and FINE.error == pytest.approx(0.1)
    words = FINE.words(1)
    assert words.startswith("motion 1, 4.00 ± 0.10 Å, survives") and "0.90" in words


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        ({"noise": 2.1}, "noise alone makes 2.10 Å"),
        ({"halves_agree": 0.4}, "the halves do not agree"),
        ({"halves": (4.0, 1.9)}, "the halves do not agree"),
        ({"reference_agrees": 0.4}, "another reference does not lead to it"),
        ({"reference": 1.9}, "another reference does not lead to it"),
    ],
)
def test_each_disagreement_is_a_doubt(change, doubt):
    motion = dataclasses.replace(FINE, **change)
    assert motion.doubts == [doubt]
    assert "does not survive" in motion.words(1) and doubt in motion.words(1)


def test_a_run_is_sound_without_symptoms_and_with_a_motion_that_survives(tmp_path):
    doubtful = dataclasses.replace(FINE, noise=4.0)
    assert Checked(tmp_path, [], []).verdict == "no symptom"
    assert Checked(tmp_path, [], [], [FINE, doubtful]).verdict == "sound"
    assert Checked(tmp_path, [], [], [doubtful]).verdict == "doubtful"
    failed = Checked(tmp_path, [Symptom("collapsed", "0 Å")], [], [FINE, doubtful])
    assert failed.verdict == "doubtful"
    assert failed.summary == "collapsed; 1 of 2 motions survive other trainings"
    assert Checked(tmp_path, [], []).summary == "no symptom of a failure"


def test_all_trainings_are_made_kept_and_shown(run, no_symptoms, monkeypatch):
    found = run.check(steps=4)
    folder = run.folder / "check"
    assert {p.parent.name for p in folder.glob("*/structures.npy")} == set(checks.TRAININGS)
    assert not list(folder.glob("*/checkpoint.pt"))
    assert found.motions and found.halves == "at random" and found.particles == 96
    assert len(found.compared) == len(run.nodes)
    page = (folder / "check.html").read_text()
    assert f"{found.motions[0].extent:.2f} ±" in page and found.motions[0].doubts[0] in page
    again = open_run(run.folder).checked
    assert again.words() == found.words() and again.displacements == found.displacements

    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(checks, "run_training", refuse)
    assert run.check(steps=4).motions == found.motions
    with pytest.raises(AssertionError, match="trained again"):
        run.check(steps=5)  # asked for otherwise


def test_an_interrupted_check_goes_on(run, no_symptoms, monkeypatch):
    train, made = checks.run_training, []

    def interrupted(*arguments, **options):
        made.append((arguments[4].name, options["resume"]))
        if len(made) == 2:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr(checks, "run_training", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"go on with: cryostar-nb check .*run$"):
        run.check(steps=4)
    (run.folder / "check" / "half2").mkdir(exist_ok=True)
    assert run.checked is None
    run.check(steps=4)
    first, again = ["half1", "half2"], ["half2", "reference", "null"]
    assert made == [(name, False) for name in first + again]


def test_more_training_makes_a_check_stale(run, no_symptoms):
    run.check(trainings=False)
    assert run.checked.motions == [] and run.checked.verdict == "no symptom"
    line = '<a href="check/check.html">Checked</a>: no symptom of a failure.'
    assert line in run.report().read_text()
    newer = (run.folder / "check" / "check.json").stat().st_mtime + 100
    os.utime(run.folder / "checkpoint.pt", (newer, newer))
    assert run.checked is None


def test_particles_that_do_not_move_have_poses_signal_and_noise_of_those_that_do(run):
    inference = inference_of(run)
    given = run.given()
    still, seen = motionless(run, given, inference), run.data()
    assert torch.equal(still.rotations, given.rotations) and torch.equal(still.ctf, given.ctf)
    mean = run.model.decoder.deform(run.latents.mean(0).expand(96, -1))
    made = run.model.scaled(
        run.density.images(
            mean[0],
            run.band,
            turns=mean[1],
            rotations=seen.rotations,
            shifts=seen.shifts,
            ctf=seen.ctf,
        )
    )
    made = (made * inference.amplitude).detach()
    noise = (still.vectors.float() - made) * inference.whitening
    assert float(noise.square().mean()) == pytest.approx(1, abs=0.03)
    assert abs(float((noise * made).sum() / (noise.norm() * made.norm()))) < 0.02
    signal = [
        float((v.float() * made).sum() / made.square().sum()) for v in (still.vectors, seen.vectors)
    ]
    assert signal[0] == pytest.approx(signal[1], abs=0.1)


def test_the_other_reference_is_bent_with_its_atoms(run):
    atoms, nodes = other_reference(run, None, run.folder)
    moved = np.linalg.norm(nodes.positions - run.nodes.positions, axis=-1)
    assert 0.5 < np.sqrt(np.square(moved).mean()) < 2.001 and moved.max() < 6.001
    assert len(atoms) == len(run.atoms)
    centres = atoms.positions[atoms.atom_names == "CA"]
    np.testing.assert_allclose(centres, nodes.positions, atol=1e-3)
    written = gemmi.read_structure(str(run.folder / "reference.cif"))
    assert written[0].count_atom_sites() == len(atoms)


def test_residues_are_compared_that_both_references_have(run, no_symptoms, tmp_path):
    part = run.atoms[run.atoms.residue_numbers > 20]
    write_structure(tmp_path / "part.cif", part)
    found = run.check(steps=4, reference=tmp_path / "part.cif")
    assert found.compared == list(range(20, len(run.nodes)))
    other = run.nodes[:100]
    with refused(value=100):
        common_nodes(run.nodes, other)


def test_the_difference_map_shows_what_only_the_images_have(run, monkeypatch):
    data = run.data_of(run.refined_particles)
    positions, turns = run.model.decoder.deform(run.latents)
    place = run.reference.mean(0) + torch.tensor([0.0, 25.0, 0.0])
    views = {"rotations": data.rotations, "ctf": data.ctf}
    images = run.model.scaled(run.density.images(positions, run.band, turns=turns, **views))
    blob = dataclasses.replace(
        run.density, amplitudes=torch.tensor([2000.0]), sigma=torch.tensor(4.0), carried=None
    )
    more = run.model.scaled(blob.images(place.expand(96, 1, 3), run.band, **views))

    def symptoms_with(vectors):
        seen = dataclasses.replace(data, vectors=vectors.detach())
        monkeypatch.setattr(type(run), "data_of", lambda self, particles: seen)
        found = difference_map(run)
        return found, names(symptoms._of_difference(run, found))

    assert symptoms_with(images)[1] == []
    found, named = symptoms_with(images + more)
    assert float((found.points[found.values.argmax()] - place).norm()) < 5
    assert named == ["part missing"]
    found, named = symptoms_with(images - more)
    assert float((found.points[found.values.argmin()] - place).norm()) < 5
    assert named == ["part misplaced"]


def test_a_molecule_that_was_moved_was_not_docked(run):
    structures = run.decode(run.latents)
    assert symptoms._of_placement(run, structures) == []
    found = symptoms._of_placement(run, structures + torch.tensor([4.0, 0.0, 0.0]))
    assert names(found) == ["reference misplaced"] and "4.0 Å" in found[0].words
    assert "dock" in found[0].remedy


def test_a_motion_of_the_whole_and_deformed_helices_are_named(run, monkeypatch):
    frames = run.reference + torch.linspace(0, 5, 5)[:, None, None] * torch.eye(3)[0]
    monkeypatch.setattr(type(run), "traverse", lambda self, **_: frames)
    assert names(symptoms._of_motion(run)) == ["moves as a whole"]
    noise = torch.randn(20, *run.reference.shape, generator=torch.Generator().manual_seed(0))
    assert names(symptoms._of_geometry(run, run.reference + noise)) == ["helices deformed"]
    assert symptoms._of_geometry(run, run.reference[None]) == []


def test_a_component_that_follows_the_metadata_is_named(run, monkeypatch):
    known = run.components()

    def scores_of(values):
        pca = dataclasses.replace(known, scores=values[:, None].expand(-1, 8))
        monkeypatch.setattr(type(run), "components", lambda self: pca)
        return names(symptoms._of_metadata(run))

    particles = run.particles
    noise = torch.randn(96, generator=torch.Generator().manual_seed(1))
    assert scores_of(particles.ctf.defocus_u.log().float()) == ["follows the defocus"]
    assert scores_of(particles.rotations[:, 2, 0].float() ** 2 + 0.1 * noise) == [
        "follows the view"
    ]


def test_the_doctor_has_a_say(run, monkeypatch):
    run.__dict__["particles"] = dataclasses.replace(
        run.particles, rotations=run.particles.rotations.mT.contiguous()
    )
    monkeypatch.setattr(symptoms, "SEARCHED", 50)
    found = symptoms._of_doctor(run, moved=False)
    assert names(found) == ["transpose"] and "correlate" in found[0].words


@pytest.mark.parametrize(
    ("faults", "moved", "named"),
    [
        (("model orientation",), False, []),
        (("model orientation",), True, ["model orientation"]),
        (("hand", "model offset"), False, ["hand + model offset"]),
        ((), True, []),
    ],
)
def test_another_place_of_the_reference_counts_where_training_went_there(
    faults, moved, named, run, monkeypatch
):
    score = SimpleNamespace(mean=0.2)
    told = SimpleNamespace(faults=faults, winner=score, default=score)
    monkeypatch.setattr(symptoms, "diagnose", lambda *_, **__: told)
    assert names(symptoms._of_doctor(run, moved=moved)) == named


def test_what_the_run_says_of_particles_held_out_is_a_symptom(run):
    path = run.folder / "held_out.json"
    told = json.loads(path.read_text())
    for change, expected in (
        ({"collapsed": True}, ["collapsed"]),
        ({"collapsed": False, "verdict": "learns by heart"}, ["learns by heart"]),
        ({"collapsed": False, "verdict": "generalises"}, []),
    ):
        path.write_text(json.dumps(told | change))
        assert names(symptoms._of_held_out(run)) == expected
    path.unlink()
    assert symptoms._of_held_out(run) == []


def test_symptoms_are_found_of_a_run_of_nodes(train_briefly, tmp_path, monkeypatch):
    run = train_briefly(tmp_path / "nodes", preset="paper", steps=4, held_out=0.1)
    monkeypatch.setattr(symptoms, "SEARCHED", 50)
    assert {type(one) for one in symptoms_of(run)} <= {Symptom}
    atoms, nodes = other_reference(run, None, tmp_path)
    assert len(atoms) == len(nodes) == len(read_structure(tmp_path / "reference.cif"))
