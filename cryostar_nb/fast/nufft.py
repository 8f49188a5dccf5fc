"""The Fourier transform of many nodes on a band: the cost grows with the nodes *plus* the pixels.

A non-uniform fast Fourier transform of type 1 (Dutt & Rokhlin 1993): every node is spread through a
smooth window onto the few grid points around it, one FFT transforms the grid, and a division by the
window's own transform takes the window out again. The window is Kaiser and Bessel's,
`I0(beta sqrt(1 - (2 t / w)^2))` over w grid points, with the beta of Beatty, Nishimura & Pauly
(IEEE Trans. Med. Imaging 2005); the grid is about one and a half times as fine as the band needs.
The backward pass is the adjoint. Relative in norm, the result is within 1e-5 of the exact sum, and
its gradient within 5e-5.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import i0
from torch import Tensor

from cryostar_nb.fast import dispatch
from cryostar_nb.fast.grid_cpu import DEGREE, WINDOW
from cryostar_nb.fourier import Band

LARGEST_ERROR = 1e-3  # of three nodes: more is no rounding


@dataclass(frozen=True)
class Plan:
    """What `transform_nodes` needs of a band, on one device and in one precision."""

    size: int  # edge of the fine grid, in points
    columns: int  # of its half spectrum that the band reaches into
    scale: float  # grid points per Å
    polynomials: Tensor  # (DEGREE + 1, WINDOW), the window at each of its grid points
    slopes: Tensor  # (DEGREE, WINDOW), their derivatives
    coefficients: Tensor  # (coefficient,), place of each in the flattened half spectrum
    mirrored: Tensor  # place there of the complex conjugates of those with kx = 0
    on_axis: Tensor  # which coefficients those are
    correction: Tensor  # (coefficient,), one over the transform of the window


@lru_cache(maxsize=16)
def plan(band: Band, device: torch.device, dtype: torch.dtype) -> Plan:
    """The plan of a band: made once, and tried. Raises RuntimeError where the loops are wrong."""
    use = _make_plan(band, device, dtype)
    error = _error_of(use, band, device, dtype)
    if not error < LARGEST_ERROR:
        problem = (
            f"the loops compiled for this processor are wrong by {error:.1e}: please report it"
        )
        raise RuntimeError(
            f"{problem} with the processor's name and the versions of numba and torch"
        )
    return use


def _error_of(use: Plan, band: Band, device: torch.device, dtype: torch.dtype) -> float:
    """Error of the transform of three nodes, and of its adjoint, relative to exact sums."""
    length = band.box_size * band.pixel_size
    places = torch.tensor([[0.1, -0.3, 0], [-0.2, 0.4, 0], [0.33, 0.21, 0]], dtype=torch.float64)
    angle = -2 * math.pi * length * (places[:, :2] @ band.frequencies.mT)
    waves = torch.cat([angle.cos(), angle.sin()], dim=1)  # (node, band)
    steps = torch.cat([-angle.sin(), angle.cos()], dim=1)
    steps = steps * band.per_coefficient(-2 * math.pi * band.frequencies[:, 0])  # d waves / dx
    some = torch.cos(1.7 * torch.arange(band.size, dtype=torch.float64))
    positions = (places[None] * length).to(device, dtype)
    found = _transform(positions, torch.ones_like(positions[0, :, 0]), use)
    values, slopes = _adjoint(some[None].to(device, dtype), positions, use)
    pairs = ((found, waves.sum(0)), (values, waves @ some), (slopes[..., 0], steps @ some))
    return max(float((a[0].cpu().double() - b).norm() / b.norm()) for a, b in pairs)


def _make_plan(band: Band, device: torch.device, dtype: torch.dtype) -> Plan:
    modes = 2 * band.max_index + 1
    sizes = [factor << power for factor in (2, 3, 5, 7) for power in range(3, 16)]
    size = min(size for size in sizes if size >= 1.45 * modes)
    beta = math.pi * math.sqrt((WINDOW * (1 - modes / (2 * size))) ** 2 - 0.8)
    place = np.cos(np.pi * (np.arange(64) + 0.5) / 64) / 2  # Chebyshev nodes in -1/2 ... 1/2
    distance = np.arange(WINDOW)[:, None] - (WINDOW // 2 - 1) - (place + 0.5)
    window = i0(beta * np.sqrt(1 - (2 * distance / WINDOW) ** 2)) / i0(beta)
    polynomials = np.polynomial.polynomial.polyfit(place, window.T, DEGREE)
    slopes = polynomials[1:] * np.arange(1, DEGREE + 1)[:, None]
    kx, ky = band.indices.unbind(-1)
    argument = np.sqrt(beta**2 - (np.pi * WINDOW * np.arange(band.max_index + 1) / size) ** 2)
    transform = torch.from_numpy(WINDOW * np.sinh(argument) / argument / i0(beta))
    on_axis = torch.nonzero(kx == 0).flatten()
    return Plan(
        size=size,
        columns=band.max_index + 1,
        scale=size / (band.box_size * band.pixel_size),
        polynomials=torch.from_numpy(polynomials).to(device, dtype),
        slopes=torch.from_numpy(slopes).to(device, dtype),
        coefficients=((ky % size) * (band.max_index + 1) + kx).to(device),
        mirrored=((-ky[on_axis] % size) * (band.max_index + 1)).to(device),
        on_axis=on_axis.to(device),
        correction=(1 / (transform[kx] * transform[ky.abs()])).to(device, dtype),
    )


def transform_nodes(
    positions: Float[Tensor, "batch atom 3"], amplitudes: Float[Tensor, " atom"], band: Band
) -> Float[Tensor, "batch band"]:
    """Real, then imaginary parts of sum_i A_i exp(-2 pi i k . x_i), at the frequencies of the band.

    z plays no part. Memory grows as batch x (atoms + grid points).
    """
    return _TransformNodes.apply(positions, amplitudes, band)


class _TransformNodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, amplitudes: Tensor, band: Band) -> Tensor:
        positions, amplitudes = positions.contiguous(), amplitudes.to(positions)
        ctx.plan = plan(band, positions.device, positions.dtype)
        ctx.save_for_backward(positions, amplitudes)
        return _transform(positions.detach(), amplitudes.detach(), ctx.plan)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        positions, amplitudes = ctx.saved_tensors
        values, slopes = _adjoint(gradient, positions, ctx.plan)
        return slopes.mul_(amplitudes[:, None]), values.sum(0), None


def _transform(positions: Tensor, amplitudes: Tensor, use: Plan) -> Tensor:
    grid = dispatch.spread(positions, amplitudes, use.polynomials, use.scale, use.size)
    # Along y, only the columns of the band need to be transformed: a fourth of the grid's.
    columns = torch.fft.fft(torch.fft.rfft(grid)[..., : use.columns], dim=-2)
    spectrum = columns.flatten(1).index_select(1, use.coefficients)
    return torch.cat([spectrum.real * use.correction, spectrum.imag * use.correction], dim=-1)


def adjoint_transform(
    vectors: Float[Tensor, "batch band"], positions: Float[Tensor, "batch atom 3"], band: Band
) -> tuple[Float[Tensor, "batch atom"], Float[Tensor, "batch atom 3"]]:
    """The adjoint of `transform_nodes`: values of images at these positions, and gradients, per Å.

    The value at x is the sum over the band of Re(v(k)) cos(2 pi k . x) - Im(v(k)) sin(2 pi k . x);
    the gradient in z is 0. Not differentiable.
    """
    use = plan(band, positions.device, positions.dtype)
    return _adjoint(vectors, positions.contiguous(), use)


def _adjoint(vectors: Tensor, positions: Tensor, use: Plan) -> tuple[Tensor, Tensor]:
    # The field at a grid point x is the real part of sum_k correction(k) v(k) exp(2 pi i k . x). An
    # inverse real FFT adds each coefficient's conjugate; both are filled in where kx = 0.
    real, imaginary = vectors.chunk(2, dim=-1)
    half = torch.complex(real, imaginary) * (0.5 * use.correction)
    spectrum = half.new_zeros(len(half), use.size * use.columns)
    spectrum.index_copy_(1, use.coefficients, half)
    spectrum.index_copy_(1, use.mirrored, half.index_select(1, use.on_axis).conj().resolve_conj())
    columns = torch.fft.ifft(spectrum.unflatten(1, (use.size, -1)), dim=-2, norm="forward")
    field = torch.fft.irfft(columns, n=use.size, norm="forward")
    return dispatch.interpolate(field, positions, use.polynomials, use.slopes, use.scale)
