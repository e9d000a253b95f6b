"""Files that appear complete or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def is_taken(path: Path) -> bool:
    """Whether something is there already, be it a link to nowhere; a name that cannot be is not taken."""
    return os.path.lexists(path)


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name when the block ends, and is gone if the block fails."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a name must not outlive a power cut that its content does not
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def appearing_folder(folder: Path) -> Iterator[None]:
    """Make a folder and what is missing above it, and take them away again if the block fails."""
    missing = [each for each in (folder, *folder.parents) if not is_taken(each)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):  # it was never made, or somebody else's file lies there by now
                each.rmdir()
        raise


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file under a temporary name beside its own, then rename it."""
    with appearing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
