"""What people look at: figures, 3D views, widgets and pages."""

from importlib import import_module
from types import ModuleType

_SHORT_NAMES = {"plot": "figures", "view": "views"}  # of `cryostar_nb.plot` and `cryostar_nb.view`


def __getattr__(name: str) -> ModuleType:
    if name in _SHORT_NAMES:
        return import_module(f"{__name__}.{_SHORT_NAMES[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
