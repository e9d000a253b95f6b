"""Members of an ensemble: predictors inside a predictor, made by name and saved with it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.options import complete
from nasplat.predictor import FittedState, Predictor, UncertainPredictor
from nasplat.registry import PREDICTORS
from nasplat.search_space import SearchSpace

Floats = NDArray[np.float64]


def member(name: str, space: SearchSpace, given: Mapping[str, Any]) -> Predictor:
    """Make a predictor by its registered name; `seed` is left out if it has no such option.

    Raises:
        InputError: The name or an option is unknown.
    """
    kind = PREDICTORS.get(name)
    options = {key: value for key, value in given.items() if key != "seed" or _has_seed(kind)}
    return kind(space, **complete("predictor", kind, options))


def packed(members: Sequence[Predictor]) -> tuple[list[Mapping[str, Any]], dict[str, NDArray[Any]]]:
    """The fitted states of all members: their values, and their arrays with the member's number before each name."""
    states = [each.get_state() for each in members]
    arrays = {f"{i} {name}": array for i, each in enumerate(states) for name, array in each.arrays.items()}
    return [each.values for each in states], arrays


def unpack(members: Sequence[Predictor], values: Sequence[Mapping[str, Any]], arrays: Mapping[str, Any]) -> None:
    """Restore each member from the result of `packed`."""
    for i, (each, own) in enumerate(zip(members, values, strict=True)):
        prefix = f"{i} "
        each.set_state(
            FittedState(own, {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)})
        )


def uncertain(predictor: Predictor, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
    """Scores and deviations; the deviations are 0 if the predictor has none."""
    if isinstance(predictor, UncertainPredictor):
        return predictor.predict_with_deviation(architectures)
    scores = predictor.predict(architectures)
    return scores, np.zeros_like(scores)


def parts_of(space: SearchSpace, architectures: Sequence[Architecture], parts: int, seed: int) -> NDArray[np.intp]:
    """Divide examples at random into parts of about equal size; the result is the part of each, `[n]`.

    Duplicates, with one canonical key, are in the same part, since a predictor fitted to one knows the others. If
    there are fewer than two keys for each part, all examples are treated as different.
    """
    numbers: dict[str, int] = {}
    key = [numbers.setdefault(space.canonical_key(each), len(numbers)) for each in architectures]
    if len(numbers) < 2 * parts:
        key = list(range(len(architectures)))
    drawn: NDArray[np.intp] = (default_rng(seed).permutation(max(key) + 1) % parts)[key]
    return drawn


def _has_seed(kind: type[Predictor]) -> bool:
    from nasplat.options import options_model

    return "seed" in options_model(kind).model_fields
