"""Down to which resolution a model's Gaussian density can be trusted (appendix A).

The Fourier shell correlation between the density and a consensus map falls below 0.5 somewhere,
and training compares images only down to there.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.density import Density, atom_sigma, model_density
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import FSC_LEVEL, first_crossing, shell_correlation
from cryostar_nb.io.maps import DensityMap, read_map
from cryostar_nb.structure import Structure, coarse_grain

COARSE = 30.0  # Å; a model that lies in a map agrees with it at all coarser detail


@dataclass(frozen=True)
class Agreement:
    """The shell correlation of two densities, and the resolution where it first falls below 0.5."""

    frequencies: Float[Tensor, " shell"]  # 1/Å
    correlation: Float[Tensor, " shell"]
    cutoff: float  # Å; the last shell where it stays above


def agreement_with_map(
    centres: Float[Tensor, "gaussian 3"],
    amplitudes: Float[Tensor, " gaussian"],
    sigma: float,
    density_map: DensityMap,
) -> Agreement:
    """Compare Gaussians, in the frame of the poses, with a map (its centre voxel is the origin).

    Raises InputError when they agree at no resolution, or at coarse ones only by chance: then the
    model does not lie in the map.
    """
    voxel_size = density_map.voxel_size
    volume = model_density(
        centres, amplitudes, sigma, box_size=density_map.box_size, pixel_size=voxel_size
    )
    frequencies, curve = shell_correlation(volume, density_map.values, pixel_size=voxel_size)
    cutoff = first_crossing(frequencies, curve)
    at_coarse = float(curve[: max(2, int((frequencies < 1 / COARSE).sum()))].mean())
    if cutoff is None or at_coarse < FSC_LEVEL:
        raise InputError(
            "the model and the map agree at no resolution (FSC {value} at coarse detail)",
            value=round(at_coarse, 2),
            remedy="dock it first: cryostar-nb dock MODEL MAP --frame poses --out DOCKED.cif",
        )
    return Agreement(frequencies, curve, cutoff)


def low_pass_from_map(
    density: Density, nodes: Structure, path: Path, pixel_size: float | None = None
) -> float:
    """Resolution, in Å to two decimals, where the FSC of a density with a map falls to 0.5."""
    centres = density.centres(torch.from_numpy(nodes.positions).float())
    density_map = read_map(path, pixel_size=pixel_size)
    agreement = agreement_with_map(centres, density.amplitudes, float(density.sigma), density_map)
    return round(agreement.cutoff, 2)


@dataclass(frozen=True)
class DensityQuality:
    """Figure 5: the density of all atoms, that of the nodes, and how the two agree."""

    full: Float[Tensor, "z y x"]
    coarse: Float[Tensor, "z y x"]
    agreement: Agreement


def density_quality(
    atoms: Structure,
    *,
    box_size: int,
    pixel_size: float,
    sigma: float = 2.0,
    resolution: float = 3.0,
) -> DensityQuality:
    """Compare the density of all atoms, at a resolution, with Gaussians of width `sigma` at the
    nodes; both in Å.
    """
    nodes = coarse_grain(atoms)
    full, coarse = (
        model_density(
            torch.from_numpy(structure.positions),
            torch.from_numpy(structure.electrons),
            width,
            box_size=box_size,
            pixel_size=pixel_size,
        )
        for structure, width in ((atoms, atom_sigma(resolution)), (nodes, sigma))
    )
    frequencies, curve = shell_correlation(full, coarse, pixel_size=pixel_size)
    cutoff = first_crossing(frequencies, curve) or float("inf")
    return DensityQuality(full, coarse, Agreement(frequencies, curve, cutoff))
