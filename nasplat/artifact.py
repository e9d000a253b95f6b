"""Immutable, content-addressed pieces of a run: weights, optimiser states, statistics."""

import hashlib
import re
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


def digests_in(text: str) -> set[str]:
    """All digests in a text, such as a state or an event that may be too damaged to be decoded."""
    return set(re.findall(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", text))


class Artifacts(ABC):
    """A store of artifacts by handle.

    The executor decides which store a benchmark gets: the run directory itself, or an in-memory store that
    travels with the outcome. Content is safetensors or JSON, never a pickle.
    """

    @abstractmethod
    def put(self, data: bytes) -> Handle:
        """Store the data; equal data is stored once."""

    @abstractmethod
    def get(self, handle: Handle) -> bytes:
        """Return the data of a handle.

        Raises:
            ArtifactError: No data is stored under the handle, or the data is damaged.
        """

    def put_tensors(self, tensors: "Mapping[str, Tensor]") -> Handle:
        """Store named tensors as safetensors; equal tensors give equal handles."""
        from safetensors.torch import save

        kept: dict[str, Tensor] = {}
        storages: set[int] = set()
        for name, tensor in tensors.items():
            tensor = tensor.detach().cpu().contiguous()
            storage = tensor.untyped_storage().data_ptr()
            kept[name] = tensor.clone() if storage in storages else tensor  # tied weights; safetensors refuses them
            storages.add(storage)
        return self.put(save(kept))

    def get_tensors(self, handle: Handle) -> "dict[str, Tensor]":
        """The named tensors of a handle, on the CPU."""
        from safetensors.torch import load

        return load(self.get(handle))


class MemoryArtifacts(Artifacts):
    """In-memory artifact store: what a worker receives with a task, and what it sends back.

    Args:
        given: The artifacts that the task refers to, by digest. A `memoryview` of shared memory is copied only by
            `get`.
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
            raise ArtifactError(f"artifact {handle} was not sent with the task that refers to it")
        return bytes(data)
