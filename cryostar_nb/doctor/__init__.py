"""Which sign, hand, scale and placement make particles fit a reference: what the doctor asks.

Called, the package is the command of its name: `cryostar_nb.doctor(particles, reference=...)`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, *arguments: Any, **values: Any) -> Any:
        return import_module("cryostar_nb.door").doctor(*arguments, **values)

    @property
    def __signature__(self) -> Any:
        return import_module("cryostar_nb.door").doctor.__signature__


sys.modules[__name__].__class__ = _CallableModule
