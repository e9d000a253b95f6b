"""How well each network of esrn/tiny enlarges pictures, measured once for everybody and looked up."""

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
"""What the columns of test figures begin with."""


class SuperResolutionTable(Benchmark):
    """PSNR and SSIM of all 155 networks of esrn/tiny, from a table.

    By the benchmark `super_resolution`, twofold, on photographs of BSDS500, with 800 steps of 8 patches; the first
    training of each counts. ``performance/super_resolution_table.py`` does it again. Validation figures are of
    BSDS500's validation pictures, the final ones of Set5.

    Args:
        space: The space ``esrn/tiny``.
    """

    trains: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ("psnr_db", "ssim", "gain_db")

    @property
    def protocol(self) -> str:
        return f"Enlarged x2, looked up: {PROTOCOL.format(scale=2)}. Validation pictures of BSDS500; Set5 for the test."

    @property
    def io(self) -> IO:
        return self.space.reference_io

    @property
    def fidelity(self) -> int:
        return 1

    def check(self) -> None:
        if self.space.name != SPACE:
            raise InputError(
                f"super_resolution_table has figures of the search space {SPACE} alone, but got {self.space.name}; "
                "train with the benchmark super_resolution"
            )

    def prepare(self) -> None:
        _ = self._rows

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        if task.fidelity != 1 or task.weights is not None:
            raise TrialFailed("no such fidelity", "networks of the table were trained whole: ask for fidelity 1")
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
        """The figures of every network, by its blocks with commas between them."""
        text = files("nasplat.benchmarks").joinpath(TABLE).read_text(encoding="utf-8")
        return {
            row.pop("blocks").replace(" ", ","): {name: float(value) for name, value in row.items()}
            for row in csv.DictReader(text.splitlines())
        }
