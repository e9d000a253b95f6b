"""A Gaussian process on features of the pruned graph."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from nasplat.architecture import Architecture
from nasplat.encodings.encoding import Encodings
from nasplat.encodings.weisfeiler_lehman import Vocabulary
from nasplat.errors import InputError
from nasplat.predictor import FittedState, UncertainPredictor, checked_scores
from nasplat.predictors.tabular import FEWEST, unfitted
from nasplat.search_space import SearchSpace
from nasplat.target import LogDistance, NormalScores, normal_scores

Floats = NDArray[np.float64]

CHUNK = 4096
"""Number of architectures that are scored at once, which bounds the memory."""
FARTHEST = 5.0
"""Features are clipped at this number of deviations from the mean of the training set."""
HEADROOM = 0.5
"""The point above the best example that `log` targets refer to, in units of the distance of the best to the median."""
STEPS, RATE = 70, 0.12
PRIOR_SCALE, PRIOR_NOISE = 0.63, 2.0
"""Deviations of the log-normal priors of length scales and of the noise."""
JITTER = 1e-6


class GaussianProcess(UncertainPredictor):
    """Gaussian process on features of the graph and Weisfeiler-Lehman counts.

    The kernel is the sum of a Matérn 5/2 kernel on `nasplat.encodings.features`, with a length scale for each feature,
    and a linear kernel on the counts of `nasplat.encodings.weisfeiler_lehman`. Length scales, the two weights and the
    noise maximize the marginal likelihood (Rasmussen and Williams, 2006, ch. 5) under log-normal priors, which keep
    the many length scales close together if there are few examples.

    `predict` is in the unit of the target, `estimate` in that of the scores.

    Args:
        space: The space of the architectures to score.
        target: The regression target: ``normal`` is the scores' ranks as normal quantiles, which is robust to
            outliers; ``log`` is minus the logarithm of the distance to a little above the best, which emphasizes the
            good ones.
        tuned_on: Maximum number of examples for the kernel's parameters, drawn at random; the fit uses all examples.
        most: Maximum number of examples for the fit, drawn at random; time grows with their cube.
        seed: The seed of these random draws.
    """

    name: ClassVar[str] = "gaussian_process"

    def __init__(
        self,
        space: SearchSpace,
        *,
        target: Literal["normal", "log"] = "normal",
        tuned_on: int = 600,
        most: int = 6000,
        seed: int = 0,
    ) -> None:
        if tuned_on < 2 or most < 2:
            raise InputError(f"tuned_on and most must be at least 2, but got tuned_on={tuned_on}, most={most}")
        super().__init__(space)
        self.target = target
        self.tuned_on = tuned_on
        self.most = most
        self.seed = seed
        self._model: _Model | None = None

    def fit(self, architectures: Sequence[Architecture], scores: Floats) -> Self:
        scores = checked_scores(self.name, architectures, scores, FEWEST)
        rng = default_rng(self.seed)
        if self.target == "normal":
            self.target_transform, target = NormalScores.of(scores), normal_scores(scores)
        else:
            self.target_transform = transform = LogDistance.of(scores, HEADROOM)
            target = transform.targets(scores)
        chosen = np.arange(len(scores))
        if len(chosen) > self.most:
            chosen = np.sort(rng.choice(chosen, self.most, replace=False))
        views = Encodings(self.space, [architectures[int(i)] for i in chosen])
        self._model = _Model.fitted(views.description, views.hashes, target[chosen], self.tuned_on, rng)
        return self

    def predict(self, architectures: Sequence[Architecture]) -> Floats:
        return self._predicted(architectures, deviation=False)[0]

    def predict_with_deviation(self, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the process itself, without the noise of a measurement."""
        return self._predicted(architectures, deviation=True)

    def get_state(self) -> FittedState:
        return FittedState(arrays=self._fitted().arrays())

    def set_state(self, state: FittedState) -> None:
        self._model = _Model.of(state.arrays)

    def _fitted(self) -> "_Model":
        if self._model is None:
            raise unfitted()
        return self._model

    def _predicted(self, architectures: Sequence[Architecture], *, deviation: bool) -> tuple[Floats, Floats]:
        model = self._fitted()
        said = [
            model.predict(views.description, views.hashes, deviation)
            for views in Encodings.of(self.space, architectures).chunks(CHUNK)
        ]
        means, deviations = zip(*said, strict=True)
        return np.concatenate(means), np.concatenate(deviations)


class _Model:
    """The process with its hyperparameters and the examples that it is conditioned on."""

    def __init__(self, **arrays: NDArray[Any]) -> None:
        self.mean, self.scale = arrays["mean"], arrays["scale"]
        self.vocabulary = Vocabulary([arrays[f"expressions {i}"] for i in range(4)])
        self.log_scales, self.log_weights = (
            torch.from_numpy(np.array(arrays[name], dtype=np.float64)) for name in ("log_scales", "log_weights")
        )
        self.log_noise, self.center = arrays["log_noise"].item(), arrays["center"].item()
        self.features, self.hashes, self.targets = arrays["features"], arrays["hashes"], arrays["targets"]
        self._condition()

    @classmethod
    def fitted(cls, features: Floats, hashes: NDArray[np.uint64], targets: Floats, tuned_on: int, rng: Any) -> Self:
        tuning = np.arange(len(targets))
        if len(tuning) > tuned_on:
            tuning = np.sort(rng.choice(tuning, tuned_on, replace=False))
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        # A feature that is constant in the examples has no information, and would have an arbitrary effect elsewhere.
        scale = np.where(deviation > 1e-9, 1 / np.maximum(deviation, 1e-9), 0.0)
        vocabulary = Vocabulary.of(hashes)
        log_scales, log_weights, log_noise = _tuned(
            _standardized(features[tuning], mean, scale), vocabulary.counted(hashes[tuning]), targets[tuning]
        )
        return cls(
            mean=mean,
            scale=scale,
            **{f"expressions {i}": hashes for i, hashes in enumerate(vocabulary.hashes)},
            log_scales=log_scales.numpy(),
            log_weights=log_weights.numpy(),
            log_noise=np.array([log_noise]),
            center=np.array([targets.mean()]),
            features=features,
            hashes=hashes,
            targets=targets,
        )

    @classmethod
    def of(cls, arrays: Any) -> Self:
        n, features = arrays["features"].shape
        shapes = {
            **{name: (features,) for name in ("mean", "scale", "log_scales")},
            **{name: (1,) for name in ("log_noise", "center")},
            "log_weights": (2,),
            "targets": (n,),
        }
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} of {n} examples must have the shape {shape}, but got {arrays[name].shape}")
        model = cls(**arrays)
        if not torch.isfinite(model.solved).all():
            raise ValueError("the kernel's parameters do not give finite numbers")
        return model

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "mean": self.mean,
            "scale": self.scale,
            **{f"expressions {i}": hashes for i, hashes in enumerate(self.vocabulary.hashes)},
            "log_scales": self.log_scales.numpy(),
            "log_weights": self.log_weights.numpy(),
            "log_noise": np.array([self.log_noise]),
            "center": np.array([self.center]),
            "features": self.features,
            "hashes": self.hashes,
            "targets": self.targets,
        }

    def predict(self, features: Floats, hashes: NDArray[np.uint64], deviation: bool) -> tuple[Floats, Floats]:
        """Mean and, if requested, deviation: `[n]` each."""
        points, counts = self._scaled(features), self.vocabulary.counted(hashes)
        smooth, linear = torch.exp(self.log_weights)
        near = smooth * _matern(points, self.points)
        means = (near @ self.solved).numpy() + float(linear) * (counts @ self.active_genes) + self.center
        if not deviation:
            return means, np.zeros(len(means))
        near = near + linear * torch.from_numpy((counts @ self.counts.T).toarray())
        prior = smooth + linear * torch.from_numpy(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
        explained = torch.linalg.solve_triangular(self.root, near.T, upper=False).square().sum(dim=0)
        return means, (prior - explained).clamp_min(0.0).sqrt().numpy()

    def _condition(self) -> None:
        self.points, self.counts = self._scaled(self.features), self.vocabulary.counted(self.hashes)
        smooth, linear = torch.exp(self.log_weights)
        kernel = smooth * _matern(self.points, self.points) + linear * _gram(self.counts)
        residuals = torch.from_numpy(self.targets - self.center)
        variance = float(residuals.square().mean()) or 1.0
        kernel += (math.exp(self.log_noise) + JITTER * variance) * torch.eye(len(residuals), dtype=torch.float64)
        self.root = torch.linalg.cholesky(kernel)
        self.solved = torch.cholesky_solve(residuals[:, None], self.root)[:, 0]
        self.active_genes = self.counts.T @ self.solved.numpy()  # the linear part, in one weight for each expression

    def _scaled(self, features: Floats) -> Tensor:
        points = torch.from_numpy(_standardized(features, self.mean, self.scale))
        return points * torch.exp(self.log_scales)


def _standardized(features: Floats, mean: Floats, scale: Floats) -> Floats:
    clipped: Floats = np.clip((features - mean) * scale, -FARTHEST, FARTHEST)
    return clipped


def _matern(a: Tensor, b: Tensor) -> Tensor:
    """Matérn 5/2 kernel of scaled points, `[n, m]`."""
    squared = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min(1e-12)
    root = torch.sqrt(5 * squared)
    return (1 + root + root.square() / 3) * torch.exp(-root)


def _gram(counts: sparse.csr_array) -> Tensor:
    return torch.from_numpy((counts @ counts.T).toarray())


def _tuned(points: Floats, counts: sparse.csr_array, targets: Floats) -> tuple[Tensor, Tensor, float]:
    """Log inverse length scales, log weights of the two kernels, and the log of the noise variance."""
    x, gram = torch.from_numpy(points), _gram(counts)
    residuals = torch.from_numpy(targets - targets.mean())
    variance = float(residuals.square().mean()) or 1.0
    informative = max(int((points.std(axis=0) > 0).sum()), 1)
    usual_scale, usual_noise = -0.5 * math.log(informative) - 0.3, math.log(0.1 * variance)
    log_scales = torch.full((x.shape[1],), usual_scale, dtype=torch.float64, requires_grad=True)
    log_weights = torch.full((2,), math.log(variance / 2), dtype=torch.float64, requires_grad=True)
    log_noise = torch.tensor(usual_noise, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_scales, log_weights, log_noise], lr=RATE)
    identity = torch.eye(len(residuals), dtype=torch.float64)
    for _ in range(STEPS):
        optimizer.zero_grad()
        scaled = x * torch.exp(log_scales)
        smooth, linear = torch.exp(log_weights)
        kernel = smooth * _matern(scaled, scaled) + linear * gram
        kernel = kernel + (torch.exp(log_noise) + JITTER * variance) * identity
        root = torch.linalg.cholesky(kernel)
        solved = torch.cholesky_solve(residuals[:, None], root)[:, 0]
        evidence = -0.5 * residuals @ solved - torch.log(torch.diagonal(root)).sum()
        prior = -0.5 * ((log_scales - usual_scale) / PRIOR_SCALE).square().sum()
        prior = prior - 0.5 * ((log_noise - usual_noise) / PRIOR_NOISE).square()
        torch.autograd.backward(-(evidence + prior))
        optimizer.step()
    return log_scales.detach(), log_weights.detach(), float(log_noise.detach())
