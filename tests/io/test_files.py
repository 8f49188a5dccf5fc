"""Files are whole or as they were, also when the disk is full or the run is killed."""

import errno

import numpy as np
import pytest
from refusals import refused

from cryostar_nb.io.files import MetricsLog, check_outputs, check_room, replacing, write_text


def fill_up(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_fails_leaves_the_old_file_and_no_other(tmp_path):
    write_text(tmp_path / "notes.txt", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "notes.txt") as temporary:
        temporary.write_text("half of the new")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "old"


def test_a_full_disk_is_one_line_that_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    write_text(tmp_path / "notes.txt", "old")
    with refused("notes.txt"), replacing(tmp_path / "notes.txt"):
        fill_up()
    assert (tmp_path / "notes.txt").read_text() == "old"


def test_an_error_without_a_number_counts_as_a_full_disk_only_where_there_is_no_room(
    tmp_path, monkeypatch
):
    with (
        pytest.raises(OSError, match="4000 requested and 96 written"),
        replacing(tmp_path / "latents.npy"),
    ):
        raise OSError("4000 requested and 96 written")  # as NumPy does
    room = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("cryostar_nb.io.files.shutil.disk_usage", lambda _: room)
    with refused("latents.npy"), replacing(tmp_path / "latents.npy"):
        raise OSError("4000 requested and 96 written")
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "latents.npy"):
        (tmp_path).write_bytes(b"")


def write_lines(path, steps, keep_before=0):
    with MetricsLog(path, keep_before=keep_before) as log:
        for step in steps:
            log.write({"step": step, "loss": step / 8})


def test_a_log_goes_on_where_its_checkpoint_is(tmp_path):
    write_lines(tmp_path / "metrics.csv", [10, 20, 30])
    write_lines(tmp_path / "metrics.csv", [30, 40], keep_before=20)
    assert (tmp_path / "metrics.csv").read_text().split() == [
        "step,loss",
        "10,1.25",
        "20,2.5",
        "30,3.75",
        "40,5.0",
    ]


def test_a_log_begins_anew_without_a_checkpoint(tmp_path):
    write_lines(tmp_path / "metrics.csv", [10, 20])
    write_lines(tmp_path / "metrics.csv", [10])
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,loss", "10,1.25"]


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_log_that_was_cut_anywhere_goes_on(cut, tmp_path):
    path = tmp_path / "metrics.csv"
    write_lines(path, [10, 20])
    whole = path.read_text()
    path.write_text(whole[: min(cut, len(whole))])
    write_lines(path, [30], keep_before=20)
    lines = path.read_text().split()
    assert (
        lines[-1] == "30,3.75"
        and set(lines) <= {"step,loss", "10,1.25", "20,2.5", "30,3.75"}
        and lines[0] == "step,loss"
    )


def test_a_full_disk_stops_the_log_with_one_line(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path / "metrics.csv", keep_before=0)
    log._handle.close()
    monkeypatch.setattr(
        log,
        "_handle",
        type("Full", (), {"write": fill_up, "flush": fill_up, "close": lambda self: None})(),
    )
    with refused("metrics.csv"):
        log.write({"step": 1})


def test_no_path_is_no_log(tmp_path):
    write_lines(None, [1])
    assert not np.any(list(tmp_path.iterdir()))


def test_room_is_looked_for_on_the_disk_of_the_nearest_folder(tmp_path, monkeypatch):
    asked = []
    room = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(
        "cryostar_nb.io.files.shutil.disk_usage", lambda path: asked.append(path) or room
    )
    check_room(tmp_path / "new" / "deep" / "stack.mrcs", 1000, "the stack")
    with refused("stack.mrcs", value=1001):
        check_room(tmp_path / "new" / "deep" / "stack.mrcs", 1001, "the stack")
    assert asked == [tmp_path, tmp_path]


def test_outputs_are_neither_folders_nor_inputs_nor_there_already(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for name in ("folder", "file/inside", "x" * 300):
        with refused((tmp_path / name).name):
            check_outputs([tmp_path / name], overwrite=True)
    with refused("file"):
        check_outputs([tmp_path / "file"])
    with refused("file"):
        check_outputs([tmp_path / "file"], inputs=[None, tmp_path / "file"], overwrite=True)
    check_outputs([tmp_path / "file", tmp_path / "new" / "file"], overwrite=True)
