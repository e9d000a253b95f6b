"""Which calibrator to use here: by cross-validation on the labelled pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasplat.calibration.calibrators import NAMES, OPERATIONAL, fit
from nasplat.calibration.outputs import Floats, Integers, Outputs, rights
from nasplat.errors import InputError, unknown

FOLDS = 5
LEAST = 10
"""The least number of labelled pictures; with fewer, folds are too small for the calibrators."""
ERRORS = 2.0
"""A calibrator is better than the usual one by at least this many standard errors, or it is not preferred."""


LEAST_GAIN = 1e-3
"""By at least this much, too. Where all predictions are right, or all wrong, differences are tiny, and all the same."""


@dataclass(frozen=True, slots=True)
class Score:
    """The cross-validated Brier score of a calibrator, and how much lower than that of the usual one it is.

    Args:
        brier: The mean of (confidence - right)² over labelled pictures; lower is better.
        gain: The usual calibrator's score minus this one.
        error: The standard error of the gain, over pictures.
    """

    brier: float
    gain: float
    error: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The calibrator to use.

    Args:
        name: Its name; `none` if none of them lowers the score.
        reason: Why, in one sentence.
        scores: The score of each calibrator.
    """

    name: str
    reason: str
    scores: Mapping[str, Score]


def recommend(scores: Mapping[str, Score]) -> Recommendation:
    """The calibrator to use, by the scores of all.

    Calibrators that have no lower score than `none` are out.

    1. If all are out, it is `none`.
    2. Else, if some are better than the usual one, `operational`, by at least two standard errors and .001, it is
       that with the lowest score.
    3. Else it is the usual one; or, if that is out, the one of the lowest score.

    Args:
        scores: The scores by name, `none` and `operational` among them.
    """
    helpful = {name: score for name, score in scores.items() if score.brier < scores["none"].brier}
    if not helpful:
        return Recommendation("none", "no calibrator lowers the cross-validated Brier score", scores)
    better = {name: each for name, each in helpful.items() if each.gain >= max(ERRORS * each.error, LEAST_GAIN)}
    if better:
        name, reason = _lowest(better), f"it is better than {OPERATIONAL} by at least two standard errors"
    elif OPERATIONAL in helpful:
        name, reason = OPERATIONAL, "no other calibrator is better by two standard errors"
    else:
        name, reason = _lowest(helpful), f"it lowers the score most, and {OPERATIONAL} does not lower it"
    return Recommendation(name, reason, scores)


def _lowest(scores: Mapping[str, Score]) -> str:
    return min(scores, key=lambda name: scores[name].brier)


def recommended(
    outputs: Outputs,
    labels: Integers,
    *,
    seed: int,
    names: Sequence[str] = NAMES,
    fair: NDArray[np.bool_] | None = None,
    paper: bool = False,
    medoids: Floats | None = None,
) -> Recommendation:
    """Cross-validate calibrators on labelled pictures, and recommend one.

    The score is the Brier score, not the cost of decisions: it is proper, and every picture says something, whereas
    costs come from the few pictures that a calibrator moves across the threshold. The temperature and the Gaussian
    process of `operational` are fitted anew in each fold.

    Args:
        outputs: What the network gives for the labelled pictures.
        labels: Their classes `[n]`, at least 10.
        seed: Splits the folds.
        names: The calibrators; `none` and `operational` must be among them.
        fair: Which labelled pictures were drawn at random `[n]`. If at least 10 were, scores are of these alone, since
            pictures chosen at the threshold are no sample of the operation pictures; all are fitted to.
        paper: As of `calibrators.fit`.
        medoids: As of `calibrators.fit`.

    Raises:
        InputError: There are too few labels, labels are not classes of the network, or a name is unknown or missing.
    """
    for name in names:
        if name not in NAMES:
            raise InputError(unknown("calibrator", name, NAMES))
    if missing := {"none", OPERATIONAL} - set(names):
        raise InputError(
            f"calibrators are compared with none and {OPERATIONAL}, but {sorted(missing)} are left out; add them"
        )
    right = rights(outputs, labels)
    if len(labels) < LEAST:
        raise InputError(
            f"a recommendation needs at least {LEAST} labelled pictures, but there are {len(labels)}; label more, or "
            "name the calibrator"
        )
    errors = held_out_errors(outputs, labels, names, seed, paper=paper, medoids=medoids)
    scored = fair if fair is not None and fair.sum() >= LEAST else np.ones(len(right), bool)
    errors = {name: each[scored] for name, each in errors.items()}
    scores = {}
    for name, each in errors.items():
        gains = errors[OPERATIONAL] - each
        error = float(gains.std(ddof=1)) / len(gains) ** 0.5
        scores[name] = Score(float(each.mean()), float(gains.mean()), error)
    return recommend(scores)


def held_out_errors(
    outputs: Outputs,
    labels: Integers,
    names: Sequence[str],
    seed: int,
    *,
    paper: bool = False,
    medoids: Floats | None = None,
) -> dict[str, Floats]:
    """The squared error of each labelled picture's confidence, by calibrators fitted without its fold.

    Right and wrong predictions are spread evenly over the folds.

    Args:
        outputs: What the network gives for labelled pictures.
        labels: Their classes `[n]`.
        names: The calibrators.
        seed: Splits the folds.
        paper: As of `calibrators.fit`.
        medoids: As of `calibrators.fit`.

    Returns:
        By name, (confidence - right)² `[n]`.
    """
    right = rights(outputs, labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    fold = np.empty(len(labels), np.int64)
    fold[order[np.argsort(right[order], kind="stable")]] = np.arange(len(labels)) % FOLDS
    errors = {name: np.empty(len(labels)) for name in names}
    for number in range(FOLDS):
        out = fold == number
        inside, held_out = outputs.take(~out), outputs.take(out)
        for name in names:
            calibrated = fit(name, inside, labels[~out], paper=paper, medoids=medoids)(held_out)
            errors[name][out] = (calibrated - right[out]) ** 2
    return errors
