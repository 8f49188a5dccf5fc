"""A sample of the particles as whitened band vectors, and their correlation with predictions."""

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryostar_nb.fourier import Band
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.vectors import load_band_vectors
from cryostar_nb.latents import evenly_spaced


@dataclass(frozen=True)
class Sample:
    """Images as whitened band vectors, moved to the centre as their file says."""

    particles: Particles
    frequencies: Float[Tensor, "coefficient 2"]  # 1/Å
    images: Complex[Tensor, "particle coefficient"]
    weight: Float[Tensor, " coefficient"]  # what whitened them, and whitens predictions

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Int[Tensor, " row"]) -> "Sample":
        """These particles alone."""
        return Sample(self.particles[rows], self.frequencies, self.images[rows], self.weight)

    def between(self, low: float, high: float) -> "Sample":
        """The same images at frequencies above `low` and up to `high`, in 1/Å."""
        radius = self.frequencies.norm(dim=-1)
        kept = (radius > low) & (radius <= high * (1 + 1e-9))
        return Sample(
            self.particles, self.frequencies[kept], self.images[:, kept], self.weight[kept]
        )

    def thinned(self, count: int) -> "Sample":
        """So many of the particles, evenly spread over them, or all."""
        return self[evenly_spaced(count, len(self))]

    @property
    def edge(self) -> float:
        """Of the box, in Å."""
        return self.particles.box_size * self.particles.pixel_size

    @property
    def resolution(self) -> float:
        """Of the finest detail, in Å."""
        return 1 / float(self.frequencies.norm(dim=-1).max())


def take_sample(
    particles: Particles, band: Band, count: int | None = None, *, invert: bool = False
) -> Sample:
    """Read and whiten so many particles, evenly spread over all of them (None: all).

    `invert` changes the sign of their contrast.
    """
    if count is not None:
        particles = particles[evenly_spaced(count, len(particles))]
    real, imaginary = load_band_vectors(particles, band, invert=invert).chunk(2, dim=-1)
    images = torch.complex(real, imaginary)
    shell = band.indices.float().norm(dim=-1).round().long()
    counts = torch.bincount(shell).clamp(min=1)
    power = torch.zeros(len(counts)).index_add(0, shell, images.abs().square().mean(0)) / counts
    weight = 1 / power.clamp(min=1e-4 * float(power.max())).sqrt()[shell]
    return Sample(particles, band.frequencies, images * weight, weight)


def correlations(
    first: Complex[Tensor, "particle coefficient"], second: Complex[Tensor, "particle coefficient"]
) -> Float[Tensor, " particle"]:
    """Correlation of each pair of vectors."""
    norms = torch.linalg.vector_norm(first, dim=-1) * torch.linalg.vector_norm(second, dim=-1)
    return (first.conj() * second).real.sum(-1) / norms.clamp(min=1e-30)
