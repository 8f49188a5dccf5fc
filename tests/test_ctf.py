"""Laws of the contrast transfer function; its values are proved in test_conventions.py."""

import dataclasses
import math

import pytest
import torch

from cryostar_nb.ctf import CTFParameters, contrast_transfer_function, electron_wavelength
from cryostar_nb.fourier import frequency_grid


@pytest.fixture
def grid():
    """Frequencies (kx, ky) up to 4 Å."""
    return frequency_grid(33, 2.0)


def test_the_result_has_the_batch_of_the_parameters_and_then_the_grid(grid, microscope):
    defocus = [[10_000.0, 15_000.0, 20_000.0], [12_000.0, 8_000.0, 9_000.0]]
    values = contrast_transfer_function(grid, microscope(defocus_u=defocus, defocus_v=defocus))
    assert values.shape == (2, 3, 33, 33)
    alone = contrast_transfer_function(grid, microscope(defocus_u=8_000.0, defocus_v=8_000.0))
    assert torch.equal(values[1, 1], alone)


def test_opposite_frequencies_have_the_same_transfer(grid, microscope):
    parameters = microscope(defocus_u=20_000.0, defocus_v=14_000.0, defocus_angle_deg=25.0)
    assert torch.allclose(
        contrast_transfer_function(-grid, parameters), contrast_transfer_function(grid, parameters)
    )


@pytest.mark.parametrize(
    "same",
    [
        {"defocus_u": 20_000.0, "defocus_v": 14_000.0, "defocus_angle_deg": 205.0},
        {"defocus_u": 14_000.0, "defocus_v": 20_000.0, "defocus_angle_deg": 115.0},
    ],
    ids=["half a turn", "the other axis first"],
)
def test_astigmatism_is_an_ellipse(grid, microscope, same):
    parameters = microscope(defocus_u=20_000.0, defocus_v=14_000.0, defocus_angle_deg=25.0)
    expected = contrast_transfer_function(grid, parameters)
    assert torch.allclose(contrast_transfer_function(grid, microscope(**same)), expected, atol=1e-9)


def test_astigmatism_turns_with_its_angle(grid, microscope):
    turn = math.radians(40)
    rotation = torch.tensor(
        [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64
    )
    values = [
        contrast_transfer_function(
            frequencies, microscope(defocus_u=20_000.0, defocus_v=14_000.0, defocus_angle_deg=angle)
        )
        for frequencies, angle in ((grid, 10.0), (grid @ rotation.mT, 50.0))
    ]
    assert torch.allclose(*values, atol=1e-9)


def test_a_b_factor_is_a_gaussian_envelope(grid, microscope):
    ratio = contrast_transfer_function(
        grid, microscope(b_factor=60.0)
    ) / contrast_transfer_function(grid, microscope())
    assert torch.allclose(ratio, torch.exp(-15 * grid.square().sum(-1)))


def test_a_phase_plate_of_180_degrees_inverts_the_contrast(grid, microscope):
    plain, inverted = (
        contrast_transfer_function(grid, microscope(phase_shift_deg=phase))
        for phase in (0.0, 180.0)
    )
    assert torch.allclose(inverted, -plain, atol=1e-9)


def test_without_defocus_and_aberration_only_the_amplitude_contrast_is_left(grid, microscope):
    perfect = microscope(defocus_u=0.0, defocus_v=0.0, spherical_aberration_mm=0.0)
    values = contrast_transfer_function(grid, perfect)
    assert torch.allclose(values, torch.full_like(values, 0.1))


def test_underfocus_makes_the_first_oscillation_positive(microscope):
    k = torch.tensor([0.02, 0.0])  # chi = pi * 0.0197 * 15,000 * 0.0004 = 0.37 radians
    assert contrast_transfer_function(k, microscope()) > 0.4
    assert (
        contrast_transfer_function(k, microscope(defocus_u=-15_000.0, defocus_v=-15_000.0)) < -0.2
    )


def test_the_result_has_the_precision_of_the_parameters(grid, microscope):
    exact = contrast_transfer_function(grid, microscope())
    single = contrast_transfer_function(grid, microscope().to(torch.float32))
    assert (exact.dtype, single.dtype) == (torch.float64, torch.float32)
    assert torch.allclose(single.double(), exact, atol=1e-4)


def test_parameters_are_indexed_as_a_batch(grid, microscope):
    defocus = [10_000.0, 15_000.0, 20_000.0]
    parameters = microscope(defocus_u=defocus, defocus_v=defocus)
    for index in (slice(1, 3), torch.tensor([2, 0])):
        assert torch.equal(
            contrast_transfer_function(grid, parameters[index]),
            contrast_transfer_function(grid, parameters)[index],
        )


def test_what_is_not_given_is_a_usual_microscope(grid, microscope):
    defocus = torch.tensor([[10_000.0, 15_000.0]], dtype=torch.float64)
    parameters = CTFParameters(defocus_u=defocus)
    for field in dataclasses.fields(parameters)[:-1]:
        tensor = getattr(parameters, field.name)
        assert tensor.shape == (1, 2) and tensor.dtype == torch.float64
    expected = microscope(defocus_u=defocus, defocus_v=defocus)
    values = contrast_transfer_function(grid, parameters[0])
    assert torch.equal(values, contrast_transfer_function(grid, expected)[0])


def test_numbers_and_tensors_are_broadcast():
    parameters = CTFParameters(15_000, voltage_kv=torch.tensor([200.0, 300.0]), b_factor=50)
    assert parameters.defocus_v.tolist() == [15_000, 15_000]
    assert parameters.b_factor.tolist() == [50, 50]
    assert parameters.amplitude_contrast.tolist() == pytest.approx([0.1, 0.1])
    assert parameters[1].voltage_kv == 300


def test_faster_electrons_have_shorter_waves():
    assert (electron_wavelength(torch.tensor([80.0, 120.0, 200.0, 300.0, 1000.0])).diff() < 0).all()
