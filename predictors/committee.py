"""Predictors inside a predictor: made by name, and saved with it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.options import complete
from nasplat.predictor import Learnt, Predictor, UncertainPredictor
from nasplat.registry import PREDICTORS
from nasplat.search_space import SearchSpace

Floats = NDArray[np.float64]


def member(name: str, space: SearchSpace, given: Mapping[str, Any]) -> Predictor:
    """A predictor by its registered name; `seed` is left out for one that has no such option.

    Raises:
        InputError: The name or an option is unknown.
    """
    kind = PREDICTORS.get(name)
    options = {key: value for key, value in given.items() if key != "seed" or _has_seed(kind)}
    return kind(space, **complete("predictor", kind, options))


def packed(members: Sequence[Predictor]) -> tuple[list[Mapping[str, Any]], dict[str, NDArray[Any]]]:
    """What all have learnt: their values, and their arrays under names with the member's number before them."""
    learnt = [each.learnt() for each in members]
    arrays = {f"{i} {name}": array for i, each in enumerate(learnt) for name, array in each.arrays.items()}
    return [each.values for each in learnt], arrays


def unpack(members: Sequence[Predictor], values: Sequence[Mapping[str, Any]], arrays: Mapping[str, Any]) -> None:
    """Restore each from its part of what `packed` gave."""
    for i, (each, own) in enumerate(zip(members, values, strict=True)):
        prefix = f"{i} "
        each.restore(Learnt(own, {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}))


def uncertain(predictor: Predictor, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
    """Scores and deviations; none where the predictor knows of none."""
    if isinstance(predictor, UncertainPredictor):
        return predictor.predict_with_deviation(architectures)
    scores = predictor.predict(architectures)
    return scores, np.zeros_like(scores)


def parts_of(space: SearchSpace, architectures: Sequence[Architecture], parts: int, seed: int) -> NDArray[np.intp]:
    """To which of about equal parts each example belongs, drawn at random: `[n]`.

    Examples of one canonical key belong together, since who has learnt from one knows the others. Where there are
    fewer keys than two for each part, examples are taken for different all the same.
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
