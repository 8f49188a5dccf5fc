"""The training loop: reproducible, resumable, and going where the losses point. Everything here is tiny and on the CPU."""

import csv
import dataclasses
import itertools
import math
import signal

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from cryostar_nb.config import ModelConfig, TrainConfig
from cryostar_nb.encoders import Encoder
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import pair_distances, rmsd
from cryostar_nb.losses import (
    Restraints,
    clash_loss,
    continuity_loss,
    correlation_loss,
    elastic_network_loss,
    relaxed_edges,
)
from cryostar_nb.models import CartesianDecoder, DeformationVAE, NormalModeDecoder, parameter_count
from cryostar_nb.normal_modes import normal_modes
from cryostar_nb.projector import make_images
from cryostar_nb.training import make_restraints, train

BAND = Band(24, 3.0, 9.0)  # that of the fixture helix_data
TINY = ModelConfig(encoder_widths=(32, 16), decoder_widths=(16, 32), latent_dim=2)
CONFIG = TrainConfig(
    steps=60, batch_size=8, warmup_steps=10, log_every=1, final_elastic_weight=0.1, low_pass=9.0
)


@pytest.fixture
def nodes(helix_nodes):
    return helix_nodes


@pytest.fixture
def data(helix_data):
    return helix_data


@pytest.fixture
def run(data, nodes, tmp_path):
    """Train the tiny model in a folder of this name."""

    def training(folder="run", config=CONFIG, resume=False):
        out = tmp_path / folder
        out.mkdir(exist_ok=True)
        return train(config, data, nodes, BAND, out, model_config=TINY, resume=resume)

    return training


@pytest.fixture
def at_step(monkeypatch):
    """Call a function in the middle of a training step, once; steps are counted from 0 within one call of train."""

    def arrange(step, action):
        calls = itertools.count()

        def images(*arguments, **options):
            if next(calls) == step:
                action()
            return make_images(*arguments, **options)

        monkeypatch.setattr("cryostar_nb.training.make_images", images)

    return arrange


# Neighbours in a turn of the helix clash at 6 Å.
CROWDED = dataclasses.replace(CONFIG, clash_distance=6.0, checkpoint_every=30)


def metrics(folder):
    """The lines of metrics.csv as numbers, without the time."""
    with (folder / "metrics.csv").open(newline="") as handle:
        return [
            {name: float(value) for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(handle)
        ]


def assert_same_weights(first, second):
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# The same run twice


def test_the_same_seed_gives_the_same_weights_and_another_one_gives_others(run):
    first, again, other = (
        run("first"),
        run("again"),
        run("other", dataclasses.replace(CONFIG, seed=1)),
    )
    assert_same_weights(first, again)
    assert not torch.equal(first.decoder.layers[0].weight, other.decoder.layers[0].weight)


def test_ctrl_c_ends_the_step_and_the_run_resumes_as_if_it_had_not_been_stopped(
    run, at_step, tmp_path
):
    whole = run("whole", CROWDED)
    before = signal.getsignal(signal.SIGINT)
    at_step(30, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run("stopped", CROWDED)
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(tmp_path / "stopped" / "checkpoint.pt", weights_only=True)["step"] == 31
    assert_same_weights(run("stopped", CROWDED, resume=True), whole)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    assert all(line["clash"] > 0 for line in metrics(tmp_path / "whole"))


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_died_resumes_from_its_last_checkpoint_as_if_it_had_not(
    failure, run, at_step, tmp_path
):
    def die():
        raise failure("in the middle of a step")

    whole = run("whole", CROWDED)
    at_step(42, die)
    with pytest.raises(failure, match="in the middle of a step"):
        run("stopped", CROWDED)
    assert len(metrics(tmp_path / "stopped")) == 42
    assert_same_weights(run("stopped", CROWDED, resume=True), whole)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_a_particle_that_is_not_a_number_stops_the_run_and_is_named(data, nodes, tmp_path):
    vectors = data.vectors.clone()
    vectors[12, 5] = torch.nan
    with pytest.raises(
        InputError,
        match=r"the loss was nan after step \d+, .* particles 13 in it are not like the others",
    ):
        train(
            CROWDED,
            dataclasses.replace(data, vectors=vectors),
            nodes,
            BAND,
            tmp_path,
            model_config=TINY,
        )


def test_a_loss_beyond_all_bounds_stops_the_run_and_keeps_its_last_checkpoint(run, tmp_path):
    steady = dataclasses.replace(CROWDED, steps=30)
    run(config=steady)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    with pytest.raises(
        InputError,
        match=r"after step 3\d, .* the last checkpoint is kept; none of its 8 particles stands out",
    ):
        run(config=dataclasses.replace(CROWDED, steps=60, learning_rate=1e6), resume=True)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


def test_resuming_a_run_that_has_ended_changes_nothing(run, tmp_path):
    ended = run()
    lines = metrics(tmp_path / "run")
    assert_same_weights(run(resume=True), ended)
    assert metrics(tmp_path / "run") == lines


def test_a_checkpoint_holds_the_model_that_is_returned(run, tmp_path):
    model = run()
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 60
    fresh = DeformationVAE(BAND.size, torch.zeros(24, 3), TINY)
    fresh.load_state_dict(state["model"])
    assert_same_weights(fresh, model)
    assert not model.training


def test_a_run_leaves_its_checkpoint_and_its_metrics_and_no_more(run, tmp_path):
    run()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint.pt", "metrics.csv"}


# What it learns


def test_the_loss_goes_down(run, tmp_path):
    run(config=dataclasses.replace(CONFIG, steps=200))
    image = [line["image"] for line in metrics(tmp_path / "run")]
    assert np.mean(image[-20:]) < np.mean(image[:20]) - 0.03


def test_the_first_structures_are_near_the_reference(nodes, data):
    torch.manual_seed(0)
    reference = torch.from_numpy(nodes.positions).float()
    model = DeformationVAE(BAND.size, reference, ModelConfig())
    positions, _, _ = model(data.vectors, torch.randn(len(data), 8))
    distance = rmsd(positions, reference.expand_as(positions))
    assert 0 < distance.min() and distance.max() < 0.5  # Å


def test_the_loss_is_the_weighted_sum_of_its_parts(run, tmp_path):
    config = dataclasses.replace(
        CONFIG,
        steps=11,
        continuity_weight=0.5,
        clash_weight=2.0,
        elastic_weight=3.0,
        final_elastic_weight=0.03,
    )
    run(config=config)
    for line in metrics(tmp_path / "run"):
        elastic_weight = 3.0 * 0.01 ** ((line["step"] - 1) / 10)
        parts = (
            line["image"]
            + 0.5 * line["continuity"]
            + 2 * line["clash"]
            + elastic_weight * line["elastic"]
            + line["kl"] / 24**2
        )
        assert line["loss"] == pytest.approx(parts, rel=1e-5)


def test_the_method_cont_uses_continuity_alone(run, tmp_path):
    config = dataclasses.replace(CONFIG, method="cont", steps=20)
    run("cont", config)
    other_weights = dataclasses.replace(
        config, elastic_weight=1e6, clash_weight=1e6, relaxation_percentile=1.0
    )
    run("other", other_weights)
    lines = metrics(tmp_path / "cont")
    assert set(lines[0]) == {"step", "loss", "image", "kl", "continuity"}
    assert lines == metrics(tmp_path / "other")
    for line in lines:
        assert line["loss"] == pytest.approx(
            line["image"] + line["continuity"] + line["kl"] / 24**2, rel=1e-5
        )


def test_the_method_star_uses_all_losses(run, tmp_path):
    run(config=dataclasses.replace(CONFIG, steps=1))
    assert set(metrics(tmp_path / "run")[0]) == {
        "step",
        "loss",
        "image",
        "kl",
        "continuity",
        "elastic",
        "clash",
    }


# Normal modes

NMA = dataclasses.replace(CONFIG, method="nma", checkpoint_every=30, modes=8)


def test_the_method_nma_uses_no_structural_loss(run, tmp_path):
    model = run("nma", NMA)
    other_weights = dataclasses.replace(
        NMA, continuity_weight=1e6, elastic_weight=1e6, clash_weight=1e6, relaxation_percentile=1.0
    )
    run("other", other_weights)
    lines = metrics(tmp_path / "nma")
    assert set(lines[0]) == {"step", "loss", "image", "kl"}
    assert lines == metrics(tmp_path / "other")
    for line in lines:
        assert line["loss"] == pytest.approx(line["image"] + line["kl"] / 24**2, rel=1e-5)
    assert isinstance(model.decoder, NormalModeDecoder)


def test_the_method_nma_moves_the_structure_by_its_own_modes(run, nodes):
    model = run(config=NMA)
    expected = (
        torch.from_numpy(normal_modes(nodes.positions, 8, 12.0).vectors).float() * len(nodes) ** 0.5
    )
    assert torch.equal(model.decoder.modes, expected)


def test_the_loss_of_normal_modes_goes_down(run, tmp_path):
    run(config=dataclasses.replace(NMA, steps=200))
    image = [line["image"] for line in metrics(tmp_path / "run")]
    assert np.mean(image[-20:]) < np.mean(image[:20]) - 0.03


def test_a_run_of_normal_modes_resumes_without_computing_them_anew(
    run, at_step, tmp_path, monkeypatch
):
    whole = run("whole", NMA)
    at_step(30, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run("stopped", NMA)
    monkeypatch.delattr("cryostar_nb.training.normal_modes")
    assert_same_weights(run("stopped", NMA, resume=True), whole)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


# The structural losses of a reference


def test_the_reference_costs_nothing(nodes):
    restraints = make_restraints(CONFIG, nodes)
    positions = torch.from_numpy(nodes.positions).float().expand(4, -1, -1)
    values = {name: value.item() for name, value in restraints.losses(positions).items()}
    assert values == pytest.approx({"continuity": 0, "elastic": 0, "clash": 0}, abs=1e-9)


@pytest.mark.parametrize("percentile", [50.0, 80.0, 100.0])
def test_the_restraints_are_the_losses_of_the_distances(percentile, nodes, generator):
    config = dataclasses.replace(CONFIG, relaxation_percentile=percentile, clash_distance=6.0)
    restraints = make_restraints(config, nodes)
    positions = torch.from_numpy(nodes.positions).float() + torch.randn(
        8, len(nodes), 3, generator=generator
    )
    bond_lengths, edge_lengths = (
        pair_distances(positions, restraints.bonds),
        pair_distances(positions, restraints.edges),
    )
    apart = torch.triu_indices(
        len(nodes), len(nodes), 2
    ).T  # every pair but the neighbours, which are all bonded
    keep = relaxed_edges(edge_lengths, percentile)
    expected = {
        "continuity": continuity_loss(bond_lengths, restraints.bond_lengths).item(),
        "elastic": elastic_network_loss(edge_lengths, restraints.edge_lengths, keep).item(),
        "clash": clash_loss(pair_distances(positions, apart), 6.0).item(),
    }
    assert {
        name: value.item() for name, value in restraints.losses(positions).items()
    } == pytest.approx(expected, rel=1e-5)


def test_relaxation_looks_at_the_whole_of_a_shared_batch(nodes, generator):
    restraints = make_restraints(CONFIG, nodes)
    positions = torch.from_numpy(nodes.positions).float() + torch.randn(
        8, len(nodes), 3, generator=generator
    )
    halves, shared = positions.split(4), []
    for (
        half
    ) in halves:  # first to learn the sums of each process, then to let each have the sum of all
        restraints.losses(half, lambda sums: shared.append(sums) or sums)
    parts = [
        restraints.losses(half, lambda sums: shared[0] + shared[1])["elastic"].item()
        for half in halves
    ]
    assert np.mean(parts) == pytest.approx(restraints.losses(positions)["elastic"].item(), rel=1e-6)
    assert np.mean([restraints.losses(half)["elastic"].item() for half in halves]) != pytest.approx(
        np.mean(parts), rel=1e-3
    )


@pytest.mark.parametrize(("measure", "dropped"), [("distance", 0), ("squared_error", 1)])
def test_the_measure_of_relaxation_decides_what_is_released(measure, dropped, nodes):
    """Bond 0 varies by more about its own length; bond 1 by less, but about a length that is wrong, and its squared error by more."""
    config = dataclasses.replace(
        CONFIG, relaxation_measure=measure, relaxation_percentile=99.9, elastic_cutoff=4.5
    )
    restraints = make_restraints(config, nodes)
    assert len(restraints.edges) > 2
    positions = torch.from_numpy(nodes.positions).float().repeat(2, 1, 1)
    along = torch.nn.functional.normalize(
        positions[0, restraints.edges[:, 1]] - positions[0, restraints.edges[:, 0]], dim=-1
    )
    for bond, lengthening in (
        (0, (-0.5, 0.5)),
        (1, (1.6, 2.4)),
    ):  # everything behind the bond moves along it
        for structure, by in enumerate(lengthening):
            positions[structure, restraints.edges[bond, 1] :] += by * along[bond]
    errors = (pair_distances(positions, restraints.edges) - restraints.edge_lengths).square()
    errors = torch.cat([errors[:, :dropped], errors[:, dropped + 1 :]], dim=1)
    assert restraints.losses(positions)["elastic"].item() == pytest.approx(
        errors.mean().item(), rel=1e-5
    )


# Schedules and configuration


@pytest.mark.parametrize(
    "setting",
    [
        {"clash_distance": -4.0},
        {"atom_sigma": 0.0},
        {"kl_weight": -1.0},
        {"weight_decay": -0.1},
        {"warmup_steps": -1},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_a_setting_that_cannot_be_meant_is_refused(setting):
    (name, value) = next(iter(setting.items()))
    with pytest.raises(InputError, match=f"{name} = {value}; give"):
        TrainConfig(**setting).check(1000)
    TrainConfig(kl_weight=0.0, weight_decay=0.0, warmup_steps=0).check(1000)


def test_a_reference_that_its_losses_cannot_hold_together_is_refused(make_nodes):
    apart = make_nodes(np.arange(5)[:, None] * np.array([40.0, 0, 0]))
    with pytest.raises(InputError, match="of 5 nodes no two are bonded"):
        Restraints(apart, method="cont")
    with pytest.raises(InputError, match="elastic_cutoff = 1: no two nodes are that near"):
        Restraints(make_nodes(np.arange(5)[:, None] * np.array([3.8, 0, 0])), elastic_cutoff=1.0)
    assert Restraints(apart, method="nma").losses(torch.zeros(1, 5, 3)) == {}


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    config = TrainConfig(steps=1000, warmup_steps=100, learning_rate=2.0)
    rates = [config.learning_rate_at(step) for step in range(1001)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[99] == rates[100] == max(rates) == 2.0
    assert rates[550] == pytest.approx(1.0)
    assert rates[1000] == pytest.approx(0)
    assert (np.diff(rates[:100]) > 0).all() and (np.diff(rates[100:]) < 0).all()


def test_a_constant_learning_rate_stays_at_its_peak():
    config = TrainConfig(
        steps=1000, warmup_steps=100, learning_rate=2.0, learning_rate_schedule="constant"
    )
    assert [config.learning_rate_at(step) for step in (0, 99, 100, 999)] == pytest.approx(
        [0.02, 2, 2, 2]
    )


def test_the_elastic_weight_decays_by_a_constant_factor_or_stays():
    config = TrainConfig(steps=101, elastic_weight=1.0, final_elastic_weight=0.01)
    assert [config.elastic_weight_at(step) for step in (0, 50, 100)] == pytest.approx(
        [1.0, 0.1, 0.01]
    )
    assert {TrainConfig(elastic_weight=0.3).elastic_weight_at(step) for step in (0, 50, 100)} == {
        0.3
    }


def test_the_blur_falls_to_none_at_half_of_the_steps():
    config = TrainConfig(steps=100, initial_blur=20.0)
    assert [config.blur_at(step) for step in (0, 25, 50, 99)] == [20.0, 10.0, 0.0, 0.0]


def test_the_first_comparison_is_of_images_blurred_by_a_gaussian(run, monkeypatch):
    compared = []

    def spy(images, predictions):
        compared.append((images.detach(), predictions.detach()))
        return correlation_loss(images, predictions)

    monkeypatch.setattr("cryostar_nb.training.correlation_loss", spy)
    for blur in (0.0, 4.5):
        run(f"blur{blur}", dataclasses.replace(CONFIG, steps=1, initial_blur=blur))
    for sharp, blurred in zip(*compared, strict=True):
        expected = gaussian_filter(
            BAND.decode(sharp).numpy(), (0, 1.5, 1.5), mode="wrap", truncate=8
        )  # 4.5 Å, pixels of 3 Å
        np.testing.assert_allclose(
            BAND.decode(blurred), expected, atol=2e-3 * np.abs(expected).max()
        )


def test_the_defaults_are_the_papers():
    config, model = TrainConfig(), ModelConfig()
    assert (config.steps, config.batch_size, config.sigma) == (12_000, 64, 2.0)
    assert (config.clash_distance, config.elastic_cutoff, config.relaxation_percentile) == (
        4.0,
        12.0,
        80.0,
    )
    assert (
        config.continuity_weight,
        config.clash_weight,
        config.elastic_weight,
        config.final_elastic_weight,
    ) == (1, 1, 1, None)
    assert (model.encoder_widths, model.decoder_widths) == (
        (512, 256, 128, 64, 32),
        (32, 64, 128, 256, 512),
    )
    assert model.latent_dim == 8


@pytest.mark.parametrize(
    "name",
    [
        "steps",
        "batch_size",
        "learning_rate",
        "low_pass",
        "sigma",
        "elastic_cutoff",
        "modes",
        "checkpoint_every",
        "log_every",
    ],
)
def test_a_number_that_is_not_positive_is_refused(name, run):
    with pytest.raises(InputError, match=f"{name} = 0; give a positive number"):
        run(config=dataclasses.replace(CONFIG, **{name: 0}))


@pytest.mark.parametrize("percentile", [0.0, 101.0])
def test_a_percentile_beyond_its_range_is_refused(percentile, run):
    with pytest.raises(
        InputError,
        match=f"relaxation_percentile = {percentile}; give a percentage above 0, up to 100",
    ):
        run(config=dataclasses.replace(CONFIG, relaxation_percentile=percentile))


def test_a_batch_of_more_particles_than_there_are_is_refused(run):
    with pytest.raises(
        InputError,
        match="batch_size = 41 is more than the 40 particles; give a smaller --batch-size",
    ):
        run(config=dataclasses.replace(CONFIG, batch_size=41))


# The network


def test_the_encoder_does_not_see_the_brightness_of_an_image(data):
    encoder = Encoder(BAND.size, TINY)
    for plain, bright in zip(encoder(data.vectors), encoder(100 * data.vectors), strict=True):
        assert torch.allclose(plain, bright, atol=1e-5)


def test_the_decoder_adds_a_displacement_to_the_reference(generator):
    reference = torch.randn(5, 3, generator=generator)
    decoder = CartesianDecoder(reference, TINY)
    latent = torch.randn(2, 3, 2, generator=generator)
    displacement = decoder.layers(latent).reshape(2, 3, 5, 3)
    assert torch.allclose(decoder(latent), reference + displacement)
    assert not any(parameter.shape == reference.shape for parameter in decoder.parameters())


@pytest.fixture
def mode_decoder(asymmetric, generator):
    """Make a decoder of normal modes, about a centre that is not the origin, whose network gives this output for every latent."""
    reference = asymmetric[0]
    modes = torch.linalg.qr(torch.randn(15, 2, generator=generator, dtype=torch.float64))[
        0
    ].T.reshape(2, 5, 3)

    def make(coefficients=(0, 0), turn=(0, 0, 0), move=(0, 0, 0)):
        decoder = NormalModeDecoder(reference, modes, TINY).double()
        with torch.no_grad():
            decoder.layers[-1].weight.zero_()
            decoder.layers[-1].bias.copy_(torch.tensor([*coefficients, *turn, *move]))
        return decoder

    return make


LATENT = torch.zeros(2, dtype=torch.float64)


def test_the_decoder_of_normal_modes_starts_near_the_reference(nodes, generator):
    torch.manual_seed(0)
    reference = torch.from_numpy(nodes.positions).float()
    decoder = NormalModeDecoder(
        reference, torch.from_numpy(normal_modes(nodes.positions).vectors).float(), ModelConfig()
    )
    positions = decoder(torch.randn(40, 8, generator=generator))
    distance = rmsd(positions, reference.expand_as(positions))
    assert 0 < distance.min() and distance.max() < 0.5  # Å


def test_a_coefficient_of_one_moves_the_nodes_by_an_angstrom_rms(mode_decoder):
    decoder = mode_decoder((1, 0))
    assert rmsd(decoder(LATENT), decoder.reference).item() == pytest.approx(1)
    both = mode_decoder((3, -4))
    assert torch.allclose(both(LATENT), both.reference + 3 * both.modes[0] - 4 * both.modes[1])
    assert rmsd(both(LATENT), both.reference).item() == pytest.approx(5)


def test_a_translation_is_in_angstrom(mode_decoder):
    decoder = mode_decoder(move=(1, -2, 3))
    assert torch.allclose(
        decoder(LATENT), decoder.reference + torch.tensor([1.0, -2.0, 3.0]).double()
    )


def test_a_quarter_turn_about_z_takes_x_to_y_about_the_centre(mode_decoder):
    decoder = mode_decoder(turn=(0, 0, math.pi / 2))
    centre = decoder.reference.mean(0)
    x, y, z = (decoder.reference - centre).unbind(-1)
    assert torch.allclose(decoder(LATENT), centre + torch.stack([-y, x, z], dim=-1))


def test_the_deformed_structure_is_turned_and_then_moved(mode_decoder):
    coefficients, turn, move = (2.0, -1.0), (0.3, -0.8, 0.5), (4.0, 5.0, -6.0)
    decoder = mode_decoder(coefficients, turn, move)
    centre = decoder.reference.mean(0).numpy()
    deformed = decoder.reference + 2 * decoder.modes[0] - decoder.modes[1]
    expected = Rotation.from_rotvec(turn).apply(deformed.numpy() - centre) + centre + move
    np.testing.assert_allclose(decoder(LATENT).detach(), expected, atol=1e-12)


def test_the_decoder_of_normal_modes_takes_any_batch(asymmetric, mode_decoder, generator):
    decoder = NormalModeDecoder(asymmetric[0], mode_decoder().modes, TINY).double()
    latent = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    positions = decoder(latent)
    assert positions.shape == (3, 4, 5, 3)
    for i, j in itertools.product(range(3), range(4)):
        assert torch.allclose(positions[i, j], decoder(latent[i, j]))


def test_a_decoder_of_normal_modes_comes_back_from_its_state(asymmetric, mode_decoder):
    decoder = mode_decoder((1, 2), (0.1, 0.2, 0.3), (1, 2, 3))
    fresh = NormalModeDecoder(torch.zeros(5, 3), torch.zeros(2, 5, 3), TINY).double()
    fresh.load_state_dict(decoder.state_dict())
    assert torch.equal(fresh(LATENT), decoder(LATENT))


def test_the_latent_is_the_mean_plus_noise_times_the_standard_deviation(data):
    model = DeformationVAE(BAND.size, torch.zeros(24, 3), TINY)
    noise = torch.tensor([[1.0, -2.0]]).expand(len(data), 2)
    positions, mean, log_variance = model(data.vectors, noise)
    assert torch.allclose(positions, model.decoder(mean + noise * (log_variance / 2).exp()))
    assert torch.allclose(model(data.vectors, 0 * noise)[0], model.decoder(mean))


def test_parameters_are_counted():
    # 4 to 3 to 2 neurons with their biases in the encoder, 1 to 5 to 6 in the decoder
    model = DeformationVAE(
        4, torch.zeros(2, 3), ModelConfig(encoder_widths=(3,), decoder_widths=(5,), latent_dim=1)
    )
    assert parameter_count(model) == (4 * 3 + 3 + 3 * 2 + 2) + (1 * 5 + 5 + 5 * 6 + 6)
    assert math.prod(model.decoder.reference.shape) == 6
