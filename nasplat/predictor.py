"""The contract of a predictor: it learns to rank architectures from measured architectures."""

import hashlib
import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.options import complete, shortly
from nasplat.search_space import SearchSpace
from nasplat.storage.files import new_folder, read_file
from nasplat.target import Line, TargetTransform, transform_of

FORMAT = "nasplat predictor 1"
LARGEST_SCORE = 1e100
"""The largest score that a predictor accepts; squares of larger scores would overflow."""
TRIED, SAME = 4, 1e-3
"""Number of predictions that are saved with a predictor, and how much they may differ when it is loaded, relatively."""
DOCUMENT, ARRAYS = "predictor.json", "predictor.safetensors"
LARGEST = {DOCUMENT: 1 << 26, ARRAYS: 1 << 32}
"""Maximum size in bytes of each of the two files; a larger file is not read."""


@dataclass(frozen=True, slots=True)
class FittedState:
    """The fitted state of a predictor.

    Args:
        values: The part that JSON can represent.
        arrays: The arrays, by name.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class Predictor(ABC):
    """Learns scores of architectures, with the conventions of scikit-learn.

    The constructor takes the space and keyword-only options, stores them under their own names and does no
    work. Higher scores are better; `predict` before `fit` raises `InputError`. Randomness comes from an option
    `seed`, so that the same data give the same predictions.

    A search uses `predict`, whose unit is the predictor's own. What people see comes from `estimate`, in the unit of
    the scores. A predictor that predicts in another unit sets `target_transform` in `fit`.
    """

    name: ClassVar[str]
    """The name the predictor is registered under."""

    former_name: ClassVar[str | None] = None
    """The name that files of earlier versions have for it; None if it was never renamed."""

    cross_validated: float | None = None
    """Kendall's tau of the out-of-fold predictions, if `fit` computes it; None if that needs a cross-validation."""

    target_transform: TargetTransform | None = Line()
    """How predictions become scores, set by `fit`; by default they are scores. None if a file does not say."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    @abstractmethod
    def fit(self, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Self:
        """Fit to scores `[n]`, higher being better, and return self. An earlier fit is replaced.

        Raises:
            InputError: There are too few architectures, or not one finite score for each.
        """

    @abstractmethod
    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Predict scores `[n]` for ranking; only their order is guaranteed to have a meaning.

        Raises:
            InputError: The predictor is not fitted.
        """

    def out_of_fold(self) -> NDArray[np.float64] | None:
        """Out-of-fold predictions for the examples of `fit`, `[n]`: each by a model that was not fitted to it.

        None if the predictor has none, and before `fit`; they need not be saved.
        """
        return None

    @final
    def estimate(self, architectures: Sequence[Architecture]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Estimates in the unit of the fitted scores, `[n]`, in the order of `predict`, and their standard deviations.

        The deviations are in the same unit, and None if the predictor has none.

        Raises:
            InputError: The predictor is not fitted, or was saved by a version that did not record the unit.
        """
        if self.target_transform is None:
            raise InputError(
                f"this {self.name} was saved by an earlier version, and its scores are in a unit of its own; "
                "fit it again for values in the unit of the metric"
            )
        predicted, deviations = self.predict_uncertain(architectures)
        values = self.target_transform.inverse(predicted)
        return values, None if deviations is None else self.target_transform.deviations(predicted, deviations)

    def predict_uncertain(
        self, architectures: Sequence[Architecture]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Scores as from `predict`, and their standard deviations if the predictor has any, `[n]` each.

        Raises:
            InputError: The predictor is not fitted.
        """
        return self.predict(architectures), None

    @abstractmethod
    def get_state(self) -> FittedState:
        """The fitted state, for `set_state` in another process.

        Raises:
            InputError: The predictor is not fitted.
        """

    @abstractmethod
    def set_state(self, state: FittedState) -> None:
        """Restore the fitted state that `get_state` returned.

        Raises:
            KeyError, ValueError, TypeError: It is not the fitted state of such a predictor.
        """

    def options(self) -> dict[str, Any]:
        """The constructor's options, as JSON values by name."""
        return options_of(self)

    def save(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        """Save the predictor to a new folder: a JSON document and a safetensors file.

        Args:
            folder: The folder; it must not exist. It is created completely or not at all.
            about: Further values for the document, such as a training set's `description`: its sources and its metric.

        Raises:
            InputError: The predictor is not fitted, or the path exists.
        """
        from safetensors.numpy import save

        state = self.get_state()
        arrays = save({name: np.ascontiguousarray(array) for name, array in state.arrays.items()})
        document = {
            "format": FORMAT,
            "predictor": self.name,
            "options": self.options(),
            "space": {"name": self.space.known_as or self.space.name, "options": options_of(self.space)},
            "versions": {name: version(name) for name in ("nasplat", "numpy", "scikit-learn", "torch")},
            "about": dict(about or {}),
            "target": None if self.target_transform is None else self.target_transform.as_json(),
            "trial": self._trial().tolist(),
            "state": dict(state.values),
            "arrays": hashlib.sha256(arrays).hexdigest(),
        }
        try:
            written = json.dumps({**document, "document": _digest(document)}, indent=1, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"this {self.name} cannot be saved: JSON cannot represent its state: {error}") from error
        for name, data in ((DOCUMENT, written), (ARRAYS, arrays)):
            if len(data) > LARGEST[name]:
                raise InputError(
                    f"this {self.name} cannot be saved: {name} must have at most {LARGEST[name]:,} bytes, "
                    f"but has {len(data):,}"
                )
        with new_folder(folder) as draft:
            (draft / ARRAYS).write_bytes(arrays)
            (draft / DOCUMENT).write_bytes(written)

    @classmethod
    def load(cls, folder: Path, space: SearchSpace) -> Self:
        """Load a predictor that `save` wrote.

        Raises:
            InputError: The folder is missing or damaged, or contains something else; the message says what is wrong.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        document = read_document(folder)
        saved, name = document["space"], document["predictor"]
        if name not in (cls.name, cls.former_name) or saved["name"] != (space.known_as or space.name):
            raise InputError(f"{folder} holds a {name} of {saved['name']}, not a {cls.name} of {space.name}")
        if complete("space", type(space), saved["options"]) != options_of(space):
            raise InputError(
                f"the predictor in {folder} was saved for {space.name} with the options {saved['options']}, but "
                f"the space has {options_of(space)}; make the space with the same options"
            )
        try:
            data = _read(folder / ARRAYS)
            if hashlib.sha256(data).hexdigest() != document["arrays"]:
                raise ValueError(f"{ARRAYS} does not belong to {DOCUMENT}, or is damaged; copy both again")
            arrays = load(data)
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise _unreadable(folder, error) from error
        changed = InputError(
            f"the predictor in {folder} says something else of {space.name} than when it was saved: the space, or what "
            "predictors see of it, has changed; fit it again"
        )
        before = document.get("trial")
        if before is None and not _seen_as_before(space):
            raise changed
        try:
            predictor = cls(space, **complete("predictor", cls, document["options"]))
            predictor.set_state(FittedState(document["state"], arrays))
            target = document.get("target")  # earlier versions have none
            predictor.target_transform = None if target is None else transform_of(target)
            # An inconsistent state, such as weights for other features, fails only when it is used.
            trial = predictor._trial()
            if trial.shape != (TRIED,) or not np.isfinite(trial).all():
                raise ValueError(f"a trial prediction gave {shortly(trial)}, not {TRIED} finite scores")
            same = before is None or np.allclose(trial, before, rtol=SAME, atol=SAME * np.ptp(before))
        except Exception as error:  # with a wrong state, it may raise any exception
            raise _unreadable(folder, error) from error
        if not same:
            raise changed
        return predictor

    def _trial(self) -> NDArray[np.float64]:
        """Predictions for a few members, `[TRIED]`, always the same ones."""
        return self.predict([self.space.sample(default_rng(seed)) for seed in range(TRIED)])


class TooFew(InputError):
    """There are fewer examples than a predictor needs."""


class UncertainPredictor(Predictor):
    """A predictor that also predicts standard deviations."""

    @abstractmethod
    def predict_with_deviation(
        self, architectures: Sequence[Architecture]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores as from `predict`, and their standard deviations in the same unit, `[n]` each.

        Raises:
            InputError: The predictor is not fitted.
        """

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        return self.predict_with_deviation(architectures)[0]

    def predict_uncertain(
        self, architectures: Sequence[Architecture]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        return self.predict_with_deviation(architectures)

    def covariance(self, architectures: Sequence[Architecture], others: Sequence[Architecture]) -> NDArray[np.float64]:
        """The covariance of the predictions, `[n, others]`, in the unit of the squared deviation.

        By default predictions are independent, except those of architectures with the same canonical key.
        """
        variance = self.predict_with_deviation(architectures)[1] ** 2
        keys, theirs = ([self.space.canonical_key(a) for a in some] for some in (architectures, others))
        same: NDArray[np.bool_] = np.array(keys, dtype=object)[:, None] == np.array(theirs, dtype=object)
        return variance[:, None] * same


def checked_scores(
    name: str, architectures: Sequence[Architecture], scores: NDArray[np.float64], fewest: int
) -> NDArray[np.float64]:
    """Check the scores that a predictor is fitted to, `[n]`.

    Raises:
        TooFew: There are fewer than `fewest` architectures.
        InputError: There is not one score for each architecture, or a score is not finite, or so
            large that differences of scores are not finite.
    """
    n = len(architectures)
    if n < fewest:
        raise TooFew(f"{name} needs at least {fewest} architectures, but got {n}; measure more")
    checked = np.asarray(scores, dtype=np.float64)
    if checked.shape != (n,):
        raise InputError(
            f"{name} needs one score for each of {n} architectures, but got scores of shape {checked.shape}"
        )
    if not np.isfinite(checked).all() or np.abs(checked).max() > LARGEST_SCORE:
        raise InputError(
            f"{name} needs finite scores between -{LARGEST_SCORE:g} and {LARGEST_SCORE:g}, but some are not"
        )
    return checked


def options_of(plugin: Predictor | SearchSpace) -> dict[str, Any]:
    """The options of a plug-in's constructor, as JSON values by name."""
    kind = "predictor" if isinstance(plugin, Predictor) else "space"
    parameters = inspect.signature(type(plugin)).parameters.values()
    names = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return complete(kind, type(plugin), {name: getattr(plugin, name) for name in names})


def read_document(folder: Path) -> dict[str, Any]:
    """Read and verify the JSON document of a saved predictor.

    It has the keys `predictor` and `options`, `space` with `name` and `options`, `versions`, `about`, `state`, and
    the digests `arrays` and `document`. Earlier versions have no `target`, which says how predictions become scores,
    and no `trial`, some predictions.

    Raises:
        InputError: The document is missing, damaged, or of another format; the message says what is wrong.
    """
    try:
        document = json.loads(_read(folder / DOCUMENT), parse_constant=_finite, parse_float=_finite)
        if not isinstance(document, dict):
            raise ValueError(f"{DOCUMENT} must contain a JSON object, but contains {type(document).__name__}")
        if document.get("format") != FORMAT:
            raise ValueError(
                f"{DOCUMENT} has the format {shortly(document.get('format'))}, but this version of NASPlat reads "
                f"{FORMAT!r}; use the version that it was saved with"
            )
        digest = document.pop("document", None)
        if digest != _digest(document):
            raise ValueError(f"{DOCUMENT} has changed since it was saved; copy it again")
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(folder, error) from error
    if "learnt" in document:  # the former name
        document["state"] = document.pop("learnt")
    match document:
        case {
            "predictor": str(),
            "options": dict(),
            "space": {"name": str(), "options": dict()},
            "versions": dict(),
            "about": dict(),
            "state": dict(),
            "arrays": str(),
        }:
            return {**document, "document": digest}
    raise _unreadable(folder, ValueError(f"{DOCUMENT} lacks a key, or a value has the wrong type"))


def _seen_as_before(space: SearchSpace) -> bool:
    """Whether predictors see the same of a space as versions that saved no trial: not of the default chain of genes."""
    return not space.has_default_graph


def _digest(document: Mapping[str, Any]) -> str:
    """The SHA-256 of a document's content, independent of its layout."""
    spelt = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(spelt.encode()).hexdigest()


def _read(path: Path) -> bytes:
    return read_file(path, LARGEST[path.name])


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{DOCUMENT} contains the number {shortly(text)}, but numbers must be finite")
    return value


def _unreadable(folder: Path, error: Exception) -> InputError:
    said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
    kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
    return InputError(f"the predictor in {folder} cannot be read: {kind}{said or type(error).__name__}")
