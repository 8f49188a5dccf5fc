"""How far Cα is pulled off by the model of the image alone: no noise, no network.

    python benchmarks/image_model.py

One structure is fitted to clean images of one state of adenylate kinase: the closed one, the middle
of its path, or the open one. Images are made of all atoms of the state; the fit has the atoms of
the closed reference, which go with their residues. The fit starts at the true Cα positions and is
held by the bonds and the elastic network as at the end of a training. What is left when it has come
to rest is an error that no amount of data removes. Variants say how side chains may move. Writes
results/image_model.json and image_model.md.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import HERE, KINASE, RESULTS
from torch import Tensor

from cryostar_nb.config import PRESETS
from cryostar_nb.ctf import ctf_terms
from cryostar_nb.density import CarriedGaussians, Density, atom_density, atom_sigma
from cryostar_nb.fast.carry import frames, rotations_of_turns
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import pair_distances, rmsd
from cryostar_nb.io.files import write_json, write_text
from cryostar_nb.io.structures import read_atoms_and_nodes
from cryostar_nb.losses import Restraints, correlation_loss
from cryostar_nb.projector import make_images
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import draw_poses, load_path
from cryostar_nb.structure import Structure, node_atoms

sys.path.append(str(HERE.parent / "book"))
from provenance import provenance_of

COMMAND = "python benchmarks/image_model.py"
BAND = Band(128, 1.0, 4.0)
STATES = (0, 24, 49)  # of 50
BATCH, POSES, LEARNING_RATE = 48, 1024, 0.03
ELASTIC, KEPT = 0.005, 0.9  # weight, and part of the edges, at the end of a training
LEVELS = {"B": 1, "G": 2, "D": 3, "E": 4, "Z": 5, "H": 6}  # of an atom's name, along a side chain


class SideChains:
    """The atoms of the reference about their nodes, and the ways in which they may turn."""

    def __init__(self, atoms: Structure, carried: CarriedGaussians) -> None:
        self.offsets, self.node_of = carried.offsets, carried.node_of
        backbone = np.isin(atoms.atom_names, ["N", "CA", "C", "O"])
        level = [
            0 if b else LEVELS.get(n[1:2], 0)
            for n, b in zip(atoms.atom_names, backbone, strict=True)
        ]
        self.level = torch.tensor(level)
        count = int(self.node_of[-1]) + 1
        first = [self._first(step, count) for step in (1, 2, 3)]
        self.place, found = zip(*first, strict=True)
        self.turns = [found[0] & found[1], found[0] & found[1] & found[2]]

    def _first(self, level: int, count: int) -> tuple[Tensor, Tensor]:
        """The first atom of each residue at this level of its side chain, and if it has one."""
        place = torch.ones(count, 3) + torch.eye(3)[level - 1]
        found = torch.zeros(count, dtype=torch.bool)
        for atom in (self.level == level).nonzero().squeeze(1).flip(0).tolist():
            place[self.node_of[atom]] = self.offsets[atom]
            found[self.node_of[atom]] = True
        return place, found

    def carried_rigidly(self, values: Tensor) -> Tensor:
        """Nothing turns."""
        return self.offsets

    def residue_turns(self, values: Tensor) -> Tensor:
        """All atoms of a residue turn about Cα, as in the default setting."""
        turned = rotations_of_turns(values)[self.node_of] @ self.offsets[..., None]
        return turned.squeeze(-1)

    def side_chain_turns(self, values: Tensor) -> Tensor:
        """The side chain turns about Cα; the backbone stays."""
        return torch.where(self.level[:, None] > 0, self.residue_turns(values), self.offsets)

    def _about(self, bond: int, angle: Tensor, offsets: Tensor) -> Tensor:
        """What lies beyond a bond of the side chain, turned about it (Rodrigues)."""
        origin = torch.zeros_like(self.place[0]) if bond == 0 else self.place[0]
        axis = torch.nn.functional.normalize(self.place[bond] - origin, dim=-1)[self.node_of]
        angle = (angle * self.turns[bond])[self.node_of, None]
        apart = offsets - origin[self.node_of]
        along = axis * (axis * apart).sum(-1, keepdim=True) * (1 - angle.cos())
        turned = apart * angle.cos() + torch.linalg.cross(axis, apart) * angle.sin() + along
        return torch.where(self.level[:, None] > bond + 1, turned + origin[self.node_of], offsets)

    def first_torsion(self, values: Tensor) -> Tensor:
        """Side chains turn about the bond from Cα to Cβ."""
        return self._about(0, values[:, 0], self.offsets)

    def two_torsions(self, values: Tensor) -> Tensor:
        """And about the next bond, too."""
        return self._about(0, values[:, 0], self._about(1, values[:, 1], self.offsets))


def fit(
    target: Tensor,
    start: Tensor,
    density: Density,
    move: Callable[[Tensor], Tensor],
    restraints: Callable[[Tensor], Tensor],
    views: tuple[Tensor, Tensor],
    sigma: float,
    electrons: Tensor,
    steps: int,
) -> float:
    """Cα-RMSD of the fitted structure to the true one, in Å; `target` are the state's atoms."""
    torch.manual_seed(0)
    carried = density.carried
    assert carried is not None
    nodes = start.clone().requires_grad_()
    values = torch.zeros(len(start), 3, requires_grad=True)
    optimiser = torch.optim.Adam([nodes, values], LEARNING_RATE)
    for step in range(steps):
        rate = 0.5 * LEARNING_RATE * (1 + math.cos(math.pi * step / steps))
        optimiser.param_groups[0]["lr"] = rate
        rows = torch.randint(0, POSES, (BATCH,))
        rotations, ctf = (view[rows] for view in views)
        true = make_images(
            target, electrons, torch.tensor(sigma), BAND, rotations=rotations, ctf=ctf
        )
        axes = frames(nodes, carried.frame_nodes, carried.framed)[carried.node_of]
        centres = nodes[carried.node_of] + (axes @ move(values)[..., None]).squeeze(-1)
        made = make_images(
            centres, density.amplitudes, density.sigma, BAND, rotations=rotations, ctf=ctf
        )
        loss = correlation_loss(true, made) + restraints(nodes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(rmsd(nodes.detach(), start))


def measure(steps: int) -> dict[str, list[float]]:
    """The error of each variant at each state."""
    config = SimulationConfig()
    shared, path = load_path(config, KINASE, HERE.parent / "data" / "4ake.pdb")
    states = torch.from_numpy(path).float()
    true_nodes = states[:, node_atoms(shared)]
    atoms, nodes = read_atoms_and_nodes(KINASE)
    settings = dataclasses.replace(PRESETS["standard"], low_pass=4.0)
    density, bonds = atom_density(atoms, settings.atom_sigma), Restraints(nodes, settings)
    lengths = torch.stack([pair_distances(x, bonds.edges) for x in true_nodes[::7]])
    kept = lengths.var(0) <= lengths.var(0).quantile(KEPT)

    def restraints(positions: Tensor) -> Tensor:
        stretched = pair_distances(positions, bonds.bonds) - bonds.bond_lengths
        strained = (pair_distances(positions, bonds.edges) - bonds.edge_lengths)[kept]
        return stretched.square().mean() + ELASTIC * strained.square().mean()

    drawn = dataclasses.replace(config, n_particles=POSES)
    poses = draw_poses(drawn, np.random.default_rng(5))
    assert poses.ctf is not None
    views = poses.rotations.float(), ctf_terms(poses.ctf.to(torch.float32))
    assert density.carried is not None
    ways, found = SideChains(atoms, density.carried), {}
    about = (restraints, views, atom_sigma(config.resolution))
    electrons = torch.from_numpy(shared.electrons).float()
    for name, move in (
        ("carried rigidly", ways.carried_rigidly),
        ("each residue turns about Cα (default)", ways.residue_turns),
        ("each side chain turns about Cα", ways.side_chain_turns),
        ("one torsion, Cα to Cβ", ways.first_torsion),
        ("two torsions", ways.two_torsions),
    ):
        found[name] = [
            fit(states[s], true_nodes[s], density, move, *about, electrons, steps) for s in STATES
        ]
        print(name, [round(value, 3) for value in found[name]], flush=True)
    return found


def main() -> None:
    """Fit, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    provenance = provenance_of(COMMAND)
    found = measure(options.steps)
    write_json(options.results / "image_model.json", provenance | {"steps": options.steps} | found)
    lines = ["| atoms of the reference | " + " | ".join(f"state {s + 1}" for s in STATES) + " |"]
    lines.append("| --- |" + " ---: |" * len(STATES))
    lines += [f"| {n} | " + " | ".join(f"{v:.2f}" for v in vs) + " |" for n, vs in found.items()]
    write_text(options.results / "image_model.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
