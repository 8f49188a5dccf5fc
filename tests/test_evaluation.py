"""What the numbers of an evaluation mean, on cases small enough to do by hand."""

import dataclasses
import json
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from refusals import refused
from tiny import Line
from torch import nn

from cryostar_nb.backbone import helix_content, in_helix, local_geometry, sequence_pairs
from cryostar_nb.evaluation import evaluate, per_state, pose_errors, rmsd_to_truth
from cryostar_nb.geometry import random_rotations, rotations_from_vectors
from cryostar_nb.io.files import write_json
from cryostar_nb.io.structures import read_nodes
from cryostar_nb.pages import figures

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture
def chain(make_nodes, helix):
    return make_nodes(helix(12))


def test_rmsd_is_not_aligned(chain):
    reference = torch.from_numpy(chain.positions).float()
    truth = torch.stack([reference, reference + torch.tensor([0.0, 3.0, 4.0])])
    errors = rmsd_to_truth(Line(reference), torch.zeros(3, 2), truth, torch.tensor([0, 1, 1]))
    torch.testing.assert_close(errors, torch.tensor([0.0, 5.0, 5.0]))


def test_mean_and_spread_are_per_state():
    mean, sd = per_state(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]), 2)
    assert mean == [2.0, 5.0] and sd == [1.0, 0.0]


def test_a_state_without_particles_is_null_in_json(tmp_path):
    mean, sd = per_state(torch.tensor([1.0, 3.0]), torch.tensor([0, 2]), 3)
    write_json(tmp_path / "evaluation.json", {"rmsd": [mean, sd], "spread": (0.5,)})
    text = (tmp_path / "evaluation.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "rmsd": [[1.0, None, 3.0], [0.0, None, 0.0]],
        "spread": [0.5],
    }
    plot = figures.rmsd({"star": tuple(json.loads(text)["rmsd"])})
    np.testing.assert_array_equal(plot.axes[0].lines[0].get_ydata(), [1.0, np.nan, 3.0])


def test_evaluate_compares_with_doing_nothing(chain):
    reference = torch.from_numpy(chain.positions).float()
    truth = {
        "state": np.array([0, 1, 1, 1]),
        "positions": chain.positions + np.array([0.0, 4.0])[:, None, None] * [1, 0, 0],
    }
    latents = torch.tensor([[0.0], [4.0], [4.0], [3.0]])
    score = evaluate(Line(reference), latents, chain, truth)
    assert score.n_particles == 4
    assert score.rmsd_mean == pytest.approx(0.25, abs=1e-6)
    assert score.rmsd_per_state == pytest.approx([0.0, 1 / 3], abs=1e-6)
    assert score.bond_error == pytest.approx(0.0, abs=1e-5)
    assert score.helix_content == score.helix_content_of_truth == pytest.approx(10 / 12)
    assert score.idle.rmsd_mean == pytest.approx(3.0, abs=1e-5)
    assert score.idle.rmsd_per_state == pytest.approx([0.0, 4.0], abs=1e-5)
    assert score.idle.rmsd_std_per_state == pytest.approx([0.0, 0.0], abs=1e-5)


def test_doing_nothing_is_the_distance_of_the_reference_to_each_state(chain, rng):
    """Also to a state that no particle is in, as a figure shows it."""
    positions = chain.positions + rng.standard_normal((3, 12, 3))
    truth = {"state": np.array([0, 2, 2, 2]), "positions": positions}
    latents = torch.from_numpy(rng.standard_normal((4, 1))).float()
    reference = torch.from_numpy(chain.positions).float()
    idle = evaluate(Line(reference), latents, chain, truth).idle
    apart = np.square(positions - chain.positions).sum(-1).mean(-1) ** 0.5
    assert idle.rmsd_per_state == pytest.approx(apart, rel=1e-5)
    assert idle.rmsd_mean == pytest.approx((apart[0] + 3 * apart[2]) / 4, rel=1e-5)
    assert idle.rmsd_most_open == pytest.approx((apart[0] + apart[2]) / 2, rel=1e-5)
    still = evaluate(Line(reference), 0 * latents, chain, truth)
    assert still.rmsd_mean == pytest.approx(idle.rmsd_mean)


def test_the_numbers_in_the_file_are_those_of_the_evaluation(chain):
    truth = {"state": np.array([0, 1]), "positions": np.stack([chain.positions] * 2)}
    reference = torch.from_numpy(chain.positions).float()
    score = evaluate(Line(reference), torch.tensor([[0.0], [2.0]]), chain, truth)
    numbers = score.as_dict()
    assert json.loads(json.dumps(numbers)) == numbers
    fields = {field.name for field in dataclasses.fields(score)} - {"idle"}
    names = ("mean", "per_state", "in_gauge", "superposed")
    assert set(numbers) == fields | {f"do_nothing_{name}" for name in names}
    assert numbers["rmsd_mean"] == score.rmsd_mean
    assert numbers["do_nothing_mean"] == score.idle.rmsd_mean
    assert numbers["do_nothing_per_state"] == score.idle.rmsd_per_state
    assert numbers["do_nothing_in_gauge"] == score.idle.rmsd_in_gauge


class Adrift(nn.Module):
    """The latent's first number moves the last nodes along x; the others turn and shift all."""

    def __init__(self, nodes, moving):
        super().__init__()
        self.reference = torch.from_numpy(nodes.positions).float()
        self.moves = torch.zeros(len(nodes), 3)
        self.moves[-moving:, 0] = 1

    def forward(self, latent):
        bent = self.reference + latent[:, :1, None] * self.moves
        return bent @ rotations_from_vectors(latent[:, 1:4]).mT + latent[:, None, 4:7]


def test_in_the_gauge_only_the_motion_counts_and_not_the_frame(make_nodes, helix, rng):
    """Six of thirty nodes move by up to 20 Å; the run finds 1.5 Å too much, and any frame."""
    nodes = make_nodes(helix(30))
    latents = torch.from_numpy(rng.normal(scale=0.2, size=(40, 7))).float()
    states = np.arange(40) % 11
    latents[:, 0] = torch.from_numpy(states * 2 + 1.5)
    decoder = Adrift(nodes, 6)
    path = torch.zeros(11, 7)
    path[:, 0] = torch.arange(11.0) * 2
    path[5, 1:] = 0.3  # the frames of the true states do not count either
    truth = {"state": states, "positions": decoder(path).numpy()}
    score = evaluate(decoder, latents, nodes, truth)
    expected = 1.5 * np.sqrt(6 / 30)
    assert score.rmsd_in_gauge == pytest.approx(expected, abs=0.03)
    assert score.rmsd_in_gauge_most_open == pytest.approx(expected, abs=0.03)
    assert score.rmsd_mean > 1.5 * expected
    assert 0.3 * expected < score.rmsd_superposed < expected  # the error is spread over all
    assert score.idle.rmsd_in_gauge == pytest.approx(
        np.sqrt(6 / 30) * np.mean(states * 2), abs=0.03
    )


def test_images_without_a_good_particle_are_left_out(chain, rng):
    """Whatever latents and states they have."""
    positions = chain.positions + np.arange(3.0)[:, None, None] * [1, 0, 0]
    good = {"state": np.arange(12) % 3, "positions": positions}
    latents = torch.from_numpy(rng.standard_normal((12, 1))).float()
    decoder = Line(torch.from_numpy(chain.positions).float())
    alone = evaluate(decoder, latents, chain, good)
    junk = np.insert(np.zeros(12, dtype=int), [0, 5, 5, 12], [1, 4, 2, 3])
    state = np.insert(good["state"], [0, 5, 5, 12], 2)
    rows = torch.from_numpy(np.cumsum(junk == 0) - 1).clamp(min=0)
    among = torch.where(torch.from_numpy(junk == 0)[:, None], latents[rows], 100.0)
    score = evaluate(decoder, among, chain, {"state": state, "positions": positions, "junk": junk})
    assert score == dataclasses.replace(alone, n_junk=4)
    with pytest.raises(ValueError, match="junk"):
        evaluate(decoder, among, chain, good | {"state": state, "junk": 0 * junk + 1})


def test_only_nodes_that_the_reference_has_are_compared(make_nodes, helix, rng):
    whole = make_nodes(helix(20))
    known = np.delete(np.arange(20), [7, 8, 9])
    positions = whole.positions + rng.normal(size=(3, 20, 3))
    latents = torch.from_numpy(rng.standard_normal((9, 1))).float()
    states = np.arange(9) % 3

    def score(nodes, **truth):
        reference = torch.from_numpy(nodes.positions).float()
        return evaluate(Line(reference), latents, nodes, {"state": states} | truth)

    expected = score(whole[known], positions=positions[:, known])
    assert score(whole[known], positions=positions, reference_nodes=known) == expected
    # A run with another reference than that of the simulation may have all of them.
    complete = score(whole, positions=positions, reference_nodes=known)
    assert complete == score(whole, positions=positions)


def test_pose_errors_are_rms_angles_and_distances_of_the_particles_kept(rng):
    true = random_rotations(4, rng)
    degrees = torch.tensor([3.0, 0.0, 4.0, 100.0], dtype=torch.float64)
    axes = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((4, 3))), dim=-1)
    told = torch.from_numpy(true) @ rotations_from_vectors(torch.deg2rad(degrees)[:, None] * axes)
    shifts = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 1.0], [50.0, 0.0]])
    truth = {"rotations": true, "shifts": np.zeros((4, 2))}
    found = pose_errors(told, shifts, truth, np.array([True, True, True, False]))
    expected = {"rotation_error_deg": np.sqrt(25 / 3), "shift_error": np.sqrt(26 / 3)}
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("states", "expected"), [(range(7), 4.0), ([0, 1, 4, 6, 6], 5.0), ([0, 1], np.nan)]
)
def test_the_error_at_the_most_open_states_is_the_mean_over_those_with_particles(
    states, expected, chain
):
    truth = {
        "state": np.array(states),
        "positions": chain.positions + np.arange(7.0)[:, None, None] * [1, 0, 0],
    }
    reference = torch.from_numpy(chain.positions).float()
    score = evaluate(Line(reference), torch.zeros(len(states), 1), chain, truth)
    assert score.rmsd_most_open == pytest.approx(expected, nan_ok=True, abs=1e-5)


def test_evaluate_refuses_the_truth_of_another_set(chain):
    truth = {"state": np.zeros(3, dtype=int), "positions": chain.positions[None]}
    for particles, nodes, value in ((4, chain, 3), (3, chain[:11], 12)):
        with refused(value=value):
            evaluate(Line(torch.zeros(len(nodes), 3)), torch.zeros(particles, 1), nodes, truth)


def test_stretching_a_helix_shows_in_every_local_number(chain):
    stretched = torch.from_numpy(chain.positions * 1.1)[None]
    result = local_geometry(stretched, chain)
    bond = np.linalg.norm(chain.positions[1] - chain.positions[0])
    assert result.bond_error == pytest.approx(0.1 * bond)
    spans = [np.linalg.norm(chain.positions[k:] - chain.positions[:-k], axis=-1) for k in (2, 3)]
    assert result.local_error == pytest.approx(0.1 * np.sqrt(np.mean(np.concatenate(spans) ** 2)))
    assert result.third_neighbour_error == pytest.approx(0.1 * np.sqrt(np.mean(spans[1] ** 2)))
    assert result.contacts_kept == 1.0
    assert local_geometry(1.3 * stretched, chain).contacts_kept == 0.0


def test_sequence_pairs_do_not_cross_a_break(make_nodes, helix):
    broken = make_nodes(helix(8) + np.array([[0, 0, 0]] * 4 + [[0, 0, 20]] * 4))
    assert sequence_pairs(broken, 2).tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]


@pytest.mark.parametrize("name", ["1ake.pdb", "4ake.pdb"])
def test_helices_are_where_dssp_finds_hydrogen_bonds(name):
    nodes, atoms = read_nodes(DATA / name), mdtraj.load(DATA / name)
    by_bonds = mdtraj.compute_dssp(atoms, simplified=False)[0] == "H"
    by_shape = in_helix(torch.from_numpy(nodes.positions), nodes).numpy()
    # They agree in 0.949 of the residues of either; in 0.58 and 0.55 if nothing were a helix.
    assert np.mean(by_shape == by_bonds) > 0.92
    assert abs(by_shape.mean() - by_bonds.mean()) < 0.03


def test_an_ideal_helix_is_a_helix_but_for_its_ends(make_nodes, helix):
    nodes = make_nodes(helix(20))
    helical = in_helix(torch.from_numpy(nodes.positions), nodes).tolist()
    assert helical == [False] + [True] * 18 + [False]
    assert helix_content(torch.from_numpy(nodes.positions), nodes) == 0.9


def test_a_strand_is_no_helix_nor_are_the_residues_of_one_in_another_order(make_nodes, helix, rng):
    count = np.arange(20)
    strand = np.stack([3.3 * count, 0.95 * (-1.0) ** count, 0 * count], axis=-1)
    assert helix_content(torch.from_numpy(strand), make_nodes(strand)) == 0
    nodes = make_nodes(helix(20))
    assert helix_content(torch.from_numpy(rng.permutation(nodes.positions)), nodes) == 0


def test_helices_do_not_change_with_the_frame_and_are_told_one_by_one(chain, rng):
    positions = torch.from_numpy(chain.positions)
    bent = positions.clone()
    bent[8:] += torch.tensor([3.0, 0.0, 0.0])
    both = torch.stack([positions, bent])
    expected = torch.stack([in_helix(positions, chain), in_helix(bent, chain)])
    assert expected[0].sum() == 10 and expected[1].sum() < 8
    turned = both @ torch.from_numpy(random_rotations(1, rng)[0]).T + 50
    assert torch.equal(in_helix(turned, chain), expected)
    assert helix_content(turned, chain) == pytest.approx(float(expected.double().mean()))


def test_a_helix_takes_five_residues_in_a_row_of_one_unbroken_chain_of_amino_acids(
    make_nodes, helix
):
    def count(nodes):
        return int(in_helix(torch.from_numpy(nodes.positions), nodes).sum())

    assert [count(make_nodes(helix(length))) for length in (3, 7, 8, 14)] == [0, 0, 6, 12]
    assert count(make_nodes(helix(14), chains=["A"] * 7 + ["B"] * 7)) == 0
    assert count(make_nodes(helix(14), chains=["A"] * 4 + ["B"] * 10)) == 8
    assert count(make_nodes(helix(14), atom_names="P")) == 0


class MovingChain(nn.Module):
    """The latent's first number moves the nodes of chain B along x, nine tenths as far as it
    says, and the second those of chain A.
    """

    def __init__(self, nodes, sign):
        super().__init__()
        self.reference, self.sign = torch.from_numpy(nodes.positions).float(), sign
        self.moves = torch.from_numpy(nodes.chains == "B")

    def forward(self, latent):
        first, second = latent[:, :1], latent[:, 1:]
        along = torch.where(self.moves, 0.9 * self.sign * first, second)  # (batch, atom)
        return self.reference + torch.nn.functional.pad(along[..., None], (0, 2))


@pytest.mark.parametrize("sign", [1, -1])  # of the first component, which is arbitrary
def test_the_motion_is_measured_between_the_percentiles_of_the_particles(
    make_nodes, helix, generator, sign
):
    nodes = make_nodes(np.concatenate([helix(8), helix(8) + 20]), chains=["A"] * 8 + ["B"] * 8)
    decoder = MovingChain(nodes, sign)
    states = torch.randperm(1001, generator=generator) % 101
    latents = torch.stack(
        [sign * states.float() / 10, 0.01 * torch.randn(1001, generator=generator)], dim=1
    )
    along_x = (nodes.chains == "B")[:, None] * [1, 0, 0]
    true = nodes.positions + np.linspace(0, 10, 101)[:, None, None] * along_x
    score = evaluate(decoder, latents, nodes, {"state": states.numpy(), "positions": true})
    motion = score.motion
    assert len(score.latent_modes) == 1
    assert motion["states"] == [5, 95]
    assert motion["moving"] == pytest.approx(
        {"nodes": 8, "true": 9.0, "found": 8.1, "error": 0.9}, abs=0.05
    )
    assert motion["still"] == pytest.approx(
        {"nodes": 8, "true": 0.0, "found": 0.0, "error": 0.0}, abs=0.01
    )
    assert motion["chains"] == {"A": motion["still"], "B": motion["moving"]}


def test_no_two_curves_of_a_figure_have_the_same_colour():
    names = ("star", "star (paper)", "cont", "another", "nma")
    axes = figures.rmsd({name: ([1.0, 2.0], None) for name in names}).axes[0]
    colours = {line.get_label(): line.get_color() for line in axes.lines}
    assert set(colours) == set(names) and len(set(colours.values())) == len(names)
