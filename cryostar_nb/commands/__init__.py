"""The commands: what each takes, as a dataclass, and what it does.

From a command comes its subcommand in the shell (`cli`) and its function in Python (`door`): names,
defaults and descriptions are the same. Nothing heavy is imported before a command runs.
"""

from cryostar_nb.commands.particles import Dock, Doctor, Info, Preprocess, Simulate
from cryostar_nb.commands.runs import (
    Analyse,
    Check,
    Evaluate,
    Infer,
    Landscape,
    Reconstruct,
    Train,
)
from cryostar_nb.commands.selection import Select

# Fields that the shell takes by their place.
BY_PLACE = ("particles", "source", "model", "target", "run_folder")
_OF_PARTICLES = (Simulate, Info, Preprocess, Select, Doctor, Dock)
COMMANDS = (*_OF_PARTICLES, Train, Infer, Evaluate, Check, Reconstruct, Landscape, Analyse)

__all__ = [
    "BY_PLACE",
    "COMMANDS",
    "Analyse",
    "Check",
    "Dock",
    "Doctor",
    "Evaluate",
    "Infer",
    "Info",
]
__all__ += ["Landscape", "Preprocess", "Reconstruct", "Select", "Simulate", "Train"]
