"""The likelihood with profiled contrast, and the amplitudes that the images have."""

import pytest
import torch
from tiny import BAND

from cryostar_nb.geometry import random_rotations
from cryostar_nb.likelihood import RadialScale, contrasts, likelihood_loss, shell_members
from cryostar_nb.losses import correlation_loss
from cryostar_nb.projector import make_images

SIZE = BAND.size


@pytest.fixture
def predictions(rng, generator):
    """Images of sixty nodes without any symmetry, from 48 sides."""
    nodes = 8 * torch.randn(60, 3, generator=generator)
    rotations = torch.from_numpy(random_rotations(48, rng)).float()
    return make_images(nodes, torch.ones(60), torch.tensor(2.0), BAND, rotations=rotations)


def noise_like(values, generator):
    return torch.randn(values.shape, generator=generator)


def slopes(loss, images, predictions):
    """The gradient of a loss in the predictions."""
    predictions = predictions.clone().requires_grad_()
    loss(images, predictions).backward()
    return predictions.grad


# The loss


def test_the_loss_is_the_likelihood_of_the_best_contrast_over_its_unit(generator):
    images, predictions = torch.randn(2, 9, SIZE, generator=generator).double()
    images = images + predictions  # no product is negative
    product, power = (images * predictions).sum(-1), predictions.square().sum(-1)
    unit = (images.norm(dim=-1) * product / power.sqrt()).mean()
    expected = -0.5 * (product**2 / power).mean() / unit
    torch.testing.assert_close(likelihood_loss(images, predictions), expected)
    # It is what the residuals at the best contrast gain over those without a model.
    residual = images - contrasts(images, predictions)[:, None] * predictions
    gain = 0.5 * (images.square().sum(-1) - residual.square().sum(-1)).mean()
    torch.testing.assert_close(likelihood_loss(images, predictions) * unit, -gain)


def test_an_image_against_its_prediction_has_no_contrast_and_no_slope(generator):
    images = torch.randn(3, SIZE, generator=generator)
    predictions = torch.stack([images[0], -images[1], images[2]])
    assert contrasts(images, predictions).tolist() == pytest.approx([1, 0, 1])
    predictions[0] += 0.5 * noise_like(predictions[0], generator)
    slope = slopes(likelihood_loss, images, predictions).norm(dim=-1)
    assert slope[1] == 0 and slope[0] > 0


def test_the_scale_of_the_predictions_does_not_matter(predictions, generator):
    images = predictions / predictions.std() + noise_like(predictions, generator)
    scales = torch.rand(48, 1, generator=generator) * 10 + 0.1
    expected = likelihood_loss(images, predictions)
    torch.testing.assert_close(likelihood_loss(images, scales * predictions), expected)
    slope = slopes(likelihood_loss, images, predictions)
    assert (slope * predictions).sum(-1).abs().max() < 1e-5


def test_an_image_without_signal_has_hardly_a_voice(predictions, generator):
    noise = noise_like(predictions, generator)
    images = predictions / predictions.std() + noise
    images[7] = noise[7]
    voices = {}
    for loss in (likelihood_loss, correlation_loss):
        slope = (slopes(loss, images, predictions) * predictions.norm(dim=-1)[:, None]).norm(dim=-1)
        voices[loss] = float(slope[7] / slope.median())
    assert voices[correlation_loss] > 0.9
    assert voices[likelihood_loss] < 0.1


def test_where_all_images_are_as_good_the_gradient_is_that_of_the_correlation(generator):
    image, prediction = torch.randn(2, SIZE, generator=generator)
    orders = [torch.randperm(SIZE, generator=generator) for _ in range(6)]
    images = torch.stack([(image + prediction)[order] for order in orders])
    predictions = torch.stack([prediction[order] for order in orders])
    expected = slopes(correlation_loss, images, predictions)
    found = slopes(likelihood_loss, images, predictions)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(
        slopes(likelihood_loss, 7 * images, predictions), expected, rtol=1e-4, atol=1e-8
    )


def test_no_signal_at_all_gives_a_loss_that_is_a_number(generator):
    images = torch.randn(4, SIZE, generator=generator)
    assert likelihood_loss(images, -images) == 0
    assert torch.isfinite(slopes(likelihood_loss, images, torch.zeros(4, SIZE))).all()


def test_processes_that_share_a_batch_have_its_loss(predictions, generator):
    images = predictions / predictions.std() * torch.linspace(0.1, 2, 48)[:, None]
    images = images + noise_like(images, generator)
    sums = []
    whole = likelihood_loss(images, predictions, lambda own: sums.append(own) or own)
    parts = [
        likelihood_loss(images[rows], predictions[rows], lambda own: sums[0])
        for rows in (slice(0, 24), slice(24, 48))
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


# The shells


def test_every_element_of_a_vector_is_in_the_shell_of_its_frequency():
    members = shell_members(BAND)
    assert members.shape[0] == SIZE
    assert torch.equal(members.sum(1), torch.ones(SIZE)) and set(members.unique().tolist()) == {
        0,
        1,
    }
    kx, ky = BAND.indices.double().unbind(-1)
    radius = (kx**2 + ky**2).sqrt()
    for half in members.split(SIZE // 2):  # real parts, imaginary parts
        assert (half.argmax(1) - radius).abs().max() <= 0.5
    assert members[:, 0].sum() == 0 and (members[:, 1:].sum(0) > 0).all()


# The amplitudes


def test_before_the_first_step_the_scale_is_one(predictions):
    scale = RadialScale(BAND)
    assert torch.equal(scale.scale(), torch.ones(shell_members(BAND).shape[1]))
    assert torch.equal(scale(predictions), predictions)


@pytest.fixture
def factor():
    """Amplitudes over the shells: solvent takes coarse detail away, a B-factor fine detail."""
    k = torch.arange(shell_members(BAND).shape[1]) / shell_members(BAND).shape[1]
    return (1 - 0.6 * torch.exp(-((k / 0.2) ** 2))) * torch.exp(-1.5 * k**2)


@pytest.fixture
def learned(predictions, factor, generator):
    """A scale that has seen noisy images, with a contrast of their own, for 150 steps."""
    scale, power = RadialScale(BAND), predictions.std()
    for _ in range(150):
        contrast = 0.5 + torch.rand(48, 1, generator=generator)
        images = contrast * predictions * (shell_members(BAND) @ factor) / power
        scale.update(images + noise_like(images, generator), predictions)
    return scale


def test_known_amplitudes_are_found_up_to_the_contrast(learned, factor):
    ratio = (learned.scale() / factor)[1:]
    assert float(factor[1:].max() / factor[1:].min()) > 2
    torch.testing.assert_close(ratio / ratio.mean(), torch.ones_like(ratio), atol=0.05, rtol=0)


def test_amplitudes_change_and_phases_do_not(learned, predictions):
    before, after = (
        torch.complex(*values.unflatten(-1, (2, -1)).unbind(-2))
        for values in (predictions, learned(predictions))
    )
    assert (after.abs() / before.abs() - 1).abs().max() > 0.2
    torch.testing.assert_close(after / after.abs(), before / before.abs(), atol=1e-4, rtol=0)


def test_the_amplitudes_are_kept_with_the_weights(learned):
    state = learned.state_dict()
    assert set(state) == {"cross", "power"}
    fresh = RadialScale(BAND)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.scale(), learned.scale())


def test_amplitudes_stay_within_bounds(predictions):
    scale = RadialScale(BAND)
    coarse = shell_members(BAND)[:, :3].sum(1)  # all the signal there is
    scale.update(100 * predictions * coarse, predictions)
    assert scale.scale().min() >= 0.02 and scale.scale().max() <= 10


def test_processes_that_share_a_batch_learn_its_amplitudes(predictions, generator):
    images = predictions / predictions.std() + noise_like(predictions, generator)
    whole, part, sums = RadialScale(BAND), RadialScale(BAND), []
    whole.update(images, predictions, lambda own: sums.append(own) or own)
    part.update(images[:24], predictions[:24], lambda own: sums[0])
    assert torch.equal(part.scale(), whole.scale())
    parts = [RadialScale(BAND) for _ in range(2)]
    for scale, rows in zip(parts, (slice(0, 24), slice(24, 48)), strict=True):
        scale.update(images[rows], predictions[rows])
    torch.testing.assert_close(parts[0].cross + parts[1].cross, whole.cross)
