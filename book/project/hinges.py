"""Three more proteins with a hinge, for projects: fetch them from the Protein Data Bank.

    python book/project/hinges.py [--out FOLDER]

Each is known open and closed. The residues of chain A that both have are kept, and the closed one
is laid on the open one. `NAME_open.pdb` and `NAME_closed.pdb` are `start` and `end` for
`cs.simulate`. The archive's files are free to use (CC0 1.0).
"""

import argparse
import urllib.request
from pathlib import Path

import numpy as np
from cryostar_nb.geometry import kabsch
from cryostar_nb.io.structures import read_structure, write_structure
from cryostar_nb.simulation.paths import matching_atoms
from cryostar_nb.structure import node_atoms

ADDRESS = "https://files.rcsb.org/download/{entry}.cif"
PAIRS = {
    "maltose_binding": (
        "1OMP",
        "1ANF",
    ),  # maltodextrin-binding protein of E. coli
    "glutamine_binding": (
        "1GGG",
        "1WDN",
    ),  # glutamine-binding protein of E. coli
    "guanylate_kinase": ("1EX6", "1EX7"),  # guanylate kinase of yeast
}


def write_pair(name: str, opened: Path, closed: Path, out: Path) -> float:
    """Write chain A of both, laid on each other about the origin; their Cα-RMSD in Å."""
    chains = [read_structure(path) for path in (opened, closed)]
    chains = [atoms[atoms.chains == "A"] for atoms in chains]
    common = np.intersect1d(*(atoms.residue_numbers for atoms in chains))
    first, last = matching_atoms(
        *(atoms[np.isin(atoms.residue_numbers, common)] for atoms in chains)
    )
    nodes, centred = (
        node_atoms(first),
        first.positions - first.positions.mean(axis=0),
    )
    rotation, translation = kabsch(last.positions[nodes], centred[nodes])
    laid = last.positions @ rotation.T + translation
    write_structure(out / f"{name}_open.pdb", first.with_positions(centred))
    write_structure(out / f"{name}_closed.pdb", last.with_positions(laid))
    return float(np.sqrt(((laid - centred)[nodes] ** 2).sum(-1).mean()))


def main() -> None:
    """Fetch and write all pairs."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("--out", type=Path, default=Path("data"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, entries in PAIRS.items():
        files = [out / f"{entry}.cif" for entry in entries]
        for entry, path in zip(entries, files, strict=True):
            urllib.request.urlretrieve(ADDRESS.format(entry=entry), path)
        print(f"{name}: {write_pair(name, *files, out):.2f} Å from open to closed")


if __name__ == "__main__":
    main()
