"""The command line."""

import sys


def main() -> None:
    """Run a command and exit; Ctrl-C while the command is still being loaded is no traceback either."""
    try:
        from nasplat.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()
