"""Values of JSON that is untrusted: the type of each is checked before it is used."""

import reprlib
from typing import Any

LARGEST_COUNT = 2**53
"""No count is larger: up to here, integers and floating-point numbers are the same."""


def typed(body: Any, key: str | int, kind: type, called: str) -> Any:
    """The value of a key, which must be of a kind.

    Args:
        body: An object, or a list for keys that are numbers.
        key: The key.
        kind: The type that the value must have; no truth value has one.
        called: What the type is called in messages.

    Raises:
        KeyError, TypeError, ValueError: There is no such value.
    """
    value = _at(body, key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{key!r} must be {called}, but is {reprlib.repr(value)}")
    return value


def text(body: Any, key: str | int) -> str:
    """The text of a key; errors are those of `typed`."""
    value: str = typed(body, key, str, "text")
    return value


def count(body: Any, key: str | int, most: int = LARGEST_COUNT) -> int:
    """The whole number of a key, from 0 to `most`; errors are those of `typed`."""
    value: int = typed(body, key, int, "a whole number")
    if not 0 <= value <= most:
        raise ValueError(f"{key!r} must be from 0 to {most:,}, but is {reprlib.repr(value)}")
    return value


def number(body: Any, key: str | int) -> float:
    """The number of a key; errors are those of `typed`."""
    value = _at(body, key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{key!r} must be a number, but is {reprlib.repr(value)}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{key!r} is too large for a number") from error


def _at(body: Any, key: str | int) -> Any:
    try:
        return body[key]
    except IndexError:
        raise ValueError(f"a list has no value {key}: {reprlib.repr(body)}") from None
