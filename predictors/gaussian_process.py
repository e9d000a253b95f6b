"""Gaussian processes on features of the pruned graph, with one length scale or with one for each feature."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from pydantic import Field

from nasplat.architecture import Architecture
from nasplat.encodings.encoding import Encodings
from nasplat.encodings.weisfeiler_lehman import Vocabulary
from nasplat.predictor import FittedState, UncertainPredictor, checked_scores
from nasplat.predictors.tabular import FEWEST, unfitted
from nasplat.search_space import SearchSpace
from nasplat.surrogates.gaussian_process import JITTER, Counts, Process
from nasplat.target import LogDistance, NormalScores, normal_scores

Floats = NDArray[np.float64]

MEMBERS = 512
"""Number of random members of the space that give the usual distance between networks."""
FARTHEST = 5.0
"""Features are clipped at this number of deviations from the space's mean."""
CHUNK = 4096
"""Number of architectures scored at once, which bounds the memory and keeps it in the processor's cache."""
LARGEST = 20_000
"""The most examples that can be fitted; the kernel of more would take gigabytes."""
FORMER_HEADROOM = 0.5
"""The headroom of processes whose former version had no such option."""
HASHES = 4
"""Number of hashes of a node, each with a vocabulary of its own."""


class GaussianProcess(UncertainPredictor):
    """Gaussian process on features of the graph and Weisfeiler-Lehman counts.

    Similar networks get similar scores; the uncertainty grows with the distance from all examples.

    The kernel is the sum of a Matérn 5/2 kernel on feature vectors (`nasplat.encodings.features`) and a linear kernel
    on the counts of `nasplat.encodings.weisfeiler_lehman`. Features are scaled by their deviation in the space, not
    among the examples, so a feature that is constant among the examples still adds to the distance of a network.
    Length scales, the weights of both kernels and the noise are those of the highest posterior density (Rasmussen and
    Williams, 2006, ch. 5). A prior keeps the many length scales close together if there are few examples.

    `predict` is in the unit of the target, `estimate` in that of the scores.

    Args:
        space: The space of the architectures to score.
        target: The regression target: ``normal`` is the scores' ranks as normal quantiles, which is robust to
            outliers; ``log`` is minus the logarithm of the distance to a point above the best score, which emphasizes
            the good ones.
        headroom: With ``log``, how far above the best the point is, in units of the distance of the best to the median.
        isotropic: Whether all features have the same length scale.
        weisfeiler_lehman: Whether to use the linear kernel on Weisfeiler-Lehman counts.
        tuned_on: Maximum number of examples for the kernel's parameters, drawn at random; the fit uses all examples.
        most: Maximum number of examples for the fit: of ``normal`` scores drawn at random, with ``log`` the best. Time
            grows with their cube.
        seed: The seed of these random draws, and of the members that give the usual distance.
    """

    name: ClassVar[str] = "gaussian_process"

    def __init__(
        self,
        space: SearchSpace,
        *,
        target: Literal["normal", "log"] = "normal",
        headroom: Annotated[float, Field(gt=0)] = 0.25,
        isotropic: bool = False,
        weisfeiler_lehman: bool = True,
        tuned_on: Annotated[int, Field(ge=FEWEST, le=LARGEST)] = 600,
        most: Annotated[int, Field(ge=FEWEST, le=LARGEST)] = 6000,
        seed: int = 0,
    ) -> None:
        super().__init__(space)
        self.target = target
        self.headroom = headroom
        self.isotropic = isotropic
        self.weisfeiler_lehman = weisfeiler_lehman
        self.tuned_on = tuned_on
        self.most = most
        self.seed = seed
        self._process: Process | None = None
        self._vocabulary: Vocabulary | None = None
        self._usual: tuple[Floats, Floats]

    def fit(self, architectures: Sequence[Architecture], scores: Floats) -> Self:
        scores = checked_scores(self.name, architectures, scores, FEWEST)
        views, rng = Encodings.of(self.space, architectures), default_rng(self.seed)
        if len(scores) > self.most:
            best, drawn = np.argsort(-scores, kind="stable"), rng.permutation(len(scores))
            chosen = np.sort((best if self.target == "log" else drawn)[: self.most])
            views, scores = views.take(chosen), scores[chosen]
        if self.target == "log":
            self.target_transform = transform = LogDistance.of(scores, self.headroom)
            target = transform.targets(scores)
        else:
            self.target_transform, target = NormalScores.of(scores), normal_scores(scores)
        spread = float(target.std())
        self._center, self._unit = float(target.mean()), spread if spread > 1e-9 else 1.0  # equal up to rounding
        self._usual = self._usual_in_space
        points, residuals = self._points(views), (target - self._center) / self._unit
        self._vocabulary = Vocabulary.of(views.hashes) if self.weisfeiler_lehman else None
        counts = self._counts(views)
        tuning = np.sort(rng.permutation(len(scores))[: self.tuned_on])
        some = None if counts is None else counts[tuning]
        tuned = Process.tuned(points[tuning], residuals[tuning], some, isotropic=self.isotropic)
        self._process = tuned.conditioned(points, residuals, counts)
        return self

    def predict(self, architectures: Sequence[Architecture]) -> Floats:
        process = self._fitted()
        means = [process.mean(self._points(views), self._counts(views)) for views in self._chunks(architectures)]
        return self._center + self._unit * np.concatenate(means)

    def predict_with_deviation(self, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the process itself, without the noise of a measurement."""
        process, means, deviations = self._fitted(), [], []
        for views in self._chunks(architectures):
            points, counts = self._points(views), self._counts(views)
            means.append(process.mean(points, counts))
            deviations.append(process.deviation(points, counts))
        return self._center + self._unit * np.concatenate(means), self._unit * np.concatenate(deviations)

    def covariance(self, architectures: Sequence[Architecture], others: Sequence[Architecture]) -> Floats:
        process, theirs = self._fitted(), Encodings.of(self.space, others)
        their_points, their_counts = self._points(theirs), self._counts(theirs)
        whitened = process.whitened(their_points, their_counts)
        rows = [
            process.covariance(self._points(views), their_points, self._counts(views), their_counts, whitened=whitened)
            for views in self._chunks(architectures)
        ]
        return self._unit**2 * np.concatenate(rows)

    def get_state(self) -> FittedState:
        process = self._fitted()
        arrays = {
            "points": process.points,
            "residuals": process.residuals,
            "log": process.log,
            "usual": np.stack(self._usual),
        }
        if not self.isotropic:
            arrays["scales"] = process.scales
        if process.counts is not None and self._vocabulary is not None:
            arrays |= _named(self._vocabulary) | {
                "counted": process.counts.data,
                "columns": process.counts.indices,
                "rows": process.counts.indptr,
            }
        return FittedState({"center": self._center, "unit": self._unit}, arrays)

    def set_state(self, state: FittedState) -> None:
        arrays = dict(state.arrays)
        values: Mapping[str, Any] = state.values
        if "log_scales" in arrays:  # of a former version
            values, arrays = self._converted(arrays)
        mean, scale = arrays["usual"]
        points, residuals, log = (arrays[name] for name in ("points", "residuals", "log"))
        scales = np.zeros(0) if self.isotropic else arrays["scales"]
        n = len(residuals)
        if n > self.most:
            raise ValueError(f"a process of at most {self.most} examples cannot have {n}")
        if (
            points.shape != (n, len(mean))
            or log.shape != (4 if self.weisfeiler_lehman else 3,)
            or scales.shape != (0 if self.isotropic else len(mean),)
        ):
            raise ValueError(
                f"the shapes of the arrays do not fit {n} examples and {len(mean)} features: points {points.shape}, "
                f"log {log.shape}, scales {scales.shape}"
            )
        counts = None
        if self.weisfeiler_lehman:
            self._vocabulary = Vocabulary([arrays[f"expressions {i}"] for i in range(HASHES)])
            width = sum(map(len, self._vocabulary.hashes))
            counts = Counts((arrays["counted"], arrays["columns"], arrays["rows"]), shape=(n, width))
            counts.check_format()
        self._usual = mean, scale
        self._center, self._unit = float(values["center"]), float(values["unit"])
        self._process = Process(points, residuals, log, scales, counts)

    def _converted(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, float], dict[str, NDArray[Any]]]:
        """The state of a process that a former version saved: with raw features and targets, and scales of its own."""
        features, targets = arrays["features"], arrays["targets"]
        n, known = features.shape
        if arrays["mean"].shape != (known,) or arrays["scale"].shape != (known,) or targets.shape != (n,):
            raise ValueError(f"the shapes of the arrays do not fit {n} examples and {known} features")
        # Former processes did not see the space's own features, which are the last ones.
        new = Encodings(self.space, [self.space.sample(default_rng(0))]).features.shape[1] - known
        mean, scale = (np.append(arrays[name], np.zeros(new)) for name in ("mean", "scale"))
        self._usual = mean, scale
        width = max(int((scale > 0).sum()), 1) ** 0.5
        if self.target == "log":
            self.headroom = FORMER_HEADROOM
        residuals = targets - float(arrays["center"][0])
        noise = np.exp(arrays["log_noise"]) + JITTER * ((residuals**2).mean() or 1.0) - JITTER
        smooth, linear = arrays["log_weights"]
        counts = Vocabulary([arrays[f"expressions {i}"] for i in range(HASHES)]).counted(arrays["hashes"])
        return {"center": float(arrays["center"][0]), "unit": 1.0}, {
            **{name: array for name, array in arrays.items() if name.startswith("expressions ")},
            "points": self._standardized(np.concatenate([features, np.zeros((n, new))], axis=1)),
            "residuals": residuals,
            "log": np.array([smooth, 0.0, np.log(noise[0]), linear]),
            "scales": np.append(arrays["log_scales"], np.zeros(new)) + np.log(width),
            "usual": np.stack([mean, scale]),
            "counted": counts.data,
            "columns": counts.indices,
            "rows": counts.indptr,
        }

    @cached_property
    def _usual_in_space(self) -> tuple[Floats, Floats]:
        """Mean and inverse deviation of each feature in the space; 0 for a constant feature."""
        rng = default_rng(self.seed)
        features = Encodings(self.space, [self.space.sample(rng) for _ in range(MEMBERS)]).features
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        return mean, np.where(deviation > 1e-9, 1 / np.maximum(deviation, 1e-9), 0.0)

    def _points(self, views: Encodings) -> Floats:
        return self._standardized(views.features)

    def _standardized(self, features: Floats) -> Floats:
        """Points whose squared distances are 2 on average, `[n, features]`."""
        mean, scale = self._usual
        points: Floats = np.clip((features - mean) * scale, -FARTHEST, FARTHEST)
        points /= max(int((scale > 0).sum()), 1) ** 0.5
        return points

    def _counts(self, views: Encodings) -> Counts | None:
        return None if self._vocabulary is None else self._vocabulary.counted(views.hashes)

    def _chunks(self, architectures: Sequence[Architecture]) -> list[Encodings]:
        return list(Encodings.of(self.space, architectures).chunks(CHUNK))

    def _fitted(self) -> Process:
        if self._process is None:
            raise unfitted()
        return self._process


class IsotropicGaussianProcess(GaussianProcess):
    """Gaussian process with one length scale, for few examples.

    It is `GaussianProcess` with `isotropic`, without `weisfeiler_lehman`, and with the target ``log``. Only the
    variance, one length scale and the noise are fitted. So five examples are enough to begin with, and a hundred take
    milliseconds.

    Args:
        space: The space of the architectures to score.
        headroom: As of `GaussianProcess`.
        most: Maximum number of examples for the fit; the best are used. Time grows with their cube.
        seed: The seed of the random members that give the usual distance.
    """

    name: ClassVar[str] = "isotropic_gaussian_process"
    former_name: ClassVar[str] = "distance_process"

    def __init__(
        self,
        space: SearchSpace,
        *,
        headroom: Annotated[float, Field(gt=0)] = 0.25,
        most: Annotated[int, Field(ge=FEWEST, le=LARGEST)] = 2000,
        seed: int = 0,
    ) -> None:
        super().__init__(
            space,
            target="log",
            headroom=headroom,
            isotropic=True,
            weisfeiler_lehman=False,
            tuned_on=most,
            most=most,
            seed=seed,
        )


def _named(vocabulary: Vocabulary) -> dict[str, NDArray[Any]]:
    return {f"expressions {i}": hashes for i, hashes in enumerate(vocabulary.hashes)}
