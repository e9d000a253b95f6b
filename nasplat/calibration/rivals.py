"""Calibrators that see the network's logits alone: none, temperature scaling, Platt's sigmoid, isotonic regression."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, logsumexp
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from nasplat.calibration.outputs import Floats, Integers, Outputs, rights

COOLEST, HOTTEST = 0.02, 50.0
"""The range of temperatures."""


def smoothed_share(right: NDArray[np.bool_]) -> float:
    """The share of right predictions with one right and one wrong prediction added (Laplace's rule of succession)."""
    return (float(right.sum()) + 1) / (len(right) + 2)


@dataclass(frozen=True)
class Uncalibrated:
    """The network's own confidence."""

    @classmethod
    def fit(cls, outputs: Outputs, labels: Integers) -> Self:
        """The same for all labels, which are checked all the same."""
        rights(outputs, labels)
        return cls()

    def __call__(self, outputs: Outputs) -> Floats:
        return outputs.confidence


@dataclass(frozen=True)
class Temperature:
    """Temperature scaling: logits are divided by one number (Guo et al., 2017, "On calibration of modern networks").

    Args:
        value: The number; above 1, confidence falls.
    """

    value: float

    @classmethod
    def fit(cls, outputs: Outputs, labels: Integers) -> Self:
        """The temperature of the highest likelihood of the labels, from 0.02 to 50.

        If all predictions are right, or all wrong, the likelihood has no highest point. Then the mean confidence of the
        labelled pictures becomes the smoothed share of right ones, or as near to it as that range allows.

        Args:
            outputs: What the network gives for labelled pictures.
            labels: Their classes `[n]`.

        Raises:
            InputError: The labels are fewer than two, or not classes of the network.
        """
        right, logits = rights(outputs, labels), outputs.logits
        bounds = np.log([COOLEST, HOTTEST])
        if right.all() or not right.any():

            def excess(log: float) -> float:
                return float(cls(float(np.exp(log)))(outputs).mean()) - smoothed_share(right)

            ends = [excess(each) for each in bounds]
            if ends[0] * ends[1] >= 0:
                return cls(float(np.exp(bounds[np.argmin(np.abs(ends))])))
            return cls(float(np.exp(brentq(excess, *bounds))))
        true = logits[np.arange(len(logits)), labels]

        def loss(log: float) -> float:
            return float((logsumexp(logits / np.exp(log), axis=1) - true / np.exp(log)).mean())

        return cls(float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x)))

    def scaled(self, outputs: Outputs) -> Outputs:
        """The outputs with logits divided by the temperature, and the same features."""
        return Outputs(outputs.logits / self.value, outputs.features)

    def __call__(self, outputs: Outputs) -> Floats:
        return self.scaled(outputs).confidence


@dataclass(frozen=True)
class Platt:
    """A sigmoid of the log odds of the confidence (Platt, 1999, "Probabilistic outputs for support vector machines").

    Args:
        slope: What the log odds are multiplied by.
        intercept: What is added then.
    """

    slope: float
    intercept: float

    @classmethod
    def fit(cls, outputs: Outputs, labels: Integers) -> Self:
        """Logistic regression with Platt's targets, (right + 1) / (right + 2) and 1 / (wrong + 2) instead of 1 and 0.

        If all predictions are right, or all wrong, all targets are equal, and so is the confidence of all pictures: the
        smoothed share of right ones.

        Args:
            outputs: What the network gives for labelled pictures.
            labels: Their classes `[n]`.

        Raises:
            InputError: The labels are fewer than two, or not classes of the network.
        """
        return cls.of(outputs.log_odds, rights(outputs, labels))

    @classmethod
    def of(cls, odds: Floats, right: NDArray[np.bool_]) -> Self:
        """The sigmoid of log odds `[n]` for predictions that are right or not `[n]`."""
        count, n = int(right.sum()), len(right)
        target = np.where(right, (count + 1) / (count + 2), 1 / (n - count + 2))
        middle, spread = odds.mean(), max(float(odds.std()), 1e-9)
        # A target between 0 and 1 is both answers, weighted.
        found = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
            np.tile((odds - middle) / spread, 2)[:, None], np.repeat([1, 0], n), np.concatenate([target, 1 - target])
        )
        slope = float(found.coef_[0, 0]) / spread
        return cls(slope, float(found.intercept_[0]) - slope * float(middle))

    def sigmoid(self, odds: Floats) -> Floats:
        """The confidences of log odds."""
        found: Floats = expit(self.slope * odds + self.intercept)
        return found

    def __call__(self, outputs: Outputs) -> Floats:
        return self.sigmoid(outputs.log_odds)


@dataclass(frozen=True)
class Isotonic:
    """Isotonic regression of being right on confidence (Zadrozny and Elkan, 2002, "Transforming classifier scores").

    It is a function of the log odds, which tell confidences apart that round to 1.

    Args:
        places: Log odds of confidences `[m]`, rising.
        values: The calibrated confidences there `[m]`, not falling; between, they are linear, and beyond constant.
    """

    places: Floats
    values: Floats

    @classmethod
    def fit(cls, outputs: Outputs, labels: Integers) -> Self:
        """The rising function of the least squared error.

        If all predictions are right, or all wrong, it would be 1, or 0, for all pictures. Then it is the smoothed share
        of right ones.

        Args:
            outputs: What the network gives for labelled pictures.
            labels: Their classes `[n]`.

        Raises:
            InputError: The labels are fewer than two, or not classes of the network.
        """
        right = rights(outputs, labels)
        if right.all() or not right.any():
            return cls(np.array([0.0, 1.0]), np.full(2, smoothed_share(right)))
        found = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(outputs.log_odds, right.astype(float))
        return cls(found.X_thresholds_, found.y_thresholds_)

    def __call__(self, outputs: Outputs) -> Floats:
        return np.interp(outputs.log_odds, self.places, self.values)
