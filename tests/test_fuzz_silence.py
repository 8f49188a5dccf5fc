"""Every kind of change of `make fuzz-silence` once."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fuzz_silence import table, try_kind
from silence_kinds import KINDS, Scene
from silence_kinds.star import one_table, text_of, written

EXPECTED_SILENT = {  # what is wrong today, by its cause; delete a kind when it is mended
    "of two tables of one name the last is kept, of two with images the first": (
        "STAR: two files joined",
        "STAR: a second table of images",
    ),
    "a particle's column hides the one of its optics group, which is RELION's": (
        "STAR: a voltage in both tables, another one",
        "STAR: a pixel size in both tables, another one",
    ),
    "a second statement of the pixel size is not looked at": (
        "STAR: a pixel size by the magnification, another one",
    ),
    "a name without a number is image 1, also of a stack of many": ("STAR: no image numbers",),
    "files are compared by their names, not by what they lead to": (
        "STAR: a row twice, its file by another path",
        ".cs: a row twice, its file by another path",
    ),
    "no angle, aberration or voltage is too large or small to be meant": (
        ".cs: angles in degrees",
        ".cs: phase shifts in degrees",
        ".cs: poses in degrees",
        ".cs: spherical aberration in µm",
        ".cs: voltage in MV",
        "STAR: spherical aberration in µm",
        "STAR: voltage in MV",
        "pickles: columns of the CTF in another order",
        "pickles: spherical aberration in µm",
        "pickles: voltage in MV",
    ),
    "defocus is looked at as a mean of both axes": (
        "STAR: defocus of one axis alone in another unit",
        "STAR: no defocus on one axis",
    ),
    "nothing asks whether the views are of three dimensions": (
        ".cs: poses of no alignment",
        "STAR: angles in radians",
        "STAR: most poses without a direction of view",
        "STAR: poses of a 2D classification",
        "pickles: poses of no alignment",
    ),
    "a factor of the CTF is ignored": (".cs: a scale of the CTF", "STAR: a scale of the CTF"),
    "bytes after the table are not looked at": (".cs: two files joined",),
    "alignments3D is taken before the class of the job's own file": (
        ".cs: stale alignments in the passthrough",
    ),
    "fields of both files are not compared": (
        ".cs: uids of the job in another order, images in both files",
    ),
    "bytes of mode 0 are signed, whatever the header says": (
        "map: unsigned bytes",
        "stack: unsigned bytes, IMOD's stamp",
        "stack: unsigned bytes, extremes in the header",
    ),
    "the pixels' extremes are not compared with the header's": (
        "map: data of another byte order than the header",
        "map: half precision in mode 1",
        "map: mode 1 in place of 6",
        "stack: data of another byte order than the header",
        "stack: half precision in mode 1",
        "stack: mode 1 in place of 6",
    ),
    "a file may be longer than its header says": (
        "map: an extended header that is not said",
        "map: doubles in mode 2",
        "map: floats in mode 1 or 0",
        "map: line ends changed in the pixels",
        "stack: an extended header that is not said",
        "stack: doubles in mode 2",
        "stack: floats in mode 1 or 0",
        "stack: line ends changed in the pixels",
    ),
    "a stack's axes are not looked at, a map's cell not fully": (
        "map: a skewed cell",
        "map: a voxel size in m",
        "stack: an axis twice",
        "stack: columns and rows swapped",
    ),
    "of an atom that is there twice the first is kept": ("PDB: an atom twice",),
}
SILENT = {name: cause for cause, names in EXPECTED_SILENT.items() for name in names}
SEED = 100


@pytest.mark.parametrize("name", sorted(KINDS))
def test_is_the_same_or_refused(name):
    """A kind that is listed as silent must be so, or leave the list."""
    if name not in SILENT:
        outcome, why = try_kind(name, SEED)
        assert outcome != "WRONG", why
    else:
        outcomes = (try_kind(name, seed)[0] for seed in range(SEED, SEED + 4))
        assert "WRONG" in outcomes, f"is right now: delete it from EXPECTED_SILENT ({name})"


def test_lists_known_kinds():
    assert set(SILENT) <= set(KINDS)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda true: replace(true, images=true.images + (true.place == 1)[:, None, None]),
        lambda true: replace(true, images=np.roll(true.images, 1, axis=0)),
        lambda true: replace(true, rotations=true.rotations.swapaxes(1, 2)),
        lambda true: replace(true, shifts=-true.shifts),
        lambda true: replace(true, shifts=true.shifts * true.pixel_size[0]),
        lambda true: replace(true, pixel_size=true.pixel_size * 1.01),
        lambda true: replace(true, phase_flipped=True),
        lambda true: replace(true, uses=("rlnMicrographName",)),
        lambda true: true.with_ctf(defocus_angle_deg=-true.ctf["defocus_angle_deg"]),
        lambda true: true.with_ctf(voltage_kv=true.ctf["voltage_kv"][::-1].copy()),
        lambda true: true.rows(np.arange(1, len(true))),
    ],
)
def test_notices_what_is_wrong(tmp_path, spoil):
    """Particles that are not those of the file are noticed."""
    scene = Scene(tmp_path, "any", 3)
    true = scene.truth()
    trial = written(scene, true, text_of(scene, {"": one_table(true)}), true, sound=True)
    assert trial.outcome() == ("same", "")
    assert replace(trial, true=spoil(true)).outcome()[0] == "WRONG"


def test_table():
    """A line for each kind, and the sums."""
    lines = table({"a": Counter(same=2, WRONG=1), "b": Counter(refused=3)}).splitlines()
    assert lines[1].split() == ["a", "3", "2", ".", ".", "1"]
    assert lines[-1].split() == ["all", "6", "2", "3", ".", "1"]
