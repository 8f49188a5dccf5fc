"""Each fault, measured in the images, or between what is true and what is told."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from refusals import ANY, refused
from scipy.spatial.transform import Rotation

import cryostar_nb as cs
from cryostar_nb.cli import parse
from cryostar_nb.fourier import Band, centred_fft, frequency_grid
from cryostar_nb.geometry import random_rotations
from cryostar_nb.io.star import read_poses
from cryostar_nb.simulation.curves import colour, noise_filter, signal_transfer
from cryostar_nb.simulation.faults import STREAMS, draw_specimen, stream, uneven_rotations
from cryostar_nb.simulation.options import (
    REALISTIC,
    REALISTIC_SNR,
    Faults,
    ImperfectReference,
    SimulationConfig,
)
from cryostar_nb.simulation.particles import (
    SNR_DEFINITION,
    clean_images,
    draw_poses,
    draw_states,
    load_path,
)

CLEAN = {"snr": 1e9}
MANY = SimulationConfig(n_particles=20_000)


def specimen(faults, given=False, config=MANY):
    """What is true and told of many particles, without an image."""
    poses = draw_poses(config, np.random.default_rng(config.seed))
    return draw_specimen(config, faults, poses, given=given, room=50.0)


def rms(values):
    return float(torch.as_tensor(values).double().square().mean().sqrt())


def of_rings(values, pixel_size):
    """Frequency of each ring of a centred transform, and the mean of the values there."""
    box = values.shape[-1]
    rings = (frequency_grid(box, pixel_size).norm(dim=-1) * box * pixel_size).round().long()
    count = torch.bincount(rings.flatten())
    sums = torch.bincount(rings.flatten(), weights=values.double().flatten())
    ring = torch.arange(1, (box - 1) // 2)
    return ring / (box * pixel_size), (sums / count)[ring]


def power_of(images):
    return centred_fft(images.double(), 2).abs().square().mean(0) / images.shape[-1] ** 2


# Off is as before


def test_without_faults_the_images_are_the_sum_of_signal_and_white_noise(simulated, helix_ends):
    made = simulated()
    config = made.config
    rng = np.random.default_rng(config.seed)
    atoms, path = load_path(config, **helix_ends)
    poses, state = draw_poses(config, rng), draw_states(config, rng)
    band, vectors = clean_images(atoms, config, poses)
    states, noise = torch.from_numpy(path).float(), torch.Generator().manual_seed(config.seed)
    for first in range(0, config.n_particles, 32):
        rows = slice(first, min(first + 32, config.n_particles))
        clean = band.decode(vectors(states[state[rows]], rows))
        noisy = clean + float(made.truth["noise_sd"]) * torch.randn(clean.shape, generator=noise)
        assert torch.equal(noisy, made.told.images(rows))
    assert made.truth["snr_definition"] == SNR_DEFINITION
    assert made.asked == {} and not (made.out / "reference.cif").exists()


def test_the_truth_says_of_every_particle_what_is_true(simulated):
    made = simulated()
    truth, n = made.truth, made.config.n_particles
    np.testing.assert_allclose(truth["rotations"], made.told.rotations, atol=1e-7)
    for name in ("defocus_u", "defocus_v", "defocus_angle_deg", "b_factor"):
        np.testing.assert_allclose(truth[name], getattr(made.told.ctf, name), rtol=1e-8)
    assert truth["shifts"].shape == truth["ice_gradient"].shape == (n, 2)
    assert not truth["shifts"].any() and not truth["ice_gradient"].any()
    assert (truth["contrast"] == 1).all() and truth["junk"].dtype == np.int8
    assert not truth["junk"].any() and not truth["neighbours"].any()
    assert truth["junk_kinds"][0] == "good" and len(truth["junk_kinds"]) == 5
    np.testing.assert_array_equal(truth["reference_nodes"], np.arange(24))


def test_one_fault_leaves_the_draws_of_the_others():
    whole = specimen(REALISTIC)
    for name, value in dataclasses.asdict(REALISTIC).items():
        if isinstance(value, float) and value and name not in ("solvent_blur", "mtf"):
            without = specimen(dataclasses.replace(REALISTIC, **{name: 0.0}))
            assert torch.equal(whole.gradient, without.gradient) or name == "ice_gradient"
            assert torch.equal(whole.contrast, without.contrast) or name == "contrast_sd"
            assert torch.equal(whole.true.shifts, without.true.shifts) or name == "shift_error"
            rotations = whole.told.rotations, without.told.rotations
            assert torch.equal(*rotations) or name == "rotation_error"
            assert (whole.junk == without.junk).all() or name == "junk"


def test_every_stream_is_another():
    draws = {stream(0, name).random() for name in STREAMS} | {np.random.default_rng(0).random()}
    assert len(draws) == len(STREAMS) + 1
    assert stream(1, STREAMS[0]).random() not in draws


# What the STAR file tells


def test_told_rotations_are_wrong_by_the_stated_angle_about_every_axis():
    made = specimen(Faults(rotation_error=2.0))
    error = made.told.rotations @ made.true.rotations.mT
    vectors = np.rad2deg(Rotation.from_matrix(error.numpy()).as_rotvec())
    np.testing.assert_allclose(vectors.std(axis=0), 2.0, rtol=0.03)
    np.testing.assert_allclose(vectors.mean(axis=0), 0.0, atol=0.06)
    assert rms(vectors) * np.sqrt(3) == pytest.approx(2 * np.sqrt(3), rel=0.03)
    assert torch.equal(made.true.rotations, specimen(Faults()).true.rotations)


def test_the_molecule_lies_off_the_told_origin(simulated):
    made = simulated(shift_error=4.0, config=CLEAN)
    still = simulated("still", config=CLEAN)
    true = torch.from_numpy(made.truth["shifts"])
    assert not made.told.shifts.any()
    assert rms(true) == pytest.approx(4.0, rel=0.1)
    ramp = frequency_grid(32, 3.0) @ true.mT
    back = centred_fft(made.images, 2) * torch.exp(2j * np.pi * ramp.permute(2, 0, 1))
    difference = (back - centred_fft(still.images, 2))[:, 1:, 1:]  # Nyquist has no phase
    assert rms(difference.abs()) < 2e-3 * rms(centred_fft(still.images, 2).abs())


def test_told_defocus_is_wrong_by_the_same_in_both_directions():
    made = specimen(Faults(defocus_error=300.0))
    errors = [
        getattr(made.told.ctf, n) - getattr(made.true.ctf, n) for n in ("defocus_u", "defocus_v")
    ]
    torch.testing.assert_close(*errors)
    assert rms(errors[0]) == pytest.approx(300, rel=0.03)


def test_astigmatism_is_true_and_told_and_has_any_axis():
    made = specimen(Faults(astigmatism=200.0))
    ctf, plain = made.true.ctf, specimen(Faults()).true.ctf
    size = ctf.defocus_u - ctf.defocus_v
    assert (size >= 0).all() and rms(size) == pytest.approx(200, rel=0.03)
    torch.testing.assert_close((ctf.defocus_u + ctf.defocus_v) / 2, plain.defocus_u)
    quarters = np.histogram(ctf.defocus_angle_deg, bins=4, range=(0, 180))[0]
    assert quarters.sum() == len(size) and quarters.min() > 0.23 * len(size)
    assert torch.equal(made.told.ctf.defocus_u, ctf.defocus_u)


def test_the_error_of_astigmatism_is_told_and_leaves_the_mean():
    made = specimen(Faults(astigmatism=200.0, astigmatism_error=50.0))

    def parts(ctf):
        angle = 2 * torch.deg2rad(ctf.defocus_angle_deg)
        return (ctf.defocus_u - ctf.defocus_v) * torch.stack([angle.cos(), angle.sin()])

    error = parts(made.told.ctf) - parts(made.true.ctf)
    assert [rms(part) for part in error] == pytest.approx([50, 50], rel=0.03)
    means = [(p.ctf.defocus_u + p.ctf.defocus_v) / 2 for p in (made.told, made.true)]
    torch.testing.assert_close(*means)


def test_given_poses_are_true_and_what_is_told_is_wrong(simulated):
    given = simulated("given", config={"n_particles": 220}).out / "particles.star"
    poses = read_poses(given)
    errors = {"rotation_error": 3.0, "shift_error": 2.0, "defocus_error": 100.0}
    made = simulated(poses=given, **errors)
    np.testing.assert_allclose(made.truth["rotations"], poses.rotations[:200], atol=1e-7)
    np.testing.assert_allclose(made.truth["shifts"], poses.shifts[:200])
    np.testing.assert_allclose(made.truth["defocus_u"], poses.ctf.defocus_u[:200], rtol=1e-8)
    assert rms(made.told.shifts) == pytest.approx(2.0, rel=0.15)
    assert rms(made.told.ctf.defocus_u - poses.ctf.defocus_u[:200]) == pytest.approx(100, rel=0.2)
    assert not np.allclose(made.told.rotations, poses.rotations[:200], atol=1e-2)
    exact = simulated("exact", poses=given)
    assert torch.equal(exact.images, made.images)
    for name, value in (("astigmatism", 10.0), ("uneven_views", 1.0)):
        with refused(value=value):
            simulated(poses=given, **{name: value})


# The noise


@pytest.mark.parametrize("box", [48, 49])
def test_ice_has_the_stated_power_and_the_variance_of_white_noise(box, generator):
    white = torch.randn(400, box, box, generator=generator)
    noise = colour(white, noise_filter("ice", box, 2.0))
    _, power = of_rings(power_of(noise), 2.0)
    k = frequency_grid(box, 2.0).norm(dim=-1).clamp(min=1 / (2 * box))
    ratio = power / of_rings(1 + (0.02 / k) ** 1.5, 2.0)[1]
    np.testing.assert_allclose(ratio / ratio.mean(), 1, rtol=0.08)
    assert power[0] > 2 * power[-1]
    of_white = white.var(dim=(1, 2)).mean()
    assert float(noise.var(dim=(1, 2)).mean() / of_white) == pytest.approx(1, rel=0.01)
    assert colour(white, noise_filter("white", box, 2.0)) is white


def test_noise_follows_the_spectrum_of_a_file(simulated, tmp_path):
    (tmp_path / "noise.txt").write_text("# k power\n0 9\n0.08 9\n0.0801 1\n1 1\n")
    made = simulated(noise_spectrum=tmp_path / "noise.txt", config={"snr": 1e-6})
    k, power = of_rings(power_of(made.images), 3.0)
    assert float(power[k < 0.075].mean() / power[k > 0.09].mean()) == pytest.approx(9, rel=0.1)
    assert rms(made.images) == pytest.approx(float(made.truth["noise_sd"]), rel=0.02)
    assert made.asked["noise_spectrum"].endswith("noise.txt")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0),
        ("0.1 1\n", 1),
        ("0 1 2\n0.1 1 2\n", 3),
        ("0 one\n0.1 two\n", ANY),
        ("0.1 1\n0.1 2\n", "0.1 2"),
        ("0.1 1\n0.2 -1\n", "0.2 -1"),
        ("0.1 1\n0.2 nan\n", "0.2 nan"),
        ("0 0\n1 0\n", 0.0),
    ],
)
def test_a_file_that_is_no_spectrum_is_refused(text, value, simulated, tmp_path):
    (tmp_path / "noise.txt").write_text(text)
    with refused("noise.txt", value=value):
        simulated(noise_spectrum=tmp_path / "noise.txt")
    assert not (tmp_path / "sim").exists()
    with refused("absent.txt"):
        simulated(noise_spectrum=tmp_path / "absent.txt")


def test_the_ramp_of_an_image_is_that_of_the_truth(simulated):
    flat, made = simulated("flat"), simulated(ice_gradient=0.5)
    ramp = (made.images - flat.images) / float(made.truth["noise_sd"])
    np.testing.assert_allclose(ramp.std(dim=(1, 2), correction=0), 0.5, rtol=1e-4)
    axis = torch.linspace(-1, 1, 32).double()
    axis /= axis.std(correction=0)
    x, y = (ramp * axis).mean((1, 2)), (ramp * axis[:, None]).mean((1, 2))
    np.testing.assert_allclose(torch.stack([x, y], -1), made.truth["ice_gradient"], atol=1e-4)
    assert made.truth["noise_sd"] == flat.truth["noise_sd"]
    assert made.truth["snr_measured"] == flat.truth["snr_measured"]


# The signal


def amplitude_ratio(made, clean):
    """The factor at every frequency, by regression of one image's transform on another's."""
    a, b = (centred_fft(x.images, 2) for x in (made, clean))
    return (a * b.conj()).real.sum(0) / b.abs().square().sum(0).clamp(min=1e-30)


def inside(pixel_size=3.0, box=32):
    k = frequency_grid(box, pixel_size).norm(dim=-1)
    return k, (k > 0) & (k < 0.12)  # beyond, the helix at 6 Å has too little power for float32


def test_the_mtf_multiplies_the_signal(simulated, write_table, tmp_path):
    clean = simulated("clean", config=CLEAN)
    k, band = inside()
    nyquist = simulated("nyquist", mtf=0.4, config=CLEAN)
    np.testing.assert_allclose(
        amplitude_ratio(nyquist, clean)[band], 0.4 ** ((6.0 * k[band]) ** 2), rtol=2e-3
    )
    columns = {"rlnResolutionInversePixel": [0.0, 0.25, 0.5], "rlnMtfValue": [1.0, 0.5, 0.4]}
    curve = write_table(tmp_path / "mtf.star", {"": columns})
    measured = amplitude_ratio(simulated(mtf=curve, config=CLEAN), clean)
    expected = np.interp(3.0 * k, columns["rlnResolutionInversePixel"], columns["rlnMtfValue"])
    np.testing.assert_allclose(measured[band], expected[band], rtol=2e-3)


def test_a_file_that_is_no_mtf_is_refused(simulated, write_table, tmp_path):
    names = ("rlnResolutionInversePixel", "rlnMtfValue")
    other = write_table(tmp_path / "other.star", {"": {"rlnVoltage": [300, 300]}})
    falling = write_table(tmp_path / "falling.star", {"": {names[0]: [0.5, 0.0], names[1]: [1, 1]}})
    words = write_table(tmp_path / "words.star", {"": {names[0]: [0, 0.5], names[1]: ["a", "b"]}})
    for path, value in ((other, ANY), (falling, "0 1"), (words, "0 nan")):
        with refused(path.name, value=value):
            simulated(mtf=path)
    with refused("absent.star"):
        simulated(mtf=tmp_path / "absent.star")


def test_the_solvent_takes_away_at_low_frequencies(simulated):
    clean, made = simulated("clean", config=CLEAN), simulated(solvent=0.5, config=CLEAN)
    k, band = inside()
    expected = 1 - 0.5 * torch.exp(-2 * (np.pi * 8.0 * k) ** 2)
    np.testing.assert_allclose(amplitude_ratio(made, clean)[band], expected[band], rtol=2e-3)
    assert float(amplitude_ratio(made, clean)[16, 17]) < 0.6
    assert signal_transfer(Faults(), 1.0) is None


def test_b_factors_are_the_slope_of_the_amplitudes_and_are_not_told(simulated):
    clean, made = simulated("clean", config=CLEAN), simulated(b_factor=80.0, config=CLEAN)
    k, band = inside()
    slope = amplitude_ratio(made, clean)[band].log() / k[band] ** 2
    np.testing.assert_allclose(slope, -80 / 4, rtol=0.02)
    assert not made.told.ctf.b_factor.any() and (made.truth["b_factor"] == 80).all()
    spread = specimen(Faults(b_factor=80.0, b_factor_sd=20.0)).true.ctf.b_factor
    assert (float(spread.mean()), float(spread.std())) == pytest.approx((80, 20), rel=0.02)
    wide = specimen(Faults(b_factor=10.0, b_factor_sd=20.0)).true.ctf.b_factor
    assert float(wide.min()) == 0.0


def test_the_contrast_of_each_image_is_that_of_the_truth(simulated):
    clean, made = simulated("clean", config=CLEAN), simulated(contrast_sd=0.3, config=CLEAN)
    measured = (made.images * clean.images).sum((1, 2)) / clean.images.square().sum((1, 2))
    np.testing.assert_allclose(measured, made.truth["contrast"], rtol=1e-4)
    assert made.truth["contrast"].std() == pytest.approx(0.3, rel=0.15)
    drawn = specimen(Faults(contrast_sd=1.0)).contrast
    assert float(drawn.min()) == pytest.approx(0.1) and float(drawn.max()) > 3
    assert made.truth["snr_measured"] == pytest.approx(1e9)


def test_views_gather_about_an_axis(rng):
    rotations = uneven_rotations(20_000, 4.0, rng)
    np.testing.assert_allclose(
        rotations @ np.swapaxes(rotations, 1, 2), np.tile(np.eye(3), (20_000, 1, 1)), atol=1e-9
    )
    assert np.linalg.det(rotations).min() > 0.99
    moments, axes = np.linalg.eigh(
        np.einsum("ni,nj->ij", rotations[:, 2], rotations[:, 2]) / 20_000
    )
    height = np.linspace(-1, 1, 4001)
    weight = np.exp(4.0 * height**2)
    assert moments[2] == pytest.approx((weight * height**2).sum() / weight.sum(), abs=0.01)
    assert moments[1] == pytest.approx(moments[0], abs=0.01)
    np.testing.assert_allclose((rotations[:, 2] @ axes[:, 2]).mean(), 0, atol=0.03)
    in_plane = np.arctan2(rotations[:, 1, 2], rotations[:, 0, 2])
    assert np.histogram(in_plane, 4, (-np.pi, np.pi))[0].min() > 4_700
    made = specimen(Faults(uneven_views=2.0))
    assert torch.equal(made.true.ctf.defocus_u, specimen(Faults()).true.ctf.defocus_u)
    assert (
        rms(
            made.true.rotations
            - torch.from_numpy(random_rotations(20_000, np.random.default_rng(0)))
        )
        > 0.1
    )


def test_an_error_of_the_shift_may_not_lead_out_of_the_box(simulated):
    with refused(value=40.0):
        simulated(shift_error=40.0)


# The preset


def test_realistic_is_a_preset_in_the_shell_and_other_flags_override():
    words = ["simulate", "--start", "x.pdb", "--end", "y.pdb", "--out", "z"]
    assert parse(words).faults == Faults() and parse(words).config == SimulationConfig()
    command = parse([*words, "--realistic"])
    assert (command.faults, command.config.snr) == (REALISTIC, REALISTIC_SNR)
    assert command.imperfect == ImperfectReference()
    changed = parse([*words, "--realistic", "--snr", "0.2", "--junk", "0", "--mtf", "m.star"])
    assert changed.config.snr == 0.2
    assert (changed.faults.junk, str(changed.faults.mtf)) == (0, "m.star")
    assert changed.faults.rotation_error == REALISTIC.rotation_error
    assert parse([*words, "--realistic", "--poses", "p.star"]).faults.astigmatism == 0


def test_realistic_is_a_keyword_of_python(helix_ends, tmp_path):
    small = {"n_particles": 40, "box_size": 32, "pixel_size": 3.0, "states": 3, "resolution": 6.0}
    star = cs.simulate(**helix_ends, out=tmp_path / "out", realistic=True, junk=0.2, **small)
    truth = np.load(star.parent / "truth.npz")
    asked = json.loads(str(truth["faults"]))
    assert asked["junk"] == 0.2 and asked["rotation_error"] == REALISTIC.rotation_error
    assert truth["snr"] == REALISTIC_SNR and np.count_nonzero(truth["junk"]) == 8
    assert "good particles" in str(truth["snr_definition"])
    assert truth["snr_measured"] == pytest.approx(REALISTIC_SNR, rel=1e-4)
    band = Band(32, 3.0, 6.0)
    assert torch.isfinite(band.encode(cs.read_particles(star).images(slice(None)))).all()
