"""The network: two decoders, the latent sample between encoder and decoder, and what it holds."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from tiny import BAND, CONFIG, SIZES

from cryostar_nb.config import PRESETS, ModelConfig
from cryostar_nb.encoders import ImageEncoder
from cryostar_nb.geometry import rmsd
from cryostar_nb.models import (
    LEVER,
    CartesianDecoder,
    ChainDecoder,
    DeformationVAE,
    NormalModeDecoder,
    make_network,
    parameter_count,
)
from cryostar_nb.normal_modes import normal_modes


@pytest.fixture
def network(helix_nodes):
    return make_network(CONFIG, SIZES, helix_nodes, BAND)


def test_the_first_structures_are_near_the_reference(helix_nodes, helix_data):
    torch.manual_seed(0)
    network = make_network(CONFIG, ModelConfig(), helix_nodes, BAND)
    noise = torch.randn(len(helix_data), 8)
    (positions, _), _, _ = network(helix_data.vectors, noise)
    reference = torch.from_numpy(helix_nodes.positions).float()
    distance = rmsd(positions, reference.expand_as(positions))
    assert 0 < distance.min() and distance.max() < 0.5  # Å


def test_the_latent_is_the_mean_plus_noise_times_the_standard_deviation(network, helix_data):
    noise = torch.tensor([[1.0, -2.0]]).expand(len(helix_data), 2)
    (positions, _), mean, log_variance = network(helix_data.vectors, noise)
    assert torch.allclose(positions, network.decoder(mean + noise * (log_variance / 2).exp()))
    at_mean = network(helix_data.vectors, 0 * noise)[0].positions
    assert torch.allclose(at_mean, network.decoder(mean))


def test_parameters_are_counted():
    # 4 to 3 to 2 neurons with their biases in the encoder, 1 to 5 to 6 in the decoder
    sizes, band = ModelConfig((3,), (5,), 1), BAND
    network = DeformationVAE(ImageEncoder(band, sizes), CartesianDecoder(torch.zeros(2, 3), sizes))
    expected = (band.size * 3 + 3 + 3 * 2 + 2) + (1 * 5 + 5 + 5 * 6 + 6)
    assert parameter_count(network) == expected


def test_the_decoder_adds_a_displacement_to_the_reference(generator):
    reference = torch.randn(5, 3, generator=generator)
    decoder = CartesianDecoder(reference, SIZES)
    latent = torch.randn(2, 3, 2, generator=generator)
    displacement = decoder.layers(latent).reshape(2, 3, 5, 3)
    assert torch.allclose(decoder(latent), reference + displacement)
    assert not any(parameter.shape == reference.shape for parameter in decoder.parameters())


def still_chain(reference, chains):
    """A decoder along chains whose layers say nothing."""
    decoder = ChainDecoder(reference, SIZES, torch.tensor(chains)).double()
    with torch.no_grad():
        for layer in (decoder.layers[-1], decoder.turns, decoder.shifts):
            layer.weight.zero_()
            layer.bias.zero_()
    return decoder


def test_a_stretch_that_turns_takes_the_rest_of_its_chain_along(generator):
    reference = 10 * torch.randn(60, 3, generator=generator).double()
    decoder, latent = still_chain(reference, [0] * 40 + [1] * 20), torch.zeros(1, 2).double()
    assert torch.allclose(decoder(latent)[0], reference)
    angle = math.radians(150)
    columns = torch.tensor([[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), 0, 0]])
    columns[1, 1] = math.cos(angle)
    with torch.no_grad():  # from the third stretch of the first chain on, about z
        turned = decoder.turns.bias.view(-1, 2, 3)
        turned[2] = LEVER * (columns - torch.eye(3)[:2]).double()
    moved = decoder(latent)[0]
    assert torch.allclose(moved[40:], reference[40:])
    assert torch.allclose(moved[:40].mean(0), reference[:40].mean(0))
    rotation = torch.from_numpy(Rotation.from_euler("z", angle).as_matrix())
    shape, before = moved - moved[16], reference - reference[16]
    assert torch.allclose(shape[16:40], before[16:40] @ rotation.mT)
    assert torch.allclose(shape[:17], before[:17])


def test_a_chain_shifts_without_the_others(generator):
    reference = torch.randn(6, 3, generator=generator).double()
    decoder = still_chain(reference, [0, 0, 0, 0, 1, 1])
    with torch.no_grad():
        decoder.shifts.bias.copy_(torch.tensor([0.0, 0, 0, 1, 2, 3]))
    moved = decoder(torch.zeros(1, 2).double())[0] - reference
    expected = torch.tensor([[0.0, 0, 0]] * 4 + [[1.0, 2, 3]] * 2).double()
    assert torch.allclose(moved, expected)


def test_the_settings_choose_the_decoder_along_chains(helix_nodes):
    config = dataclasses.replace(CONFIG, decoder="chain")
    network = make_network(config, ModelConfig(), helix_nodes, BAND)
    assert isinstance(network.decoder, ChainDecoder)
    reference = torch.from_numpy(helix_nodes.positions).float()
    assert 0 < rmsd(network.decoder(torch.ones(1, 8)), reference).max() < 0.5


def test_side_chains_start_as_they_stand_and_turn_with_the_latent(generator):
    decoder = CartesianDecoder(torch.randn(5, 3, generator=generator), SIZES, side_chains=True)
    latent = torch.randn(2, 3, 2, generator=generator)
    positions, turns = decoder.deform(latent)
    assert torch.equal(positions, decoder(latent)) and torch.equal(turns, 0 * positions)
    torch.nn.init.normal_(decoder.side_chains.weight)
    assert decoder.deform(latent).turns.std(dim=(0, 1)).min() > 0
    assert torch.equal(decoder(latent), positions)


@pytest.mark.parametrize(
    ("changes", "turn"),
    [({}, True), ({"density": "nodes"}, False), ({"side_chain_sd": 0.0}, False)],
)
def test_there_are_side_chains_to_turn_where_nodes_carry_them(changes, turn, helix_nodes):
    config = dataclasses.replace(PRESETS["standard"], **changes)
    decoder = make_network(config, SIZES, helix_nodes, BAND).decoder
    assert (decoder.deform(torch.zeros(1, 2)).turns is not None) == turn


# Normal modes

LATENT = torch.zeros(2, dtype=torch.float64)


@pytest.fixture
def make_decoder(asymmetric, generator):
    """Make a decoder about a centre that is not the origin, with one answer for every latent."""
    basis = torch.linalg.qr(torch.randn(15, 2, generator=generator, dtype=torch.float64))[0]
    modes = basis.T.reshape(2, 5, 3)

    def make(coefficients=(0, 0), turn=(0, 0, 0), move=(0, 0, 0)):
        decoder = NormalModeDecoder(asymmetric[0], modes, SIZES).double()
        with torch.no_grad():
            decoder.layers[-1].weight.zero_()
            decoder.layers[-1].bias.copy_(torch.tensor([*coefficients, *turn, *move]))
        return decoder

    return make


def test_the_decoder_of_normal_modes_starts_near_the_reference(helix_nodes, generator):
    torch.manual_seed(0)
    reference = torch.from_numpy(helix_nodes.positions).float()
    modes = torch.from_numpy(normal_modes(helix_nodes.positions).vectors).float()
    decoder = NormalModeDecoder(reference, modes, ModelConfig())
    positions = decoder(torch.randn(40, 8, generator=generator))
    distance = rmsd(positions, reference.expand_as(positions))
    assert 0 < distance.min() and distance.max() < 0.5  # Å


def test_a_coefficient_of_one_moves_the_nodes_by_an_angstrom_rms(make_decoder):
    decoder = make_decoder((1, 0))
    assert rmsd(decoder(LATENT), decoder.reference).item() == pytest.approx(1)
    both = make_decoder((3, -4))
    assert torch.allclose(both(LATENT), both.reference + 3 * both.modes[0] - 4 * both.modes[1])
    assert rmsd(both(LATENT), both.reference).item() == pytest.approx(5)


def test_a_translation_is_in_angstrom(make_decoder):
    decoder, move = make_decoder(move=(1, -2, 3)), torch.tensor([1.0, -2.0, 3.0]).double()
    assert torch.allclose(decoder(LATENT), decoder.reference + move)


def test_a_quarter_turn_about_z_takes_x_to_y_about_the_centre(make_decoder):
    decoder = make_decoder(turn=(0, 0, math.pi / 2))
    centre = decoder.reference.mean(0)
    x, y, z = (decoder.reference - centre).unbind(-1)
    assert torch.allclose(decoder(LATENT), centre + torch.stack([-y, x, z], dim=-1))


def test_the_deformed_structure_is_turned_and_then_moved(make_decoder):
    coefficients, turn, move = (2.0, -1.0), (0.3, -0.8, 0.5), (4.0, 5.0, -6.0)
    decoder = make_decoder(coefficients, turn, move)
    centre = decoder.reference.mean(0).numpy()
    deformed = decoder.reference + 2 * decoder.modes[0] - decoder.modes[1]
    expected = Rotation.from_rotvec(turn).apply(deformed.numpy() - centre) + centre + move
    np.testing.assert_allclose(decoder(LATENT).detach(), expected, atol=1e-12)


def test_the_decoder_of_normal_modes_takes_any_batch(asymmetric, make_decoder, generator):
    decoder = NormalModeDecoder(asymmetric[0], make_decoder().modes, SIZES).double()
    latent = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    positions = decoder(latent)
    assert positions.shape == (3, 4, 5, 3)
    for i, j in itertools.product(range(3), range(4)):
        assert torch.allclose(positions[i, j], decoder(latent[i, j]))


def test_a_decoder_of_normal_modes_comes_back_from_its_state(make_decoder):
    decoder = make_decoder((1, 2), (0.1, 0.2, 0.3), (1, 2, 3))
    fresh = NormalModeDecoder(torch.zeros(5, 3), torch.zeros(2, 5, 3), SIZES).double()
    fresh.load_state_dict(decoder.state_dict())
    assert torch.equal(fresh(LATENT), decoder(LATENT))
