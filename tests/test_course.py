"""Seals: they tell a right answer from a wrong one, and do not show it."""

import json

import pytest
from seal import SEALS, all_seals, sealed

from cryostar_nb import course
from cryostar_nb.errors import InputError

ANSWERS = {
    "99.1": {"value": 3.57, "tolerance": 0.02, "hint": "Square, then mean.", "afterword": "Far."},
    "99.2": {"value": [4, -2.5], "tolerance": [0.5, 0.1], "hint": "Two of them."},
}


@pytest.fixture
def seals(monkeypatch):
    made = {name: sealed(name, answer) for name, answer in ANSWERS.items()}
    monkeypatch.setattr(course, "_seals", lambda: made)
    return made


@pytest.mark.parametrize("answer", [3.57, 3.5501, 3.5899])
def test_an_answer_within_the_tolerance_opens_the_seal(seals, capsys, answer):
    course.check_number("99.1", answer)
    assert capsys.readouterr().out == "Exercise 1: right. Far.\n"


@pytest.mark.parametrize("answer", [3.5499, 3.5901, -3.57, 0.0])
def test_another_gets_the_hint(seals, capsys, answer):
    course.check_number("99.1", answer)
    assert capsys.readouterr().out == "Exercise 1: not right yet. Square, then mean.\n"


def test_several_numbers_have_an_order_and_a_tolerance_each(seals, capsys):
    for answer in [(4.4, -2.45), (-2.5, 4), (4, -2.7), 4, None]:
        course.check_number("99.2", answer)
    right, *wrong, one, none = capsys.readouterr().out.splitlines()
    assert right == "Exercise 2: right." and all("not right yet" in line for line in wrong)
    assert "2 are asked for" in one and "no answer yet" in none


def test_a_seal_shows_neither_the_answer_nor_the_afterword(seals):
    assert "Far" not in json.dumps(seals) and "3.57" not in json.dumps(seals)


def test_an_unknown_exercise_is_refused(seals):
    with pytest.raises(InputError, match=r"there is no exercise 99.3; give one of 99.1, 99.2"):
        course.check_number("99.3", 1)


def test_the_stored_seals_are_those_of_the_solutions():
    assert json.loads(SEALS.read_text(encoding="utf-8")) == all_seals(), "run: make seal"
