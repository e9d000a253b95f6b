"""Immutable, content-addressed pieces of a run: weights, optimiser states, statistics."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from nasplat.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, order=True)
class Handle:
    """The name of an artifact: the SHA-256 of its content, so that equal content has one name."""

    digest: str

    @classmethod
    def of(cls, data: bytes) -> Self:
        return cls(hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return self.digest


class Artifacts(ABC):
    """A place that keeps artifacts by handle.

    What is given to a benchmark is the executor's business: the run directory itself, or a parcel that
    travels with the outcome. Content is safetensors or JSON, never a pickle.
    """

    @abstractmethod
    def put(self, data: bytes) -> Handle:
        """Keep the data; the same data twice is kept once."""

    @abstractmethod
    def get(self, handle: Handle) -> bytes:
        """The data of a handle.

        Raises:
            ArtifactError: Nothing is kept under the handle, or it is damaged.
        """

    def put_tensors(self, tensors: "Mapping[str, Tensor]") -> Handle:
        """Keep named tensors as safetensors; equal tensors give equal handles."""
        from safetensors.torch import save

        return self.put(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))

    def get_tensors(self, handle: Handle) -> "dict[str, Tensor]":
        """The named tensors of a handle, on the CPU."""
        from safetensors.torch import load

        return load(self.get(handle))


class MemoryArtifacts(Artifacts):
    """Artifacts in memory: what a worker is sent with a task, and what it sends back.

    Args:
        given: The artifacts that the task refers to, by digest; a view of memory that others share is copied only
            when it is asked for.
    """

    def __init__(self, given: Mapping[str, bytes | memoryview] | None = None) -> None:
        self.given = dict(given or {})
        self.added: dict[str, bytes] = {}

    def put(self, data: bytes) -> Handle:
        handle = Handle.of(data)
        self.added[handle.digest] = data
        return handle

    def get(self, handle: Handle) -> bytes:
        data = self.added.get(handle.digest, self.given.get(handle.digest))
        if data is None:
            raise ArtifactError(f"artifact {handle} did not travel with the task that refers to it")
        return bytes(data)
