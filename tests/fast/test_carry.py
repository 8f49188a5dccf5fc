"""The compiled frames: as PyTorch's own operations make them, with the gradient of calculus."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck

from cryostar_nb.fast import grid_cpu
from cryostar_nb.fast.carry import carry, frames, rotations_of_turns


@pytest.fixture
def carried(generator):
    """Nine nodes in three stretches, one of them without a frame, one without a Gaussian."""
    middle = torch.tensor([1, 1, 2, 2, 4, 5, 6, 6, 8])
    frame_nodes = torch.stack([middle - 1, middle, middle + 1], dim=-1).clamp(max=8)
    framed = torch.tensor([True] * 8 + [False])
    node_of = torch.tensor([0, 0, 0, 1, 2, 2, 4, 5, 6, 7, 7, 7, 7, 8, 8])
    offsets = torch.randn(len(node_of), 3, generator=generator, dtype=torch.float64)
    positions = 5 * torch.randn(4, 9, 3, generator=generator, dtype=torch.float64)
    return positions, (frame_nodes, framed, offsets, node_of)


@pytest.fixture(params=[False, True], ids=["fixed", "turned"])
def turns(request, carried, generator):
    """Turns of all sizes, or none."""
    if not request.param:
        return None
    return 2 * torch.randn(4, 9, 3, generator=generator, dtype=torch.float64)


def test_the_loops_do_what_the_frames_say(carried, turns):
    positions, fixed = carried
    slow = carry(positions, *fixed, turns, loops=False)
    torch.testing.assert_close(carry(positions, *fixed, turns), slow)
    single = carry(positions.float(), *fixed, None if turns is None else turns.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), slow, atol=1e-5, rtol=0)


def test_the_gradient_is_that_of_calculus(carried, turns):
    positions, fixed = carried
    inputs = [x.requires_grad_() for x in (positions, turns) if x is not None]
    assert gradcheck(lambda x, *t: carry(x, *fixed, *t), inputs)


def test_a_turn_is_about_its_vector_by_twice_the_arc_tangent_of_half_its_length():
    turn = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    length = turn.norm()
    expected = Rotation.from_rotvec((turn / length * 2 * (length / 2).atan()).numpy())
    matrix = torch.from_numpy(expected.as_matrix())
    torch.testing.assert_close(rotations_of_turns(turn), matrix)


def test_turned_gaussians_stay_as_far_from_their_node_and_from_each_other(carried, generator):
    positions, fixed = carried
    turns = torch.randn(4, 9, 3, generator=generator, dtype=torch.float64)
    before, after = carry(positions, *fixed), carry(positions, *fixed, turns)
    assert (after - before).norm(dim=-1).min() > 1e-3
    own = positions[:, fixed[-1]]
    torch.testing.assert_close((after - own).norm(dim=-1), (before - own).norm(dim=-1))
    between = [torch.cdist(centres[:, :3], centres[:, :3]) for centres in (before, after)]
    torch.testing.assert_close(*between)


def test_a_gaussian_lies_at_its_offset_in_the_frame_of_its_node(carried):
    positions, (frame_nodes, framed, offsets, node_of) = carried
    centres, axes = carry(positions, *carried[1]), frames(positions, frame_nodes, framed)
    apart = torch.einsum("bgi,bgij->bgj", centres - positions[:, node_of], axes[:, node_of])
    torch.testing.assert_close(apart, offsets.expand_as(apart))


def test_the_result_does_not_depend_on_the_number_of_threads(carried, monkeypatch):
    positions, fixed = carried
    monkeypatch.setattr(grid_cpu, "LEAST_SHARE", 1)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(grid_cpu.torch, "get_num_threads", lambda count=threads: count)
        leaf = positions.clone().requires_grad_()
        centres = carry(leaf, *fixed)
        results.append((centres, *torch.autograd.grad(centres.square().sum(), leaf)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("nanoseconds", "threads"), [(1.0, 1), (7e4, 3), (1e9, 4), (math.inf, 4)])
def test_a_thread_more_has_enough_to_do(nanoseconds, threads, monkeypatch):
    monkeypatch.setattr(grid_cpu.torch, "get_num_threads", lambda: 4)
    ranges = []
    grid_cpu.in_parallel(lambda *of: ranges.append(of), 16, "x", nanoseconds=nanoseconds)
    assert len(ranges) == threads and all(name == "x" for name, _, _ in ranges)
    assert sorted(n for _, a, b in ranges for n in range(a, b)) == list(range(16))


def test_nodes_on_top_of_each_other_give_numbers(carried):
    positions, fixed = carried
    leaf = torch.zeros_like(positions).requires_grad_()
    centres = carry(leaf, *fixed)
    centres.sum().backward()
    assert centres.isfinite().all() and leaf.grad.isfinite().all()
