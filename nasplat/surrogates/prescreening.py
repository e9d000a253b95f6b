"""More offspring than are measured, and of them those that a predictor expects most of."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.evolution.selection import by_rank_and_crowding
from nasplat.problem import Problem
from nasplat.surrogates.posterior import FEWEST, Candidates, Surrogate

EVEN = 0.5
"""Whoever keeps the measured constraints with less than this chance comes after all others."""


class Prescreening:
    """Keeps the offspring that are expected to be best, of `factor` times as many as are measured.

    With one objective these have the best predicted score; with several they are kept by non-dominated sorting and
    crowding of what is predicted, costs being exact. Those that probably break constraints on measured metrics come
    last, the most hopeless at the very end.

    Nothing needs to be kept between generations: the same measurements teach the same.

    Args:
        problem: What is searched.
        predictor: The registered name of what learns, once for every metric that is measured.
        factor: How many offspring are drawn for one that is measured; 1 filters nothing.

    Raises:
        InputError: The predictor is unknown.
    """

    def __init__(self, problem: Problem, predictor: str, *, factor: int) -> None:
        self.problem = problem
        self.factor = factor
        self._surrogate = Surrogate(problem, predictor, {})

    def fit(self, measured: Iterable[tuple[Architecture, Mapping[str, float]]]) -> bool:
        """Learn from architectures and metrics, those of the goal; whether there is anything to filter by.

        There is not, and all goes on as without a filter, where the factor is 1, or where too little was measured for
        the predictor. What has no finite figures teaches nothing.
        """
        if self.factor == 1:
            return False
        wanted = [name for name in self.problem.goal.metrics if name not in self.problem.free_metrics]
        sound = [(a, metrics) for a, metrics in measured if np.isfinite([metrics[name] for name in wanted]).all()]
        if len(sound) < FEWEST:
            return False
        try:
            self._surrogate.fit(Candidates(self.problem, [a for a, _ in sound]), [metrics for _, metrics in sound])
        except InputError:  # too few for this predictor
            return False
        return True

    def best(self, offspring: Sequence[Architecture], number: int) -> list[int]:
        """The places of at most `number` offspring, the most promising front first; to be called after `learn`."""
        if not offspring:
            return []
        posterior = self._surrogate.posterior(Candidates(self.problem, offspring))
        hopeless = np.maximum(EVEN - posterior.feasibility(), 0.0)
        return by_rank_and_crowding(-posterior.means, hopeless, number, self.problem.rng)
