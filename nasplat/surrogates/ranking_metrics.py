"""Quality of predictors: metrics of a ranking, confidence intervals, cross-validation, learning curves."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.predictor import Predictor
from nasplat.search_space import SearchSpace
from nasplat.surrogates.intervals import Coverage

TrainingSet: TypeAlias = NDArray[np.float64]
"""One score for each architecture, `[n]`; higher is better."""

Make: TypeAlias = Callable[[], Predictor]
"""Makes an unfitted predictor."""


def kendall_tau(predicted: TrainingSet, truth: TrainingSet) -> float:
    """Kendall's tau-b: the share of pairs ranked correctly minus the share ranked wrongly, corrected for ties.

    In -1..1; 0 if either side is constant, since it then ranks nothing. Takes O(n log n) time.

    Raises:
        InputError: There are fewer than two, or the lengths differ.
    """
    _check(predicted, truth)
    if _constant(predicted) or _constant(truth):
        return 0.0
    from scipy.stats import kendalltau

    return float(kendalltau(predicted, truth).statistic)


def spearman_rho(predicted: TrainingSet, truth: TrainingSet) -> float:
    """Spearman's rho: the correlation of the ranks, with the ranks of ties averaged; 0 if either side is constant.

    Raises:
        InputError: There are fewer than two, or the lengths differ.
    """
    _check(predicted, truth)
    if _constant(predicted) or _constant(truth):
        return 0.0
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, truth).statistic)


def precision_at(top: int, predicted: TrainingSet, truth: TrainingSet) -> float:
    """The share of the predicted best `top` that are among the true best `top`; if there are fewer, all count.

    An architecture as good as the last of the true best is one of them. Equal predictions are taken in the given order,
    so that order should carry no information.

    Raises:
        InputError: There are fewer than two, or the lengths differ.
    """
    chosen = _best(top, predicted, truth)
    worst = np.partition(truth, -len(chosen))[-len(chosen)]
    return float((truth[chosen] >= worst).mean())


def regret_at(top: int, predicted: TrainingSet, truth: TrainingSet) -> float:
    """The regret of measuring only the predicted best `top`: the best true score minus the best of theirs.

    In the unit of the scores; 0 if the best is among them. Ties are handled as in `precision_at`.

    Raises:
        InputError: There are fewer than two, or the lengths differ.
    """
    return float(truth.max() - truth[_best(top, predicted, truth)].max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The metrics of one ranking.

    Args:
        tau: `kendall_tau`.
        spearman: `spearman_rho`.
        precision: `precision_at` for the best few.
        regret: `regret_at` for the best few, in the unit of the scores.
    """

    tau: float
    spearman: float
    precision: float
    regret: float

    @classmethod
    def of(cls, predicted: TrainingSet, truth: TrainingSet, *, top: int) -> "Ranking":
        return cls(
            tau=kendall_tau(predicted, truth),
            spearman=spearman_rho(predicted, truth),
            precision=precision_at(top, predicted, truth),
            regret=regret_at(top, predicted, truth),
        )


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval.

    Args:
        mean: The mean.
        half: Half the width of the 95 % interval; NaN for a single value.
    """

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float] | TrainingSet) -> "Interval":
        """Student's t interval for the mean of independent values.

        Raises:
            InputError: There are no values.
        """
        from scipy.stats import t

        n = len(values)
        if not n:
            raise InputError("an interval needs at least one value, but got none")
        if n == 1:
            return cls(float(values[0]), float("nan"))
        error = float(np.std(values, ddof=1)) / n**0.5
        return cls(float(np.mean(values)), float(t.ppf(0.975, n - 1)) * error)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldScores:
    """The results of a cross-validation.

    Args:
        taus: `kendall_tau` on each fold, `[folds]`.
        predicted: The out-of-fold predictions, `[n]`. If predictions are not in the unit of the scores, they are
            comparable only within one fold.
        fold: The fold of each architecture, `[n]`.
        seconds: The time of fitting and predicting.
    """

    taus: TrainingSet
    predicted: TrainingSet
    fold: NDArray[np.intp]
    seconds: float

    @property
    def tau(self) -> Interval:
        """The interval over the folds; folds share training data, so the interval is narrower than it should be."""
        return Interval.of(self.taus)


def cross_validated(
    make: Make,
    architectures: Sequence[Architecture],
    scores: TrainingSet,
    folds: int,
    rng: Generator,
    progress: Callable[[], object] = lambda: None,
) -> FoldScores:
    """Cross-validation: fit on all but one of several equal folds, rank that fold, and repeat for each fold.

    Args:
        make: Makes the predictor.
        architectures: The measured architectures.
        scores: Their scores, `[n]`.
        folds: Number of folds; each has at least two members.
        rng: Draws the folds.
        progress: Called after each fold.

    Raises:
        InputError: There are too few architectures for the number of folds, or too few to fit.
    """
    n = len(architectures)
    if folds < 2 or n < 2 * folds:
        raise InputError(
            f"cross-validation needs at least 2 folds of at least 2 architectures, but got {n} architectures for "
            f"{folds} folds; give fewer folds or more scores"
        )
    fold = rng.permutation(np.arange(n) % folds)
    predicted, taus = np.empty(n), np.empty(folds)
    start = time.perf_counter()
    for each in range(folds):
        (seen,), (held,) = np.nonzero(fold != each), np.nonzero(fold == each)
        predictor = make().fit([architectures[i] for i in seen.tolist()], scores[seen])
        predicted[held] = predictor.predict([architectures[i] for i in held.tolist()])
        taus[each] = kendall_tau(predicted[held], scores[held])
        progress()
    return FoldScores(taus=taus, predicted=predicted, fold=fold, seconds=time.perf_counter() - start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A split into training and test architectures, by index.

    Args:
        size: The size of the training set.
        number: The number of the split among those of this size, from 0.
        training: The indices of the training set.
        test: The indices of the test set, in random order.
        duplicate: For each of `test` whether it has a duplicate, with the same canonical key, in the training set.
        group: For each of `test` a number, equal for those with the same canonical key.
    """

    size: int
    number: int
    training: NDArray[np.intp]
    test: NDArray[np.intp]
    duplicate: NDArray[np.bool_]
    group: NDArray[np.intp]


def splits(
    space: SearchSpace,
    architectures: Sequence[Architecture],
    *,
    sizes: Sequence[int],
    number: int,
    seed: int,
    test: int | None = None,
) -> Iterator[Split]:
    """Training sets drawn uniformly, with the rest as test sets.

    A split depends only on the seed, its size and its number. So all predictors get the same splits, and adding splits
    does not change earlier ones.

    Args:
        space: The space of the architectures.
        architectures: The measured architectures.
        sizes: Sizes of training sets.
        number: Number of splits of each size.
        seed: The seed of the splits.
        test: The size of the test set; None for all the rest.

    Raises:
        InputError: A size leaves fewer than two architectures for the test, or an argument is not positive.
    """
    n = len(architectures)
    if number < 1 or (test is not None and test < 2):
        raise InputError(
            f"at least 1 split and at least 2 architectures to rank are needed, but got {number} and {test}"
        )
    for size in sizes:
        if not 1 <= size <= n - 2:
            raise InputError(
                f"a training set must have at least 1 of the {n} architectures and leave at least 2 to rank, but got "
                f"the size {size}; give other sizes"
            )
    keys: dict[int, str] = {}  # computing keys is slow in large spaces

    def key(i: int) -> str:
        if i not in keys:
            keys[i] = space.canonical_key(architectures[i])
        return keys[i]

    for size in sizes:
        for each in range(number):
            order = default_rng(SeedSequence(seed, spawn_key=(size, each))).permutation(n)
            training, rest = order[:size], order[size:][:test]
            seen = {key(i) for i in training.tolist()}
            duplicate = np.array([key(i) in seen for i in rest.tolist()])
            numbers: dict[str, int] = {}
            group = np.array([numbers.setdefault(key(i), len(numbers)) for i in rest.tolist()])
            yield Split(size=size, number=each, training=training, test=rest, duplicate=duplicate, group=group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One predictor on one split.

    Args:
        predictor: The name of the predictor.
        size: The size of the training set.
        split: The number of the split.
        ranked: The size of the test set.
        duplicates: Number of test architectures with a duplicate, of the same canonical key, in the training set.
        all: The ranking of the whole test set; None if the predictor failed.
        fresh: The ranking without the duplicates; None if there are fewer than two, or the predictor failed.
        fit_seconds: The time of fitting.
        predict_seconds: The time of predicting the whole test set.
        problem: Why the predictor failed; empty if it did not.
        intervals: How many scores of the test set without the duplicates lie in the predictor's intervals; None if the
            predictor failed.
    """

    predictor: str
    size: int
    split: int
    ranked: int
    duplicates: int
    all: Ranking | None = None
    fresh: Ranking | None = None
    fit_seconds: float = float("nan")
    predict_seconds: float = float("nan")
    problem: str = ""
    intervals: Coverage | None = None


def evaluate(
    makes: Mapping[str, Make],
    architectures: Sequence[Architecture],
    scores: TrainingSet,
    drawn: Iterator[Split],
    *,
    top: int = 10,
    done: Collection[tuple[str, int, int]] = (),
) -> Iterator[Trial]:
    """Learning curves: fit every predictor on every split, and evaluate its ranking of the test set.

    If a predictor rejects a training set or raises an error, the trial records the problem and the evaluation
    continues.

    Args:
        makes: Functions that make predictors, by name; each split gets a new predictor.
        architectures: The measured architectures.
        scores: Their scores, `[n]`.
        drawn: The result of `splits`.
        top: The size of the short list for precision and regret.
        done: Name, size and split of the trials to skip, because their results exist.
    """
    for split in drawn:
        training, test = ([architectures[i] for i in part.tolist()] for part in (split.training, split.test))
        for name, make in makes.items():
            if (name, split.size, split.number) in done:
                continue
            trial = Trial(
                predictor=name,
                size=split.size,
                split=split.number,
                ranked=len(test),
                duplicates=int(split.duplicate.sum()),
            )
            try:
                start = time.perf_counter()
                predictor = make().fit(training, scores[split.training])
                fitted = time.perf_counter()
                predicted = predictor.predict(test)
                end = time.perf_counter()
                if not np.isfinite(predicted).all():
                    raise ValueError("not every prediction is a finite number")
                truth, fresh = scores[split.test], ~split.duplicate
                trial = replace(
                    trial,
                    all=Ranking.of(predicted, truth, top=top),
                    fresh=Ranking.of(predicted[fresh], truth[fresh], top=top) if fresh.sum() > 1 else None,
                    fit_seconds=fitted - start,
                    predict_seconds=end - fitted,
                    intervals=_coverage(predictor, test, truth, split),
                )
            except Exception as error:  # noqa: BLE001  whatever a predictor does wrong is its own
                trial = replace(trial, problem=f"{type(error).__name__}: {error}")
            yield trial


def _coverage(predictor: Predictor, test: Sequence[Architecture], truth: TrainingSet, split: Split) -> Coverage:
    """The coverage of intervals on what the training set has no duplicate of."""
    fresh = ~split.duplicate
    held_out = [test[i] for i in np.flatnonzero(fresh).tolist()]
    try:
        if predictor.estimate(test[:1])[1] is None:  # asked of one, so that the others are not predicted for nothing
            return Coverage(problem="it predicts no deviations")
        values, deviations = predictor.estimate(held_out) if held_out else (np.empty(0), np.empty(0))
        if deviations is None:
            raise ValueError("it predicts deviations only of some architectures")
        return Coverage.of(values, deviations, truth[fresh], split.group[fresh])
    except Exception as error:  # noqa: BLE001  whatever a predictor does wrong is its own; its ranking remains
        return Coverage(problem=f"{type(error).__name__}: {error}")


def _check(predicted: TrainingSet, truth: TrainingSet) -> None:
    if predicted.shape != truth.shape or predicted.ndim != 1 or len(truth) < 2:
        raise InputError(
            f"a ranking needs at least 2 predictions and one true score for each, but got the shapes {predicted.shape} "
            f"and {truth.shape}"
        )


def _constant(values: TrainingSet) -> bool:
    return bool((values == values[0]).all())


def _best(top: int, predicted: TrainingSet, truth: TrainingSet) -> NDArray[np.intp]:
    """The indices of the predicted best, at most all."""
    _check(predicted, truth)
    if top < 1:
        raise InputError(f"the number of best architectures must be at least 1, but got {top}")
    return np.argsort(-predicted, kind="stable")[:top]
