"""The training loop alone, without a folder or a machine: what it computes, when it stops."""

import ast
import copy
import dataclasses
import inspect
import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from tiny import BAND, CONFIG, CROWDED, SIZES, assert_same_weights

from cryostar_nb import (
    config,
    encoders,
    evaluation,
    latents,
    likelihood,
    losses,
    models,
    poses,
    quality,
    training,
    validation,
)
from cryostar_nb.density import node_density
from cryostar_nb.encoders import StructureEncoder
from cryostar_nb.losses import Restraints, correlation_loss
from cryostar_nb.models import make_network
from cryostar_nb.runs import (
    engine,
    folder,
    held_out,
    low_pass,
    machine,
    pose_refinement,
    run_config,
    start,
)
from cryostar_nb.training import (
    TrainingData,
    infer_latents,
    learn_scale,
    looks_of,
    make_optimiser,
    train,
    with_looks,
)


@pytest.fixture
def make_training(helix_data, helix_nodes):
    """Make a function that trains a new network, and lists the losses of every step.

    It may be called again, to go on where it stopped.
    """

    def make(config=CONFIG):
        torch.manual_seed(config.seed)
        network = make_network(config, SIZES, helix_nodes, BAND)
        learn_scale(network, helix_data)
        optimiser, lines = make_optimiser(config, network), []

        def go_on(stop_after=lambda step, losses: False, start=0, **options):
            def note(step, losses):
                values = {name: value.item() for name, value in losses.items()}
                lines.append({"step": step} | values)
                return stop_after(step, losses)

            return train(
                config,
                network,
                optimiser,
                batches(helix_data, network.encoder, config, start),
                band=BAND,
                density=node_density(helix_nodes, config.sigma),
                restraints=Restraints(helix_nodes, config),
                start=start,
                stop_after=note,
                **options,
            )

        return network, go_on, lines

    return make


def batches(data, encoder, config, start):
    """Batches without end, from a step on; five of eight particles make an epoch."""
    data = with_looks(encoder, data)
    per_epoch = len(data) // config.batch_size
    for step in itertools.count(start):
        order = torch.randperm(
            len(data), generator=torch.Generator().manual_seed(step // per_epoch)
        )
        rows = order.split(config.batch_size)[step % per_epoch]
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(config.batch_size, SIZES.latent_dim, generator=generator)
        yield data.vectors[rows], data.looks[rows], data.rotations[rows], None, noise


def losses_of(make_training, **changes):
    """The losses of every step of a training with these settings."""
    _, run, lines = make_training(dataclasses.replace(CONFIG, **changes))
    run()
    return lines


# The loop


@pytest.mark.parametrize("method", ["star", "nma"])
@pytest.mark.parametrize("encoder_input", ["image", "structure"])
def test_the_loss_goes_down(method, encoder_input, make_training):
    lines = losses_of(make_training, method=method, encoder_input=encoder_input, steps=200, modes=8)
    image = [line["image"] for line in lines]
    assert np.mean(image[-20:]) < np.mean(image[:20]) - 0.02


def test_every_step_is_reported_once_and_the_last_one_is_returned(make_training):
    _, run, lines = make_training()
    assert run() == 60
    assert [line["step"] for line in lines] == list(range(1, 61))


def test_it_stops_after_the_step_that_is_told_to_be_the_last(make_training):
    _, run, lines = make_training()
    assert run(lambda step, losses: step == 7) == 7
    assert [line["step"] for line in lines] == list(range(1, 8))


def test_a_training_that_goes_on_ends_where_an_uninterrupted_one_does(make_training):
    whole, run_whole, whole_lines = make_training(CROWDED)
    parts, run_parts, parts_lines = make_training(CROWDED)
    run_whole()
    run_parts(lambda step, losses: step == 23)
    assert run_parts(start=23) == 60
    assert_same_weights(parts, whole)
    assert parts_lines == whole_lines
    assert all(line["clash"] > 0 for line in whole_lines)


def test_no_step_is_left_at_the_end(make_training):
    network, run, lines = make_training()
    before = copy.deepcopy(network)
    assert run(start=60) == 60
    assert_same_weights(network, before)
    assert lines == []


def test_what_records_the_step_gets_it_once_and_takes_all_steps(make_training):
    calls = []

    def record(step):
        calls.append("record")

        def recorded(*batch):
            calls.append(len(batch[0]))
            return step(*batch)

        return recorded

    plain, run_plain, _ = make_training()
    recorded, run_recorded, _ = make_training()
    run_plain()
    run_recorded(record=record)
    assert calls == ["record"] + [8] * 60
    assert_same_weights(recorded, plain)


def test_the_gradients_are_those_of_the_function_that_is_handed_in(make_training):
    network, run, lines = make_training()
    at_first, handed_in = copy.deepcopy(network), []
    run(backward=lambda loss: handed_in.append(loss.item()))
    assert handed_in == [line["loss"] for line in lines]
    assert_same_weights(network, at_first)


# The losses


def test_the_loss_is_the_weighted_sum_of_its_parts(make_training):
    weights = {"continuity_weight": 0.5, "clash_weight": 2.0, "elastic_weight": 3.0}
    for line in losses_of(make_training, steps=11, final_elastic_weight=0.03, **weights):
        elastic_weight = 3.0 * 0.01 ** ((line["step"] - 1) / 10)
        parts = line["image"] + 0.5 * line["continuity"] + 2 * line["clash"]
        parts += elastic_weight * line["elastic"] + line["kl"] / BAND.box_size**2
        assert line["loss"] == pytest.approx(parts, rel=1e-5)


def test_the_weight_of_the_kl_divergence_can_be_given(make_training):
    (line,) = losses_of(make_training, steps=1, method="nma", modes=8, kl_weight=0.25)
    assert line["loss"] == pytest.approx(line["image"] + 0.25 * line["kl"], rel=1e-5)


@pytest.mark.parametrize(
    ("method", "names"),
    [("star", {"continuity", "elastic", "clash"}), ("cont", {"continuity"}), ("nma", set())],
)
def test_a_method_has_its_losses_and_no_others(method, names, make_training):
    lines = losses_of(make_training, method=method, steps=20, modes=8)
    assert set(lines[0]) == {"step", "loss", "image", "kl"} | names
    weights = {
        "continuity": {"continuity_weight": 1e6},
        "elastic": {"elastic_weight": 1e6, "relaxation_percentile": 1.0},
        "clash": {"clash_weight": 1e6},
    }
    unused = {k: v for name in weights.keys() - names for k, v in weights[name].items()}
    assert losses_of(make_training, method=method, steps=20, modes=8, **unused) == lines


def test_the_first_comparison_is_of_images_blurred_by_a_gaussian(make_training, monkeypatch):
    compared = []

    def spy(images, predictions):
        compared.append((images.detach(), predictions.detach()))
        return correlation_loss(images, predictions)

    monkeypatch.setattr("cryostar_nb.training.correlation_loss", spy)
    for blur in (0.0, 4.5):
        losses_of(make_training, steps=1, initial_blur=blur)
    for sharp, blurred in zip(*compared, strict=True):
        expected = gaussian_filter(  # 4.5 Å are 1.5 pixels of 3 Å
            BAND.decode(sharp).numpy(), (0, 1.5, 1.5), mode="wrap", truncate=8
        )
        largest = np.abs(expected).max()
        np.testing.assert_allclose(BAND.decode(blurred), expected, atol=2e-3 * largest)


# The particles


@pytest.fixture
def data_with_ctf(helix_data, generator):
    ctf = torch.randn(len(helix_data), 6, generator=generator)
    shifts = torch.randn(len(helix_data), 2, generator=generator)
    return TrainingData(helix_data.vectors.half(), helix_data.rotations, ctf, shifts=shifts)


def test_the_parts_are_all_particles_in_order_at_single_precision(data_with_ctf):
    parts = list(data_with_ctf.split(16))
    assert [len(images) for images, *_ in parts] == [16, 16, 8]
    images, rotations, ctf, shifts = (torch.cat(column) for column in zip(*parts, strict=True))
    assert images.dtype == torch.float32
    assert torch.equal(images, data_with_ctf.vectors.float())
    assert torch.equal(rotations, data_with_ctf.rotations)
    assert torch.equal(ctf, data_with_ctf.ctf)
    assert torch.equal(shifts, data_with_ctf.shifts)


def test_particles_without_a_ctf_or_shifts_are_parted_without(helix_data):
    assert [rest for _, _, *rest in helix_data.split(16)] == [[None, None]] * 3


@pytest.mark.parametrize("encoder_input", ["image", "structure"])
def test_the_latents_are_the_means_of_the_encoder(encoder_input, helix_data, helix_nodes):
    sought = dataclasses.replace(CONFIG, encoder_input=encoder_input)
    network = make_network(sought, SIZES, helix_nodes, BAND)
    looks = network.encoder.look(helix_data.vectors, helix_data.rotations, None)
    expected, _ = network.encoder(looks)
    found = infer_latents(network, helix_data)
    assert torch.equal(found, expected) and not found.requires_grad
    half = infer_latents(network, with_looks(network.encoder, helix_data))
    assert torch.allclose(half, expected, atol=2e-3)


def test_what_an_encoder_sees_is_made_once(helix_data, helix_nodes, monkeypatch):
    by_structure = dataclasses.replace(CONFIG, encoder_input="structure")
    encoder = make_network(by_structure, SIZES, helix_nodes, BAND).encoder
    data = with_looks(encoder, helix_data)
    expected = encoder.look(helix_data.vectors, helix_data.rotations, None)
    assert data.looks.dtype == torch.float16
    assert torch.allclose(data.looks.float(), expected, rtol=1e-3, atol=1e-3)
    monkeypatch.delattr(StructureEncoder, "look")
    assert with_looks(encoder, data) is data
    parts = list(looks_of(encoder, data, 16))
    assert [len(part) for part in parts] == [16, 16, 8]
    assert torch.equal(torch.cat(parts), data.looks.float())


def test_the_encoder_of_images_sees_the_images_themselves(helix_data, helix_nodes):
    encoder = make_network(CONFIG, SIZES, helix_nodes, BAND).encoder
    assert with_looks(encoder, helix_data).looks is helix_data.vectors


def test_the_scale_of_the_encoder_is_that_of_the_particles(helix_data, helix_nodes):
    by_structure = dataclasses.replace(CONFIG, encoder_input="structure")
    network = make_network(by_structure, SIZES, helix_nodes, BAND)
    encoder = network.encoder
    assert isinstance(encoder, StructureEncoder)
    learn_scale(network, helix_data)
    numbers = encoder.look(helix_data.vectors, helix_data.rotations, None)
    standardised = (numbers - encoder.centre) / encoder.spread
    assert torch.allclose(standardised.mean(0), torch.zeros(()), atol=1e-4)
    assert torch.allclose(standardised.std(0), torch.ones(()), atol=1e-4)


# Its size


def functions_of(module):
    tree = ast.parse(inspect.getsource(module))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize(
    "module",
    [
        *(config, encoders, evaluation, latents, likelihood, losses, models, poses, quality),
        *(training, validation),
        *(run_config, engine, folder, held_out, low_pass, machine, pose_refinement, start),
    ],
    ids=lambda module: module.__name__,
)
def test_no_function_is_longer_than_a_page_but_the_loop(module):
    for function in functions_of(module):
        lines = function.end_lineno - function.lineno + 1
        assert lines <= (90 if function.name == "train" else 60), function.name
