"""Zero-cost proxies as features, computed once for each architecture on small noise images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.predictor import options_of
from nasplat.search_space import SearchSpace

if TYPE_CHECKING:
    from nasplat.surrogates.zero_cost import Proxies

SIDE, BATCH = 16, 16
"""The side in pixels and the number of the examples: tens of milliseconds for most networks."""
REMEMBERED = 1 << 17
"""Maximum number of cached architectures in a process."""
DIGITS = 5
"""Significant digits that are kept. The order of sums depends on threads, and must not decide at a threshold."""


def proxy_features(
    space: SearchSpace, architectures: Sequence[Architecture], names: Sequence[str]
) -> NDArray[np.float32]:
    """The zero-cost proxies of each architecture, `[n, names]`.

    They are cached by code, not by canonical key: the networks of two codes with one key are initialized differently,
    and the proxies of a code must not depend on which code came first.

    Raises:
        InputError: A name is unknown.
    """
    source = _Source(space.name, json.dumps(options_of(space), sort_keys=True), tuple(names), space)
    rows = [_row(source, architecture) for architecture in architectures]
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(names))


def proxy_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Validate that the names are those of zero-cost proxies, each once.

    Raises:
        ValueError: They are not; this is the exception for invalid options.
    """
    if not names:
        return names
    from nasplat.errors import InputError
    from nasplat.surrogates.zero_cost import checked_proxies

    try:
        return checked_proxies(names)
    except InputError as error:
        raise ValueError(str(error)) from None


@dataclass(frozen=True, slots=True)
class _Source:
    """The space and the proxies; equal for equal options, even if the space is another object."""

    name: str
    options: str
    proxies: tuple[str, ...]
    space: SearchSpace = field(compare=False)


@lru_cache(maxsize=REMEMBERED)
def _row(source: _Source, architecture: Architecture) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in _proxies(source)(architecture).values())


@lru_cache(maxsize=8)
def _proxies(source: _Source) -> "Proxies":
    from nasplat.surrogates.zero_cost import Proxies, reduced

    return Proxies(source.space, reduced(source.space.reference_io, SIDE), names=source.proxies, batch=BATCH)
