"""An ensemble of predictors of one kind, each fitted to most of the examples; their deviation is the uncertainty."""

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.predictor import FittedState, UncertainPredictor, checked_scores
from nasplat.predictors.ensembling import Floats, member, packed, parts_of, uncertain, unpack
from nasplat.predictors.tabular import unfitted
from nasplat.search_space import SearchSpace
from nasplat.target import MeanTransform


class Ensemble(UncertainPredictor):
    """Mean of predictors of one kind, each with its own seed and examples.

    The deviation combines the deviation between members (a delete-a-part jackknife, Efron and Stein, 1981) and the
    members' own deviations. Scores are in the unit of the members, which must be common to all of them: that of ranks
    or of the measurements, as for all built-in predictors except `renas`.

    Args:
        space: The space of the architectures to score.
        predictor: The registered name of the members, which have their default options.
        members: Number of members; each leaves out one in this number of examples.
        seed: The seed of the parts; the members' seeds follow it.
    """

    name: ClassVar[str] = "ensemble"

    def __init__(
        self, space: SearchSpace, *, predictor: str = "gradient_boosting", members: int = 5, seed: int = 0
    ) -> None:
        if members < 2:
            raise InputError(f"an ensemble must have at least 2 members, but got {members}")
        if predictor == self.name:
            raise InputError("the members of an ensemble must not be ensembles; name another predictor")
        super().__init__(space)
        self.predictor = predictor
        self.members = members
        self.seed = seed
        self._fitted = False
        self._held_out: Floats | None = None

    def fit(self, architectures: Sequence[Architecture], scores: Floats) -> Self:
        scores = checked_scores(f"an ensemble of {self.members}", architectures, scores, 2 * self.members)
        self._make()
        part = parts_of(self.space, architectures, self.members, self.seed)
        held_out = np.zeros(len(scores))
        for number, each in enumerate(self._members):
            kept, left = np.flatnonzero(part != number), np.flatnonzero(part == number)
            each.fit([architectures[int(i)] for i in kept], scores[kept])
            held_out[left] = each.predict([architectures[int(i)] for i in left])
        self._fitted, self._held_out = True, held_out
        transforms = [each.target_transform for each in self._members]
        self.target_transform = MeanTransform(tuple(each for each in transforms if each is not None))
        return self

    def predict_with_deviation(self, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
        if not self._fitted:
            raise unfitted()
        said = [uncertain(each, architectures) for each in self._members]
        means, deviations = np.stack([mean for mean, _ in said]), np.stack([deviation for _, deviation in said])
        # Members share most examples, so the variance between them is that of the mean over (members - 1).
        between = (self.members - 1) * means.var(axis=0)
        return means.mean(axis=0), np.sqrt(between + (deviations**2).mean(axis=0))

    def out_of_fold(self) -> Floats | None:
        """The prediction for each example by the member that left it out."""
        return self._held_out

    def get_state(self) -> FittedState:
        if not self._fitted:
            raise unfitted()
        values, arrays = packed(self._members)
        return FittedState({"members": values}, arrays)

    def set_state(self, state: FittedState) -> None:
        self._make()
        unpack(self._members, state.values["members"], state.arrays)
        self._fitted, self._held_out = True, None

    def _make(self) -> None:
        self._members = [
            member(self.predictor, self.space, {"seed": self.seed + number}) for number in range(self.members)
        ]
