"""Kinds of changes to files, and what a reader should make of each: `fuzz_silence` tries them."""

from silence_kinds import (  # noqa: F401 - each puts its kinds into the table
    cryosparc,
    maps,
    mmcif,
    mrc_both,
    passthrough,
    pdb_atoms,
    pdb_chains,
    pickles,
    stacks,
    star_tables,
    star_text,
    star_values,
)
from silence_kinds.scene import KINDS, Scene, Trial

__all__ = ["KINDS", "Scene", "Trial"]
