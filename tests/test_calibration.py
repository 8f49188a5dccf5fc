"""Coverage of intervals, with and without errors that particles share."""

import math

import pytest
import torch
from tiny import Line

from cryostar_nb.calibration import coverage, errors_between, node_sd, posterior_scores
from cryostar_nb.posterior import Posterior


def normal_draws(count, draws, sd, generator, offset=0.0):
    """Draws of N(m, sd^2) around means that are N(offset, sd^2) off the truth 0."""
    means = offset + sd * torch.randn(count, 1, generator=generator)
    return means + sd * torch.randn(count, draws, generator=generator)


def test_honest_intervals_hold_the_truth_as_often_as_they_say(generator):
    drawn = normal_draws(4000, 50, 1.0, generator)
    held = coverage(drawn, torch.full((4000, 50), 0.02), torch.zeros(4000)).mean(0)
    torch.testing.assert_close(held, torch.tensor([0.5, 0.9, 0.95]), atol=0.02, rtol=0)


def test_errors_that_draws_lack_widen_the_intervals(generator):
    """Each particle is 1.5 off, too, which the draws of sd 1 do not know."""
    apart = 1.5 * torch.randn(4000, 1, generator=generator)
    drawn = normal_draws(4000, 50, 1.0, generator) + apart
    weights, truth = torch.full((4000, 50), 0.02), torch.zeros(4000)
    errors = 1.5 * torch.randn(3000, generator=generator)
    short = coverage(drawn, weights, truth).mean(0)
    assert short[1] < 0.7
    held = coverage(drawn, weights, truth, errors).mean(0)
    torch.testing.assert_close(held, torch.tensor([0.5, 0.9, 0.95]), atol=0.02, rtol=0)


def test_draws_that_are_all_the_same_have_the_errors_alone(generator):
    apart = 2 * torch.randn(4000, 1, generator=generator)
    drawn, weights = apart.expand(4000, 8), torch.full((4000, 8), 0.125)
    assert coverage(drawn, weights, torch.zeros(4000)).mean() < 0.01
    errors = torch.tensor([2.0, -2.0])
    held = coverage(drawn, weights, torch.zeros(4000), errors).mean(0)
    torch.testing.assert_close(held, torch.tensor([0.5, 0.9, 0.95]), atol=0.02, rtol=0)


def test_two_runs_tell_the_error_of_one(generator):
    true = torch.zeros(500, 6, 3)
    runs = [true + 0.4 * torch.randn(true.shape, generator=generator) for _ in range(2)]
    sd = node_sd(errors_between(*runs))
    torch.testing.assert_close(sd, torch.full((6,), 0.4 * math.sqrt(3)), rtol=0.05, atol=0)


@pytest.fixture
def along_x(generator):
    """A posterior of 800 particles on a line, 0.5 off and as wide, and their states."""
    states = torch.arange(800) % 9
    means = states + 0.5 * torch.randn(800, generator=generator)
    latents = means[:, None] + 0.5 * torch.randn(800, 60, generator=generator)
    weights = torch.full((800, 60), 1 / 60)
    told = Posterior(latents[..., None], weights, *(torch.ones(800) * v for v in (0.05, 40, 1, 0)))
    return told, states


def test_the_scores_of_a_posterior(along_x):
    told, states = along_x
    reference = torch.zeros(5, 3)
    true = reference + torch.arange(9.0)[:, None, None] * torch.tensor([1.0, 0, 0])
    scores = posterior_scores(Line(reference), told, true, states)
    assert scores["sd"] == pytest.approx(0.5, rel=0.1)
    assert scores["error_along"] == pytest.approx(0.5, rel=0.1)
    assert scores["rmsd_mean"] == pytest.approx(0.5 * math.sqrt(2 / math.pi), rel=0.15)
    assert scores["coverage_along"] == pytest.approx([0.5, 0.9, 0.95], abs=0.05)
    assert scores["silent"] == 1.0 and scores["effective"] == 40
    far = torch.zeros(20, 5, 3)
    far[:, :, 0] = 30.0
    wide = posterior_scores(Line(reference), told, true, states, far)
    assert wide["coverage_along_with_shared"] == [1, 1, 1]
    assert wide["coverage_along"] == scores["coverage_along"]
    assert wide["shared_sd"] == pytest.approx(30)
