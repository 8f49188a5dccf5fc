"""The one exception that means "your input, not our bug"."""


class InputError(ValueError):
    """Bad input. The message names the file, the row or residue, the value, and the remedy.

    The command line prints it as one line and leaves with exit code 2; every other exception is a defect of this package.
    """
