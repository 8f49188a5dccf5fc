"""The contrast transfer function: what the microscope's lens does to each spatial frequency.

In the sign of RELION: `CTF = -sin(gamma)`, so `CTF(0) = +amplitude_contrast` and protein is bright on a dark ground.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class CTFParameters:
    """The microscope's settings, one value per particle: every field is a tensor of the same batch shape, or a scalar.

    Underfocus is positive. `defocus_u` is the defocus along the axis that makes `defocus_angle_deg` with x.
    """

    defocus_u: Float[Tensor, "*batch"]  # Å
    defocus_v: Float[Tensor, "*batch"]  # Å
    defocus_angle_deg: Float[Tensor, "*batch"]
    voltage_kv: Float[Tensor, "*batch"]
    spherical_aberration_mm: Float[Tensor, "*batch"]
    amplitude_contrast: Float[Tensor, "*batch"]
    phase_shift_deg: Float[Tensor, "*batch"]
    b_factor: Float[Tensor, "*batch"]  # Å^2, envelope exp(-B k^2 / 4)

    def __getitem__(self, index: Tensor | slice | int) -> "CTFParameters":
        return self._map(lambda value: value[index])

    def to(self, target: torch.device | torch.dtype | str) -> "CTFParameters":
        """The same parameters on another device, or in another precision."""
        return self._map(lambda value: value.to(target))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "CTFParameters":
        fields = dataclasses.fields(self)
        return CTFParameters(
            **{field.name: function(getattr(self, field.name)) for field in fields}
        )


def electron_wavelength(voltage_kv: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Relativistic wavelength of the electron, in Å: 12.2643247 / sqrt(V (1 + 0.978466e-6 V)) with V in volts."""
    volts = voltage_kv * 1e3
    return 12.2643247 / torch.sqrt(volts * (1 + 0.978466e-6 * volts))


def contrast_transfer_function(
    frequencies: Float[Tensor, "*grid 2"], parameters: CTFParameters | Float[Tensor, "*batch 6"]
) -> Float[Tensor, "*batch_and_grid"]:
    """CTF at the spatial frequencies (kx, ky), in 1/Å, of a grid that all particles share.

    gamma = -pi lambda df k^2 + (pi/2) Cs lambda^3 k^4 - phase_shift - atan(w / sqrt(1 - w^2)), and CTF = -sin(gamma), with
    df = (U + V)/2 + (U - V)/2 cos(2 (theta - angle)) and theta = atan2(ky, kx). Times exp(-B k^2 / 4).

    `parameters` may be their `ctf_terms`, where these are made once for many calls. The result has the batch shape of the
    parameters followed by the shape of the grid, and the parameters' precision. gamma reaches 100 radians at 4 Å, where
    float32 is right to 1e-5, and 1,000 at 1 Å: use float64 parameters there.
    """
    terms = ctf_terms(parameters) if isinstance(parameters, CTFParameters) else parameters
    kx, ky = frequencies.to(terms).unbind(-1)
    constant, isotropic, along_x, diagonal, quartic, envelope = (
        term.reshape(term.shape + (1,) * kx.ndim)  # (*batch, 1, ...)
        for term in terms.unbind(-1)
    )
    k2 = kx.square() + ky.square()
    minus_gamma = torch.addcmul(constant, isotropic, k2)
    minus_gamma = minus_gamma.addcmul_(along_x, kx.square() - ky.square()).addcmul_(
        diagonal, 2 * kx * ky
    )
    minus_gamma = minus_gamma.addcmul_(quartic, k2.square())
    return minus_gamma.sin_() * torch.exp(envelope * k2)


def ctf_signs(
    frequencies: Float[Tensor, "*grid 2"], parameters: CTFParameters
) -> Float[Tensor, "*batch_and_grid"]:
    """+1 or -1, the sign of the CTF: what flips the phases of an image, and flips them back. Where the CTF is 0 it is +1."""
    values = contrast_transfer_function(frequencies, parameters)
    return torch.ones_like(values).copysign(values)


def ctf_terms(parameters: CTFParameters) -> Float[Tensor, "*batch 6"]:
    """What the CTF is made of: -gamma and the envelope's exponent are sums of a number of the particle times a function of k.

    In this order, the factors of 1, k^2, kx^2 - ky^2, 2 kx ky and k^4 in -gamma, and of k^2 in the exponent. No angle of the
    grid is needed: k^2 cos(2 (theta - angle)) = (kx^2 - ky^2) cos(2 angle) + 2 kx ky sin(2 angle).
    """
    wavelength = electron_wavelength(parameters.voltage_kv)
    angle = 2 * torch.deg2rad(parameters.defocus_angle_deg)
    half_sum = math.pi * wavelength * (parameters.defocus_u + parameters.defocus_v) / 2
    half_difference = math.pi * wavelength * (parameters.defocus_u - parameters.defocus_v) / 2
    constant = torch.deg2rad(parameters.phase_shift_deg) + torch.asin(parameters.amplitude_contrast)
    aberration = (math.pi / 2) * 1e7 * parameters.spherical_aberration_mm * wavelength**3
    terms = [
        constant,
        half_sum,
        half_difference * torch.cos(angle),
        half_difference * torch.sin(angle),
    ]
    return torch.stack([*terms, -aberration, -0.25 * parameters.b_factor], dim=-1)
