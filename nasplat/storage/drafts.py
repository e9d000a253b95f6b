"""Drafts of folders that outlive a killed process, and their deletion by a later one.

While a process fills the draft ``.NAME.0123abcd``, it holds a lock on the file ``.NAME.0123abcd.nasplat-draft-HOST``
beside it, which it deletes at the end. The system releases the lock of a killed process. So a draft whose marker is
there and can be locked belongs to nobody. Where there are no locks, drafts have no markers, and nobody deletes them.

Some shares have locks that other hosts do not see. So the draft of another host is only deleted after a day.
"""

import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock

from nasplat.storage.locking import held

_MARKER = re.compile(r"(\..+\.[0-9a-f]{8})\.nasplat-draft(?:-(.+))?")
PATIENCE = 24 * 60 * 60
"""Seconds after which the draft of another host is taken for abandoned."""


@contextmanager
def marked(draft: Path) -> Iterator[None]:
    """Mark a draft as this process's until the block ends; the draft is made inside the block."""
    marker = draft.with_name(f"{draft.name}.nasplat-draft-{_host()}")
    with ExitStack() as stack:
        stack.callback(_delete, marker)
        with suppress(OSError, filelock.Timeout):  # no locks here; what else is wrong is said of the draft itself
            stack.enter_context(held(marker, seconds=0))
        yield


def delete_abandoned(parent: Path) -> None:
    """Delete the drafts in a folder whose process is gone. What cannot be deleted, or is not marked, stays."""
    with suppress(OSError):
        for marker in sorted(parent.iterdir()):
            found = _MARKER.fullmatch(marker.name)
            if found is None or not _is_empty_file(marker):
                continue
            if found[2] != _host() and time.time() - marker.stat().st_mtime < PATIENCE:
                continue
            draft = parent / found[1]
            with suppress(OSError, filelock.Timeout), held(marker, seconds=0):
                if draft.is_dir() and not draft.is_symlink():
                    shutil.rmtree(draft)
                _delete(marker)


def _host() -> str:
    """The name of this machine, as part of the name of a file."""
    return re.sub(r"[^\w.-]", "_", socket.gethostname())


def _is_empty_file(path: Path) -> bool:
    with suppress(OSError):
        status = path.lstat()
        return stat.S_ISREG(status.st_mode) and status.st_size == 0
    return False


def _delete(marker: Path) -> None:
    with suppress(OSError):
        marker.unlink()
