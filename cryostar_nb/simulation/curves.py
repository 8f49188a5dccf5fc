"""Curves over spatial frequency: the power of the noise, and the transfer to the detector."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import starfile
import torch
from jaxtyping import Float
from torch import Tensor

from cryostar_nb.errors import InputError
from cryostar_nb.io.files import existing_file, one_line, refuse
from cryostar_nb.simulation.options import Faults

ICE_CORNER = 0.02  # 1/Å, where the power of ice and of shot noise are equal
ICE_EXPONENT = 1.5
_MTF_COLUMNS = ("rlnResolutionInversePixel", "rlnMtfValue")


def noise_filter(
    spectrum: str | Path, box_size: int, pixel_size: float
) -> Float[Tensor, "y half_x"] | None:
    """What the `rfft2` of white noise is multiplied by; None for white noise.

    The power at k = 0 is that of the lowest frequency, 1 / box. Without it the mean power is 1, so
    that the variance stays that of white noise. Raises InputError for a file that holds no power
    spectrum.
    """
    if spectrum == "white":
        return None
    ky, kx = np.fft.fftfreq(box_size, pixel_size), np.fft.rfftfreq(box_size, pixel_size)
    k = np.hypot(ky[:, None], kx).clip(min=1 / (box_size * pixel_size))
    if spectrum == "ice":
        power = 1 + (ICE_CORNER / k) ** ICE_EXPONENT
    else:
        path = existing_file(spectrum, "a noise spectrum, or the word white or ice")
        frequencies, values = _columns(path, _read_text(path))
        power = np.interp(k, frequencies, values)
    times = np.full(k.shape, 2.0)  # each coefficient stands for its conjugate, too
    times[:, 0] = 1.0
    if box_size % 2 == 0:
        times[:, -1] = 1.0
    times[0, 0] = 0.0
    mean = float((times * power).sum() / times.sum())
    if not mean > 0:
        problem = f"has no power between {k.min():.3g} and {k.max():.3g} 1/Å"
        refuse(Path(spectrum), problem, mean, "give frequencies in 1/Å")
    return torch.from_numpy(np.sqrt(power / mean)).float()


def colour(
    white: Float[Tensor, "*batch y x"], factor: Tensor | None
) -> Float[Tensor, "*batch y x"]:
    """White noise with the spectrum of a `noise_filter`."""
    if factor is None:
        return white
    return torch.fft.irfft2(torch.fft.rfft2(white) * factor, s=white.shape[-2:])


def signal_transfer(
    faults: Faults, pixel_size: float
) -> Callable[[Float[Tensor, "frequency 2"]], Float[Tensor, " frequency"]] | None:
    """What detector and solvent multiply the signal by, as a function of (kx, ky) in 1/Å.

    The MTF is exp(ln(m) (k / k_Nyquist)^2), m at Nyquist, or the curve of a file, whose pixels are
    those of the images. The solvent leaves 1 - f exp(-2 pi^2 s^2 k^2) of a density, with its
    fraction f and its blur s. None where neither is asked for. Raises InputError for a file that
    holds no MTF.
    """
    if faults.mtf is None and faults.solvent == 0:
        return None
    table = None
    if isinstance(faults.mtf, Path):
        path = existing_file(faults.mtf, "a STAR file with an MTF, or its value at Nyquist")
        table = _columns(path, _read_mtf(path))

    def transfer(frequencies: Tensor) -> Tensor:
        k = frequencies.norm(dim=-1)
        factor = torch.ones_like(k)
        if table is not None:
            factor = torch.from_numpy(np.interp(k.numpy() * pixel_size, *table)).to(k)
        elif isinstance(faults.mtf, float):
            factor = torch.exp(math.log(faults.mtf) * (2 * pixel_size * k).square())
        blurred = torch.exp(-2 * (math.pi * faults.solvent_blur * k).square())
        return factor * (1 - faults.solvent * blurred)

    return transfer


def _read_text(path: Path) -> np.ndarray:
    """The numbers of a text file of two columns."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file
            table = np.loadtxt(path, ndmin=2)
    except ValueError as error:  # UnicodeDecodeError is one
        problem = f"is no table of numbers ({one_line(error)})"
        raise InputError(problem, file=path, remedy="give two columns, k and power") from error
    if table.shape[1] != 2 and table.size:
        refuse(path, "has {value} columns", table.shape[1], "give two, k in 1/Å and power")
    return table


def _read_mtf(path: Path) -> np.ndarray:
    """The two columns of RELION's STAR file of an MTF."""
    try:
        blocks = starfile.read(path, always_dict=True)
    except Exception as error:  # of many types: of pandas and of starfile's parser
        problem = f"cannot be read as a STAR file ({one_line(error)})"
        raise InputError(problem, file=path, remedy="write it again") from error
    tables = [block for block in blocks.values() if isinstance(block, pd.DataFrame)]
    for table in tables:
        if set(_MTF_COLUMNS) <= set(table.columns):
            numbers = table[list(_MTF_COLUMNS)].apply(pd.to_numeric, errors="coerce")
            return numbers.to_numpy(dtype=np.float64)
    problem = "has no table with {value}"
    refuse(path, problem, " and ".join(_MTF_COLUMNS), "give the MTF of a detector for RELION")


def _columns(path: Path, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies, which must rise, and values, which may not be negative."""
    if len(table) < 2:
        refuse(path, "has {value} rows of numbers", len(table), "give two or more")
    frequencies, values = table.T
    wrong = ~np.isfinite(table).all(axis=1) | (values < 0) | (frequencies < 0)
    wrong[1:] |= ~(np.diff(frequencies) > 0)
    for row in np.flatnonzero(wrong)[:1].tolist():
        shown = " ".join(f"{number:g}" for number in table[row])
        problem = f"has {{value}} in row {row + 1} of its table"
        refuse(path, problem, shown, "give frequencies that rise, and values of 0 or more")
    return frequencies, values
