"""Populations by posteriors whose truth is known, beside the histogram of one value for each."""

import functools

import numpy as np
import pytest
import torch

from cryostar_nb import landscape
from cryostar_nb.landscape import Landscape, bootstrap, make_landscape, populations
from cryostar_nb.mixture import Mixture
from cryostar_nb.score_likelihoods import Likelihoods, resolved_bins, span

COUNT, NOISE, DRAWS = 2000, 0.15, 48


def mixture(means, sd, weights):
    """A mixture in one dimension."""
    means, weights = (torch.tensor(v, dtype=torch.float64) for v in (means, weights))
    factors = torch.full((len(means), 1, 1), 1 / sd, dtype=torch.float64)
    return Mixture(weights, means[:, None], factors)


def mass_below(of, points):
    """How much of a mixture in one dimension lies below some points."""
    return torch.special.ndtr((points[:, None] - of.means[:, 0]) * of.factors[:, 0, 0]) @ of.weights


def once(count):
    """Every particle counts once; sixty steps."""
    return torch.ones(1, count, dtype=torch.float64), torch.tensor([60])


TRUTH = mixture([0.2, 0.8], 0.07, [0.2, 0.8])
PRIOR = mixture([0.2, 0.8], 0.09, [0.35, 0.65])  # near the truth, as one that was learned


def observe(seed, count=COUNT, noise=NOISE, truth=TRUTH, prior=PRIOR, draws=DRAWS):
    """True scores, those with the noise of an image, and draws from the posterior of each."""
    generator = torch.Generator().manual_seed(seed)
    true = truth.draw(count, generator)[:, 0]
    measured = true + noise * torch.randn(count, generator=generator, dtype=torch.float64)
    precision = torch.full((count, 1, 1), noise**-2, dtype=torch.float64)
    posterior = prior.times_gaussian(measured[:, None] * noise**-2, precision)
    drawn = posterior.draw(draws, generator)[..., 0]
    return true, measured, drawn, torch.full((count, draws), 1 / draws, dtype=torch.float64)


@functools.cache
def found_for(seed, bins=None, **changes):
    """The landscape of such particles, and the share of the truth in each of its bins."""
    _, measured, drawn, weights = observe(seed, **changes)
    prior = changes.get("prior", PRIOR)
    likelihoods, ends = Likelihoods.of(drawn, weights, prior), span(drawn, weights)
    count = bins or resolved_bins(likelihoods.sds, ends)
    edges = torch.linspace(*ends, count + 1, dtype=torch.float64)
    displacement = edges[:-1] - edges[0]
    found = make_landscape(likelihoods, measured, edges=edges, displacement=displacement)
    below = mass_below(changes.get("truth", TRUTH), edges[1:-1])
    return found, torch.cat([torch.zeros(1), below, torch.ones(1)]).double().diff()


def test_populations_are_nearer_to_the_truth_than_the_bare_histogram():
    found, truth = found_for(1)
    off, bare_off = ((values - truth).abs() for values in (found.populations, found.bare))
    assert float(off.sum()) < 0.4 * float(bare_off.sum())
    assert float((bare_off / found.bare_errors).max()) > 5  # biased by more than its error
    assert float((off / found.errors).square().mean().sqrt()) < 2


def test_two_states_are_found_with_their_shares():
    found, _ = found_for(1)
    first, last = found.states()
    assert first.high == last.low and 0.3 < first.high < 0.7
    assert first.share == pytest.approx(0.2, abs=3 * first.error) and 0.005 < first.error < 0.02
    assert first.share + last.share == pytest.approx(1)
    assert last.share == pytest.approx(found.share_above(first.high)[0])
    assert any("2 states with a valley" in line for line in found.words())


def test_one_state_has_no_valley():
    truth = mixture([0.5], 0.2, [1.0])
    found, _ = found_for(2, truth=truth, prior=mixture([0.5], 0.25, [1.0]))
    (state,) = found.states()
    assert state.share == pytest.approx(1) and "one state" in found.words()[-1]


def test_errors_cover_the_truth_as_often_as_they_say(monkeypatch):
    """Of shares, in repeated data sets: within one sd 68, within two 95 of a hundred."""
    monkeypatch.setattr(landscape, "SAMPLES", 25)
    off = []
    for seed in range(20):
        found, _ = found_for(100 + seed, bins=6, count=600)
        share, error = found.share_above(0.5)
        off.append(abs(share - 0.8) / error)
    assert 0.45 <= np.mean(np.array(off) < 1) <= 0.95 and np.mean(np.array(off) < 2) >= 0.85


def test_the_order_of_particles_does_not_matter(generator):
    _, _, drawn, weights = observe(3, count=400)
    edges = torch.linspace(0, 1, 9, dtype=torch.float64)
    order = torch.randperm(400, generator=generator)
    found = []
    for rows in (torch.arange(400), order):
        likelihoods = Likelihoods.of(drawn[rows], weights[rows], PRIOR)
        start = likelihoods.prior_of_bins(edges)
        found.append(populations(likelihoods.of_bins(edges), start, *once(400))[0])
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-10)


def test_images_without_noise_are_counted(generator):
    likelihoods = torch.eye(3).double()[torch.tensor([0] * 50 + [1] * 30 + [2] * 20)]
    start = torch.full((3,), 1 / 3, dtype=torch.float64)
    found = populations(likelihoods, start, *once(100))
    expected = (torch.tensor([[50.0, 30.0, 20.0]]).double() + 0.5 * start) / 100.5
    torch.testing.assert_close(found, expected)
    errors = bootstrap(likelihoods, start, 60, samples=400).std(0)
    torch.testing.assert_close(
        errors, (expected * (1 - expected) / 100).sqrt()[0], rtol=0.1, atol=0
    )


def test_images_that_say_nothing_leave_the_prior():
    likelihoods, start = torch.ones(50, 4).double(), torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    found = populations(likelihoods, start, *once(50))[0]
    torch.testing.assert_close(found, start)


def test_a_likelihood_is_that_of_the_noise():
    """N(y, s^2), whatever the prior: its sd, and its ratio between two bins."""
    _, measured, drawn, weights = observe(4, count=300, draws=4000)
    found = Likelihoods.of(drawn, weights, PRIOR)
    torch.testing.assert_close(found.sds.median().item(), NOISE, rtol=0.05, atol=0)
    edges = torch.tensor([-1.0, 0.19, 0.21, 0.79, 0.81, 2.0], dtype=torch.float64)
    at = found.of_bins(edges)
    expected = ((measured - 0.2).square() - (measured - 0.8).square()) / (2 * NOISE**2)
    some = expected.abs() < 6
    assert some.sum() > 50
    off = (at[:, 3] / at[:, 1]).log() - expected
    assert float(off[some].abs().median()) < 0.15


def test_fewer_and_noisier_particles_get_fewer_bins():
    sds, ends = torch.full((50_000,), 0.1).double(), (0.0, 1.0)
    counts = [
        resolved_bins(values, ends) for values in (sds / 10, sds, sds[:2000], 3 * sds, 1e3 * sds)
    ]
    assert counts == sorted(counts, reverse=True) and counts[0] == 24 and counts[-1] == 2
    assert counts[1] > counts[2] > 2
    silent = torch.full((50_000,), torch.inf).double()
    assert resolved_bins(torch.cat([sds, silent]), ends) == counts[1]


def test_the_mass_of_a_line_through_a_mixture_is_that_of_its_draws(generator):
    both = Mixture.fit(
        torch.randn(500, 2, generator=generator, dtype=torch.float64)
        * torch.tensor([1.0, 3.0]).double(),
        torch.ones(500).double(),
        3,
    )
    slope = torch.tensor([0.5, -1.0], dtype=torch.float64)
    line = both.along(slope, 2.0)
    drawn = both.draw(200_000, generator) @ slope + 2
    points = torch.tensor([-2.0, 1.0, 4.0], dtype=torch.float64)
    share = torch.stack([(drawn < point).double().mean() for point in points])
    torch.testing.assert_close(mass_below(line, points), share, atol=0.005, rtol=0)


def test_energies_are_logarithms_with_the_errors_of_the_bootstrap():
    samples = torch.tensor([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1]], dtype=torch.float64)
    middle = torch.tensor([0.65, 0.25, 0.1], dtype=torch.float64)
    edges, zeros = torch.linspace(0, 3, 4).double(), torch.zeros(3).double()
    found = Landscape(edges, zeros, middle, samples, zeros, 100)
    assert found.energies.tolist() == pytest.approx([0, np.log(2.6), np.log(6.5)])
    ratios = np.log([0.6 / 0.3, 0.7 / 0.2]).std(ddof=1), np.log([6.0, 7.0]).std(ddof=1)
    assert found.energy_errors.tolist() == pytest.approx([0, *ratios])
    share, error = found.share_above(1.5)
    assert share == pytest.approx(0.125 + 0.1)
    scatter = (samples @ torch.tensor([0, 0.5, 1]).double()).var()
    assert error**2 == pytest.approx(float(scatter) + 0.25**2 / 4)  # a bin is cut in two
    assert found.share_above(2.0)[1] == pytest.approx(0, abs=1e-9)  # between two bins
    assert found.share_above(-1)[0] == pytest.approx(1) and found.share_above(9)[0] == 0


def test_what_other_trainings_say_is_in_the_errors():
    """Half of the mean squared difference, beside the variance of the bootstrap."""
    samples = torch.tensor([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1]], dtype=torch.float64)
    middle = torch.tensor([0.65, 0.25, 0.1], dtype=torch.float64)
    others = torch.tensor([[0.55, 0.35, 0.1], [0.65, 0.15, 0.2]], dtype=torch.float64)
    edges, zeros = torch.linspace(0, 3, 4).double(), torch.zeros(3).double()
    found = Landscape(edges, zeros, middle, samples, zeros, 100, others)
    squares = np.array([0.1**2 / 2, 0.1**2, 0.1**2 / 2]) / 2
    assert found.errors.numpy() == pytest.approx(np.sqrt(samples.var(0).numpy() + squares))
    share, error = found.share_above(2.0)
    assert share == pytest.approx(0.1) and error == pytest.approx(0.1 / 2)
    energies = [np.log(p[0] / p[2]) - np.log(6.5) for p in ((0.55, 0, 0.1), (0.65, 0, 0.2))]
    alone = np.log([6.0, 7.0]).var(ddof=1)
    expected = np.sqrt(alone + np.square(energies).mean() / 2)
    assert float(found.energy_errors[2]) == pytest.approx(expected)
    assert found.energy_errors[0] == 0
