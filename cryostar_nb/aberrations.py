"""What a microscope does to an image beyond defocus and spherical aberration.

A particle shows its molecule at the frequency q = D k, where k is the frequency by the pixel size
of the band and D its `distortion`: the magnification matrix, and the pixel size of the band over
that of the image. In q, in 1/Å, the aberrations are polynomials: the even ones are added to gamma
of the CTF, the odd ones turn the phase of the image by exp(i phase(q)). So RELION has them
(Zivanov et al. 2020, IUCrJ 7:253).
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Powers = tuple[tuple[int, int], ...]
EVEN: Powers = (  # powers of qx and qy
    *((0, 0), (2, 0), (1, 1), (0, 2)),
    *((4, 0), (3, 1), (2, 2), (1, 3), (0, 4)),
)
ODD: Powers = ((1, 0), (0, 1), (3, 0), (2, 1), (1, 2), (0, 3))

# RELION's Zernike polynomials, a row each, as factors of the monomials above: Z(m, n) is
# R(m, n) cos(m phi), or R sin(|m| phi) for negative m. Its coefficients @ the matrix are factors.
EVEN_ZERNIKE = np.array(
    [
        [1, 0, 0, 0, 0, 0, 0, 0, 0],  # n = 0
        [0, 0, 2, 0, 0, 0, 0, 0, 0],  # n = 2, m = -2, 0, 2
        [-1, 2, 0, 2, 0, 0, 0, 0, 0],
        [0, 1, 0, -1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 4, 0, -4, 0],  # n = 4, m = -4, -2, 0, 2, 4
        [0, 0, -6, 0, 0, 8, 0, 8, 0],
        [1, -6, 0, -6, 6, 0, 12, 0, 6],
        [0, -3, 0, 3, 4, 0, 0, 0, -4],
        [0, 0, 0, 0, 1, 0, -6, 0, 1],
    ],
    dtype=np.float64,
)
ODD_ZERNIKE = np.array(
    [
        [0, 1, 0, 0, 0, 0],  # n = 1, m = -1, 1
        [1, 0, 0, 0, 0, 0],
        [0, 0, 0, 3, 0, -1],  # n = 3, m = -3, -1, 1, 3
        [0, -2, 0, 3, 0, 3],
        [-2, 0, 3, 0, 3, 0],
        [0, 0, 1, 0, -3, 0],
    ],
    dtype=np.float64,
)


@dataclass(frozen=True)
class Aberrations:
    """Of each particle what the CTF's own parameters do not say, all of one batch shape."""

    scale: Float[Tensor, "*batch"]  # pixel size of the band over that of the image
    magnification: Float[Tensor, "*batch 2 2"]  # true frequency = matrix @ that of the image
    even: Float[Tensor, "*batch 9"]  # factors of `EVEN` in gamma, rad Å^n
    odd: Float[Tensor, "*batch 6"]  # factors of `ODD` in the phase, rad Å^n
    multiplied: Float[Tensor, "*batch"]  # 1 where the image was multiplied by its CTF, else 0

    @classmethod
    def none(cls, count: int) -> "Aberrations":
        """Those of a perfect microscope, for so many particles."""
        one, zero = torch.ones(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        matrix = torch.eye(2, dtype=torch.float64).expand(count, 2, 2)
        even, odd = (zero[:, None].expand(count, len(powers)) for powers in (EVEN, ODD))
        return cls(one, matrix, even, odd, zero)

    def __getitem__(self, index: Tensor | slice | int) -> "Aberrations":
        return self.map(lambda value: value[index])

    def map(self, function: Callable[[Tensor], Tensor]) -> "Aberrations":
        """The same with a function of every tensor."""
        fields = dataclasses.fields(self)
        return Aberrations(**{field.name: function(getattr(self, field.name)) for field in fields})

    @property
    def distortion(self) -> Float[Tensor, "*batch 2 2"]:
        """D, by which a frequency of the band becomes that of the molecule."""
        return self.scale[..., None, None] * self.magnification

    def views(self, rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
        """What stands for the rotation: x_view = views @ x_ref, in pixels of the band.

        Because (D k) . x = k . (D^T x), the image of a molecule is that of one which is stretched
        by D^T in the plane of the image.
        """
        stretched = self.distortion.mT.to(rotations) @ rotations[..., :2, :]
        return torch.cat([stretched, rotations[..., 2:, :]], dim=-2)

    def phases(
        self, frequencies: Float[Tensor, "frequency 2"]
    ) -> Float[Tensor, "*batch frequency"]:
        """The phase, in rad, that the odd aberrations add at the band's frequencies, in 1/Å."""
        nominal = torch.cat(
            [
                substituted(self.odd[..., :2], self.distortion),
                substituted(self.odd[..., 2:], self.distortion),
            ],
            dim=-1,
        )
        return nominal @ monomials(frequencies.to(nominal), ODD).mT


def monomials(
    frequencies: Float[Tensor, "frequency 2"], powers: Powers
) -> Float[Tensor, "frequency monomial"]:
    """kx^i ky^j for these powers."""
    kx, ky = frequencies.unbind(-1)
    return torch.stack([kx**i * ky**j for i, j in powers], dim=-1)


def substituted(
    factors: Float[Tensor, "*batch monomial"], matrix: Float[Tensor, "*batch 2 2"]
) -> Float[Tensor, "*batch monomial"]:
    """A polynomial of q, as one of k, where q = matrix @ k.

    All monomials are of one degree n, from qx^n to qy^n.
    """
    degree = factors.shape[-1] - 1
    total = torch.zeros_like(factors)
    for place in range(degree + 1):
        product = factors[..., place, None]
        for row in [0] * (degree - place) + [1] * place:  # times qx or qy, as a polynomial of k
            along_x, along_y = matrix[..., row, 0, None], matrix[..., row, 1, None]
            longer = torch.nn.functional.pad(product, (0, 1))
            product = along_x * longer + along_y * longer.roll(1, -1)
        total = total + product
    return total


def to_zernike(
    factors: Float[np.ndarray, "particle number"], matrix: Float[np.ndarray, "number number"]
) -> Float[np.ndarray, "particle number"]:
    """RELION's coefficients of factors of monomials, which are `coefficients @ matrix`.

    `matrix` is `EVEN_ZERNIKE` or `ODD_ZERNIKE`.
    """
    return np.linalg.solve(matrix.T, factors.T).T


def coma(
    tilt: Float[np.ndarray, "particle 2"], wavelength: Float[np.ndarray, " particle"]
) -> Float[np.ndarray, "particle 6"]:
    """Factors of the phase of a beam tilt, in Å: -2 pi lambda^2 |q|^2 (tilt . q).

    A tilt in Å is the spherical aberration times the tilt in rad.
    """
    x, y = (-2 * math.pi * wavelength**2 * axis for axis in tilt.T)
    zero = np.zeros_like(x)
    return np.stack([zero, zero, x, y, x, y], axis=-1)


def trefoil(
    vector: Float[np.ndarray, "particle 2"], wavelength: Float[np.ndarray, " particle"]
) -> Float[np.ndarray, "particle 6"]:
    """Factors of -(2 pi / 3) lambda^2 |q|^3 (a cos 3 phi + b sin 3 phi), with (a, b) in Å."""
    cosine, sine = (-2 * math.pi / 3 * wavelength**2 * part for part in vector.T)
    zero = np.zeros_like(cosine)
    return np.stack([zero, zero, cosine, 3 * sine, -3 * cosine, -sine], axis=-1)


def tetrafoil(
    numbers: Float[np.ndarray, "particle 4"], wavelength: Float[np.ndarray, " particle"]
) -> Float[np.ndarray, "particle 9"]:
    """Factors of lambda^3 |q|^4 times 2 pi (a cos 2 phi + b sin 2 phi) and pi/2 (c cos 4 phi + d
    sin 4 phi), with (a, b, c, d) in Å; the second half is in the sign of spherical aberration.
    """
    scales = math.pi * wavelength[:, None] ** 3 * np.array([2, 2, 0.5, 0.5])
    a, b, c, d = (scales * numbers).T
    zero = np.zeros_like(a)
    of_fourth = (a + c, 2 * b + 4 * d, -6 * c, 2 * b - 4 * d, c - a)
    return np.stack([zero, zero, zero, zero, *of_fourth], axis=-1)
