"""Poses that are corrected: errors that are known are found, and right poses stay."""

import dataclasses
import math

import pytest
import torch
from tiny import BAND, SIZES

from cryostar_nb.ctf import ctf_terms
from cryostar_nb.density import node_density
from cryostar_nb.encoders import ImageEncoder
from cryostar_nb.geometry import random_rotations, rotations_from_vectors
from cryostar_nb.models import CartesianDecoder, DeformationVAE
from cryostar_nb.poses import WIDEST, Corrections, correct, corrected, prior_widths, refine_new
from cryostar_nb.training import TrainingData

DEGREE = math.pi / 180


@pytest.fixture
def nodes(make_nodes, rng):
    """Sixty nodes without any symmetry, 12 Å off the origin."""
    return make_nodes(rng.normal([8, -8, 4], 8, (60, 3)))


@pytest.fixture
def density(nodes):
    return node_density(nodes, 2.0)


@pytest.fixture
def network(nodes):
    """A network whose every structure is the true one."""
    decoder = CartesianDecoder(torch.from_numpy(nodes.positions).float(), SIZES)
    network = DeformationVAE(ImageEncoder(BAND, SIZES), decoder).eval()
    for values in network.parameters():
        values.data.zero_()
    return network


@pytest.fixture
def centre(network):
    return network.decoder.reference.mean(0)


@pytest.fixture
def make_particles(network, density, centre, rng, generator):
    """Particles whose given poses are off: what training is told of them, and the corrections.

    `signal` is the length of a noiseless image, in standard deviations of the noise.
    """

    def make(count, turn=3.0, move=1.5, signal=80.0, junk=0):
        given = torch.from_numpy(random_rotations(count, rng)).float()
        errors = torch.randn(count, 5, generator=generator)
        values = errors * torch.tensor([turn * DEGREE] * 3 + [move] * 2)
        rotations, shifts = corrected(given, values, centre)
        images = density.images(network.decoder.reference, BAND, rotations=rotations, shifts=shifts)
        contrast = 0.75 + 0.5 * torch.rand(count, 1, generator=generator)
        contrast[:junk] = 0
        images = signal * contrast * images / images.norm(dim=-1).mean()
        images = images + torch.randn(images.shape, generator=generator)
        data = TrainingData(images, given, looks=images, shifts=torch.zeros(count, 2))
        return dataclasses.replace(data, looks=data.vectors), values

    return make


@pytest.fixture
def go(network, density):
    """Correct the poses of particles, so many times."""

    def rounds(corrections, data, count, **options):
        for _ in range(count):
            data = corrections.applied_to(data)
            corrections = correct(corrections, data, network, density=density, band=BAND, **options)
        return corrections

    return rounds


def rms(values):
    """Of rotations, in degrees about each axis, and of shifts, in Å along each."""
    turn, move = values[:, :3], values[:, 3:]
    return float(turn.square().mean().sqrt()) / DEGREE, float(move.square().mean().sqrt())


# What a correction means


def test_a_turn_keeps_the_centre_of_the_molecule(centre, rng, generator):
    given = torch.from_numpy(random_rotations(20, rng))
    values = torch.randn(20, 5, generator=generator).double()
    rotations, shifts = corrected(given, values, centre.double())
    assert (rotations - given).abs().max() > 0.3
    before, after = (given @ centre.double())[:, :2], (rotations @ centre.double())[:, :2] + shifts
    torch.testing.assert_close(after - before, values[:, 3:])
    torch.testing.assert_close(rotations, rotations_from_vectors(values[:, :3]) @ given)


def test_without_a_correction_poses_are_those_that_were_given(centre, make_particles):
    data, _ = make_particles(8)
    rotations, shifts = Corrections.none(data.rotations, centre).poses()
    assert torch.equal(rotations, data.rotations) and torch.equal(shifts, torch.zeros(8, 2))


def test_what_the_encoder_saw_of_other_poses_is_forgotten(centre, make_particles):
    data, values = make_particles(8)
    corrections = dataclasses.replace(Corrections.none(data.rotations, centre), values=values)
    moved = corrections.applied_to(data)
    assert moved.looks is data.vectors  # images stay what they are
    rotations, shifts = corrections.poses()
    assert torch.equal(moved.rotations, rotations) and torch.equal(moved.shifts, shifts)
    seen = dataclasses.replace(data, looks=torch.zeros(8, 3))
    assert corrections.applied_to(seen).looks is None


# Errors that are known


def test_errors_of_the_poses_are_found(make_particles, centre, go):
    data, values = make_particles(80)
    found = go(Corrections.none(data.rotations, centre), data, 3)
    before, after = rms(values), rms(found.values - values)
    assert before[0] > 2.7 and before[1] > 1.3
    assert after[0] < 1.0 and after[1] < 0.25
    left = (found.values - values)[:, 3:].norm(dim=-1)
    assert left.max() < 1.0  # every single particle has moved
    widths = found.widths / torch.tensor([3 * DEGREE, 1.5])
    torch.testing.assert_close(widths, torch.ones(2), atol=0.2, rtol=0)


def test_all_particles_move_and_not_only_those_that_gain_most(make_particles, centre, go):
    """The noise that is estimated falls with every step: fits are compared at one noise."""
    data, values = make_particles(64, signal=25.0)
    found = go(Corrections.none(data.rotations, centre), data, 1, iterations=2)
    assert (found.values == 0).all(-1).sum() <= 3
    assert rms(found.values - values)[1] < 0.5


def test_the_ctf_takes_part(make_particles, centre, go, microscope, network, density, generator):
    """Images with a CTF are compared with predictions that have it."""
    data, values = make_particles(40)
    terms = ctf_terms(microscope(defocus_u=torch.linspace(5e3, 2e4, 40)).to(torch.float32))
    rotations, shifts = corrected(data.rotations, values, centre)
    images = density.images(
        network.decoder.reference, BAND, rotations=rotations, shifts=shifts, ctf=terms
    )
    noise = torch.randn(images.shape, generator=generator)
    images = 60 * images / images.norm(dim=-1, keepdim=True)
    images = images + noise
    data = dataclasses.replace(data, vectors=images, looks=images, ctf=terms)
    found = go(Corrections.none(data.rotations, centre), data, 3)
    after = rms(found.values - values)
    assert after[0] < 0.8 and after[1] < 0.15


def test_right_poses_stay_as_they_are(make_particles, centre, go):
    """A correction would follow the noise: with a prior that wide, it moves particles a lot."""
    data, _ = make_particles(200, turn=0.0, move=0.0, signal=15.0)
    free = go(Corrections.none(data.rotations, centre), data, 1, learn_widths=False)
    turn, move = rms(free.values)
    assert turn > 1 and move > 0.2
    held = go(Corrections.none(data.rotations, centre), data, 3)
    assert not held.widths.any() and not held.values.any()
    assert torch.equal(held.penalties(), torch.zeros(200))
    assert torch.equal(held.poses()[0], data.rotations)


def test_where_images_say_too_little_rotations_stay_and_shifts_are_corrected(
    make_particles, centre, go
):
    """Each is decided by itself: angles of 0.2 degrees cannot be seen, shifts of 1.5 Å can."""
    data, values = make_particles(200, turn=0.2, move=1.5)
    found = go(Corrections.none(data.rotations, centre), data, 3)
    assert found.widths[0] == 0 and not found.values[:, :3].any()
    assert rms(found.values - values)[1] < 0.3


def test_poses_that_were_left_are_tried_anew(make_particles, centre, go):
    data, values = make_particles(80)
    left = dataclasses.replace(Corrections.none(data.rotations, centre), widths=torch.zeros(2))
    found = go(left, data, 3)
    assert found.widths.all() and rms(found.values - values)[1] < 0.25


def test_images_without_a_molecule_hardly_widen_the_prior(make_particles, centre, go):
    widths = []
    for junk in (0, 20):
        data, _ = make_particles(200, junk=junk)
        widths.append(go(Corrections.none(data.rotations, centre), data, 3).widths)
    ratio = widths[1] / widths[0]
    assert (ratio < 1.15).all() and (ratio > 0.8).all()


def test_new_particles_are_corrected_with_the_prior_that_was_learned(
    make_particles, centre, network, density
):
    data, values = make_particles(64)
    learned = Corrections.none(torch.eye(3)[None], centre, torch.tensor([3 * DEGREE, 1.5]))
    moved, found = refine_new(learned, data, network, density=density, band=BAND)
    after = rms(found.values - values)
    assert after[0] < 1.0 and after[1] < 0.25
    assert torch.equal(found.widths, learned.widths) and torch.equal(found.given, data.rotations)
    rotations, shifts = corrected(data.rotations, found.values, centre)
    assert torch.equal(moved.rotations, rotations) and torch.equal(moved.shifts, shifts)
    narrow = dataclasses.replace(learned, widths=torch.tensor([1e-4, 1e-3]))
    _, found = refine_new(narrow, data, network, density=density, band=BAND)
    assert found.values[:, :3].abs().max() < 1e-3 and found.values[:, 3:].abs().max() < 1e-2


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_no_fit_is_worse_than_that_of_the_start(
    make_particles, centre, go, network, density, iterations
):
    """Even where errors are so large that the steps go anywhere."""
    data, _ = make_particles(64, turn=50.0, move=6.0)
    start = Corrections.none(data.rotations, centre)

    def misfit(corrections):
        rotations, shifts = corrections.poses()
        predictions = density.images(
            network.decoder.reference, BAND, rotations=rotations, shifts=shifts
        )
        along = (data.vectors * torch.nn.functional.normalize(predictions, dim=-1)).sum(-1)
        return data.vectors.square().sum(-1) - along.clamp(min=0).square()

    found = go(start, data, 1, iterations=iterations)
    before, after = misfit(start), misfit(found)
    assert (after <= before * (1 + 1e-5)).all()
    assert after.mean() < before.mean()


# The prior


@pytest.fixture
def drawn(generator):
    """Peaks of likelihoods, and the information in them, for errors of poses of these widths."""

    def draw(widths, errors=(0.03, 0.6), count=2000):
        widths, errors = (torch.tensor([w[0]] * 3 + [w[1]] * 2) for w in (widths, errors))
        spread = 0.5 + torch.rand(count, 1, generator=generator)  # some particles know more
        true = widths * torch.randn(count, 5, generator=generator)
        peaks = true + errors * spread * torch.randn(count, 5, generator=generator)
        return peaks, torch.diag_embed((errors * spread) ** -2)

    return draw


def iterated(peaks, information, rounds=10, start=WIDEST):
    """The widths after every round, each with the values that have the best fit with the last."""
    found = [torch.tensor(start)]
    for _ in range(rounds):
        widths = found[-1].repeat_interleave(torch.tensor([3, 2]))
        posterior = information + torch.diag(widths**-2)
        values = torch.linalg.solve(posterior, information @ peaks[..., None]).squeeze(-1)
        found.append(prior_widths(values, information, widths)[0])
    return torch.stack(found)


@pytest.mark.parametrize("true", [(0.05, 1.0), (0.02, 2.0), (0.1, 0.5)])
def test_the_widths_of_the_errors_are_found(true, drawn):
    widths = iterated(*drawn(true))[-1]
    torch.testing.assert_close(widths, torch.tensor(true), rtol=0.1, atol=0)


def test_the_part_that_images_explain(drawn):
    """Of the variance of the prior, as a median over particles: v / (v + error^2)."""
    peaks, information = drawn((0.05, 1.0))
    widths = torch.tensor([0.05, 1.0]).repeat_interleave(torch.tensor([3, 2]))
    values = torch.linalg.solve(
        information + torch.diag(widths**-2), information @ peaks[..., None]
    )
    found = prior_widths(values.squeeze(-1), information, widths)[1]
    errors = information.diagonal(dim1=1, dim2=2)[:, [0, 3]].rsqrt()
    expected = (1 / (1 + (errors / widths[[0, 3]]).square())).median(0).values
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_a_round_goes_half_of_the_way(drawn):
    """Geometrically: the structures have to follow."""
    widths = iterated(*drawn((0.05, 1.0)), rounds=1)
    expected = (widths[0] * torch.tensor([0.05, 1.0])).sqrt()
    torch.testing.assert_close(widths[1], expected, rtol=0.1, atol=0)


def test_where_poses_are_right_the_prior_gets_narrower_and_narrower(drawn):
    widths = iterated(*drawn((0.0, 0.0)))
    assert (widths[1:] < widths[:-1]).all()
    assert (widths[-1] < 0.4 * torch.tensor([0.03, 0.6])).all()


@pytest.mark.parametrize(("certainty", "most"), [(1e-4, 1.15), (1.0, 1.3)])
def test_a_tenth_of_particles_with_wild_poses_hardly_widen_the_prior(certainty, most, drawn):
    """Least of all if their images say little; a standard deviation would triple."""
    peaks, information = drawn((0.05, 1.0))
    expected = iterated(peaks, information, 6)[-1]
    peaks[::10] *= 10
    information[::10] *= certainty
    assert (iterated(peaks, information, 6)[-1] < most * expected).all()
