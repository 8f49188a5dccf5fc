"""The fast sum over nodes is the exact one, whatever the nodes, the band and the threads."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from cryostar_nb import projector
from cryostar_nb.fast import dispatch, grid_cpu, nufft
from cryostar_nb.fast.nufft import transform_nodes
from cryostar_nb.fourier import Band
from cryostar_nb.projector import project_band

BANDS = {
    "the paper's": Band(128, 1.0, 4.0),
    "all of an even box": Band(64, 4.25, 8.5),
    "all of an odd box": Band(63, 4.25, 8.5),
    "a handful": Band(16, 3.0, 24.0),
}
EVERY_BAND = pytest.mark.parametrize("band", BANDS.values(), ids=BANDS)


@pytest.fixture
def fresh():
    """A generator with another seed in each run of the tests; pytest shows it when a test fails."""
    generator = torch.Generator()
    print("seed", generator.seed())
    return generator


def exact_sum(positions, amplitudes, band):
    """The definition, in float64: sum_i A_i exp(-2 pi i k . x_i)."""
    angle = -2 * math.pi * (positions[..., :2].double() @ band.frequencies.mT)
    weights = amplitudes.double()[:, None]
    return torch.cat([(weights * angle.cos()).sum(-2), (weights * angle.sin()).sum(-2)], dim=-1)


def apart(value, expected):
    """Error relative in norm."""
    return float((value.detach() - expected.detach()).norm() / expected.detach().norm())


@pytest.mark.slow
@EVERY_BAND
@pytest.mark.parametrize("precision", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_it_is_the_exact_sum_and_so_are_its_gradients(precision, band, fresh):
    length = band.box_size * band.pixel_size
    positions = (
        (torch.rand(3, 150, 3, generator=fresh, dtype=torch.float64) - 0.5) * 1.5 * length
    )  # some beyond the box
    amplitudes = torch.rand(150, generator=fresh, dtype=torch.float64) * 50
    gradient = torch.randn(3, band.size, generator=fresh, dtype=torch.float64)
    positions, amplitudes, exact_positions, exact_amplitudes = (
        tensor.requires_grad_()
        for tensor in (positions.to(precision), amplitudes.to(precision), positions, amplitudes)
    )
    exact, fast = (
        exact_sum(exact_positions, exact_amplitudes, band),
        transform_nodes(positions, amplitudes, band),
    )
    exact.backward(gradient)
    fast.backward(gradient.to(precision))
    assert fast.dtype == precision
    assert apart(fast, exact) < 1e-5
    assert apart(positions.grad, exact_positions.grad) < 5e-5
    assert apart(amplitudes.grad, exact_amplitudes.grad) < 1e-5
    assert torch.equal(positions.grad[..., 2], torch.zeros(3, 150))


@EVERY_BAND
def test_a_projection_is_the_same_by_either_method(band, fresh):
    positions = ((torch.rand(4, 120, 3, generator=fresh) - 0.5) * 100).requires_grad_()
    amplitudes, sigma = torch.rand(120, generator=fresh) * 50, torch.tensor(2.0)
    gradient = torch.randn(4, band.size, generator=fresh)
    results = {}
    for method in ("exact", "spread"):
        vectors = project_band(positions, amplitudes, sigma, band, method=method)
        results[method] = vectors, torch.autograd.grad(vectors, positions, gradient)[0]
    for fast, exact, bound in zip(results["spread"], results["exact"], (2e-5, 5e-5), strict=True):
        assert apart(fast, exact) < bound


def test_the_gradient_is_that_of_what_is_computed(fresh):
    band = Band(9, 4.0, 8.0)
    inputs = [
        (torch.rand(2, 7, 3, generator=fresh, dtype=torch.float64) - 0.5) * 20,
        torch.rand(7, generator=fresh, dtype=torch.float64),
    ]
    assert gradcheck(
        lambda x, a: transform_nodes(x, a, band), [tensor.requires_grad_() for tensor in inputs]
    )


def test_the_choice_goes_by_the_number_of_nodes_and_can_be_forced(monkeypatch):
    used = []
    monkeypatch.setattr(
        projector,
        "transform_nodes",
        lambda x, a, band: used.append(len(a)) or transform_nodes(x, a, band),
    )
    band, few = Band(32, 3.0, 8.0), projector.FEW_NODES
    for nodes, options in (
        (few, {}),
        (few + 1, {}),
        (few + 2, {"method": "exact"}),
        (3, {"method": "spread"}),
    ):
        project_band(
            torch.zeros(1, nodes, 3), torch.ones(nodes), torch.tensor(2.0), band, **options
        )
    double = torch.zeros(1, few + 3, 3, dtype=torch.float64)
    project_band(double, double[0, :, 0], torch.tensor(2.0).double(), band)
    assert used == [few + 1, 3]


def test_the_exact_method_works_through_a_large_batch_in_parts(monkeypatch, fresh):
    band = Band(20, 3.0, 8.0)
    positions = ((torch.rand(5, 30, 3, generator=fresh) - 0.5) * 40).requires_grad_()
    gradient = torch.randn(5, band.size, generator=fresh)
    whole = project_band(positions, torch.ones(30), torch.tensor(2.0), band, method="exact")
    monkeypatch.setattr(
        projector, "TABLE_FLOATS", 2 * 4 * (band.max_index + 1) * 30
    )  # two images at a time
    parts = project_band(positions, torch.ones(30), torch.tensor(2.0), band, method="exact")
    assert torch.allclose(parts, whole, atol=1e-7)
    slopes = [torch.autograd.grad(vectors, positions, gradient)[0] for vectors in (whole, parts)]
    assert torch.allclose(*slopes, atol=1e-6)


def test_an_atom_that_is_nowhere_is_seen_at_once(generator):
    positions = torch.randn(2, 120, 3, generator=generator) * 20
    positions[1, 7, 0] = math.nan
    positions.requires_grad_()
    vectors = transform_nodes(positions, torch.ones(120), Band(32, 3.0, 8.0))
    assert torch.isfinite(vectors[0]).all() and torch.isnan(vectors[1]).all()
    vectors.nan_to_num().sum().backward()
    assert torch.isfinite(positions.grad[0]).all() and torch.isnan(positions.grad[1, 7, 0])


def test_the_number_of_threads_changes_nothing(generator):
    positions, amplitudes = (
        torch.randn(5, 120, 3, generator=generator) * 20,
        torch.rand(120, generator=generator),
    )
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            leaf = positions.clone().requires_grad_()
            vectors = transform_nodes(leaf, amplitudes, Band(32, 3.0, 8.0))
            vectors.square().sum().backward()
            results.append((vectors.detach(), leaf.grad))
    finally:
        torch.set_num_threads(before)
    assert all(
        torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0], strict=True)
    )


def test_an_error_in_a_thread_comes_out(monkeypatch):
    def kernel(first, last):
        if first:
            raise RuntimeError(f"images {first} to {last}")

    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with pytest.raises(RuntimeError, match="images 2 to 4"):
        grid_cpu.in_parallel(kernel, 6)


@pytest.mark.parametrize("kernel", ["spread", "interpolate"])
def test_loops_that_are_compiled_wrongly_are_noticed(kernel, monkeypatch):
    """As a fault in the compiler would make them: one line of the window is left out."""
    right = getattr(grid_cpu, kernel)

    def wrong(points, others, polynomials, *rest):
        right(points, others, polynomials, *rest)
        rest[1 if kernel == "spread" else 2][:, ::8] = 0

    monkeypatch.setattr(grid_cpu, kernel, wrong)
    with pytest.raises(RuntimeError, match="compiled for this processor are wrong"):
        nufft.plan(Band(40, 1.0, 4.1), torch.device("cpu"), torch.float32)


MEMORY = """
import resource, torch
from cryostar_nb.fourier import Band
from cryostar_nb.projector import project_band
torch.set_num_threads(1)
def run(batch, nodes):
    positions = ((torch.rand(batch, nodes, 3) - 0.5) * 400).requires_grad_()
    sigma, band = torch.tensor(2.0), Band(128, 4.25, 8.5)
    project_band(positions, torch.ones(nodes), sigma, band).square().sum().backward()
run(1, 200)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(16, 13_936)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * UNIT)
"""


def test_memory_is_that_of_the_nodes_and_of_the_pixels_not_of_their_product():
    unit = 1 if sys.platform == "darwin" else 1024
    script = MEMORY.replace("UNIT", str(unit))
    command = [sys.executable, "-c", script]
    used = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    # Bytes of a table of every node at every pixel of an axis; the dense way needs four.
    product = 16 * 13_936 * 128 * 4
    assert used < product


@pytest.mark.parametrize("size", [56, 96, 112, 128])
def test_a_node_within_a_rounding_of_the_edge_stays_on_the_grid(size, generator):
    polynomials = torch.rand(grid_cpu.DEGREE + 1, grid_cpu.WINDOW, generator=generator)
    edges = torch.tensor([float(turn * size) for turn in range(-3, 4)])
    near = torch.cat([edges, edges.nextafter(edges - 1), edges.nextafter(edges + 1)])
    positions = torch.stack([near, near.flip(0), torch.zeros_like(near)], dim=-1)[:, None]
    grid = dispatch.spread(positions, torch.ones(1), polynomials, 1.0, size)
    inside = torch.tensor([[10.0, 10.0, 0], [10 - 1e-6, 10.0, 0], [10 - 1e-6, 10 - 1e-6, 0]])[
        :, None
    ]  # left or right of a point
    possible = dispatch.spread(inside, torch.ones(1), polynomials, 1.0, size).sum((1, 2))
    off = ((grid.sum((1, 2))[:, None] - possible) / possible).abs().amin(1)
    assert off.max() < 1e-3
    field = torch.ones(len(positions), size, size)
    values, _ = dispatch.interpolate(field, positions, polynomials, polynomials[1:], 1.0)
    np.testing.assert_allclose(values[:, 0], grid.sum((1, 2)), rtol=1e-4)


def test_sums_of_no_nodes_are_zero():
    band = Band(16, 3.0, 8.0)
    assert torch.equal(
        transform_nodes(torch.zeros(2, 0, 3), torch.zeros(0), band), torch.zeros(2, band.size)
    )


def test_a_shift_by_the_box_changes_nothing(generator):
    band = Band(24, 2.0, 6.0)
    positions = torch.randn(1, 150, 3, generator=generator, dtype=torch.float64) * 10
    moved = positions + torch.tensor([48.0, -96.0, 5.0])
    amplitudes = torch.rand(150, generator=generator, dtype=torch.float64)
    results = [transform_nodes(x, amplitudes, band).numpy() for x in (positions, moved)]
    np.testing.assert_allclose(*results, atol=1e-9)
