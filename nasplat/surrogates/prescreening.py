"""Surrogate-assisted pre-screening: more offspring than are measured, selected by a predictor."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.evolution.selection import by_rank_and_crowding
from nasplat.problem import Problem
from nasplat.surrogates.posterior import FEWEST, Candidates, Surrogate

EVEN = 0.5
"""Offspring with a lower probability of feasibility come after all others."""


class Prescreening:
    """Selects the best offspring by prediction, out of `factor` times as many as are measured.

    With one objective, it selects the best predicted scores. With several, it selects by non-dominated sorting and
    crowding of the predictions; costs are exact. Offspring that probably violate constraints on measured metrics come
    last, the lowest probability of feasibility at the end.

    It has no state between generations: the same measurements give the same fit.

    Args:
        problem: The search problem.
        predictor: The registered name of the predictor; one is fitted for every measured metric.
        factor: Number of offspring drawn for each one that is measured; 1 turns pre-screening off.

    Raises:
        InputError: The predictor is unknown.
    """

    def __init__(self, problem: Problem, predictor: str, *, factor: int) -> None:
        self.problem = problem
        self.factor = factor
        self._surrogate = Surrogate(problem, predictor, {})

    def fit(self, measured: Iterable[tuple[Architecture, Mapping[str, float]]]) -> bool:
        """Fit to architectures and the metrics of the goal; return whether offspring can be screened.

        They cannot if the factor is 1, or if there are too few measurements for the predictor; the search then
        continues without pre-screening. Architectures without finite metrics are ignored.
        """
        if self.factor == 1:
            return False
        wanted = [name for name in self.problem.goal.metrics if name not in self.problem.free_metrics]
        sound = [(a, metrics) for a, metrics in measured if np.isfinite([metrics[name] for name in wanted]).all()]
        if len(sound) < FEWEST:
            return False
        try:
            self._surrogate.fit(Candidates(self.problem, [a for a, _ in sound]), [metrics for _, metrics in sound])
        except InputError:  # too few examples for this predictor
            return False
        return True

    def best(self, offspring: Sequence[Architecture], number: int) -> list[int]:
        """The indices of at most `number` offspring, the best predicted front first; call `fit` before."""
        if not offspring:
            return []
        posterior = self._surrogate.posterior(Candidates(self.problem, offspring))
        hopeless = np.maximum(EVEN - posterior.feasibility(), 0.0)
        return by_rank_and_crowding(-posterior.means, hopeless, number, self.problem.rng)
