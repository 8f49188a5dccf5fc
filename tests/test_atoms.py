"""Every heavy atom: joints between residues are found, measured and mended."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cryostar_nb.atoms import clashes, link_error, links, relax
from cryostar_nb.density import atom_density
from cryostar_nb.io.structures import read_structure
from cryostar_nb.structure import coarse_grain

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def atoms():
    """The first eight residues of adenylate kinase."""
    whole = read_structure(DATA / "1ake.pdb")
    return whole[whole.residue_numbers <= 8]


@pytest.fixture
def there(atoms):
    return torch.from_numpy(atoms.positions)


def test_a_link_leads_from_c_to_the_n_of_the_next_residue(atoms):
    pairs = links(atoms)
    assert len(pairs) == 7
    assert set(atoms.atom_names[pairs[:, 0]]) == {"C"}
    assert set(atoms.atom_names[pairs[:, 1]]) == {"N"}
    numbers = atoms.residue_numbers[pairs]
    assert (numbers[:, 1] - numbers[:, 0] == 1).all()


def test_there_is_no_link_across_a_gap_or_between_chains(atoms):
    assert len(links(atoms[atoms.residue_numbers != 4])) == 5
    chains = np.where(atoms.residue_numbers < 4, "A", "B")
    assert len(links(dataclasses.replace(atoms, chains=chains))) == 6


def test_the_link_error_is_the_rms_change_of_the_links(atoms, there):
    assert link_error(atoms, there) == pytest.approx(0, abs=1e-9)
    moved = there.clone()
    last = torch.from_numpy(atoms.residue_numbers == atoms.residue_numbers.max())
    first, second = links(atoms)[-1]
    along = torch.nn.functional.normalize(there[second] - there[first], dim=-1)
    moved[last] += 0.5 * along
    assert link_error(atoms, moved) == pytest.approx(0.5 / np.sqrt(7), rel=1e-6)


def test_relaxed_atoms_keep_their_bonds_and_hardly_move(atoms, generator):
    nodes = coarse_grain(atoms)
    positions = torch.from_numpy(nodes.positions)[None]
    turns = 0.4 * torch.randn(positions.shape, generator=generator, dtype=torch.float64)
    carried = atom_density(atoms, 0.8).carried
    turned = carried.centres(positions, turns)
    before, relaxed = link_error(atoms, turned), relax(atoms, turned)
    assert before > 0.2 and link_error(atoms, relaxed) < 0.1 * before
    assert (relaxed - turned).square().sum(-1).mean().sqrt() < 0.4


def test_atoms_of_distant_residues_that_meet_are_a_clash(atoms, there):
    assert clashes(atoms, atoms.positions) == 0
    folded = atoms.positions.copy()
    folded[-1] = folded[0] + [1.0, 0, 0]
    assert clashes(atoms, folded) >= 1
