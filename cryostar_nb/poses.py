"""Poses that are corrected: for each particle a small rotation and shift with a Gaussian prior.

A refinement with one consensus map leaves errors in the angles and origins, most of all where the
molecule moves. Given the structure of a particle, its likelihood says how to move it: Gauss-Newton
steps in five numbers, a rotation vector in radians about the centre of the molecule, in the frame
of the microscope, and a shift in Å. The contrast of an image is profiled out, and the prior is
centred on the pose as it was given. The prior's two widths are those that make the particles most
likely (empirical Bayes): where the poses are good, they are narrow and nothing moves.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import normalize

from cryostar_nb.ctf import contrast_transfer_function
from cryostar_nb.density import Density
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import rotations_from_vectors
from cryostar_nb.latents import evenly_spaced
from cryostar_nb.likelihood import contrasts
from cryostar_nb.models import DeformationVAE
from cryostar_nb.projector import make_images
from cryostar_nb.training import TrainingData, looks_of

WIDEST = (math.radians(10.0), 3.0)  # of the prior at first: rad about each axis, Å along each
STEP = 0.02  # rad, of the finite differences
LONGEST = (0.2, 0.2, 0.2, 2.0, 2.0)  # rad and Å, of a Gauss-Newton step
AT_ONCE = 64  # particles
QUANTILE, NORMAL_QUANTILE = 0.8, 1.28155  # of |x| / sd
SAMPLE, EM_STEPS = 2000, 50  # particles that say how wide the prior is, and steps to find it
LEAST_RESOLVED = 0.25  # part of the prior's variance that images have to explain
NARROWEST = 1e-6  # rad and Å, of a prior


@dataclass(frozen=True)
class Corrections:
    """Corrections of the poses of some particles, and the width of their prior."""

    given: Float[Tensor, "particle 3 3"]  # rotations, as they were
    centre: Float[Tensor, "3"]  # Å, of the molecule, about which it turns
    values: Float[Tensor, "particle 5"]  # rotation vector (rad) and shift (Å), as seen
    widths: Float[Tensor, "2"]  # of the prior, rad about each axis and Å along each; 0: as given

    @classmethod
    def none(
        cls,
        given: Float[Tensor, "particle 3 3"],
        centre: Float[Tensor, "3"],
        widths: Float[Tensor, "2"] | None = None,
    ) -> "Corrections":
        """No correction yet."""
        widths = torch.tensor(WIDEST) if widths is None else widths
        return cls(given, centre, given.new_zeros(len(given), 5), widths.to(given))

    def part(self, rows: slice) -> "Corrections":
        """Those of these particles."""
        return replace(self, given=self.given[rows], values=self.values[rows])

    def poses(self) -> tuple[Float[Tensor, "particle 3 3"], Float[Tensor, "particle 2"]]:
        """The corrected rotations, and the shifts, in Å, that go with them."""
        return corrected(self.given, self.values, self.centre)

    def penalties(self) -> Float[Tensor, " particle"]:
        """Squared length of each correction in widths of the prior: five on average."""
        turns, shifts = self.values.split([3, 2], dim=1)
        widths = self.widths.clamp(min=NARROWEST)
        return (turns / widths[0]).square().sum(1) + (shifts / widths[1]).square().sum(1)

    def applied_to(self, data: TrainingData) -> TrainingData:
        """These particles with corrected poses; what the encoder sees of them is to be made."""
        rotations, shifts = self.poses()
        looks = data.looks if data.looks is data.vectors else None  # the image: it stays
        return replace(data, rotations=rotations, shifts=shifts, looks=looks)


def corrected(
    given: Float[Tensor, "particle 3 3"],
    values: Float[Tensor, "particle 5"],
    centre: Float[Tensor, "3"],
) -> tuple[Float[Tensor, "particle 3 3"], Float[Tensor, "particle 2"]]:
    """Rotations R = exp(w) R_given, and shifts t + (R_given - R) c that keep the centre c."""
    rotations = rotations_from_vectors(values[:, :3]) @ given
    moved = (given - rotations) @ centre
    return rotations, values[:, 3:] + moved[:, :2]


@torch.no_grad()
def correct(
    corrections: Corrections,
    data: TrainingData,
    network: DeformationVAE,
    *,
    density: Density,
    band: Band,
    iterations: int = 1,
    learn_widths: bool = True,
) -> Corrections:
    """Corrections after some Gauss-Newton iterations, each particle with its own structure.

    That is the one of its latent mean, by what the encoder sees of it now. With `learn_widths` the
    widths of the prior are estimated again from all particles. Rotations, or shifts, of which the
    images explain less than a quarter of the prior's variance are left as given, and their width is
    0; the next time they are tried anew.
    """
    widths = corrections.widths.clamp(min=NARROWEST)
    if learn_widths:
        widths = torch.where(corrections.widths > 0, widths, widths.new_tensor(WIDEST))
    widths = _of_each(widths)
    values, information = [], []

    def images_of(centres: Tensor, given: Tensor, transfer: Tensor) -> Callable[[Tensor], Tensor]:
        def images(values: Tensor) -> Tensor:
            rotations, shifts = corrected(given, values, corrections.centre)
            made = make_images(
                centres,
                density.amplitudes,
                density.sigma,
                band,
                rotations=rotations,
                shifts=shifts,
            )
            return transfer * made

        return images

    first = 0
    batches = zip(data.split(AT_ONCE), looks_of(network.encoder, data, AT_ONCE), strict=True)
    for (images, _, ctf, _), looks in batches:
        rows = slice(first, first + len(images))
        first += len(images)
        centres = density.centres(*network.decoder.deform(network.encoder(looks)[0]))
        transfer = network.scaled(transfer_of(ctf, images, band))
        predicted = images_of(centres, corrections.given[rows], transfer)
        found = _gauss_newton(images, predicted, corrections.values[rows], widths, iterations, band)
        values.append(found[0])
        information.append(found[1])
    changed = replace(corrections, values=torch.cat(values))
    if not learn_widths:
        return changed
    new, resolved = prior_widths(changed.values, torch.cat(information), widths)
    new = torch.where(resolved < LEAST_RESOLVED, 0, new)
    return replace(changed, widths=new, values=changed.values * _of_each(new > 0))


def _of_each(pair: Shaped[Tensor, "2"]) -> Shaped[Tensor, "5"]:
    """What is so of rotations and of shifts, for each of the five numbers of a correction."""
    return pair[[0, 0, 0, 1, 1]]


def transfer_of(
    ctf: Float[Tensor, "batch term"] | None, images: Float[Tensor, "batch band"], band: Band
) -> Float[Tensor, "batch band"]:
    """The CTF of these images, as factors of their vectors."""
    if ctf is None:
        return torch.ones_like(images)
    values = contrast_transfer_function(band.frequencies_on(images.device), ctf)
    return band.per_coefficient(values).to(images)


def refine_new(
    learned: Corrections,
    data: TrainingData,
    network: DeformationVAE,
    *,
    density: Density,
    band: Band,
    rounds: int = 3,
) -> tuple[TrainingData, Corrections]:
    """Particles that were not trained on, with corrected poses, and the corrections.

    Each round takes the structures that the encoder sees with the poses of the one before. The
    prior is that of the training, which `learned` has.
    """
    found = Corrections.none(data.rotations, learned.centre, learned.widths)
    for _ in range(rounds):
        found = correct(
            found,
            data,
            network,
            density=density,
            band=band,
            learn_widths=False,
        )
        data = found.applied_to(data)
    return data, found


def _gauss_newton(
    images: Float[Tensor, "batch band"],
    predicted: Callable[[Tensor], Tensor],
    values: Float[Tensor, "batch 5"],
    widths: Float[Tensor, "5"],
    iterations: int,
    band: Band,
) -> tuple[Float[Tensor, "batch 5"], Float[Tensor, "batch 5 5"]]:
    """The best corrections on the way, and the information on them in their image.

    The image is a multiple of the prediction, and noise whose variance is that of the first
    residuals of the batch; the multiple is profiled out.
    """
    precision = widths.square().reciprocal()
    best = torch.full_like(values[:, 0], -math.inf)
    kept, information = values, values.new_zeros(len(values), 5, 5)
    noise = values.new_ones(())
    for turn in range(iterations + 1):
        prediction = predicted(values)
        contrast = contrasts(images, prediction)[:, None]
        residual = images - contrast * prediction
        noise = noise if turn else residual.square().mean()
        fit = -0.5 * (residual.square().sum(-1) / noise + (precision * values.square()).sum(-1))
        better = fit > best
        best = torch.where(better, fit, best)
        kept = torch.where(better[:, None], values, kept)
        if turn == iterations:
            break
        slopes = pose_slopes(predicted, values, prediction, band) * contrast[:, None]
        along = normalize(prediction, dim=-1)[:, None]  # a change of contrast alone
        slopes = slopes - (slopes * along).sum(-1, keepdim=True) * along
        here = slopes @ slopes.mT / noise
        information = torch.where(better[:, None, None], here, information)
        gradient = (slopes @ residual[..., None]).squeeze(-1) / noise - precision * values
        change = torch.linalg.solve(here + torch.diag(precision), gradient)
        excess = (change.abs() / values.new_tensor(LONGEST)).amax(-1, keepdim=True)
        values = values + change / excess.clamp(min=1)
    return kept, information


def pose_slopes(
    predicted: Callable[[Tensor], Tensor],
    values: Float[Tensor, "batch 5"],
    prediction: Float[Tensor, "batch band"],
    band: Band,
) -> Float[Tensor, "batch 5 band"]:
    """How predictions change with each number of a correction: per radian by differences, per Å.

    `predicted` makes them of corrections, and `prediction` is that of these `values`.
    """
    steps = STEP * torch.eye(3, 5).to(values)
    turned = [(predicted(values + step) - prediction) / STEP for step in steps]
    return torch.stack([*turned, *_shifted(prediction, band)], dim=1)


def _shifted(images: Float[Tensor, "batch band"], band: Band) -> list[Float[Tensor, "batch band"]]:
    """How images change with a shift along x and along y, per Å: -2 pi i k times each."""
    real, imaginary = images.chunk(2, dim=-1)
    angles = 2 * math.pi * band.frequencies_on(images.device).to(images)
    return [torch.cat([k * imaginary, -k * real], dim=-1) for k in angles.unbind(-1)]


def prior_widths(
    values: Float[Tensor, "particle 5"],
    information: Float[Tensor, "particle 5 5"],
    widths: Float[Tensor, "5"],
) -> tuple[Float[Tensor, "2"], Float[Tensor, "2"]]:
    """Widths, in rad and Å, of the prior that makes the particles most likely; how much of it
    their images explain.

    By expectation and maximisation, with each particle's likelihood as a Gaussian: `information` is
    its precision, and `values` are where it has its best with a prior of the present `widths`.
    Quantiles stand for means, so that particles of no good hardly widen the prior. What comes back
    is the geometric mean of the old widths and the new ones: the structures have to follow. The
    part of the prior's variance that is explained is a median over particles, with the new widths.
    """
    chosen = evenly_spaced(SAMPLE, len(values)).to(values.device)
    information = information[chosen].double()
    present = torch.diag(widths.double().square().reciprocal())
    pull = (information + present) @ values[chosen].double()[..., None]  # information times peak
    variance = widths.double().square()
    for _ in range(EM_STEPS):
        spread = torch.linalg.inv(information + torch.diag(variance.reciprocal()))
        mean, uncertain = (spread @ pull).squeeze(-1), spread.diagonal(dim1=1, dim2=2)
        for axes in (slice(0, 3), slice(3, 5)):
            sd = mean[:, axes].abs().quantile(QUANTILE) / NORMAL_QUANTILE
            variance[axes] = sd.square() + uncertain[:, axes].median()
    left = (uncertain / variance).median(0).values
    new = (widths.double() * variance.sqrt()).sqrt()
    return new[[0, 3]].to(values), (1 - left)[[0, 3]].to(values)
