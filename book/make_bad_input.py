"""Write `book/bad_input.md` from the table of broken inputs: `python book/make_bad_input.py`."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "book" / "bad_input.md"

HEAD = """# What bad input gets

Each line was made by breaking a sound file and reading it, and is checked by the tests
(`tests/io/test_bad_input.py`). On the command line it is all there is to see, and the exit code is
2. The dots stand for what another library says. In Python the error is an `InputError`, with the
file, the particle and the value as its fields `file`, `row` and `value`.

| what is wrong | message |
|---|---|
"""


def page() -> str:
    """The text of the page."""
    from bad_inputs import CASES

    rows = (f"| {case.what} | `{case.message}` |\n" for case in CASES)
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
