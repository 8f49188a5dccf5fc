"""The projector alone, forward and backward, beside the other ways to sum over the nodes.

    python benchmarks/projector.py [--peer PATH] [--nodes 214 13936] [--device cuda]

128 x 128 pixels, batch 64, at the half band (m = 32 cycles per box, as in training) and at the full
one (m = 63):

* spread, exact: the two methods of `project_band`;
* finufft: the library of that name, where it is installed, in the place of the spreading. One plan,
  set anew for every image; 1e-5, a grid twice as fine. It runs both with all threads on one image
  and with an image a thread; the faster counts;
* dense: a separable product on the pixels (`project_real`), in pieces of the batch that fit a
  cache, which is its best; and with `--peer`, the same of the peer's (see peer.py).

Errors are relative in norm, against the exact sum in float64. Also: the memory of a process that
spreads the most nodes.
"""

import importlib.util
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from common import (
    BATCH,
    RESULTS,
    figures,
    machine,
    machine_line,
    milliseconds,
    molecule,
    particle_parameters,
    quarter_band,
    table,
)
from torch import Tensor

from cryostar_nb.fast.grid_cpu import in_parallel
from cryostar_nb.fourier import Band
from cryostar_nb.io.files import write_json, write_text
from cryostar_nb.projector import FEW_NODES, project_band, project_real, rotate
from cryostar_nb.runs.machine import keep_freed_memory

BOX = 128
PIECE_FLOATS = 1 << 20  # in a dense table of a piece
CHECKED = 4  # images whose errors are measured
FULL = 2 - 1e-9  # pixels to the end of the full band


class _Library:
    """What finufft needs for a band: plans for every worker, and the band among its frequencies."""

    def __init__(self, band: Band, workers: int) -> None:
        import finufft

        side = 2 * band.max_index + 1
        settings = {
            "eps": 1e-5,
            "dtype": "complex64",
            "upsampfac": 2.0,
            "nthreads": torch.get_num_threads() // workers,
        }
        self.workers = workers
        self.forward, self.backward = (
            [finufft.Plan(kind, (side, side), isign=sign, **settings) for _ in range(workers)]
            for kind, sign in ((1, -1), (2, 1))
        )
        kx, ky = band.indices.numpy().T
        self.places, self.mirrored = (
            (band.max_index + sign * kx) * side + band.max_index + sign * ky for sign in (1, -1)
        )
        self.field = [np.zeros((side, side), np.complex64) for _ in range(workers)]
        # The two slopes are real, so one transform gives both: coefficients i kx f + i (i ky f),
        # and at -k the conjugates of f.
        slope = (1j * kx - ky) * np.pi / (band.box_size * band.pixel_size)
        self.slope = slope.astype(np.complex64)
        self.mirrored_slope = -self.slope

    def over_images(self, function: Callable[[int, int], None], count: int) -> None:
        """`function(worker, image)` for all images, by the workers."""

        def images(first: int, last: int) -> None:
            for image in range(first, last):
                function(first * self.workers // count, image)

        in_parallel(images, count) if self.workers > 1 else images(0, count)


class _LibraryTransform(torch.autograd.Function):
    """sum_i A_i exp(-2 pi i k . x_i) on a band, by finufft: real, then imaginary parts.

    Differentiable in the positions.
    """

    @staticmethod
    def forward(
        ctx: Any, positions: Tensor, amplitudes: Tensor, band: Band, use: _Library
    ) -> Tensor:
        angles = positions[..., :2].mT * (2 * np.pi / (band.box_size * band.pixel_size))
        points = angles.contiguous().numpy()  # (batch, 2, atom)
        strengths, size = amplitudes.numpy().astype(np.complex64), band.size // 2
        out = np.empty((len(points), band.size), np.float32)

        def transform(worker: int, image: int) -> None:
            use.forward[worker].setpts(*points[image])
            kept = use.forward[worker].execute(strengths).ravel()[use.places]
            out[image, :size], out[image, size:] = kept.real, kept.imag

        use.over_images(transform, len(points))
        ctx.rest = points, amplitudes, use
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        points, amplitudes, use = ctx.rest
        half = torch.complex(*gradients[0].chunk(2, dim=-1)).numpy()
        out = np.zeros((len(points), points.shape[2], 3), np.float32)

        def transform(worker: int, image: int) -> None:
            field = use.field[worker]
            field.ravel()[use.places] = half[image] * use.slope
            field.ravel()[use.mirrored] = half[image].conj() * use.mirrored_slope
            use.backward[worker].setpts(*points[image])
            slopes = use.backward[worker].execute(field)
            out[image, :, 0], out[image, :, 1] = slopes.real, slopes.imag

        use.over_images(transform, len(points))
        return torch.from_numpy(out).mul_(amplitudes[:, None]), None, None, None


def finufft_band(
    positions: Tensor, amplitudes: Tensor, sigma: Tensor, band: Band, use: _Library
) -> Tensor:
    """`project_band` with finufft in the place of the spreading."""
    scale = np.sqrt(2) / (band.box_size * band.pixel_size**2)
    envelope = scale * torch.exp(-2 * (np.pi * sigma).square() * band.frequencies.square().sum(-1))
    vectors = _LibraryTransform.apply(positions, amplitudes, band, use)
    return vectors * band.per_coefficient(envelope.float())


def on_band(
    amplitudes: Tensor, sigma: Tensor, band: Band, device: str
) -> dict[str, Callable[[Tensor], Tensor]]:
    """The ways to make vectors of a band from positions."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "spread": lambda x: project_band(x, amplitudes, sigma, band, method="spread"),
        "exact": lambda x: project_band(x, amplitudes, sigma, band, method="exact"),
    }
    if device == "cpu" and importlib.util.find_spec("finufft"):
        kinds = {"all threads an image": 1, "an image a thread": torch.get_num_threads()}
        for kind, workers in kinds.items():
            library = _Library(band, workers)
            function = partial(finufft_band, amplitudes=amplitudes, sigma=sigma, band=band)
            functions[f"finufft, {kind}"] = partial(function, use=library)
    return functions


def ways(
    count: int, resolution: float, device: str, peer: Any = None
) -> tuple[dict[str, Callable[[], Any]], dict[str, list[float]]]:
    """What to time for so many nodes, and the errors of the ways on the band."""
    _, nodes = molecule(count)
    pixel_size = quarter_band(nodes, BOX).pixel_size
    band = Band(BOX, pixel_size, resolution * pixel_size)
    noise = torch.randn(BATCH, count, 3, generator=torch.Generator().manual_seed(0))
    positions = torch.from_numpy(nodes.positions).float() + noise
    positions = rotate(positions, particle_parameters(BATCH)[0]).to(device).requires_grad_()
    amplitudes = torch.from_numpy(nodes.electrons).float().to(device)
    sigma = torch.tensor(2.0, device=device)
    gradient = torch.randn(BATCH, band.size, device=device)
    on_pixels = torch.randn(BATCH, BOX, BOX, device=device)
    functions = on_band(amplitudes, sigma, band, device)
    parts: dict[str, Callable[[], Any]] = {
        name: lambda way=way: torch.autograd.grad(way(positions), positions, gradient)
        for name, way in functions.items()
    }
    piece = BATCH if device != "cpu" else max(1, PIECE_FLOATS // (count * BOX))

    def dense() -> None:
        for part, pull in zip(positions.split(piece), on_pixels.split(piece), strict=True):
            images = project_real(part, amplitudes, sigma, box_size=BOX, pixel_size=pixel_size)
            torch.autograd.grad(images, part, pull)

    parts["dense"] = dense
    if peer is not None:
        from peer import dense_projection

        grid = {"box_size": BOX, "pixel_size": pixel_size, "batch_size": BATCH}
        memory = 12.0 * 4 * BOX * count * piece
        parts["peer's dense"] = dense_projection(peer, count, **grid, memory=memory)
    doubles = positions[:CHECKED].detach().double().requires_grad_()
    images = project_band(doubles, amplitudes.double(), sigma.double(), band, method="exact")
    (slopes,) = torch.autograd.grad(images, doubles, gradient[:CHECKED].double())
    errors = {}
    for name, way in functions.items():
        singles = positions[:CHECKED].detach().requires_grad_()
        made = way(singles)
        (made_slopes,) = torch.autograd.grad(made, singles, gradient[:CHECKED])
        pairs = ((made.detach(), images.detach()), (made_slopes, slopes))
        errors[name] = [float((a.double() - b).norm() / b.norm()) for a, b in pairs]
    return parts, errors


def resident_gb() -> float:
    """What this process has held of the memory at most, in GB. Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def peak_memory(count: int, resolution: float) -> tuple[float, float]:
    """Peak memory of a process that spreads so many nodes, and the projector's part, in GB."""
    keep_freed_memory()
    _, nodes = molecule(count)
    positions = torch.from_numpy(nodes.positions).float().repeat(BATCH, 1, 1).requires_grad_()
    band = quarter_band(nodes, BOX)
    band, before = Band(BOX, band.pixel_size, resolution * band.pixel_size), resident_gb()
    amplitudes, sigma = torch.from_numpy(nodes.electrons).float(), torch.tensor(2.0)
    project_band(positions, amplitudes, sigma, band, method="spread").sum().backward()
    return resident_gb(), resident_gb() - before


def main(
    peer: Path | None = None,
    nodes: tuple[int, ...] = (20, 60, 100, 214, 1000, 4000, 13_936),
    device: str = "cpu",
    repeats: int = 15,
    seconds: float = 6.0,
) -> None:
    """Time the projector; writes results/projector.json and projector.md.

    A table entry takes at most about `seconds`.
    """
    keep_freed_memory()  # as training does
    here, results, modules = machine(device), [], None
    if peer is not None:
        from peer_modules import load

        modules = load(peer)
    for count in nodes:
        for resolution in (4.0, FULL):
            parts, errors = ways(count, resolution, device, modules)
            times = milliseconds(parts, repeats, warm_up=1, at_most=seconds, device=device)
            finufft = [name for name in times if name.startswith("finufft")]
            if finufft:
                best = min(finufft, key=lambda name: times[name])
                times["finufft"], errors["finufft"] = times[best], errors[best]
            results.append(
                {
                    "nodes": count,
                    "max_index": round(BOX / 4 if resolution == 4 else BOX / 2 - 1),
                    "ms": times,
                    "errors": errors,
                }
            )
            listing = "  ".join(f"{name} {figures(ms)} ms" for name, ms in times.items())
            print(f"N = {count:6,}  m = {results[-1]['max_index']}  {listing}")
    memory = None
    if device == "cpu" and Path("/proc/self/status").exists():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory = pool.apply(peak_memory, (max(nodes), FULL))
    RESULTS.mkdir(exist_ok=True)
    everything = {"machine": here, "results": results, "peak_memory_gb": memory}
    write_json(RESULTS / "projector.json", everything)
    text = report(results, machine_line(here), max(nodes), memory)
    write_text(RESULTS / "projector.md", text)
    print("\n" + text)


def report(
    results: list[dict[str, Any]], where: str, most: int, memory: tuple[float, float] | None
) -> str:
    """The table in Markdown."""
    names = ("spread", "exact", "finufft", "dense", "peer's dense")
    columns = [name for name in names if name in results[0]["ms"]]
    head = ["N", "m", *(f"{name}, ms" for name in columns), "dense / spread"]
    head += ["error of the images", "of the gradients"]
    rows = []
    for of in results:
        times = [of["ms"][name] for name in columns]
        ratio = of["ms"]["dense"] / of["ms"]["spread"]
        row = [f"{of['nodes']:,}", str(of["max_index"]), *map(figures, [*times, ratio])]
        rows.append(row + [f"{error:.1e}" for error in of["errors"]["spread"]])
    text = where + "\n\n" + table(head, rows) + "\n"
    for m in sorted({of["max_index"] for of in results}):
        few, many = [], []
        for of in results:
            if of["max_index"] == m:
                exact_is_faster = of["ms"]["exact"] < of["ms"]["spread"]
                (few if exact_is_faster else many).append(of["nodes"])
        text += f"At m = {m} the exact sum is the faster one at N = {listed(few)}, "
        text += f"spreading at {listed(many)}. "
    text += f"`auto` spreads above {FEW_NODES} nodes.\n"
    if memory is not None:
        text += f"A process that spreads {most:,} nodes at the full band takes {memory[0]:.2f} GB "
        text += f"at its peak, {memory[1]:.2f} GB of them for that.\n"
    return text


def listed(numbers: list[int]) -> str:
    """As in a sentence."""
    return ", ".join(f"{number:,}" for number in numbers) or "none"


if __name__ == "__main__":
    tyro.cli(main)
