"""What people do wrong with a data set, done on purpose, to test the doctor."""

import dataclasses

import mrcfile
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryostar_nb.ctf import contrast_transfer_function
from cryostar_nb.doctor.hypotheses import FAULTS, name_of
from cryostar_nb.fourier import centred_fft, centred_ifft, frequency_grid

FLIP = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
TURN = torch.from_numpy(Rotation.from_rotvec(np.deg2rad(40) * np.array([2, -1, 2]) / 3).as_matrix())
OFFSET = torch.tensor([20.0, -10.0, 20.0], dtype=torch.float64)  # 30 Å


def negated(ctf):
    return dataclasses.replace(ctf, defocus_u=-ctf.defocus_u, defocus_v=-ctf.defocus_v)


IN_THE_FILE = {
    "CTF sign": lambda p: {"ctf": negated(p.ctf)},
    "transpose": lambda p: {"rotations": p.rotations.mT},
    "hand": lambda p: {"rotations": FLIP @ p.rotations @ FLIP},
    "origin sign": lambda p: {"shifts": -p.shifts},
    "origin in px": lambda p: {"shifts": p.shifts * p.pixel_size},
    "origin in Å": lambda p: {"shifts": p.shifts / p.pixel_size},
    "origin axes": lambda p: {"shifts": p.shifts.flip(-1)},
    "pixel too large": lambda p: {"pixel_size": p.pixel_size * 1.05},
    "pixel too small": lambda p: {"pixel_size": p.pixel_size * 0.95},
}
IN_THE_MODEL = {
    "model mirrored": lambda x: -x,
    "model offset": lambda x: x + OFFSET,
    "model orientation": lambda x: (x - x.mean(0)) @ TURN.T + x.mean(0),
}
IN_THE_IMAGES = ("contrast sign", "CTF off", "phase flipped")
NAMES = {
    "origin in px": "origin unit",
    "origin in Å": "origin unit",
    "pixel too large": "pixel size",
    "pixel too small": "pixel size",
    "model mirrored": "hand",
}
ALL = (*IN_THE_IMAGES, *IN_THE_FILE, *IN_THE_MODEL)


def verdict(faults):
    """What the doctor calls these."""
    names = {NAMES.get(fault, fault) for fault in faults}
    return name_of(tuple(sorted(names, key=FAULTS.index)))


def family(fault):
    """Two faults of a family cannot both be.

    A model that is mirrored under poses of the other hand is right.
    """
    name = NAMES.get(fault, fault)
    return "CTF" if name in ("CTF off", "CTF sign", "phase flipped") else name


def spoil_images(images, particles, faults):
    """Images, made with the CTF or without it, as they are with these faults."""
    if "phase flipped" in faults:
        signs = (
            contrast_transfer_function(
                frequency_grid(particles.box_size, particles.pixel_size), particles.ctf
            )
            .float()
            .sign()
        )
        images = centred_ifft(centred_fft(images, 2) * signs, 2)
    return -images if "contrast sign" in faults else images


def spoil_particles(particles, faults):
    """What the file says of the particles, with these faults."""
    for fault in faults:
        particles = dataclasses.replace(
            particles, **IN_THE_FILE.get(fault, lambda _: {})(particles)
        )
    return particles


def write_spoilt(particles, images, faults, stack):
    """Write the images with these faults; return the particles as their file describes them."""
    with mrcfile.new(stack, overwrite=True) as handle:
        handle.set_data(spoil_images(images, particles, faults).numpy().astype(np.float32))
        handle.set_image_stack()
    return dataclasses.replace(spoil_particles(particles, faults), stacks=(stack,))


def spoil_model(positions, faults):
    """Positions of the model with these faults."""
    for fault in faults:
        positions = IN_THE_MODEL.get(fault, lambda x: x)(positions)
    return positions
