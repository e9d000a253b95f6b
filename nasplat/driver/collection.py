"""Garbage collection of artifacts: those that no task can refer to any more are deleted during the search."""

from collections.abc import Callable, Iterable

from nasplat.architecture import Architecture
from nasplat.artifact import Handle, digests_in
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.storage.state import pack
from nasplat.strategy import Strategy, artifact_digests, named_digests
from nasplat.task import STATE, Measurement, Outcome, Task, Trained, needed_by

COLLECT_BYTES = 256 * 2**20
"""Minimum number of bytes of new artifacts before a collection."""
COLLECT_GROWTH = 0.5
"""The new bytes must also be at least this part of the bytes that the last collection kept."""


class Collector:
    """Tracks which artifacts may still be needed, and deletes the others.

    Two kinds of artifacts are kept. The first are the artifacts of measurements, without the states that only a later
    task could use. The second are the artifacts that the strategy or a task in flight names. A strategy names by
    `handles` everything that it can still use of its outcomes, so an artifact that neither names can never be used
    again; `kept_digests` says what holds for a strategy without `handles`. Of shared weights, these are kept: the
    newest, those that are named in this way, and those used by the measurements of the highest fidelity, which form
    the front. The artifacts of measurements with shared weights are kept as long as these weights are. With
    `replaces_parts`, the artifacts of a measurement are deleted when another measurement has continued it.

    Only what the outcomes of the run's own log name is deleted: a store may have files of others, as after a copy.

    Args:
        artifacts: The executor's artifact store; None if nothing is to be deleted.
        strategy: The strategy, which names artifacts.
        replaces_parts: Whether a measurement that continues another one replaces it, as in a retraining.
    """

    def __init__(self, artifacts: ArtifactStore | None, strategy: Strategy, *, replaces_parts: bool = False) -> None:
        self.artifacts = artifacts
        self.strategy = strategy
        self.replaces_parts = replaces_parts
        self._left: set[str] = set()
        self._parts: dict[tuple[Architecture, int], set[str]] = {}
        self._shared: list[tuple[str, Measurement]] = []
        self._newest_supernet = ""
        self._logged: set[str] = set()
        self._unwanted: set[str] = set()

    def add(self, outcome: Outcome) -> None:
        """Record the artifacts of an outcome."""
        self._logged |= artifact_digests(outcome)
        if isinstance(outcome, Trained):
            self._newest_supernet = outcome.weights.digest
        elif isinstance(outcome, Measurement) and outcome.cached_from is None:
            if outcome.task.weights is None:
                self._keep(outcome)
            else:
                self._shared.append((outcome.task.weights.digest, outcome))

    def collect(self, outstanding: Iterable[Task], sync: Callable[[], None], *, at_least: int) -> None:
        """Delete the artifacts that no later task can name, if there are enough new artifacts.

        Args:
            outstanding: The tasks without an outcome yet.
            sync: Writes the log to disk first: a power cut could undo events, and then need the deleted artifacts.
            at_least: Minimum number of new bytes.
        """
        store = self.artifacts
        if store is None or store.added < at_least or (at_least and store.added < COLLECT_GROWTH * store.kept):
            return
        if not store.folder.is_dir():
            return
        wanted = self._left.union({self._newest_supernet}, *self._parts.values())
        wanted |= kept_digests(self.strategy)
        for task in outstanding:
            wanted |= needed_by(task)
        wanted |= self._left_with_shared(wanted)
        sync()
        store.collect(wanted, self._logged)
        if not store.shared_with:
            self._unwanted |= self._logged - wanted

    def deleted_artifacts(self, task: Task) -> set[str]:
        """The digests of what a task needs and a collection has deleted, since the strategy did not name it.

        An earlier session may have deleted it. What is missing although it was named is lost, and not meant here.
        """
        needed = needed_by(task) & self._unwanted
        return {digest for digest in needed if self.artifacts and not self.artifacts.path(Handle(digest)).exists()}

    def _keep(self, measurement: Measurement) -> None:
        """Keep the lasting artifacts of a measurement; with `replaces_parts`, only those of the last part."""
        if not self.replaces_parts:
            self._left |= _lasting(measurement)
            return
        parts = self._parts.setdefault((measurement.architecture, measurement.task.replicate), set())
        if measurement.task.continues is not None:
            parts.clear()
        parts |= _lasting(measurement)

    def _left_with_shared(self, named: set[str]) -> set[str]:
        """The shared weights of the highest fidelity, and the artifacts of measurements with these or `named` weights.

        Artifacts of measurements with other shared weights are no longer tracked.
        """
        highest = max((m.task.fidelity for _, m in self._shared), default=0)
        weights = named | {digest for digest, m in self._shared if m.task.fidelity == highest}
        self._shared = [(digest, m) for digest, m in self._shared if digest in weights]
        return {each for digest, m in self._shared for each in (digest, *_lasting(m))}


def kept_digests(strategy: Strategy) -> set[str]:
    """The digests of the artifacts that are kept for later tasks of a strategy: those that it names by `handles`.

    A class that has a state of its own and no `handles` of its own may not know that it has to name them, as authors
    did not have to in earlier versions. Then every digest in the text of the state counts, too.

    Raises:
        StrategyError: The strategy names something else than handles.
    """
    named = named_digests(strategy)
    defining = next(each for each in type(strategy).__mro__ if vars(each).keys() & {"handles", "get_state"})
    return named if "handles" in vars(defining) else named | digests_in(pack(strategy.get_state())[0])


def _lasting(measurement: Measurement) -> set[str]:
    """The digests of a measurement's lasting artifacts; with shared weights, they last as long as these."""
    return {handle.digest for role, handle in measurement.artifacts.items() if role != STATE}
