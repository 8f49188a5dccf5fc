"""The real poses of EMPIAR-10180 under our conventions, and the rehearsal that uses them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from cryostar_nb.io.star import read_poses

ROOT = Path(__file__).parents[2]


def test_translations_follow_the_rotations_as_x_view_is_R_x_ref(external_data):
    """Translations hold (R c)_xy, for R alone, where a map is centred beside its particle at c."""
    meta = np.load(external_data / "spliceosome" / "empiar10180_meta.npz")
    rotations = Rotation.from_quat(meta["quat_xyzw"]).as_matrix()
    shifts = meta["trans_frac"] - meta["trans_frac"].mean(axis=0)

    def explained(rotations):
        terms = (rotations[:, :2] - rotations[:, :2].mean(axis=0)).reshape(-1, 3)
        rest = shifts.ravel() - terms @ np.linalg.lstsq(terms, shifts.ravel(), rcond=None)[0]
        return 1 - (rest**2).sum() / (shifts**2).sum()

    assert explained(rotations) > 0.16
    assert explained(rotations.transpose(0, 2, 1)) < 0.06


def test_the_rehearsal_uses_the_real_poses(external_data, tmp_path):
    source = external_data / "spliceosome"
    meta = np.load(source / "empiar10180_meta.npz")
    files = [
        "--model",
        source / "5nrl_rebuilt.cif.gz",
        "--meta",
        source / "empiar10180_meta.npz",
        "--out",
        tmp_path,
    ]
    script = ROOT / "book" / "make_spliceosome.py"
    subprocess.run(
        [sys.executable, script, *files, "--n-particles", "40"],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    lines = (tmp_path / "poses.star").read_text().splitlines()
    chosen = np.array([int(line.split("@")[0]) - 1 for line in lines if "@" in line])
    poses = read_poses(tmp_path / "poses.star")
    assert set(chosen) <= set(meta["filtered_ind"].tolist())
    rotations = Rotation.from_quat(meta["quat_xyzw"][chosen]).as_matrix()
    np.testing.assert_allclose(poses.rotations, rotations, atol=1e-6)
    np.testing.assert_allclose(poses.ctf.defocus_u, meta["dfu"][chosen], rtol=1e-7)
    moved = (
        poses.shifts.numpy() + meta["trans_frac"][chosen] * 256 * 2.12375
    )  # what centring took away: (R c)_xy + d
    terms = np.concatenate(
        [rotations[:, :2], np.broadcast_to(np.eye(2), (40, 2, 2))], axis=-1
    ).reshape(-1, 5)
    solution = np.linalg.lstsq(terms, moved.ravel(), rcond=None)[0]
    np.testing.assert_allclose(terms @ solution, moved.ravel(), atol=1e-3)
    assert np.load(tmp_path / "truth.npz")["positions"].shape == (50, 13_936, 3)
