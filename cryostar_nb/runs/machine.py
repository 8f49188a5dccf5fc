"""Where training runs: one process or many, a CPU or GPUs; memory, and Ctrl-C."""

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from cryostar_nb.errors import InputError
from cryostar_nb.runs.run_config import Hardware

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def check_hardware(hardware: Hardware) -> torch.device:
    """The device, or the first one. Raises InputError for hardware that is not there."""
    device = choose_device(hardware.device)
    if device.index is not None and hardware.devices > 1:
        raise InputError(
            f"device = {{value}} is one GPU, and devices = {hardware.devices}",
            value=hardware.device,
            remedy=f"give --device {device.type}",
        )
    if device.type == "cuda" and hardware.devices > torch.cuda.device_count():
        raise InputError(
            f"devices = {{value}}, and this machine has {torch.cuda.device_count()} GPUs",
            value=hardware.devices,
            remedy="give no more than that",
        )
    return device


def choose_device(name: str) -> torch.device:
    """The device of this name; `auto` takes a GPU when there is one.

    Raises InputError for one that is not usable here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device = {{value}} is not usable here ({str(error).splitlines()[0]})",
            value=name,
            remedy="give auto, cpu or cuda",
        ) from error
    return device


def start_fabric(hardware: Hardware) -> "Fabric":
    """Lightning Fabric on this hardware, its processes started and connected."""
    from lightning_fabric import Fabric

    device = check_hardware(hardware)
    fabric = Fabric(
        accelerator=device.type,
        devices=hardware.devices if device.index is None else [device.index],
        num_nodes=hardware.num_nodes,
        strategy=hardware.strategy,
        precision=hardware.precision,
    )
    # Autocast rounds within the encoder; Fabric would round the poses and CTFs it is given, too.
    fabric.strategy.precision.convert_input = lambda data: data  # type: ignore[method-assign]
    fabric.launch()
    return fabric


def keep_freed_memory() -> None:
    """Ask the C library (glibc) to keep large freed blocks instead of giving them back.

    A step makes and frees some 60 MB; without this a fourth of its time on a CPU goes into page
    faults.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: blocks up to 1 GB come from the heap
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: of which up to 1 GB stays when it is free


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C (and a polite kill) wait for the end of a step.

    Yields a function that says whether one has come.
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only it receives signals
        yield lambda: False
        return
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: signals.append(number)) for number in wanted]
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in zip(wanted, before, strict=True):
            signal.signal(number, handler)
