"""The contrast transfer function: what the microscope's lens does to each spatial frequency.

In the sign of RELION: `CTF = -sin(gamma)`, so `CTF(0) = +amplitude_contrast` and protein is bright
on a dark ground.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.aberrations import EVEN, Aberrations, monomials, substituted

PLAIN_TERMS = 6  # numbers of a particle without aberrations in `ctf_terms`


@dataclass(frozen=True)
class CTFParameters:
    """The microscope's settings: every field is a tensor of the same batch shape, one value each.

    Numbers and tensors are welcome; they are broadcast, and take the precision and the device of
    `defocus_u`. Underfocus is positive. `defocus_u` is the defocus along the axis that makes
    `defocus_angle_deg` with x, and `defocus_v`, by default the same, the one across it.
    """

    defocus_u: Float[Tensor, "*batch"]  # Å
    defocus_v: Float[Tensor, "*batch"]  # Å
    defocus_angle_deg: Float[Tensor, "*batch"]
    voltage_kv: Float[Tensor, "*batch"]
    spherical_aberration_mm: Float[Tensor, "*batch"]
    amplitude_contrast: Float[Tensor, "*batch"]
    phase_shift_deg: Float[Tensor, "*batch"]
    b_factor: Float[Tensor, "*batch"]  # Å^2, envelope exp(-B k^2 / 4)
    aberrations: Aberrations | None  # None: those of a perfect microscope

    def __init__(
        self,
        defocus_u: Tensor | float,
        *,
        defocus_v: Tensor | float | None = None,
        defocus_angle_deg: Tensor | float = 0.0,
        voltage_kv: Tensor | float = 300.0,
        spherical_aberration_mm: Tensor | float = 2.7,
        amplitude_contrast: Tensor | float = 0.1,
        phase_shift_deg: Tensor | float = 0.0,
        b_factor: Tensor | float = 0.0,
        aberrations: Aberrations | None = None,
    ) -> None:
        u = torch.as_tensor(defocus_u)
        u = u if u.is_floating_point() else u.float()
        others = (defocus_angle_deg, voltage_kv, spherical_aberration_mm, amplitude_contrast)
        values = (u, u if defocus_v is None else defocus_v, *others, phase_shift_deg, b_factor)
        like_u = (torch.as_tensor(value, dtype=u.dtype, device=u.device) for value in values)
        tensors = torch.broadcast_tensors(*like_u)
        for field, tensor in zip(dataclasses.fields(self)[:-1], tensors, strict=True):
            object.__setattr__(self, field.name, tensor)  # the dataclass is frozen
        object.__setattr__(self, "aberrations", aberrations)

    def __getitem__(self, index: Tensor | slice | int) -> "CTFParameters":
        return self._map(lambda value: value[index])

    def to(self, target: torch.device | torch.dtype | str) -> "CTFParameters":
        """The same parameters on another device, or in another precision."""
        return self._map(lambda value: value.to(target))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "CTFParameters":
        names = [field.name for field in dataclasses.fields(self)[:-1]]
        values = {name: function(getattr(self, name)) for name in names}
        more = self.aberrations
        return CTFParameters(**values, aberrations=None if more is None else more.map(function))


def electron_wavelength(voltage_kv: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Relativistic wavelength, in Å: 12.2643247 / sqrt(V (1 + 0.978466e-6 V)), V in volts."""
    volts = voltage_kv * 1e3
    return 12.2643247 / torch.sqrt(volts * (1 + 0.978466e-6 * volts))


def contrast_transfer_function(
    frequencies: Float[Tensor, "*grid 2"], parameters: CTFParameters | Float[Tensor, "*batch term"]
) -> Float[Tensor, "*batch_and_grid"]:
    """CTF at the spatial frequencies (kx, ky), in 1/Å, of a grid that all particles share.

    CTF = -sin(gamma) exp(-B k^2 / 4), with theta = atan2(ky, kx),
    gamma = -pi lambda df k^2 + (pi/2) Cs lambda^3 k^4 - phase_shift - atan(w / sqrt(1 - w^2)), and
    df = (U + V)/2 + (U - V)/2 cos(2 (theta - angle)). Even aberrations are added to gamma, and k is
    the frequency of the molecule, where these say so; its square for images that were multiplied by
    it.

    `parameters` may be their `ctf_terms`, where these are made once for many calls. The result has
    the batch shape of the parameters followed by the shape of the grid, and the parameters'
    precision. gamma reaches 100 radians at 4 Å, where float32 is right to 1e-5, and 1,000 at 1 Å:
    use float64 parameters there.
    """
    terms = ctf_terms(parameters) if isinstance(parameters, CTFParameters) else parameters
    if terms.shape[-1] != PLAIN_TERMS:
        return _with_aberrations(frequencies.to(terms), terms)
    kx, ky = frequencies.to(terms).unbind(-1)
    constant, isotropic, along_x, diagonal, quartic, envelope = (
        term.reshape(term.shape + (1,) * kx.ndim)  # (*batch, 1, ...)
        for term in terms.unbind(-1)
    )
    k2 = kx.square() + ky.square()
    minus_gamma = torch.addcmul(constant, isotropic, k2)
    minus_gamma = minus_gamma.addcmul_(along_x, kx.square() - ky.square())
    minus_gamma = minus_gamma.addcmul_(diagonal, 2 * kx * ky).addcmul_(quartic, k2.square())
    return minus_gamma.sin_() * torch.exp(envelope * k2)


def _with_aberrations(
    frequencies: Float[Tensor, "*grid 2"], terms: Float[Tensor, "*batch 13"]
) -> Float[Tensor, "*batch_and_grid"]:
    basis = monomials(frequencies.reshape(-1, 2), EVEN)
    minus_gamma, envelope = terms[..., :9] @ basis.mT, terms[..., 9:12] @ basis[:, 1:4].mT
    values = minus_gamma.sin() * envelope.exp()
    values = torch.where(terms[..., 12:] > 0, values.square(), values)
    return values.reshape(*terms.shape[:-1], *frequencies.shape[:-1])


def ctf_signs(
    frequencies: Float[Tensor, "*grid 2"], parameters: CTFParameters
) -> Float[Tensor, "*batch_and_grid"]:
    """The sign of the CTF, +1 or -1 (+1 where the CTF is 0): the factor of phase flipping."""
    values = contrast_transfer_function(frequencies, parameters)
    return torch.ones_like(values).copysign(values)


def ctf_terms(
    parameters: CTFParameters, sigma: Float[Tensor, ""] | float = 0.0
) -> Float[Tensor, "*batch term"]:
    """Some numbers a particle: the factors of the functions of k that add up to its CTF.

    Without aberrations they are six. In this order, those of 1, k^2, kx^2 - ky^2, 2 kx ky and k^4
    in -gamma, and that of k^2 in the exponent of the envelope. No angle of the grid is needed,
    because k^2 cos(2 (theta - angle)) = (kx^2 - ky^2) cos(2 angle) + 2 kx ky sin(2 angle).

    With aberrations they are 13: those of the monomials `aberrations.EVEN` in -gamma, those of
    kx^2, kx ky and ky^2 in the exponent of the envelope, and 1 for an image that was multiplied by
    its CTF. A magnification changes the width of the Gaussians in an image, too; for those of a
    width of `sigma`, in Å, the envelope makes up for that.
    """
    wavelength = electron_wavelength(parameters.voltage_kv)
    angle = 2 * torch.deg2rad(parameters.defocus_angle_deg)
    half_sum = math.pi * wavelength * (parameters.defocus_u + parameters.defocus_v) / 2
    half_difference = math.pi * wavelength * (parameters.defocus_u - parameters.defocus_v) / 2
    constant = torch.deg2rad(parameters.phase_shift_deg) + torch.asin(parameters.amplitude_contrast)
    aberration = (math.pi / 2) * 1e7 * parameters.spherical_aberration_mm * wavelength**3
    along_x, diagonal = half_difference * torch.cos(angle), half_difference * torch.sin(angle)
    envelope, more = -0.25 * parameters.b_factor, parameters.aberrations
    if more is None:
        terms = [constant, half_sum, along_x, diagonal, -aberration, envelope]
        return torch.stack(terms, dim=-1)
    zero, matrix = torch.zeros_like(constant), more.distortion.to(constant)
    square = torch.stack([half_sum + along_x, 2 * diagonal, half_sum - along_x], dim=-1)
    fourth = torch.stack([-aberration, zero, -2 * aberration, zero, -aberration], dim=-1)
    even = more.even.to(constant)
    width = 2 * (math.pi * float(sigma)) ** 2
    blurred = envelope - width
    envelopes = substituted(torch.stack([blurred, zero, blurred], dim=-1), matrix)
    envelopes = envelopes + width * envelopes.new_tensor([1.0, 0.0, 1.0])
    parts = [
        constant[..., None] - even[..., :1],
        substituted(square - even[..., 1:4], matrix),
        substituted(fourth - even[..., 4:], matrix),
        envelopes,
        more.multiplied.to(constant)[..., None],
    ]
    return torch.cat(parts, dim=-1)
