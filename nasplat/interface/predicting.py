"""Predictors that are fitted to measured architectures."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import default_rng

from nasplat.errors import InputError
from nasplat.metric import Metric
from nasplat.search_space import SearchSpace
from nasplat.storage.files import is_taken
from nasplat.surrogates.predictor_store import StoredPredictor, make_predictor, open_predictor
from nasplat.surrogates.ranking_metrics import cross_validated
from nasplat.surrogates.training_set import TrainingSet, read_training_set


def fit(
    sources: Sequence[Path],
    predictor: str = "auto",
    *,
    out: Path | None = None,
    space: SearchSpace | None = None,
    score: str | None = None,
    options: Mapping[str, Any] | None = None,
    folds: int = 5,
    advance: Callable[[], None] = lambda: None,
) -> StoredPredictor:
    """Fit a predictor to measured architectures, and cross-validate it.

    Args:
        sources: Run directories, and files of architectures with scores.
        predictor: The name of the predictor.
        out: The folder to save it in; None saves nothing.
        space: The space of codes in files.
        score: The column or metric to predict; ``COLUMN:max`` or ``COLUMN:min`` if its name does not say which is
            better.
        options: Options of the predictor.
        folds: Folds of the cross-validation; 0 for none. A predictor that does its own needs none.
        advance: Called after each fold.

    Returns:
        The predictor; `about` says what it was fitted to and how well it ranks.

    Raises:
        InputError: A source, the predictor or an option does not fit, there are too few architectures, or the folder
            exists.
    """
    if out is not None and is_taken(out):
        raise InputError(f"{out} exists; choose another --out (out=…)")
    scores = read_training_set(list(sources), space=space, metric=score)
    given = dict(options or {})
    made = make_predictor(predictor, scores.space, given)
    began = time.monotonic()
    made.fit(scores.architectures, scores.scores)
    seconds = time.monotonic() - began
    if made.cross_validated is not None:
        tau: dict[str, Any] | None = {"mean": made.cross_validated, "how": f"cross-validated by {predictor} itself"}
    else:
        tau = _cross_validated(predictor, given, scores, folds, advance) if folds else None
    metric = scores.metric or Metric.of("score")
    about = {
        **scores.description,
        "count": len(scores),
        "digest": scores.digest,
        "best": metric.sign * float(scores.scores.max()),
        "tau": tau,
        "seconds": seconds,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if out is None:
        return StoredPredictor(made, scores.space, about, {}, "")
    made.save(out, about)
    return open_predictor(out)


def _cross_validated(
    predictor: str, options: dict[str, Any], scores: TrainingSet, folds: int, advance: Callable[[], None]
) -> dict[str, Any]:
    """Cross-validation: Kendall's tau between out-of-fold predictions and scores, for each fold."""
    make = partial(make_predictor, predictor, scores.space, options)
    try:
        taus: Iterable[float] = cross_validated(
            make, scores.architectures, scores.scores, folds, default_rng(0), advance
        ).taus.tolist()
    except InputError as error:
        raise InputError(f"{error}; or leave cross-validation out with --folds 0 (folds=0)") from error
    return {
        "mean": float(np.mean(list(taus))),
        "deviation": float(np.std(list(taus), ddof=1)),
        "folds": list(taus),
        "how": f"cross-validated in {folds} folds",
    }
