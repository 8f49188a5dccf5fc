"""What the tests share. Random numbers come from a generator that is new for each test."""

import dataclasses
import importlib
import os
import shlex
import shutil
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from tiny import BAND

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.geometry import random_rotations
from cryostar_nb.projector import make_images
from cryostar_nb.structure import Structure
from cryostar_nb.training import TrainingData

# The tests' tensors are tiny: threads that wait for each other cost more than they give. The
# processes that tests start, such as kernels of notebooks, heed the variable.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def rng():
    return np.random.default_rng(20_231)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(20_231)


@pytest.fixture
def import_benchmark(monkeypatch):
    """Import a script of the folder benchmarks by its name."""

    def load(name):
        monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
        return importlib.import_module(name)

    return load


@pytest.fixture
def external_data():
    """The folder of real files that are not part of the project."""
    folder = os.environ.get("CRYOSTAR_EXTERNAL_DATA")
    if not folder:
        pytest.skip("CRYOSTAR_EXTERNAL_DATA is unset: it names the folder of external files")
    return Path(folder)


@pytest.fixture
def asymmetric():
    """Five nodes without any symmetry, within 8 Å of the origin, and their electrons."""
    positions = [
        [0.0, 0.0, 0.0],
        [6.0, 0.5, 1.0],
        [5.0, 4.0, -2.0],
        [-3.0, -5.0, 2.0],
        [1.0, 7.0, -4.0],
    ]
    electrons = torch.tensor([9.0, 6.0, 4.0, 3.0, 2.0], dtype=torch.float64)
    return torch.tensor(positions, dtype=torch.float64), electrons


@pytest.fixture
def blackboard_image():
    """A projection written pixel by pixel, the oracle of the projectors:
    sum of A / (2 pi sigma^2) exp(-r^2 / 2 sigma^2).
    """

    def image(view, amplitudes, sigma, box_size, pixel_size):
        sigma = np.broadcast_to(sigma, len(amplitudes))
        result = np.zeros((box_size, box_size))
        for row in range(box_size):
            for column in range(box_size):
                x, y = (column - box_size // 2) * pixel_size, (row - box_size // 2) * pixel_size
                r2 = (x - view[:, 0]) ** 2 + (y - view[:, 1]) ** 2
                profiles = np.exp(-r2 / (2 * sigma**2)) / (2 * np.pi * sigma**2)
                result[row, column] = np.sum(amplitudes * profiles)
        return torch.from_numpy(result)

    return image


@pytest.fixture
def microscope():
    """Make CTF parameters: a 300 kV microscope, but for what the caller says."""

    def make(**changes):
        values = {
            "defocus_u": 15_000.0,
            "defocus_v": 15_000.0,
            "defocus_angle_deg": 0.0,
            "voltage_kv": 300.0,
            "spherical_aberration_mm": 2.7,
            "amplitude_contrast": 0.1,
            "phase_shift_deg": 0.0,
            "b_factor": 0.0,
        }
        given = (values | changes).values()
        tensors = torch.broadcast_tensors(*(torch.as_tensor(v, dtype=torch.float64) for v in given))
        return CTFParameters(**dict(zip(values, tensors, strict=True)))

    return make


@pytest.fixture
def make_nodes():
    """Make a coarse-grained structure of glycines from positions.

    `chains` is a letter for all nodes, or one for each.
    """

    def make(positions, chains="A", atom_names="CA"):
        positions = np.asarray(positions, dtype=np.float64)
        count = len(positions)

        def column(value):
            return np.array([value] * count if isinstance(value, str) else value)

        return Structure(
            positions=positions,
            electrons=np.full(count, 30.0),
            atom_names=column(atom_names),
            elements=column("C"),
            residue_names=column("GLY"),
            residue_numbers=np.arange(1, count + 1),
            insertion_codes=column(""),
            chains=column(chains),
        )

    return make


@pytest.fixture
def helix():
    """Calpha positions of an alpha helix along z, in Å: 3.8 Å between neighbours."""

    def make(count):
        turn = np.deg2rad(100) * np.arange(count)
        return np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(count)], axis=-1)

    return make


@pytest.fixture
def write_stack():
    """Write images (image, y, x) as an MRC stack."""

    def write(path, images, pixel_size=1.0):
        with mrcfile.new(path, overwrite=True) as handle:
            handle.set_data(np.zeros(np.shape(images), dtype=np.float32))
            handle.data[...] = images  # afterwards: set_data warns of pixels that are not finite
            if handle.data.ndim == 3:
                handle.set_image_stack()
            handle.voxel_size = pixel_size
        return path

    return write


@pytest.fixture
def write_table():
    """Write a STAR file from {block name: {column: values}}."""

    def write(path, blocks):
        lines = []
        for name, columns in blocks.items():
            lines += [
                "",
                f"data_{name}",
                "",
                "loop_",
                *(f"_{column} #{i}" for i, column in enumerate(columns, start=1)),
            ]
            lines += [" ".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join([*lines, ""]))
        return path

    return write


@pytest.fixture
def write_cs_table():
    """Write a cryoSPARC .cs file from {field: values}, as NumPy does it."""

    def write(path, fields):
        table = np.empty(
            len(next(iter(fields.values()))),
            dtype=[(name, values.dtype, values.shape[1:]) for name, values in fields.items()],
        )
        for name, values in fields.items():
            table[name] = values
        with path.open("wb") as handle:
            np.save(handle, table)
        return path

    return write


@pytest.fixture
def helix_nodes(helix, make_nodes):
    """Twenty-four residues of a helix, about the origin."""
    return make_nodes(helix(24) - helix(24).mean(axis=0))


@pytest.fixture
def helix_data(helix_nodes, rng):
    """Forty images of the helix, in two states: straight, and bent by up to 20 Å at its ends."""
    reference = torch.from_numpy(helix_nodes.positions).float()
    along_x = torch.tensor([20.0, 0.0, 0.0])
    bend = torch.linspace(-1, 1, len(helix_nodes)).square()[:, None] * along_x
    positions = reference + bend * torch.arange(2).repeat(20)[:, None, None]
    rotations = torch.from_numpy(random_rotations(40, rng)).float()
    electrons, sigma = torch.from_numpy(helix_nodes.electrons).float(), torch.tensor(2.0)
    vectors = make_images(positions, electrons, sigma, BAND, rotations=rotations)
    noise = torch.from_numpy(rng.standard_normal(vectors.shape)).float()
    return TrainingData(vectors + 0.2 * vectors.std() * noise, rotations, ctf=None)


@pytest.fixture(scope="session")
def executed(tmp_path_factory, worker_id):
    """Run a notebook with small values, with every answer after its check, once in a session.

    Returns the file with the outputs. All processes of a session share what one of them ran.
    """
    import nbformat
    import papermill
    from filelock import FileLock
    from smoke import SMOKE
    from student import read_solutions, with_both

    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "executed"
    folder.mkdir(exist_ok=True)

    def execute(path):
        prepared, running, done = (folder / f"{kind}{path.name}" for kind in ("in_", "run_", ""))
        with FileLock(folder / f"{path.stem}.lock"):
            if not done.exists():
                notebook = with_both(nbformat.read(path, as_version=4), read_solutions(path))
                nbformat.write(notebook, prepared)
                papermill.execute_notebook(
                    str(prepared),
                    str(running),
                    SMOKE[path.stem],
                    kernel_name="python3",
                    cwd=str(path.parent),
                    progress_bar=False,
                )
                running.rename(done)
        return done

    return execute


@pytest.fixture(scope="session")
def browser():
    """Chromium, for tests that import `chromium`."""
    import chromium

    with chromium.playwright_api.sync_playwright() as playwright:
        started = chromium.launch(playwright)
        yield started
        started.close()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command line gave back: exit code, standard output, standard error."""

    code: int
    out: str
    error: str


@pytest.fixture
def shell(monkeypatch, capsys):
    """Run a command line, written as after `cryostar-nb`, in this process."""
    from cryostar_nb.cli import main

    def call(line):
        monkeypatch.setattr(sys, "argv", ["cryostar-nb", *shlex.split(line)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        return Answer(code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(shell):
    """Run a command line that is bad input: exit code 2 and one line that has these words."""

    def call(line, *words):
        answer = shell(line)
        assert answer.code == 2 and answer.error.startswith("cryostar-nb: "), answer
        assert len(answer.error.splitlines()) == 1
        missing = [word for word in map(str, words) if word not in answer.error]
        assert not missing, answer.error

    return call


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A folder with `sim`, 160 particles of adenylate kinase in five states, and `run`: 60 steps of
    training on them, evaluated and analysed. For reading: tests that write take a copy.
    """
    from cryostar_nb.cli import parse

    folder, data = tmp_path_factory.mktemp("small_run"), Path(__file__).parents[1] / "data"
    small = "--n-particles 160 --box-size 32 --pixel-size 4 --states 5 --snr 1"
    for line in (
        f"simulate --start {data}/1ake.pdb --end {data}/4ake.pdb --out {folder}/sim {small}",
        f"train {folder}/sim/particles.star --reference {data}/1ake.pdb --out {folder}/run"
        " --steps 60 --low-pass 9 --batch-size 16",
        f"evaluate {folder}/run --truth {folder}/sim/truth.npz",
        f"analyse {folder}/run",
    ):
        parse(shlex.split(line)).run()
    return folder


@pytest.fixture
def run_copy(small_run, tmp_path):
    """A copy of the small run's folder, to be written to."""
    return Path(shutil.copytree(small_run / "run", tmp_path / "run"))
