"""Where training runs: one process or many, a CPU or GPUs; and a step that a GPU repeats without being told each part of it."""

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from cryostar_nb.errors import InputError, check_signs

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Hardware:
    """The machines of a run, and their memory. A distributed run shares every batch among its processes."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    devices: int = 1
    """Processes on each machine: the number of its GPUs to use, or of processes on its CPU."""
    num_nodes: int = 1
    """Machines; start the same command on each with torchrun or srun."""
    strategy: Literal["auto", "ddp"] = "auto"
    """How processes work together; auto is ddp (distributed data parallel) when there are several."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """bf16-mixed computes the encoder at half precision; positions, images and losses never are."""
    memory_gb: float | None = None
    """Memory that the particles may take, in GB; those that do not fit are read from disk as they are needed (default: half of what is free)."""
    cache: Path | None = None
    """Folder in which to keep the particles as training reads them, so that another run need not read all pixels again."""

    def check(self) -> torch.device:
        """The device, or the first one. Raises InputError for hardware that is not there."""
        device = choose_device(self.device)
        check_signs(self, positive=("devices", "num_nodes"))
        if device.index is not None and self.devices > 1:
            raise InputError(
                f"device = {self.device} is one GPU, and devices = {self.devices}; give --device {device.type}"
            )
        if device.type == "cuda" and self.devices > torch.cuda.device_count():
            raise InputError(
                f"devices = {self.devices}: this machine has {torch.cuda.device_count()} GPUs; give no more than that"
            )
        return device


def choose_device(name: str) -> torch.device:
    """The device of this name; `auto` takes a GPU when there is one. Raises InputError for one that is not usable here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device = {name}: not usable here ({str(error).splitlines()[0]}); give auto, cpu or cuda"
        ) from error
    return device


def start_fabric(hardware: Hardware) -> "Fabric":
    """Lightning Fabric on this hardware, its processes started and connected. One process needs none of that."""
    from lightning_fabric import Fabric

    device = hardware.check()
    fabric = Fabric(
        accelerator=device.type,
        devices=hardware.devices if device.index is None else [device.index],
        num_nodes=hardware.num_nodes,
        strategy=hardware.strategy,
        precision=hardware.precision,
    )
    fabric.launch()
    return fabric


def keep_freed_memory() -> None:
    """Ask the C library to keep large freed blocks, instead of giving them back to the system to be zeroed and mapped anew.

    A step makes and frees some 60 MB; without this a fourth of its time on a CPU went into page faults. Glibc only.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: blocks up to 1 GB come from the heap
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: of which up to 1 GB stays when it is free


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C (and a polite kill) wait for the end of a step. Yields a function that says whether one has come."""
    came: list[int] = []
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # signals reach the main thread alone
        yield lambda: False
        return
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in wanted]
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in zip(wanted, before, strict=True):
            signal.signal(number, handler)
