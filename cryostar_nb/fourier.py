"""Centred Fourier transforms, and the band: the coefficients of an image that carry information.

Images are (*batch, y, x) and volumes (*batch, z, y, x). The origin is pixel `box_size // 2`, for
even and odd boxes.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryostar_nb.errors import InputError

FSC_LEVEL = 0.5  # correlation below which two maps no longer agree (Appendix A)


def centred_fft(array: Float[Tensor, "*grid"], ndim: int) -> Complex[Tensor, "*grid"]:
    """Discrete Fourier transform over the last `ndim` axes; both origins are at `n // 2`."""
    axes = tuple(range(-ndim, 0))
    spectrum = torch.fft.fftn(torch.fft.ifftshift(array, dim=axes), dim=axes)
    return torch.fft.fftshift(spectrum, dim=axes)


def centred_ifft(array: Complex[Tensor, "*grid"], ndim: int) -> Float[Tensor, "*grid"]:
    """Inverse of `centred_fft`; the result is real."""
    axes = tuple(range(-ndim, 0))
    values = torch.fft.ifftn(torch.fft.ifftshift(array, dim=axes), dim=axes)
    return torch.fft.fftshift(values, dim=axes).real


def frequency_axis(box_size: int, pixel_size: float) -> Float[Tensor, " box"]:
    """Spatial frequencies, in 1/Å, along an axis of a centred transform; 0 at `box_size // 2`."""
    return (torch.arange(box_size, dtype=torch.float64) - box_size // 2) / (box_size * pixel_size)


def frequency_grid(box_size: int, pixel_size: float) -> Float[Tensor, "y x 2"]:
    """Spatial frequencies (kx, ky), in 1/Å, of a centred two-dimensional transform."""
    axis = frequency_axis(box_size, pixel_size)
    ky, kx = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([kx, ky], dim=-1)


def coordinate_axis(box_size: int, pixel_size: float) -> Float[Tensor, " box"]:
    """Coordinates of the pixel centres along an axis, in Å; 0 at `box_size // 2`."""
    return (torch.arange(box_size, dtype=torch.float64) - box_size // 2) * pixel_size


def soft_step(values: Float[Tensor, "*grid"], start: float, edge: float) -> Float[Tensor, "*grid"]:
    """1 up to `start`, 0 from `start + edge` on, and half a cosine between."""
    return 0.5 + 0.5 * torch.cos(math.pi * ((values - start) / edge).clamp(0, 1))


def shift_images(
    images: Float[Tensor, "*batch y x"], shifts: Float[Tensor, "*batch 2"], *, pixel_size: float
) -> Float[Tensor, "*batch y x"]:
    """Move the content of each image by (x, y) `shifts`, in Å.

    The shift is a phase ramp in Fourier space: exact for band-limited periodic images.
    """
    frequencies = frequency_grid(images.shape[-1], pixel_size).to(images)
    ramp = torch.exp(-2j * math.pi * (frequencies @ shifts[..., None, :, None]).squeeze(-1))
    return centred_ifft(centred_fft(images, 2) * ramp, 2)


def fourier_crop(
    array: Float[Tensor, "*grid"], box_size: int, ndim: int
) -> Float[Tensor, "*other_grid"]:
    """The same field of view on another grid over the last `ndim` axes, which are of one length.

    Only the middle of the transform is kept: the values are those of the band-limited array at the
    new points, and the centre stays the centre. A finer grid has zeros about the transform: values
    between those of the array.
    """
    old = array.shape[-1]
    if box_size == old:
        return array
    before = box_size // 2 - old // 2
    kept = torch.nn.functional.pad(
        centred_fft(array, ndim), (before, box_size - old - before) * ndim
    )
    return centred_ifft(kept * (box_size / old) ** ndim, ndim)


def shell_correlation(
    first: Float[Tensor, "*grid"], second: Float[Tensor, "*same_grid"], *, pixel_size: float
) -> tuple[Float[Tensor, " shell"], Float[Tensor, " shell"]]:
    """Fourier shell (volumes) or ring (images) correlation of two arrays on one grid.

    Returns the frequency of each shell, in 1/Å, from one cycle per box up to below Nyquist, and the
    correlation there. Raises InputError for arrays of other shapes.
    """
    if first.shape != second.shape or len(set(first.shape)) != 1:
        raise InputError(
            "a shell correlation cannot compare arrays of the shapes {value}",
            value=f"{tuple(first.shape)} and {tuple(second.shape)}",
            remedy="give two cubes or two squares of one size",
        )
    box_size, count = first.shape[0], (first.shape[0] - 1) // 2
    axis = torch.fft.fftfreq(box_size, 1 / box_size, dtype=torch.float64, device=first.device)
    halved = axis[: box_size // 2 + 1].abs()  # of real arrays, half of the transform says all
    grid = torch.meshgrid(*[axis] * (first.ndim - 1), halved, indexing="ij")
    radius = torch.stack(grid).square().sum(0).sqrt().round().long()
    kept = radius <= count
    shell, weight = radius[kept], torch.where(grid[-1][kept] > 0, 2.0, 1.0).double()
    a, b = (torch.fft.rfftn(array.double())[kept] for array in (first, second))

    def shell_sum(one: Tensor, other: Tensor) -> Tensor:
        total = torch.zeros(count + 1, dtype=torch.float64, device=first.device)
        values = one.real * other.real + one.imag * other.imag
        return total.index_add(0, shell, weight * values)[1:]

    cross, power = shell_sum(a, b), shell_sum(a, a) * shell_sum(b, b)
    shells = torch.arange(1, len(cross) + 1, device=first.device) / (box_size * pixel_size)
    return shells, cross / power.clamp(min=torch.finfo(torch.float64).tiny).sqrt()


def first_crossing(
    frequencies: Float[Tensor, " shell"],
    correlation: Float[Tensor, " shell"],
    *,
    level: float = FSC_LEVEL,
) -> float | None:
    """Resolution, in Å, where a curve that has been above a level first falls below it.

    Linear interpolation between shells. The last shell where the curve never falls; None where it
    never rises to the level.
    """
    above = torch.nonzero(correlation >= level).flatten()
    if not len(above):
        return None
    start = int(above[0])
    below = torch.nonzero(correlation[start:] < level).flatten()
    if not len(below):
        return 1 / float(frequencies[-1])
    after = start + int(below[0])
    high, low = float(correlation[after - 1]), float(correlation[after])
    part = (high - level) / (high - low)
    return 1 / float(frequencies[after - 1] + part * (frequencies[after] - frequencies[after - 1]))


@dataclass(frozen=True)
class Band:
    """The Fourier coefficients of an image down to a resolution: a particle as a short vector.

    A real image is known from half of its transform. The band keeps the half disk
    0 < |k| <= 1/resolution, without the mean (k = 0) and without Nyquist. A vector holds the real
    parts, then the imaginary parts, scaled by sqrt(2)/box so that the dot product of two vectors
    *equals* the sum over the pixels of the product of the two band-limited images (Parseval). A
    128 x 128 image at 1 Å, kept down to 4 Å, is a vector of 3,208 numbers.
    """

    box_size: int  # pixels
    pixel_size: float  # Å
    resolution: float  # Å

    @cached_property
    def max_index(self) -> int:
        """Largest frequency index along an axis, in cycles per box; InputError where it is 0."""
        width = self.box_size * self.pixel_size
        wanted = int(width / self.resolution + 1e-6)
        if wanted < 1:
            raise InputError(
                f"low_pass = {{value}} Å is coarser than the box of {width:g} Å",
                value=self.resolution,
                remedy="give a smaller one",
            )
        return min(wanted, (self.box_size - 1) // 2)

    @cached_property
    def indices(self) -> Int[Tensor, "coefficient 2"]:
        """Frequency index (kx, ky) of each coefficient, in cycles per box; kx is not negative."""
        m = self.max_index
        ky, kx = torch.meshgrid(torch.arange(-m, m + 1), torch.arange(m + 1), indexing="ij")
        inside = (kx.square() + ky.square() <= m * m) & ((kx > 0) | (ky > 0))
        return torch.stack([kx[inside], ky[inside]], dim=-1)

    @cached_property
    def frequencies(self) -> Float[Tensor, "coefficient 2"]:
        """Spatial frequency (kx, ky) of each coefficient, in 1/Å."""
        return self.indices.double() / (self.box_size * self.pixel_size)

    @lru_cache(maxsize=16)  # noqa: B019 - bands are few, and equal ones share an entry
    def frequencies_on(self, device: torch.device) -> Float[Tensor, "coefficient 2"]:
        """`frequencies` on a device, copied there once."""
        return self.frequencies.to(device)

    @property
    def size(self) -> int:
        """Length of a particle's vector: two real numbers per coefficient."""
        return 2 * len(self.indices)

    def encode(self, images: Float[Tensor, "*batch y x"]) -> Float[Tensor, "*batch band"]:
        """The vector of each image, without its mean and without detail beyond the band."""
        if images.shape[-2:] != (self.box_size, self.box_size):
            raise InputError(
                f"images of {{value}} pixels do not fit a band of box {self.box_size}",
                value=tuple(images.shape[-2:]),
                remedy="make the band of the box of the images",
            )
        spectrum = torch.fft.rfft2(images)
        kx, ky = self.indices.to(images.device).unbind(-1)
        # The origin is at the centre: a phase for each coefficient, cheaper than moving the pixels.
        angle = 2 * math.pi * (self.box_size // 2) / self.box_size * (kx + ky).double()
        ramp = torch.polar(torch.full_like(angle, math.sqrt(2) / self.box_size), angle)
        kept = spectrum[..., ky % self.box_size, kx] * ramp.to(spectrum.dtype)
        return torch.cat([kept.real, kept.imag], dim=-1)

    def decode(self, vectors: Float[Tensor, "*batch band"]) -> Float[Tensor, "*batch y x"]:
        """The band-limited, zero-mean images of these vectors, the inverse of `encode` there."""
        real, imaginary = vectors.chunk(2, dim=-1)
        kx, ky = self.indices.to(vectors.device).unbind(-1)
        coefficients = torch.complex(real, imaginary) * (self.box_size / math.sqrt(2))
        box = (self.box_size, self.box_size)
        spectrum = coefficients.new_zeros(*vectors.shape[:-1], box[0], box[1] // 2 + 1)
        spectrum[..., ky % self.box_size, kx] = coefficients
        # irfft2 reads the column kx = 0 in full: its other half is the complex conjugate.
        column = kx == 0
        spectrum[..., -ky[column] % self.box_size, kx[column]] = coefficients[..., column].conj()
        return torch.fft.fftshift(torch.fft.irfft2(spectrum, s=box), dim=(-2, -1))

    def per_coefficient(
        self, values: Float[Tensor, "*batch coefficient"]
    ) -> Float[Tensor, "*batch band"]:
        """A real factor per frequency (a CTF, an envelope) laid out to multiply a vector."""
        return torch.cat([values, values], dim=-1)


def shift_band(
    vectors: Float[Tensor, "*batch band"], shifts: Float[Tensor, "*batch 2"], band: Band
) -> Float[Tensor, "*batch band"]:
    """Move what an image shows by (x, y), in Å: a phase ramp in Fourier space."""
    angle = -2 * math.pi * (shifts @ band.frequencies_on(shifts.device).to(shifts).mT)
    return turn_phases(vectors, angle)


def turn_phases(
    vectors: Float[Tensor, "*batch band"], angles: Float[Tensor, "*batch coefficient"]
) -> Float[Tensor, "*batch band"]:
    """Every coefficient times exp(i angle), with angles in rad."""
    cosine, sine = angles.cos(), angles.sin()
    real, imaginary = vectors.chunk(2, dim=-1)
    return torch.cat([real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=-1)
