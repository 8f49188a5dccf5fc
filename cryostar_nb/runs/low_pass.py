"""Down to which resolution a model's Gaussian density can be trusted (appendix A).

The Fourier shell correlation between the density and a consensus map falls below 0.5 somewhere, and training compares images
only down to there.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.config import TrainConfig
from cryostar_nb.density import atom_sigma, make_density, model_density
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import LEVEL, first_crossing, shell_correlation
from cryostar_nb.io.maps import DensityMap, read_map
from cryostar_nb.io.structures import read_atoms_and_nodes
from cryostar_nb.structure import Structure, coarse_grain


@dataclass(frozen=True)
class Agreement:
    """The Fourier shell correlation of two densities, and the resolution at which it first falls below 0.5."""

    frequencies: Float[Tensor, " shell"]  # 1/Å
    correlation: Float[Tensor, " shell"]
    cutoff: float  # Å; the last shell where it stays above


def agreement_with_map(
    centres: Float[Tensor, "gaussian 3"],
    amplitudes: Float[Tensor, " gaussian"],
    sigma: float,
    density: DensityMap,
) -> Agreement:
    """Compare Gaussians, in the frame of the poses, with a map, whose centre voxel is the origin of that frame.

    Raises InputError when they agree at no resolution, or at coarse ones only by chance: then the model does not lie in the map.
    """
    made = model_density(
        centres, amplitudes, sigma, box_size=density.box_size, pixel_size=density.voxel_size
    )
    frequencies, curve = shell_correlation(made, density.values, pixel_size=density.voxel_size)
    cutoff = first_crossing(frequencies, curve)
    coarse = curve[: max(2, int((frequencies < 1 / 30).sum()))]
    if cutoff is None or float(coarse.mean()) < LEVEL:
        raise InputError(
            f"the model and the map agree at no resolution (FSC {float(coarse.mean()):.2f} at coarse detail); dock the model first: cryostar-nb dock MODEL MAP --frame poses --out DOCKED.cif"
        )
    return Agreement(frequencies, curve, cutoff)


@dataclass(frozen=True)
class DensityQuality:
    """The three panels of Figure 5: density of all atoms, density of the nodes, and how they agree."""

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
    """Compare the density of a structure's atoms, at a resolution in Å, with Gaussians of width `sigma`, in Å, at its nodes."""
    nodes = coarse_grain(atoms)
    full, coarse = (
        model_density(
            torch.from_numpy(s.positions),
            torch.from_numpy(s.electrons),
            width,
            box_size=box_size,
            pixel_size=pixel_size,
        )
        for s, width in ((atoms, atom_sigma(resolution)), (nodes, sigma))
    )
    frequencies, curve = shell_correlation(full, coarse, pixel_size=pixel_size)
    return DensityQuality(
        full,
        coarse,
        Agreement(frequencies, curve, first_crossing(frequencies, curve) or float("inf")),
    )


def low_pass_from_map(
    reference: Path | str,
    density: Path | str | None,
    config: TrainConfig,
    map_pixel_size: float | None = None,
) -> float:
    """Resolution, in Å to two decimals, at which the FSC of a reference's density with a consensus map falls to 0.5 (appendix A)."""
    if density is None:
        raise InputError("--low-pass auto needs a consensus map; give --map")
    atoms, nodes = read_atoms_and_nodes(reference)
    made = make_density(config, atoms, nodes)
    centres = made.centres(torch.from_numpy(nodes.positions).float())
    return round(
        agreement_with_map(
            centres,
            made.amplitudes,
            float(made.sigma),
            read_map(density, pixel_size=map_pixel_size),
        ).cutoff,
        2,
    )
