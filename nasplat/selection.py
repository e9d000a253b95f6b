"""Selection by rank and crowding, on any objectives: pymoo's operators, spoken to in measurements."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.random import Generator

from nasplat.objective import Goal
from nasplat.task import Measurement


class RankAndCrowding:
    """Who survives and who mates in NSGA-II (Deb et al., 2002, "A fast and elitist multiobjective genetic algorithm").

    Non-dominated fronts are kept in order; of the front that does not fit whole, those stay that have most room
    around them. Members that violate a constraint come after all that keep them, the least violation first.

    Args:
        goal: Objectives and the constraints that act in selection.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self._problem = SimpleNamespace(has_constraints=lambda: True)

    def survivors(self, pool: Sequence[Measurement], number: int, rng: Generator) -> list[Measurement]:
        """At most `number` of a pool, by front; ties in crowding are broken by `rng`."""
        if not pool:
            return []
        from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

        indices = RankAndCrowding().do(
            self._problem, self._population(pool), n_survive=number, random_state=rng, return_indices=True
        )
        return [pool[i] for i in indices]

    def pairs(
        self, parents: Sequence[Measurement], number: int, rng: Generator
    ) -> list[tuple[Measurement, Measurement]]:
        """So many pairs, each member the winner of a tournament of two: by domination, then by crowding."""
        from pymoo.algorithms.moo.nsga2 import binary_tournament
        from pymoo.operators.selection.tournament import TournamentSelection
        from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

        population = self._population(parents)
        RankAndCrowding().do(self._problem, population, n_survive=len(parents), random_state=rng)  # ranks its members
        algorithm = SimpleNamespace(tournament_type="comp_by_dom_and_crowding", random_state=rng)
        chosen = TournamentSelection(func_comp=binary_tournament).do(
            self._problem, population, number, n_parents=2, to_pop=False, random_state=rng, algorithm=algorithm
        )
        return [(parents[a], parents[b]) for a, b in chosen]

    def _population(self, pool: Sequence[Measurement]) -> Any:
        from pymoo.core.population import Population

        losses = np.array([self.goal.losses(m) for m in pool], dtype=np.float64)
        violations = np.array([[self.goal.violation(m)] for m in pool], dtype=np.float64)
        return Population.new("F", losses, "G", violations)
