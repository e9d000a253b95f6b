"""The artifacts of a run, kept as files named by their content."""

import re
from collections.abc import Set
from pathlib import Path

from nasplat.artifact import Artifacts, Handle
from nasplat.errors import ArtifactError, StorageError
from nasplat.storage.files import read_file, remedy, write_atomically


class ArtifactStore(Artifacts):
    """A folder of artifacts: ``ab/cdef….safetensors`` has the content with the hash ``abcdef…``.

    Args:
        folder: Created with the first artifact.

    Attributes:
        added: Bytes that were put here since the last collection.
        kept: Bytes that the last collection left.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.added = 0
        self.kept = 0

    def path(self, handle: Handle) -> Path:
        """The path of the artifact's file, which may not exist."""
        return self.folder / handle.digest[:2] / f"{handle.digest[2:]}.safetensors"

    def put(self, data: bytes) -> Handle:
        """Keep the data as a file.

        Raises:
            StorageError: It cannot be written, as when the disk is full.
        """
        handle = Handle.of(data)
        path = self.path(handle)
        if not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, data)
            except OSError as error:
                raise StorageError(
                    f"an artifact cannot be written to {self.folder}: {error.strerror}; {remedy(error)}"
                ) from error
            self.added += len(data)
        return handle

    def get(self, handle: Handle) -> bytes:
        if re.fullmatch("[0-9a-f]{64}", handle.digest) is None:  # it would lead out of the folder
            raise ArtifactError(
                f"artifact {handle.digest!r} cannot be read: the name of an artifact must be 64 hexadecimal digits"
            )
        try:
            data = read_file(self.path(handle))
        except OSError as error:
            raise ArtifactError(f"artifact {handle} cannot be read: {error}") from error
        if Handle.of(data) != handle:
            raise ArtifactError(f"artifact {handle} is damaged: its content hashes to {Handle.of(data)}")
        return data

    def collect(self, wanted: Set[str]) -> None:
        """Delete all files that no wanted digest names, including incomplete files of a killed writer.

        Only the run's writer may call it, and not during a `put`. A file that cannot be deleted stays until the next
        collection.
        """
        self.added = self.kept = 0
        for path in self.folder.glob("*/*"):
            digest = path.parent.name + path.name.removesuffix(".safetensors")
            try:
                if digest in wanted and path.suffix == ".safetensors":
                    self.kept += path.stat().st_size
                else:
                    path.unlink()
            except OSError:
                continue
