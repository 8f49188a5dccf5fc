"""The one exception that means "your input, not our bug"."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """Bad input: which file, which particle, which value, what is wrong, and what helps.

    `row` counts particles from 1. In `problem`, "{value}" stands for the value. The command line
    prints the sentence that `str` makes and exits with code 2; every other exception is a defect
    of this package.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: Path | str | None = None,
        row: int | None = None,
        value: object = None,
        remedy: str = "",
    ) -> None:
        super().__init__(problem)
        self.problem, self.file, self.row = problem, None if file is None else Path(file), row
        self.value, self.remedy = value, remedy

    def __str__(self) -> str:
        """The sentence: "FILE: particle ROW PROBLEM; REMEDY"."""
        place = "" if self.file is None else f"{self.file}: "
        particle = "" if self.row is None else f"particle {self.row} "
        shown = f"{self.value:g}" if isinstance(self.value, float) else str(self.value)
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{place}{particle}{self.problem.replace('{value}', shown)}{remedy}"


@contextmanager
def about_file(file: Path | str) -> Iterator[None]:
    """Errors that name no file name this one."""
    try:
        yield
    except InputError as error:
        if error.file is None:
            error.file = Path(file)
        raise
