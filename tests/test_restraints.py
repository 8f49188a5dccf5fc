"""The structural losses of one reference: the same as the formulas, from sums over the pairs."""

import dataclasses

import numpy as np
import pytest
import torch
from refusals import refused
from tiny import CONFIG

from cryostar_nb.geometry import pair_distances
from cryostar_nb.losses import (
    Restraints,
    clash_loss,
    continuity_loss,
    elastic_network_loss,
    relaxed_edges,
)


@pytest.fixture
def reference(helix_nodes):
    return torch.from_numpy(helix_nodes.positions).float()


@pytest.fixture
def shaken(reference, generator):
    """Eight structures whose nodes stand an ångström off, at random."""
    return reference + torch.randn(8, *reference.shape, generator=generator)


def values(losses):
    return {name: value.item() for name, value in losses.items()}


def test_the_reference_costs_nothing(helix_nodes, reference):
    losses = Restraints(helix_nodes, CONFIG).losses(reference.expand(4, -1, -1))
    nothing = {"continuity": 0, "elastic": 0, "clash": 0}
    assert values(losses) == pytest.approx(nothing, abs=1e-9)


@pytest.mark.parametrize("percentile", [50.0, 80.0, 100.0])
def test_the_restraints_are_the_losses_of_the_distances(percentile, helix_nodes, shaken):
    config = dataclasses.replace(CONFIG, relaxation_percentile=percentile, clash_distance=6.0)
    restraints = Restraints(helix_nodes, config)
    bond_lengths = pair_distances(shaken, restraints.bonds)
    edge_lengths = pair_distances(shaken, restraints.edges)
    # Every pair but the neighbours, which are all bonded.
    apart = torch.triu_indices(len(helix_nodes), len(helix_nodes), 2).T
    keep = relaxed_edges(edge_lengths, percentile)
    expected = {
        "continuity": continuity_loss(bond_lengths, restraints.bond_lengths),
        "elastic": elastic_network_loss(edge_lengths, restraints.edge_lengths, keep),
        "clash": clash_loss(pair_distances(shaken, apart), 6.0),
    }
    assert values(restraints.losses(shaken)) == pytest.approx(values(expected), rel=1e-5)


def test_relaxation_looks_at_the_whole_of_a_shared_batch(helix_nodes, shaken):
    def elastic(batch, sum_over_processes=lambda sums: sums):
        restraints = Restraints(helix_nodes, CONFIG, sum_over_processes=sum_over_processes)
        return restraints.losses(batch)["elastic"].item()

    halves, sums_of_each = shaken.split(4), []
    alone = [elastic(half, lambda sums: sums_of_each.append(sums) or sums) for half in halves]
    together = [elastic(half, lambda sums: sum(sums_of_each)) for half in halves]
    assert np.mean(together) == pytest.approx(elastic(shaken), rel=1e-6)
    assert np.mean(alone) != pytest.approx(np.mean(together), rel=1e-3)


@pytest.mark.parametrize(("measure", "dropped"), [("distance", 0), ("squared_error", 1)])
def test_the_measure_of_relaxation_decides_what_is_released(
    measure, dropped, helix_nodes, reference
):
    """Bond 0 varies by more, about its own length; the squared error of bond 1 varies by more,
    because it varies about a wrong length.
    """
    config = dataclasses.replace(
        CONFIG, relaxation_measure=measure, relaxation_percentile=99.9, elastic_cutoff=4.5
    )
    restraints = Restraints(helix_nodes, config)
    assert len(restraints.edges) > 2
    positions = reference.repeat(2, 1, 1)
    starts, ends = restraints.edges.T
    along = torch.nn.functional.normalize(reference[ends] - reference[starts], dim=-1)
    for bond, lengthening in ((0, (-0.5, 0.5)), (1, (1.6, 2.4))):
        for structure, change in enumerate(lengthening):  # all behind the bond moves along it
            positions[structure, ends[bond] :] += change * along[bond]
    errors = (pair_distances(positions, restraints.edges) - restraints.edge_lengths).square()
    kept = torch.arange(len(restraints.edges)) != dropped
    expected = errors[:, kept].mean().item()
    assert restraints.losses(positions)["elastic"].item() == pytest.approx(expected, rel=1e-5)


def test_edges_along_a_chain_are_never_released(helix_nodes, shaken):
    chains = np.where(np.arange(len(helix_nodes)) < 6, "A", "B")
    nodes = dataclasses.replace(helix_nodes, chains=chains)
    changes = {"relaxation_percentile": 20.0, "kept_along_chain": 3}
    config = dataclasses.replace(CONFIG, elastic_between_chains=True, **changes)
    restraints = Restraints(nodes, config)
    starts, ends = restraints.edges.T.numpy()
    near = (ends - starts <= 3) & (chains[starts] == chains[ends])
    lengths = pair_distances(shaken, restraints.edges)
    stable = relaxed_edges(lengths, 20).numpy()
    assert (near & ~stable).any() and (~near & ~stable).any()
    expected = elastic_network_loss(lengths, restraints.edge_lengths, near | stable)
    assert restraints.losses(shaken)["elastic"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_reference_that_its_losses_cannot_hold_together_is_refused(make_nodes):
    line = np.arange(5)[:, None] * np.array([1.0, 0, 0])
    apart, chain = make_nodes(40 * line), make_nodes(3.8 * line)
    for nodes, changes, value in (
        (apart, {"method": "cont"}, 5),
        (chain, {"elastic_cutoff": 1.0}, 1.0),
    ):
        with refused(value=value):
            Restraints(nodes, dataclasses.replace(CONFIG, **changes))
    without = Restraints(apart, dataclasses.replace(CONFIG, method="nma"))
    assert without.losses(torch.zeros(1, 5, 3)) == {}
