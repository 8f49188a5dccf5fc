"""Rigid docking: the rotation and translation that put a model into a map, or in front of particle images.

Both are one question. A *target* holds, on a lattice of spatial frequencies k, what was seen, `data`, and how well, `weight`:
for a map its whitened transform, for images what they say together, taken back through their CTFs and poses. The correlation
of the model's transform F, turned by A and moved by t, with what was seen is

    Re sum_k conj(data) F(A^T k) exp(-2 pi i k . t)  /  sqrt( sum_k weight |F(A^T k)|^2  sum |seen|^2 ).

For one rotation, an inverse FFT gives the numerator at all translations at once. The search takes some thousands of rotations,
evenly spread, at a resolution at which the molecule has a few features; the best are refined by gradients at a finer one.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryostar_nb.doctor.spectrum import Spectrum
from cryostar_nb.fourier import centred_fft, fourier_crop
from cryostar_nb.geometry import rotations_from_vectors
from cryostar_nb.io.maps import DensityMap

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0]))  # z turned round
ROTATIONS = 4608  # of the search: about 15 degrees apart
FEATURES = 4.5  # wavelengths across the molecule at the resolution of the search
AT_ONCE = 48  # rotations


@dataclass(frozen=True)
class Placement:
    """Where a body goes: `x -> matrix @ x + move`. The matrix is a rotation, or a rotation after a mirror (determinant -1)."""

    matrix: Float[Tensor, "3 3"]
    move: Float[Tensor, "3"]  # Å

    def __call__(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """The body's points, placed."""
        return positions @ self.matrix.to(positions).mT + self.move.to(positions)

    @property
    def mirrored(self) -> bool:
        """Whether it turns a right hand into a left one."""
        return bool(torch.linalg.det(self.matrix) < 0)


def rotation_angle(matrix: Float[Tensor, "3 3"]) -> float:
    """Angle of a rotation, in degrees."""
    return float(np.rad2deg(Rotation.from_matrix(matrix.double().numpy()).magnitude()))


STAY = Placement(torch.eye(3), torch.zeros(3))


@dataclass(frozen=True)
class Target:
    """What a model is docked into, on the half kx >= 0 of a cubic lattice of frequencies."""

    indices: Int[Tensor, "point 3"]  # kx, ky, kz in cycles per edge
    data: Complex[
        Tensor, " point"
    ]  # points with kx > 0 stand for their conjugates too, and count twice
    weight: Float[Tensor, " point"]
    norm: float  # root of the sum of what was seen, squared
    edge: float  # Å, of the box whose frequencies these are

    @property
    def frequencies(self) -> Float[Tensor, "point 3"]:
        """In 1/Å."""
        return self.indices.float() / self.edge

    def within(self, resolution: float) -> "Target":
        """Only what is coarser than a resolution, in Å. The norm stays that of everything."""
        kept = self.frequencies.norm(dim=-1) <= 1 / resolution + 1e-9
        return Target(self.indices[kept], self.data[kept], self.weight[kept], self.norm, self.edge)


def lattice(most: int) -> Int[Tensor, "point 3"]:
    """Indices (kx, ky, kz) with kx >= 0 in a ball, without the origin."""
    axis = torch.arange(-most, most + 1)
    points = torch.cartesian_prod(torch.arange(most + 1), axis, axis)
    squared = points.square().sum(-1)
    return points[(squared <= most**2) & (squared > 0)]


def map_target(density: DensityMap, resolution: float) -> Target:
    """A map, in the frame of the poses, with the same power on every shell: fine detail says where a model goes."""
    edge = density.box_size * density.voxel_size
    most = max(3, min(int(edge / resolution), (density.box_size - 1) // 2))
    values = fourier_crop(density.values, min(density.box_size, 2 * most + 2), 3)
    transform = centred_fft(values - values.median(), 3)
    indices, middle = lattice(most), len(values) // 2
    x, y, z = (indices + middle).unbind(-1)
    seen = transform[z, y, x]
    shell = indices.float().norm(dim=-1).round().long()
    power = torch.zeros(most + 1).index_add(0, shell, seen.abs().square()) / torch.bincount(
        shell, minlength=most + 1
    ).clamp(min=1)
    weight = 1 / power.clamp(min=1e-6 * float(power.max()) + 1e-30)[shell]
    weight = weight * torch.where(indices[:, 0] > 0, 2.0, 1.0)
    return Target(
        indices, weight * seen, weight, float((weight * seen.abs().square()).sum().sqrt()), edge
    )


def image_target(
    points: Float[Tensor, "point 3"],
    data: Complex[Tensor, " point"],
    weight: Float[Tensor, " point"],
    *,
    norm: float,
    edge: float,
) -> Target:
    """Scatter what images say at frequencies `points`, in 1/Å, onto the lattice, by the adjoint of linear interpolation."""
    most = int(points.norm(dim=-1).max() * edge) + 2
    size = 2 * most + 3
    place = points * edge + most + 1
    low = place.floor()
    part = place - low
    total = torch.zeros(3, size**3)
    values = torch.stack([data.real, data.imag, weight])
    for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
        factor = torch.where(corner.bool(), part, 1 - part).prod(-1)
        z, y, x = (low.long() + corner).flip(-1).unbind(-1)
        total.index_add_(1, (z * size + y) * size + x, values * factor)
    grid = total.reshape(3, size, size, size)
    both = (
        grid + grid.flip(1, 2, 3) * torch.tensor([1.0, -1.0, 1.0])[:, None, None, None]
    )  # images are real: F(-k) = conj F(k)
    indices = lattice(most)
    x, y, z = (indices + most + 1).unbind(-1)
    real, imaginary, weights = both[:, z, y, x]
    half = torch.where(indices[:, 0] > 0, 1.0, 0.5)
    return Target(indices, torch.complex(real, imaginary) * half, weights * half, norm, edge)


def even_rotations(count: int) -> Float[Tensor, "count 3 3"]:
    """Rotations spread evenly over SO(3): a super-Fibonacci spiral (Alexa, CVPR 2022)."""
    step = torch.arange(count, dtype=torch.float64) + 0.5
    inner, outer = (step / count).sqrt(), (1 - step / count).sqrt()
    first, second = (
        2 * math.pi * step / math.sqrt(2),
        2 * math.pi * step / 1.533751168755204288118041,
    )
    quaternions = torch.stack(
        [inner * first.sin(), inner * first.cos(), outer * second.sin(), outer * second.cos()],
        dim=-1,
    )
    return torch.from_numpy(Rotation.from_quat(quaternions.numpy()).as_matrix()).float()


def correlation(
    target: Target, model: Spectrum, matrix: Float[Tensor, "3 3"], place: Float[Tensor, "3"]
) -> Float[Tensor, ""]:
    """Correlation with a target of a model that is turned by a matrix about its centre, which comes to `place`, in Å."""
    k = target.frequencies
    transform = model.centred(k @ matrix)
    angle = -2 * math.pi * (k @ place)
    moved = transform * torch.polar(torch.ones_like(angle), angle)
    product = (target.data.conj() * moved).real.sum()
    return product / ((target.weight * transform.abs().square()).sum().sqrt() * target.norm)


@torch.no_grad()
def search(
    target: Target,
    model: Spectrum,
    *,
    mirrored: bool = False,
    either_sign: bool = False,
    best: int = 8,
) -> list[tuple[float, Tensor, Tensor]]:
    """The best (correlation, matrix, place of the model's centre) on a grid, best first, no two within 20 degrees of each other.

    `mirrored` docks the model's mirror image; `either_sign` looks for large negative correlations too.
    """
    rotations = even_rotations(ROTATIONS)
    matrices = rotations @ MIRROR if mirrored else rotations
    most = int(target.indices.abs().max())
    size = 2 * (most + 1)
    kx, ky, kz = target.indices.unbind(-1)
    where = ((kz % size) * size + ky % size) * (size // 2 + 1) + kx
    # irfftn counts the points with kx > 0 twice by itself.
    data = target.data * torch.where(kx > 0, 0.5, 1.0)
    scores, places = [], []
    for part in matrices.split(AT_ONCE):
        transform = model.centred(target.frequencies @ part)
        product = torch.zeros(len(part), size * size * (size // 2 + 1), dtype=data.dtype)
        product[:, where] = data * transform.conj()
        field = torch.fft.irfftn(
            product.reshape(-1, size, size, size // 2 + 1),
            s=(size,) * 3,
            dim=(1, 2, 3),
            norm="forward",
        ).flatten(1)
        peak = (field.abs() if either_sign else field).argmax(1)
        power = (target.weight * transform.abs().square()).sum(1).sqrt() * target.norm
        scores.append(field.gather(1, peak[:, None])[:, 0] / power)
        index = torch.stack([peak % size, peak // size % size, peak // size**2], dim=-1)
        places.append(((index + size // 2) % size - size // 2) * (target.edge / size))
    score, place = torch.cat(scores), torch.cat(places)
    order = (score.abs() if either_sign else score).argsort(descending=True)
    chosen: list[int] = []
    for row in order.tolist():
        traces = [float((rotations[row] * rotations[other]).sum()) for other in chosen]
        if all(trace < 1 + 2 * math.cos(math.radians(20)) for trace in traces):
            chosen.append(row)
        if len(chosen) == best:
            break
    return [(float(score[row]), matrices[row], place[row]) for row in chosen]


def refine(
    target: Target,
    model: Spectrum,
    matrix: Float[Tensor, "3 3"],
    place: Float[Tensor, "3"],
    *,
    sign: int = 1,
    steps: int = 40,
) -> tuple[float, Tensor, Tensor]:
    """Climb to the nearest maximum of `sign` times the correlation: L-BFGS on a rotation vector, in Å at the model's rim, and a shift."""
    reach = max(model.radius, 1.0)

    def moved(step: Tensor) -> tuple[Tensor, Tensor]:
        return rotations_from_vectors(step[:3] / reach) @ matrix, place + step[3:]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        step = torch.from_numpy(values).float().requires_grad_()
        value = -sign * correlation(target, model, *moved(step))
        value.backward()
        assert step.grad is not None
        return float(value.detach()), step.grad.double().numpy()

    found = minimize(
        loss,
        np.zeros(6),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps, "ftol": 1e-9, "gtol": 1e-7},
    )
    with torch.no_grad():
        matrix, place = moved(torch.from_numpy(found.x).float())
        return float(correlation(target, model, matrix, place)), matrix, place


@dataclass(frozen=True)
class Docked:
    """A docked model: its correlation with the target, and where it goes from where it was."""

    correlation: float
    placement: Placement


def dock(
    target: Target, model: Spectrum, *, mirrored: bool = False, either_sign: bool = False
) -> Docked:
    """Search everywhere at a coarse resolution, refine the best at a medium one, and the best of these with all of the target."""
    coarse = max(2 * model.radius / FEATURES, 2 * target.edge / 64)
    found = search(target.within(coarse), model, mirrored=mirrored, either_sign=either_sign)
    medium = target.within(coarse / 1.6)
    tried = [
        refine(medium, model, matrix, place, sign=1 if score > 0 else -1, steps=15)
        for score, matrix, place in found
    ]
    score, matrix, place = max(tried, key=lambda one: abs(one[0]))
    score, matrix, place = refine(target, model, matrix, place, sign=1 if score > 0 else -1)
    return Docked(score, Placement(matrix, place - matrix @ model.centre))
