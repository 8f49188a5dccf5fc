"""Import the peer (see peer.py) from a checkout, without the packages that a step does not use."""

import importlib.util
import sys
import warnings
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from cryostar_nb.errors import InputError

# The peer's files import these at their head, to read, write and plot.
UNUSED = """
Bio biotite cv2 lightning mmengine numba seaborn six sklearn torch.utils.tensorboard torchinfo
torchvision tree umap
""".split()


class _Nothing:
    """What a stand-in module holds under a name: it can be called, and named in an annotation."""

    def __init__(self, *_: object, **__: object) -> None: ...


class _LightningModule(torch.nn.Module):
    """What a training step asks of Lightning, on one device."""

    device, trainer = torch.device("cpu"), SimpleNamespace(num_training_batches=0)
    global_step = current_epoch = 0

    def all_gather(self, values: Tensor) -> Tensor:
        return values

    def log_dict(self, *_: object) -> None: ...


def _map_structure(function: Callable[[Any], Any], values: Any) -> Any:
    """Of dm-tree, with which the peer builds tables of residues that a step does not read."""
    if isinstance(values, list):
        return [_map_structure(function, value) for value in values]
    return function(values)


class _StandIns(MetaPathFinder, Loader):
    """Finds an empty module under every name in UNUSED and below."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        stood_in = f"{fullname}.".startswith(tuple(f"{name}." for name in UNUSED))
        return ModuleSpec(fullname, self, is_package=True) if stood_in else None

    def exec_module(self, module: ModuleType) -> None:
        named = {
            "LightningModule": _LightningModule,
            "rank_zero_only": lambda function: function,
            "map_structure": _map_structure,
        }

        def attribute(name: str) -> Any:
            if name == "__version__":
                return "9"
            if name.startswith("__"):
                raise AttributeError(name)
            return Warning if name.endswith("Warning") else named.get(name, _Nothing)

        module.__getattr__ = attribute  # type: ignore[method-assign]


def load(path: Path | str) -> ModuleType:
    """The peer's `train_atom` module.

    Raises InputError where the path is no checkout of it, or a package that it needs is missing.
    """
    path = Path(path).resolve()
    project = path / "projects" / "star"
    for needed in ("train_atom.py", "atom_configs/1ake.py"):
        if not (project / needed).is_file():
            problem, remedy = "has no file {value}", "give a checkout of bytedance/cryostar"
            raise InputError(problem, file=project, value=needed, remedy=remedy)
    if importlib.util.find_spec("einops") is None:
        raise InputError("the peer needs einops", remedy="pip install einops")
    sys.path[:0] = [str(project), str(path)]
    stand_ins = _StandIns()
    sys.meta_path.insert(0, stand_ins)
    try:
        with warnings.catch_warnings(action="ignore"):  # of its deprecated calls
            return importlib.import_module("train_atom")
    except ImportError as error:
        problem = f"cannot be imported ({error})"
        raise InputError(problem, file=path, remedy="install what is missing") from error
    finally:
        sys.meta_path.remove(stand_ins)
        for name, module in list(sys.modules.items()):
            if getattr(module, "__loader__", None) is stand_ins:
                del sys.modules[name]  # whoever imports it next gets the real one
