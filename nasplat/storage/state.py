"""A strategy's state as text and bytes: JSON, with numpy arrays beside it as safetensors."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save


def pack(state: Mapping[str, Any]) -> tuple[str, bytes]:
    """Serialize the state: JSON text, and its arrays as safetensors bytes.

    Raises:
        TypeError: A leaf is neither JSON nor an array.
    """
    arrays: dict[str, NDArray[Any]] = {}
    return json.dumps(_without_arrays(state, arrays), separators=(",", ":")), save(arrays)


def unpack(text: str, arrays: bytes) -> dict[str, Any]:
    """Restore the state that was given to `pack`; tuples become lists.

    Raises:
        ValueError: The text or the bytes are not output of `pack`.
    """
    try:
        state = _with_arrays(json.loads(text), load(arrays))
    except (KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ValueError(f"the arrays of a state are damaged: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"a state must be a mapping, but this one is {type(state).__name__}")
    return state


def _without_arrays(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Move every array of the value to `arrays`, and put its name in its place."""
    match value:
        case np.ndarray():
            name = str(len(arrays))
            arrays[name] = np.asarray(value, order="C")
            return {"$array": name}
        case dict():
            return {key: _without_arrays(item, arrays) for key, item in value.items()}
        case list() | tuple():
            return [_without_arrays(item, arrays) for item in value]
    return value


def _with_arrays(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    match value:
        case {"$array": name, **rest} if not rest:
            return arrays[name]
        case dict():
            return {key: _with_arrays(item, arrays) for key, item in value.items()}
        case list():
            return [_with_arrays(item, arrays) for item in value]
    return value
