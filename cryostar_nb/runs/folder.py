"""The folder that keeps a run, and how a run is opened.

`config.json` says what was trained, on what; `reference.cif` is the coarse-grained reference,
`atoms.cif` all of its heavy atoms; `checkpoint.pt` and `metrics.csv` come from training;
`latents.npy` is the latent mean of every particle, (particle, latent); `held_out.json` says whether
the encoder learned its images by heart, and `quality.npy` how probable it is that a particle is a
good one.
"""

import pickle
from pathlib import Path

import torch

from cryostar_nb.errors import InputError
from cryostar_nb.io.structures import read_nodes
from cryostar_nb.models import make_network
from cryostar_nb.runs.pose_refinement import stored_corrections
from cryostar_nb.runs.run import Run, band_of
from cryostar_nb.runs.run_config import read_config

FILES = (
    "config.json",
    "reference.cif",
    "atoms.cif",
    "checkpoint.pt",
    "metrics.csv",
    "latents.npy",
    "held_out.json",
    "quality.npy",
)


def open_run(folder: Path | str) -> Run:
    """Load a run's last checkpoint, on the CPU, ready for inference.

    Raises InputError for a folder without a run or a checkpoint, and for files that do not fit
    each other.
    """
    folder = Path(folder)
    settings = read_config(folder)
    path = folder / "checkpoint.pt"
    if not path.exists():
        raise InputError(
            "has no checkpoint yet (checkpoint.pt)",
            file=folder,
            remedy="train it anew, without --resume",
        )
    atoms = folder / "atoms.cif"  # the electrons of residues without a formula are in their atoms
    nodes = read_nodes(atoms if atoms.exists() else folder / "reference.cif")
    band = band_of(settings)
    model = make_network(settings.train, settings.model, nodes, band, find_modes=False)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights, step = state["model"], int(state["step"])
        corrections = stored_corrections(state.get("poses"), nodes)
    except (RuntimeError, EOFError, KeyError, TypeError, OSError, pickle.UnpicklingError) as error:
        raise InputError(
            f"is damaged, or no checkpoint ({type(error).__name__})",
            file=path,
            remedy="train into a new --out",
        ) from error
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            "does not fit the network that config.json beside it describes"
            f" (made by version {settings.version})",
            file=path,
            remedy="restore the two of one run",
        ) from error
    return Run(folder, settings, nodes, model.eval(), step, corrections)
