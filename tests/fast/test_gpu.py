"""The GPU's kernels do what the CPU's do.

Without a GPU, Triton's interpreter runs them here, where Triton is installed.
"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are first imported
pytest.importorskip(
    "triton",
    reason="Triton is not installed: it comes with PyTorch's CUDA builds, or by pip install triton",
)

from cryostar_nb.fast import dispatch, gpu
from cryostar_nb.fast.nufft import plan, transform_nodes
from cryostar_nb.fast.pairs import clash_sums
from cryostar_nb.fourier import Band

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BAND = Band(32, 3.0, 8.0)
# The interpreter's integers overflow, as they should.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture
def nodes(generator):
    """Three images of fifty nodes, a part of them beyond the box, and their amplitudes."""
    positions = (torch.rand(3, 50, 3, generator=generator) - 0.5) * 120
    return positions.to(DEVICE), torch.rand(50, generator=generator).to(DEVICE)


def test_spreading(nodes):
    positions, amplitudes = nodes
    use = plan(BAND, torch.device("cpu"), torch.float32)
    expected = dispatch.spread(
        positions.cpu(), amplitudes.cpu(), use.polynomials, use.scale, use.size
    )
    made = gpu.spread(positions, amplitudes, use.polynomials.to(DEVICE), use.scale, use.size)
    assert torch.allclose(made.cpu(), expected, atol=1e-5)


def test_interpolation(nodes, generator):
    positions, _ = nodes
    use = plan(BAND, torch.device("cpu"), torch.float32)
    field = torch.randn(3, use.size, use.size, generator=generator)
    expected = dispatch.interpolate(field, positions.cpu(), use.polynomials, use.slopes, use.scale)
    moved = [tensor.to(DEVICE) for tensor in (field, positions, use.polynomials, use.slopes)]
    for made, wanted in zip(gpu.interpolate(*moved, use.scale), expected, strict=True):
        assert torch.allclose(made.cpu(), wanted, atol=1e-4)


@pytest.mark.parametrize("spread", [12.0, 60.0])
def test_clashes(spread, generator):
    positions = (torch.rand(3, 70, 3, generator=generator) - 0.5) * spread
    positions[:, ::7] = positions[:, 1::7] + torch.randn(3, 10, 3, generator=generator)
    bonded = torch.rand(70, generator=generator) < 0.7
    expected = list(dispatch.clashes(positions.permute(1, 2, 0).contiguous(), bonded, 4.0))
    expected[2] = expected[2].permute(2, 0, 1)
    for made, wanted in zip(
        gpu.clashes(positions.to(DEVICE), bonded.to(DEVICE), 4.0), expected, strict=True
    ):
        assert torch.allclose(made.cpu(), wanted, atol=1e-3)
    assert expected[1].min() > 0


def test_the_losses_and_their_gradients_come_out_the_same(nodes, generator, monkeypatch):
    positions, amplitudes = nodes
    gradient = torch.randn(3, BAND.size, generator=generator)
    bonded = torch.ones(50, dtype=torch.bool)

    def run(device):
        leaf = (positions.to(device) * 0.3).requires_grad_()
        vectors = transform_nodes(leaf, amplitudes.to(device), BAND)
        penalties, _ = clash_sums(leaf.permute(1, 2, 0), bonded.to(device), 4.0)
        ((vectors * gradient.to(device)).sum() + penalties.sum()).backward()
        return vectors.detach().cpu(), penalties.detach().cpu(), leaf.grad.cpu()

    expected = run("cpu")
    monkeypatch.setattr(dispatch, "uses_gpu", lambda tensor: True)
    for made, wanted in zip(run(DEVICE), expected, strict=True):
        assert torch.allclose(made, wanted, atol=1e-3, rtol=1e-4)
