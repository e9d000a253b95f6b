"""Benchmarks that may be given a latency table, or measure latency: what their latency stands for."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nasplat.architecture import Architecture
from nasplat.benchmark import Benchmark
from nasplat.data.manifest import accepted_file, check_file, manifest_of, one_file
from nasplat.errors import InputError
from nasplat.latency.conditions import Conditions, Origin
from nasplat.latency.table import METRIC, TABLE, LatencyTable, read_table


class LatencyKnown(Benchmark):
    """A benchmark that may be given a latency table by an option.

    ``latency_ms`` is then known without measuring, and only architectures that the table covers are feasible.
    """

    latency_table: str | None

    measured_under: Conditions | None = None
    """The conditions under which latency is measured if there is no table; None if no option states them."""

    @cached_property
    def _latencies(self) -> LatencyTable | None:
        return None if self.latency_table is None else read_table(Path(self.latency_table), self.space, self.io)

    def check_table(self) -> None:
        """Read the table for the first time, and refuse it if it does not fit the space; for `check`.

        Raises:
            InputError: See `read_table`.
        """
        if self.latency_table is not None:
            check_file(manifest_of(self.recorded, TABLE), Path(self.latency_table))
        _ = self._latencies

    def record_data(self) -> dict[str, Any]:
        if self.latency_table is None:
            return {}
        kept = manifest_of(self.recorded, TABLE)
        manifest = kept or one_file(TABLE, Path(self.latency_table))
        return {TABLE: manifest.to_json()}

    def accept_data(self) -> dict[str, Any]:
        if self.latency_table is None:
            return {}
        manifest = accepted_file(manifest_of(self.recorded, TABLE), TABLE, Path(self.latency_table))
        return {TABLE: manifest.to_json()}

    def feasible(self, architecture: Architecture) -> bool:
        return self._latencies is None or architecture in self._latencies

    def analytic_metrics(self, architecture: Architecture) -> Mapping[str, float]:
        return {} if self._latencies is None else {METRIC: self._latencies.latency_ms(architecture)}

    @property
    def enumerable_members(self) -> Sequence[Architecture] | None:
        return None if self._latencies is None else self._latencies.listed

    @property
    def latency_origin(self) -> Origin | None:
        """How the table was measured; None without a table, or if it cannot be read any more."""
        try:
            return None if self._latencies is None else self._latencies.origin
        except InputError:
            return None

    @property
    def latency_conditions(self) -> Conditions | None:
        """What a latency of this benchmark stands for: its table's conditions, or its options'; None if unknown."""
        if self.latency_table is None:
            return self.measured_under
        origin = self.latency_origin
        return None if origin is None else origin.conditions

    @property
    def latency_protocol(self) -> str:
        """One line on what ``latency_ms`` stands for; empty if there is no such metric."""
        if self.latency_table is not None:
            return f"{METRIC} is predicted by {Path(self.latency_table).name}: {self.latency_origin or 'unreadable'}."
        return f"{METRIC} is measured: {self.measured_under}." if METRIC in self.metrics else ""
