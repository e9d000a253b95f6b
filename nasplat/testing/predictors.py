"""The contract of a predictor as checks. Each takes a function that makes a predictor for a space."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias
from unittest.mock import patch

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.predictor import FittedState, Predictor
from nasplat.search_space import SearchSpace
from nasplat.testing.common import check_configuration, global_generators_untouched
from nasplat.testing.toy import ToySpace, toy_accuracy

MakePredictor: TypeAlias = Callable[[SearchSpace], Predictor]
FORMATS = {".json", ".safetensors", ".npz", ".onnx"}


def fit_returns_itself(make: MakePredictor) -> None:
    """`fit` returns the predictor."""
    predictor = make(ToySpace())
    assert predictor.fit(*_examples()) is predictor, "fit did not return the predictor itself"


def unfitted_is_refused(make: MakePredictor) -> None:
    """Prediction before fitting is an `InputError`."""
    architectures, _ = _examples()
    try:
        make(ToySpace()).predict(architectures)
    except InputError:
        return
    raise AssertionError("an unfitted predictor predicted")


def one_finite_score_each(make: MakePredictor) -> None:
    """Scores are finite, one for each architecture, for one or many."""
    architectures, scores = _examples()
    predictor = make(ToySpace()).fit(architectures, scores)
    for count in (1, len(architectures)):
        predicted = predictor.predict(architectures[:count])
        assert predicted.shape == (count,), f"{count} architectures got scores of shape {predicted.shape}"
        assert np.isfinite(predicted).all(), "a score is not finite"


def out_of_fold_predictions_are_finite(make: MakePredictor) -> None:
    """Out-of-fold predictions are None before fitting, and afterwards None or one finite score for each example."""
    predictor = make(ToySpace())
    assert predictor.out_of_fold() is None, "a predictor that is not fitted has out-of-fold predictions"
    architectures, scores = _examples()
    held_out = predictor.fit(architectures, scores).out_of_fold()
    if held_out is not None:
        assert held_out.shape == scores.shape, f"{len(scores)} examples were held out with scores {held_out.shape}"
        assert np.isfinite(held_out).all(), "the score of a held-out example is not finite"


def scores_do_not_depend_on_company(make: MakePredictor) -> None:
    """An architecture's score is the same alone and among others."""
    architectures, scores = _examples()
    predictor = make(ToySpace()).fit(architectures, scores)
    together = predictor.predict(architectures)
    alone = np.concatenate([predictor.predict([a]) for a in architectures[:5]])
    assert np.allclose(together[:5], alone, rtol=1e-4, atol=1e-6), f"{together[:5]} together but {alone} alone"


def estimates_follow_the_unit_of_the_scores(make: MakePredictor) -> None:
    """Scores in another unit, a · score + b, give estimates a · estimate + b and deviations a · deviation."""
    architectures, scores = _examples(30)
    factor, offset = 100.0, -30.0
    values, deviations = make(ToySpace()).fit(architectures, scores).estimate(architectures)
    others, theirs = make(ToySpace()).fit(architectures, factor * scores + offset).estimate(architectures)
    tolerance = 0.02 * factor * float(np.ptp(scores))
    apart = np.abs(others - (factor * values + offset)).max()
    assert apart <= tolerance, f"an estimate is {apart:.3g} off the one in the other unit; set target_transform in fit"
    assert (deviations is None) == (theirs is None), "it has deviations of one fit alone"
    if deviations is not None and theirs is not None:
        apart = np.abs(theirs - factor * deviations).max()
        assert apart <= tolerance, f"a deviation is {apart:.3g} off the one in the other unit"


def estimates_lie_among_the_scores(make: MakePredictor) -> None:
    """Estimates of the training set lie within the range of its scores or half of it beyond, and deviations fit them.

    They are centered where the scores are; deviations are finite, not negative, and not wider than the range.
    """
    architectures, scores = _examples(30)
    values, deviations = make(ToySpace()).fit(architectures, scores).estimate(architectures)
    low, high = float(scores.min()), float(scores.max())
    span = high - low
    assert values.shape == scores.shape, f"{len(scores)} architectures got estimates of shape {values.shape}"
    inside = (low - span / 2 <= values) & (values <= high + span / 2)
    assert inside.all(), f"scores are {low:.3g} to {high:.3g}, but an estimate is {values[~inside][0]:.3g}"
    center = float(np.median(values))
    assert low <= center <= high, f"scores are {low:.3g} to {high:.3g}, but the median estimate is {center:.3g}"
    if deviations is not None:
        assert deviations.shape == scores.shape, f"{len(scores)} architectures got deviations of {deviations.shape}"
        fit = (deviations >= 0) & (deviations <= span)
        assert fit.all(), f"the range of the scores is {span:.3g}, but a deviation is {deviations[~fit][0]:.3g}"


def learns_to_rank(make: MakePredictor) -> None:
    """It ranks most pairs of training examples correctly, and most pairs of unseen examples."""
    architectures, scores = _examples(100)
    fresh, truth = _examples(60, seed=1)
    predictor = make(ToySpace()).fit(architectures, scores)
    assert _pairs_right(predictor.predict(architectures), scores) > 0.7, (
        "the predictor does not rank its own training set"
    )
    assert _pairs_right(predictor.predict(fresh), truth) > 0.6, (
        "the predictor does not rank architectures outside its training set"
    )


def same_data_same_predictions(make: MakePredictor) -> None:
    """Two predictors fitted to the same data predict the same, without changing global generators."""
    architectures, scores = _examples()
    with global_generators_untouched():
        first, second = (make(ToySpace()).fit(architectures, scores).predict(architectures) for _ in range(2))
    assert np.array_equal(first, second), "the same data gave different predictions"


def saved_is_loaded(make: MakePredictor) -> None:
    """A saved predictor predicts the same after loading, and its files are no pickles."""
    architectures, scores = _examples()
    predictor = make(ToySpace()).fit(architectures, scores)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "predictor"
        predictor.save(folder)
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files and all(path.suffix in FORMATS for path in files), f"saved as {[path.name for path in files]}"
        assert not any(path.read_bytes().startswith(b"\x80") for path in files), "a pickle was saved"
        loaded = type(predictor).load(folder, ToySpace())
        assert np.allclose(loaded.predict(architectures), predictor.predict(architectures)), (
            "the loaded predictor gives different predictions"
        )
        values, others = (each.estimate(architectures)[0] for each in (predictor, loaded))
        assert np.allclose(values, others), "loaded, it estimates in another unit"


def damaged_is_refused(make: MakePredictor) -> None:
    """A missing folder, and a file that is missing or cut, is an `InputError`."""
    architectures, scores = _examples()
    predictor = make(ToySpace()).fit(architectures, scores)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "predictor"
        predictor.save(folder)
        for path in [each for each in folder.rglob("*") if each.is_file()]:
            whole = path.read_bytes()
            for size in (0, len(whole) // 2, len(whole) - 1):
                path.write_bytes(whole[:size])
                _refused(predictor, folder, f"a predictor with {path.name} cut to {size} bytes")
            path.unlink()
            _refused(predictor, folder, f"a predictor without {path.name}")
            path.write_bytes(whole)
        _refused(predictor, Path(parent) / "missing", "a missing predictor")


def _refused(predictor: Predictor, folder: Path, what: str) -> None:
    try:
        type(predictor).load(folder, ToySpace())
    except InputError:
        return
    raise AssertionError(f"{what} was loaded")


def strangers_are_not_restored(make: MakePredictor) -> None:
    """A fitted state of another predictor, with a missing array or an array of another shape, raises an error."""
    architectures, scores = _examples()
    predictor = make(ToySpace()).fit(architectures, scores)
    state = predictor.get_state()
    strangers = [FittedState()]
    for name, array in state.arrays.items():
        others = {key: value for key, value in state.arrays.items() if key != name}
        strangers += [
            FittedState(state.values, others),
            FittedState(state.values, {**others, name: array[None, ..., None]}),
        ]
    for stranger in strangers:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "predictor"
            _saved_as(predictor, stranger, folder)
            try:
                type(predictor).load(folder, ToySpace())
            except InputError:
                continue
        raise AssertionError(
            "a predictor was loaded from the arrays of another one: "
            f"{[(k, v.shape) for k, v in stranger.arrays.items()]}"
        )


def _saved_as(predictor: Predictor, state: FittedState, folder: Path) -> None:
    """Save a predictor with another fitted state."""
    with patch.object(predictor, "get_state", lambda: state):
        predictor.save(folder)


def options_are_configuration(make: MakePredictor) -> None:
    """Constructor options are annotated, keyword-only and stored under their own names."""
    check_configuration(make(ToySpace()), given=1)


PREDICTOR_CHECKS: tuple[Callable[[MakePredictor], None], ...] = (
    fit_returns_itself,
    unfitted_is_refused,
    one_finite_score_each,
    out_of_fold_predictions_are_finite,
    scores_do_not_depend_on_company,
    estimates_follow_the_unit_of_the_scores,
    estimates_lie_among_the_scores,
    learns_to_rank,
    same_data_same_predictions,
    saved_is_loaded,
    damaged_is_refused,
    strangers_are_not_restored,
    options_are_configuration,
)


def _examples(count: int = 60, seed: int = 0) -> tuple[list[Architecture], NDArray[np.float64]]:
    space, rng = ToySpace(), default_rng(seed)
    architectures = [space.sample(rng) for _ in range(count)]
    return architectures, np.array([toy_accuracy(a) for a in architectures])


def _pairs_right(predicted: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """The fraction of pairs with different true values that are ranked correctly."""
    ahead = np.sign(truth[:, None] - truth[None, :])
    right = np.sign(predicted[:, None] - predicted[None, :]) == ahead
    return float(right[ahead != 0].mean())
