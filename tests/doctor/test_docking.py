"""Docking: search and refinement, into a map and against images, and the files."""

import dataclasses
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryostar_nb.density import model_density
from cryostar_nb.doctor.docking import (
    IDENTITY,
    MIRROR,
    Placement,
    correlation,
    dock,
    even_rotations,
    image_target,
    map_target,
    refine,
    rotation_angle,
)
from cryostar_nb.doctor.placing import (
    as_report,
    chance_correlation,
    choose_frame,
    dock_files,
    dock_into_map,
    move_structure,
)
from cryostar_nb.doctor.spectrum import model_spectrum
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.maps import DensityMap
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.star import write_star
from cryostar_nb.io.structures import read_structure, write_structure
from cryostar_nb.projector import make_images

DATA = Path(__file__).parents[2] / "data"

pytestmark = pytest.mark.slow


FEW = 800  # rotations: a coarse search, for bodies with few features


@pytest.fixture
def body(rng):
    """Forty points of several weights in a lopsided body of about 30 x 24 x 18 Å, off centre."""
    points = rng.uniform(-1, 1, (40, 3)) * [15, 12, 9] + np.array([3.0, -2.0, 1.0])
    points[:12] += [6, 4, 0]
    return torch.from_numpy(points).float(), torch.from_numpy(rng.uniform(10, 60, 40)).float()


@pytest.fixture
def density(body):
    return DensityMap(model_density(*body, 2.0, box_size=24, pixel_size=3.0), 3.0, np.zeros(3))


def displaced(points, degrees, move, rng):
    """The points turned about their middle and moved; with what leads back."""
    axis = rng.standard_normal(3)
    matrix = torch.from_numpy(
        Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    ).float()
    middle = points.mean(0)
    return (points - middle) @ matrix.T + middle + torch.tensor(move), matrix


def test_rotations_are_spread_evenly():
    rotations = even_rotations(2000)
    torch.testing.assert_close(
        rotations @ rotations.mT, torch.eye(3).expand(2000, 3, 3), atol=1e-5, rtol=0
    )
    test = torch.from_numpy(random_rotations(300, np.random.default_rng(0))).float()
    # The trace of the rotation between them.
    nearest = torch.einsum("aij,bij->ab", test, rotations).amax(1)
    angle = torch.rad2deg(torch.acos(((nearest - 1) / 2).clamp(-1, 1)))
    assert (
        float(angle.max()) < 25 and float(angle.mean()) < 14
    )  # random ones of this number: 31 and 15


@pytest.mark.parametrize("degrees", [40, 160])
def test_a_displaced_body_goes_back_into_its_own_map(body, density, rng, degrees):
    points, weights = body
    moved, matrix = displaced(points, degrees, [12.0, -20.0, 18.0], rng)
    target, model = map_target(density, 8.0), model_spectrum(moved, weights, 2.0, 8.0)
    score, placement = dock(target, model, rotations=FEW)
    assert score > 0.98
    assert float((placement(moved) - points).norm(dim=-1).max()) < 0.5
    assert rotation_angle(placement.matrix @ matrix) < 1


def test_the_mirror_image_docks_as_a_mirror_image_and_nothing_else_fits(body, density, rng):
    points, weights = body
    moved, _ = displaced(points @ MIRROR, 70, [-9.0, 4.0, 10.0], rng)
    target, model = map_target(density, 8.0), model_spectrum(moved, weights, 2.0, 8.0)
    right, mirrored = dock(target, model, mirrored=True, rotations=FEW)
    wrong, straight = dock(target, model, rotations=FEW)
    assert mirrored.mirrored and not straight.mirrored
    assert right > 0.98 > 0.9 > wrong
    assert float((mirrored(moved) - points).norm(dim=-1).max()) < 0.5


def test_dark_density_is_found_when_either_sign_may_be(body, density):
    points, weights = body
    dark = dataclasses.replace(density, values=-density.values)
    target, model = map_target(dark, 8.0), model_spectrum(points + 5, weights, 2.0, 8.0)
    score, placement = dock(target, model, either_sign=True, rotations=FEW)
    assert score < -0.98
    assert float((placement(points + 5) - points).norm(dim=-1).max()) < 0.5


def test_the_correlation_of_a_map_with_itself_is_one(body, density):
    model = model_spectrum(*body, 2.0, 8.0)
    assert float(
        correlation(map_target(density, 8.0), model, torch.eye(3), model.centre)
    ) == pytest.approx(1, abs=0.01)


def test_refining_climbs_to_the_top_and_stays_there(body, density, rng):
    points, weights = body
    target, model = map_target(density, 8.0), model_spectrum(points, weights, 2.0, 8.0)
    tilted = torch.from_numpy(Rotation.from_rotvec([0.1, -0.05, 0.08]).as_matrix()).float()
    before = float(correlation(target, model, tilted, model.centre + 1.0))
    after, matrix, place = refine(target, model, tilted, model.centre + 1.0)
    assert before < 0.9 and after > 0.98
    assert rotation_angle(matrix) < 0.5 and float((place - model.centre).norm()) < 0.2


def test_scattering_onto_the_lattice_is_the_adjoint_of_interpolating_it(rng):
    edge, points = 30.0, torch.from_numpy(rng.uniform(-0.12, 0.12, (500, 3))).float()
    data = torch.complex(*torch.from_numpy(rng.standard_normal((2, 500))).float())
    target = image_target(points, data, torch.ones(500), norm=1.0, edge=edge)
    # A field that is linear between lattice points, and the transform of a real image: F(0) = 0
    # and F(-k) = conj F(k).
    place = points * edge
    field = torch.complex(0 * place[:, 0], place @ torch.tensor([1.0, -2.0, 0.5]))  # i a.k is odd
    at_lattice = torch.complex(
        0 * target.indices[:, 0].float(), target.indices.float() @ torch.tensor([1.0, -2.0, 0.5])
    )
    torch.testing.assert_close(
        (target.data.conj() * at_lattice).real.sum(),
        (data.conj() * field).real.sum(),
        rtol=1e-4,
        atol=1e-3,
    )


def test_a_placement_moves_points_and_knows_its_hand(rng):
    matrix = torch.from_numpy(random_rotations(1, rng)[0]).float()
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    place = Placement(matrix, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(place(points)[2], matrix @ points[2] + torch.tensor([1.0, 2.0, 3.0]))
    assert not place.mirrored and Placement(matrix @ MIRROR, place.move).mirrored
    torch.testing.assert_close(IDENTITY(points), points)


# Files


@pytest.mark.parametrize(
    ("frame", "corner"),
    [("auto", (0, 0, 0)), ("map", (0, 0, 0)), ("auto", (50, -20, 7)), ("poses", (50, -20, 7))],
)
def test_a_model_is_docked_in_the_frame_of_the_file_or_of_the_poses(
    helix, make_nodes, rng, frame, corner
):
    bent = helix(24) - helix(24).mean(0)
    bent[16:] += np.outer(np.arange(8), [3.0, 1.0, -0.5])  # no symmetry
    truth = torch.from_numpy(bent).float()
    weights = torch.full((24,), 30.0)
    density = DensityMap(
        model_density(truth, weights, 2.0, box_size=24, pixel_size=3.0),
        3.0,
        np.array(corner, dtype=float),
    )
    in_file = frame == "map" or (frame == "auto" and any(corner))
    place = truth + torch.from_numpy(density.centre).float() if in_file else truth
    moved, _ = displaced(place, 40, [6.0, -8.0, 5.0], rng)
    docked = dock_into_map(make_nodes(moved.numpy()), density, frame=frame, rotations=FEW)
    assert docked.frame == ("map" if in_file else "poses")
    assert float((docked.placement(moved) - place).norm(dim=-1).max()) < 0.6
    assert docked.before < 0.5 < 0.97 < docked.after and float(docked.fsc_after[0]) > 0.99


def map_of(atoms, size=64, pixel=2.0):
    positions, electrons = (
        torch.from_numpy(values).float() for values in (atoms.positions, atoms.electrons)
    )
    return DensityMap(
        model_density(positions, electrons, 1.5, box_size=size, pixel_size=pixel),
        pixel,
        np.zeros(3),
    )


def test_another_state_of_the_molecule_fits_and_another_molecule_does_not_whichever_hand():
    closed, opened, ring = (
        read_structure(DATA / name) for name in ("1ake.pdb", "4ake.pdb", "7pbl.pdb.gz")
    )
    docked = dock_into_map(closed, map_of(opened), frame="poses", rotations=FEW)
    assert (
        docked.means_something
        and not docked.other_hand
        and "NOT TO BE TRUSTED" not in as_report(docked)
    )
    mirrored = dock_into_map(
        closed.with_positions(closed.positions * [1, 1, -1]),
        map_of(opened),
        frame="poses",
        rotations=FEW,
    )
    assert mirrored.other_hand and "FITS CLEARLY BETTER" in as_report(mirrored)
    chain = ring[ring.chains == "C"]
    foreign = dock_into_map(
        chain.with_positions(chain.positions - chain.positions.mean(axis=0)),
        map_of(opened),
        frame="poses",
        rotations=FEW,
    )
    assert (
        not foreign.means_something
        and not foreign.other_hand
        and "NOT TO BE TRUSTED" in as_report(foreign)
    )
    assert max(foreign.after, foreign.mirrored) == pytest.approx(foreign.chance, rel=0.35)


def test_chance_falls_with_the_size_of_the_molecule_and_with_detail():
    assert chance_correlation(10_935, 8.0) == pytest.approx(0.19, abs=0.01)
    assert chance_correlation(4 * 10_935, 8.0) == pytest.approx(chance_correlation(10_935, 8.0) / 2)
    assert chance_correlation(10_935, 4.0) < chance_correlation(10_935, 8.0) / 2
    assert chance_correlation(10, 20.0) == 1.0


def test_a_header_that_says_nothing_leaves_the_frame_to_the_model():
    density = DensityMap(torch.zeros(10, 10, 10), 4.0, np.zeros(3))
    assert choose_frame(torch.zeros(5, 3) + 3, density) == "poses"
    assert choose_frame(torch.zeros(5, 3) + 17, density) == "map"
    assert (
        choose_frame(torch.zeros(5, 3), dataclasses.replace(density, corner=np.array([1.0, 0, 0])))
        == "map"
    )


def test_a_file_is_moved_with_its_ligands_and_waters(helix_nodes, tmp_path, rng):
    source, out = tmp_path / "model.pdb", tmp_path / "moved.cif"
    write_structure(source, helix_nodes)
    lines = source.read_text().splitlines()
    water = "HETATM 9999  O   HOH W   1       1.000   2.000   3.000  1.00  0.00           O"
    crystal = "CRYST1   50.000   60.000   70.000  90.00  90.00  90.00 P 21 21 21"
    source.write_text("\n".join([crystal, *lines[:-1], water, lines[-1]]) + "\n")
    place = Placement(
        torch.from_numpy(random_rotations(1, rng)[0]).float(), torch.tensor([10.0, 0.0, -5.0])
    )
    move_structure(source, out, place)
    before, after = (read_structure(path).positions for path in (source, out))
    np.testing.assert_allclose(after, place(torch.from_numpy(before)).numpy(), atol=2e-3)
    document = gemmi.read_structure(str(out))
    waters = [
        atom.pos.tolist()
        for chain in document[0]
        for residue in chain
        if residue.name == "HOH"
        for atom in residue
    ]
    np.testing.assert_allclose(waters, [place(torch.tensor([1.0, 2.0, 3.0])).tolist()], atol=2e-3)
    assert not document.cell.is_crystal()


def test_a_docked_model_needs_a_suffix_that_says_how(helix_nodes, tmp_path):
    write_structure(tmp_path / "model.pdb", helix_nodes)
    with pytest.raises(InputError) as caught:
        move_structure(tmp_path / "model.pdb", tmp_path / "moved.xyz", IDENTITY)
    assert ".cif" in str(caught.value)


def test_a_model_that_a_pdb_file_cannot_hold_is_refused_before_the_search(helix_nodes, tmp_path):
    names = np.repeat([f"X{number}" for number in range(63)], len(helix_nodes))
    many = dataclasses.replace(helix_nodes[np.tile(np.arange(len(helix_nodes)), 63)], chains=names)
    write_structure(tmp_path / "model.cif", many)
    with pytest.raises(InputError) as caught:
        dock_files(tmp_path / "model.cif", tmp_path / "no.mrc", tmp_path / "docked.pdb")
    assert "docked.pdb" in str(caught.value) and "63 chains" in str(caught.value)


def test_a_moved_model_with_long_chain_names_fits_a_pdb_file(helix_nodes, tmp_path):
    write_structure(
        tmp_path / "model.cif",
        dataclasses.replace(helix_nodes, chains=np.full(len(helix_nodes), "AAA")),
    )
    move_structure(tmp_path / "model.cif", tmp_path / "moved.pdb", IDENTITY)
    assert set(read_structure(tmp_path / "moved.pdb").chains) == {"A"}


def test_a_model_is_docked_against_particles(
    helix, make_nodes, microscope, rng, tmp_path, write_stack
):
    bent = helix(24) - helix(24).mean(0)
    bent[16:] += np.outer(np.arange(8), [3.0, 1.0, -0.5])
    truth, band, count = torch.from_numpy(bent).float(), Band(24, 3.0, 6.0), 100
    rotations, shifts = (
        torch.from_numpy(random_rotations(count, rng)),
        torch.from_numpy(rng.normal(0, 4, (count, 2))),
    )
    ctf = microscope(
        defocus_u=torch.linspace(10_000, 20_000, count),
        defocus_v=torch.linspace(10_000, 20_000, count),
    )
    view = {"rotations": rotations.float(), "shifts": shifts.float(), "ctf": ctf}
    images = band.decode(
        make_images(truth, torch.full((24,), 30.0), torch.tensor(2.0), band, **view)
    ).numpy()
    stack = write_stack(
        tmp_path / "p.mrcs",
        images / images.std() + rng.standard_normal(images.shape),
        pixel_size=3.0,
    )
    single, order = np.zeros(count, dtype=np.int64), np.arange(count)
    particles = Particles(
        tmp_path / "p.star", (stack,), single, order, 24, 3.0, rotations, shifts, ctf
    )
    write_star(tmp_path / "p.star", particles)
    moved, _ = displaced(truth, 40, [16.0, -18.0, 15.0], rng)
    write_structure(tmp_path / "moved.pdb", make_nodes(moved.numpy()))
    docked = dock_files(
        tmp_path / "moved.pdb", tmp_path / "p.star", tmp_path / "docked.cif", rotations=FEW
    )
    assert (docked.shift, docked.angle) == pytest.approx(
        (28.4, 40), abs=1
    ) and not docked.other_hand
    assert (
        float(
            (torch.from_numpy(read_structure(tmp_path / "docked.cif").positions).float() - truth)
            .norm(dim=-1)
            .max()
        )
        < 1
    )
    assert "moved by 28" in as_report(docked)
