"""Selection by rank and crowding, on any objectives: pymoo's operators, spoken to in measurements."""

from collections.abc import Sequence
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nasplat.objective import Goal
from nasplat.task import Measurement

_CONSTRAINED = SimpleNamespace(has_constraints=lambda: True)
"""What pymoo asks of a problem."""


class RankAndCrowding:
    """Who survives and who mates in NSGA-II (Deb et al., 2002, "A fast and elitist multiobjective genetic algorithm").

    Non-dominated fronts survive in order. Of the front that does not fit completely, the members with the largest
    crowding distance survive. Members that violate a constraint come after all others, the least violation first.

    Args:
        goal: Objectives and the constraints that act in selection.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal = goal

    def survivors(self, pool: Sequence[Measurement], number: int, rng: Generator) -> list[Measurement]:
        """At most `number` of a pool, by front; ties in crowding are broken by `rng`."""
        if not pool:
            return []
        return [pool[i] for i in by_rank_and_crowding(*self._figures(pool), number, rng)]

    def pairs(
        self, parents: Sequence[Measurement], number: int, rng: Generator
    ) -> list[tuple[Measurement, Measurement]]:
        """Pairs of parents; each parent is the winner of a tournament of two, by domination, then by crowding."""
        from pymoo.algorithms.moo.nsga2 import binary_tournament
        from pymoo.operators.selection.tournament import TournamentSelection
        from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

        population = _population(*self._figures(parents))
        RankAndCrowding().do(_CONSTRAINED, population, n_survive=len(parents), random_state=rng)  # ranks its members
        algorithm = SimpleNamespace(tournament_type="comp_by_dom_and_crowding", random_state=rng)
        chosen = TournamentSelection(func_comp=binary_tournament).do(
            _CONSTRAINED, population, number, n_parents=2, to_pop=False, random_state=rng, algorithm=algorithm
        )
        return [(parents[a], parents[b]) for a, b in chosen]

    def _figures(self, pool: Sequence[Measurement]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Losses `[n, objectives]` and violations `[n]`."""
        losses = np.array([self.goal.losses(m) for m in pool], dtype=np.float64)
        return losses, np.array([self.goal.violation(m) for m in pool], dtype=np.float64)


def by_rank_and_crowding(
    losses: NDArray[np.float64], violations: NDArray[np.float64], number: int, rng: Generator
) -> list[int]:
    """The rows that survive, at most `number`, by front; rows with a violation come last, the least violation first.

    Args:
        losses: The losses, lower being better, `[n, objectives]`; at least one row.
        violations: The constraint violation of each row, `[n]`; 0 if it satisfies the constraints.
        number: Number of survivors.
        rng: Breaks ties in crowding.
    """
    from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

    population = _population(losses, violations)
    kept = RankAndCrowding().do(_CONSTRAINED, population, n_survive=number, random_state=rng, return_indices=True)
    return [int(i) for i in kept]


def _population(losses: NDArray[np.float64], violations: NDArray[np.float64]) -> Any:
    from pymoo.core.population import Population

    return Population.new("F", losses, "G", violations[:, None])


class ProtectedSorting:
    """Survival with protection: two non-dominated sortings, merged front by front.

    The first sorting is by the objectives. The second is by losses that favor members which the objectives alone would
    drop too early (Yang et al., 2020, "CARS: Continuous evolution for efficient neural architecture search", sec. 3.3,
    pNSGA-III). Stage by stage, the r-th fronts of both survive. Of the stage that does not fit completely, the members
    with the largest crowding distance survive; here the paper names reference points, and its code draws at random.

    Args:
        goal: Objectives and the constraints that act in selection.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal = goal

    def survivors(
        self,
        pool: Sequence[Measurement],
        number: int,
        rng: Generator,
        *,
        protected: Sequence[Sequence[float]] | None = None,
    ) -> list[Measurement]:
        """At most `number` of a pool; those that violate constraints come last, the least violation first.

        Args:
            pool: The candidates for survival.
            number: Number of survivors.
            rng: Breaks ties.
            protected: For each member of the pool the losses of the second sorting, lower being better; None for a
                single sorting.
        """
        violations = [self.goal.violation(m) for m in pool]
        sound = [i for i, violation in enumerate(violations) if not violation]
        rest = sorted((i for i, violation in enumerate(violations) if violation), key=violations.__getitem__)
        if not sound:
            return [pool[i] for i in rest[:number]]
        losses = np.array([self.goal.losses(pool[i]) for i in sound], dtype=np.float64)
        sortings = [losses]
        if protected is not None:
            sortings.append(np.array([protected[i] for i in sound], dtype=np.float64))
        kept = [sound[i] for i in _by_stages(losses, sortings, number, rng)]
        return [pool[i] for i in (kept + rest)[:number]]


def _by_stages(
    losses: NDArray[np.float64], sortings: Sequence[NDArray[np.float64]], number: int, rng: Generator
) -> list[int]:
    """The rows that survive; each sorting `[n, losses]` has its own fronts."""
    from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    kept: dict[int, None] = {}  # in order
    fronts = [NonDominatedSorting().do(figures) for figures in sortings]
    for stage in zip_longest(*fronts, fillvalue=()):
        new = [i for i in dict.fromkeys(int(i) for front in stage for i in front) if i not in kept]
        room = number - len(kept)
        if len(new) > room:
            by_lot = rng.permutation(new)
            crowding = get_crowding_function("cd").do(losses[by_lot])
            new = by_lot[np.argsort(-crowding, kind="stable")][:room].tolist()
        kept |= dict.fromkeys(new)
        if len(kept) >= number:
            break
    return list(kept)
