"""Operational calibration: Gaussian processes on a network's features correct its confidence (arXiv:1910.02352)."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from scipy.spatial.distance import pdist
from scipy.special import logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.metrics.pairwise import rbf_kernel

from nasplat.calibration.clusters import nearest
from nasplat.calibration.outputs import Floats, Integers, Outputs, rights
from nasplat.calibration.rivals import Platt, Temperature, smoothed_share
from nasplat.calibration.truncated import truncated_normal
from nasplat.errors import InputError

CHUNK = 4096
"""Posteriors are computed for this many pictures at once, which bounds the memory."""
SUREST = 1e-6
"""A sigmoid is given confidences from this to 1 minus this."""

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Recipe:
    """How the operational calibrator is fitted.

    Args:
        clusters: The number of clusters, each with a Gaussian process of its own.
        temperature: Whether logits are first scaled by a temperature, so that processes correct what is left.
        variance: The first value of the variance of corrections, the square of the kernel's amplitude.
        variances: Its least and largest value.
        length: The length scale in units of the features, or where its fit begins; by default the median distance of
            the labelled pictures.
        lengths: Its least and largest value; by default it is not fitted.
        noise: The variance of the noise of a label, or where its fit begins.
        noises: Its least and largest value; by default it is not fitted.
        sharpened: Whether a sigmoid of the confidence follows. Truncation draws what is uncertain towards 0.5, so that
            confidences are too low at one end and too high at the other.
    """

    clusters: int = 1
    temperature: bool = True
    variance: float = 0.1
    variances: Bounds = (1e-5, 1.0)
    length: float | None = None
    lengths: Bounds | None = None
    noise: float = 0.1
    noises: Bounds | None = (1e-3, 0.5)
    sharpened: bool = True


USUAL = Recipe()
PAPER = Recipe(
    clusters=10, temperature=False, variance=1.0, variances=(1e-5, 1e5), length=10.0, lengths=(1e-5, 1e5), noises=None,
    sharpened=False,
)  # fmt: skip
"""The settings of the paper's experiments on MNIST, by its authors' code. There, Adam climbs the likelihood in at most
100 steps; here, scikit-learn's L-BFGS does."""


@dataclass(frozen=True)
class Process:
    """A zero-mean Gaussian process with an RBF kernel, conditioned on corrections of labelled pictures.

    Args:
        features: The features of labelled pictures `[m, dimensions]`; without any, it is the prior.
        corrections: For each, 1 if the prediction is right, else 0, minus the confidence `[m]`.
        variance: The variance of corrections.
        length: The length scale, in units of the features.
        noise: The variance of the noise of a label.
    """

    features: Floats
    corrections: Floats
    variance: float
    length: float
    noise: float

    @classmethod
    def fit(cls, features: Floats, corrections: Floats, length: float, recipe: Recipe) -> Self:
        """The process with the hyperparameters of the highest marginal likelihood within the bounds of the recipe.

        With fewer than two pictures, which would say nothing of them, they are the first values of the recipe.

        Args:
            features: As of the class.
            corrections: As of the class.
            length: The length scale, or where its fit begins.
            recipe: What is fitted, and the bounds.
        """
        if len(features) < 2:
            return cls(features, corrections, recipe.variance, length, recipe.noise)
        kernel = ConstantKernel(recipe.variance, recipe.variances) * RBF(length, recipe.lengths or "fixed")
        kernel += WhiteKernel(recipe.noise, recipe.noises or "fixed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a bound may well be the best value
            fitted = GaussianProcessRegressor(kernel).fit(features, corrections).kernel_
        smooth, noise = fitted.k1, fitted.k2.noise_level
        return cls(features, corrections, float(smooth.k1.constant_value), float(smooth.k2.length_scale), float(noise))

    def posterior(self, features: Floats) -> tuple[Floats, Floats]:
        """The mean and the standard deviation of the correction, without the noise of a label, each `[n]`."""
        mean, deviation = np.empty((2, len(features)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Predicted variances smaller than 0")  # rounding; they become 0
            for start in range(0, len(features), CHUNK):
                part = slice(start, start + CHUNK)
                mean[part], deviation[part] = self._regressor.predict(features[part], return_std=True)
        return mean, deviation

    def left_out(self) -> tuple[Floats, Floats]:
        """As `posterior` for each labelled picture, by the labels of the others; the hyperparameters are those of all.

        Source: Rasmussen and Williams, 2006, "Gaussian processes for machine learning", eq. 5.12.
        """
        count = len(self.features)
        if not count:
            return np.empty(0), np.empty(0)
        kernel = self.variance * rbf_kernel(self.features, gamma=0.5 / self.length**2) + self.noise * np.eye(count)
        inverse = np.linalg.inv(kernel)
        precision = inverse.diagonal()
        mean = self.corrections - inverse @ self.corrections / precision
        return mean, np.sqrt(np.maximum(1 / precision - self.noise, 0.0))

    @cached_property
    def _regressor(self) -> GaussianProcessRegressor:
        kernel = ConstantKernel(self.variance) * RBF(self.length)
        found = GaussianProcessRegressor(kernel, alpha=self.noise, optimizer=None)
        return found.fit(self.features, self.corrections) if len(self.features) else found


@dataclass(frozen=True)
class Operational:
    """The confidence plus the correction of the Gaussian process of the nearest medoid, truncated to [0, 1].

    Source: arXiv:1910.02352, its algorithm and the authors' code; the temperature and the sigmoid are ours. Far from
    all labels, the correction is the prior, which truncation draws towards 0.5 the more, the larger its variance is.

    Args:
        temperature: What logits are divided by first; 1 leaves them.
        medoids: The features of the medoids `[clusters, dimensions]`.
        processes: The Gaussian process of each cluster.
        sigmoid: What follows, a sigmoid of the log odds; None for nothing.
    """

    temperature: Temperature
    medoids: Floats
    processes: tuple[Process, ...]
    sigmoid: Platt | None = None

    @classmethod
    def fit(cls, outputs: Outputs, labels: Integers, *, recipe: Recipe = USUAL, medoids: Floats | None = None) -> Self:
        """Processes conditioned on labelled pictures, each on those of its cluster.

        A cluster without a labelled picture keeps its prior. All predictions may be right, or all wrong: corrections
        are then all of one sign, which is no special case.

        Args:
            outputs: What the network gives for labelled pictures.
            labels: Their classes `[n]`.
            recipe: The settings.
            medoids: The features of the medoids of all operation pictures `[clusters, dimensions]`, by `k_medoids`;
                needed for more than one cluster.

        Raises:
            InputError: The labels are fewer than two, or not classes of the network; or the medoids are not as many as
                the recipe says.
        """
        right = rights(outputs, labels)
        features = outputs.features
        if medoids is None and recipe.clusters == 1:
            medoids = features.mean(0, keepdims=True)
        if medoids is None or medoids.shape != (recipe.clusters, features.shape[1]):
            given = "none are given" if medoids is None else f"they are {list(medoids.shape)}"
            raise InputError(
                f"{recipe.clusters} clusters need medoids, [{recipe.clusters}, {features.shape[1]}], but {given}; "
                "find them in the features of the operation pictures by k_medoids"
            )
        temperature = Temperature.fit(outputs, labels) if recipe.temperature else Temperature(1.0)
        corrections = right - temperature(outputs)
        length = recipe.length or median_distance(features)
        cluster = nearest(features, medoids)
        members = [cluster == each for each in range(recipe.clusters)]
        processes = tuple(Process.fit(features[each], corrections[each], length, recipe) for each in members)
        sigmoid = None
        if recipe.sharpened:
            mean, deviation = temperature(outputs), np.zeros(len(outputs))
            for each, process in zip(members, processes, strict=True):
                correction, deviation[each] = process.left_out()
                mean[each] += correction
            sigmoid = Platt.of(log_odds(truncated_normal(mean, deviation)[0]), right)
            if sigmoid.slope < 0:  # what was left out says nothing of what is right
                sigmoid = Platt(0.0, float(logit(smoothed_share(right))))
        return cls(temperature, np.asarray(medoids, np.float64), processes, sigmoid)

    def posterior(self, outputs: Outputs) -> tuple[Floats, Floats]:
        """The confidence, and the standard deviation of the truncated distribution before the sigmoid, each `[n]`."""
        cluster = nearest(outputs.features, self.medoids)
        mean, deviation = self.temperature(outputs), np.zeros(len(outputs))
        for number, process in enumerate(self.processes):
            members = slice(None) if len(self.processes) == 1 else cluster == number
            correction, deviation[members] = process.posterior(outputs.features[members])
            mean[members] += correction
        mean, deviation = truncated_normal(mean, deviation)
        return mean if self.sigmoid is None else self.sigmoid.sigmoid(log_odds(mean)), deviation

    def __call__(self, outputs: Outputs) -> Floats:
        return self.posterior(outputs)[0]


def log_odds(confidence: Floats) -> Floats:
    """The logarithm of confidence / (1 - confidence), of confidences no nearer than 1e-6 to 0 and 1."""
    found: Floats = logit(np.clip(confidence, SUREST, 1 - SUREST))
    return found


def median_distance(features: Floats) -> float:
    """The median Euclidean distance of two pictures; 1 if most pictures coincide.

    Args:
        features: The features `[n, dimensions]`, `n` at least 2.
    """
    return float(np.median(pdist(features))) or 1.0
