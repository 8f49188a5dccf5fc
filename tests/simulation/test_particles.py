"""The morphs, and the particles that are simulated from them."""

import datetime

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryostar_nb.density import atom_sigma
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.structures import write_structure, write_trajectory
from cryostar_nb.projector import make_images
from cryostar_nb.simulation.particles import SimulationConfig, draw_particles, load_path, simulate
from cryostar_nb.simulation.paths import linear_morph, matching_atoms, rigid_morph

STATES = 5


@pytest.fixture
def hinge(helix):
    """A helix, and the same helix with one half turned by a right angle about a hinge."""
    closed = helix(40) - helix(40).mean(axis=0)
    open_ = closed.copy()
    open_[20:] = (closed[20:] - closed[20]) @ Rotation.from_euler(
        "x", 90, degrees=True
    ).as_matrix().T + closed[20]
    return closed, open_


@pytest.fixture
def ends(hinge, make_nodes, tmp_path):
    """The two ends as files of alpha carbons alone, so that the atoms are the nodes."""
    paths = [tmp_path / "closed.pdb", tmp_path / "open.pdb"]
    for path, positions in zip(paths, hinge, strict=True):
        write_structure(path, make_nodes(positions))
    return {"closed": paths[0], "open_": paths[1]}


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
    path = morph(*hinge, STATES)
    assert path.shape == (STATES, 40, 3)
    np.testing.assert_array_equal(path[0], hinge[0])
    np.testing.assert_array_equal(path[-1], hinge[1])


def test_the_linear_morph_goes_in_equal_steps_on_straight_lines(hinge):
    path = linear_morph(*hinge, STATES)
    np.testing.assert_allclose(
        np.diff(path, axis=0), np.broadcast_to((hinge[1] - hinge[0]) / 4, (4, 40, 3)), atol=1e-12
    )


def test_the_rigid_morph_keeps_bonds_that_the_linear_one_shrinks(hinge):
    def bond_lengths(positions):
        return np.linalg.norm(np.diff(positions, axis=0), axis=-1)

    def change_midway(morph):
        return np.sqrt(
            np.mean(
                (bond_lengths(morph(*hinge, STATES)[STATES // 2]) - bond_lengths(hinge[0])) ** 2
            )
        )

    assert change_midway(rigid_morph) < 0.1
    assert change_midway(linear_morph) > 0.4


def test_distances_of_the_rigid_morph_go_evenly_from_one_end_to_the_other(helix):
    closed = helix(40)
    path = rigid_morph(closed, 1.2 * closed, STATES)
    bonds = np.linalg.norm(np.diff(path, axis=1), axis=-1).mean(axis=-1)
    np.testing.assert_allclose(bonds / bonds[0], np.linspace(1.0, 1.2, STATES), atol=0.01)


def test_the_rigid_morph_is_on_its_way(hinge):
    path = rigid_morph(*hinge, STATES)
    to_closed, to_open = (np.sqrt(np.square(path - end).sum(-1).mean(-1)) for end in hinge)
    assert (np.diff(to_closed) > 0).all()
    assert (np.diff(to_open) < 0).all()


def test_a_morph_of_one_state_is_the_closed_end(hinge):
    np.testing.assert_array_equal(linear_morph(*hinge, 1), hinge[0][None])
    np.testing.assert_array_equal(rigid_morph(*hinge, 1), hinge[0][None])


def test_the_transform_of_an_atom_falls_to_one_over_e_at_the_resolution():
    sigma, k = atom_sigma(4.0), 1 / 4.0
    assert np.exp(-2 * np.pi**2 * sigma**2 * k**2) == pytest.approx(np.exp(-1))


# Two models of one molecule


def test_the_atoms_of_both_ends_are_brought_into_one_order(make_nodes, rng):
    closed, open_ = make_nodes(rng.standard_normal((6, 3))), make_nodes(rng.standard_normal((6, 3)))
    order = rng.permutation(6)
    first, second = matching_atoms(closed, open_[order])
    assert first.residue_keys == second.residue_keys
    np.testing.assert_array_equal(first.positions, closed.positions)
    np.testing.assert_array_equal(second.positions, open_.positions)


def test_atoms_of_one_end_alone_are_left_out(make_nodes):
    names = ["N", "CA", "CB"]
    both = make_nodes(np.zeros((3, 3)), atom_names=names)
    both.residue_numbers[:] = 1
    first, second = matching_atoms(both, both[[1, 0]])
    assert first.atom_names.tolist() == second.atom_names.tolist() == ["N", "CA"]


def test_a_residue_of_one_end_alone_is_named(make_nodes):
    closed, open_ = make_nodes(np.zeros((6, 3))), make_nodes(np.zeros((6, 3)))
    with pytest.raises(
        InputError,
        match="residue chain A 6 is GLY in the closed and absent in the open structure; give two models",
    ):
        matching_atoms(closed, open_[:5])
    open_.residue_names[2] = "ALA"
    with pytest.raises(
        InputError,
        match="residue chain A 3 is GLY in the closed and ALA in the open structure; give two models",
    ):
        matching_atoms(closed, open_)


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
    np.testing.assert_allclose(positions, linear_morph(*hinge, STATES), atol=1e-3)  # as PDB rounds


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


def test_poses_and_defocus_are_drawn_as_table_1_says(tmp_path, rng):
    settings = SimulationConfig(n_particles=20_000)
    particles = draw_particles(settings, tmp_path / "x.mrcs", tmp_path / "x.star", rng)
    assert (settings.box_size, settings.pixel_size, settings.states) == (128, 1.0, 50)
    logarithm = (particles.ctf.defocus_u / 1e4).log()
    assert float(logarithm.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(logarithm.std()) == pytest.approx(0.3, abs=0.01)
    assert torch.equal(particles.ctf.defocus_u, particles.ctf.defocus_v)
    assert torch.equal(particles.shifts, torch.zeros(20_000, 2, dtype=torch.float64))
    np.testing.assert_allclose(particles.rotations.mean(0), 0, atol=0.02)
    constants = {
        "voltage_kv": 300.0,
        "spherical_aberration_mm": 2.7,
        "amplitude_contrast": 0.1,
        "phase_shift_deg": 0.0,
        "b_factor": 0.0,
    }
    for name, value in constants.items():
        assert (getattr(particles.ctf, name) == value).all(), name


# Paths from a trajectory


def test_states_are_spread_over_the_frames_of_a_trajectory(ends, hinge, make_nodes, tmp_path):
    frames = linear_morph(*hinge, 9)
    write_trajectory(tmp_path / "path.dcd", make_nodes(hinge[0]), frames)
    _, path = load_path(config(), ends["closed"], None, tmp_path / "path.dcd")
    np.testing.assert_allclose(path, frames[::2], atol=1e-3)
    with pytest.raises(
        InputError,
        match=r"path\.dcd: holds 9 frames, fewer than the 10 states asked for; give --states 9 or less",
    ):
        load_path(config(states=10), ends["closed"], None, tmp_path / "path.dcd")


# Errors


@pytest.mark.parametrize(
    "name", ["n_particles", "box_size", "pixel_size", "snr", "states", "resolution", "voltage_kv"]
)
def test_a_number_that_is_not_positive_is_refused(name, ends, tmp_path):
    with pytest.raises(InputError, match=f"{name} = 0; give a positive number"):
        simulate(config(**{name: 0}), **ends, out=tmp_path / "out")


def test_a_model_beyond_the_box_is_refused(ends, tmp_path):
    with pytest.raises(
        InputError,
        match=r"closed\.pdb: an atom lies .* Å from the origin, outside the box's half edge of 8 Å; centre",
    ):
        simulate(config(pixel_size=0.5), **ends, out=tmp_path / "out")


def test_a_morph_needs_both_ends(ends):
    with pytest.raises(InputError, match="a morph needs both ends: give --open, or --trajectory"):
        load_path(config(), ends["closed"], None)


def test_a_simulation_that_fails_leaves_nothing_half_written(ends, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr("cryostar_nb.simulation.particles.np.savez", fail)
    with pytest.raises(RuntimeError, match="the disk is full"):
        simulate(config(), **ends, out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"particles.mrcs"}


@pytest.mark.parametrize(
    "setting",
    [{"amplitude_contrast": 2.0}, {"defocus_log_sd": -1.0}, {"seed": -1}],
    ids=lambda s: next(iter(s)),
)
def test_a_setting_that_cannot_be_simulated_is_refused(setting):
    (name, value) = next(iter(setting.items()))
    with pytest.raises(InputError, match=f"{name} = {value}; give"):
        SimulationConfig(**setting).check()
