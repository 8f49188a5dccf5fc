"""A data set of real size, EMPIAR-10180: 327,490 particles, with a stack of 85 GB without pixels.

Poses, CTFs and the model are the real ones.
"""

import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import cryostar_nb
from cryostar_nb.ctf import CTFParameters
from cryostar_nb.io.batches import batch_rows
from cryostar_nb.io.cryosparc import write_cs
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.star import write_star

COUNT = 327_490


@pytest.fixture
def spliceosome(external_data):
    """The particles of EMPIAR-10180, dealt out to these stacks in turn."""

    def make(folder, stacks, suffix):
        with np.load(external_data / "spliceosome" / "empiar10180_meta.npz") as arrays:
            meta = {name: torch.from_numpy(arrays[name]).double() for name in arrays.files}
        box_size, pixel_size = int(meta["D"]), float(meta["apix"])
        one = torch.ones(COUNT, dtype=torch.float64)
        ctf = CTFParameters(
            defocus_u=meta["dfu"],
            defocus_v=meta["dfv"],
            defocus_angle_deg=meta["dfang_deg"],
            voltage_kv=meta["kv"] * one,
            spherical_aberration_mm=meta["cs"] * one,
            amplitude_contrast=meta["w"] * one,
            phase_shift_deg=meta["phase"] * one,
            b_factor=0 * one,
        )
        per_stack = -(-COUNT // len(stacks))
        particles = Particles(
            source=folder / f"particles{suffix}",
            stacks=tuple(folder / name for name in stacks),
            stack_of=np.arange(COUNT) % len(stacks),
            image_in_stack=np.arange(COUNT) // len(stacks),
            box_size=box_size,
            pixel_size=pixel_size,
            rotations=torch.from_numpy(Rotation.from_quat(meta["quat_xyzw"].numpy()).as_matrix()),
            shifts=meta["trans_frac"] * box_size * pixel_size,
            ctf=ctf,
        )
        for stack in particles.stacks:
            empty_stack(stack, per_stack, box_size)
        (write_star if suffix == ".star" else write_cs)(particles.source, particles)
        return particles

    return make


def empty_stack(path, count, box_size):
    """A stack of this size with a hole for its pixels: it takes no room on the disk."""
    with mrcfile.new(path) as handle:
        handle.set_data(np.zeros((1, box_size, box_size), dtype=np.float32))
        handle.set_image_stack()
        handle.header.nz = count
    with path.open("r+b") as handle:
        handle.truncate(1024)
        handle.truncate(1024 + 4 * count * box_size**2)


FORMATS = pytest.mark.parametrize("suffix", [".star", ".cs"])


@FORMATS
@pytest.mark.parametrize("stacks", [1, 2000])
def test_a_data_set_of_real_size_is_opened(stacks, suffix, spliceosome, tmp_path):
    written = spliceosome(tmp_path, [f"{number}.mrcs" for number in range(stacks)], suffix)
    particles = read_particles(written.source)
    assert (len(particles), len(particles.stacks)) == (COUNT, stacks)
    assert particles.image_in_stack.tolist() == written.image_in_stack.tolist()
    names, wanted = (
        np.array([stack.name for stack in source.stacks]) for source in (particles, written)
    )
    assert (names[particles.stack_of] == wanted[written.stack_of]).all()
    np.testing.assert_allclose(particles.rotations, written.rotations, atol=1e-6)
    np.testing.assert_allclose(particles.shifts, written.shifts, atol=1e-5)
    np.testing.assert_allclose(particles.ctf.defocus_u, written.ctf.defocus_u, rtol=1e-7)
    last = COUNT - 1
    assert particles.images(np.array([0, last])).shape == (
        2,
        particles.box_size,
        particles.box_size,
    )
    assert particles.image_in_stack[last] == last // stacks
    assert particles.stacks[particles.stack_of[last]] == tmp_path / f"{last % stacks}.mrcs"


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
@FORMATS
def test_a_data_set_of_real_size_is_opened_in_less_than_a_gigabyte(suffix, spliceosome, tmp_path):
    written = spliceosome(tmp_path, ["stack.mrcs"], suffix)
    lines = """
import sys
from pathlib import Path
from cryostar_nb.io.reading import read_particles
count = len(read_particles(sys.argv[1]))
print(count, Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
    command = [sys.executable, "-c", lines, str(written.source)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(cryostar_nb.__file__).parents[1],
    )
    count, peak_kib = map(int, done.stdout.split())
    assert count == COUNT
    assert peak_kib * 1024 < 1e9


def test_every_particle_comes_once_in_an_epoch_of_real_size():
    order = batch_rows(COUNT, 64, seed=0)
    epoch = torch.cat([next(order) for _ in range(COUNT // 64)])
    assert len(epoch.unique()) == COUNT // 64 * 64


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_the_spliceosomes_normal_modes_take_less_than_two_gigabytes(external_data):
    lines = """
import sys
from pathlib import Path
import numpy as np
from cryostar_nb.normal_modes import network_hessian, normal_modes
positions = np.load(sys.argv[1])["xyz"].astype(np.float64)
modes = normal_modes(positions)
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
vectors = modes.vectors.reshape(16, -1).T
left = network_hessian(positions) @ vectors - vectors * modes.eigenvalues
residual = (np.linalg.norm(left, axis=0) / modes.eigenvalues).max()
skew = np.abs(vectors.T @ vectors - np.eye(16)).max()
print(len(positions), peak, residual, skew, *modes.eigenvalues)
"""
    command = [sys.executable, "-c", lines, str(external_data / "spliceosome" / "5nrl_cg.npz")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(cryostar_nb.__file__).parents[1],
    )
    count, peak_kib, residual, skew, *eigenvalues = map(float, done.stdout.split())
    assert count == 13_936
    assert peak_kib * 1024 < 2e9
    assert residual < 1e-4 and skew < 1e-9
    assert len(eigenvalues) == 16 and eigenvalues == sorted(eigenvalues)
