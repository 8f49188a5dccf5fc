"""Where the shell's `cryostar-nb` begins: Ctrl-C is heard from the first moment, while the libraries are still being read."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C is one line and exit code 130."""
    try:
        from cryostar_nb.cli import main as run  # it takes seconds
    except KeyboardInterrupt:
        print("cryostar-nb: stopped", file=sys.stderr)
        sys.exit(130)
    run()
