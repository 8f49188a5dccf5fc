"""RELION's columns of an optics group that say how its microscope differs from a perfect one.

They are those of its CTF refinement (Zivanov et al. 2020, IUCrJ 7:253): beam tilt, Zernike
polynomials of the frequency in 1/Å, and the magnification matrix.
"""

import math

import numpy as np
import torch
from jaxtyping import Float

from cryostar_nb.aberrations import EVEN_ZERNIKE, ODD_ZERNIKE, Aberrations, coma, to_zernike
from cryostar_nb.ctf import CTFParameters, electron_wavelength
from cryostar_nb.io.metadata import LARGEST_DISTORTION, Metadata, Optics

_MATRIX = "rlnMagMat"
_MATRICES = tuple(f"{_MATRIX}{row}{column}" for row in "01" for column in "01")
_TILTS = ("rlnBeamTiltX", "rlnBeamTiltY")  # mrad
_ZERNIKE = {"even": ("rlnEvenZernike", EVEN_ZERNIKE), "odd": ("rlnOddZernike", ODD_ZERNIKE)}
PREMULTIPLIED = "rlnCtfDataAreCtfPremultiplied"
OPTICS_COLUMNS = {PREMULTIPLIED, *_TILTS, *_MATRICES, *(name for name, _ in _ZERNIKE.values())}


def read_optics(source: Metadata, ctf: CTFParameters) -> Optics:
    """Magnification matrix, beam tilt, Zernike polynomials, and the flag of multiplied images.

    Raises InputError for a matrix that is not whole or far from 1, and for orders above 4.
    """
    optics: Optics = {}
    if any(name in source.columns for name in _MATRICES):
        for name in _MATRICES:
            source.require(name, "a magnification matrix", "give all four, or none")
        optics["magnification"] = np.stack([source.numbers(name) for name in _MATRICES], -1)
        optics["magnification"] = optics["magnification"].reshape(-1, 2, 2)
        off = np.abs(optics["magnification"] - np.eye(2)).max(axis=(1, 2))
        problem = f"has a magnification matrix {_MATRIX}.. that is off 1 by {{value}}"
        remedy = f"correct it (it is near 1 0 0 1), or delete the columns {_MATRIX}.."
        source.check(off <= LARGEST_DISTORTION, problem, off, remedy)
    for field, (column, matrix) in _ZERNIKE.items():
        if column in source.columns:
            optics[field] = _zernike(source, column, len(matrix)) @ matrix
    if any(name in source.columns for name in _TILTS):
        for name in _TILTS:
            source.require(name, "a beam tilt", "give both columns, or none")
        of_cs = 1e4 * ctf.spherical_aberration_mm.numpy()  # Å per mrad
        tilt = np.stack([source.numbers(name) * of_cs for name in _TILTS], axis=-1)
        wavelength = electron_wavelength(ctf.voltage_kv).numpy()
        optics["odd"] = coma(tilt, wavelength) + optics.get("odd", 0)
    if PREMULTIPLIED in source.columns:
        optics["multiplied"] = (source.numbers(PREMULTIPLIED) != 0).astype(np.float64)
    return optics


def _zernike(source: Metadata, column: str, count: int) -> Float[np.ndarray, "particle number"]:
    """Coefficients written as [1,2,3], filled up with zeros."""
    texts, row_of = np.unique(source.column(column).astype(str), return_inverse=True)
    rows = np.zeros((len(texts), count))
    for place, text in enumerate(texts.tolist()):
        row = int(np.argmax(row_of == place))
        try:
            numbers = [float(word) for word in text.strip("[] ").split(",") if word.strip()]
        except ValueError:
            numbers = [math.nan]
        if not np.isfinite(numbers).all():
            remedy = "RELION writes it as [0.1,0.2]"
            source.refuse(row, f"has {column} = {text!r}", text, remedy)
        if any(numbers[count:]):
            remedy = f"fit it with fewer: up to {count} are modelled (orders 1 to 4)"
            source.refuse(row, f"has {{value}} coefficients in {column}", len(numbers), remedy)
        rows[place, : len(numbers)] = numbers[:count]
    return rows[row_of]


def optics_columns(more: Aberrations) -> dict[str, object]:
    """The columns of an optics table that say these aberrations, where there are some."""
    columns: dict[str, object] = {}
    if (more.magnification != torch.eye(2)).any():
        columns |= dict(zip(_MATRICES, more.magnification.flatten(1).numpy().T, strict=True))
    for field, (column, matrix) in _ZERNIKE.items():
        factors = getattr(more, field).numpy()
        if factors.any():
            rows = to_zernike(factors, matrix).tolist()
            columns[column] = [f"[{','.join(f'{number:.9g}' for number in row)}]" for row in rows]
    if more.multiplied.any():
        columns[PREMULTIPLIED] = more.multiplied.numpy().astype(int)
    return columns
