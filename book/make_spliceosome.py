"""The rehearsal of EMPIAR-10180: the pre-catalytic spliceosome, under the real poses and CTFs.

    python book/make_spliceosome.py --model 5nrl.cif.gz --meta empiar10180_meta.npz --out DIR

SF3b and the helicase open together, in two populations. The model's *nodes* are rendered, as
Gaussians of 2 Å: its 118,662 atoms take nine times as long, and pixels of 4.2475 Å would not show
them. A node has the electrons of its own atom here (carbon 6, phosphorus 15), so a nucleotide
weighs 2.5 times an amino acid, where it is 2.8 times in truth.

Chains of 5NRL were told apart by their lengths, from the largest residue number of each chain, and
by their neighbours in space.
* U2 snRNP, which carries SF3b: Hsh155 O, Rse1 P, Cus1 Q, Hsh49 R, Rds3 S, Ysf3 Z (SF3b); Prp9 T,
  Prp11 U, Prp21 V (SF3a); Lea1 W, Msl1 Y; the Sm ring s to y beside them; U2 snRNA 2; the piece of
  RNA, I, that lies on Hsh155. If SF3b moved alone, its contacts with SF3a would break.
* Helicase: Brr2 B, the largest but Prp8.
"""

import math
from pathlib import Path

import numpy as np
import torch
import tyro
from make_complex import write_motion_and_simulate
from scipy.spatial.transform import Rotation

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.star import write_star
from cryostar_nb.io.structures import read_nodes
from cryostar_nb.simulation.options import SimulationConfig

MOTION = {"OPQRSZTUVWYstuvwxy2I": 12.0, "B": 10.0}  # degrees
BOX_SIZE, PIXEL_SIZE, SIGMA = 128, 4.2475, 2.0  # pixels, Å, Å


def read_metadata(path: Path, source: Path, room: float) -> Particles:
    """The usual selection of particles, centred on the model, without those far from the centre.

    Their shifts along x and y are below `room` Å. Quaternions are of R in x_view = R x_ref.
    Translations are cryoDRGN's, RELION's origins as a fraction of the box: the particle sits at
    minus that. The map's centre is not the particle's, and all images have one common shift (60 Å
    in x and y), so shifts are about (R c)_xy + d, for a 3D point c and a 2D shift d. Moving the
    reference by c and the images by d, fitted by least squares, centres both.
    """
    with np.load(path) as arrays:
        meta = {name: arrays[name] for name in arrays.files}
    chosen = np.sort(meta["filtered_ind"])
    rotations = Rotation.from_quat(meta["quat_xyzw"][chosen].astype(np.float64)).as_matrix()
    shifts = -meta["trans_frac"][chosen].astype(np.float64) * float(meta["D"]) * float(meta["apix"])
    identity = np.broadcast_to(np.eye(2), (len(chosen), 2, 2))
    # (particle, 2, 5): the unknowns are c and d
    terms = np.concatenate([rotations[:, :2], identity], axis=-1)
    solution = np.linalg.lstsq(terms.reshape(-1, 5), shifts.reshape(-1), rcond=None)[0]
    shifts -= terms @ solution
    inside = np.abs(shifts).max(axis=-1) < room
    print(
        f"{inside.sum():,} of {len(chosen):,} particles lie within the box; "
        f"centred by {solution.round(1).tolist()} Å (c and d)"
    )
    chosen, rotations, shifts = chosen[inside], rotations[inside], shifts[inside]

    def column(name: str) -> torch.Tensor:
        values = np.broadcast_to(meta[name], len(meta["dfu"]))[chosen]
        return torch.from_numpy(values.astype(np.float64))

    ctf = CTFParameters(
        defocus_u=column("dfu"),
        defocus_v=column("dfv"),
        defocus_angle_deg=column("dfang_deg"),
        voltage_kv=column("kv"),
        spherical_aberration_mm=column("cs"),
        amplitude_contrast=column("w"),
        phase_shift_deg=column("phase"),
        b_factor=torch.zeros(len(chosen), dtype=torch.float64),
    )
    return Particles(
        source=source,
        stacks=(source.with_name("not_here.mrcs"),),
        stack_of=np.zeros(len(chosen), dtype=np.int64),
        image_in_stack=chosen,  # of EMPIAR-10180
        box_size=BOX_SIZE,
        pixel_size=PIXEL_SIZE,
        rotations=torch.from_numpy(rotations),
        shifts=torch.from_numpy(shifts),
        ctf=ctf,
    )


def main(
    model: Path, meta: Path, out: Path, n_particles: int = 20_000, snr: float = 0.1, seed: int = 0
) -> None:
    """Make particles of the spliceosome.

    The poses and CTFs are a random sample of the real ones, also written as poses.star.
    """
    nodes = read_nodes(model)
    nodes = nodes.with_positions(nodes.positions - nodes.positions.mean(axis=0))
    outermost = float(np.linalg.norm(nodes.positions, axis=-1).max())
    reach = outermost + 20.0  # Å: what turns may come out further
    particles = read_metadata(meta, out / "poses.star", BOX_SIZE * PIXEL_SIZE / 2 - reach)
    sample = np.random.default_rng(seed).choice(
        len(particles), min(n_particles, len(particles)), replace=False
    )
    write_star(out / "poses.star", particles[np.sort(sample)])
    config = SimulationConfig(
        n_particles=n_particles,
        box_size=BOX_SIZE,
        pixel_size=PIXEL_SIZE,
        snr=snr,
        seed=seed,
        populations="two",
        resolution=SIGMA * math.pi * math.sqrt(2),
    )
    write_motion_and_simulate(nodes, MOTION, config, out, poses=out / "poses.star")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
