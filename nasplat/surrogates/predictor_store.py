"""Predictor I/O: make predictors by name, open saved ones, and predict.

Fit a predictor to a run, save it, and use it in another program::

    scores = read_training_set([Path("runs/first")])
    predictor = make_predictor("auto", scores.space).fit(scores.architectures, scores.scores)
    predictor.save(Path("predictor"), scores.description)

    saved = open_predictor(Path("predictor"))
    values, deviations = saved.predictor.estimate([saved.space.parse("334312")])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.metric import Metric
from nasplat.options import complete, construct
from nasplat.predictor import Predictor, read_document
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

    def estimate(self, architectures: "Sequence[str | Architecture]") -> "list[Predicted]":
        """Estimates of codes, or of other texts that the space reads, in the metric's unit, in their order.

        Raises:
            InputError: A code is not a member of the space.
        """
        parsed = [self.space.parse(each) if isinstance(each, str) else each for each in architectures]
        return scored(self.predictor, parsed, self.metric)

    def rank(self, architectures: "Sequence[str | Architecture]") -> "list[str | Architecture]":
        """The given architectures, the best first.

        Raises:
            InputError: A code is not a member of the space.
        """
        order = best_first(self.estimate(architectures), self.metric)
        return [architectures[i] for i in order]

    @property
    def metric(self) -> Metric | None:
        """The metric of its estimates. None if its document does not say, or its scores have a unit of their own."""
        return None if self.predictor.target_transform is None else Metric.of_json(self.about.get("metric"))

    @property
    def unit(self) -> str:
        """What its estimates are, in a line."""
        if self.metric is not None:
            return str(self.metric)
        if self.predictor.target_transform is not None:
            return "score (in the unit of the scores that it was fitted to, higher is better)"
        return (
            "score (in a unit of its own, higher is better; an earlier version saved it: fit it again for a metric's)"
        )


@dataclass(frozen=True, slots=True)
class Predicted:
    """The estimate for one architecture.

    Args:
        value: The value of the metric, in its unit; a score, of which higher are better, if there is no metric.
        deviation: Its standard deviation in the same unit, if the predictor has one.
    """

    value: float
    deviation: float | None


def scored(
    predictor: Predictor, architectures: Sequence[Architecture], metric: Metric | None = None
) -> list[Predicted]:
    """Estimates in the order of the architectures, with deviations if the predictor has them.

    Args:
        predictor: The predictor.
        architectures: The architectures.
        metric: The metric that it was fitted to; scores of one of which lower is better are negated values.
    """
    if not architectures:
        return []
    if predictor.target_transform is None:
        values, deviations = predictor.predict_uncertain(architectures)
    else:
        values, deviations = predictor.estimate(architectures)
    sign = 1.0 if metric is None else metric.sign
    unsure = [None] * len(values) if deviations is None else deviations.tolist()
    return [Predicted(*pair) for pair in zip((sign * values).tolist(), unsure, strict=True)]


def best_first(predicted: Sequence[Predicted], metric: Metric | None) -> list[int]:
    """The indices of estimates, the best first; equal ones in their order."""
    sign = 1.0 if metric is None else metric.sign
    return sorted(range(len(predicted)), key=lambda i: -sign * predicted[i].value)


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
    made: SearchSpace = construct("space", space, **(options or {}))
    return made


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
