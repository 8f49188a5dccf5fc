"""The command line: words to a command, errors to one line.

What each command takes and does stands in `commands`, what the terminal shows of its result in
`pages.terminal`.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from cryostar_nb import __version__, commands
from cryostar_nb.errors import InputError
from cryostar_nb.pages.terminal import describe

SUBCOMMANDS = {command.__name__.lower(): command for command in commands.COMMANDS}

# Commands whose defaults depend on what is given, and what must be given to them.
REQUIRED: dict[Any, tuple[str, ...]] = {
    commands.Train: ("particles", "reference", "out"),
    commands.Simulate: ("start", "out"),
}


def parse(words: list[str]) -> Any:
    """The command that these words of the shell mean.

    The defaults of `train` are those of its preset, or of the run that it resumes; those of
    `simulate` may be those of realistic particles. Raises InputError for a value that a setting
    cannot have; other mistakes are tyro's to say.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return _parse(words)
    except SystemExit as stop:
        error: BaseException | None = stop
        while error is not None:  # tyro wraps what a command's own checks raise
            if isinstance(error, InputError):
                raise error from None
            error = error.__cause__ or error.__context__
        sys.stderr.write(said.getvalue())
        raise


def _parse(words: list[str]) -> Any:
    command: Any = SUBCOMMANDS.get(words[0]) if words else None
    if command is None:  # a mistake, or a question about all of them
        kinds = tuple(
            Annotated[kind, tyro.conf.subcommand(name)] for name, kind in SUBCOMMANDS.items()
        )
        about = "Atomic-model heterogeneity analysis in cryo-EM."
        return tyro.cli(Union[kinds], args=words, prog="cryostar-nb", description=about)  # type: ignore[call-overload]  # noqa: UP007
    options: dict[str, Any] = {"args": words[1:], "prog": f"cryostar-nb {words[0]}"}
    if command in REQUIRED and not {"-h", "--help"} & set(words):
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("--preset", nargs="?")
        early.add_argument("--resume", action="store_true")
        early.add_argument("--realistic", action="store_true")
        early.add_argument("--out", nargs="?", type=Path)
        early.add_argument("--poses", nargs="?", type=Path)
        given = {k: v for k, v in vars(early.parse_known_args(words[1:])[0]).items() if v}
        missing = dict.fromkeys(REQUIRED[command], tyro.MISSING)
        options["default"] = _unchecked(command, missing | command.defaults(given))
    return tyro.cli(command, **options)


def _unchecked(command: type, values: dict[str, Any]) -> Any:
    """A command with places that are still to be filled, which its checks would refuse."""
    partial: Any = object.__new__(command)
    for entry in dataclasses.fields(command):
        value = values.get(entry.name, entry.default)
        if value is dataclasses.MISSING and callable(entry.default_factory):
            value = entry.default_factory()
        object.__setattr__(partial, entry.name, value)
    return partial


def main() -> None:
    """Run a command. Bad input is one line on standard error and exit code 2; Ctrl-C is 130."""
    words = sys.argv[1:] or ["--help"]
    if words == ["--version"]:
        print(f"cryostar-nb {__version__}")
        return
    try:
        command = parse(words)
        if text := describe(command, command.run()):
            print(text)
    except InputError as error:
        print(f"cryostar-nb: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(f"cryostar-nb: {str(stop) or 'stopped'}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os._exit(1)
