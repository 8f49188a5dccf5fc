"""Every broken input of the book's table gets the line that the table promises."""

import random
import re
from pathlib import Path

import fuzz_readers
import numpy as np
import pytest
from bad_inputs import CASES, COUNT, cs, error_of, pickles, star, write_sound_files

from cryostar_nb.errors import InputError


def test_the_sound_files_are_sound(tmp_path):
    write_sound_files(tmp_path)
    for call in (star(tmp_path), cs(tmp_path), pickles(tmp_path)):
        assert len(call()) == COUNT


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.break_it.__name__)
def test_broken_input_gets_one_line_with_its_file_particle_and_value(case, tmp_path):
    error = error_of(case, tmp_path)
    assert (error.file.name, error.row) == (case.file, case.row)
    np.testing.assert_equal(error.value, case.value)
    assert error.remedy and "\n" not in str(error)
    message = str(error).replace(f"{tmp_path}/", "")
    message = message.replace(str(tmp_path), "the folder of the file")
    pattern = re.escape(case.message).replace(re.escape("..."), ".+")
    assert re.fullmatch(pattern, message) and len(message) < 400, message


def test_every_message_names_its_file():
    assert len(CASES) >= 40 and len({case.what for case in CASES}) == len(CASES)
    for case in CASES:
        particle = f"particle {case.row} " if case.row else ""
        assert case.message.startswith(f"{case.file}: {particle}")


@pytest.mark.parametrize(
    "reader", ["star", "cs", "passthrough", "poses", "ctfs", "stack", "map", "indices"]
)
def test_files_changed_at_random_are_read_or_refused(reader, tmp_path):
    """Thirty of them; `make fuzz` takes thousands, and watches time and memory."""
    seeds, folder = tmp_path / "seeds", tmp_path / "work"
    seeds.mkdir()
    folder.mkdir()
    fuzz_readers.make_seeds(seeds)
    for name in ("stack.mrcs", "pose.pkl", "ctf.pkl"):
        (folder / name).write_bytes((seeds / name).read_bytes())
    files, read = fuzz_readers.targets(seeds, folder)[reader]
    rng, refused = random.Random(reader), 0
    for path in (rng.choice(files) for _ in range(30)):
        changed = folder / f"fuzzed{path.suffix}"
        changed.write_bytes(fuzz_readers.mutate(path.read_bytes(), rng, files[0].read_bytes()))
        try:
            read(changed)
        except InputError:
            refused += 1
    assert refused > 5


def test_the_page_of_the_book_is_this_table():
    """Run book/make_bad_input.py when this fails."""
    page = (Path(__file__).parents[2] / "book" / "bad_input.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert rows == [f"| {case.what} | `{case.message}` |" for case in CASES]
