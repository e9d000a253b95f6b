"""`python -m nasplat` is the command line too."""

from nasplat.cli import main

main()
