"""`python -m nasplat` runs the command line."""

from nasplat.cli import main

try:
    main()
finally:
    # Dataclasses use `exec` of a string. If an interrupt leaves such an `exec`, CPython stores that fact, and under
    # `-m` the process then ends by SIGINT, whatever the exit code. A completed `exec` clears it.
    exec("")
