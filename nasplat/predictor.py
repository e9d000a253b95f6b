"""The contract of a predictor: it learns to rank architectures from measured ones."""

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.run.files import new_folder, read_file
from nasplat.search_space import SearchSpace

FORMAT = "nasplat predictor 1"
DOCUMENT, ARRAYS = "predictor.json", "predictor.safetensors"


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a predictor has learnt.

    Args:
        values: What JSON can say.
        arrays: The rest, by name.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class Predictor(ABC):
    """Learns scores of architectures, in scikit-learn's habits.

    The constructor takes the space and keyword-only options, stores them under their own names and does no
    work. Scores are the higher the better; `predict` before `fit` is an `InputError`. Randomness comes from an option
    `seed`, so that the same data give the same predictions.
    """

    name: ClassVar[str]
    """The name the predictor is registered under."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    @abstractmethod
    def fit(self, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Self:
        """Learn from scores `[n]`, more being better; returns itself. What was learnt before is forgotten.

        Raises:
            InputError: There are too few to learn from.
        """

    @abstractmethod
    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Scores `[n]` for ranking; only their order is promised to mean something.

        Raises:
            InputError: Nothing was learnt yet.
        """

    @abstractmethod
    def learnt(self) -> Learnt:
        """What was learnt, for `restore` in another process.

        Raises:
            InputError: Nothing was learnt yet.
        """

    @abstractmethod
    def restore(self, learnt: Learnt) -> None:
        """Become the predictor that gave `learnt`.

        Raises:
            KeyError, ValueError, TypeError: It is not what such a predictor gives.
        """

    def options(self) -> dict[str, Any]:
        """The options that the constructor was given, by name."""
        parameters = inspect.signature(type(self)).parameters.values()
        return {p.name: getattr(self, p.name) for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def save(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        """Write everything into a new folder: a JSON document and a safetensors file.

        Args:
            folder: The folder; it must not exist, and appears complete or not at all.
            about: What else the document should say, such as what was learnt from.

        Raises:
            InputError: Nothing was learnt yet, or the place is taken.
        """
        from safetensors.numpy import save

        learnt = self.learnt()
        arrays = save({name: np.ascontiguousarray(array) for name, array in learnt.arrays.items()})
        document = {
            "format": FORMAT,
            "predictor": self.name,
            "options": self.options(),
            "space": self.space.name,
            "versions": {name: version(name) for name in ("nasplat", "numpy", "scikit-learn", "torch")},
            "about": dict(about or {}),
            "learnt": dict(learnt.values),
            "arrays": hashlib.sha256(arrays).hexdigest(),
        }
        with new_folder(folder) as draft:
            (draft / ARRAYS).write_bytes(arrays)
            (draft / DOCUMENT).write_text(json.dumps(document, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, space: SearchSpace) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: The folder is missing or damaged, or holds something else; the message says what is wrong.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            document = json.loads(read_file(folder / DOCUMENT))
            if document["predictor"] != cls.name or document["space"] != space.name:
                raise ValueError(
                    f"it is a {document['predictor']} of {document['space']}, not a {cls.name} of {space.name}"
                )
            data = read_file(folder / ARRAYS)
            if hashlib.sha256(data).hexdigest() != document["arrays"]:
                raise ValueError(f"{ARRAYS} is not what was saved with {DOCUMENT}")
            predictor = cls(space, **document["options"])
            predictor.restore(Learnt(document["learnt"], load(data)))
        except (OSError, LookupError, TypeError, ValueError, SafetensorError) as error:
            raise InputError(f"{folder} holds no predictor that can be read: {error}") from error
        return predictor


class UncertainPredictor(Predictor):
    """A predictor that knows how unsure it is."""

    @abstractmethod
    def predict_with_deviation(
        self, architectures: Sequence[Architecture]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores as `predict` gives them and their standard deviations, in the same unit, `[n]` each.

        Raises:
            InputError: Nothing was learnt yet.
        """

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        return self.predict_with_deviation(architectures)[0]
