"""A table of the PSNR and SSIM of each network of esrn/tiny, measured once."""

import csv
from functools import cached_property
from importlib.resources import files
from typing import ClassVar

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts
from nasplat.benchmark import Benchmark
from nasplat.data.resolution import PROTOCOL
from nasplat.errors import InputError, TrialFailed
from nasplat.task import Evaluate, Measurement

TABLE = "super_resolution_table.csv"
SPACE = "esrn/tiny"
TEST = "set5_"
"""The prefix of the columns of test metrics."""


class SuperResolutionTable(Benchmark):
    """PSNR and SSIM of all 155 networks of esrn/tiny, from a table.

    The values were measured with the benchmark `super_resolution` at scale 2, on photographs of BSDS500, with 800
    steps of 8 patches. The first training of each network counts. ``performance/super_resolution_table.py`` repeats
    the measurement. Validation metrics are on BSDS500's validation images, the final ones on Set5.

    Args:
        space: The space ``esrn/tiny``.
    """

    trains: ClassVar[bool] = False
    looks_up: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("psnr_db", "ssim", "gain_db")

    @property
    def protocol(self) -> str:
        return f"Upscaled x2, looked up: {PROTOCOL.format(scale=2)}. Validation on images of BSDS500, test on Set5."

    @property
    def io(self) -> IO:
        return self.space.reference_io

    @property
    def fidelity(self) -> int:
        return 1

    def check(self) -> None:
        if self.space.name != SPACE:
            raise InputError(
                f"super_resolution_table has metrics only for the search space {SPACE}, but got {self.space.name}; "
                "train with the benchmark super_resolution"
            )

    def prepare(self) -> None:
        _ = self._rows

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        if task.fidelity != 1 or task.weights is not None:
            raise TrialFailed("no such fidelity", "the table has only complete trainings: ask for fidelity 1")
        return Measurement(task=task, metrics=self._figures(task.architecture, ""))

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        return Measurement(
            task=measurement.task, metrics=self._figures(measurement.task.architecture, TEST), split="test"
        )

    def _figures(self, architecture: Architecture, prefix: str) -> dict[str, float]:
        row = self._rows[self.space.canonical_key(architecture)]
        return {name: row[prefix + name] for name in self.metrics}

    @cached_property
    def _rows(self) -> dict[str, dict[str, float]]:
        """The metrics of every network, by its comma-separated blocks."""
        text = files("nasplat.benchmarks").joinpath(TABLE).read_text(encoding="utf-8")
        return {
            row.pop("blocks").replace(" ", ","): {name: float(value) for name, value in row.items()}
            for row in csv.DictReader(text.splitlines())
        }
