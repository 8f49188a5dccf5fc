"""The doctor names every fault, alone and with others; what it corrects is right afterwards."""

import dataclasses
import itertools
import json
import re
import runpy
from functools import partial
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from faults import (
    FLIP,
    IN_THE_FILE,
    IN_THE_IMAGES,
    spoil_images,
    spoil_model,
    spoil_particles,
    verdict,
)
from faults import TURN as TURN64

from cryostar_nb.ctf import CTFParameters
from cryostar_nb.density import model_density
from cryostar_nb.doctor import thresholds
from cryostar_nb.doctor.diagnosis import diagnose, diagnose_files, write_corrected
from cryostar_nb.doctor.docking import IDENTITY, MIRROR, Placement
from cryostar_nb.doctor.hypotheses import (
    FAULTS,
    MIRRORS,
    Hypothesis,
    Origin,
    predict,
    reference_at,
)
from cryostar_nb.doctor.placing import structure_spectrum
from cryostar_nb.doctor.remedies import (
    ADVICE,
    corrected_particles,
    corrected_placement,
    image_root,
    is_mirror_image,
    train_flags,
)
from cryostar_nb.doctor.sample import correlations, take_sample
from cryostar_nb.doctor.scoring import Scored, choose_band
from cryostar_nb.doctor.verdict import candidates, decide, particles_needed
from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.cryosparc import write_cs
from cryostar_nb.io.maps import DensityMap
from cryostar_nb.io.options import Reading
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.reading import read_particles
from cryostar_nb.io.star import write_star
from cryostar_nb.io.structures import read_structure, write_structure
from cryostar_nb.pages.doctor_report import as_json, as_text, doctor_page, notes
from cryostar_nb.projector import make_images, project_band, rotate

DATA, BOOK = (Path(__file__).parents[2] / name for name in ("data", "book"))
BOX, PIXEL, COUNT = 32, 3.0, 60
TURN = TURN64.float()

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def molecule():
    """A chain of 60 residues that wanders through a lopsided body of about 25 Å radius."""
    rng = np.random.default_rng(5)
    steps = rng.standard_normal((60, 3)) + np.array([0.4, 0.2, 0.0])
    trace = np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=1)[:, None], axis=0)
    return trace - trace.mean(axis=0) + np.array([2.0, -3.0, 1.0])


@pytest.fixture
def model(molecule, make_nodes):
    return make_nodes(molecule)


@pytest.fixture(scope="module")
def truth():
    """Poses, shifts and CTFs of the particles."""
    rng = np.random.default_rng(6)
    zero = torch.zeros(COUNT, dtype=torch.float64)
    defocus = torch.from_numpy(rng.uniform(12_000, 25_000, COUNT))
    ctf = CTFParameters(
        defocus_u=defocus,
        defocus_v=defocus - 400,
        defocus_angle_deg=zero + 30,
        voltage_kv=zero + 300,
        spherical_aberration_mm=zero + 2.7,
        amplitude_contrast=zero + 0.1,
        phase_shift_deg=zero,
        b_factor=zero,
    )
    return Particles(
        source=Path("particles.star"),
        stacks=(Path("particles.mrcs"),),
        stack_of=np.zeros(COUNT, dtype=np.int64),
        image_in_stack=np.arange(COUNT),
        box_size=BOX,
        pixel_size=PIXEL,
        rotations=torch.from_numpy(random_rotations(COUNT, rng)),
        shifts=torch.from_numpy(rng.normal(0, 5, (COUNT, 2))),
        ctf=ctf,
    )


@pytest.fixture
def write(tmp_path, write_stack, molecule, truth):
    """Write images of the molecule with faults; return particles with the faults of their file."""

    def make(*faults, snr=0.3):
        band = Band(BOX, PIXEL, 2 * PIXEL)
        weights, width = torch.full((60,), 30.0), torch.tensor(2.0)
        view = {"rotations": truth.rotations.float(), "shifts": truth.shifts.float()}
        images = band.decode(
            make_images(
                torch.from_numpy(molecule).float(),
                weights,
                width,
                band,
                **view,
                ctf=None if "CTF off" in faults else truth.ctf,
            )
        )
        noise = torch.from_numpy(np.random.default_rng(7).standard_normal(images.shape)).float()
        images = noise if snr == 0 else images / images.std() * snr**0.5 + noise
        write_stack(
            tmp_path / "particles.mrcs",
            spoil_images(images, truth, faults).numpy(),
            pixel_size=PIXEL,
        )
        return dataclasses.replace(
            spoil_particles(truth, faults),
            source=tmp_path / "particles.star",
            stacks=(tmp_path / "particles.mrcs",),
        )

    return make


examine = partial(diagnose, rotations=0)  # without docking, which is tested by itself
examine_and_dock = partial(diagnose, rotations=1000)  # coarsely: the molecule has few features


ALONE = (*IN_THE_IMAGES, *IN_THE_FILE, "model mirrored")


@pytest.mark.parametrize("fault", [None, *ALONE])
def test_every_fault_is_verdict(write, model, fault):
    faults = () if fault is None else (fault,)
    positions = spoil_model(torch.from_numpy(model.positions), faults)
    diagnosis = examine(write(*faults), atoms=model.with_positions(positions.numpy()))
    assert diagnosis.verdict == verdict(faults)
    if fault and fault.startswith("pixel"):
        assert diagnosis.particles.pixel_size * diagnosis.hypothesis.scale == pytest.approx(
            PIXEL, rel=0.005
        )


@pytest.mark.parametrize(
    "faults",
    [
        ("transpose", "hand"),
        ("contrast sign", "transpose"),
        ("CTF off", "origin sign"),
        ("CTF sign", "hand"),
        ("phase flipped", "pixel too large"),
        ("CTF off", "pixel too small"),
        ("contrast sign", "CTF sign"),
        ("origin sign", "origin in Å"),
        ("hand", "origin sign", "pixel too large"),
    ],
)
def test_faults_are_named_together(write, model, faults):
    assert examine(write(*faults), atoms=model).verdict == verdict(faults)


@pytest.mark.parametrize("faults", [(), ("transpose", "hand")])
def test_a_displaced_model_is_docked_against_the_images(write, model, faults):
    positions = torch.from_numpy(model.positions).float()
    moved = (
        (positions - positions.mean(0)) @ TURN.T
        + positions.mean(0)
        + torch.tensor([16.0, -12.0, 20.0])
    )
    diagnosis = examine_and_dock(write(*faults, snr=1.0), atoms=model.with_positions(moved.numpy()))
    assert diagnosis.verdict == verdict((*faults, "model offset", "model orientation"))
    place = corrected_placement(diagnosis.hypothesis, turn_poses=diagnosis.turn_poses)
    assert float((place(moved) - positions).norm(dim=-1).max()) < 1.5
    assert (diagnosis.hypothesis.offset, diagnosis.hypothesis.angle) == pytest.approx(
        (28.3, 40), abs=1
    )


def test_a_map_does_as_well_as_a_model_and_places_the_model(write, model):
    positions = torch.from_numpy(model.positions).float()
    density = DensityMap(
        model_density(positions, torch.full((60,), 30.0), 2.0, box_size=BOX, pixel_size=PIXEL),
        PIXEL,
        np.zeros(3),
    )
    moved = positions @ TURN.T + torch.tensor([16.0, -12.0, 20.0])
    diagnosis = examine_and_dock(
        write("origin sign"), atoms=model.with_positions(moved.numpy()), density_map=density
    )
    assert diagnosis.verdict == "origin sign + model offset + model orientation"
    assert float((diagnosis.hypothesis.placement(moved) - positions).norm(dim=-1).max()) < 1.0


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("moved", [True, False])
def test_a_pixel_size_off_by_a_binning_is_found_and_the_shifts_with_it(
    write, model, truth, tmp_path, factor, moved
):
    particles = write()
    wrong = dataclasses.replace(
        particles, pixel_size=PIXEL * factor, shifts=particles.shifts * (factor if moved else 1)
    )
    diagnosis = examine(wrong, atoms=model)
    assert diagnosis.verdict == "pixel size"
    assert diagnosis.hypothesis.scale * factor == pytest.approx(1, rel=0.01)
    # A flag is enough where the shifts are right in Å, not where they are right in pixels.
    assert diagnosis.needs_star == moved
    corrected = corrected_particles(wrong, diagnosis.hypothesis, turn_poses=False)
    torch.testing.assert_close(corrected.shifts, truth.shifts, rtol=0.02, atol=0.02)


def test_a_reference_of_another_molecule_is_not_believed_wherever_it_fits_best(write, make_nodes):
    rng = np.random.default_rng(13)
    steps = rng.standard_normal((60, 3)) + np.array([0.1, 0.5, 0.3])
    other = np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=1)[:, None], axis=0)
    diagnosis = examine_and_dock(write(snr=1.0), atoms=make_nodes(other - other.mean(axis=0)))
    assert diagnosis.verdict == "undecided" and not diagnosis.needs_model
    assert any("about as well as its mirror image" in note for note in notes(diagnosis))
    result = as_json(diagnosis)
    assert result["train_flags"] == [] and not any(
        "particles would decide" in line for line in result["details"]
    )


def test_both_hands_of_a_docked_reference_are_compared_however_many_sets_of_faults_are_better(
    write, model
):
    moved = model.with_positions(model.positions @ TURN64.numpy().T + [16.0, -12.0, 20.0])
    particles = write(snr=1.0)
    sample = take_sample(particles, choose_band(particles))
    reference = structure_spectrum(moved, 0.9 * sample.resolution)
    scored = candidates(sample, reference, rotations=1000, most_sets=1)
    hands = {row.hypothesis.placement.mirrored for row in scored if row.docked}
    assert hands == {True, False}


def test_a_model_of_another_molecule_is_not_placed_in_a_map(write, model, make_nodes):
    positions = torch.from_numpy(model.positions).float()
    density = DensityMap(
        model_density(positions, torch.full((60,), 30.0), 2.0, box_size=BOX, pixel_size=PIXEL),
        PIXEL,
        np.zeros(3),
    )
    rng = np.random.default_rng(12)
    other = rng.standard_normal((60, 3)) * 12
    diagnosis = examine_and_dock(write(), atoms=make_nodes(other), density_map=density)
    assert diagnosis.verdict == "undecided" and diagnosis.lost and not diagnosis.needs_model
    assert "may not be the molecule of the map" in notes(diagnosis)[-1]


@pytest.mark.parametrize("voxel_size", [PIXEL / 2.1, PIXEL * 2.1])
def test_a_map_of_another_width_is_refused(write, model, voxel_size):
    density = DensityMap(torch.zeros(BOX, BOX, BOX), voxel_size, np.zeros(3))
    particles = write()
    with pytest.raises(InputError) as caught:
        examine(particles, atoms=model, density_map=density)
    assert caught.value.file == particles.source
    assert caught.value.value == pytest.approx(BOX * voxel_size)


def test_images_may_be_inverted_before_and_the_flag_is_passed_on(write, model):
    dark = examine(write("contrast sign"), atoms=model, invert=True)
    assert dark.verdict == "ok" and as_json(dark)["train_flags"] == ["--invert"]
    bright = examine(write(), atoms=model, invert=True)
    assert bright.verdict == "contrast sign" and as_json(bright)["train_flags"] == []
    assert "Leave out --invert." in as_json(bright)["details"][0]


@pytest.mark.parametrize(("size", "expected"), [(0.98, "CTF off"), (0.95, "CTF off + pixel size")])
def test_where_the_ctf_is_no_ruler_a_small_difference_of_size_is_only_remarked(
    write, model, size, expected
):
    """A model of another state is larger or smaller by some percent too."""
    diagnosis = examine(
        write("CTF off", snr=1.0), atoms=model.with_positions(model.positions * size)
    )
    assert diagnosis.verdict == expected
    assert any("% larger than the reference" in note for note in notes(diagnosis)) == (
        expected == "CTF off"
    )


def test_noise_decides_nothing_and_more_particles_are_asked_for(write, model):
    diagnosis = examine_and_dock(write(snr=0), atoms=model)
    assert diagnosis.verdict == "undecided" and diagnosis.needed > 2 * COUNT
    assert str(f"{diagnosis.needed:,}") in as_text(diagnosis, as_json(diagnosis))


def test_few_particles_of_a_weak_signal_leave_it_open_and_enough_of_them_do_not(write, model):
    particles = write("transpose", snr=0.01)
    few = examine(particles, atoms=model, count=4)
    assert few.verdict == "undecided" and few.needed > 4
    assert examine(particles, atoms=model).verdict == "transpose"


def test_without_shifts_nothing_is_said_about_origins(write, model, truth):
    particles = write()
    # The images are moved back instead: what is left are particles in the centre.
    band = Band(BOX, PIXEL, 2 * PIXEL)
    view = {"rotations": truth.rotations.float(), "ctf": truth.ctf}
    images = band.decode(
        make_images(
            torch.from_numpy(model.positions).float(),
            torch.full((60,), 30.0),
            torch.tensor(2.0),
            band,
            **view,
        )
    )
    with mrcfile.mmap(particles.stacks[0], mode="r+") as handle:
        handle.data[...] = images.numpy() + 0.1 * handle.data
    diagnosis = examine(dataclasses.replace(particles, shifts=0 * particles.shifts), atoms=model)
    assert diagnosis.verdict == "ok"
    assert "The particles have no shifts, so nothing is said about their origins." in notes(
        diagnosis
    )
    assert not any("origin" in name for row in diagnosis.scored for name in row.faults)


# Laws


def test_the_mirrored_reference_is_the_mirrored_poses(asymmetric, rng):
    """Projections do not see a mirror along the beam: M R M on the right hand is R on the left.

    Mirrors along x and y are a half turn more.
    """
    positions, electrons = asymmetric
    rotations, band = torch.from_numpy(random_rotations(10, rng)), Band(24, 2.0, 4.0)

    def images(positions, rotations):
        return project_band(
            rotate(positions, rotations), electrons, torch.tensor(2.0, dtype=torch.float64), band
        )

    mirrored = images(positions, FLIP @ rotations @ FLIP)
    torch.testing.assert_close(mirrored, images(positions @ FLIP, rotations))
    for signs in MIRRORS.values():
        mirror = torch.diag(torch.tensor(signs).double())
        half_turn = FLIP @ mirror
        assert torch.linalg.det(half_turn) > 0
        torch.testing.assert_close(
            images(positions @ mirror.mT, rotations),
            images(positions @ half_turn.mT, FLIP @ rotations @ FLIP),
        )
    assert float((mirrored - images(positions, rotations)).norm() / mirrored.norm()) > 0.25


HYPOTHESES = [
    Hypothesis(),
    Hypothesis(ctf="off"),
    Hypothesis(ctf="negated", transpose=True),
    Hypothesis(origin=Origin(-1, "px")),
    Hypothesis(origin=Origin(1, "Å"), scale=1.05),
    Hypothesis(origin=Origin(exchanged=True), transpose=True, scale=0.95, shifts_follow=False),
    Hypothesis(origin=Origin(off=True), scale=1.04, ctf_follows=False),
    Hypothesis(placement=Placement(MIRROR, torch.zeros(3))),
    Hypothesis(
        placement=Placement(TURN @ MIRROR, torch.tensor([5.0, -3.0, 8.0])),
        transpose=True,
        origin=Origin(-1),
    ),
    Hypothesis(placement=Placement(TURN, torch.tensor([5.0, -3.0, 8.0])), ctf="off", scale=0.96),
]


@pytest.mark.parametrize("hypothesis", HYPOTHESES)
@pytest.mark.parametrize("turn_poses", [True, False])
def test_what_is_corrected_is_right_as_it_is_read(write, model, hypothesis, turn_poses):
    """The corrected file and the moved model, taken at their word, predict the same images."""
    if turn_poses and not hypothesis.placement.mirrored:
        return
    faulty = take_sample(write(), Band(BOX, PIXEL, 9.0))
    corrected = corrected_particles(faulty.particles, hypothesis, turn_poses=turn_poses)
    again = dataclasses.replace(
        faulty, particles=corrected, frequencies=faulty.frequencies / hypothesis.scale
    )
    place = corrected_placement(hypothesis, turn_poses=turn_poses)
    moved = model.with_positions(place(torch.from_numpy(model.positions)).numpy())
    said = predict(faulty, structure_spectrum(model, 8.0), hypothesis)
    read = predict(again, structure_spectrum(moved, 8.0), Hypothesis())
    # Both are images relative to the centre that each file gives its particles.
    shift = faulty.particles.shifts / 1.0 - corrected.shifts / hypothesis.scale
    angle = 2 * torch.pi * (shift.float() @ faulty.frequencies.float().mT)
    torch.testing.assert_close(
        correlations(said, read * torch.polar(torch.ones_like(angle), angle)),
        torch.ones(COUNT),
        atol=2e-3,
        rtol=0,
    )


def test_whitened_images_have_the_same_power_on_every_shell(write):
    band = Band(BOX, PIXEL, 2 * PIXEL)
    sample = take_sample(write(), band)
    shell = band.indices.float().norm(dim=-1).round().long()
    power = torch.zeros(int(shell.max()) + 1).index_add(
        0, shell, sample.images.abs().square().mean(0)
    ) / torch.bincount(shell)
    torch.testing.assert_close(power[1:], torch.ones(len(power) - 1), atol=1e-4, rtol=0)


def test_a_mirror_is_no_turn_and_a_small_move_is_no_fault():
    centre = torch.tensor([5.0, 0.0, -7.0])
    for name, signs in MIRRORS.items():
        assert reference_at(
            Placement(torch.diag(torch.tensor(signs).float()), torch.zeros(3)), centre
        ).faults() == ("hand",), name
    assert (
        reference_at(Placement(torch.eye(3), torch.tensor([1.0, 2.0, 1.0])), centre).faults() == ()
    )
    assert reference_at(
        Placement(torch.eye(3), torch.tensor([10.0, 2.0, 1.0])), centre
    ).faults() == ("model offset",)
    about_its_centre = Placement(TURN, centre - TURN @ centre)
    assert reference_at(about_its_centre, centre).faults() == ("model orientation",)


def test_the_chirality_of_a_model_is_seen_with_side_chains_and_without():
    atoms = read_structure(DATA / "1ake.pdb")
    for structure in (atoms, atoms[atoms.atom_names == "CA"]):
        assert not is_mirror_image(structure)
        assert is_mirror_image(structure.with_positions(structure.positions * [1, 1, -1]))


# The verdict


@pytest.fixture
def scored(generator):
    """Make hypotheses with correlations about a mean, and predictions that are alike or not."""
    base = torch.randn(100, 50, dtype=torch.complex64, generator=generator)

    def make(hypothesis, mean, *, spread=0.05, own=True):
        prediction = (
            torch.randn(100, 50, dtype=torch.complex64, generator=generator) if own else base
        )
        return Scored(hypothesis, mean + spread * torch.randn(100, generator=generator), prediction)

    return make


TRANSPOSE, HAND, OFF = (
    Hypothesis(transpose=True),
    Hypothesis(placement=Placement(MIRROR, torch.zeros(3))),
    Hypothesis(ctf="off"),
)


def test_the_simplest_explanation_wins_unless_another_is_clearly_better(scored):
    ok = scored(Hypothesis(), 0.30)
    decision = decide(
        [ok, scored(TRANSPOSE, 0.10), scored(dataclasses.replace(TRANSPOSE, ctf="off"), 0.305)]
    )
    assert decision.winner is ok and not decision.rivals
    better = scored(TRANSPOSE, 0.40)
    decision = decide([ok, better, scored(HAND, 0.1)])
    assert decision.winner is better and not decision.rivals


def test_two_that_fit_as_well_as_each_other_leave_it_open(scored):
    decision = decide(
        [
            scored(Hypothesis(), 0.1),
            scored(TRANSPOSE, 0.3, spread=0.2),
            scored(HAND, 0.3, spread=0.2),
        ]
    )
    assert {decision.winner.faults, *(row.faults for row in decision.rivals)} == {
        ("transpose",),
        ("hand",),
    }


def test_predictions_that_are_the_same_are_no_rivals(scored):
    decision = decide(
        [scored(Hypothesis(), 0.3, own=False), scored(OFF, 0.3, own=False), scored(TRANSPOSE, 0.1)]
    )
    assert decision.winner.faults == () and not decision.rivals


def test_the_particles_that_are_needed_grow_as_the_z_score_falls(scored):
    strong = [scored(Hypothesis(), 0.30, spread=0.5), scored(TRANSPOSE, 0.0, spread=0.5)]
    weak = [scored(Hypothesis(), 0.15, spread=0.5), scored(TRANSPOSE, 0.0, spread=0.5)]
    needed = [particles_needed(both, both[0], 100) for both in (strong, weak)]
    assert 2 < needed[1] / needed[0] < 8  # half the signal: four times the particles


# Files


@pytest.mark.parametrize(("suffix", "writer"), [("star", write_star), ("cs", write_cs)])
def test_corrected_files_are_diagnosed_as_right(suffix, writer, write, model, tmp_path):
    name = f"particles.{suffix}"
    faulty = write("transpose", "hand", "origin in Å", "pixel too large", "contrast sign")
    writer(tmp_path / name, faulty)
    write_structure(tmp_path / "model.cif", model)
    out, files = tmp_path / "out", {"reference": tmp_path / "model.cif", "out": tmp_path / "out"}
    diagnosis = diagnose_files(tmp_path / name, **files, rotations=0)
    result = as_json(diagnosis)
    assert result["verdict"] == "contrast sign + transpose + hand + origin unit + pixel size"
    assert result["train_flags"] == ["--invert", "--root", str(tmp_path.resolve())]
    # The model is no mirror image: it stays.
    names = {"particles": name, "page": "doctor.html"}
    assert result["written"] == {key: str(out / name) for key, name in names.items()}
    again = examine(read_particles(out / name, Reading(root=tmp_path)), atoms=model)
    assert again.verdict == "contrast sign"
    page = doctor_page(diagnosis)
    assert page.count("data:image/png") == 2 and "http" not in page.replace("http-equiv", "")
    assert "transpose + hand + origin unit + pixel size" in page
    json.dumps(result)


def test_train_gets_what_the_doctor_was_told_and_what_it_found(write, tmp_path):
    reading = Reading(root=tmp_path, pixel_size=2.0, allow_outside=True)
    plain = ["--root", str(tmp_path), "--pixel-size", "2.0", "--allow-outside"]
    assert train_flags(write(), Hypothesis(), reading, None) == plain
    assert train_flags(write(), Hypothesis(ctf="flipped"), reading, None) == [
        *plain,
        "--phase-flipped",
    ]
    dark = Hypothesis(contrast=-1, scale=1.03)
    assert train_flags(write(), dark, Reading(), None) == [
        "--invert",
        "--pixel-size",
        f"{1.03 * PIXEL:.5g}",
    ]
    assert train_flags(write(), dark, reading, tmp_path / "particles.star") == [
        "--invert"
    ]  # beside its images


@pytest.mark.parametrize(
    ("stacks", "star"),
    [(["p/a/s.mrcs"], "p"), (["p/a/s.mrcs"], "p/out"), (["p/a/s.mrcs", "q/s.mrcs"], "p")],
)
def test_a_corrected_file_finds_its_images_wherever_it_is(
    truth, tmp_path, write_stack, stacks, star
):
    for name in stacks:
        (tmp_path / name).parent.mkdir(parents=True)
        write_stack(
            tmp_path / name, np.zeros((COUNT, BOX, BOX), dtype=np.float32), pixel_size=PIXEL
        )
    which = np.arange(COUNT) % len(stacks)
    particles = dataclasses.replace(
        truth, stacks=tuple(tmp_path / name for name in stacks), stack_of=which
    )
    path = tmp_path / star / "particles.star"
    root = image_root(particles, path)
    write_star(path, particles, root=root)
    flags = train_flags(particles, Hypothesis(transpose=True), Reading(), path)
    assert flags == ([] if root is None else ["--root", str(root)])
    assert read_particles(path, Reading(root=root)).images(slice(None)).shape == (COUNT, BOX, BOX)


def test_a_model_that_is_a_mirror_image_is_turned_round_and_the_poses_stay(write, truth, tmp_path):
    atoms = read_structure(DATA / "1ake.pdb")
    band, view = (
        Band(BOX, PIXEL, 2 * PIXEL),
        {"rotations": truth.rotations.float(), "shifts": truth.shifts.float(), "ctf": truth.ctf},
    )
    positions = torch.from_numpy(atoms.positions).float()
    images = band.decode(
        make_images(
            positions, torch.from_numpy(atoms.electrons).float(), torch.tensor(0.8), band, **view
        )
    )
    particles = write()
    with mrcfile.mmap(particles.stacks[0], mode="r+") as handle:
        handle.data[...] = images.numpy() / float(images.std()) + handle.data
    wrong = atoms.with_positions(atoms.positions * [-1, 1, 1])
    write_structure(tmp_path / "wrong.pdb", wrong)
    diagnosis = examine(particles, atoms=wrong)
    assert diagnosis.verdict == "hand" and not diagnosis.turn_poses
    files = {"model_file": tmp_path / "wrong.pdb", "out": tmp_path / "out"}
    written = write_corrected(dataclasses.replace(diagnosis, **files))
    assert set(written) == {"reference"}
    right = read_structure(written["reference"])
    assert not is_mirror_image(right)
    assert examine(particles, atoms=right).verdict == "ok"


def test_a_doctor_without_a_reference_asks_for_one(write):
    with pytest.raises(InputError) as caught:
        examine(write())
    assert "--map" in caught.value.remedy


def test_the_band_ends_where_the_pixels_or_the_numbers_do(truth):
    assert choose_band(truth).resolution == pytest.approx(2.05 * PIXEL)
    assert choose_band(truth, 20.0).resolution == 20.0
    large = dataclasses.replace(truth, box_size=256, pixel_size=1.0)
    assert 1800 < choose_band(large).size / 2 <= 2000


def test_every_fault_has_its_advice_and_the_book_says_the_same():
    """Run book/make_troubleshooting.py when this fails."""
    assert set(ADVICE) == {*FAULTS, "ok", "undecided"}
    text = (BOOK / "troubleshooting.md").read_text(encoding="utf-8")
    assert re.findall(r"^## `(.+)`$", text, re.M) == ["ok", *FAULTS, "undecided"]
    assert text == runpy.run_path(str(BOOK / "make_troubleshooting.py"))["page"]()


def test_the_book_has_every_threshold():
    """Run book/make_troubleshooting.py when this fails."""
    text = (BOOK / "doctor.md").read_text(encoding="utf-8")
    assert text == runpy.run_path(str(BOOK / "make_troubleshooting.py"))["doctor_page"]()
    assert {name for name in vars(thresholds) if name.isupper()} == set(
        re.findall(r"^\| `([A-Z_]+)` \| [^|]+ \| [^|]+ \| [^|]+ \| [^|]+ \|$", text, re.M)
    )


def test_names_of_faults_are_apart():
    assert len(set(FAULTS)) == len(FAULTS)
    assert not any(a in b for a, b in itertools.permutations(FAULTS, 2))
    assert IDENTITY.mirrored is False
