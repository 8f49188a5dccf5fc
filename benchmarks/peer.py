"""Time of a training step of the method's first public implementation, to compare with ours.

    python benchmarks/peer.py --peer PATH [--dense 10000 13936]

PATH is a checkout of github.com/bytedance/cryostar, beside ours: nothing of it is copied here. Its
own `CryoEMTask` is built, with its own settings for adenylate kinase, and its own `training_step`
is run, so that nothing is left out or done in another way, in float32 like ours. Three things
differ from a run of it: the reference comes from arrays, not from its PDB reader; the CTF is its
"v2", since it documents "v1", the default there, as wrong for simulated images (v1's time is
printed too); and Lightning's base class is an empty one, so that the peer is spared the trainer's
work. Its setup makes dense maps of N x N distances.

`einops`, which its projector calls, must be importable (pip install einops). Empty modules stand in
for packages that it imports and a step does not use.
"""

import copy
import itertools
import runpy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import tyro
from common import BATCH, KINASE, milliseconds
from peer_modules import load
from torch import Tensor
from torch.utils.data import DataLoader

from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.structures import read_nodes
from cryostar_nb.projector import make_images, project_real, rotate
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import draw_poses, simulate
from cryostar_nb.structure import Structure

LOW_PASS = 4.0  # Å
Batch = dict[str, Tensor]


class PeerStep:
    """The peer's training step for one molecule and box, and its parts.

    Positions are (atom, 3) in Å, the other arrays (atom,); `nucleotides` marks the nodes of DNA and
    RNA. The peer takes a residue number once a chain.
    """

    def __init__(
        self,
        peer: ModuleType,
        positions: np.ndarray,
        electrons: np.ndarray,
        chains: np.ndarray,
        residue_numbers: np.ndarray,
        *,
        box_size: int,
        pixel_size: float,
        nucleotides: np.ndarray | None = None,
        n_particles: int = 2000,
        ctf: str = "v2",
        low_pass: float = LOW_PASS,
        device: str = "cpu",
    ) -> None:
        self.peer, self.box_size, self.pixel_size = peer, box_size, pixel_size
        reference, drawn = peer.Polymer(len(positions)), SimulationConfig()
        reference.coord[:], reference.num_electron[:] = positions, electrons
        reference.chain_id[:], reference.res_id[:] = chains, residue_numbers
        reference.atom_name[:] = "CA" if nucleotides is None else np.where(nucleotides, "C1'", "CA")
        values = runpy.run_path(str(Path(str(peer.__file__)).parent / "atom_configs" / "1ake.py"))
        config = SimpleNamespace()
        for name, value in values.items():
            if name[0] != "_":
                value = SimpleNamespace(**value) if isinstance(value, dict) else value
                setattr(config, name, value)
        config.data_process.down_side_shape, config.data_process.down_apix = box_size, pixel_size
        config.data_process.low_pass_bandwidth, config.model.ctf = low_pass, ctf
        optics = {
            "kV": drawn.voltage_kv,
            "cs": drawn.spherical_aberration_mm,
            "amplitudeContrast": drawn.amplitude_contrast,
        }
        optics |= {"size": box_size, "resolution": pixel_size}
        # No template to write PDB files with, and no CTF from a STAR file.
        with (
            mock.patch.object(peer.Polymer, "from_pdb", lambda _: reference),
            mock.patch.object(peer.Polymer, "to_atom_arr", lambda _: None),
            mock.patch.object(peer, "infer_ctf_params_from_config", lambda _: optics),
            warnings.catch_warnings(action="ignore", category=DeprecationWarning),
        ):
            peer.CryoEMTask.device = torch.device(device)
            self.task = peer.CryoEMTask(config, range(n_particles)).to(device)
        self.optimiser = self.task.configure_optimizers()

    def loader(
        self, star: Path | str, batch_size: int = BATCH, shuffle: bool = True
    ) -> "DataLoader[Batch]":
        """Its reader of particles, in this process: workers would need the cores of the step."""
        size = {"side_shape": self.box_size, "down_side_shape": self.box_size}
        size |= {"apix": self.pixel_size, "mask_rad": self.task.cfg.data_process.mask_rad}
        particles = self.peer.StarfileDataSet(self.peer.StarfileDatasetConfig(str(star), **size))
        return DataLoader(particles, batch_size=batch_size, shuffle=shuffle, drop_last=True)

    def noise_batch(self, batch_size: int = BATCH) -> Batch:
        """What the loader would give, with pixels of noise, which cost what pictures cost."""
        drawn = draw_poses(SimulationConfig(n_particles=batch_size), np.random.default_rng(0))
        assert drawn.ctf is not None
        defocus = drawn.ctf.defocus_u.float().reshape(-1, 1, 1) / 1e4
        batch = {
            "defocusU": defocus,
            "defocusV": defocus,
            "angleAstigmatism": torch.zeros_like(defocus),
            "shiftX": torch.zeros(batch_size),
            "shiftY": torch.zeros(batch_size),
            "proj": torch.randn(batch_size, 1, self.box_size, self.box_size),
            "rotmat": drawn.rotations.float(),
            "idx": torch.arange(batch_size),
        }
        return {name: values.to(self.task.device) for name, values in batch.items()}

    def step(self, batch: Batch) -> float:
        """Forward, backward and the optimiser's step; returns the loss."""
        self.optimiser.zero_grad()
        loss = self.task.training_step(batch, 0)
        loss.backward()
        self.optimiser.step()
        self.task.global_step += 1
        return loss.item()

    def parts(self, batch: Batch) -> dict[str, Callable[[], Any]]:
        """The parts of `step`, forward and backward, to be timed one by one, in this order."""
        task, rotations, count = self.task, batch["rotmat"], len(batch["proj"])
        noise = torch.randn(count, *task.gmm_centers.shape)
        positions = (task.gmm_centers + noise).requires_grad_()
        images = task._shared_projection(positions.detach(), rotations).requires_grad_()
        latent = torch.randn(2, count, task.cfg.model.model_cfg["latent_dim"])
        mean, log_var = (tensor.clone().requires_grad_() for tensor in latent)
        leaves = (positions, mean, log_var, images)
        gradients = [torch.randn_like(tensor) for tensor in leaves]
        shifts = task.get_batch_pose(batch)[1][:, None]
        filtered = task.low_pass_images(batch["proj"])
        # Its training step on images and structures that are ready: only the losses are left of it.
        rest = copy.copy(task)
        rest._shared_infer = lambda _: (filtered, images, positions, mean, log_var)
        rest.low_pass_images, rest.global_step = lambda x: x, 1

        def encoder_decoder() -> None:
            self.optimiser.zero_grad()
            deformation, *latent = task._shared_forward(batch["proj"], batch["idx"], rotations)
            structures = task.deformer.transform(deformation, task.gmm_centers)
            torch.autograd.backward([structures, *latent], gradients[:3])

        def projector() -> None:
            projections = task._shared_projection(positions, rotations)
            torch.autograd.grad(projections, positions, gradients[3])

        def ctf_and_filters() -> None:
            blurred = task._apply_ctf(batch, images, task.lp_mask2d)
            torch.autograd.grad(blurred, images, gradients[3])
            task.low_pass_images(batch["proj"])

        def shifting() -> None:
            task.translator.transform(batch["proj"][:, 0], shifts)

        def losses() -> None:
            torch.autograd.grad(rest.training_step(batch, 0), leaves)

        def optimiser_step() -> None:
            self.optimiser.step()

        parts = (encoder_decoder, projector, ctf_and_filters, shifting, losses, optimiser_step)
        return {part.__name__: part for part in parts}


def dense_projection(
    peer: ModuleType,
    n: int,
    *,
    box_size: int = 128,
    pixel_size: float = 1.0,
    batch_size: int = BATCH,
    memory: float = 8e9,
) -> Callable[[], None]:
    """Its projector of n nodes, forward and backward, in pieces of the batch.

    Its step takes the whole batch at once. Pieces of a few particles, that fit into `memory` bytes,
    stay nearer to the cache and can be twice as fast, so a figure should say which of the two it
    shows.
    """
    positions = (torch.randn(batch_size, n, 3) * (box_size * pixel_size / 8)).requires_grad_()
    rotations = torch.from_numpy(random_rotations(batch_size, np.random.default_rng(0))).float()
    sigmas, amplitudes = torch.full((1, n), 2.0), torch.full((1, n), 50.0)
    gradient = torch.randn(batch_size, box_size, box_size)
    line = peer.EMAN2Grid(side_shape=box_size, voxel_size=pixel_size).line()
    # About 12 float32 tables (piece, box, n) live at once.
    piece = int(np.clip(memory / (12 * 4 * box_size * n), 1, batch_size))

    def projection() -> None:
        for rows in torch.arange(batch_size).split(piece):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            gauss = peer.Gaussian(mus=positions[part], sigmas=sigmas, amplitudes=amplitudes)
            images = peer.batch_projection(gauss, rotations[part], line)
            torch.autograd.grad(images, positions, gradient[part])

    return projection


def check(step: PeerStep, nodes: Structure, star: Path, batches: Iterator[Batch]) -> None:
    """Raise RuntimeError where the peer is not driven as it is meant to be.

    Its images would differ from ours, or its loss not fall.
    """
    batch, particles = next(iter(step.loader(star, shuffle=False))), read_particles(star)
    band = Band(step.box_size, step.pixel_size, LOW_PASS)
    sigma, rotations = torch.tensor(2.0), particles.rotations[:BATCH].float()
    positions = torch.from_numpy(nodes.positions).float()
    electrons = torch.from_numpy(nodes.electrons).float()
    assert particles.ctf is not None
    theirs = step.task._shared_projection(positions.expand(BATCH, -1, 3), batch["rotmat"])
    grid = {"box_size": step.box_size, "pixel_size": step.pixel_size}
    ours = project_real(rotate(positions, rotations), electrons, sigma, **grid)
    pose = {"rotations": rotations, "ctf": particles.ctf[:BATCH]}
    blurred = band.decode(make_images(positions, electrons, sigma, band, **pose))
    plain = lowest_correlation(theirs, ours)
    theirs = step.task._apply_ctf(batch, theirs, step.task.lp_mask2d)
    with_ctf = lowest_correlation(theirs, blurred)
    with torch.no_grad():
        before = step.task.training_step(batch, 0).item()
        with torch.enable_grad():
            for _ in range(50):
                step.step(next(batches))
        after = step.task.training_step(batch, 0).item()
    print(f"lowest correlation of its image with ours: {plain:.5f}, with CTF {with_ctf:.5f}")
    print(f"its loss in 50 steps: {before:.4f} to {after:.4f}")
    if not (plain > 0.99 and with_ctf > 0.99 and after < before):
        raise RuntimeError("the peer is not driven as it is meant to be: its times mean nothing")


def lowest_correlation(first: Tensor, second: Tensor) -> float:
    """Of the images of two batches, (batch, y, x), the least correlation of a pair."""
    pairs = zip(first.flatten(1), second.flatten(1), strict=True)
    return min(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs)


def main(peer: Path, repeats: int = 20, dense: tuple[int, ...] = ()) -> None:
    """Time the peer's training step on adenylate kinase, 128 x 128 pixels of 1 Å, batch 64, and its
    projector alone for `dense` nodes.
    """
    modules, config, nodes = load(peer), SimulationConfig(n_particles=2000), read_nodes(KINASE)
    with tempfile.TemporaryDirectory() as folder:
        simulate(config, start=KINASE, end=KINASE.with_name("4ake.pdb"), out=folder)
        star, grid = Path(folder) / "particles.star", {"box_size": 128, "pixel_size": 1.0}
        arrays = (nodes.positions, nodes.electrons, nodes.chains, nodes.residue_numbers)
        v2, v1 = (PeerStep(modules, *arrays, **grid, ctf=ctf) for ctf in ("v2", "v1"))
        batches = itertools.chain.from_iterable(itertools.repeat(v2.loader(star)))
        check(v2, nodes, star, batches)
        batch = next(batches)
        times = milliseconds({"loading": lambda: next(batches)} | v2.parts(batch), repeats)
        times["sum of the parts"] = sum(times.values())
        steps = {
            "step": lambda: v2.step(batch),
            "step with loading": lambda: v2.step(next(batches)),
            "step with CTF v1": lambda: v1.step(batch),
        }
        times |= milliseconds(steps, repeats)
    for n in dense:
        part = {f"projector, {n} nodes": dense_projection(modules, n)}
        times |= milliseconds(part, 3, warm_up=1)
    lines = (f"{name:28s}{value:10.2f}" for name, value in times.items())
    print(f"{'part':28s}{'ms':>10s}", *lines, sep="\n")


if __name__ == "__main__":
    tyro.cli(main)
