"""What the kinds of changes share: random data, how it is written, and what is right.

A kind is a function of a `Scene`: it writes files with one change and returns a `Trial`, which
knows what a reader should make of them.
"""

import contextlib
import io
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import mrcfile
import numpy as np
import torch

from cryostar_nb.ctf import CTFParameters, contrast_transfer_function
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band, frequency_grid
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.maps import read_map
from cryostar_nb.io.options import Reading
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.stacks import write_stack
from cryostar_nb.io.structures import read_structure
from cryostar_nb.io.vectors import load_band_vectors
from cryostar_nb.prepare.info import inspect_particles
from cryostar_nb.prepare.options import Choice
from cryostar_nb.prepare.select import select_particles
from cryostar_nb.structure import Structure, bonds, coarse_grain

BOX = 16
MICROSCOPES = ((300.0, 2.7, 0.1), (200.0, 1.4, 0.07), (300.0, 2.7, 0.07))
FIELDS = ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
KINDS: dict[str, Callable[["Scene"], "Trial"]] = {}


def kind(what: str):
    """Put a function into the table of kinds."""

    def add(function):
        assert what not in KINDS, what
        KINDS[what] = function
        return function

    return add


@dataclass
class Truth:
    """Particles as they are, whatever a file says; arrays have a row for each particle."""

    images: np.ndarray  # (particle, y, x)
    place: np.ndarray  # of each image in its stack, from 0
    pixel_size: np.ndarray  # Å
    rotations: np.ndarray
    shifts: np.ndarray  # Å, where the particle sits
    ctf: dict[str, np.ndarray]
    phase_flipped: bool = False
    uses: tuple[str, ...] = ()  # columns without which the particles are not these

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, chosen: np.ndarray) -> "Truth":
        """Some of the particles."""
        arrays = {
            name: getattr(self, name)[chosen]
            for name in ("images", "place", "pixel_size", "rotations", "shifts")
        }
        return replace(self, **arrays, ctf={k: v[chosen] for k, v in self.ctf.items()})

    def with_ctf(self, **changes: np.ndarray) -> "Truth":
        """The same with other CTF parameters."""
        return replace(self, ctf=self.ctf | changes)

    def particles(self, stack: Path) -> Particles:
        """For this package's writers; of one pixel size."""
        ctf = CTFParameters(**{name: torch.from_numpy(v.copy()) for name, v in self.ctf.items()})
        return Particles(
            stack.parent / "none.star",
            (stack,),
            np.zeros(len(self), dtype=np.int64),
            self.place,
            BOX,
            float(self.pixel_size[0]),
            torch.from_numpy(self.rotations.copy()),
            torch.from_numpy(self.shifts.copy()),
            ctf,
            phase_flipped=self.phase_flipped,
        )

    def differs(self, read: Particles) -> str:
        """What is wrong with particles that were read, in any order; empty where nothing is."""
        if len(read) != len(self):
            return f"{len(read)} particles in place of {len(self)}"
        row_of = {image.astype(np.float32).tobytes(): row for row, image in enumerate(self.images)}
        pixels = read.images(slice(None)).numpy()
        rows = np.array([row_of.get((image + 0).tobytes(), -1) for image in pixels])  # -0 is 0
        if sorted(rows.tolist()) != list(range(len(self))):
            return "other pixels" if -1 in rows else "one image twice"
        true = self.rows(rows)
        if not np.allclose(read.pixel_sizes, true.pixel_size, rtol=1e-4):
            return "other pixel sizes"
        if not np.allclose(read.rotations.numpy(), true.rotations, atol=1e-4):
            return "other rotations"
        if not np.allclose(read.shifts.numpy(), true.shifts, atol=1e-2):
            return "other shifts"
        if bool(read.phase_flipped) != self.phase_flipped:
            return "phases flipped, or not"
        if read.ctf is None or not np.allclose(_ctf(read.ctf), true.contrast(), atol=2e-3):
            return "another CTF"
        unused = [name for name in self.uses if name not in read.columns_used]
        return f"without regard to {', '.join(unused)}" if unused else ""

    def contrast(self) -> np.ndarray:
        """The CTF itself: U and V swapped with the angle turned by 90 degrees are no change."""
        return _ctf(CTFParameters(**{k: torch.from_numpy(v.copy()) for k, v in self.ctf.items()}))


def _ctf(parameters: CTFParameters) -> np.ndarray:
    """Without aberrations, whose values tests/test_aberrations.py checks."""
    plain, frequencies = replace(parameters, aberrations=None), frequency_grid(BOX, 2.0)
    return np.asarray(contrast_transfer_function(frequencies, plain))


@dataclass
class Trial:
    """Files to read, and what they hold. `true` is None where they must not be read in silence."""

    path: Path
    true: Truth | Structure | np.ndarray | None
    reading: Reading = field(default_factory=Reading)
    what: str = "particles"  # or structure, or map
    sound: bool = False  # nothing is wrong, and nothing may be said

    def outcome(self) -> tuple[str, str]:
        """`same`, `refused`, `said` or `WRONG`, and what the reader said or got wrong."""
        said = io.StringIO()
        readers = {"particles": self._particles, "structure": self._structure, "map": self._map}
        try:
            with (
                warnings.catch_warnings(record=True) as caught,
                contextlib.redirect_stderr(said),
                contextlib.redirect_stdout(said),
            ):
                warnings.simplefilter("always")
                wrong = readers[self.what]()
        except InputError as error:
            return ("WRONG" if self.sound else "refused"), f"refused: {error}"
        heard = [str(warning.message) for warning in caught] + said.getvalue().splitlines()
        if self.what == "particles":
            heard += inspect_particles(self.path, self.reading)["problems"]
        if self.sound and heard:
            return "WRONG", f"is sound, and yet: {heard[0]}"
        if not wrong:
            return "same", ""
        return ("said", heard[0]) if heard else ("WRONG", wrong)

    def _particles(self) -> str:
        read = read_particles(self.path, self.reading)
        load_band_vectors(read, Band(BOX, read.pixel_size, 4 * read.pixel_size))
        if self.true is None:
            return "read, though it cannot be known"
        return self.true.differs(read) or self._selected(read)

    def _selected(self, read: Particles) -> str:
        """What is wrong with a copy of some particles, and of all in the other format."""
        suffix = self.path.suffix
        if suffix not in (".star", ".cs"):
            return ""
        out = self.path.with_name(f"some{suffix}")
        select_particles(self.path, out, Choice(indices="1:4"), reading=self.reading)
        again, chosen = read_particles(out, self.reading), read[1:4]
        for name in ("rotations", "shifts"):
            if not torch.equal(getattr(again, name), getattr(chosen, name)):
                return f"select: other {name}"
        if not torch.equal(again.images(slice(None)), chosen.images(slice(None))):
            return "select: other images"
        out = self.path.with_name(f"all{'.cs' if suffix == '.star' else '.star'}")
        try:
            select_particles(self.path, out, Choice(indices="0:"), reading=self.reading)
        except InputError:  # what the other format cannot say
            return ""
        wrong = replace(self.true, uses=()).differs(read_particles(out))
        return f"select, as {out.suffix}: {wrong}" if wrong else ""

    def _structure(self) -> str:
        read = read_structure(self.path)
        nodes = coarse_grain(read)
        if self.true is None:
            return "read, though it cannot be known"
        true_nodes = coarse_grain(self.true)
        wrong = unlike(read, self.true) or unlike(nodes, true_nodes)
        return wrong or ("" if bonded(nodes) == bonded(true_nodes) else "other bonds")

    def _map(self) -> str:
        read = read_map(self.path)
        if self.true is None:
            return "read, though it cannot be known"
        values, voxel_size, corner = self.true
        if read.values.shape != values.shape or not np.allclose(read.values, values):
            return "other voxels"
        if not np.isclose(read.voxel_size, voxel_size, rtol=1e-4):
            return "another voxel size"
        return "" if np.allclose(read.corner, corner, atol=1e-2) else "elsewhere"


def _keys(atoms: Structure) -> list[tuple]:
    return [
        (*key, name)
        for key, name in zip(atoms.residue_keys, atoms.atom_names.tolist(), strict=True)
    ]


def unlike(read: Structure, true: Structure) -> str:
    """In what the atoms that were read differ from the true ones, in any order."""
    at = {key: i for i, key in enumerate(_keys(true))}
    keys = _keys(read)
    if set(keys) != set(at) or len(keys) != len(true):
        wrong = sorted(set(keys) ^ set(at), key=str)
        return f"other atoms: {len(keys)} in place of {len(true)}, such as {wrong[:2]}"
    true = true[[at[key] for key in keys]]
    if not np.allclose(read.positions, true.positions, atol=2e-3):
        return "other positions"
    if not np.allclose(read.electrons, true.electrons, rtol=2e-3):
        row = int(np.argmax(np.abs(read.electrons - true.electrons)))
        return f"{read.electrons[row]:g} electrons in place of {true.electrons[row]:g}: {keys[row]}"
    return ""


def bonded(nodes: Structure) -> set[frozenset]:
    """Pairs of residues that are bonded."""
    keys = nodes.residue_keys
    return {frozenset((keys[i], keys[j])) for i, j in bonds(nodes).tolist()}


class Scene:
    """An empty folder and a random generator; makes data sets and writes them."""

    def __init__(self, folder: Path, name: str, seed: int) -> None:
        self.folder, self.rng = folder, np.random.default_rng([seed, zlib.crc32(name.encode())])
        self.stack = folder / "stack.mrcs"

    def choose(self, *options):
        """One of these."""
        return options[self.rng.integers(len(options))]

    def truth(self, *, microscopes: int = 2, pixel_size: float | None = None) -> Truth:
        """Random particles, none like another, of one pixel size."""
        rng, count = self.rng, int(self.rng.integers(7, 13))
        images = np.clip(rng.normal(0, 25, (count, BOX, BOX)), -100, 100).round() + 0.0
        images[:, 0, 0], images[:, 0, 1] = -100, 100
        group = np.arange(count) % microscopes
        defocus = rng.uniform(8_000, 25_000, count)
        ctf = {
            "defocus_u": defocus + rng.uniform(100, 900, count),
            "defocus_v": defocus,
            "defocus_angle_deg": rng.uniform(-80, 80, count),
            **dict(zip(FIELDS, np.array(MICROSCOPES)[group].T, strict=True)),
            "phase_shift_deg": rng.uniform(20, 100, count) * rng.integers(2),
            "b_factor": np.zeros(count),
        }
        shifts = rng.uniform(-3, 3, (count, 2))  # within a quarter of the box
        shifts[0] = 2.9, -2.8  # beyond a pixel
        return Truth(
            images,
            rng.permutation(count),
            np.full(count, pixel_size or round(rng.uniform(1.2, 2.5), 3)),
            random_rotations(count, rng),
            shifts,
            ctf,
        )

    def in_stack(self, true: Truth, images: np.ndarray | None = None) -> np.ndarray:
        """The images (or others, in their place) in the order of the stack."""
        images = true.images if images is None else images
        ordered = np.empty_like(images)
        ordered[true.place] = images
        return ordered

    def write_stack(self, true: Truth, images: np.ndarray | None = None, *, own=None) -> Path:
        """Write the images by this package's writer or by mrcfile."""
        ordered = self.in_stack(true, images)
        if own if own is not None else self.rng.integers(2):
            batch = torch.from_numpy(ordered.astype(np.float32))
            size = float(true.pixel_size[0])
            write_stack(self.stack, batch.shape, pixel_size=size, label="x", batches=[batch])
        else:
            with mrcfile.new(self.stack, overwrite=True) as handle:
                handle.set_data(ordered.astype(np.float32))
                handle.set_image_stack()
                handle.voxel_size = float(true.pixel_size[0])
        return self.stack

    def trial(self, path: Path, true, **options) -> Trial:
        """A trial on particles; `options` are those of `Reading`, and `sound`."""
        sound = options.pop("sound", False)
        return Trial(path, true, Reading(**options), sound=sound)


def patch(path: Path, place: int, content: bytes) -> None:
    """Overwrite some bytes of a file."""
    with path.open("r+b") as handle:
        handle.seek(place)
        handle.write(content)
