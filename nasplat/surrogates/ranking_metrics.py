"""How well a predictor ranks: figures of one ranking, intervals over several, cross-validation, learning curves."""

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

TrainingSet: TypeAlias = NDArray[np.float64]
"""One figure for each architecture, `[n]`, more being better."""

Make: TypeAlias = Callable[[], Predictor]
"""Makes a fresh predictor, which has learnt nothing."""


def kendall_tau(predicted: TrainingSet, truth: TrainingSet) -> float:
    """Kendall's tau-b: the share of the pairs ranked rightly less that ranked wrongly, ties accounted for.

    In -1..1; 0 where either side is constant, since it then ranks nothing. Takes O(n log n) time.

    Raises:
        InputError: There are fewer than two, or the lengths differ.
    """
    _check(predicted, truth)
    if _constant(predicted) or _constant(truth):
        return 0.0
    from scipy.stats import kendalltau

    return float(kendalltau(predicted, truth).statistic)


def spearman_rho(predicted: TrainingSet, truth: TrainingSet) -> float:
    """Spearman's rho: the correlation of the ranks, those of ties averaged; 0 where either side is constant.

    Raises:
        InputError: There are fewer than two, or the lengths differ.
    """
    _check(predicted, truth)
    if _constant(predicted) or _constant(truth):
        return 0.0
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, truth).statistic)


def precision_at(top: int, predicted: TrainingSet, truth: TrainingSet) -> float:
    """The share of the predicted best `top` that are among the true best `top`; of fewer, all count.

    Whatever is as good as the last of the true best is one of them. Equal predictions count in the order given, which
    should therefore tell nothing.

    Raises:
        InputError: There are fewer than two, or the lengths differ.
    """
    chosen = _best(top, predicted, truth)
    worst = np.partition(truth, -len(chosen))[-len(chosen)]
    return float((truth[chosen] >= worst).mean())


def regret_at(top: int, predicted: TrainingSet, truth: TrainingSet) -> float:
    """What is lost by measuring the predicted best `top` alone: the best true score less the best of theirs.

    In the unit of the scores; 0 if the best is among them. Ties are taken as in `precision_at`.

    Raises:
        InputError: There are fewer than two, or the lengths differ.
    """
    return float(truth.max() - truth[_best(top, predicted, truth)].max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The figures of one ranking.

    Args:
        tau: `kendall_tau`.
        spearman: `spearman_rho`.
        precision: `precision_at` the best few.
        regret: `regret_at` the best few, in the unit of the scores.
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
    """A mean and how far the true one may be from it.

    Args:
        mean: The mean.
        half: Half the width of the 95 % interval; not a number for a single value.
    """

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float] | TrainingSet) -> "Interval":
        """Student's t interval for the mean of independent values.

        Raises:
            InputError: There are none.
        """
        from scipy.stats import t

        n = len(values)
        if not n:
            raise InputError("an interval is of at least one value, but got none")
        if n == 1:
            return cls(float(values[0]), float("nan"))
        error = float(np.std(values, ddof=1)) / n**0.5
        return cls(float(np.mean(values)), float(t.ppf(0.975, n - 1)) * error)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldScores:
    """What cross-validation found.

    Args:
        taus: `kendall_tau` on each fold, `[folds]`.
        predicted: What was predicted for every architecture by the predictor that had not seen it, `[n]`. Only figures
            of one fold are comparable where predictors are not in the unit of the scores.
        fold: Which fold each architecture was in, `[n]`.
        seconds: What fitting and predicting took.
    """

    taus: TrainingSet
    predicted: TrainingSet
    fold: NDArray[np.intp]
    seconds: float

    @property
    def tau(self) -> Interval:
        """Over the folds; they share training data, so that the interval is narrower than it should be."""
        return Interval.of(self.taus)


def cross_validated(
    make: Make,
    architectures: Sequence[Architecture],
    scores: TrainingSet,
    folds: int,
    rng: Generator,
    progress: Callable[[], object] = lambda: None,
) -> FoldScores:
    """Fit on all but one of several equal parts and rank that one, each in turn.

    Args:
        make: Makes the predictor.
        architectures: What was measured.
        scores: How well they did, `[n]`.
        folds: How many parts; each has at least two members.
        rng: Draws the parts.
        progress: Told after each fold.

    Raises:
        InputError: There are too few for so many folds, or too few to learn from.
    """
    n = len(architectures)
    if folds < 2 or n < 2 * folds:
        raise InputError(
            f"cross-validation takes at least 2 folds of at least 2 architectures, but got {n} for {folds}; "
            "give fewer folds or more scores"
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
    """Which architectures are learnt from and which are ranked, by position.

    Args:
        size: How many are learnt from.
        number: Which of the splits of this size it is, from 0.
        training: Those learnt from.
        test: Those ranked, in random order.
        twin: For each of `test` whether one that is learnt from has the same canonical key.
    """

    size: int
    number: int
    training: NDArray[np.intp]
    test: NDArray[np.intp]
    twin: NDArray[np.bool_]


def splits(
    space: SearchSpace,
    architectures: Sequence[Architecture],
    *,
    sizes: Sequence[int],
    number: int,
    seed: int,
    test: int | None = None,
) -> Iterator[Split]:
    """Training sets drawn uniformly, and the rest to be ranked.

    A split depends on the seed, its size and its number alone, so that all predictors see the same and more splits
    change none of the earlier.

    Args:
        space: The space of the architectures.
        architectures: What was measured.
        sizes: Sizes of training sets.
        number: How many splits of each size.
        seed: What they are drawn from.
        test: How many of the rest are ranked; None for all.

    Raises:
        InputError: A size leaves fewer than two to rank, or something is not positive.
    """
    n = len(architectures)
    if number < 1 or (test is not None and test < 2):
        raise InputError(f"there is at least 1 split, and there are 2 to rank, but got {number} and {test}")
    for size in sizes:
        if not 1 <= size <= n - 2:
            raise InputError(
                f"a training set leaves at least 2 of the {n} architectures to rank, but has {size}; give other sizes"
            )
    keys: dict[int, str] = {}  # those of large spaces take long

    def key(i: int) -> str:
        if i not in keys:
            keys[i] = space.canonical_key(architectures[i])
        return keys[i]

    for size in sizes:
        for each in range(number):
            order = default_rng(SeedSequence(seed, spawn_key=(size, each))).permutation(n)
            training, rest = order[:size], order[size:][:test]
            seen = {key(i) for i in training.tolist()}
            twin = np.array([key(i) in seen for i in rest.tolist()])
            yield Split(size=size, number=each, training=training, test=rest, twin=twin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One predictor on one split.

    Args:
        predictor: Its name.
        size: How many it learnt from.
        split: The number of the split.
        ranked: How many it ranked.
        twins: How many of them share a canonical key with one it learnt from.
        all: How it ranked all of them; None if it failed.
        fresh: How it ranked those without a twin; None if there are fewer than two, or it failed.
        fit_seconds: What fitting took.
        predict_seconds: What predicting all took.
        problem: Why it failed; empty if it did not.
    """

    predictor: str
    size: int
    split: int
    ranked: int
    twins: int
    all: Ranking | None = None
    fresh: Ranking | None = None
    fit_seconds: float = float("nan")
    predict_seconds: float = float("nan")
    problem: str = ""


def evaluate(
    makes: Mapping[str, Make],
    architectures: Sequence[Architecture],
    scores: TrainingSet,
    drawn: Iterator[Split],
    *,
    top: int = 10,
    done: Collection[tuple[str, int, int]] = (),
) -> Iterator[Trial]:
    """Learning curves: fit every predictor on every split and see how it ranks what it has not seen.

    A predictor that refuses to learn from so many, or breaks on them, is a trial with a problem, not the end.

    Args:
        makes: Predictors by name; each is made afresh for each split.
        architectures: What was measured.
        scores: How well they did, `[n]`.
        drawn: What `splits` gives.
        top: The size of the short list that precision and regret are about.
        done: Name, size and split of what is left out, since it is known.
    """
    for split in drawn:
        training, test = ([architectures[i] for i in part.tolist()] for part in (split.training, split.test))
        for name, make in makes.items():
            if (name, split.size, split.number) in done:
                continue
            trial = Trial(
                predictor=name, size=split.size, split=split.number, ranked=len(test), twins=int(split.twin.sum())
            )
            try:
                start = time.perf_counter()
                predictor = make().fit(training, scores[split.training])
                fitted = time.perf_counter()
                predicted = predictor.predict(test)
                end = time.perf_counter()
                if not np.isfinite(predicted).all():
                    raise ValueError("not every prediction is a finite number")
                truth, fresh = scores[split.test], ~split.twin
                trial = replace(
                    trial,
                    all=Ranking.of(predicted, truth, top=top),
                    fresh=Ranking.of(predicted[fresh], truth[fresh], top=top) if fresh.sum() > 1 else None,
                    fit_seconds=fitted - start,
                    predict_seconds=end - fitted,
                )
            except Exception as error:  # noqa: BLE001  whatever a predictor does wrong is its own
                trial = replace(trial, problem=f"{type(error).__name__}: {error}")
            yield trial


def _check(predicted: TrainingSet, truth: TrainingSet) -> None:
    if predicted.shape != truth.shape or predicted.ndim != 1 or len(truth) < 2:
        raise InputError(
            f"a ranking is of at least 2 predictions and as many true scores, but got {predicted.shape} and "
            f"{truth.shape}"
        )


def _constant(values: TrainingSet) -> bool:
    return bool((values == values[0]).all())


def _best(top: int, predicted: TrainingSet, truth: TrainingSet) -> NDArray[np.intp]:
    """The positions of the predicted best, at most all."""
    _check(predicted, truth)
    if top < 1:
        raise InputError(f"the best are at least 1, but got {top}")
    return np.argsort(-predicted, kind="stable")[:top]
