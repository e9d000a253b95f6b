"""The files in a run directory: their names, and that they are its own."""

import os
import stat
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


def check_files(folder: Path) -> None:
    """Check that the files of a run directory are its own, so that nothing foreign is shown or written as the run's.

    The artifacts may be elsewhere: they are compared with their digests. SQLite and locks open their files as they
    are, and would wait for a pipe for ever.

    Raises:
        InputError: A file is a link; or a file of the log, or the lock, is a pipe, a device, a socket or a folder.
    """
    for name in (CONFIG, ENVIRONMENT, DATA, *LOG_FILES, LOCK):
        if os.path.islink(folder / name):  # noqa: PTH114  an impossible name is no link
            raise InputError(
                f"{folder / name} is a link, but the files of a run must be in its directory; put a copy of the file "
                "in place of the link, or copy the run without links, as with cp -rL"
            )
    for name in (*LOG_FILES, LOCK):
        if os.path.lexists(folder / name) and not os.path.isfile(folder / name):  # noqa: PTH113
            raise InputError(
                f"{folder / name} is {_kind((folder / name).lstat().st_mode)}, but the files of a run must be regular "
                "files; delete it, or put the file of another copy of the run in its place"
            )


def _kind(mode: int) -> str:
    """What a path is that is no regular file, in words."""
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a device")
