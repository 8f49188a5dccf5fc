"""Kill training with SIGKILL at random moments and resume it; then let it fill a small disk. Not part of the suite: `make survive`.

    python tests/survive.py [--kills 20] [--seed 0]

Every kill must leave a run folder that resumes, and the run that was killed must end with the weights, bit for bit, of one that was
not. The small disk is a tmpfs, which only root may mount; without that the second part is skipped.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

DATA = Path(__file__).parent.parent / "data"
STEPS = 400


def cryostar(*arguments: object) -> list[str]:
    """The words of a call of the command line."""
    return [sys.executable, "-m", "cryostar_nb", *map(str, arguments)]


def training(particles: Path, out: Path, *, resume: bool) -> list[str]:
    """A short training that writes a checkpoint every 20 steps."""
    begin = [
        particles / "particles.star",
        "--reference",
        DATA / "1ake.pdb",
        "--steps",
        STEPS,
        "--checkpoint-every",
        20,
        "--log-every",
        5,
    ]
    return cryostar(
        "train", *(["--resume"] if resume else [*begin, "--device", "cpu"]), "--out", out
    )


def kill_and_resume(particles: Path, work: Path, kills: int, source: random.Random) -> None:
    """Kill a run this many times, let it end, and compare it with one that was left alone."""
    began = time.monotonic()
    subprocess.run(
        training(particles, work / "whole", resume=False), check=True, capture_output=True
    )
    seconds, out, landed = time.monotonic() - began, work / "killed", 0
    while landed < kills:
        resume = (out / "checkpoint.pt").exists()
        process = subprocess.Popen(
            training(particles, out, resume=resume),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            _, complaint = process.communicate(timeout=source.uniform(0.3, 1.0) * seconds)
            assert process.returncode == 0, complaint.decode()
            shutil.rmtree(out)  # it came to its end: begin again
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            landed += 1
            step = (
                torch.load(out / "checkpoint.pt", weights_only=True)["step"]
                if (out / "checkpoint.pt").exists()
                else 0
            )
            print(f"kill {landed}: at checkpoint {step}", flush=True)
    subprocess.run(
        training(particles, out, resume=(out / "checkpoint.pt").exists()),
        check=True,
        capture_output=True,
    )
    first, second = (
        torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
        for folder in (out, work / "whole")
    )
    assert all(torch.equal(first[name], second[name]) for name in second), (
        "the run that was killed ended with other weights"
    )
    columns = [
        [line.split(",")[0] for line in (folder / "metrics.csv").read_text().split()]
        for folder in (out, work / "whole")
    ]
    assert columns[0] == columns[1], "the metrics of the run that was killed have other steps"
    print(f"{landed} kills: every one resumed, and the weights at the end are the same bit for bit")


def fill_the_disk(particles: Path, work: Path) -> None:
    """Train onto disks of several sizes that are too small; each time one line must say so, and what is there must be whole."""
    disk = work / "disk"
    disk.mkdir()
    for size in ("3k", "1m", "20m", "40m"):
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk],
            check=False,
            capture_output=True,
        ).returncode:
            print("no small disk can be mounted here: skipped")
            return
        try:
            result = subprocess.run(
                training(particles, disk / "run", resume=False),
                check=False,
                capture_output=True,
                text=True,
            )
            last = result.stderr.strip().splitlines()[-1]
            assert (
                result.returncode == 2
                and "the disk is full" in last
                and "Traceback" not in result.stderr
            ), result.stderr
            left = (
                sorted(path.name for path in (disk / "run").glob("*") if path.is_file())
                if (disk / "run").exists()
                else []
            )
            assert not any(name.startswith(".") for name in left), left
            if "checkpoint.pt" in left:
                torch.load(disk / "run" / "checkpoint.pt", weights_only=True)
            print(f"disk of {size}: exit 2, '{last[:60]}...', left {left}")
        finally:
            subprocess.run(["umount", disk], check=True)


def main() -> None:
    """Both trials."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        ends = [
            "--closed",
            DATA / "1ake.pdb",
            "--open",
            DATA / "4ake.pdb",
            "--box-size",
            64,
            "--pixel-size",
            2.0,
        ]
        subprocess.run(
            cryostar("simulate", *ends, "--out", work / "particles", "--n-particles", 300),
            check=True,
            capture_output=True,
        )
        fill_the_disk(work / "particles", work)
        kill_and_resume(work / "particles", work, options.kills, random.Random(options.seed))


if __name__ == "__main__":
    main()
