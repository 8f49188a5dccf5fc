"""The commands as functions of Python, with plain arguments: `cryostar_nb.train(...)`."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from cryostar_nb import commands


def as_function(command: Any) -> Callable[..., Any]:
    """A function that takes every field of a command, and of the settings in it, by its name.

    What the shell takes by place may be given by place. It returns what `command.run` returns.
    """
    hints = get_type_hints(command)
    groups: dict[str, Any] = {
        name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)
    }
    parameters, notes = [], []
    for owner in (command, *groups.values()):
        for name, about in owner.__pydantic_fields__.items():
            if name in groups:
                continue
            by_place = name in commands.BY_PLACE and owner is command
            parameters.append(
                inspect.Parameter(
                    name,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD
                    if by_place
                    else inspect.Parameter.KEYWORD_ONLY,
                    default=inspect.Parameter.empty if about.is_required() else about.default,
                )
            )
            notes.append(f"{name}: {' '.join((about.description or '').split())}")
    signature = inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))

    def call(*arguments: Any, **values: Any) -> Any:
        given = signature.bind_partial(*arguments, **values).arguments
        defaults = command.defaults(given) if hasattr(command, "defaults") else {}
        signature.bind(**(dict.fromkeys(set(defaults) & set(signature.parameters)) | given))
        for name, kind in groups.items():
            names = [entry.name for entry in dataclasses.fields(kind) if entry.name in given]
            inside = {entry: given.pop(entry) for entry in names}
            given[name] = dataclasses.replace(defaults.get(name, kind()), **inside)
        return command(**(defaults | given)).run()

    call.__name__ = call.__qualname__ = command.__name__.lower()
    call.__doc__ = "\n    ".join([f"{inspect.getdoc(command)}\n\nArguments:", *notes])
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


simulate = as_function(commands.Simulate)
info = as_function(commands.Info)
preprocess = as_function(commands.Preprocess)
select = as_function(commands.Select)
doctor = as_function(commands.Doctor)
dock = as_function(commands.Dock)
train = as_function(commands.Train)
reconstruct = as_function(commands.Reconstruct)
