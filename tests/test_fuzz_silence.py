"""Every kind of change of `make fuzz-silence` once."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fuzz_silence import table, try_kind
from silence_kinds import KINDS, Scene
from silence_kinds.star import one_table, text_of, written

SEED = 100


@pytest.mark.parametrize("name", sorted(KINDS))
def test_is_the_same_or_refused(name):
    outcome, why = try_kind(name, SEED)
    assert outcome != "WRONG", why


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
