"""Files that appear complete or not at all."""

import os
import tempfile
from pathlib import Path


def is_taken(path: Path) -> bool:
    """Whether something is there already, be it a link to nowhere; a name that cannot be is not taken."""
    return os.path.lexists(path)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file under a temporary name beside its own, then rename it."""
    content = data.encode() if isinstance(data, str) else data
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a name must not outlive a power cut that its content does not
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
