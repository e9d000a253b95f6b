"""Artifacts in Ray's object store, as a cache of the run's artifact store."""

from collections import OrderedDict
from typing import Any

import numpy as np
import ray

from nasplat.artifact import Artifacts, Handle
from nasplat.task import Task, needed_by

KEPT = 4
"""Number of most recently used artifacts that stay in the object store."""


class Objects:
    """Puts an artifact into the object store once, for all tasks that refer to it.

    Ray itself keeps the artifacts of tasks in flight, so only the most recently used artifacts are held here.

    Args:
        artifacts: The store to read artifacts from, the first time and whenever the object store has lost one.
    """

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._references: OrderedDict[str, Any] = OrderedDict()

    def named_by(self, task: Task) -> dict[str, Any]:
        """The references to what a task names, by digest; as arguments they arrive as arrays of bytes, uncopied.

        Raises:
            ArtifactError: An artifact is not in the object store, and cannot be read again.
        """
        references = {digest: self._reference(digest) for digest in needed_by(task)}
        while len(self._references) > KEPT:
            self._references.popitem(last=False)
        return references

    def forget(self, task: Task) -> None:
        """Drop the references to the task's artifacts, so that the next use puts them into the object store again."""
        for digest in needed_by(task):
            self._references.pop(digest, None)

    def clear(self) -> None:
        """Drop all references."""
        self._references.clear()

    def _reference(self, digest: str) -> Any:
        if digest not in self._references:
            self._references[digest] = ray.put(np.frombuffer(self._artifacts.get(Handle(digest)), np.uint8))
        self._references.move_to_end(digest)
        return self._references[digest]
