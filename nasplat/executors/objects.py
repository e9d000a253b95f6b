"""Artifacts in Ray's object store, which caches what lies on the run's shelf."""

from collections import OrderedDict
from typing import Any

import numpy as np
import ray

from nasplat.artifact import Artifacts, Handle
from nasplat.task import Evaluate, Task

KEPT = 4
"""How many artifacts stay in the object store at least for as long as no others are asked for."""


class Objects:
    """Puts an artifact into the object store once, for all the tasks that refer to it.

    What a task in flight refers to is kept by Ray itself, so that only the artifacts asked for last are held here.

    Args:
        artifacts: Where artifacts are read, for the first time and whenever the object store has lost one.
    """

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._references: OrderedDict[str, Any] = OrderedDict()

    def named_by(self, task: Task) -> dict[str, Any]:
        """The references to what a task names, by digest; as arguments they arrive as arrays of bytes, uncopied.

        Raises:
            ArtifactError: One is not in the object store, and cannot be read again.
        """
        references = {handle.digest: self._reference(handle) for handle in _named(task)}
        while len(self._references) > KEPT:
            self._references.popitem(last=False)
        return references

    def forget(self, task: Task) -> None:
        """Put what the task names into the object store afresh when it is asked for again."""
        for handle in _named(task):
            self._references.pop(handle.digest, None)

    def clear(self) -> None:
        """Let go of everything."""
        self._references.clear()

    def _reference(self, handle: Handle) -> Any:
        if handle.digest not in self._references:
            self._references[handle.digest] = ray.put(np.frombuffer(self._artifacts.get(handle), np.uint8))
        self._references.move_to_end(handle.digest)
        return self._references[handle.digest]


def _named(task: Task) -> list[Handle]:
    continues = task.continues if isinstance(task, Evaluate) else None
    return [handle for handle in (task.weights, continues) if handle is not None]
