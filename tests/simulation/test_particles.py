"""The morphs, and the particles that are simulated from them."""

import datetime
from collections import namedtuple

import mrcfile
import numpy as np
import pytest
import torch
from refusals import refused
from scipy.spatial.transform import Rotation

from cryostar_nb.density import atom_sigma
from cryostar_nb.fourier import Band
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.structures import write_structure
from cryostar_nb.io.trajectories import write_trajectory
from cryostar_nb.projector import make_images
from cryostar_nb.simulation.options import SimulationConfig
from cryostar_nb.simulation.particles import draw_poses, load_path, simulate
from cryostar_nb.simulation.paths import linear_morph, matching_atoms, rigid_morph

STATES = 5


@pytest.fixture
def hinge(helix):
    """A helix, and the same helix with one half turned by a right angle about a hinge."""
    start = helix(40) - helix(40).mean(axis=0)
    end, turn = start.copy(), Rotation.from_euler("x", 90, degrees=True)
    end[20:] = turn.apply(start[20:] - start[20]) + start[20]
    return {"start": start, "end": end}


@pytest.fixture
def ends(hinge, make_nodes, tmp_path):
    """The two ends as files of alpha carbons alone, so that the atoms are the nodes."""
    paths = {name: tmp_path / f"{name}.pdb" for name in hinge}
    for name, path in paths.items():
        write_structure(path, make_nodes(hinge[name]))
    return paths


def config(**changes):
    values = {
        "n_particles": 60,
        "box_size": 32,
        "pixel_size": 3.0,
        "states": STATES,
        "resolution": 6.0,
        "snr": 0.1,
    }
    return SimulationConfig(**values | changes)


# Morphs


@pytest.mark.parametrize("morph", [linear_morph, rigid_morph])
def test_a_morph_begins_and_ends_exactly_at_its_ends(morph, hinge):
    path = morph(**hinge, states=STATES)
    assert path.shape == (STATES, 40, 3)
    np.testing.assert_array_equal(path[0], hinge["start"])
    np.testing.assert_array_equal(path[-1], hinge["end"])


def test_the_linear_morph_goes_in_equal_steps_on_straight_lines(hinge):
    path = linear_morph(**hinge, states=STATES)
    np.testing.assert_allclose(
        np.diff(path, axis=0),
        np.broadcast_to((hinge["end"] - hinge["start"]) / 4, (4, 40, 3)),
        atol=1e-12,
    )


def test_the_rigid_morph_keeps_bonds_that_the_linear_one_shrinks(hinge):
    def bond_lengths(positions):
        return np.linalg.norm(np.diff(positions, axis=0), axis=-1)

    def change_midway(morph):
        return np.sqrt(
            np.mean(
                (
                    bond_lengths(morph(**hinge, states=STATES)[STATES // 2])
                    - bond_lengths(hinge["start"])
                )
                ** 2
            )
        )

    assert change_midway(rigid_morph) < 0.1
    assert change_midway(linear_morph) > 0.4


def test_distances_of_the_rigid_morph_go_evenly_from_one_end_to_the_other(helix):
    path = rigid_morph(start=helix(40), end=1.2 * helix(40), states=STATES)
    bonds = np.linalg.norm(np.diff(path, axis=1), axis=-1).mean(axis=-1)
    np.testing.assert_allclose(bonds / bonds[0], np.linspace(1.0, 1.2, STATES), atol=0.01)


def test_the_rigid_morph_is_on_its_way(hinge):
    path = rigid_morph(**hinge, states=STATES)
    to_start, to_end = (
        np.sqrt(np.square(path - hinge[name]).sum(-1).mean(-1)) for name in ("start", "end")
    )
    assert (np.diff(to_start) > 0).all()
    assert (np.diff(to_end) < 0).all()


def test_a_morph_of_one_state_is_the_start(hinge):
    np.testing.assert_array_equal(linear_morph(**hinge, states=1), hinge["start"][None])
    np.testing.assert_array_equal(rigid_morph(**hinge, states=1), hinge["start"][None])


def test_the_transform_of_an_atom_falls_to_one_over_e_at_the_resolution():
    sigma, k = atom_sigma(4.0), 1 / 4.0
    assert np.exp(-2 * np.pi**2 * sigma**2 * k**2) == pytest.approx(np.exp(-1))


# Two models of one molecule


def test_the_atoms_of_both_ends_are_brought_into_one_order(make_nodes, rng):
    start, end = (make_nodes(rng.standard_normal((6, 3))) for _ in range(2))
    first, second = matching_atoms(start, end[rng.permutation(6)])
    assert first.residue_keys == second.residue_keys
    np.testing.assert_array_equal(first.positions, start.positions)
    np.testing.assert_array_equal(second.positions, end.positions)


def test_atoms_of_one_end_alone_are_left_out(make_nodes):
    names = ["N", "CA", "CB"]
    both = make_nodes(np.zeros((3, 3)), atom_names=names)
    both.residue_numbers[:] = 1
    first, second = matching_atoms(both, both[[1, 0]])
    assert first.atom_names.tolist() == second.atom_names.tolist() == ["N", "CA"]


def test_a_residue_of_one_end_alone_is_named(make_nodes):
    start, end = make_nodes(np.zeros((6, 3))), make_nodes(np.zeros((6, 3)))
    with refused() as caught:
        matching_atoms(start, end[:5])
    assert "chain A 6 is GLY at the start and absent at the end" in caught.value.problem
    end.residue_names[2] = "ALA"
    with refused() as caught:
        matching_atoms(start, end)
    assert "chain A 3 is GLY at the start and ALA at the end" in caught.value.problem


# Particles


def clean_images(particles, truth, settings):
    """Project the truth again under the poses and CTFs of the STAR file."""
    band = Band(settings.box_size, settings.pixel_size, 2 * settings.pixel_size)
    positions = torch.from_numpy(truth["positions"][truth["state"]])
    carbon, sigma = (
        torch.full((positions.shape[1],), 6.0).double(),
        torch.tensor(atom_sigma(settings.resolution)).double(),
    )
    return band.decode(
        make_images(
            positions, carbon, sigma, band, rotations=particles.rotations, ctf=particles.ctf
        )
    )


@pytest.mark.parametrize("box_size", [32, 33])
def test_the_truth_projected_under_the_poses_of_the_star_file_is_what_the_images_show(
    box_size, ends, tmp_path
):
    settings = config(box_size=box_size, snr=1e8)
    simulate(settings, **ends, out=tmp_path)
    particles, truth = read_particles(tmp_path / "particles.star"), np.load(tmp_path / "truth.npz")
    assert (particles.box_size, particles.pixel_size, len(particles)) == (box_size, 3.0, 60)
    images, clean = particles.images(slice(None)).double(), clean_images(particles, truth, settings)
    assert (
        torch.nn.functional.cosine_similarity(images.flatten(1), clean.flatten(1), dim=-1).min()
        > 0.99999
    )
    assert (images - clean).abs().max() < 1e-3 * clean.abs().max()  # the scale too
    other_state = clean_images(
        particles,
        {"positions": truth["positions"], "state": (truth["state"] + 2) % STATES},
        settings,
    )
    assert (
        torch.nn.functional.cosine_similarity(
            images.flatten(1), other_state.flatten(1), dim=-1
        ).mean()
        < 0.99
    )


def test_the_signal_to_noise_ratio_is_the_one_asked_for(ends, tmp_path):
    settings = config(n_particles=300, snr=0.05)
    simulate(settings, **ends, out=tmp_path)
    particles, truth = read_particles(tmp_path / "particles.star"), np.load(tmp_path / "truth.npz")
    clean = clean_images(particles, truth, settings)
    noise = particles.images(slice(None)) - clean
    measured = float(clean.var(dim=(1, 2), correction=0).mean() / noise.var())
    assert measured == pytest.approx(0.05, rel=0.03)
    assert float(truth["snr"]) == 0.05
    assert float(truth["snr_measured"]) == pytest.approx(measured, rel=0.02)
    assert float(truth["noise_sd"]) == pytest.approx(float(noise.std()), rel=0.01)
    assert "whole box" in str(truth["snr_definition"])


def test_the_noise_is_white(ends, tmp_path):
    settings = config(n_particles=100, snr=0.05)
    simulate(settings, **ends, out=tmp_path)
    particles, truth = read_particles(tmp_path / "particles.star"), np.load(tmp_path / "truth.npz")
    noise = particles.images(slice(None)) - clean_images(particles, truth, settings)
    power = torch.fft.fft2(noise).abs().square().mean(0) / (32**2 * float(noise.var()))
    assert torch.allclose(power, torch.ones(32, 32).double(), atol=0.7)
    assert float(power[:8, :8].mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("count", [60, 63])
def test_the_states_share_the_particles_evenly_and_in_no_order(count, ends, tmp_path):
    simulate(config(n_particles=count), **ends, out=tmp_path)
    state = np.load(tmp_path / "truth.npz")["state"]
    shares = np.bincount(state, minlength=STATES)
    assert len(state) == count == shares.sum()
    assert shares.max() - shares.min() <= 1
    assert (np.diff(state) < 0).any()


def test_the_truth_holds_the_path(ends, hinge, tmp_path):
    simulate(config(), **ends, out=tmp_path)
    positions = np.load(tmp_path / "truth.npz")["positions"]
    np.testing.assert_allclose(
        positions, linear_morph(**hinge, states=STATES), atol=1e-3
    )  # as PDB rounds


def written(folder):
    with mrcfile.open(folder / "particles.mrcs") as handle:
        pixels = handle.data.copy()
    star = (
        (folder / "particles.star").read_text().partition("data_optics")[2]
    )  # without the time in the first line
    return star, pixels.tobytes(), (folder / "truth.npz").read_bytes()


def test_the_same_seed_gives_the_same_particles_and_another_one_gives_others(ends, tmp_path):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        simulate(config(seed=seed), **ends, out=tmp_path / name)
    assert written(tmp_path / "first") == written(tmp_path / "again")
    assert all(
        a != b
        for a, b in zip(written(tmp_path / "first"), written(tmp_path / "other"), strict=True)
    )


@pytest.mark.parametrize("name", ["particles.mrcs", "particles.star"])
def test_the_same_seed_gives_the_same_files_byte_by_byte(name, ends, tmp_path, monkeypatch):
    for year in (2001, 2002):

        class Clock(datetime.datetime):
            @classmethod
            def now(cls, year=year):
                return cls(year, 1, 1)

        monkeypatch.setattr("mrcfile.mrcobject.datetime", Clock)
        monkeypatch.setattr("starfile.writer.datetime", Clock)
        simulate(config(), **ends, out=tmp_path / str(year))
    assert (tmp_path / "2001" / name).read_bytes() == (tmp_path / "2002" / name).read_bytes()


def test_poses_and_defocus_are_drawn_as_table_1_says(rng):
    settings = SimulationConfig(n_particles=20_000)
    poses = draw_poses(settings, rng)
    assert (settings.box_size, settings.pixel_size, settings.states) == (128, 1.0, 50)
    logarithm = (poses.ctf.defocus_u / 1e4).log()
    assert float(logarithm.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(logarithm.std()) == pytest.approx(0.3, abs=0.01)
    assert torch.equal(poses.ctf.defocus_u, poses.ctf.defocus_v)
    assert torch.equal(poses.shifts, torch.zeros(20_000, 2, dtype=torch.float64))
    np.testing.assert_allclose(poses.rotations.mean(0), 0, atol=0.02)
    constants = {
        "voltage_kv": 300.0,
        "spherical_aberration_mm": 2.7,
        "amplitude_contrast": 0.1,
        "phase_shift_deg": 0.0,
        "b_factor": 0.0,
    }
    for name, value in constants.items():
        assert (getattr(poses.ctf, name) == value).all(), name


# Paths from a trajectory


def test_states_are_spread_over_the_frames_of_a_trajectory(ends, hinge, make_nodes, tmp_path):
    frames = linear_morph(**hinge, states=9)
    write_trajectory(tmp_path / "path.dcd", make_nodes(hinge["start"]), frames)
    _, path = load_path(config(), ends["start"], None, tmp_path / "path.dcd")
    np.testing.assert_allclose(path, frames[::2], atol=1e-3)
    with refused("path.dcd", value=9):
        load_path(config(states=10), ends["start"], None, tmp_path / "path.dcd")


# Errors


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("n_particles", "box_size", "pixel_size", "snr", "states")),
        *((name, 0) for name in ("resolution", "voltage_kv")),
        *(("amplitude_contrast", 2.0), ("defocus_log_sd", -1.0), ("seed", -1)),
    ],
)
def test_a_setting_that_cannot_be_simulated_is_refused(name, value):
    with refused(value=value) as caught:
        config(**{name: value})
    assert caught.value.problem.startswith(f"{name} = ")


def test_a_model_beyond_the_box_is_refused(ends, tmp_path):
    with refused("start.pdb"):
        simulate(config(pixel_size=0.5), **ends, out=tmp_path / "out")


def test_a_morph_needs_both_ends(ends):
    with refused() as caught:
        load_path(config(), ends["start"])
    assert "--end" in caught.value.remedy


def test_a_disk_without_room_is_said_before_anything_is_written(ends, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 60 * 4096 - 1)
    monkeypatch.setattr("cryostar_nb.io.files.shutil.disk_usage", lambda _: usage)
    with refused("particles.mrcs"):
        simulate(config(), **ends, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_simulation_that_fails_leaves_nothing_half_written(ends, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr("cryostar_nb.simulation.particles.np.savez", fail)
    with pytest.raises(RuntimeError, match="the disk is full"):
        simulate(config(), **ends, out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"particles.mrcs"}
