"""Zero-cost proxies as features: what small noise says of untrained networks, computed once for each architecture."""

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
"""The pixels and the number of the examples: tens of milliseconds for most networks."""
REMEMBERED = 1 << 17
"""So many architectures are remembered in a process."""
DIGITS = 5
"""Significant digits that are kept, lest the order of sums, which depends on threads, decide at a threshold."""


def proxy_features(
    space: SearchSpace, architectures: Sequence[Architecture], names: Sequence[str]
) -> NDArray[np.float32]:
    """The zero-cost proxies of each architecture, `[n, names]`.

    They are remembered by code, not by canonical key: the networks of two codes with one key are initialized
    differently, and what is said of a code must not depend on which came first.

    Raises:
        InputError: A name is unknown.
    """
    source = _Source(space.name, json.dumps(options_of(space), sort_keys=True), tuple(names), space)
    rows = [_row(source, architecture) for architecture in architectures]
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(names))


def known_proxies(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, seen to be those of zero-cost proxies, each once.

    Raises:
        ValueError: They are not, as options are refused.
    """
    if not names:
        return names
    from nasplat.errors import InputError
    from nasplat.surrogates.zero_cost import known

    try:
        return known(names)
    except InputError as error:
        raise ValueError(str(error)) from None


@dataclass(frozen=True, slots=True)
class _Source:
    """What proxies are of; equal for equal options, whichever object the space is."""

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
