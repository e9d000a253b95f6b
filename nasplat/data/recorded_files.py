"""Benchmarks of single files, which a run records with their contents."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from nasplat.benchmark import Benchmark
from nasplat.data.manifest import FILE_REMEDY, DataChanged, accepted_file, check_file, manifest_of, one_file


class RecordedFiles(Benchmark):
    """A benchmark of single files, such as tables, which a run records with their contents."""

    @abstractmethod
    def files(self) -> dict[str, Path]:
        """The files that are read, by the purpose under which a run records them.

        Raises:
            InputError: A table is missing.
        """

    def check_files(self) -> None:
        """Refuse files that are not those that the run recorded; for `check`.

        Raises:
            InputError: A file has changed, or is missing.
        """
        if self.recorded:
            for purpose, path in self.files().items():
                recorded = manifest_of(self.recorded, purpose)
                if recorded is None and path.is_file():
                    raise DataChanged(f"{path} was not there when the run was created", FILE_REMEDY)
                check_file(recorded, path)

    def record_data(self) -> dict[str, Any]:
        return {
            purpose: (manifest_of(self.recorded, purpose) or one_file(purpose, path)).to_json()
            for purpose, path in self.files().items()
            if path.is_file()
        }

    def accept_data(self) -> dict[str, Any]:
        return {
            purpose: accepted_file(manifest_of(self.recorded, purpose), purpose, path).to_json()
            for purpose, path in self.files().items()
            if path.is_file()
        }
