"""The command line."""

import sys


def main() -> None:
    """Run a command and exit. Ctrl-C prints no traceback, also while the command is being loaded."""
    try:
        from nasplat.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()
