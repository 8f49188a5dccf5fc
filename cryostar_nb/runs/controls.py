"""What a run is compared with: particles that do not move, and another reference."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from cryostar_nb.errors import InputError
from cryostar_nb.io.structures import read_atoms_and_nodes, write_structure
from cryostar_nb.normal_modes import normal_modes
from cryostar_nb.poses import transfer_of
from cryostar_nb.posterior import Inference
from cryostar_nb.structure import Structure, shared_residues
from cryostar_nb.training import TrainingData

if TYPE_CHECKING:
    from cryostar_nb.runs.run import Run

BENT, MOST_BENT = 2.0, 6.0  # Å rms over the nodes, and Å of one, of the other reference
SOFTEST = 3  # normal modes that bend it
AT_ONCE = 256  # particles


@torch.no_grad()
def motionless(run: "Run", given: TrainingData, inference: Inference) -> TrainingData:
    """Images of the mean structure, with the poses, the CTFs and the noise of a run's particles,
    which are `given` as `Run.given` reads them.

    They have the poses that the run corrected, and are said to have those that were given.
    """
    seen = run.refined(given)
    positions, turns = run.model.decoder.deform(run.latents.mean(0))
    generator = torch.Generator().manual_seed(run.config.seed)
    vectors = torch.empty(given.vectors.shape, dtype=torch.float16)
    for rows in tqdm(torch.arange(len(seen)).split(AT_ONCE), desc="images without motion"):
        shifts, ctf = (None if v is None else v[rows] for v in (seen.shifts, seen.ctf))
        count = len(rows)
        made = run.density.images(
            positions.expand(count, -1, -1),
            run.band,
            turns=None if turns is None else turns.expand(count, -1, -1),
            rotations=seen.rotations[rows],
            shifts=shifts,
        )
        made = run.model.scaled(made * transfer_of(ctf, made, run.band)) * inference.amplitude
        noise = torch.randn(made.shape, generator=generator) / inference.whitening
        vectors[rows] = (made + noise).half()
    return replace(given, vectors=vectors)


def other_reference(run: "Run", path: Path | None, folder: Path) -> tuple[Structure, Structure]:
    """Atoms and nodes of another reference: that of a file, or the run's own bent by 2 Å rms along
    its softest normal modes, which is written to `reference.cif`.
    """
    if path is not None:
        return read_atoms_and_nodes(path)
    modes = normal_modes(run.nodes.positions, count=SOFTEST)
    move = modes.vectors.sum(0)
    lengths = np.linalg.norm(move, axis=-1)
    move *= min(BENT / np.sqrt(np.square(lengths).mean()), MOST_BENT / lengths.max())
    nodes = run.nodes.with_positions(run.nodes.positions + move)
    atoms = nodes
    if run.config.density != "nodes":
        placed = run.carried.centres(torch.from_numpy(nodes.positions).float())
        atoms = run.atoms.with_positions(placed.double().numpy())
    write_structure(folder / "reference.cif", atoms)
    return atoms, nodes


def common_nodes(first: Structure, second: Structure) -> tuple[list[int], list[int]]:
    """Places of the nodes that both have, by chain and residue."""
    here, there = shared_residues(first, second)
    if 2 * len(here) < len(first):
        problem = f"shares {{value}} of {len(first)} residues with the run's reference"
        remedy = "give a model of the same molecule, with the same chains and residue numbers"
        raise InputError(problem, value=len(here), remedy=remedy)
    return here, there
