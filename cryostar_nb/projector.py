"""From Gaussians to images (equations 1 and 10): the part of cryoSTAR that is physics, not network.

A node is an isotropic Gaussian that carries *mass*: it integrates to its number of electrons,
whatever its width. Positions and widths are in Å; the origin is the centre of the box, pixel
`box_size // 2`. Images hold the integral of the density along z, in electrons/Å^2.

`gaussian_density` and `project_real` evaluate the Gaussians on the pixels, as one would write them
on a blackboard. They are right where a Gaussian is wider than a pixel. `project_band` evaluates
their Fourier transform,

    F(k) = exp(-2 pi^2 sigma^2 |k|^2) sum_i A_i exp(-2 pi i k . x_i),

at the frequencies of a `Band`: right at any width, and all that training needs. It sums over few
nodes by matrix products, and over many through a fine grid and one FFT (`fast/nufft.py`).
"""

import math
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cryostar_nb.ctf import CTFParameters, contrast_transfer_function, ctf_terms
from cryostar_nb.fast.dispatch import available
from cryostar_nb.fast.nufft import transform_nodes
from cryostar_nb.fourier import Band, coordinate_axis, turn_phases

Method = Literal["auto", "exact", "spread"]
FEW_NODES = 100  # up to here matrix products are as fast or faster (benchmarks/projector.py)
TABLE_FLOATS = 1 << 22  # numbers in the tables of the exact sum at a time


def _profiles(coordinates: Tensor, sigma: Tensor, box_size: int, pixel_size: float) -> Tensor:
    """Unit-mass Gaussians, (*batch, atom, box), of each node along one axis, in 1/Å."""
    axis, width = coordinate_axis(box_size, pixel_size).to(coordinates), sigma[..., None]
    exponent = -(axis - coordinates[..., None]).square() / (2 * width.square())
    return torch.exp(exponent) / (math.sqrt(2 * math.pi) * width)


def gaussian_density(
    positions: Float[Tensor, "*batch atom 3"],
    amplitudes: Float[Tensor, " atom"],
    sigma: Float[Tensor, "*atom"],
    *,
    box_size: int,
    pixel_size: float,
) -> Float[Tensor, "*batch z y x"]:
    """Density of the nodes on a grid (eq. 1 with normalised Gaussians), in electrons/Å^3."""
    x, y, z = (_profiles(xyz, sigma, box_size, pixel_size) for xyz in positions.unbind(-1))
    return torch.einsum("...az,...ay,...ax->...zyx", z * amplitudes[:, None], y, x)


def project_real(
    positions: Float[Tensor, "*batch atom 3"],
    amplitudes: Float[Tensor, " atom"],
    sigma: Float[Tensor, "*atom"],
    *,
    box_size: int,
    pixel_size: float,
) -> Float[Tensor, "*batch y x"]:
    """Projections along z, evaluated on the pixels, in electrons/Å^2. No CTF.

    A Gaussian integrated along z is a Gaussian in x and y. One narrower than about a pixel falls
    between the samples; use `project_band` then.
    """
    x, y = (_profiles(xy, sigma, box_size, pixel_size) for xy in positions[..., :2].unbind(-1))
    return (y * amplitudes[:, None]).mT @ x


class _PhaseTable(torch.autograd.Function):
    """exp(-2 pi i h x / length) for h = 0 ... max_index, as interleaved real and imaginary parts.

    Successive powers are products of earlier ones (doubling), so each node costs one sine and one
    cosine. The backward pass uses d/dx = -2 pi i h / length times the table itself.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, max_index: int, length: float) -> Tensor:
        angle = x * (-2 * math.pi / length)
        step = torch.complex(angle.cos(), angle.sin())
        table = torch.empty((*x.shape, max_index + 1), dtype=step.dtype, device=x.device)
        table[..., 0] = 1
        filled = 1
        while filled <= max_index:  # table[filled + j] = table[j] * step**filled
            count = min(filled, max_index + 1 - filled)
            torch.mul(table[..., :count], step[..., None], out=table[..., filled : filled + count])
            step, filled = step * step, 2 * filled
        table_parts = torch.view_as_real(table)
        ctx.save_for_backward(table_parts)
        ctx.length = length
        return table_parts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        (table,) = ctx.saved_tensors
        order = torch.arange(table.shape[-2], dtype=table.dtype, device=table.device)
        slope = gradient[..., 0] * table[..., 1] - gradient[..., 1] * table[..., 0]
        return slope @ (order * (2 * math.pi / ctx.length)), None, None


def project_band(
    positions: Float[Tensor, "*batch atom 3"],
    amplitudes: Float[Tensor, " atom"],
    sigma: Float[Tensor, ""],
    band: Band,
    *,
    method: Method = "auto",
) -> Float[Tensor, "*batch band"]:
    """Projections along z as vectors of a band, differentiable in the nodes. No CTF.

    `band.decode(project_band(...))` is the band-limited, zero-mean image in electrons/Å^2.

    `method` "exact" costs O(nodes x frequencies); "spread" O(nodes + frequencies), with a relative
    error, in norm, below 1e-5 in the images and 5e-5 in the gradients. "auto" takes the faster in
    float32, and "exact" in float64, which promises more digits than that.
    """
    if method == "auto":
        many = len(amplitudes) > FEW_NODES and positions.dtype == torch.float32
        method = "spread" if many and available(positions) else "exact"
    batch = positions.reshape(-1, *positions.shape[-2:])
    if method == "spread":
        vectors = transform_nodes(batch, amplitudes, band)
    else:
        parts = batch.split(max(1, TABLE_FLOATS // (4 * (band.max_index + 1) * batch.shape[1])))
        if len(parts) == 1:
            vectors = _exact_transform(batch, amplitudes, band)
        else:  # few images at a time, whose tables the backward pass makes anew, bound the memory
            transform = partial(checkpoint, _exact_transform, use_reentrant=False)
            vectors = torch.cat([transform(part, amplitudes, band) for part in parts])
    vectors = vectors.reshape(*positions.shape[:-2], band.size)
    scale = math.sqrt(2) / (band.box_size * band.pixel_size**2)
    k2 = band.frequencies_on(positions.device).square().sum(-1).to(sigma.dtype)
    envelope = scale * torch.exp(-2 * (math.pi * sigma).square() * k2).to(positions)
    return vectors * band.per_coefficient(envelope)


def _exact_transform(
    positions: Float[Tensor, "batch atom 3"], amplitudes: Float[Tensor, " atom"], band: Band
) -> Float[Tensor, "batch band"]:
    """Real, then imaginary parts of sum_i A_i exp(-2 pi i k . x_i).

    The phase factor of a frequency is a product of one factor per axis, so a matrix product over
    the nodes, of a table for y with a table for x, gives all frequencies at once; those with
    negative ky come from the conjugate of the y factor.
    """
    m, length = band.max_index, band.box_size * band.pixel_size
    x = _PhaseTable.apply(positions[..., 0], m, length)  # (batch, atom, m + 1, 2)
    y = _PhaseTable.apply(positions[..., 1], m, length) * amplitudes.to(positions)[:, None, None]
    products = y.flatten(-2).mT @ x.flatten(-2)  # (batch, 2(m + 1), 2(m + 1))
    products = products.unflatten(-1, (m + 1, 2)).unflatten(-3, (m + 1, 2))
    # (batch, ky, part of y, kx, part of x), the parts being real and imaginary
    rr, ri = products[..., :, 0, :, 0], products[..., :, 0, :, 1]
    ir, ii = products[..., :, 1, :, 0], products[..., :, 1, :, 1]
    # real: +ky, -ky; imaginary: +ky, -ky
    halves = torch.stack([rr - ii, rr + ii, ri + ir, ri - ir], dim=-3)
    return halves.flatten(-3).index_select(-1, _positions_in_halves(band, positions.device))


@lru_cache(maxsize=16)
def _positions_in_halves(band: Band, device: torch.device) -> Tensor:
    """Places of a band's coefficients in the flattened `halves` of `_exact_transform`."""
    side = band.max_index + 1
    kx, ky = band.indices.unbind(-1)
    real = (ky < 0) * side**2 + ky.abs() * side + kx
    return torch.cat([real, real + 2 * side**2]).to(device)


def rotate(
    positions: Float[Tensor, "*#batch atom 3"], rotations: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*batch atom 3"]:
    """Coordinates in the frame of the microscope: x_view = R @ x_ref."""
    return positions @ rotations.mT


def make_images(
    positions: Float[Tensor, "*#batch atom 3"],
    amplitudes: Float[Tensor, " atom"],
    sigma: Float[Tensor, ""],
    band: Band,
    *,
    rotations: Float[Tensor, "*#batch 3 3"],
    shifts: Float[Tensor, "*#batch 2"] | None = None,
    ctf: CTFParameters | Float[Tensor, "*#batch term"] | None = None,
    method: Method = "auto",
) -> Float[Tensor, "*batch band"]:
    """The image formation of eq. 10 on a band, but for the noise: rotate, shift, project, CTF.

    `ctf` may be the `ctf_terms` of the parameters, where these are made once for many steps. Then
    odd aberrations are left out, as training removes them from its images, `rotations` must be the
    `views` of the particles and `shifts` in Å of the band.
    """
    phases = None
    if isinstance(ctf, CTFParameters):
        more = ctf.aberrations
        if more is not None:
            rotations, phases = more.views(rotations), more.phases(band.frequencies)
            shifts = None if shifts is None else shifts * more.scale[..., None].to(shifts)
        ctf = ctf_terms(ctf, sigma)
    placed = rotate(positions, rotations)
    if shifts is not None:
        placed = placed + torch.nn.functional.pad(shifts, (0, 1)).unsqueeze(-2)
    vectors = project_band(placed, amplitudes, sigma, band, method=method)
    if ctf is not None:
        transfer = contrast_transfer_function(band.frequencies_on(positions.device), ctf)
        vectors = vectors * band.per_coefficient(transfer.to(vectors))
    return vectors if phases is None else turn_phases(vectors, phases.to(vectors))
