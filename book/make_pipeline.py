"""Draw the method in one picture: `book/images/pipeline.svg`, at the top of notebook 00.

    python book/make_pipeline.py

The three images and the two chains in it are computed: open adenylate kinase in one pose, made of
all heavy atoms, behind the lens, with and without noise at an SNR of 0.1, and the closed reference
in grey. The card is white, so that it can be read on dark and on light pages.
"""

import base64
import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.image import imsave

import cryostar_nb as cs
from cryostar_nb.density import atom_sigma
from cryostar_nb.pages.figures import COLOURS

DATA = Path(__file__).parents[1] / "data"
OUT = Path(__file__).parent / "images" / "pipeline.svg"
SIZE, SNR = 96, 0.1  # pixels of 1 Å
FONT = 'font-family="Helvetica, Arial, sans-serif"'
TEXT, LINE = "#1c2b39", "#5b6b7a"


def particle() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The open structure as a particle, as its prediction, and its pose."""
    atoms = cs.read_structure(DATA / "4ake.pdb")
    band = cs.Band(SIZE, 1.0, resolution=6.0)
    pose = torch.from_numpy(cs.random_rotations(1, np.random.default_rng(3)))
    positions = torch.from_numpy(atoms.positions)[None]
    electrons = torch.from_numpy(atoms.electrons)
    width = torch.tensor(atom_sigma(3.0), dtype=torch.float64)
    lens = cs.CTFParameters(torch.tensor([1.2e4], dtype=torch.float64))
    optics = {"rotations": pose, "ctf": lens}
    image = band.decode(cs.make_images(positions, electrons, width, band, **optics))[0].numpy()
    noise = np.random.default_rng(0).standard_normal(image.shape)
    return image + noise * np.sqrt(image.var() / SNR), image, pose[0].numpy()


def picture(image: np.ndarray, x: float, y: float, edge: float) -> str:
    """A grey image, y upwards, with its upper left corner at (x, y)."""
    buffer = io.BytesIO()
    low, high = np.percentile(image, (1, 99.8))
    imsave(buffer, image, cmap="gray", origin="lower", vmin=low, vmax=high, format="png")
    png = base64.b64encode(buffer.getvalue()).decode()
    href = f'href="data:image/png;base64,{png}"'
    return f'<image x="{x}" y="{y}" width="{edge}" height="{edge}" {href}/>'


def chain(positions: np.ndarray, x: float, y: float, colour: str, scale: float = 1.9) -> str:
    """A chain seen along the beam, about the point (x, y)."""
    points = " ".join(f"{x + scale * a:.1f},{y - scale * b:.1f}" for a, b, _ in positions)
    style = f'fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round"'
    return f'<polyline points="{points}" {style}/>'


def words(x: float, y: float, text: str, size: int = 14, weight: str = "normal") -> str:
    """A line of text, centred at x."""
    style = f'{FONT} font-size="{size}" font-weight="{weight}" text-anchor="middle"'
    return f'<text x="{x}" y="{y}" fill="{TEXT}" {style}>{text}</text>'


def box(x: float, y: float, title: str, below: str, colour: str) -> str:
    """A box of 104 x 56 about (x, y), with a name and a line below it."""
    shape = f'<rect x="{x - 52}" y="{y - 28}" width="104" height="56" rx="8"'
    return (
        f'{shape} fill="{colour}22" stroke="{colour}" stroke-width="2"/>'
        + words(x, y + 5, title, 15, "bold")
        + words(x, y + 48, below, 12)
    )


def arrow(*points: tuple[float, float], dashed: bool = False) -> str:
    """An arrow through these points."""
    path = " ".join(f"{x},{y}" for x, y in points)
    dash = ' stroke-dasharray="6 5"' if dashed else ""
    style = f'fill="none" stroke="{LINE}" stroke-width="2" marker-end="url(#head)"'
    return f'<polyline points="{path}" {style}{dash}/>'


def main() -> None:
    """Write the picture."""
    noisy, clean, pose = particle()
    ends = [cs.read_nodes(DATA / f"{name}.pdb").positions @ pose.T for name in ("4ake", "1ake")]
    blue, red, green = (COLOURS[name] for name in ("cryoSTAR", "accent", "normal modes"))
    parts = [
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto">'
        f'<path d="M0,0 L10,5 L0,10 z" fill="{LINE}"/></marker></defs>',
        '<rect x="1" y="1" width="1078" height="378" rx="12" fill="#ffffff" stroke="#d0d7de"/>',
        # Up: from the image to the structure.
        picture(noisy, 30, 36, 128),
        words(94, 26, "particle image I", 14, "bold"),
        arrow((164, 100), (208, 100)),
        box(264, 100, "encoder", "a neural network", blue),
        arrow((320, 100), (362, 100)),
        words(392, 96, "latent z", 14, "bold"),
        words(392, 114, "8 numbers", 12),
        arrow((424, 100), (466, 100)),
        box(522, 100, "decoder", "a neural network", blue),
        arrow((578, 100), (632, 100)),
        words(605, 88, "moves", 12),
        chain(ends[1], 704, 100, COLOURS["doing nothing"]),
        chain(ends[0], 704, 100, red),
        words(704, 26, "structure", 14, "bold"),
        words(704, 182, "grey: the reference it starts from", 12),
        arrow((778, 100), (830, 100)),
        box(886, 100, "knowledge", "bonds, clashes, springs", green),
        words(886, 62, "of proteins", 12),
        # Down: from the structure to the image.
        arrow((704, 192), (704, 282), (676, 282)),
        box(620, 282, "density", "atoms to Gaussians", red),
        arrow((566, 282), (538, 282)),
        box(482, 282, "turn, project", "pose, of each particle", red),
        arrow((428, 282), (400, 282)),
        box(344, 282, "shift, lens", "defocus, of each particle", red),
        arrow((290, 282), (262, 282)),
        picture(clean, 130, 218, 128),
        words(194, 362, "predicted image", 14, "bold"),
        # The loss.
        arrow((94, 168), (94, 282), (126, 282)),
        words(56, 222, "compare", 13, "bold"),
        arrow((262, 340), (960, 340), (960, 324)),
        words(560, 358, "how unlike the two images are", 12),
        arrow((942, 100), (1000, 100), (1000, 250)),
        words(960, 274, "loss: look like the image,", 13),
        words(960, 292, "and like a protein", 13),
        words(960, 316, "its gradient trains both networks", 13, "bold"),
    ]
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1080 380" width="1080" height="380">'
    )
    OUT.write_text("\n".join([svg, *parts, "</svg>"]) + "\n", encoding="utf-8")
    print(OUT)


if __name__ == "__main__":
    main()
