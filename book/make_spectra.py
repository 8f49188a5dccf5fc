"""Measure the power spectra of two stacks of real particle images.

    CRYOSTAR_EXTERNAL_DATA=FOLDER python book/make_spectra.py

The stacks are ten images of TRPV1 (EMPIAR-10059) and seven of the assembling large ribosomal
subunit (EMPIAR-10076), which do not ship with the project. Writes
`book/results/real_spectra.json`: for each stack the mean power of the rings of the images'
transforms, divided by that of white noise of the same variance.
"""

import os
from pathlib import Path
from typing import Any

import torch
from provenance import provenance_of

from cryostar_nb.fourier import centred_fft, frequency_grid
from cryostar_nb.io.files import write_json
from cryostar_nb.io.mrc import open_mrc

OUT = Path(__file__).parent / "results" / "real_spectra.json"
STACKS = {  # the file, and its pixel size in Å
    "TRPV1, EMPIAR-10059": ("trpv1/trpv1_small_stack.mrcs", 4.88),
    "ribosome, EMPIAR-10076": ("cryodrgn/empiar_10076_7.mrc", 1.31),
}


def ring_power(images: torch.Tensor, pixel_size: float) -> tuple[list[float], list[float]]:
    """Frequency, in 1/Å, and mean power of each ring, for images of mean 0 and variance 1."""
    images = images.double() - images.double().mean(dim=(1, 2), keepdim=True)
    images = images / images.std(dim=(1, 2), correction=0, keepdim=True)
    box = images.shape[-1]
    power = centred_fft(images, 2).abs().square().mean(0) / box**2
    rings = (frequency_grid(box, pixel_size).norm(dim=-1) * box * pixel_size).round().long()
    sums = torch.bincount(rings.flatten(), weights=power.flatten())
    ring = torch.arange(1, box // 2)
    mean = (sums / torch.bincount(rings.flatten()))[ring]
    frequency = ring / (box * pixel_size)
    return [round(k, 6) for k in frequency.tolist()], [round(p, 4) for p in mean.tolist()]


def main() -> None:
    """Measure and write."""
    folder = Path(os.environ["CRYOSTAR_EXTERNAL_DATA"])
    spectra: dict[str, Any] = {}
    for name, (file, pixel_size) in STACKS.items():
        images = torch.from_numpy(open_mrc(folder / file)[0].copy())
        frequency, power = ring_power(images, pixel_size)
        spectra[name] = {
            "images": len(images),
            "box_size": images.shape[-1],
            "pixel_size": pixel_size,
            "frequency": frequency,
            "power": power,
        }
        print(
            f"{name}: power at the lowest frequency {power[0]:.1f}, at the highest {power[-1]:.1f}"
        )
    provenance = provenance_of("CRYOSTAR_EXTERNAL_DATA=FOLDER python book/make_spectra.py")
    write_json(OUT, {"spectra": spectra} | provenance)


if __name__ == "__main__":
    main()
