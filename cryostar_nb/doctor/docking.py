"""Rigid docking: the rotation and shift that put a model into a map, or in front of images.

Both are one question. A *target* holds, on a lattice of spatial frequencies k, what was observed,
`data`, and how well, `weight`: of a map its whitened transform, of images what they say together,
taken back through their CTFs and poses. The correlation of the model's transform F, turned by A
and moved by t, with the target is

    Re sum_k conj(data) F(A^T k) exp(-2 pi i k . t)
    / sqrt( sum_k weight |F(A^T k)|^2  sum |observed|^2 ).

For one rotation, an inverse FFT gives the numerator at all shifts at once. The search takes some
thousands of rotations, evenly spread, at a resolution at which the molecule has a few features;
the best are refined by gradients at a finer one.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryostar_nb.doctor import thresholds as limits
from cryostar_nb.doctor.spectrum import Spectrum, phase_ramp
from cryostar_nb.fourier import centred_fft, fourier_crop
from cryostar_nb.geometry import rotations_from_vectors
from cryostar_nb.io.maps import DensityMap

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0]))  # turns z round
ROTATIONS_AT_ONCE = 48  # in memory
MOST_GRID_POINTS = 64  # of the search, along an edge
CANDIDATES, APART_DEG = 8, 20  # places that are refined, and the least angle between two


@dataclass(frozen=True)
class Placement:
    """Where a body goes: `x -> matrix @ x + move`; a matrix of determinant -1 mirrors it."""

    matrix: Float[Tensor, "3 3"]
    move: Float[Tensor, "3"]  # Å

    def __call__(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """The body's points, placed."""
        return positions @ self.matrix.to(positions).mT + self.move.to(positions)

    @cached_property
    def mirrored(self) -> bool:
        """Whether it turns a right hand into a left one."""
        return bool(torch.linalg.det(self.matrix) < 0)


IDENTITY = Placement(torch.eye(3), torch.zeros(3))


def rotation_angle(matrix: Float[Tensor, "3 3"]) -> float:
    """Angle of a rotation, in degrees."""
    return float(np.rad2deg(Rotation.from_matrix(matrix.double().numpy()).magnitude()))


@dataclass(frozen=True)
class Target:
    """What a model is docked into, on the half kx >= 0 of a cubic lattice of frequencies.

    Points with kx > 0 stand for their conjugates too: their data and weights count twice.
    """

    indices: Int[Tensor, "point 3"]  # kx, ky, kz in cycles per edge
    data: Complex[Tensor, " point"]
    weight: Float[Tensor, " point"]
    norm: float  # root of the sum of the observations squared
    edge: float  # Å, of the box whose frequencies these are

    @property
    def frequencies(self) -> Float[Tensor, "point 3"]:
        """In 1/Å."""
        return self.indices.float() / self.edge

    def within(self, resolution: float) -> "Target":
        """Only what is coarser than a resolution, in Å. The norm stays that of everything."""
        kept = self.frequencies.norm(dim=-1) <= 1 / resolution + 1e-9
        return Target(self.indices[kept], self.data[kept], self.weight[kept], self.norm, self.edge)


def lattice(max_index: int) -> Int[Tensor, "point 3"]:
    """Indices (kx, ky, kz) with kx >= 0 in a ball, without the origin."""
    axis = torch.arange(-max_index, max_index + 1)
    points = torch.cartesian_prod(torch.arange(max_index + 1), axis, axis)
    squared = points.square().sum(-1)
    return points[(squared <= max_index**2) & (squared > 0)]


def map_target(density_map: DensityMap, resolution: float) -> Target:
    """A map, in the frame of the poses, with the same power on every shell: detail counts."""
    edge = density_map.box_size * density_map.voxel_size
    max_index = max(3, min(int(edge / resolution), (density_map.box_size - 1) // 2))
    values = fourier_crop(density_map.values, min(density_map.box_size, 2 * max_index + 2), 3)
    transform = centred_fft(values - values.median(), 3)
    indices = lattice(max_index)
    x, y, z = (indices + len(values) // 2).unbind(-1)
    observed = transform[z, y, x]
    shell = indices.float().norm(dim=-1).round().long()
    counts = torch.bincount(shell, minlength=max_index + 1).clamp(min=1)
    power = torch.zeros(max_index + 1).index_add(0, shell, observed.abs().square()) / counts
    weight = 1 / power.clamp(min=1e-6 * float(power.max()) + 1e-30)[shell]
    weight = weight * torch.where(indices[:, 0] > 0, 2.0, 1.0)
    norm = float((weight * observed.abs().square()).sum().sqrt())
    return Target(indices, weight * observed, weight, norm, edge)


def image_target(
    points: Float[Tensor, "point 3"],
    data: Complex[Tensor, " point"],
    weight: Float[Tensor, " point"],
    *,
    norm: float,
    edge: float,
) -> Target:
    """Scatter data at `points`, in 1/Å, onto the lattice: the adjoint of linear interpolation."""
    max_index = int(points.norm(dim=-1).max() * edge) + 2
    size = 2 * max_index + 3
    place = points * edge + max_index + 1
    low = place.floor()
    fraction = place - low
    total = torch.zeros(3, size**3)
    values = torch.stack([data.real, data.imag, weight])
    for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
        factor = torch.where(corner.bool(), fraction, 1 - fraction).prod(-1)
        z, y, x = (low.long() + corner).flip(-1).unbind(-1)
        total.index_add_(1, (z * size + y) * size + x, values * factor)
    grid = total.reshape(3, size, size, size)
    # Images are real: F(-k) = conj F(k).
    grid = grid + grid.flip(1, 2, 3) * torch.tensor([1.0, -1.0, 1.0])[:, None, None, None]
    indices = lattice(max_index)
    x, y, z = (indices + max_index + 1).unbind(-1)
    real, imaginary, weights = grid[:, z, y, x]
    half = torch.where(indices[:, 0] > 0, 1.0, 0.5)
    return Target(indices, torch.complex(real, imaginary) * half, weights * half, norm, edge)


def even_rotations(count: int) -> Float[Tensor, "count 3 3"]:
    """Rotations spread evenly over SO(3): a super-Fibonacci spiral (Alexa, CVPR 2022)."""
    step = torch.arange(count, dtype=torch.float64) + 0.5
    inner, outer = (step / count).sqrt(), (1 - step / count).sqrt()
    first = 2 * math.pi * step / math.sqrt(2)
    second = 2 * math.pi * step / 1.533751168755204288118041
    quaternions = torch.stack(
        [inner * first.sin(), inner * first.cos(), outer * second.sin(), outer * second.cos()],
        dim=-1,
    )
    return torch.from_numpy(Rotation.from_quat(quaternions.numpy()).as_matrix()).float()


def correlation(
    target: Target, model: Spectrum, matrix: Float[Tensor, "3 3"], place: Float[Tensor, "3"]
) -> Float[Tensor, ""]:
    """Correlation with a target of a model turned by a matrix, its centre at `place`, in Å."""
    k = target.frequencies
    transform = model.centred(k @ matrix)
    product = (target.data.conj() * (transform * phase_ramp(k @ place))).real.sum()
    return product / ((target.weight * transform.abs().square()).sum().sqrt() * target.norm)


def _best_places(
    target: Target, model: Spectrum, matrices: Float[Tensor, "rotation 3 3"], *, either_sign: bool
) -> tuple[Float[Tensor, " rotation"], Float[Tensor, "rotation 3"]]:
    """The best correlation over all shifts, on a grid, for each rotation; and that place."""
    size = 2 * (int(target.indices.abs().max()) + 1)
    kx, ky, kz = target.indices.unbind(-1)
    grid_index = ((kz % size) * size + ky % size) * (size // 2 + 1) + kx
    # irfftn counts the points with kx > 0 twice by itself.
    data = target.data * torch.where(kx > 0, 0.5, 1.0)
    scores, places = [], []
    for part in matrices.split(ROTATIONS_AT_ONCE):
        transform = model.centred(target.frequencies @ part)
        product = torch.zeros(len(part), size * size * (size // 2 + 1), dtype=data.dtype)
        product[:, grid_index] = data * transform.conj()
        product = product.reshape(-1, size, size, size // 2 + 1)
        field = torch.fft.irfftn(product, s=(size,) * 3, dim=(1, 2, 3), norm="forward").flatten(1)
        peak = (field.abs() if either_sign else field).argmax(1)
        power = (target.weight * transform.abs().square()).sum(1).sqrt() * target.norm
        scores.append(field.gather(1, peak[:, None])[:, 0] / power)
        index = torch.stack([peak % size, peak // size % size, peak // size**2], dim=-1)
        places.append(((index + size // 2) % size - size // 2) * (target.edge / size))
    return torch.cat(scores), torch.cat(places)


@torch.no_grad()
def search(
    target: Target,
    model: Spectrum,
    *,
    mirrored: bool = False,
    either_sign: bool = False,
    rotations: int = limits.SEARCH_ROTATIONS,
) -> list[tuple[float, Tensor, Tensor]]:
    """The eight best (correlation, matrix, place of the model's centre) on a grid, best first.

    No two lie within 20 degrees of each other. `mirrored` docks the model's mirror image;
    `either_sign` looks for large negative correlations too.
    """
    turns = even_rotations(rotations)
    matrices = turns @ MIRROR if mirrored else turns
    scores, places = _best_places(target, model, matrices, either_sign=either_sign)
    order = (scores.abs() if either_sign else scores).argsort(descending=True)
    nearest_trace = 1 + 2 * math.cos(math.radians(APART_DEG))
    chosen: list[int] = []
    for row in order.tolist():
        traces = [float((turns[row] * turns[other]).sum()) for other in chosen]
        if all(trace < nearest_trace for trace in traces):
            chosen.append(row)
        if len(chosen) == CANDIDATES:
            break
    return [(float(scores[row]), matrices[row], places[row]) for row in chosen]


def refine(
    target: Target,
    model: Spectrum,
    matrix: Float[Tensor, "3 3"],
    place: Float[Tensor, "3"],
    *,
    sign: int = 1,
    steps: int = 40,
) -> tuple[float, Tensor, Tensor]:
    """Climb to the nearest maximum of `sign` times the correlation, by L-BFGS.

    The variables are a rotation vector, in Å at the model's rim, and a shift.
    """
    reach = max(model.radius, 1.0)

    def moved(step: Tensor) -> tuple[Tensor, Tensor]:
        return rotations_from_vectors(step[:3] / reach) @ matrix, place + step[3:]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        step = torch.from_numpy(values).float().requires_grad_()
        value = -sign * correlation(target, model, *moved(step))
        value.backward()
        assert step.grad is not None
        return float(value.detach()), step.grad.double().numpy()

    options = {"maxiter": steps, "ftol": 1e-9, "gtol": 1e-7}
    optimum = minimize(loss, np.zeros(6), jac=True, method="L-BFGS-B", options=options)
    with torch.no_grad():
        matrix, place = moved(torch.from_numpy(optimum.x).float())
        return float(correlation(target, model, matrix, place)), matrix, place


def dock(
    target: Target,
    model: Spectrum,
    *,
    mirrored: bool = False,
    either_sign: bool = False,
    rotations: int = limits.SEARCH_ROTATIONS,
) -> tuple[float, Placement]:
    """The correlation of the docked model, and where it goes from where it was.

    Searches everywhere at a coarse resolution, refines the best at a medium one, and the best of
    these with all of the target. The arguments are those of `search`.
    """
    coarse = max(2 * model.radius / limits.SEARCH_FEATURES, 2 * target.edge / MOST_GRID_POINTS)
    starts = search(
        target.within(coarse),
        model,
        mirrored=mirrored,
        either_sign=either_sign,
        rotations=rotations,
    )
    medium = target.within(coarse / 1.6)
    refined = [
        refine(medium, model, matrix, place, sign=1 if score > 0 else -1, steps=15)
        for score, matrix, place in starts
    ]
    score, matrix, place = max(refined, key=lambda fit: abs(fit[0]))
    score, matrix, place = refine(target, model, matrix, place, sign=1 if score > 0 else -1)
    return score, Placement(matrix, place - matrix @ model.centre)
