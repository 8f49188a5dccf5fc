"""Appendix A: the resolution down to which a model's density agrees with a map."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused

from cryostar_nb.config import TrainConfig
from cryostar_nb.density import make_density, model_density
from cryostar_nb.fourier import centred_fft, centred_ifft, first_crossing
from cryostar_nb.io.maps import DensityMap, write_map
from cryostar_nb.io.structures import read_structure
from cryostar_nb.pages import figures
from cryostar_nb.runs.low_pass import agreement_with_map, density_quality, low_pass_from_map
from cryostar_nb.runs.run_config import Hardware, InputFiles
from cryostar_nb.runs.start import start_run
from cryostar_nb.structure import coarse_grain

DATA = Path(__file__).parents[2] / "data"


@pytest.mark.parametrize(
    ("curve", "crossing"),
    [
        ([1.0, 0.8, 0.6, 0.4, 0.2, 0.0], 0.35),  # between 0.3 and 0.4
        ([0.2, 0.9, 0.6, 0.4, 0.9, 0.9], 0.35),  # once it was above; a later rise does not count
        ([1.0, 0.9, 0.9, 0.9, 0.9, 0.9], 0.6),  # never: the last shell
    ],
)
def test_the_cutoff_is_where_a_curve_first_falls_below_a_half(curve, crossing):
    frequencies = torch.arange(1, 7) / 10
    assert first_crossing(frequencies, torch.tensor(curve)) == pytest.approx(1 / crossing, rel=1e-6)


def test_a_curve_that_is_never_above_has_no_cutoff():
    assert first_crossing(torch.arange(1, 4) / 10, torch.tensor([0.4, 0.3, 0.1])) is None


@pytest.fixture(scope="module")
def closed():
    return read_structure(DATA / "1ake.pdb")


def map_of(positions, amplitudes, cut, *, box_size=48, pixel_size=1.6):
    """A map of Gaussians that has another, unrelated density beyond a resolution."""
    grid = {"box_size": box_size, "pixel_size": pixel_size}
    same = centred_fft(model_density(positions, amplitudes, 1.5, **grid), 3)
    other = centred_fft(model_density(-positions.flip(-1), amplitudes, 1.5, **grid), 3)
    axis = (torch.arange(box_size) - box_size // 2) / (box_size * pixel_size)
    k = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    return DensityMap(
        centred_ifft(torch.where(k < 1 / cut, same, other), 3), pixel_size, np.zeros(3)
    )


@pytest.fixture(scope="module")
def gaussians(closed):
    """Positions and electrons of the atoms."""
    return torch.from_numpy(closed.positions).float(), torch.from_numpy(closed.electrons).float()


@pytest.mark.parametrize("cut", [12.0, 6.0])
def test_the_cutoff_is_where_a_map_stops_showing_the_model(gaussians, cut):
    agreement = agreement_with_map(*gaussians, 2.0, map_of(*gaussians, cut))
    assert agreement.cutoff == pytest.approx(cut, rel=0.12)  # a shell is 1/77 Å wide


def test_a_model_that_does_not_lie_in_the_map_is_told_to_be_docked(gaussians):
    positions, amplitudes = gaussians
    with refused() as caught:
        agreement_with_map(positions + 25, amplitudes, 2.0, map_of(*gaussians, 6.0))
    assert caught.value.value < 0.5 and "cryostar-nb dock" in caught.value.remedy


def test_the_panels_of_figure_5(closed):
    quality = density_quality(closed, box_size=64, pixel_size=1.0)
    mass = [float(volume.sum()) for volume in (quality.full, quality.coarse)]
    assert mass == pytest.approx(
        [closed.electrons.sum(), coarse_grain(closed).electrons.sum()], rel=1e-3
    )
    assert 3.5 < quality.agreement.cutoff < 8  # notebook 01: at 4 Å, after a dip to a half near 6 Å
    curve = quality.agreement
    figure = figures.density_quality(
        quality.full.numpy(),
        quality.coarse.numpy(),
        curve.frequencies.numpy(),
        curve.correlation.numpy(),
        cutoff=curve.cutoff,
    )
    assert len(figure.axes) == 3
    alone = figures.fsc(
        curve.frequencies.numpy(), {"a": curve.correlation.numpy()}, cutoff=curve.cutoff
    )
    marked = alone.axes[0].lines[-1]
    assert (float(marked.get_xdata()[0]), float(marked.get_ydata()[0])) == pytest.approx(
        (1 / curve.cutoff, 0.5)
    )


# Training down to there


@pytest.mark.parametrize("density", ["nodes", "atoms", "groups"])
def test_training_stores_the_number_that_was_found(
    density, gaussians, closed, particles, tmp_path, capsys
):
    write_map(tmp_path / "map.mrc", map_of(*gaussians, 12.0))
    inputs = InputFiles(particles / "particles.star", DATA / "1ake.pdb", map=tmp_path / "map.mrc")
    config = TrainConfig(low_pass="auto", steps=2, batch_size=16, density=density)
    run = start_run(inputs, config, tmp_path / "run", hardware=Hardware("cpu"))
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["train"]["low_pass"]
    assert isinstance(stored, float) and stored == pytest.approx(12.0, rel=0.12)
    assert run.config.low_pass == run.band.resolution == stored
    assert f"low-pass {stored} Å" in capsys.readouterr().out
    nodes = coarse_grain(closed)
    images = make_density(run.config, closed, nodes)
    assert torch.equal(run.density.amplitudes, images.amplitudes)
    found = low_pass_from_map(make_density(config, closed, nodes), nodes, tmp_path / "map.mrc")
    assert found == stored
