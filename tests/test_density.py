"""Atoms carried by their residues: in their place at the reference, and turning with the chain."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck

from cryostar_nb.config import TrainConfig
from cryostar_nb.density import atom_density, group_density, make_density, node_density
from cryostar_nb.io.structures import read_structure
from cryostar_nb.structure import Structure, coarse_grain


@pytest.fixture
def atoms():
    return read_structure(Path(__file__).parent.parent / "data" / "1ake.pdb")


def positions_of(structure):
    return torch.from_numpy(structure.positions).float()


def test_at_the_reference_every_atom_is_where_the_model_has_it(atoms):
    nodes = coarse_grain(atoms)
    density = atom_density(atoms, 0.8)
    assert torch.allclose(density.centres(positions_of(nodes)), positions_of(atoms), atol=1e-4)
    assert float(density.amplitudes.sum()) == pytest.approx(nodes.electrons.sum())
    assert len(density.amplitudes) == len(atoms) and float(density.sigma) == pytest.approx(0.8)


def test_atoms_turn_and_move_with_the_whole(atoms, rng):
    nodes, density = coarse_grain(atoms), atom_density(atoms, 0.8)
    turn, move = (
        torch.from_numpy(Rotation.random(random_state=rng).as_matrix()).float(),
        torch.tensor([3.0, -5.0, 8.0]),
    )
    moved = density.centres(positions_of(nodes) @ turn.mT + move)
    assert torch.allclose(moved, positions_of(atoms) @ turn.mT + move, atol=1e-3)


def test_a_residue_that_moves_takes_its_atoms_and_turns_its_neighbours(atoms):
    nodes, density = coarse_grain(atoms), atom_density(atoms, 0.8)
    positions = positions_of(nodes)
    shifted = positions.clone()
    shifted[100] += torch.tensor([1.0, 0.0, 0.0])
    change = (density.centres(shifted) - density.centres(positions)).norm(dim=-1)
    residue = np.searchsorted(np.unique(atoms.residue_numbers), atoms.residue_numbers)
    assert (change[np.abs(residue - 100) > 1] == 0).all()
    assert change[residue == 100].min() > 0.3 and change[np.abs(residue - 100) == 1].max() > 0.05


def test_many_structures_at_once(atoms, generator):
    nodes, density = coarse_grain(atoms), atom_density(atoms, 0.8)
    batch = positions_of(nodes) + torch.randn(2, 3, len(nodes), 3, generator=generator)
    together = density.centres(batch)
    assert together.shape == (2, 3, len(atoms), 3)
    assert torch.allclose(together[1, 2], density.centres(batch[1, 2]), atol=1e-4)


def small_peptide(count, chains="A"):
    """A zigzag of `count` residues of two atoms each."""
    ca = np.stack(
        [3.2 * np.arange(count), 1.0 * (np.arange(count) % 2), 0.3 * np.arange(count)], axis=-1
    )
    positions = np.stack([ca, ca + np.array([0.3, 1.4, -0.5])], axis=1).reshape(-1, 3)
    letters = np.repeat(np.array(list(chains) if len(chains) == count else [chains] * count), 2)
    return Structure(
        positions=positions,
        electrons=np.tile([6.0, 8.0], count),
        atom_names=np.tile(["CA", "O"], count),
        elements=np.tile(["C", "O"], count),
        residue_names=np.full(2 * count, "GLY"),
        residue_numbers=np.repeat(np.arange(1, count + 1), 2),
        insertion_codes=np.full(2 * count, ""),
        chains=letters,
    )


@pytest.mark.parametrize(
    ("count", "chains"), [(1, "A"), (2, "A"), (3, "A"), (5, "AAABB"), (6, "ABBBBC")]
)
def test_short_chains_keep_their_atoms_and_have_gradients(count, chains):
    atoms = small_peptide(count, chains)
    nodes, density = coarse_grain(atoms), atom_density(atoms, 0.8)
    positions = positions_of(nodes).requires_grad_()
    centres = density.centres(positions)
    assert torch.allclose(centres, positions_of(atoms), atol=1e-5)
    centres.sum().backward()
    assert torch.isfinite(positions.grad).all()


def test_a_pair_of_residues_keeps_the_directions_of_the_reference():
    atoms = small_peptide(2)
    density, positions = atom_density(atoms, 0.8), positions_of(coarse_grain(atoms))
    quarter_turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned, before = density.centres(positions @ quarter_turn.mT), positions_of(atoms)
    assert torch.allclose(turned[1] - turned[0], before[1] - before[0], atol=1e-5)


def test_the_gradient_is_right(generator):
    carried = atom_density(small_peptide(5), 0.8).carried
    double = dataclasses.replace(carried, offsets=carried.offsets.double())
    noise = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    positions = positions_of(coarse_grain(small_peptide(5))) + 0.3 * noise
    assert gradcheck(double.centres, positions.requires_grad_())


def test_the_density_of_the_nodes_is_the_nodes(atoms):
    nodes = coarse_grain(atoms)
    density = node_density(nodes, 2.0)
    positions = positions_of(nodes)
    assert density.centres(positions) is positions
    assert density.amplitudes.tolist() == pytest.approx(nodes.electrons.tolist())


def test_a_model_of_nodes_alone_has_no_atoms_to_carry(atoms):
    for make in (atom_density, lambda *given: group_density(*given, 4.0)):
        with refused() as caught:
            make(coarse_grain(atoms), 0.8)
        assert "--density nodes" in caught.value.remedy


def test_a_configuration_has_its_density(atoms):
    nodes, config = coarse_grain(atoms), TrainConfig(sigma=3.0, atom_sigma=0.7)
    by_atom = make_density(dataclasses.replace(config, density="atoms"), atoms, nodes)
    by_group = make_density(config, atoms, nodes)
    expected = group_density(atoms, 0.7, config.low_pass)
    assert torch.equal(by_group.amplitudes, expected.amplitudes)
    unknown = make_density(dataclasses.replace(config, low_pass="auto"), atoms, nodes)
    assert len(unknown.amplitudes) == len(atoms)
    by_node = make_density(dataclasses.replace(config, density="nodes"), atoms, nodes)
    assert len(by_atom.amplitudes) == len(atoms) and float(by_atom.sigma) == pytest.approx(0.7)
    assert len(by_node.amplitudes) == len(nodes) and float(by_node.sigma) == 3.0
