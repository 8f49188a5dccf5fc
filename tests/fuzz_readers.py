"""Mutate sound files at random and read them: `make fuzz`.

    python tests/fuzz_readers.py [--seconds 300] [--seed 0] [--keep FOLDER]

A reader may read, or raise InputError; nothing else, soon, in little memory. Each reader runs in a
process of its own, which is killed where a file takes longer than ten seconds, and cannot take more
than 1 GB of memory beyond what it started with. What fails is kept, and the exit code is 1.
"""

import argparse
import faulthandler
import json
import pickle
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

HANG, MEMORY = 10, 10**9  # seconds for one file; bytes

INTERESTING = [
    b"\x00",
    b"\xff" * 4,
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"-1",
    b"nan",
    b"1e400",
    b"9" * 40,
    b"\n",
    b'"',
    b"#",
    b"data_",
    b"loop_\n",
    b"_",
]


def mutate(content: bytes, rng: random.Random, other: bytes) -> bytes:
    """The content with a few random changes: bytes, numbers, lines, parts of another file."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        place = (
            rng.randrange(len(data) + 1)
            if rng.random() < 0.7
            else rng.randrange(min(len(data), 400) + 1)
        )
        end = min(len(data), place + rng.choice((1, 2, 4, 8, 50, 400)))
        kind = rng.randrange(9)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place:end] = rng.randbytes(end - place)
        elif kind == 2:
            piece = rng.choice(INTERESTING)
            data[place : place + len(piece)] = piece
        elif kind == 3:
            data[place:place] = rng.choice(INTERESTING)
        elif kind == 4:
            del data[place:end]
        elif kind == 5:
            data[place:place] = data[place:end] * rng.choice((1, 2, 20))
        elif kind == 6:
            del data[place:]
        elif kind == 7 and other:
            start = rng.randrange(len(other))
            data[place:end] = other[start : start + end - place]
        else:  # a number in the text, or a line
            numbers = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(data[:20_000])))
            if numbers:
                chosen = rng.choice(numbers)
                data[chosen.start() : chosen.end()] = rng.choice(
                    (
                        b"0",
                        b"-1",
                        b"nan",
                        b"inf",
                        b"1e308",
                        b"-0.0",
                        b"4294967296",
                        b"x",
                        b"",
                        b"1" * 30,
                    )
                )
    return bytes(data)


def make_seeds(folder: Path) -> None:
    """Sound files of every kind, some of them of several."""
    import numpy as np
    from bad_inputs import STAR, write_cs, write_sound_files

    write_sound_files(folder)
    (folder / "one_table.star").write_text(
        "data_\n\nloop_\n_rlnImageName\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n_rlnOriginX\n"
        "_rlnOriginY\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n_rlnVoltage\n"
        "_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnMagnification\n"
        "_rlnDetectorPixelSize\n_rlnMicrographName\n"
        + "".join(
            f'{i}@stack.mrcs 1 2 {i} 0 0.5 15000 15000 0 300 2.7 0.1 50000 7.5 "a name"\n'
            for i in (1, 2, 3)
        )
    )
    (folder / "general.star").write_text(
        "data_general\n\n_rlnName 'x y'\n_rlnOther 3\n\n"
        + STAR.replace("_rlnImageSize", "_rlnCtfDataArePhaseFlipped").replace(" 8\n", " 1\n")
    )
    pose, posterior = np.zeros((4, 3), dtype=np.float32), np.full(4, 0.5, dtype=np.float32)
    classes = {
        f"alignments_class_{k}/{name}": value
        for k in (0, 1)
        for name, value in (("pose", pose), ("class_posterior", posterior))
    }
    write_cs(folder / "classes.cs", {"alignments3D/pose": None} | classes)
    write_cs(folder / "pass.cs", {})
    rotations, ctf = (
        np.stack([np.eye(3)] * 4),
        np.array([[8, 1.5, 15_000, 14_500, 5, 300, 2.7, 0.1, 0]] * 4),
    )
    for protocol in range(6):
        (folder / f"pose{protocol}.pkl").write_bytes(
            pickle.dumps((rotations.astype("f4"), np.zeros((4, 2))), protocol=protocol)
        )
        (folder / f"ctf{protocol}.pkl").write_bytes(pickle.dumps(ctf, protocol=protocol))
    np.save(folder / "indices.npy", np.array([0, 2]))
    np.save(folder / "mask.npy", np.array([True, False, True, False]))
    (folder / "indices.txt").write_text("0\n2\n3\n")
    (folder / "indices.csv").write_text("particle,pc1\n1,0.5\n3,0.25\n")
    (folder / "indices.pkl").write_bytes(pickle.dumps(np.array([1, 2])))


def targets(seeds: Path, folder: Path) -> dict:
    """For each reader the files it may be given, and what to do with the mutated one.

    The mutated file lies in `folder`, beside sound ones.
    """
    from cryostar_nb.errors import InputError
    from cryostar_nb.fourier import Band
    from cryostar_nb.io.maps import read_map
    from cryostar_nb.io.options import Reading
    from cryostar_nb.io.reading import read_indices, read_particles
    from cryostar_nb.io.vectors import load_band_vectors
    from cryostar_nb.prepare.info import describe, inspect_particles
    from cryostar_nb.prepare.options import Choice
    from cryostar_nb.prepare.select import select_particles

    def read_all(path, **options):
        """Every way in which a particle file is read; raises InputError if one of them did."""
        reading, refusals = Reading(**options), []
        out = folder / f"out{path.suffix if path.suffix in ('.star', '.cs') else '.star'}"
        for way in (
            lambda: describe(json.loads(json.dumps(inspect_particles(path, reading)))),
            lambda: load_band_vectors(read_particles(path, reading), Band(8, 1.5, 4.0)),
            lambda: select_particles(
                path, out, Choice(indices="0:2", unique=True), reading=reading
            ),
        ):
            try:
                way()
            except InputError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]

    def names(pattern):
        return sorted(seeds.glob(pattern))

    return {
        "star": (names("*.star"), lambda path: read_all(path)),
        "cs": (
            names("*.cs"),
            lambda path: read_all(
                path, passthrough=seeds / "pass.cs" if len(path.name) % 2 else None
            ),
        ),
        "passthrough": (
            names("pass.cs"),
            lambda path: read_all(seeds / "particles.cs", passthrough=path),
        ),
        "poses": (
            names("pose*.pkl"),
            lambda path: read_all(
                folder / "stack.mrcs", poses_pkl=path, ctf_pkl=folder / "ctf.pkl"
            ),
        ),
        "ctfs": (
            names("ctf*.pkl"),
            lambda path: read_all(
                folder / "stack.mrcs", poses_pkl=folder / "pose.pkl", ctf_pkl=path
            ),
        ),
        "stack": (
            names("s*.mrcs"),
            lambda path: read_all(path, poses_pkl=folder / "pose.pkl", ctf_pkl=folder / "ctf.pkl"),
        ),
        "map": (names("map*.mrc"), read_map),
        "indices": (names("indices*") + names("mask*"), lambda path: read_indices(path, 4)),
    }


def work(reader: str, seeds: Path, seconds: float, seed: int, keep: Path) -> None:
    """Fuzz one reader; the last line printed is how many files it read, and how many it refused."""
    import torch  # noqa: F401 - before the limit is set

    from cryostar_nb.errors import InputError

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for sound in ("stack.mrcs", "pose.pkl", "ctf.pkl"):
            shutil.copy(seeds / sound, folder)
        files, read = targets(seeds, folder)[reader]
        for path in files:
            read(path)  # sound files, so that everything has been imported and allocated once
        used = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, resource.RLIM_INFINITY))
        rng, counts, end = (
            random.Random(f"{reader} {seed}"),
            {"files": 0, "refused": 0, "failed": 0, "slowest": 0.0},
            time.monotonic() + seconds,
        )
        contents = [path.read_bytes() for path in files]
        while time.monotonic() < end:
            place = rng.randrange(len(files))
            path = folder / f"fuzzed{'x' * rng.randrange(2)}{files[place].suffix}"
            path.write_bytes(mutate(contents[place], rng, rng.choice(contents)))
            started = time.monotonic()
            faulthandler.dump_traceback_later(HANG, exit=True)
            try:
                with warnings.catch_warnings(action="error"):
                    read(path)
            except Exception as error:
                # where a file is refused because memory ran out, more would be taken elsewhere
                sound = isinstance(error, InputError) and not isinstance(
                    error.__cause__, MemoryError
                )
                counts["refused" if sound else "failed"] += 1
                if not sound:
                    kept = keep / f"{reader}-{counts['files']}{path.suffix}"
                    shutil.copy(path, kept)
                    kept.with_suffix(".txt").write_text(traceback.format_exc())
            faulthandler.cancel_dump_traceback_later()
            counts["slowest"] = max(counts["slowest"], round(time.monotonic() - started, 2))
            counts["files"] += 1
            if counts["files"] % 200 == 0:
                shutil.copy(path, keep / f"{reader}-last{path.suffix}")
        print(json.dumps(counts))


def main() -> None:
    """Share the time among the readers, and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz"))
    parser.add_argument("--worker", nargs=2, metavar=("READER", "SEEDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(
            options.worker[0], Path(options.worker[1]), options.seconds, options.seed, options.keep
        )
        return
    options.keep.mkdir(parents=True, exist_ok=True)
    failed = False
    with tempfile.TemporaryDirectory() as name:
        make_seeds(Path(name))
        readers = ("star", "cs", "passthrough", "poses", "ctfs", "stack", "map", "indices")
        for reader in readers:
            arguments = [
                sys.executable,
                __file__,
                "--worker",
                reader,
                name,
                "--seconds",
                str(options.seconds / len(readers)),
            ]
            done = subprocess.run(
                [*arguments, "--seed", str(options.seed), "--keep", str(options.keep)],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                failed = True
                print(f"{reader:12s} stopped, exit code {done.returncode}: {done.stderr[-2000:]}")
                continue
            counts = json.loads(done.stdout.splitlines()[-1])
            failed |= counts["failed"] > 0
            print(
                f"{reader:12s}{counts['files']:8,} files, {counts['refused']:,} refused, "
                f"{counts['failed']} failed, the slowest took {counts['slowest']} s"
            )
    if failed:
        sys.exit(f"what failed is in {options.keep}")


if __name__ == "__main__":
    main()
