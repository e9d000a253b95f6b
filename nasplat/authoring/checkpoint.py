"""The checkpoint of a training function of a user's own, kept as an artifact that a longer training continues from."""

import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasplat.architecture import Architecture
from nasplat.artifact import Artifacts, Handle
from nasplat.errors import TrialFailed
from nasplat.training.states import named, named_state

_TREE = "tree"
"""The name of the JSON that has everything but the tensors; tensors have numbers as names."""


class Checkpoint:
    """Where a function keeps its training, so that a task of more epochs continues instead of starting again.

    The function calls `load` once before its first epoch, and `save` after each epoch, or after the last. What it
    saves is a dictionary of tensors, numpy arrays, numbers, texts and None, in dictionaries, lists and tuples, such as
    ``{"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}``. The global generators
    of torch, numpy and Python are saved with it, and `load` restores them: a training that takes all else that changes
    from its checkpoint continues as if it had not been interrupted.
    """

    def __init__(self, seed: int, fidelity: int, *, keep: bool, device: str = "cpu") -> None:
        self.seed = seed
        self._fidelity = fidelity
        self._keep = keep
        self._device = device
        self._earlier: Mapping[str, Any] | None = None
        self._kept: dict[str, Tensor] | None = None

    def load(self) -> dict[str, Any] | None:
        """What was saved last at the lower fidelity, with tensors on the CPU; None if this training is new."""
        if self._earlier is None:
            return None
        _set_generators(self._earlier["generators"], self._device)
        state: dict[str, Any] = self._earlier["state"]
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep the state of the training; the last one counts.

        Nothing is kept at full fidelity, which no task continues.

        Raises:
            TrialFailed: The state is no dictionary, or has values of another kind than those above.
        """
        if not isinstance(state, Mapping):
            raise TrialFailed(
                "not a state", f"checkpoint.save must be given a dictionary, but got {type(state).__name__}"
            )
        tensors: dict[str, Tensor] = {}
        encoded = _encoded(dict(state), tensors, "state")
        if not self._keep:
            return
        body = {
            "state": encoded,
            "generators": _encoded(_generators(self._device), tensors, "generators"),
            "seed": self.seed,
            "epochs": self._fidelity,
        }
        self._kept = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        self._kept[_TREE] = torch.tensor(list(json.dumps(body).encode()), dtype=torch.uint8)

    def resume(self, handle: Handle, architecture: Architecture, artifacts: Artifacts) -> None:
        """Continue from the artifact of a measurement of lower fidelity, with its seed.

        Raises:
            TrialFailed: The artifact is no state of this architecture, or is of as many epochs as this task.
            ArtifactError: The artifact is missing or damaged.
        """
        tensors = named_state(handle, str(architecture), artifacts)
        try:
            body = json.loads(bytes(tensors.pop(_TREE).tolist()))
            epochs, self.seed = int(body["epochs"]), int(body["seed"])
            self._earlier = {name: _decoded(body[name], tensors) for name in ("state", "generators")}
        except (KeyError, TypeError, ValueError) as error:
            raise TrialFailed("not a state", f"the artifact to continue from is no checkpoint: {error}") from None
        if epochs >= self._fidelity:
            raise TrialFailed(
                "already past it",
                f"the checkpoint is of {epochs} epochs, but the task asks for {self._fidelity}; ask for more epochs, "
                "or start without it",
            )

    def put(self, architecture: Architecture, artifacts: Artifacts) -> Handle | None:
        """Store what was saved last; None if nothing was saved, or nothing is to be kept."""
        if self._kept is None:
            return None
        return artifacts.put_tensors(named(self._kept, str(architecture)))


def _encoded(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    """The value as JSON; every tensor and array of it is moved to `tensors`.

    Raises:
        TrialFailed: It has a value of another kind; the message names its place.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Tensor():
            tensors[str(len(tensors))] = value
            return {"tensor": str(len(tensors) - 1)}
        case np.ndarray() if value.dtype.kind in "biuf":
            tensors[str(len(tensors))] = torch.from_numpy(np.ascontiguousarray(value))
            return {"array": str(len(tensors) - 1)}
        case np.generic() if value.dtype.kind in "biuf":
            return value.item()
        case list() | tuple():
            items = [_encoded(item, tensors, f"{place}[{index}]") for index, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        case Mapping() if all(isinstance(key, str | int) for key in value):
            return {"dict": [[key, _encoded(item, tensors, f"{place}[{key!r}]")] for key, item in value.items()]}
    raise TrialFailed(
        "not a state",
        "a checkpoint has tensors, numpy arrays, numbers, texts and None, in lists, tuples, and dictionaries by text "
        f"or whole number, but {place} is {type(value).__name__}; save its state_dict() or what it is made from",
    )


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case {"tensor": name}:
            return tensors[name]
        case {"array": name}:
            return tensors[name].numpy()
        case {"tuple": items}:
            return tuple(_decoded(item, tensors) for item in items)
        case {"dict": pairs}:
            return {key: _decoded(item, tensors) for key, item in pairs}
        case list():
            return [_decoded(item, tensors) for item in value]
    return value


def _generators(device: str) -> dict[str, Any]:
    """The states of the global generators."""
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002  the state of the global one
    assert isinstance(legacy, dict)
    states = {"python": random.getstate(), "numpy": legacy, "torch": torch.get_rng_state()}
    return states if device == "cpu" else states | {"cuda": torch.cuda.get_rng_state()}


def _set_generators(states: Mapping[str, Any], device: str) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if device != "cpu" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
