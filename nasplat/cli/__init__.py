"""The command line."""

from nasplat.cli.app import main

__all__ = ["main"]
