"""The default: an ensemble of predictors of different kinds, weighted by their out-of-fold ranking."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from nasplat.architecture import Architecture
from nasplat.encodings.encoding import Encodings
from nasplat.errors import InputError
from nasplat.predictor import FittedState, Predictor, UncertainPredictor, checked_scores
from nasplat.predictors.ensembling import Floats, member, packed, parts_of, uncertain, unpack
from nasplat.predictors.graph_network import GraphNetwork
from nasplat.predictors.tabular import unfitted
from nasplat.search_space import SearchSpace
from nasplat.surrogates.ranking_metrics import kendall_tau

PARTS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "gaussian_process_log": ("gaussian_process", {"target": "log"}),
    "isotropic_gaussian_process": (
        "gaussian_process",
        {"isotropic": True, "weisfeiler_lehman": False, "target": "log"},
    ),  # which is tuned on fewer examples than the predictor of this name
}
"""Predictor and options for names of parts that are not a predictor with its defaults."""
PRIOR_VOTES = {"gaussian_process_log": 6, "isotropic_gaussian_process": 4, "gaussian_process": 2, "graph_network": 2}
"""Votes that a part has before its predictions are looked at; the others have one. Few examples cannot tell better."""
FEW = 256
"""The isotropic process gets this number, divided by the number of examples, of further votes: it has the fewest
parameters."""
MOST_WORK = 18_000_000
"""Graph networks pass at most this number of nodes in training, in about half a minute on one core."""
FEWER = 4
"""Number of graph networks, if the default number would pass more; there are none if even these would."""
CHUNK = 4096
"""Number of architectures that are scored at once, which bounds the memory."""
FOLDS = 4
FEWEST = 4
LEAST_SPREAD = 0.5
"""Minimum deviation of out-of-fold predictions, as a part of the deviation of the predictions for all examples."""
CONSTANT = 1e-9
"""Deviations up to this part of the values are rounding."""
ROUNDS = 8
"""Number of votes given by the predictions."""


class Auto(UncertainPredictor):
    """Weighted mean of Gaussian processes, graph networks and boosted trees.

    Each part makes out-of-fold predictions for every example: by its own `out_of_fold` if it has one, else in four
    folds. A part's weight is its number of votes. The first votes are given before any prediction: most to the process
    on logarithms and, with few examples, to the isotropic one. Eight further votes are given one at a time to the part
    that most increases Kendall's tau of the mean on those predictions (ensemble selection, Caruana et al., 2004). The
    first votes limit the effect of the choice on few examples.

    If the training of graph networks would take long, as of many examples with many nodes, there are fewer, or none, as
    `weights` says. So a fit to a few hundred examples of any space takes at most about a minute on one core.

    Scores are in the unit of the fitted scores, by a line through the out-of-fold predictions; its residuals also
    scale the deviation. `cross_validated` is tau of the out-of-fold predictions. The weights are chosen on the same
    predictions, so it is slightly too optimistic.

    Args:
        space: The space of the architectures to score.
        parts: Registered predictors, or ``gaussian_process_log``, the process on logarithms.
        seed: The seed of the parts and of the folds.
    """

    name: ClassVar[str] = "auto"

    def __init__(
        self,
        space: SearchSpace,
        *,
        parts: tuple[str, ...] = (
            "gaussian_process",
            "gaussian_process_log",
            "isotropic_gaussian_process",
            "graph_network",
            "gradient_boosting",
        ),
        seed: int = 0,
    ) -> None:
        if not parts or len(set(parts)) < len(parts) or self.name in parts:
            raise InputError(
                f"the parts of auto must be one or more different predictors, without auto itself, but got {parts}"
            )
        super().__init__(space)
        self.parts = parts
        self.seed = seed
        self.cross_validated: float | None = None
        self.weights: dict[str, float] = {}
        self._held_out: Floats | None = None

    def fit(self, architectures: Sequence[Architecture], scores: Floats) -> Self:
        scores = checked_scores(self.name, architectures, scores, FEWEST)
        architectures = Encodings(self.space, architectures)  # shared by all parts
        self._members = self._quick(architectures)
        held_out = []
        for part, each in self._members.items():
            each.fit(architectures, scores)
            left_out = each.out_of_fold()
            held_out.append(self._in_folds(part, architectures, scores) if left_out is None else left_out)
        said = np.stack(held_out)  # [parts, n]
        # If the folds are too small for a part, its out-of-fold predictions are constant, but its final ones are not.
        spread = np.array([each.predict(architectures).std() for each in self._members.values()])
        self._centers = said.mean(axis=1)
        scales = np.maximum(said.std(axis=1), LEAST_SPREAD * spread)
        # A part whose predictions are all equal says nothing; in its own unit, rounding would say much.
        self._scales = np.where(scales > CONSTANT * np.maximum(np.abs(self._centers), 1.0), scales, np.inf)
        said = (said - self._centers[:, None]) / self._scales[:, None]
        votes = _votes(said, scores, _prior_votes(list(self._members), len(scores)))
        self._weights = votes / votes.sum()
        self.weights = dict(zip(self._members, self._weights.tolist(), strict=True))
        mean = self._weights @ said
        slope = max(float(np.cov(mean, scores)[0, 1]), 0.0) / max(float(mean.var(ddof=1)), 1e-12)
        slope = slope or float(scores.std()) or 1.0  # in any case, a higher score ranks higher
        self._line = slope, float(scores.mean() - slope * mean.mean())
        self._stretch = 1.0
        _, deviations = self._mixed(architectures)
        residuals = scores - (self._line[0] * mean + self._line[1])
        self._stretch = float(np.sqrt(np.mean(residuals**2) / max(np.mean(deviations**2), 1e-24))) or 1.0
        self._held_out = self._line[0] * mean + self._line[1]
        self.cross_validated = kendall_tau(self._held_out, scores)
        return self

    def predict(self, architectures: Sequence[Architecture]) -> Floats:
        if not self.weights:
            raise unfitted()
        slope, offset = self._line
        means = []
        for views in Encodings.of(self.space, architectures).chunks(CHUNK):
            said = np.stack([each.predict(views) for each in self._members.values()])
            means.append(self._weights @ ((said - self._centers[:, None]) / self._scales[:, None]))
        return slope * np.concatenate(means) + offset

    def predict_with_deviation(self, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
        """The deviation within and between the parts, scaled to fit the out-of-fold residuals."""
        if not self.weights:
            raise unfitted()
        said = [self._mixed(views) for views in Encodings.of(self.space, architectures).chunks(CHUNK)]
        means, deviations = zip(*said, strict=True)
        return np.concatenate(means), np.concatenate(deviations)

    def out_of_fold(self) -> Floats | None:
        return self._held_out

    def get_state(self) -> FittedState:
        if not self.weights:
            raise unfitted()
        values, arrays = packed(list(self._members.values()))
        own = {
            "line": list(self._line),
            "stretch": self._stretch,
            "tau": self.cross_validated,
            "members": values,
            "parts": list(self._members),
        }
        mixture = np.stack([self._weights, self._centers, self._scales])
        return FittedState(own, {"mixture": mixture, **arrays})

    def set_state(self, state: FittedState) -> None:
        parts = state.values.get("parts", self.parts)  # earlier versions used all of them
        if not set(parts) <= set(self.parts):
            raise ValueError(f"the parts must be among {self.parts}, but got {parts}")
        self._members = {part: self._member(part) for part in parts}
        unpack(list(self._members.values()), state.values["members"], state.arrays)
        mixture = state.arrays["mixture"]
        if mixture.shape != (3, len(parts)):
            raise ValueError(
                f"the mixture of {len(parts)} parts must have the shape {(3, len(parts))}, but got {mixture.shape}"
            )
        self._weights, self._centers, self._scales = mixture
        slope, offset = map(float, state.values["line"])
        self._line, self._stretch = (slope, offset), float(state.values["stretch"])
        self.cross_validated = float(state.values["tau"])
        self.weights = dict(zip(parts, self._weights.tolist(), strict=True))
        self._held_out = None

    def _quick(self, examples: Encodings) -> dict[str, Predictor]:
        """The parts, with as many graph networks as can be trained in time; all of them if there is no other part."""
        made = {part: self._member(part) for part in self.parts}
        if GraphNetwork.name in made and len(made) > 1:
            size = len(examples), examples.graphs.types.shape[1]
            if GraphNetwork.passes(*size, FEWER) > MOST_WORK:
                del made[GraphNetwork.name]
            elif GraphNetwork.passes(*size) > MOST_WORK:
                made[GraphNetwork.name] = member(GraphNetwork.name, self.space, {"seed": self.seed, "members": FEWER})
        return made

    def _member(self, part: str) -> Predictor:
        name, options = PARTS.get(part, (part, {}))
        return member(name, self.space, {"seed": self.seed, **options})

    def _in_folds(self, part: str, architectures: Sequence[Architecture], scores: Floats) -> Floats:
        fold = parts_of(self.space, architectures, min(FOLDS, len(scores) // 2), self.seed)
        held_out = np.zeros(len(scores))
        for number in np.unique(fold):
            kept, left = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            each = self._member(part).fit([architectures[int(i)] for i in kept], scores[kept])
            held_out[left] = each.predict([architectures[int(i)] for i in left])
        return held_out

    def _mixed(self, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
        said = [uncertain(each, architectures) for each in self._members.values()]
        means = (np.stack([mean for mean, _ in said]) - self._centers[:, None]) / self._scales[:, None]
        own = np.stack([deviation for _, deviation in said]) / self._scales[:, None]
        mean = self._weights @ means
        variance = self._weights @ (own**2 + (means - mean) ** 2)
        slope, offset = self._line
        return slope * mean + offset, slope * self._stretch * np.sqrt(variance)


def _prior_votes(parts: Sequence[str], examples: int) -> Floats:
    """The votes of each part before any prediction, `[parts]`."""
    more = {"isotropic_gaussian_process": FEW / examples}
    return np.array([PRIOR_VOTES.get(part, 1) + more.get(part, 0.0) for part in parts])


def _votes(said: Floats, scores: Floats, first: Floats) -> Floats:
    """The votes of each part, `[parts]`, from out-of-fold predictions `[parts, n]` in units of their deviation.

    Args:
        said: The predictions.
        scores: The scores of the examples, `[n]`.
        first: The votes that the parts have already, `[parts]`.
    """
    votes = first.copy()
    for _ in range(ROUNDS):
        taus = [kendall_tau(said.T @ (votes + one), scores) for one in np.eye(len(said))]
        votes[int(np.argmax(taus))] += 1
    return votes
