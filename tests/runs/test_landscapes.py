"""The landscape of a run: clusters, populations and a path, on disk, in the page, in `select`."""

import dataclasses
import os
import re
import shutil
from pathlib import Path

import gemmi
import mdtraj
import numpy as np
import pytest
import torch
from refusals import refused

from cryostar_nb.io.options import Reading
from cryostar_nb.io.reading import read_particles
from cryostar_nb.runs.folder import open_run
from cryostar_nb.runs.landscapes import (
    Mapped,
    kept_clusters,
    landscape_of,
    make_map,
    path_between,
    populations_beside,
)
from cryostar_nb.runs.posteriors import infer
from cryostar_nb.runs.run_config import LandscapeConfig

DATA = Path(__file__).parents[2] / "data"
ALL = LandscapeConfig(clusters=3, quality=0.0)


@pytest.fixture(scope="module")
def finished(train_briefly, tmp_path_factory):
    """The folder of a short run whose posteriors were inferred."""
    folder = tmp_path_factory.mktemp("landscape") / "run"
    train_briefly(folder)
    infer(open_run(folder), draws=8)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return open_run(tmp_path / "run")


def test_what_is_written_fits_together(run):
    found = make_map(run, ALL)
    folder = run.folder / "landscape"
    table = np.loadtxt(folder / "clusters.csv", delimiter=",", skiprows=1, dtype=int)
    assert table[:, 0].tolist() == list(range(1, 97))
    assert np.array_equal(table[:, 1], found.clusters.labels) and set(table[:, 1]) == {1, 2, 3}
    for number in (1, 2, 3):
        model = gemmi.read_structure(str(folder / f"cluster_{number}.cif"))
        assert len(model) == 1 and model[0].count_atom_sites() == len(run.atoms)
    frames = mdtraj.load(str(folder / "path.xtc"), top=str(run.folder / "atoms.cif"))
    models = gemmi.read_structure(str(folder / "path.cif"))
    assert frames.n_frames == 21 and len(models) == 5
    last = np.array([list(cra.atom.pos) for cra in models[4].all()])
    np.testing.assert_allclose(last, 10 * frames.xyz[-1], atol=0.01)
    populations = np.genfromtxt(folder / "landscape.csv", delimiter=",", names=True)
    assert populations["population"].sum() == pytest.approx(1, abs=1e-4)
    assert populations["displacement"][0] == 0 and populations["energy"].min() == 0
    assert sorted(found.files) == sorted(
        p.name for p in folder.iterdir() if p.suffix not in (".npy", ".json")
    )


def test_what_is_kept_is_what_was_found_until_there_is_more_training(run):
    assert run.mapped is None
    found = make_map(run, ALL, [run])
    again = open_run(run.folder).mapped
    assert again.words() == found.words() and again.path == found.path
    for name, values in vars(found.landscape).items():
        assert torch.equal(torch.as_tensor(values), torch.as_tensor(getattr(again.landscape, name)))
    newer = (run.folder / "landscape" / "clusters.npy").stat().st_mtime + 100
    os.utime(run.folder / "checkpoint.pt", (newer, newer))
    assert Mapped.kept_of(run) is None
    with refused("run"):
        kept_clusters(run)


def test_another_choice_leaves_nothing_of_the_one_before(run):
    make_map(run, ALL)
    (run.folder / "landscape" / "notes.txt").write_text("mine")
    make_map(run, LandscapeConfig(clusters=1, populations=False))
    names = {p.name for p in (run.folder / "landscape").iterdir()}
    kept = {"clusters.npy", "clusters.csv", "cluster_1.cif", "landscape.json"}
    assert names == kept | {"notes.txt"}
    assert run.mapped.landscape is None and run.mapped.path is None


def test_the_landscape_is_of_the_good_particles_along_the_component_that_is_asked_for(run):
    found = run.landscape(quality=0.0, bins=4)
    assert found.particles == 96 and len(found.populations) == 4
    scores = run.components().scores[:, 0].double()
    inside = torch.bucketize(scores, found.edges[1:-1].contiguous()).bincount(minlength=4)
    torch.testing.assert_close(found.bare, inside / 96.0, check_dtype=False)
    assert not torch.equal(run.landscape(pc=2, quality=0.0, bins=4).edges, found.edges)
    good = np.sort(run.quality)[-70]
    assert run.landscape(quality=float(good), bins=4).particles == int((run.quality >= good).sum())


def test_a_run_beside_it_that_says_the_same_adds_hardly_an_error(run, tmp_path):
    alone = run.landscape(quality=0.0, bins=4)
    shutil.copytree(run.folder, tmp_path / "same")
    same = run.landscape([open_run(tmp_path / "same")], quality=0.0, bins=4)
    assert alone.others is None and same.others.shape == (1, 4)
    torch.testing.assert_close(same.others[0], same.populations, atol=0.1, rtol=0)
    assert float((same.errors / alone.errors).max()) < 3
    assert torch.equal(same.populations, alone.populations)


def test_a_component_that_leads_the_other_way_is_turned_round(run, monkeypatch):
    """The same run, with its populations mirrored, as one from the other end has them."""
    found = run.landscape(quality=0.0, bins=4)
    other = open_run(run.folder)
    ahead = populations_beside(run, found.edges, other, LandscapeConfig(quality=0.0))
    pca = other.components()
    turned = dataclasses.replace(pca, components=-pca.components, scores=-pca.scores)
    monkeypatch.setattr(type(other), "components", lambda self: turned if self is other else pca)
    back = populations_beside(run, found.edges, other, LandscapeConfig(quality=0.0))
    torch.testing.assert_close(back, ahead, atol=0.05, rtol=0)
    assert float((back - back.flip(0)).abs().max()) > 0.05  # which a mirror image would not pass


def test_the_component_of_another_run_is_that_of_the_same_motion(run, monkeypatch):
    """The same run, with its first two components exchanged, says the same of the first."""
    found = run.landscape(quality=0.0, bins=4)
    other = open_run(run.folder)
    ahead = populations_beside(run, found.edges, other, LandscapeConfig(quality=0.0))
    pca, order = other.components(), [1, 0, *range(2, 8)]
    swapped = dataclasses.replace(
        pca, components=pca.components[order], scores=pca.scores[:, order]
    )
    monkeypatch.setattr(type(other), "components", lambda self: swapped if self is other else pca)
    again = populations_beside(run, found.edges, other, LandscapeConfig(quality=0.0))
    torch.testing.assert_close(again, ahead)


def test_runs_of_two_molecules_are_refused(run):
    other = open_run(run.folder)
    other.nodes.chains[:] = "other"
    with refused("run", value=0):
        run.landscape([other], quality=0.0)


def test_what_cannot_be_found_is_refused(run):
    with refused(value=99):
        landscape_of(run, LandscapeConfig(pc=99))
    run.__dict__["quality"] = np.zeros(96)
    with refused("run", value=0):
        landscape_of(run, LandscapeConfig(quality=0.9))
    with refused(value=97):
        make_map(run, LandscapeConfig(clusters=97, quality=0.0))
    with refused(value=4):
        make_map(run, LandscapeConfig(clusters=3, between=(1, 4), populations=False))
    with refused(value=2):
        make_map(run, LandscapeConfig(clusters=3, between=(2, 2), populations=False))
    with refused("run", value=96):
        path_between(run, 0, 96)
    with refused(value=5):
        path_between(run, 5, 5)
    assert not (run.folder / "landscape").exists()


def test_without_a_posterior_the_remedy_is_to_infer(run):
    shutil.rmtree(run.folder / "posterior")
    with refused("run") as caught:
        run.landscape()
    assert f"cryostar-nb infer {run.folder}" in caught.value.remedy
    assert run.clusters(2).count == 2  # which needs none


def test_a_run_beside_it_without_a_posterior_is_refused_before_anything_is_done(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "posterior")
    with refused("other") as caught:
        run.landscape([open_run(tmp_path / "other")], quality=0.0)
    assert f"cryostar-nb infer {tmp_path / 'other'}" in caught.value.remedy
    assert not (tmp_path / "other" / "posterior").exists()


def test_the_shell_maps_and_the_particles_of_a_cluster_are_chosen(run, tmp_path, shell):
    before = shell(f"select {run.folder} --cluster 1 --out {tmp_path}/a.star")
    assert before.code == 2 and f"cryostar-nb landscape {run.folder}" in before.error
    beside = f"--between 3 1 --beside {run.folder}"
    answer = shell(f"landscape {run.folder} --clusters 3 --quality 0 {beside}")
    assert "errors hold what 1 more training says" in answer.out
    assert open_run(run.folder).mapped.landscape.others.shape[0] == 1
    assert answer.code == 0 and "3 clusters" in answer.out, answer
    assert "from cluster 3 to cluster 1" in answer.out and "path.xtc" in answer.out
    rows = run.clusters(3).rows(2)
    answer = shell(f"select {run.folder} --cluster 2 --out {tmp_path}/two.star")
    assert f"{len(rows)} of 96 particles" in answer.out
    every = run.particles
    root = Reading(root=every.source.parent)
    chosen = read_particles(tmp_path / "two.star", root)
    assert chosen.image_in_stack.tolist() == every.image_in_stack[rows].tolist()
    assert shell(f"select {run.folder} --cluster 4 --out {tmp_path}/four.star").code == 2


def test_the_report_shows_clusters_and_landscape_once_they_are_there(run):
    page = run.report().read_text()
    assert "Clusters and landscape" not in page
    found = make_map(run, ALL, [run])
    page = run.report().read_text()
    section = re.search("Clusters and landscape.*?</section>", page, re.DOTALL).group()
    assert section.count("data:image/png") == 2 and found.words()[-1][1:] in section
    make_map(run, dataclasses.replace(ALL, populations=False))
    section = run.report().read_text().split("Clusters and landscape")[1].split("</section>")[0]
    assert section.count("data:image/png") == 1
