"""Figures show the numbers that they are given, each curve in a colour of its own."""

import dataclasses

import numpy as np
import pytest

from cryostar_nb.evaluation import ErrorPerState
from cryostar_nb.pages import figures, landscape_figures, views


def test_rmsd_takes_evaluations_and_doing_nothing_is_grey():
    score = ErrorPerState(1.5, 2.0, [1.0, 2.0], [0.1, 0.2], 1.0, 1.5, 0.5)
    idle = ErrorPerState(3.5, 4.0, [3.0, 4.0], [0.0, 0.0], 3.0, 3.5, 2.5)
    ax = figures.rmsd({"this run": score, "doing nothing": idle}).axes[0]
    run, nothing = ax.lines
    np.testing.assert_array_equal(run.get_ydata(), [1.0, 2.0])
    np.testing.assert_array_equal(nothing.get_ydata(), [3.0, 4.0])
    assert nothing.get_color() == figures.COLOURS["doing nothing"] != run.get_color()
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.9, 2.2))


@pytest.mark.parametrize(("pixel_size", "label"), [(1.0, "50 Å"), (0.5, "20 Å"), (4.25, "200 Å")])
def test_a_scale_bar_is_as_long_as_it_says(pixel_size, label):
    first, second = figures.images(np.zeros((2, 128, 128)), pixel_size=pixel_size).axes
    (bar,) = first.lines
    assert [text.get_text() for text in first.texts] == [label]
    assert np.ptp(bar.get_xdata()) * pixel_size == pytest.approx(float(label.split()[0]))
    assert not second.lines


def test_images_keep_their_order_and_can_share_a_scale():
    pictures = [np.full((3, 3), value) for value in (1.0, 2.0, 3.0)]
    figure = figures.images(pictures, ["a", "b", "c"], columns=2, same_scale=True)
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c"]
    assert {ax.images[0].get_clim() for ax in figure.axes} == {(1.0, 3.0)}


def test_losses_of_particles_held_out_are_dots_where_they_were_measured():
    metrics = {"step": [1.0, 2.0, 3.0], "image": [-0.1, -0.2, -0.3]}
    (line,) = figures.training(metrics).axes[0].lines
    np.testing.assert_array_equal(line.get_ydata(), metrics["image"])
    metrics |= {"held_out": [np.nan, np.nan, -0.2], "trained": [np.nan, np.nan, -0.4]}
    dots = {line.get_label(): line for line in figures.training(metrics).axes[0].lines}
    assert set(dots) == {"batch", "trained", "held out"}
    np.testing.assert_array_equal(dots["held out"].get_ydata(), metrics["held_out"])
    assert dots["held out"].get_color() != dots["trained"].get_color()
    assert dots["held out"].get_linestyle() == "None"


def test_an_axis_of_detail_has_ticks_that_do_not_touch():
    frequencies = np.linspace(0.01, 0.25, 50)
    ax = figures.correlations(frequencies, {"a": np.ones(50)}).axes[0]
    ticks = ax.get_xticks()
    assert (np.diff(ticks) > 0.06 * 0.25).all() and ticks[-1] == 0.25
    assert [text.get_text() for text in ax.get_xticklabels()][-1] == "4"


def test_latents_are_drawn_with_their_marks(rng):
    figure = figures.latents(rng.normal(size=(50, 3)), [0.6, 0.3, 0.1], {"5 %": (-1.0, 0.0)})
    ax = figure.axes[0]
    assert (ax.get_xlabel(), ax.texts[0].get_text()) == ("PC1 (60 % of variance)", "5 %")


def test_arrows_go_where_something_moves(rng):
    starts = rng.normal(size=(4, 3))
    ends = starts + np.array([[0.0, 0, 0], [0.5, 0, 0], [2, 0, 0], [0, 3, 0]])
    text = views.arrows(starts, ends)._make_html()
    assert text.count(".addArrow(") == 2 and f'"y": {ends[3, 1]:.2f}'.rstrip("0") in text
    assert views.arrows(starts, ends, shortest=0)._make_html().count(".addArrow(") == 4


def test_views_hold_what_they_show(run):
    frames = run.traverse(frames=3)
    text = views.structure(run.nodes, frames, ghost=run.reference)._make_html()
    assert text.count("MODEL ") >= 3 and "backAndForth" in text
    moved = {"moved": (frames[-1], run.reference, np.arange(len(run.nodes)) < 3)}
    assert "moved" in views.side_by_side(run.nodes, moved)._make_html()
    turn, rise = np.deg2rad(100) * np.arange(len(run.nodes)), 1.5 * np.arange(len(run.nodes))
    helix = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), rise], axis=-1)
    assert "HELIX" in views._ribbon_text(dataclasses.replace(run.nodes, positions=helix), helix)
    volume = np.zeros((4, 4, 6))
    volume[2, 2, 3] = 1.0  # the centre
    cube = views._cube_text(volume, 2.0).splitlines()
    corner = np.array(cube[2].split()[1:], dtype=float) * views.BOHR
    np.testing.assert_allclose(corner, [-6.0, -4.0, -4.0], atol=1e-5)
    values = np.array(cube[-1].split(), dtype=float).reshape(6, 4, 4)  # x is the slowest
    assert values[3, 2, 2] == values.sum() == 1.0


def test_certainty_is_drawn_residue_by_residue_and_chain_by_chain():
    sds = np.array([0.1, 0.2, 0.6, 0.3])
    ax = figures.certainty(sds, np.array(["A", "A", "B", "B"])).axes[0]
    assert ax.get_ylim()[1] > 0.6
    assert [line.get_xdata()[0] for line in ax.lines] == [2.5]


def test_a_coloured_view_has_the_values_as_b_factors(run):
    values = np.linspace(0.5, 2.5, len(run.nodes))
    text = views.coloured(run.nodes, run.reference, values)._make_html()
    assert '"prop": "b"' in text and '"min": 2.5' in text and '"max": 0.5' in text
    assert f"{values[1]:6.2f}" in text


def test_clusters_have_a_colour_each_and_what_is_in_none_is_grey(rng):
    scores, labels = rng.normal(size=(60, 3)), np.repeat([0, 1, 2], 20)
    first, second = landscape_figures.clusters(scores, labels, [0.7, 0.2, 0.1]).axes
    assert [line.get_label() for line in first.lines] == ["in none", "cluster 1", "cluster 2"]
    assert len({line.get_color() for line in first.lines}) == 3
    assert first.lines[0].get_color() == landscape_figures.NONE
    np.testing.assert_array_equal(second.lines[2].get_ydata(), scores[40:, 2])
    assert second.get_ylabel().startswith("PC3 (10 %")
    only_two = landscape_figures.clusters(scores[:, :2], labels, [0.8, 0.2])
    assert len(only_two.axes) == 1


def test_populations_have_error_bars_and_the_bare_histogram_beside_them():
    values, sds = np.array([0.2, 0.3, 0.5]), np.array([0.01, 0.02, 0.03])
    bare, scores = (np.array([0.3, 0.3, 0.4]), sds), np.array([-1.0, 0.0, 1.0])
    figure = landscape_figures.populations(
        np.arange(3.0), (values, sds), bare, (values, sds), scores
    )
    left, right = figure.axes[:2]
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["histogram of latent means", "by the posteriors"]
    ends = left.containers[1].lines[2][0].get_segments()
    np.testing.assert_allclose(
        [end[:, 1].tolist() for end in ends], np.c_[values - sds, values + sds]
    )
    assert "kT" in right.get_ylabel()
