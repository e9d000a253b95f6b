"""Predictor I/O: make predictors by name, open saved ones, and predict.

Fit a predictor to a run, save it, and use it in another program::

    scores = read_training_set([Path("runs/first")])
    predictor = make_predictor("auto", scores.space).fit(scores.architectures, scores.scores)
    predictor.save(Path("predictor"))

    saved = open_predictor(Path("predictor"))
    saved.predictor.predict([saved.space.parse("334312")])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.options import complete
from nasplat.predictor import Predictor, UncertainPredictor, read_document
from nasplat.registry import PREDICTORS, SEARCH_SPACES
from nasplat.search_space import SearchSpace


@dataclass(frozen=True, slots=True)
class StoredPredictor:
    """A saved predictor.

    Args:
        predictor: The predictor, fitted.
        space: The space of the architectures that it scores.
        about: Further values in its document, such as the source of its training set.
        versions: The versions of the packages that it was saved with, by name.
        digest: The SHA-256 of its document, which identifies it.
    """

    predictor: Predictor
    space: SearchSpace
    about: dict[str, Any]
    versions: dict[str, Any]
    digest: str


@dataclass(frozen=True, slots=True)
class Predicted:
    """The prediction for one architecture.

    Args:
        score: The score; higher is better.
        deviation: Its standard deviation, if the predictor has one.
    """

    score: float
    deviation: float | None


def scored(predictor: Predictor, architectures: Sequence[Architecture]) -> list[Predicted]:
    """Scores in the order of the architectures, with deviations if the predictor has them."""
    if not architectures:
        return []
    if isinstance(predictor, UncertainPredictor):
        scores, deviations = predictor.predict_with_deviation(architectures)
        return [Predicted(*pair) for pair in zip(scores.tolist(), deviations.tolist(), strict=True)]
    return [Predicted(score, None) for score in predictor.predict(architectures).tolist()]


def open_predictor(folder: Path) -> StoredPredictor:
    """Open the predictor in a folder, of any kind.

    Raises:
        InputError: The folder is missing or damaged, or names a predictor, a space or an option that does not exist.
    """
    document = read_document(folder)
    try:
        space = make_space(document["space"]["name"], document["space"]["options"])
        predictor = PREDICTORS.get(document["predictor"])
    except InputError as error:
        raise InputError(f"{folder} cannot be opened: {error}") from error
    return StoredPredictor(
        predictor.load(folder, space), space, document["about"], document["versions"], document["document"]
    )


def make_space(name: str, options: dict[str, Any] | None = None) -> SearchSpace:
    """Make a search space by name.

    Args:
        name: The registered name.
        options: Arguments of the constructor, the defaults for what is left out.

    Raises:
        InputError: There is no such space, or an option is unknown, of the wrong type, or invalid.
    """
    space = SEARCH_SPACES.get(name)
    return space(**complete("space", space, options or {}))


def make_predictor(name: str, space: SearchSpace, options: dict[str, Any] | None = None) -> Predictor:
    """Make an unfitted predictor by name.

    Args:
        name: The registered name.
        space: The space of the architectures to score.
        options: Arguments of the constructor, the defaults for what is left out.

    Raises:
        InputError: There is no such predictor, or an option is unknown, of the wrong type, or invalid.
    """
    predictor = PREDICTORS.get(name)
    return predictor(space, **complete("predictor", predictor, options or {}))
