"""Where the shell's `cryostar-nb` begins: Ctrl-C is one line from the first moment on."""

import os
import sys


def main() -> None:
    """Run the command line. Ctrl-C is one line and exit code 130."""
    # Looking through all installed packages for plug-ins takes longer than most answers.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        from cryostar_nb.cli import main as run
    except KeyboardInterrupt:
        print("cryostar-nb: stopped", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
