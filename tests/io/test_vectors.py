"""The vectors of a data set: half precision, a cache that is never stale, and bounded memory."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused

from cryostar_nb.config import ModelConfig
from cryostar_nb.ctf import contrast_transfer_function
from cryostar_nb.encoders import StructureEncoder
from cryostar_nb.fourier import Band, centred_fft, centred_ifft, frequency_grid
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io import tables
from cryostar_nb.io import vectors as module
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.tables import available_memory
from cryostar_nb.io.vectors import load_band_vectors, open_looks, open_vectors
from cryostar_nb.runs.engine import training_data

BAND = Band(16, 1.5, 4.0)


@pytest.fixture
def particles(tmp_path, rng, write_stack):
    """Fifty particles of two stacks, each a bright spot in noise, and a file for their metadata."""
    images = rng.standard_normal((2, 30, 16, 16))
    images[..., 6:9, 7:10] += 5
    (tmp_path / "particles.star").write_text("fifty particles\n")
    return Particles(
        source=tmp_path / "particles.star",
        stacks=(
            write_stack(tmp_path / "a.mrcs", images[0]),
            write_stack(tmp_path / "b.mrcs", images[1]),
        ),
        stack_of=rng.integers(0, 2, 50),
        image_in_stack=rng.integers(0, 30, 50),
        box_size=16,
        pixel_size=1.5,
        rotations=torch.eye(3, dtype=torch.float64).expand(50, 3, 3),
        shifts=torch.from_numpy(rng.uniform(-3, 3, (50, 2))),
        ctf=None,
    )


@pytest.fixture
def passes(monkeypatch):
    """A list that grows by one with every pass over the pixels."""
    seen, original = [], module.band_vectors

    def counted(*arguments):
        seen.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(module, "band_vectors", counted)
    return seen


@pytest.fixture
def few_at_once(monkeypatch):
    """A pass reads eight images at a time."""
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 8 * 16**2)


def half(particles, band=BAND, invert=False):
    """What every way must give."""
    return load_band_vectors(particles, band, invert=invert).half()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Half precision


def test_rounding_is_a_thousandth_of_the_noise(particles, tmp_path):
    exact, kept = load_band_vectors(particles, BAND), open_vectors(particles, BAND, spill=tmp_path)
    assert kept.dtype == torch.float16
    assert exact.var() > 1  # the noise has variance one, and there is a signal
    assert (kept.float() - exact).square().mean().sqrt() < 1e-3
    relative = (kept.float() - exact).norm(dim=1) / exact.norm(dim=1)
    assert relative.max() < 2.0**-11


def test_flipped_phases_are_flipped_back(particles, microscope, write_stack, rng):
    ctf = microscope(defocus_u=rng.uniform(5e3, 2e4, 50), defocus_v=rng.uniform(5e3, 2e4, 50))
    plain = dataclasses.replace(
        particles, stack_of=0 * particles.stack_of, image_in_stack=np.arange(50), ctf=ctf
    )
    band = Band(16, 1.5, 3.2)  # all that a real image of this box holds but the mean and Nyquist
    images = band.decode(torch.from_numpy(rng.standard_normal((50, band.size))))
    signs = contrast_transfer_function(frequency_grid(16, 1.5), ctf).sign()
    write_stack(plain.stacks[0], images.numpy())
    expected = load_band_vectors(plain, band)
    write_stack(plain.stacks[0], centred_ifft(centred_fft(images, 2) * signs, 2).numpy())
    flipped = load_band_vectors(dataclasses.replace(plain, phase_flipped=True), band)
    # the background's standard deviation is another
    ratio = (flipped * expected).sum(1) / expected.square().sum(1)
    torch.testing.assert_close(flipped, ratio[:, None] * expected, atol=1e-4, rtol=0)
    unflipped = load_band_vectors(plain, band)
    assert torch.nn.functional.cosine_similarity(unflipped, expected).abs().mean() < 0.9


def test_a_cache_of_flipped_images_depends_on_their_ctf(particles, microscope):
    flipped = dataclasses.replace(
        particles, ctf=microscope(defocus_u=[15_000.0] * 50), phase_flipped=True
    )
    other = dataclasses.replace(flipped, ctf=microscope(defocus_u=[15_000.0] * 49 + [14_000.0]))
    keys = [
        module.cache_key(chosen, BAND, False)["particles"] for chosen in (particles, flipped, other)
    ]
    assert len(set(keys)) == 3


def test_a_particle_beyond_half_precision_is_named(particles, tmp_path, write_stack):
    images = np.random.default_rng(0).standard_normal((30, 16, 16)) * 1e-6
    images[4, 6:9, 7:10] = 5
    write_stack(particles.stacks[0], images)
    particles = particles[np.flatnonzero(particles.stack_of == 1)]
    particles = dataclasses.replace(
        particles, stack_of=0 * particles.stack_of, image_in_stack=np.arange(len(particles))
    )
    with refused("particles.star", row=5) as caught:
        open_vectors(particles, BAND, spill=tmp_path)
    assert caught.value.value > 65_504
    assert load_band_vectors(particles, BAND).isfinite().all()


# Where the vectors go


def test_vectors_that_fit_stay_in_memory_and_leave_no_file(particles, tmp_path, few_at_once):
    assert torch.equal(open_vectors(particles, BAND, spill=tmp_path / "run"), half(particles))
    assert torch.equal(
        open_vectors(particles, BAND, invert=True, memory_gb=1, spill=tmp_path / "run"),
        half(particles, invert=True),
    )
    assert not (tmp_path / "run").exists()


def test_vectors_that_fit_are_read_from_their_cache(particles, tmp_path, passes, few_at_once):
    first = open_vectors(particles, BAND, cache=tmp_path / "cache", spill=tmp_path / "run")
    second = open_vectors(particles, BAND, cache=tmp_path / "cache", spill=tmp_path / "run")
    assert len(passes) == 1
    assert torch.equal(first, half(particles)) and torch.equal(second, first)
    assert names(tmp_path / "cache") == ["vectors.f16", "vectors.json"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("cache", [None, "cache"])
def test_vectors_that_do_not_fit_stay_on_disk(cache, particles, tmp_path, passes, few_at_once):
    folders = {"cache": None if cache is None else tmp_path / cache, "spill": tmp_path / "run"}
    mapped = open_vectors(particles, BAND, memory_gb=5e-6, **folders)
    path = tmp_path / (cache or "run") / "vectors.f16"
    assert path.stat().st_size == 50 * BAND.size * 2
    assert mapped.shape == (50, BAND.size) and torch.equal(mapped, half(particles))
    again = open_vectors(particles, BAND, memory_gb=5e-6, **folders)
    assert torch.equal(again, mapped)
    assert len(passes) == 1 + 1  # the file's, and that of the comparison


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_limit_that_is_not_positive_is_refused(value, particles, tmp_path):
    with refused(value=value):
        open_vectors(particles, BAND, memory_gb=value, spill=tmp_path)


def test_a_full_disk_is_noticed_before_the_pass(particles, tmp_path, passes, monkeypatch):
    room = shutil._ntuple_diskusage(10**9, 10**9, 100)
    monkeypatch.setattr("cryostar_nb.io.files.shutil.disk_usage", lambda _: room)
    with refused("vectors.f16", value=50 * BAND.size * 2):
        open_vectors(particles, BAND, cache=tmp_path / "cache", spill=tmp_path)
    assert passes == [] and names(tmp_path / "cache") == []


# A stale cache is never used


def touch(path):
    """A file of the same size and content, written a moment later."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def moved(particles, name):
    path = particles.source.with_name(name)
    shutil.copy2(particles.source, path)
    return dataclasses.replace(particles, source=path)


def grown(particles):
    with particles.source.open("a") as handle:
        status = particles.source.stat()
        handle.write("one more\n")
    os.utime(particles.source, ns=(status.st_atime_ns, status.st_mtime_ns))
    return particles


def other_stack(particles):
    shutil.copy2(particles.stacks[1], particles.source.with_name("c.mrcs"))
    return dataclasses.replace(
        particles, stacks=(particles.stacks[0], particles.source.with_name("c.mrcs"))
    )


CHANGES = {
    "the metadata's time": lambda p: (touch(p.source), (p, BAND, False))[1],
    "the metadata's size": lambda p: (grown(p), BAND, False),
    "the metadata's path": lambda p: (moved(p, "other.star"), BAND, False),
    "a stack's time": lambda p: (touch(p.stacks[1]), (p, BAND, False))[1],
    "a stack's path": lambda p: (other_stack(p), BAND, False),
    "which images": lambda p: (
        dataclasses.replace(p, image_in_stack=p.image_in_stack[::-1].copy()),
        BAND,
        False,
    ),
    "which stacks": lambda p: (
        dataclasses.replace(p, stack_of=p.stack_of[::-1].copy()),
        BAND,
        False,
    ),
    "the shifts": lambda p: (dataclasses.replace(p, shifts=p.shifts.flip(0)), BAND, False),
    "the pixel size": lambda p: (p, dataclasses.replace(BAND, pixel_size=1.500001), False),
    "the low-pass": lambda p: (p, dataclasses.replace(BAND, resolution=4.000001), False),
    "the sign": lambda p: (p, BAND, True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_the_cache_stale(change, particles, tmp_path, passes):
    open_vectors(particles, BAND, cache=tmp_path, spill=tmp_path)
    changed, band, invert = CHANGES[change](particles)
    found = open_vectors(changed, band, invert=invert, cache=tmp_path, spill=tmp_path)
    assert len(passes) == 2
    assert torch.equal(found, half(changed, band, invert))


def test_fewer_particles_make_the_cache_stale(particles, tmp_path):
    open_vectors(particles, BAND, cache=tmp_path, spill=tmp_path)
    fewer = particles[:20]
    assert torch.equal(open_vectors(fewer, BAND, cache=tmp_path, spill=tmp_path), half(fewer))


def test_another_version_of_the_format_is_stale(particles, tmp_path, passes, monkeypatch):
    open_vectors(particles, BAND, cache=tmp_path, spill=tmp_path)
    monkeypatch.setattr(module, "FORMAT", 2)
    open_vectors(particles, BAND, cache=tmp_path, spill=tmp_path)
    assert len(passes) == 2


def cut(path):
    path.with_suffix(".f16").write_bytes(path.with_suffix(".f16").read_bytes()[:-2])


DAMAGES = {
    "no key": lambda key: key.unlink(),
    "half a key": lambda key: key.write_text(key.read_text()[:50]),
    "a key that is no key": lambda key: key.write_text(json.dumps([1, 2])),
    "no rows": lambda key: key.with_suffix(".f16").unlink(),
    "rows that are cut": cut,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_built_again(damage, particles, tmp_path, passes):
    open_vectors(particles, BAND, cache=tmp_path, spill=tmp_path)
    DAMAGES[damage](tmp_path / "vectors.json")
    assert torch.equal(
        open_vectors(particles, BAND, cache=tmp_path, spill=tmp_path), half(particles)
    )
    assert len(passes) == 2 + 1


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_a_pass_that_is_interrupted_leaves_nothing(
    failure, particles, tmp_path, few_at_once, monkeypatch
):
    cache, images = tmp_path / "cache", Particles.images
    open_vectors(particles, BAND, invert=True, cache=cache, spill=tmp_path)

    def interrupted(self, rows):
        if rows.start >= 24:
            raise failure("in the middle")
        return images(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Particles, "images", interrupted)
        with pytest.raises(failure, match="in the middle"):
            open_vectors(particles, BAND, cache=cache, spill=tmp_path)
    assert names(cache) == []
    assert torch.equal(open_vectors(particles, BAND, cache=cache, spill=tmp_path), half(particles))


def test_rows_without_their_key_are_not_used(particles, tmp_path, passes, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_json", fail)
        with pytest.raises(KeyboardInterrupt):
            open_vectors(particles, BAND, cache=tmp_path / "cache", spill=tmp_path)
    assert names(tmp_path / "cache") == ["vectors.f16"]
    open_vectors(particles, BAND, cache=tmp_path / "cache", spill=tmp_path)
    assert len(passes) == 2


def test_what_a_killed_pass_has_left_is_removed_when_it_is_old(particles, tmp_path):
    left, living = tmp_path / ".vectors.123.partial.f16", tmp_path / ".vectors.456.partial.f16"
    for path in (left, living):
        path.write_bytes(bytes(100))
    two_hours_ago = time.time() - 7200
    os.utime(left, (two_hours_ago, two_hours_ago))
    open_vectors(particles, BAND, cache=tmp_path, spill=tmp_path)
    assert not left.exists() and living.exists()


def test_a_file_that_another_run_writes_anew_stays_as_it_was_for_those_that_opened_it(
    particles, tmp_path
):
    expected = half(particles)
    mapped = open_vectors(particles, BAND, memory_gb=5e-6, spill=tmp_path)
    other = open_vectors(particles, BAND, invert=True, memory_gb=5e-6, spill=tmp_path)
    assert torch.equal(mapped, expected) and torch.equal(other, -expected)
    (tmp_path / "vectors.f16").unlink()
    assert torch.equal(mapped, expected) and torch.equal(other, -expected)


def test_a_file_that_another_run_writes_anew_at_once_is_refused(particles, tmp_path, monkeypatch):
    def overtaken(path, key):
        original(path, key | {"invert": True})

    original = tables.write_json
    monkeypatch.setattr(tables, "write_json", overtaken)
    with refused("vectors.f16"):
        open_vectors(particles, BAND, memory_gb=5e-6, spill=tmp_path)


def test_a_file_that_is_replaced_while_it_is_opened_is_not_used(particles, tmp_path, monkeypatch):
    """The map is of the old file and the key is that of the new one."""
    open_vectors(particles, BAND, memory_gb=5e-6, spill=tmp_path)
    path, load = tmp_path / "vectors.f16", json.loads

    def replaced(text):
        shutil.copy(path, tmp_path / "new")
        os.replace(tmp_path / "new", path)
        return load(text)

    monkeypatch.setattr(tables.json, "loads", replaced)
    with refused("vectors.f16"):
        open_vectors(particles, BAND, memory_gb=5e-6, spill=tmp_path)


# What an encoder sees


@pytest.fixture
def posed(particles, microscope, rng):
    """The particles with poses and CTFs of their own, and an encoder that looks at them."""
    posed = dataclasses.replace(
        particles,
        rotations=torch.from_numpy(random_rotations(50, rng)),
        ctf=microscope(defocus_u=rng.uniform(5e3, 2e4, 50)),
    )
    reference = torch.from_numpy(rng.normal(scale=4, size=(6, 3))).float()
    return posed, StructureEncoder(reference, BAND, ModelConfig())


@pytest.fixture
def look_at(tmp_path):
    """Open the looks of particles, whose vectors are in memory."""

    def look(particles, encoder, **options):
        data = training_data(particles, half(particles))
        options = {"spill": tmp_path, "memory_gb": 1.0} | options
        return open_looks(particles, BAND, encoder, data, **options)

    return look


@pytest.fixture
def looked(monkeypatch):
    """A list that grows by the number of particles at every look."""
    counts, look = [], StructureEncoder.look

    def counted(encoder, images, *pose):
        counts.append(len(images))
        return look(encoder, images, *pose)

    monkeypatch.setattr(StructureEncoder, "look", counted)
    return counts


def test_looks_are_those_of_the_encoder_at_half_precision(posed, look_at, tmp_path, monkeypatch):
    particles, encoder = posed
    monkeypatch.setattr(module, "LOOKS_AT_ONCE", 16)
    data = training_data(particles, half(particles))
    expected = encoder.look(data.vectors.float(), data.rotations, data.ctf).half()
    for memory_gb in (1.0, 1e-6):
        looks = look_at(particles, encoder, memory_gb=memory_gb)
        torch.testing.assert_close(looks, expected, rtol=2e-3, atol=1e-3)
    assert (tmp_path / "looks.f16").stat().st_size == 50 * encoder.look_size * 2


def test_looks_are_read_from_their_cache(posed, look_at, looked, tmp_path):
    first, second = (look_at(*posed, cache=tmp_path / "cache") for _ in range(2))
    assert looked == [50] and torch.equal(first, second)
    assert names(tmp_path / "cache") == ["looks.f16", "looks.json"]


def test_vectors_and_looks_share_the_memory_that_there_is(posed, look_at, tmp_path):
    particles, encoder = posed
    vectors, looks = 2 * 50 * BAND.size, 2 * 50 * encoder.look_size
    look_at(particles, encoder, memory_gb=(vectors + looks + 1) / 1e9)
    assert not (tmp_path / "looks.f16").exists()
    look_at(particles, encoder, memory_gb=(vectors + looks - 9) / 1e9)
    assert (tmp_path / "looks.f16").exists()


def test_vectors_that_are_not_in_memory_take_none_of_it(posed, look_at, tmp_path):
    particles, encoder = posed
    assert encoder.look_size < BAND.size
    look_at(particles, encoder, memory_gb=2 * 50 * (BAND.size - 1) / 1e9)
    assert not (tmp_path / "looks.f16").exists()


def nudged(encoder):
    return StructureEncoder(encoder.nodes + 1e-3, BAND, ModelConfig())


CHANGES_OF_LOOKS = {
    "the poses": lambda p, e: (dataclasses.replace(p, rotations=p.rotations.flip(0)), e),
    "the CTF": lambda p, e: (dataclasses.replace(p, ctf=p.ctf[torch.arange(49, -1, -1)]), e),
    "the shifts": lambda p, e: (dataclasses.replace(p, shifts=p.shifts.flip(0)), e),
    "the reference": lambda p, e: (p, nudged(e)),
}


@pytest.mark.parametrize("change", CHANGES_OF_LOOKS)
def test_a_change_makes_the_looks_stale(change, posed, look_at, looked, tmp_path):
    before = look_at(*posed, cache=tmp_path)
    after = look_at(*CHANGES_OF_LOOKS[change](*posed), cache=tmp_path)
    assert looked == [50, 50] and not torch.equal(before, after)


def test_a_look_beyond_half_precision_is_named(posed, tmp_path):
    particles, encoder = posed
    vectors = half(particles)
    vectors[7] = 60_000
    with refused("particles.star", row=8):
        data = training_data(particles, vectors)
        open_looks(particles, BAND, encoder, data, memory_gb=1.0, spill=tmp_path)


# Memory

IN_ANOTHER_PROCESS = """
import os, signal, sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from cryostar_nb.ctf import contrast_transfer_function
from cryostar_nb.fourier import Band, centred_fft, centred_ifft, frequency_grid
from cryostar_nb.io.batches import batches_from
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.vectors import open_vectors

def memory(kind):
    status = Path("/proc/self/status").read_text()
    return int(status.split(kind + ":")[1].split()[0]) * 1024

folder, count = Path(sys.argv[1]), int(sys.argv[2])
particles = Particles(
    source=folder / "stack.mrcs", stacks=(folder / "stack.mrcs",),
    stack_of=np.zeros(count, dtype=np.int64), image_in_stack=np.arange(count),
    box_size=64, pixel_size=1.0, rotations=torch.eye(3).expand(count, 3, 3),
    shifts=torch.zeros(count, 2), ctf=None,
)
band = Band(64, 1.0, 2.0)
"""


@pytest.fixture
def elsewhere(tmp_path, rng):
    """Run Python in another process, on 64-pixel images of bytes; its exit code and output."""
    import mrcfile

    def run(lines, count):
        with mrcfile.new(tmp_path / "stack.mrcs") as handle:
            handle.set_data(rng.integers(-99, 99, (count, 64, 64), dtype=np.int8))
            handle.set_image_stack()
        command = [sys.executable, "-c", IN_ANOTHER_PROCESS + lines, str(tmp_path), str(count)]
        # freed memory goes back to the system: the peak is of what is held
        settings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        folder = Path(module.__file__).parents[2]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, cwd=folder, env=settings
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_pass_and_an_epoch_stay_within_the_limit(elsewhere):
    """Vectors of 194 MB, and a stack of 131 MB, under a limit of 40 MB.

    The pass is held to the peak of all memory (VmHWM). The epoch is held to the memory of its own
    (RssAnon): the pages of a mapped file are the system's, which takes them back when it needs
    them.
    """
    lines = """
def epoch(particles, memory_gb, spill):
    vectors = open_vectors(particles, band, memory_gb=memory_gb, spill=spill)
    peak, held, rows = memory("VmHWM"), 0, []
    loader = batches_from(vectors, 32, seed=0, device=torch.device("cpu"))
    for _, (chosen, batch) in zip(range(len(particles) // 32), loader):
        held = max(held, memory("RssAnon"))
        rows.append(chosen)
    assert len(torch.cat(rows).unique()) == len(particles) // 32 * 32
    return peak, held, (spill / "vectors.f16").stat().st_size

peak_before, held_before, _ = epoch(particles[:2048], 0.001, folder / "small")
peak, held, size = epoch(particles, 0.04, folder)
print("MB", *(round(n / 1e6) for n in (size, peak - peak_before, held - held_before)))
"""
    code, output = elsewhere(lines, 32_000)
    assert code == 0, output
    vectors, in_pass, in_epoch = map(int, output.split("MB ")[-1].split())
    assert vectors > 4 * 40
    assert in_pass < 40 and in_epoch < 40


def test_a_killed_pass_leaves_no_cache(elsewhere, tmp_path):
    lines = """
images = Particles.images
def killed(self, rows):
    if rows.start > 1000:
        os.kill(os.getpid(), signal.SIGKILL)
    return images(self, rows)
Particles.images = killed
open_vectors(particles, band, cache=folder / "cache", spill=folder)
"""
    code, output = elsewhere(lines, 1500)
    assert code == -9, output
    left = names(tmp_path / "cache")
    assert len(left) == 1 and left[0].endswith(".partial.f16")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        ({"proc/meminfo": "MemTotal: 99 kB\nMemFree: 5 kB\nMemAvailable: 20 kB\n"}, 20 * 1024),
        ({"proc/meminfo": "MemAvailable: 20 kB\n", "sys/fs/cgroup/memory.max": "4096\n"}, 4096),
        ({"proc/meminfo": "MemAvailable: 20 kB\n", "sys/fs/cgroup/memory.max": "max\n"}, 20 * 1024),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/memory.max": "77\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
            },
            77,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "88\n"}, 88),
    ],
)
def test_free_memory_is_the_systems_or_what_a_container_allows(files, expected, tmp_path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert available_memory(tmp_path) == expected
