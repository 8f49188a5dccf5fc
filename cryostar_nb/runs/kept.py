"""What a run keeps beside its checkpoint, of every particle, and whether it is of that one."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from cryostar_nb.density import Density
from cryostar_nb.fourier import Band
from cryostar_nb.io.files import replacing
from cryostar_nb.models import DeformationVAE
from cryostar_nb.poses import Corrections
from cryostar_nb.quality import matched_signals, probability_good
from cryostar_nb.training import TrainingData, infer_latents


def is_fresh(path: Path, folder: Path) -> bool:
    """Whether a file is there, and not older than the checkpoint of the run in this folder."""
    checkpoint = folder / "checkpoint.pt"
    return path.exists() and path.stat().st_mtime >= checkpoint.stat().st_mtime


def kept(folder: Path, name: str) -> Shaped[np.ndarray, " particle *number"] | None:
    """The file of this name, unless it is missing or older than the checkpoint."""
    path = folder / name
    return np.load(path) if is_fresh(path, folder) else None


def _save(folder: Path, name: str, values: Shaped[np.ndarray, " particle *number"]) -> None:
    with replacing(folder / name) as temporary:
        np.save(temporary, values)


def save_latents(
    folder: Path, network: DeformationVAE, data: TrainingData
) -> Float[Tensor, "particle latent"]:
    """Infer the latent mean of every particle and write `latents.npy`."""
    latents = infer_latents(network, data)
    _save(folder, "latents.npy", latents.numpy())
    return latents


def save_quality(
    folder: Path,
    network: DeformationVAE,
    data: TrainingData,
    density: Density,
    band: Band,
    corrections: Corrections | None,
) -> Float[np.ndarray, " particle"]:
    """Find the probability of every particle to be a good one and write `quality.npy`."""
    density = density.to(data.rotations.device)
    signals = matched_signals(network, data, density=density, band=band, corrections=corrections)
    quality = probability_good(*signals)
    _save(folder, "quality.npy", quality)
    return quality
