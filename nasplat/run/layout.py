"""The files in a run directory: their names, and that they are its own."""

import os
from pathlib import Path

from nasplat.errors import InputError

CONFIG = "config.yaml"
"""The resolved configuration."""
ENVIRONMENT = "environment.json"
"""Versions, command and revision when the run was made."""
DATA = "data.json"
"""What the run was trained on: files by part with their contents, classes, scaling."""
LOG = "events.sqlite"
"""The event log."""
LOCK = "writer.lock"
"""Held by the one process that writes the run."""
ARTIFACTS = "artifacts"
"""Weights and states by content."""
LOG_FILES = (LOG, *(f"{LOG}-{ending}" for ending in ("wal", "shm", "journal")))
"""The event log, and the files that SQLite may keep beside it."""


def refuse_links(folder: Path) -> None:
    """Check that the files of a run directory are its own, so that nothing foreign is shown or written as the run's.

    The artifacts may be elsewhere: they are compared with their digests.

    Raises:
        InputError: A file is a link.
    """
    for name in (CONFIG, ENVIRONMENT, DATA, *LOG_FILES, LOCK):
        if os.path.islink(folder / name):  # noqa: PTH114  an impossible name is no link
            raise InputError(
                f"{folder / name} is a link, but the files of a run must be in its directory; put a copy of the file "
                "in place of the link, or copy the run without links, as with cp -rL"
            )
