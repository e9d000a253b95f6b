"""An isotropic Gaussian process for few examples, on one distance between networks."""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from nasplat.architecture import Architecture
from nasplat.encodings.encoding import Encodings
from nasplat.errors import InputError
from nasplat.predictor import FittedState, UncertainPredictor, checked_scores
from nasplat.predictors.tabular import FEWEST, unfitted
from nasplat.search_space import SearchSpace
from nasplat.target import LogDistance

Floats = NDArray[np.float64]

MEMBERS = 512
"""Number of random members of the space that give the usual distance between networks."""
FARTHEST = 5.0
"""Features are clipped at this number of deviations from the space's mean."""
CHUNK = 4096
"""Number of architectures scored at once, which bounds the memory and keeps it in the processor's cache."""
USUAL = np.log([3.0, 2.0, 5e-2])
SPREAD = np.array([1.0, 0.5, 1.0])
"""Means and deviations of the normal priors of the logarithms of variance, length scale and noise, in units of the
targets' variance and of the usual distance."""
STEPS = 30
JITTER = 1e-6


class IsotropicGaussianProcess(UncertainPredictor):
    """Gaussian process with one length scale, on one distance of networks.

    Similar networks get similar scores; the uncertainty grows with the distance from all examples.

    It is a Gaussian process with a Matérn 5/2 kernel of the distance between feature vectors
    (`nasplat.encodings.features`). Features are scaled by their deviation in the space, not among the examples, so a
    feature that is constant among the examples still adds to the distance of a network. Only the variance, one length
    scale and the noise are fitted, to the highest posterior density (Rasmussen and Williams, 2006, ch. 5). So five
    examples are enough to begin with, and a hundred take milliseconds. With hundreds of examples `gaussian_process`
    and `auto` rank better.

    `predict` is in the unit of the target, `estimate` in that of the scores.

    Args:
        space: The space of the architectures to score.
        headroom: The target is minus the logarithm of the distance to a point above the best score, which emphasizes
            the good ones. This is how far above, in units of the distance of the best to the median.
        most: Maximum number of examples for the fit; the best are used. Time grows with their cube.
        seed: The seed of the random members that give the usual distance.
    """

    name: ClassVar[str] = "isotropic_gaussian_process"
    former_name: ClassVar[str] = "distance_process"

    def __init__(self, space: SearchSpace, *, headroom: float = 0.25, most: int = 2000, seed: int = 0) -> None:
        if not headroom > 0 or most < FEWEST:
            raise InputError(
                f"headroom must be above 0 and most at least {FEWEST}, but got headroom={headroom}, most={most}"
            )
        super().__init__(space)
        self.headroom = headroom
        self.most = most
        self.seed = seed
        self._points: Floats | None = None

    def fit(self, architectures: Sequence[Architecture], scores: Floats) -> Self:
        scores = checked_scores(self.name, architectures, scores, FEWEST)
        views = Encodings.of(self.space, architectures)
        if len(scores) > self.most:
            chosen = np.sort(np.argsort(-scores, kind="stable")[: self.most])
            views, scores = views.take(chosen), scores[chosen]
        self.target_transform = transform = LogDistance.of(scores, self.headroom)
        target = transform.targets(scores)
        spread = float(target.std())
        self._center, self._unit = float(target.mean()), spread if spread > 1e-9 else 1.0  # equal up to rounding
        residuals = (target - self._center) / self._unit
        points = self._scaled(views)
        squared = _squared(points, points)
        fitted = minimize(_misfit, USUAL, (squared, residuals), "L-BFGS-B", jac=True, options={"maxiter": STEPS})
        self._condition(points, residuals, fitted.x)
        return self

    def predict(self, architectures: Sequence[Architecture]) -> Floats:
        means = [self._near(each) @ self._solved for each in self._chunks(architectures)]
        return self._center + self._unit * np.concatenate(means)

    def predict_with_deviation(self, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the process itself, without the noise of a measurement."""
        means, deviations = [], []
        for each in self._chunks(architectures):
            near = self._near(each)
            means.append(near @ self._solved)
            known = solve_triangular(self._root, near.T, lower=True, check_finite=False)
            explained = np.einsum("en,en->n", known, known)
            deviations.append(np.sqrt(np.maximum(np.exp(self._log[0]) - explained, 0.0)))
        return self._center + self._unit * np.concatenate(means), self._unit * np.concatenate(deviations)

    def covariance(self, architectures: Sequence[Architecture], others: Sequence[Architecture]) -> Floats:
        theirs = self._scaled(Encodings.of(self.space, others))
        known = solve_triangular(self._root, self._kernel(theirs).T, lower=True)
        rows = []
        for each in self._chunks(architectures):
            points = self._scaled(each)
            explained = solve_triangular(self._root, self._kernel(points).T, lower=True).T @ known
            rows.append(np.exp(self._log[0]) * _matern(_squared(points, theirs) / np.exp(2 * self._log[1])) - explained)
        return self._unit**2 * np.concatenate(rows)

    def get_state(self) -> FittedState:
        if self._points is None:
            raise unfitted()
        return FittedState(
            {"center": self._center, "unit": self._unit},
            {"points": self._points, "residuals": self._residuals, "log": self._log, "usual": np.stack(self._usual)},
        )

    def set_state(self, state: FittedState) -> None:
        mean, scale = state.arrays["usual"]
        points, residuals, log = (state.arrays[name] for name in ("points", "residuals", "log"))
        if points.shape != (len(residuals), len(mean)) or log.shape != USUAL.shape:
            raise ValueError(
                f"the shapes of the arrays do not fit {len(residuals)} examples and {len(mean)} features: points "
                f"{points.shape}, log {log.shape}"
            )
        self._usual = mean, scale
        self._center, self._unit = float(state.values["center"]), float(state.values["unit"])
        self._condition(points, residuals, log)

    @cached_property
    def _usual(self) -> tuple[Floats, Floats]:
        """Mean and inverse deviation of each feature in the space; 0 for a constant feature."""
        rng = default_rng(self.seed)
        features = Encodings(self.space, [self.space.sample(rng) for _ in range(MEMBERS)]).features
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        return mean, np.where(deviation > 1e-9, 1 / np.maximum(deviation, 1e-9), 0.0)

    def _scaled(self, views: Encodings) -> Floats:
        """Points whose squared distances are 2 on average, `[n, features]`."""
        mean, scale = self._usual
        points: Floats = np.clip((views.features - mean) * scale, -FARTHEST, FARTHEST)
        points /= max(int((scale > 0).sum()), 1) ** 0.5
        return points

    def _chunks(self, architectures: Sequence[Architecture]) -> list[Encodings]:
        if self._points is None:
            raise unfitted()
        return list(Encodings.of(self.space, architectures).chunks(CHUNK))

    def _near(self, views: Encodings) -> Floats:
        return self._kernel(self._scaled(views))

    def _kernel(self, points: Floats) -> Floats:
        assert self._points is not None
        kernel: Floats = np.exp(self._log[0]) * _matern(_squared(points, self._points) / np.exp(2 * self._log[1]))
        return kernel

    def _condition(self, points: Floats, residuals: Floats, log: Floats) -> None:
        self._points, self._residuals, self._log = points, residuals, log
        kernel = self._kernel(points) + (np.exp(log[2]) + JITTER) * np.eye(len(points))
        self._root = cholesky(kernel, lower=True)
        self._solved = cho_solve((self._root, True), residuals)


def _squared(a: Floats, b: Floats) -> Floats:
    squared: Floats = a @ (-2 * b.T)  # one large array, changed in place
    squared += (a**2).sum(axis=1)[:, None]
    squared += (b**2).sum(axis=1)
    return np.maximum(squared, 0.0, out=squared)


def _matern(squared: Floats) -> Floats:
    """Matérn 5/2 kernel of squared distances in units of the length scale."""
    root = np.sqrt(5 * squared)
    correlation: Floats = root / 3 + 1
    correlation *= root
    correlation += 1
    correlation *= np.exp(-root)
    return correlation


def _misfit(log: Floats, squared: Floats, residuals: Floats) -> tuple[float, Floats]:
    """The negative log posterior density of the logarithms of variance, length scale and noise, and its gradient."""
    variance, length, noise = np.exp(log)
    root = np.sqrt(5 * squared) / length
    decay = variance * np.exp(-root)
    kernel = (1 + root + root**2 / 3) * decay
    factor = cholesky(kernel + (noise + JITTER) * np.eye(len(residuals)), lower=True)
    solved = cho_solve((factor, True), residuals)
    inner = cho_solve((factor, True), np.eye(len(residuals))) - np.outer(solved, solved)
    by_length = (root**2 + root**3) / 3 * decay  # derivative of the kernel by the log length scale
    gradient = np.array([(inner * kernel).sum(), (inner * by_length).sum(), noise * np.trace(inner)]) / 2
    prior = (log - USUAL) / SPREAD
    misfit = 0.5 * residuals @ solved + np.log(np.diagonal(factor)).sum() + 0.5 * (prior**2).sum()
    return float(misfit), gradient + prior / SPREAD
