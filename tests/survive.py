"""Kill training with SIGKILL at random moments and resume it; then let it fill a small disk.

    python tests/survive.py [--kills 20] [--seed 0]

Not part of the suite: `make survive`. Every kill must leave a run folder that resumes, and the run
that was killed must end with the weights, bit for bit, of one that was not. The small disk is a
tmpfs, which only root may mount; without that the second part is skipped.
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


def cryostar(line: str) -> list[str]:
    """The words of a call of the command line."""
    return [sys.executable, "-m", "cryostar_nb", *line.split()]


def call(line: str) -> None:
    """Run a command line that must end well."""
    subprocess.run(cryostar(line), check=True, capture_output=True)


def training(particles: Path, out: Path) -> str:
    """A short training with a checkpoint every 20 steps; it goes on from the last one."""
    if (out / "checkpoint.pt").exists():
        return f"train --resume --out {out}"
    files = f"{particles}/particles.star --reference {DATA}/1ake.pdb --out {out}"
    return f"train {files} --device cpu --steps {STEPS} --checkpoint-every 20 --log-every 5"


def step_of(out: Path) -> int:
    """The step of the last checkpoint."""
    path = out / "checkpoint.pt"
    return torch.load(path, weights_only=True)["step"] if path.exists() else 0


def kill_and_resume(particles: Path, work: Path, kills: int, source: random.Random) -> None:
    """Kill a run this many times, let it end, and compare it with one that was left alone."""
    whole, out, landed = work / "whole", work / "killed", 0
    began = time.monotonic()
    call(training(particles, whole))
    seconds = time.monotonic() - began
    while landed < kills:
        line = cryostar(training(particles, out))
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, complaint = process.communicate(timeout=source.uniform(0.3, 1.0) * seconds)
            assert process.returncode == 0, complaint.decode()
            shutil.rmtree(out)  # it came to its end: begin again
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            landed += 1
            print(f"kill {landed}: at checkpoint {step_of(out)}", flush=True)
    call(training(particles, out))
    killed, expected = (
        torch.load(folder / "checkpoint.pt", weights_only=True)["model"] for folder in (out, whole)
    )
    same = all(torch.equal(killed[name], expected[name]) for name in expected)
    assert same, "the run that was killed ended with other weights"
    steps, expected_steps = (
        [line.split(",")[0] for line in (folder / "metrics.csv").read_text().split()]
        for folder in (out, whole)
    )
    assert steps == expected_steps, "the metrics of the run that was killed have other steps"
    print(f"{landed} kills: every one resumed, and the weights at the end are the same bit for bit")


def fill_the_disk(particles: Path, work: Path) -> None:
    """Train onto disks that are too small: one line must say so, and no file may be in parts."""
    disk = work / "disk"
    disk.mkdir()
    for size in ("3k", "1m", "10m", "20m"):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            print("no small disk can be mounted here: skipped")
            return
        try:
            train_on(particles, disk / "run", size)
        finally:
            subprocess.run(["umount", disk], check=True)


def train_on(particles: Path, out: Path, size: str) -> None:
    """Train in this folder, on a disk of this size."""
    line = cryostar(training(particles, out))
    result = subprocess.run(line, check=False, capture_output=True, text=True)
    assert result.returncode == 2 and "Traceback" not in result.stderr, (size, result.stderr)
    last = result.stderr.strip().splitlines()[-1]
    assert "disk" in last, result.stderr
    left = sorted(path.name for path in out.glob("*") if path.is_file())
    assert not any(name.startswith(".") for name in left), left
    step_of(out)  # a checkpoint is whole
    print(f"disk of {size}: exit 2, '{last[:60]}...', left {left}")


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
        particles = work / "particles"
        ends = f"--start {DATA}/1ake.pdb --end {DATA}/4ake.pdb"
        images = "--box-size 64 --pixel-size 2.0 --n-particles 300"
        call(f"simulate {ends} {images} --out {particles}")
        fill_the_disk(particles, work)
        kill_and_resume(particles, work, options.kills, random.Random(options.seed))


if __name__ == "__main__":
    main()
