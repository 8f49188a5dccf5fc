"""How alike found and true densities are: the measures of CryoBench (Jeon et al., NeurIPS 2024).

The area under the Fourier shell correlation with the true density, of single images and of whole
conformations, and how many neighbours in latent space are neighbours in truth. Methods without an
atomic model are compared by these. Here both densities are made of the same Gaussians, carried once
by the nodes that were found and once by the true ones, so only the motion differs: what side chains
do, and the noise of a map, are not in it.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cryostar_nb.density import Density, model_density
from cryostar_nb.fourier import shell_correlation
from cryostar_nb.geometry import rmsd
from cryostar_nb.latents import evenly_spaced

MOST = 12  # images, and conformations, whose densities are compared
GAUSSIANS = 100_000  # in all of them; but no fewer than six are compared
MARGIN = 8.0  # Å, of the box around the outermost node
NEIGHBOURHOODS = (0.01, 0.05, 0.1)  # parts of the particles
SAMPLE = 2000  # particles whose neighbours are looked at


def correlation_area(first: Float[Tensor, "z y x"], second: Float[Tensor, "z y x"]) -> float:
    """Area under the FSC over frequencies in cycles per pixel, 1 at 0, up to below Nyquist.

    It is below 0.5, which two equal maps reach but for the last shell.
    """
    frequencies, curve = shell_correlation(first, second, pixel_size=1.0)
    start = torch.zeros(1, dtype=torch.float64)
    return float(torch.trapezoid(torch.cat([start + 1, curve]), torch.cat([start, frequencies])))


def neighbourhood_similarity(
    latents: Float[Tensor, "particle latent"],
    distances: Float[Tensor, "state state"],
    states: Int[Tensor, " particle"],
    part: float,
) -> float:
    """Fraction of the nearest particles in latent space that are among the nearest in truth.

    `part` of all particles are a neighbourhood; `distances` are those of the true states. Where
    equally near particles do not all have room, each counts by its chance. By chance alone the
    answer is `part`.
    """
    count = max(1, round(part * (len(latents) - 1)))
    apart = torch.cdist(latents, latents).fill_diagonal_(torch.inf)
    nearest = apart.topk(count, largest=False).indices
    true = distances[states][:, states].clone().fill_diagonal_(torch.inf)
    edge = true.kthvalue(count, dim=1, keepdim=True).values
    closer, level = (true < edge).sum(1, keepdim=True), (true == edge).sum(1, keepdim=True)
    chance = torch.where(true < edge, 1.0, (true == edge) * (count - closer) / level)
    return float(chance.gather(1, nearest).mean())


@torch.no_grad()
def volume_scores(
    decoder: nn.Module,
    latents: Float[Tensor, "particle latent"],
    states: Int[Tensor, " particle"],
    positions: Float[Tensor, "state atom 3"],
    reference: Float[Tensor, "atom 3"],
    *,
    density: Density,
    box_size: int,
    pixel_size: float,
) -> dict[str, Any]:
    """Mean and standard deviation of the areas, and the similarity of neighbourhoods.

    `per_image`: of up to 12 particles, evenly spaced. `per_conformation`: of the mean latents of
    the particles of up to 12 states. `do_nothing` always answers with the reference; `highest` is
    the area of two equal densities. The box of `box_size` pixels is cut to the molecule.
    """
    reach = float(positions.norm(dim=-1).max()) + MARGIN + 4 * float(density.sigma)
    box_size = min(box_size, 2 * round(reach / pixel_size))
    count = max(6, min(MOST, GAUSSIANS // len(density.amplitudes)))

    def volume(nodes: Float[Tensor, "atom 3"]) -> Float[Tensor, "z y x"]:
        return model_density(
            density.centres(nodes),
            density.amplitudes,
            float(density.sigma),
            box_size=box_size,
            pixel_size=pixel_size,
        )

    rows = evenly_spaced(count, len(latents))
    present = states.unique()
    shown = present[evenly_spaced(count, len(present))]
    means = torch.stack([latents[states == state].mean(0) for state in shown])
    idle = volume(reference)
    areas: dict[str, list[float]] = {"per_image": [], "per_conformation": [], "do_nothing": []}
    for row in rows.tolist():
        found, true = decoder(latents[row : row + 1])[0], positions[states[row]]
        areas["per_image"].append(correlation_area(volume(found), volume(true)))
    for mean, state in zip(means, shown.tolist(), strict=True):
        true = volume(positions[state])
        areas["per_conformation"].append(correlation_area(volume(decoder(mean[None])[0]), true))
        areas["do_nothing"].append(correlation_area(idle, true))
    some = evenly_spaced(SAMPLE, len(latents))
    distances = rmsd(positions[:, None], positions)
    similar = [
        neighbourhood_similarity(latents[some], distances, states[some], part)
        for part in NEIGHBOURHOODS
    ]
    found_areas = {f"fsc_auc_{name}": float(np.mean(values)) for name, values in areas.items()}
    spread = {f"fsc_auc_{name}_sd": float(np.std(values)) for name, values in areas.items()}
    return {
        **found_areas,
        **spread,
        "fsc_auc_highest": correlation_area(idle, idle),
        "neighbourhoods": list(NEIGHBOURHOODS),
        "neighbourhood_similarity": similar,
    }
