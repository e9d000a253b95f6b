"""What a network gives for pictures, as calibrators take it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from nasplat.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Outputs:
    """What a classifier gives for pictures.

    Args:
        logits: The network's outputs `[n, classes]`, before softmax; kept as float64.
        features: What its last layer sees `[n, dimensions]`; kept as float64.

    Raises:
        InputError: The shapes do not go together, there are fewer than two classes, or a value is not finite.
    """

    logits: Floats
    features: Floats

    def __post_init__(self) -> None:
        for name in ("logits", "features"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        shapes = f"logits {list(self.logits.shape)} and features {list(self.features.shape)}"
        if self.logits.ndim != 2 or self.features.ndim != 2 or len(self.logits) != len(self.features):
            raise InputError(
                f"logits must be [n, classes] and features [n, dimensions] of the same n, but are {shapes}"
            )
        if self.logits.shape[1] < 2:
            raise InputError(f"a confidence needs at least two classes, but there are {shapes}; take a classifier")
        if not (np.isfinite(self.logits).all() and np.isfinite(self.features).all()):
            raise InputError(
                f"what a network gives must be finite, but of {shapes} some values are not; check the pictures and the "
                "network"
            )

    def __len__(self) -> int:
        return len(self.logits)

    @cached_property
    def predicted(self) -> Integers:
        """The predicted classes `[n]`: the largest logit, the first of equal ones."""
        found: Integers = self.logits.argmax(1)
        return found

    @cached_property
    def confidence(self) -> Floats:
        """The network's own confidence of the predicted class `[n]`: the largest softmax."""
        found: Floats = softmax(self.logits, axis=1).max(1)
        return found

    @cached_property
    def log_odds(self) -> Floats:
        """The logarithm of confidence / (1 - confidence) `[n]`, exact also where the confidence rounds to 1."""
        others = self.logits.copy()
        others[np.arange(len(self)), self.predicted] = -np.inf
        found: Floats = self.logits.max(1) - logsumexp(others, axis=1)
        return found

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Outputs":
        """The outputs for some of the pictures."""
        return Outputs(self.logits[rows], self.features[rows])


Calibrator: TypeAlias = Callable[[Outputs], Floats]
"""Gives the calibrated confidence of the predicted class `[n]`, from 0 to 1. The predicted class stays as it is."""


def rights(outputs: Outputs, labels: Integers) -> NDArray[np.bool_]:
    """Whether the predicted class of each labelled picture is its label `[n]`.

    Args:
        outputs: What the network gives for the labelled pictures.
        labels: Their classes, integers `[n]` from 0.

    Raises:
        InputError: There are fewer than two labels or not one for each picture, or a label is none of the classes.
    """
    given, classes = np.asarray(labels), outputs.logits.shape[1]
    if given.shape != (len(outputs),):
        raise InputError(f"each of the {len(outputs)} pictures must have one label, but labels are {list(given.shape)}")
    if len(given) < 2:
        raise InputError(f"a calibrator needs at least two labelled pictures, but there is {len(given)}; label more")
    if not np.issubdtype(given.dtype, np.integer) or given.min() < 0 or given.max() >= classes:
        wrong = given if not np.issubdtype(given.dtype, np.integer) else given[(given < 0) | (given >= classes)]
        raise InputError(
            f"labels must be integers from 0 to {classes - 1}, the network's classes, but one is {wrong.flat[0]}; "
            "leave out pictures of other classes"
        )
    found: NDArray[np.bool_] = outputs.predicted == given
    return found
