"""Collection of artifacts: what no task can refer to any more is deleted while the search goes on."""

from collections.abc import Callable, Iterable

from nasplat.architecture import Architecture
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.strategy import Strategy, named_digests
from nasplat.task import STATE, Measurement, Outcome, Task, Trained, needed_by

COLLECT_BYTES = 256 * 2**20
"""How much must have come to the artifacts before it is worth looking which of them are still needed."""
COLLECT_GROWTH = 0.5
"""Past that, it must be this part of what was needed the last time."""


class Collector:
    """Knows which artifacts may still be needed, and deletes the others.

    Kept are what measurements left but the states that only a further task could use, and every artifact that the
    strategy's state or a task in flight names. A strategy knows what it was told, and whatever of that it can still
    use is in its state; so what neither names is out of its reach for good. Of shared weights there are kept the
    newest, those named so, and those behind the measurements of the highest fidelity, which fronts are made of; what
    measurements with shared weights left is kept as long as these are. Where a strategy `replaces_parts`, what a
    measurement left goes when another has continued it.

    Args:
        artifacts: Where the executor keeps artifacts; None if nothing is to be deleted.
        strategy: Whose state names artifacts.
    """

    def __init__(self, artifacts: ArtifactStore | None, strategy: Strategy) -> None:
        self.artifacts = artifacts
        self.strategy = strategy
        self._left: set[str] = set()
        self._parts: dict[tuple[Architecture, int], set[str]] = {}
        self._shared: list[tuple[str, Measurement]] = []
        self._newest_supernet = ""

    def add(self, outcome: Outcome) -> None:
        """Note what an outcome left."""
        if isinstance(outcome, Trained):
            self._newest_supernet = outcome.weights.digest
        elif isinstance(outcome, Measurement) and outcome.remembered is None:
            if outcome.task.weights is None:
                self._keep(outcome)
            else:
                self._shared.append((outcome.task.weights.digest, outcome))

    def collect(self, outstanding: Iterable[Task], sync: Callable[[], None], *, at_least: int) -> None:
        """Delete the artifacts that no later task can name, if enough have come in to make it worth while.

        Args:
            outstanding: The tasks that are asked for and not answered.
            sync: Makes the log safe: what a power cut could take back might need again what is deleted.
            at_least: The bytes that must have come in.
        """
        store = self.artifacts
        if store is None or store.added < at_least or (at_least and store.added < COLLECT_GROWTH * store.kept):
            return
        if not store.folder.is_dir():
            return
        wanted = self._left.union({self._newest_supernet}, *self._parts.values())
        wanted |= named_digests(self.strategy)
        for task in outstanding:
            wanted |= needed_by(task)
        wanted |= self._left_with_shared(wanted)
        sync()
        store.collect(wanted)

    def _keep(self, measurement: Measurement) -> None:
        """Keep what a measurement left for good; of parts that continue one another only the last, if that is said."""
        if not self.strategy.replaces_parts:
            self._left |= _lasting(measurement)
            return
        parts = self._parts.setdefault((measurement.architecture, measurement.task.replicate), set())
        if measurement.task.continues is not None:
            parts.clear()
        parts |= _lasting(measurement)

    def _left_with_shared(self, named: set[str]) -> set[str]:
        """The shared weights behind the highest fidelity, and what was left with them or with `named` ones.

        What was left with others is forgotten.
        """
        highest = max((m.task.fidelity for _, m in self._shared), default=0)
        weights = named | {digest for digest, m in self._shared if m.task.fidelity == highest}
        self._shared = [(digest, m) for digest, m in self._shared if digest in weights]
        return {each for digest, m in self._shared for each in (digest, *_lasting(m))}


def _lasting(measurement: Measurement) -> set[str]:
    """The digests of what a measurement left for good, be it as long as shared weights last."""
    return {handle.digest for role, handle in measurement.artifacts.items() if role != STATE}
