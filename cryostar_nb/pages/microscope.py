"""A molecule that turns, beside its projection and the image behind the lens, computed in the page.

The script projects Gaussians at the nodes (eq. 2.4 of the book), and filters by the CTF (eq. 2.8
and 2.9); two sliders set the defocus and the SNR. It needs no kernel and no network.
"""

import itertools
from typing import Any

import numpy as np
from markupsafe import Markup

from cryostar_nb.io.structures import pdb_text
from cryostar_nb.pages.html import render
from cryostar_nb.structure import Structure, coarse_grain

SIZE = 128  # pixels of the box in which images are made, a power of two
SHOWN = 80  # pixels of its middle, which are shown: fringes that leave the box are not seen
SIGMA = 1.0  # width of a Gaussian, in pixels
FILL = 0.4  # the farthest node is at this part of the shown edge, or nearer
_BACKBONE = ("N", "CA", "C", "O", "P")
_numbers = itertools.count(1)


def microscope_page(atoms: Structure) -> Markup:
    """HTML of the microscope, for a page that has 3Dmol.js; `views.microscope` for notebooks.

    Pixels are 1.5 Å, or larger for a molecule that would not fit.
    """
    nodes = coarse_grain(atoms)
    positions = nodes.positions - nodes.positions.mean(axis=0)
    farthest = float(np.linalg.norm(positions, axis=1).max())
    pixel = max(1.5, farthest / (FILL * SHOWN))
    backbone = atoms[np.isin(atoms.atom_names, _BACKBONE)]
    coarse = len(backbone) == len(nodes)
    style: dict[str, Any] = {"style": "trace", "thickness": 0.6} if coarse else {}
    data = {
        "size": SIZE,
        "shown": SHOWN,
        "pixel": round(pixel, 3),
        "finest": round(2 * pixel, 1),
        "sigma": round(SIGMA * pixel, 3),
        "positions": positions.round(2).tolist(),
        "electrons": nodes.electrons.tolist(),
        "pdb": pdb_text(backbone),
        "style": style,
    }
    return render("microscope.html", name=f"microscope-{next(_numbers)}", data=data)
