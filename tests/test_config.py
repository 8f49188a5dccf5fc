"""Settings: what they refuse, how they change from step to step, and the two presets."""

import dataclasses
import math
import re
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

from cryostar_nb.config import PRESETS, ModelConfig, TrainConfig, settings
from cryostar_nb.errors import InputError
from cryostar_nb.io.options import Reading
from cryostar_nb.prepare.options import Choice, Preprocessing
from cryostar_nb.runs.run_config import Grid, Hardware, InputFiles, LandscapeConfig, MapConfig
from cryostar_nb.simulation.options import Faults, ImperfectReference, SimulationConfig

REQUIRED = {
    Grid: {"box_size": 8, "pixel_size": 1.0, "n_particles": 4},
    InputFiles: {"particles": Path("p.star"), "reference": Path("r.pdb")},
}
# A value outside the bound of every setting that has one.
OUTSIDE = {
    TrainConfig: {
        "steps": 0,
        "batch_size": 0,
        "learning_rate": 0.0,
        "warmup_steps": -1,
        "seed": -1,
        "weight_decay": -0.1,
        "low_pass": 0.0,
        "initial_blur": -1.0,
        "sigma": 0.0,
        "atom_sigma": 0.0,
        "continuity_weight": -1.0,
        "clash_weight": -1.0,
        "clash_distance": -4.0,
        "elastic_weight": -1.0,
        "final_elastic_weight": 0.0,
        "elastic_cutoff": 0.0,
        "relaxation_percentile": 0.0,
        "kept_along_chain": -1,
        "side_chain_sd": -1.0,
        "group_correlation": 1.0,
        "modes": 0,
        "kl_weight": -1.0,
        "checkpoint_every": 0,
        "log_every": 0,
        "held_out": 0.51,
    },
    ModelConfig: {"encoder_widths": (4, 0), "decoder_widths": (-4,), "latent_dim": 0},
    Hardware: {"devices": 0, "num_nodes": -1, "memory_gb": 0.0},
    Grid: {"box_size": 0, "pixel_size": 0.0, "n_particles": 0},
    InputFiles: {"map_pixel_size": -1.0},
    SimulationConfig: {
        "n_particles": 0,
        "box_size": 0,
        "pixel_size": 0.0,
        "snr": 0.0,
        "states": 0,
        "resolution": 0.0,
        "defocus_log_sd": -0.1,
        "voltage_kv": 0.0,
        "amplitude_contrast": 1.1,
        "first_share": 1.1,
        "seed": -1,
    },
    Faults: {
        "rotation_error": -1.0,
        "shift_error": -1.0,
        "defocus_error": -1.0,
        "astigmatism": -1.0,
        "astigmatism_error": -1.0,
        "mtf": 0.0,
        "b_factor": -1.0,
        "b_factor_sd": -1.0,
        "contrast_sd": -0.1,
        "solvent": 1.1,
        "solvent_blur": 0.0,
        "ice_gradient": -0.1,
        "neighbours": -0.1,
        "junk": 1.0,
        "uneven_views": -1.0,
    },
    ImperfectReference: {
        "reference_rotamers": 1.1,
        "reference_gap": -1,
        "reference_shift": -1.0,
        "reference_state": 0,
    },
    Preprocessing: {
        "box_size": 3,
        "low_pass": 0.0,
        "background_radius": 0.0,
        "mask_radius": -1.0,
        "mask_edge": 0.0,
    },
    MapConfig: {
        "pc": 0,
        "bins": 0,
        "clusters": 0,
        "quality": 1.5,
        "resolution": 0.0,
        "mask_radius": -1.0,
    },
    Choice: {"pc": 0, "above": -1.0, "below": 101.0, "quality": 1.1, "cluster": -1},
    LandscapeConfig: {"pc": 0, "bins": 1, "clusters": 0, "between": (0, 2), "quality": 1.1},
    Reading: {"pixel_size": 0.001},
}
BOUNDED = [(kind, name) for kind, values in OUTSIDE.items() for name in values]


def refusal(kind, **values):
    """The error that these settings give."""
    with pytest.raises(InputError) as caught:
        kind(**REQUIRED.get(kind, {}) | values)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "name"), BOUNDED, ids=[f"{kind.__name__}.{name}" for kind, name in BOUNDED]
)
def test_a_value_outside_its_bound_is_refused_by_name(kind, name):
    value = OUTSIDE[kind][name]
    error = refusal(kind, **{name: value})
    assert error.problem.startswith(f"{name} = ") and error.remedy
    assert error.value == value or error.value in value


@pytest.mark.parametrize("kind", OUTSIDE)
def test_every_bound_is_tested(kind):
    hints = get_type_hints(kind, include_extras=True)
    bounded = {name for name, hint in hints.items() if re.search(r"\b[gl][te]=", repr(hint))}
    assert bounded == set(OUTSIDE[kind])


def test_the_numbers_of_numpy_are_welcome_and_become_those_of_python():
    config = TrainConfig(steps=np.int64(7), learning_rate=np.float32(0.5), kl_weight=np.float64(2))
    values = (config.steps, config.learning_rate, config.kl_weight)
    assert values == (7, 0.5, 2.0) and [type(value) for value in values] == [int, float, float]


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", True, None])
@pytest.mark.parametrize("name", ["learning_rate", "relaxation_percentile", "steps"])
def test_what_is_no_number_is_refused(name, value):
    error = refusal(TrainConfig, **{name: value})
    np.testing.assert_equal(error.value, value)
    assert error.problem.startswith(name)


def test_a_word_that_is_not_offered_is_refused_and_the_others_are_named():
    error = refusal(TrainConfig, density="residues")
    assert error.value == "residues" and "nodes" in error.remedy and "atoms" in error.remedy
    assert refusal(TrainConfig, low_pass="automatic").value == "automatic"
    assert TrainConfig(low_pass="auto").low_pass == "auto"


def test_a_setting_that_does_not_exist_is_refused():
    assert "batch_sizes" in refusal(TrainConfig, batch_sizes=64).problem


def test_an_elastic_weight_of_zero_cannot_decay():
    assert refusal(TrainConfig, elastic_weight=0.0).value == 0.0
    off = TrainConfig(elastic_weight=0.0, final_elastic_weight=None)
    assert off.elastic_weight_at(5) == 0.0


def test_the_share_of_a_population_needs_two_of_them():
    assert refusal(SimulationConfig, first_share=0.2).value == 0.2
    assert SimulationConfig(populations="two", first_share=0.2).first_share == 0.2


def test_stopping_early_needs_particles_that_are_held_out():
    assert refusal(TrainConfig, stop_early=True, held_out=0.0).value == 0.0
    assert TrainConfig(stop_early=True).held_out == 0.05


def test_normal_modes_have_a_decoder_of_their_own():
    assert refusal(TrainConfig, method="nma", decoder="chain").value == "chain"


def test_changed_settings_are_checked_again_and_the_old_ones_stay():
    config = TrainConfig()
    with pytest.raises(InputError):
        dataclasses.replace(config, steps=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 5
    assert config == TrainConfig()


def test_an_error_within_settings_is_handed_on_as_it_is():
    @settings
    class Outer:
        inner: TrainConfig

    error = refusal(Outer, inner={"elastic_weight": 0.0})
    assert error.problem == refusal(TrainConfig, elastic_weight=0.0).problem


# What changes from step to step


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
    rates = [config.learning_rate_at(step) for step in (0, 99, 100, 999)]
    assert rates == pytest.approx([0.02, 2, 2, 2])


def test_the_elastic_weight_decays_by_a_constant_factor_or_stays():
    falling = TrainConfig(steps=101, elastic_weight=1.0, final_elastic_weight=0.01)
    weights = [falling.elastic_weight_at(step) for step in (0, 50, 100)]
    assert weights == pytest.approx([1.0, 0.1, 0.01])
    steady = TrainConfig(elastic_weight=0.3, final_elastic_weight=None)
    assert {steady.elastic_weight_at(step) for step in (0, 50, 100)} == {0.3}


def test_the_blur_falls_to_none_at_half_of_the_steps():
    config = TrainConfig(steps=100, initial_blur=20.0)
    assert [config.blur_at(step) for step in (0, 25, 50, 99)] == [20.0, 10.0, 0.0, 0.0]


# Presets


def test_the_preset_paper_has_the_constants_of_the_paper():
    config, model = PRESETS["paper"], ModelConfig()
    assert (config.steps, config.batch_size, config.sigma) == (12_000, 64, 2.0)
    assert (config.density, config.encoder_input, config.initial_blur) == ("nodes", "image", 0)
    assert (config.clash_distance, config.elastic_cutoff) == (4.0, 12.0)
    assert config.relaxation_percentile == 80.0 and config.kl_weight is None
    weights = (config.continuity_weight, config.clash_weight, config.elastic_weight)
    assert weights == (1, 1, 1) and config.final_elastic_weight is None
    assert model.encoder_widths == (512, 256, 128, 64, 32)
    assert model.decoder_widths == (32, 64, 128, 256, 512)
    assert model.latent_dim == 8


def test_the_preset_standard_is_the_default():
    config = PRESETS["standard"]
    assert config == TrainConfig()
    assert (config.density, config.encoder_input) == ("groups", "structure")
    assert config.final_elastic_weight == 0.005
