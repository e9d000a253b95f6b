"""`python -m nasplat` is the command line too."""

from nasplat.cli import main

try:
    main()
finally:
    # CPython remembers an interrupt that left `exec` of a string, as dataclasses use it, and under `-m` would then
    # end by SIGINT, whatever the exit code. An `exec` that comes to its end makes it forget.
    exec("")
