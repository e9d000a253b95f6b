"""The artifacts of a run, kept as files named by their content."""

import os
import re
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path

from nasplat.artifact import Artifacts, Handle
from nasplat.errors import ArtifactError, StorageError
from nasplat.storage.files import is_taken, read_file, remedy, write_atomically

SHARED = "shared"
"""A file of this name in a store says that several runs use it, and that none of them may delete anything."""
_FILE = re.compile(r"([0-9a-f]{62})\.safetensors|\.([0-9a-f]{62})\.safetensors\.[0-9a-f]{8}")
"""The file of an artifact, or the incomplete file of a killed writer, which `write_atomically` names so."""


class ArtifactStore(Artifacts):
    """A folder of artifacts: ``ab/cdef….safetensors`` has the content with the hash ``abcdef…``.

    Args:
        folder: Created with the first artifact.

    Attributes:
        added: Bytes that were put here since the last collection.
        kept: Bytes that the last collection left.
        written: Digests of the artifacts that this object has written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.added = 0
        self.kept = 0
        self.written: set[str] = set()

    def path(self, handle: Handle) -> Path:
        """The path of the artifact's file, which may not exist."""
        return self.folder / handle.digest[:2] / f"{handle.digest[2:]}.safetensors"

    def put(self, data: bytes) -> Handle:
        """Keep the data as a file. A damaged file of this name is replaced.

        Raises:
            StorageError: It cannot be written, as when the disk is full, or its folder is a link.
        """
        handle = Handle.of(data)
        with suppress(ArtifactError):
            self.get(handle)
            return handle
        path = self.path(handle)
        try:
            self._check_place(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except OSError as error:
            raise StorageError(
                f"an artifact cannot be written to {self.folder}: {error.strerror}; {remedy(error)}"
            ) from error
        self.written.add(handle.digest)
        self.added += len(data)
        return handle

    def get(self, handle: Handle) -> bytes:
        if re.fullmatch("[0-9a-f]{64}", handle.digest) is None:  # it would lead out of the folder
            raise ArtifactError(
                f"artifact {handle.digest!r} cannot be read: the name of an artifact must be 64 hexadecimal digits"
            )
        try:
            data = read_file(self.path(handle))
        except FileNotFoundError as error:
            raise ArtifactError(f"artifact {handle} is missing: there is no file {self.path(handle)}") from error
        except OSError as error:
            raise ArtifactError(f"artifact {handle} cannot be read: {error}") from error
        if Handle.of(data) != handle:
            raise ArtifactError(f"artifact {handle} is damaged: its content hashes to {Handle.of(data)}")
        return data

    def _check_place(self, path: Path) -> None:
        """Refuse to write through a link, but for new files in a store that is a link as a whole.

        Raises:
            StorageError: The file's folder is a link, or the store is one and has a damaged file of this name.
        """
        if path.parent.is_symlink():
            raise StorageError(
                f"an artifact cannot be written to {path.parent}, which is a link: the folders of a store must be its "
                "own; put a copy of the folder in place of the link"
            )
        if self.folder.is_symlink() and is_taken(path):
            raise StorageError(
                f"an artifact cannot be written to {path}: a damaged file has its name, and the store {self.folder} "
                "is a link, through which no file is replaced; delete the damaged file"
            )

    @property
    def shared_with(self) -> str:
        """The reason why others may need the files of this store; empty if it is the run's alone.

        A second mount of a folder of the same file system is not noticed.
        """
        with suppress(OSError):  # there is no store yet, or its name is impossible
            if self.folder.is_symlink():
                return f"it is a link to {self.folder.readlink()}"
            if self.folder.lstat().st_dev != self.folder.parent.stat().st_dev:
                return "it is a mount point"
            if is_taken(self.folder / SHARED):
                return f"another run links to it; delete {self.folder / SHARED} when none does any more"
        return ""

    def notes(self) -> list[str]:
        """What is never deleted here, and why, one line each."""
        if why := self.shared_with:
            return [f"artifacts that are not needed any more stay in {self.folder}: {why}"]
        with suppress(OSError):
            return [
                f"artifacts that are not needed any more stay in {folder}: it is a link to {folder.readlink()}"
                for folder in sorted(self.folder.iterdir())
                if folder.is_symlink()
            ]
        return []

    def collect(self, wanted: Set[str], logged: Set[str]) -> None:
        """Delete the artifacts of a run that it does not want any more, and incomplete files of a killed writer.

        Only regular files are deleted, and only those named by a digest that is logged or that this object has
        written. Links are not followed. Nothing is deleted from a store that is shared; one that is a link gets the
        file `SHARED`, so that a run whose own folder it is deletes nothing there either.

        Only the run's writer may call it, and not during a `put`. A file that cannot be deleted stays until the next
        collection.

        Args:
            wanted: The digests of the artifacts that stay.
            logged: The digests that the outcomes in the run's log name.
        """
        self.added = self.kept = 0
        if self.shared_with:
            if self.folder.is_symlink() and not is_taken(self.folder / SHARED):
                with suppress(OSError):
                    write_atomically(self.folder / SHARED, "Several runs use these artifacts; none deletes any.\n")
            return
        own = logged | self.written
        for entry, digest, complete in self._files():
            if digest not in own:
                continue
            with suppress(OSError):
                if complete and digest in wanted:
                    self.kept += entry.stat(follow_symlinks=False).st_size
                else:
                    Path(entry).unlink()

    def _files(self) -> Iterator[tuple[os.DirEntry[str], str, bool]]:
        """The regular files that are named as artifacts, with digest, and whether they are complete.

        Names are compared as the file system spells them: where `AB` is found under the name `ab`, it is none.
        """
        with suppress(OSError):
            device = self.folder.lstat().st_dev
            for folder in sorted(self.folder.iterdir()):
                with suppress(OSError):
                    if re.fullmatch("[0-9a-f]{2}", folder.name) is None or folder.is_symlink():
                        continue
                    if folder.lstat().st_dev != device:
                        continue
                    with os.scandir(folder) as entries:
                        for entry in list(entries):
                            found = _FILE.fullmatch(entry.name)
                            if found is not None and entry.is_file(follow_symlinks=False):
                                yield entry, folder.name + (found[1] or found[2]), found[1] is not None
