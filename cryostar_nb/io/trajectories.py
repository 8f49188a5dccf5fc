"""Trajectories in files, through mdtraj, which takes ASCII paths only and is slow to import."""

import string
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import gemmi
import numpy as np
from jaxtyping import Float

from cryostar_nb.errors import InputError
from cryostar_nb.io.elements import UNKNOWN, complete_elements
from cryostar_nb.io.files import existing_file, one_line, refuse, replacing
from cryostar_nb.io.structures import Frames, polymer_atoms, residues_of_chains
from cryostar_nb.structure import Structure, residue_formula, standard_name

if TYPE_CHECKING:
    import mdtraj


@contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """A path without letters beyond ASCII to the same file, there already or to be written.

    Where `path` itself has such letters, it leads through a link to its folder, or to the file.
    """
    if str(path).isascii():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link, name = Path(folder) / "link", path.name
        if name.isascii():
            link.symlink_to(path.parent.absolute(), target_is_directory=True)
            yield link / name
        else:
            link = link.with_suffix("".join(path.suffixes[-2:]))
            link.symlink_to(path.absolute())
            yield link


def write_trajectory(path: Path | str, structure: Structure, frames: Frames) -> None:
    """Write frames as DCD or XTC, by the suffix; viewers also ask for a PDB of the same atoms."""
    import mdtraj

    path = Path(path)
    if path.suffix not in (".dcd", ".xtc"):
        problem, remedy = "a trajectory is written as .dcd or .xtc", "choose one of these suffixes"
        refuse(path, problem, path.suffix, remedy)
    topology = mdtraj.Topology()
    for residues in residues_of_chains(structure).values():
        chain = topology.add_chain()
        for first, last in residues:
            name, number = structure.residue_names[first], structure.residue_numbers[first]
            residue = topology.add_residue(str(name), chain, int(number))
            for i in range(first, last):
                element = mdtraj.element.get_by_symbol(str(structure.elements[i]))
                topology.add_atom(str(structure.atom_names[i]), element, residue)
    trajectory = mdtraj.Trajectory(np.asarray(frames) / 10, topology)  # mdtraj works in nm
    with replacing(path) as temporary, plain_path(temporary) as plain:
        trajectory.save(str(plain))


def chain_name(index: int) -> str:
    """A name for the chain of this number: A ... Z, a ... z, 0 ... 9, then AA, AB, ..."""
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits
    before = chain_name(index // len(letters) - 1) if index >= len(letters) else ""
    return before + letters[index % len(letters)]


def read_trajectory(path: Path | str, topology: Path | str) -> tuple[Structure, Frames]:
    """Read the heavy polymer atoms of a trajectory that mdtraj knows (DCD, XTC, PDB, ...), in Å.

    Atoms are chosen as `read_structure` does. Raises InputError when a file is missing or the two
    do not belong together.
    """
    import mdtraj

    path = existing_file(path, "a trajectory")
    topology = existing_file(topology, "its topology (PDB, PSF, ...)")
    try:
        with plain_path(path) as plain, plain_path(topology) as plain_topology:
            trajectory = mdtraj.load(str(plain), top=str(plain_topology))
    except (ValueError, OSError, TypeError, RuntimeError) as error:
        problem = f"cannot be read with the topology {topology} ({one_line(error)})"
        raise InputError(problem, file=path, remedy="check that they belong together") from error
    frames = trajectory.xyz.astype(np.float64) * 10  # mdtraj works in nm
    document = _document(trajectory.topology, frames[0])
    complete_elements(topology, document)
    atoms, chosen = polymer_atoms(topology, document)
    frames = frames[:, chosen]
    return atoms.with_positions(frames[0]), frames


def _document(
    topology: "mdtraj.Topology", positions: Float[np.ndarray, "atom 3"]
) -> gemmi.Structure:
    """The atoms of a topology, numbered from 0; elements are left to the names where these tell."""
    chains: dict[str, gemmi.Chain] = {}
    # mdtraj drops insertion codes: residues of one number get A, B, ... in their order.
    copies: dict[tuple[str, int], int] = {}
    for source in topology.residues:
        name = source.segment_id or source.chain.chain_id or chain_name(source.chain.index)
        copy = copies[name, source.resSeq] = copies.get((name, source.resSeq), -1) + 1
        residue = gemmi.Residue()
        residue.name, residue.het_flag = standard_name(source.name), "A"
        residue.seqid = gemmi.SeqId(source.resSeq, " ABCDEFGHIJKLMNOPQRSTUVWXYZ"[copy])
        for site in source.atoms:
            symbol = site.element.symbol if site.element is not None else "X"
            if symbol == "VS":  # a virtual site
                continue
            atom = gemmi.Atom()
            atom.name, atom.serial = site.name, site.index
            atom.element = UNKNOWN if residue_formula(residue.name) else gemmi.Element(symbol)
            atom.pos = gemmi.Position(*positions[site.index].tolist())
            residue.add_atom(atom)
        chains.setdefault(name, gemmi.Chain(name)).add_residue(residue)
    model = gemmi.Model(1)
    for chain in chains.values():
        model.add_chain(chain)
    document = gemmi.Structure()
    document.add_model(model)
    return document
