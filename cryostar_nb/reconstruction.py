"""Maps from particles, without a model: back-projection by gridding in Fourier space.

The transform of a projection is a slice of that of the volume: what an image shows at (kx, ky) is
the volume at R^T (kx, ky, 0) (DeRosier & Klug, Nature 1968). With images I of unit noise, transfer
functions c and weights w, the volume of the largest likelihood is

    V = sum w c I / sum w c^2,

where both sums are spread trilinearly onto the points of a grid twice as fine as the box needs.
Particles are in two halves. The Fourier shell correlation F of the two maps that they make measures
signal and noise; the map of all has sum w c^2 + m (1 - F) / (2 F) for its denominator, with m the
mean of sum w c^2 in the shell. Where the slices lie evenly that is the filter 2 F / (1 + F) of the
signal-to-noise ratio (Rosenthal & Henderson, J. Mol. Biol. 2003), and gaps between slices, or zeros
of the CTF, are not filled with noise.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryostar_nb.fast import slices_cpu
from cryostar_nb.fast.grid_cpu import in_parallel
from cryostar_nb.fourier import (
    Band,
    centred_fft,
    centred_ifft,
    coordinate_axis,
    first_crossing,
    shell_correlation,
    soft_step,
)

PADDING = 2  # grid points to one of the transform of the box
GAPS = 0.1  # of the mean of sum w c^2 in a shell, added to it in half-maps: gaps stay quiet
HALVES_LEVEL = 0.143  # FSC of half-maps at the resolution of the map of all (Rosenthal & Henderson)
DISAGREES = 0.5  # local correlation of model and map below which they do
EDGE = 6.0  # Å, over which a mask falls from 1 to 0


@dataclass(frozen=True)
class Slices:
    """Sums over particles, of one or more volumes: what `add` was given, on the grid.

    The last axis holds, for each x from 0 on, the real and the imaginary part of sum w c I, and
    sum w c^2. The other half of a volume is its complex conjugate.
    """

    band: Band
    grid: Float[Tensor, "volume z y number"]  # float32, on the CPU

    @classmethod
    def none(cls, band: Band, volumes: int) -> "Slices":
        """Those of no particle."""
        reach = PADDING * band.max_index + 1
        return cls(band, torch.zeros(volumes, 2 * reach + 1, 2 * reach + 1, 3 * (reach + 1)))

    @staticmethod
    def bytes_of(band: Band) -> int:
        """Memory of one volume."""
        reach = PADDING * band.max_index + 1
        return 4 * 3 * (reach + 1) * (2 * reach + 1) ** 2

    def add(
        self,
        vectors: Float[Tensor, "batch band"],
        transfers: Float[Tensor, "batch coefficient"],
        rotations: Float[Tensor, "batch 3 3"],
        weights: Float[Tensor, "batch volume"],
    ) -> None:
        """Add images, as vectors of the band: centred, of unit noise, each times its transfer.

        `weights` say how much an image counts in each volume.
        """
        axes = PADDING * rotations[:, :2]
        indices = self.band.indices
        tensors = (vectors, transfers, weights, axes, indices, self.grid)
        arrays = [tensor.float().contiguous().numpy() for tensor in tensors]
        in_parallel(slices_cpu.insert, self.grid.shape[1], *arrays)

    def sums(self, volume: int) -> tuple[Complex[Tensor, "z y x"], Float[Tensor, "z y x"]]:
        """Sum w c I and sum w c^2 of a volume, for x from 0 on; both halves tell of x = 0."""
        numbers = self.grid[volume].unflatten(-1, (-1, 3))
        values, power = torch.complex(numbers[..., 0], numbers[..., 1]), numbers[..., 2].clone()
        values[..., 0] += values[..., 0].flip(0, 1).conj()
        power[..., 0] += power[..., 0].flip(0, 1)
        return values, power

    @cached_property
    def shells(self) -> Int[Tensor, "z y x"]:
        """Cycles per box of each grid point, rounded; those beyond the band are one more."""
        reach = PADDING * self.band.max_index + 1
        axis = torch.arange(-reach, reach + 1).square()
        squares = axis[:, None, None] + axis[:, None] + axis[reach:]
        last = self.band.max_index + 1
        return (squares.float().sqrt() / PADDING).round().long().clamp(max=last)

    def shell_mean(self, power: Float[Tensor, "z y x"]) -> Float[Tensor, " shell"]:
        """Mean in every shell, that of all beyond the band the last."""
        shells = self.shells.flatten()
        total = torch.bincount(shells, power.flatten().double())
        return total / torch.bincount(shells)

    def volume(
        self,
        values: Complex[Tensor, "z y x"],
        power: Float[Tensor, "z y x"],
        missing: Float[Tensor, " shell"],
    ) -> Float[Tensor, "box box box"]:
        """The map values / (power + missing) in the box, in standard deviations of a pixel's noise.

        `missing` is for each shell of the band; inf where nothing is known.
        """
        beyond = torch.full((1,), math.inf, dtype=missing.dtype)
        whole = power + torch.cat([missing, beyond]).float()[self.shells]
        spectrum = values / whole.clamp(min=torch.finfo(torch.float32).tiny)
        box, size = self.band.box_size, PADDING * self.band.box_size
        padded = torch.zeros(size, size, size // 2 + 1, dtype=torch.complex64)
        rows = (torch.arange(len(values)) - len(values) // 2) % size
        padded[rows[:, None], rows, : values.shape[-1]] = spectrum
        real = torch.fft.irfftn(padded, s=(size,) * 3)
        places = (torch.arange(box) - box // 2) % size
        real = real[places][:, places][:, :, places]
        # The interpolation's own transform, and the scale of the band's vectors.
        window = torch.sinc((torch.arange(box) - box // 2) / size).square()
        window = window[:, None, None] * window[:, None] * window
        return real / window * (box / math.sqrt(2))


@dataclass(frozen=True)
class Reconstruction:
    """A map, its two half-maps, and their correlation."""

    values: Float[Tensor, "z y x"]  # filtered by the correlation
    halves: Float[Tensor, "2 z y x"]  # as they are
    frequencies: Float[Tensor, " shell"]  # 1/Å
    correlation: Float[Tensor, " shell"]  # of the halves, in the mask where there is one

    @property
    def resolution(self) -> float | None:
        """Where the correlation first falls below 0.143, in Å; None where it is never above."""
        return first_crossing(self.frequencies, self.correlation, level=HALVES_LEVEL)


def reconstruct(
    slices: Slices, number: int = 0, *, mask: Float[Tensor, "z y x"] | None = None
) -> Reconstruction:
    """The map of the volumes 2 number and 2 number + 1 of the slices, which are its halves.

    With a `mask` the correlation is that within it, and the map is 0 outside; the half-maps stay
    as they are.
    """
    halves = [slices.sums(2 * number + half) for half in (0, 1)]
    count = slices.band.max_index
    maps = torch.stack(
        [slices.volume(v, p, GAPS * slices.shell_mean(p)[: count + 1]) for v, p in halves]
    )
    inside = maps if mask is None else maps * mask
    frequencies, correlation = shell_correlation(*inside, pixel_size=slices.band.pixel_size)
    frequencies, correlation = frequencies[:count], correlation[:count].clamp(max=1)
    known = signal_part(correlation)  # 2 F / (1 + F)
    known = torch.cat([known[:1], known])
    values, power = (first + second for first, second in zip(*halves, strict=True))
    mean = slices.shell_mean(power)[: count + 1]
    missing = torch.where(known > 0, mean * (1 / known.clamp(min=1e-12) - 1), math.inf)
    whole = slices.volume(values, power, missing)
    whole = whole if mask is None else whole * mask
    return Reconstruction(whole, maps, frequencies, correlation)


def signal_part(correlation: Float[Tensor, " shell"]) -> Float[Tensor, " shell"]:
    """Part of the power of the map of all that is signal, 2 F / (1 + F), by the FSC F of halves.

    It is 0 from the first shell on where F is not above 0.
    """
    known = 2 * correlation / (1 + correlation).clamp(min=1e-12)
    return torch.where((correlation <= 0).cumsum(0) > 0, 0.0, known)


def filtered(
    volume: Float[Tensor, "z y x"], factors: Float[Tensor, " shell"]
) -> Float[Tensor, "z y x"]:
    """A volume times a factor for each shell, from one cycle per box on; 0 beyond, and at 0."""
    axis = torch.arange(len(volume)) - len(volume) // 2
    radius = (axis[:, None, None].square() + axis[:, None].square() + axis.square()).sqrt()
    zero = factors.new_zeros(1)
    table = torch.cat([zero, factors, zero]).to(volume)
    shells = radius.round().long().clamp(max=len(factors) + 1)
    return centred_ifft(centred_fft(volume, 3) * table[shells], 3)


def sphere_mask(box_size: int, pixel_size: float, radius: float) -> Float[Tensor, "z y x"]:
    """1 within a radius, in Å, of the centre, falling to 0 as a cosine over 6 Å."""
    axis = coordinate_axis(box_size, pixel_size).float()
    distance = (axis[:, None, None].square() + axis[:, None].square() + axis.square()).sqrt()
    return soft_step(distance, radius, EDGE)


def local_correlation(
    first: Float[Tensor, "z y x"],
    second: Float[Tensor, "z y x"],
    positions: Float[Tensor, "node 3"],
    *,
    pixel_size: float,
    radius: float,
) -> Float[Tensor, " node"]:
    """Correlation of two maps in a ball of `radius` Å about each node, which is in the frame of the
    poses, in Å; NaN for a ball that is not within the box.
    """
    box, reach = len(first), max(1, math.ceil(radius / pixel_size))
    axis = torch.arange(-reach, reach + 1)
    ball = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).flatten(0, 2)
    ball = ball[ball.square().sum(-1) <= max(1.0, radius / pixel_size) ** 2]
    centres = (positions / pixel_size).round().long().flip(-1) + box // 2  # z, y, x
    within = ((centres >= reach) & (centres < box - reach)).all(-1)
    places = centres[within, None] + ball
    flat = (places * torch.tensor([box * box, box, 1])).sum(-1)
    a, b = (volume.flatten()[flat].double() for volume in (first, second))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    found = torch.full((len(positions),), math.nan, dtype=torch.float64)
    found[within] = (a * b).sum(-1) / scale.clamp(min=1e-30)
    return found
