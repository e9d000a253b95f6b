"""A Gaussian process on points and counts, with its hyperparameters at the highest posterior density."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Self, TypeAlias

import numpy as np
from numpy.linalg import LinAlgError
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Counts: TypeAlias = csr_array
"""How often each expression occurs, `[n, expressions]`."""

PRIOR_MEAN = np.log([3.0, 2.0, 5e-2, 0.3])
PRIOR_DEVIATION = np.array([1.0, 0.5, 1.0, 2.0])
"""Means and deviations of the normal priors of the logarithms of variance, length scale, noise and weight of counts, in
units of the targets' variance and of the usual distance."""
SCALE_DEVIATION = 0.63
"""Deviation of the normal prior of the logarithm of each point's own scale; its mean is 0."""
FARTHEST = 6.0
"""With scales, hyperparameters stay within this number of their deviations: a first step in many directions is long."""
STEPS = 30
JITTER, ATTEMPTS = 1e-6, 8
"""Variance added to that of the noise, and how often ten times as much is tried."""


@dataclass(frozen=True)
class Process:
    """A zero-mean Gaussian process, conditioned on examples (Rasmussen and Williams, 2006, ch. 2).

    The kernel is a Matérn 5/2 kernel on points, plus a linear kernel on counts if there are any.

    Args:
        points: The points of the examples, `[n, features]`; their usual squared distance is 2.
        residuals: Their targets, centered and in units of their deviation, `[n]`.
        log: The logarithms of variance, length scale and noise; with counts, also of the weight of the counts.
        scales: The logarithm of a factor for each feature, `[features]`; empty if all have the same length scale.
        counts: The counts of the examples, if the process uses them.
    """

    points: Floats
    residuals: Floats
    log: Floats
    scales: Floats
    counts: Counts | None = None

    @classmethod
    def tuned(cls, points: Floats, residuals: Floats, counts: Counts | None = None, *, isotropic: bool) -> Self:
        """The process whose hyperparameters have the highest posterior density.

        Args:
            points: As of the class.
            residuals: As of the class.
            counts: As of the class.
            isotropic: Whether all features have the same length scale.
        """
        plain = 3 if counts is None else 4
        gram = None if counts is None else _gram(counts, counts)
        features = 0 if isotropic else points.shape[1]
        start = np.concatenate([PRIOR_MEAN[:plain], np.zeros(features)])
        squared = squared_distances(points, points) if isotropic else None

        def objective(at: Floats) -> tuple[float, Floats]:
            return misfit(at[:plain], at[plain:], points, residuals, gram, squared)

        spread = np.concatenate([PRIOR_DEVIATION[:plain], np.full(features, SCALE_DEVIATION)])
        bounds = None if isotropic else np.stack([start - FARTHEST * spread, start + FARTHEST * spread], axis=1)
        options = {"maxiter": STEPS}
        found = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options=options).x
        return cls(points, residuals, found[:plain], found[plain:], counts)

    def conditioned(self, points: Floats, residuals: Floats, counts: Counts | None) -> Self:
        """The process with the same hyperparameters and other examples."""
        return type(self)(points, residuals, self.log, self.scales, counts)

    def mean(self, points: Floats, counts: Counts | None = None) -> Floats:
        """The mean at the given points and counts, `[m]`."""
        means: Floats = self._smooth(self._scaled(points), self._own) @ self._solved
        if counts is not None:
            means += np.exp(self.log[3]) * (counts @ self._expression_weights)
        return means

    def deviation(self, points: Floats, counts: Counts | None = None) -> Floats:
        """The standard deviation at the given points and counts, without the noise of a measurement, `[m]`."""
        prior: Floats = np.exp(self.log[0])
        if counts is not None:
            prior = prior + np.exp(self.log[3]) * np.asarray(counts.multiply(counts).sum(axis=1)).ravel()
        whitened = self.whitened(points, counts)
        deviation: Floats = np.sqrt(np.maximum(prior - np.einsum("en,en->n", whitened, whitened), 0.0))
        return deviation

    def covariance(
        self,
        points: Floats,
        others: Floats,
        counts: Counts | None = None,
        other_counts: Counts | None = None,
        *,
        whitened: Floats,
    ) -> Floats:
        """The covariance of the values at some points with those at others, `[m, others]`.

        Args:
            points: The points.
            others: The other points.
            counts: The counts of the points, if the process uses them.
            other_counts: The counts of the others, likewise.
            whitened: As `whitened` of the others.
        """
        prior = self._kernel(points, self._scaled(others), counts, other_counts)
        return prior - self.whitened(points, counts).T @ whitened

    @cached_property
    def _own(self) -> Floats:
        return self._scaled(self.points)

    @cached_property
    def _root(self) -> Floats:
        """The lower Cholesky factor of the kernel of the examples, with noise."""
        kernel = self._kernel(self.points, self._own, self.counts, self.counts)
        return _factor(kernel, float(np.exp(self.log[2])))

    @cached_property
    def _solved(self) -> Floats:
        solved: Floats = cho_solve((self._root, True), self.residuals)
        return solved

    @cached_property
    def _expression_weights(self) -> Floats:
        """The linear part of the mean, in one weight for each expression."""
        assert self.counts is not None
        weights: Floats = self.counts.T @ self._solved
        return weights

    def _scaled(self, points: Floats) -> Floats:
        return points * np.exp(self.scales) if len(self.scales) else points

    def _smooth(self, scaled: Floats, others: Floats) -> Floats:
        smooth: Floats = np.exp(self.log[0]) * _matern(squared_distances(scaled, others) / np.exp(2 * self.log[1]))
        return smooth

    def _kernel(self, points: Floats, scaled: Floats, counts: Counts | None, others: Counts | None) -> Floats:
        kernel = self._smooth(self._scaled(points), scaled)
        if counts is not None and others is not None:
            kernel += np.exp(self.log[3]) * _gram(counts, others)
        return kernel

    def whitened(self, points: Floats, counts: Counts | None) -> Floats:
        """The covariance with the examples, divided by the factor of that among the examples, `[n, m]`."""
        near = self._kernel(points, self._own, counts, self.counts)
        whitened: Floats = solve_triangular(self._root, near.T, lower=True, check_finite=False)
        return whitened


def misfit(
    log: Floats,
    scales: Floats,
    points: Floats,
    residuals: Floats,
    gram: Floats | None = None,
    squared: Floats | None = None,
) -> tuple[float, Floats]:
    """The negative log posterior density of hyperparameters, and its gradient by `log` and then by `scales`.

    Args:
        log: As of `Process`.
        scales: As of `Process`.
        points: As of `Process`.
        residuals: As of `Process`.
        gram: The inner products of the counts, `[n, n]`, if the process uses them.
        squared: The squared distances of the points, `[n, n]`, if they are known and there are no scales.
    """
    variance, length, noise, *weight = np.exp(log)
    scaled = points * np.exp(scales) if len(scales) else points
    if squared is None or len(scales):
        squared = squared_distances(scaled, scaled)
    root = np.sqrt(5 * squared) / length
    decay = variance * np.exp(-root)
    kernel = (1 + root + root**2 / 3) * decay
    whole = kernel if gram is None else kernel + weight[0] * gram
    factor = _factor(whole, float(noise))
    solved = cho_solve((factor, True), residuals)
    inner = cho_solve((factor, True), np.eye(len(residuals))) - np.outer(solved, solved)
    by_length = (root**2 + root**3) / 3 * decay  # derivative of the kernel by the log length scale
    gradient = [(inner * kernel).sum(), (inner * by_length).sum(), noise * np.trace(inner)]
    if gram is not None:
        gradient.append(weight[0] * (inner * gram).sum())
    by_scales = np.zeros(0)
    if len(scales):
        # The derivative by a log scale: the sum over pairs of each feature's own squared difference, in three products.
        pairs = inner * (1 + root) * decay * (-5 / 3 / length**2)
        by_scales = 2 * (pairs.sum(axis=1) @ scaled**2 - np.einsum("nf,nf->f", scaled, pairs @ scaled))
    prior = np.concatenate([(log - PRIOR_MEAN[: len(log)]) / PRIOR_DEVIATION[: len(log)], scales / SCALE_DEVIATION])
    spread = np.concatenate([PRIOR_DEVIATION[: len(log)], np.full(len(scales), SCALE_DEVIATION)])
    density = 0.5 * residuals @ solved + np.log(np.diagonal(factor)).sum() + 0.5 * (prior**2).sum()
    return float(density), np.concatenate([gradient, by_scales]) / 2 + prior / spread


def _factor(kernel: Floats, noise: float) -> Floats:
    """The lower Cholesky factor of a kernel with noise.

    Of points that nearly coincide, rounding may leave no positive definite kernel; then it gets more noise.
    """
    for jitter in JITTER * 10.0 ** np.arange(ATTEMPTS):
        with suppress(LinAlgError):
            factor: Floats = cholesky(kernel + (noise + jitter) * np.eye(len(kernel)), lower=True)
            return factor
    raise LinAlgError(f"a kernel of {len(kernel)} examples is not positive definite with a noise of {jitter:g}")


def squared_distances(a: Floats, b: Floats) -> Floats:
    """The squared Euclidean distances of points, `[n, m]`."""
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


def _gram(a: Counts, b: Counts) -> Floats:
    products: Floats = (a @ b.T).toarray()
    return products
