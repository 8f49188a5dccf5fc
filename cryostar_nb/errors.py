"""The one exception that means "your input, not our bug", and the check of settings by their sign."""

from collections.abc import Iterable
from operator import ge, gt


class InputError(ValueError):
    """Bad input. The message names the file, the row or residue, the value, and the remedy.

    The command line prints it as one line and leaves with exit code 2; every other exception is a defect of this package.
    """


def check_signs(
    settings: object, *, positive: Iterable[str] = (), not_negative: Iterable[str] = ()
) -> None:
    """Raise InputError for the first setting of these names whose sign, or being no number, cannot be meant; None is left out."""
    for names, fits, wanted in (
        (positive, gt, "a positive number"),
        (not_negative, ge, "zero or a positive number"),
    ):
        for name in names:
            value = getattr(settings, name)
            if value is not None and not fits(value, 0):
                raise InputError(f"{name} = {value}; give {wanted}")
