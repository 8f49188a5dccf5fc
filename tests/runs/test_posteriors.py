"""The posteriors of a run: kept on disk, gone on with, and compared with other runs."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import gemmi
import mdtraj
import numpy as np
import pytest
import torch
from refusals import refused

from cryostar_nb.calibration import node_sd
from cryostar_nb.cli import main
from cryostar_nb.latents import around_percentiles
from cryostar_nb.posterior import Inference, Posterior
from cryostar_nb.runs import posteriors
from cryostar_nb.runs.folder import open_run
from cryostar_nb.runs.posteriors import compare_runs, infer, model_errors

DATA = Path(__file__).parents[2] / "data"
COUNT, DRAWS = 96, 8


@pytest.fixture(scope="module")
def finished(train_briefly, tmp_path_factory):
    """The folder of a short run whose posteriors were inferred."""
    folder = tmp_path_factory.mktemp("posterior") / "run"
    train_briefly(folder)
    infer(open_run(folder), draws=DRAWS)
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return open_run(tmp_path / "run")


@pytest.fixture
def counted(monkeypatch):
    """How many particles are inferred from now on."""
    seen = []
    real = Inference.infer

    def count(self, data, *arguments, **options):
        seen.append(len(data))
        return real(self, data, *arguments, **options)

    monkeypatch.setattr(Inference, "infer", count)
    return seen


def test_what_is_kept_of_every_particle(finished):
    with np.load(finished / "posterior" / "posterior.npz") as arrays:
        assert set(arrays.files) == set(Posterior._fields)
        assert arrays["latents"].shape == (COUNT, DRAWS, 8)
        np.testing.assert_allclose(arrays["weights"].sum(1), 1, rtol=1e-5)
        for name in ("information", "effective", "near_encoder", "spread"):
            assert arrays[name].shape == (COUNT,) and np.isfinite(arrays[name]).all()
        assert (arrays["effective"] >= 1).all() and (arrays["effective"] <= DRAWS + 1e-3).all()
    assert sorted(p.name for p in (finished / "posterior").iterdir()) == [
        "inference.pt",
        "posterior.npz",
    ]


def test_what_was_found_is_not_found_again(copy, counted):
    told = copy.posterior()
    assert not counted and told.weights.shape == (COUNT, DRAWS)
    mean, sd = told.part(slice(0, 5)).structures(copy.model.decoder)
    assert mean.shape == (5, 214, 3) and sd.shape == (5, 214)
    torch.testing.assert_close(sd.square().mean(-1).sqrt(), told.spread[:5], rtol=0.01, atol=1e-3)


def test_after_more_training_it_is_found_anew_and_progress_is_shown(copy, counted, capsys):
    newer = (copy.folder / "latents.npy").stat().st_mtime + 100
    for name in ("checkpoint.pt", "latents.npy", "quality.npy"):
        os.utime(copy.folder / name, (newer, newer))
    copy.posterior()
    assert sum(counted) > COUNT  # to learn the prior, too
    shown = capsys.readouterr().err
    assert f"learning noise and prior: 100%|██████████| {4 * COUNT}/{4 * COUNT}" in shown
    assert f"inferring: 100%|██████████| {COUNT}/{COUNT}" in shown


def test_an_interrupted_inference_goes_on(copy, monkeypatch, counted):
    """Parts that are done stay, and the end is that of an inference in one go."""
    before = copy.posterior()
    (copy.folder / "posterior" / "posterior.npz").unlink()
    monkeypatch.setattr(posteriors, "PART", 32)
    whole = infer(copy, draws=DRAWS).posterior
    (copy.folder / "posterior" / "posterior.npz").unlink()
    counted.clear()
    real, calls = posteriors.Inference.infer, []

    def stop(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    monkeypatch.setattr(Inference, "infer", stop)
    with pytest.raises(KeyboardInterrupt):
        infer(copy, draws=DRAWS)
    assert len(list((copy.folder / "posterior").glob("part_*.npz"))) == 2
    monkeypatch.setattr(Inference, "infer", real)
    counted.clear()
    resumed = infer(copy, draws=DRAWS).posterior
    assert sum(counted) == 32
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert not list((copy.folder / "posterior").glob("part_*.npz"))
    assert before.weights.shape == whole.weights.shape


def test_parts_of_other_draws_are_not_taken(copy, monkeypatch, counted):
    monkeypatch.setattr(posteriors, "PART", 64)
    path = copy.folder / "posterior" / "part_000000000.npz"
    with np.load(copy.folder / "posterior" / "posterior.npz") as arrays:
        first = {name: arrays[name][:64] for name in arrays.files}
    np.savez(path, about=str(copy.particles.source), **first)
    infer(copy, draws=DRAWS + 1)
    assert sum(counted) == COUNT


def test_other_particles_get_a_folder_of_their_own(copy, tmp_path):
    others = copy.particles[np.arange(10)]
    with refused("particles.star"):
        infer(copy, others)
    found = infer(copy, others, tmp_path / "others", draws=DRAWS)
    assert found.posterior.weights.shape == (10, DRAWS)
    assert (tmp_path / "others" / "posterior.npz").exists()
    assert any("10 particles" in line for line in found.words())
    (copy.folder / "posterior" / "posterior.npz").unlink()
    assert copy.node_sd() is None and copy.certainty == []  # its own have not been inferred


def test_other_particles_of_another_box_are_refused(copy):
    with refused("particles.star", value="48 x 4"):
        copy.posterior(dataclasses.replace(copy.particles, box_size=48))


def test_an_evaluation_tells_of_the_posterior_once_there_is_one(copy, particles):
    score = copy.evaluate(particles / "truth.npz")
    assert score.posterior["rmsd_mean"] > 0 and len(score.posterior["coverage_along"]) == 3
    written = json.loads((copy.folder / "evaluation.json").read_text())
    assert written["posterior"]["rmsd_mean"] == score.posterior["rmsd_mean"]
    new = copy.evaluate(particles / "truth.npz", particles / "particles.star")
    assert new.posterior is not None
    shutil.rmtree(copy.folder / "posterior")
    assert copy.evaluate(particles / "truth.npz").posterior is None


def test_other_runs_tell_of_errors_that_particles_share(copy, particles, train_briefly, tmp_path):
    assert model_errors(copy) is None
    other = train_briefly(tmp_path / "other", "4ake.pdb")
    errors = compare_runs(copy, [other])
    assert errors.shape == (COUNT, 214, 3) and errors.abs().max() > 0.1
    assert torch.equal(model_errors(copy), errors)
    score = copy.evaluate(particles / "truth.npz").posterior
    assert score["shared_sd"] > 0
    wider = zip(score["coverage_along_with_shared"], score["coverage_along"], strict=True)
    assert all(with_shared >= alone for with_shared, alone in wider)


def test_a_run_beside_itself_shares_nothing(copy):
    assert compare_runs(copy, [copy]).abs().max() < 0.6  # other draws; nothing else differs


def test_the_shell_infers(finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished, tmp_path / "run")
    words = ["cryostar-nb", "infer", str(tmp_path / "run"), "--draws", "8"]
    monkeypatch.setattr("sys.argv", words)
    main()
    said = capsys.readouterr().out
    assert "96 particles, 8 draws each" in said and "say nothing" in said


def test_certainty_is_told_once_it_is_known(copy, train_briefly, tmp_path):
    assert copy.node_sd(torch.arange(5)).shape == (214,)
    told = copy.posterior().part(torch.arange(5)).structures(copy.model.decoder)[1]
    expected = told.square().mean(0).sqrt()
    torch.testing.assert_close(copy.node_sd(torch.arange(5)), expected)
    other = train_briefly(tmp_path / "other", "4ake.pdb")
    compare_runs(copy, [other])
    shared = node_sd(model_errors(copy))
    both = (expected.square() + shared.square()).sqrt()
    torch.testing.assert_close(copy.node_sd(torch.arange(5)), both)
    shutil.rmtree(copy.folder / "posterior")
    assert copy.node_sd() is None and copy.certainty == []


def test_the_report_says_how_sure_it_is(copy):
    page = copy.report().read_text()
    assert "How sure?" in page and "say nothing" in page
    atoms = gemmi.read_structure(str(copy.folder / "atoms_pc1.cif"))
    first = np.array([cra.atom.b_iso for cra in atoms[0].all()])
    rows = around_percentiles(copy.components().scores[:, 0], torch.tensor([5.0]))[0]
    sd = copy.node_sd(rows).numpy()
    by_residue = np.array([residue[0].b_iso for residue in atoms[0][0]])
    np.testing.assert_allclose(by_residue, 8 * np.pi**2 / 3 * sd**2, rtol=1e-2, atol=5e-3)
    assert len(first) == len(copy.atoms)
    frames = mdtraj.load(str(copy.folder / "atoms_pc1.xtc"), top=str(copy.folder / "atoms.cif"))
    assert frames.n_frames == 21
    shutil.rmtree(copy.folder / "posterior")
    assert "How sure?" not in copy.report().read_text()
