"""From what, when and on what a result of the book was made."""

import datetime
import os
import platform
import subprocess
from pathlib import Path

import torch

import cryostar_nb


def provenance_of(command: str) -> dict[str, str]:
    """Command, version, commit, machine and date of a result that is made now."""
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    else:
        machine = f"{processor()}, {os.cpu_count()} cores"
    return {
        "command": command,
        "version": cryostar_nb.__version__,
        "commit": commit(),
        "machine": machine,
        "date": datetime.date.today().isoformat(),
    }


def commit() -> str:
    """The commit of the code that computes, and whether it was changed since."""
    here = str(Path(__file__).parent)
    command = ["git", "-C", here, "describe", "--always", "--dirty", "--exclude", "*"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
