"""NSGA-II (Deb et al., 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II")."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import Field

from nasplat.architecture import Architecture
from nasplat.evolution.selection import RankAndCrowding
from nasplat.problem import Problem
from nasplat.strategy import DuplicatePolicy, GenerationalStrategy, OnDuplicate
from nasplat.task import Measurement, Outcome, Task, decode_measurement, encode_outcome

CHILD_ATTEMPTS = 200
"""Maximum number of infeasible or duplicate children before a random immigrant replaces a child."""


class NSGA2(GenerationalStrategy):
    """NSGA-II: selection by non-dominated sorting and crowding distance.

    After Deb et al. (2002), "A fast and elitist multiobjective genetic algorithm: NSGA-II".

    Sorting, crowding, tournaments and the handling of measured constraints are from pymoo. Crossover and mutation
    are the search space's own, so every space can be searched.

    Args:
        problem: The search problem.
        population: Number of survivors of a generation, and of their children.
        crossover: The probability that a child has two parents; otherwise it is a mutant of one.
        mutation: The probability that a child of two parents is mutated as well; a copy of a parent always is.
        duplicates: The duplicate policy for children.
    """

    former_options: ClassVar[Mapping[str, str]] = {"repeats": "duplicates"}

    def __init__(
        self,
        problem: Problem,
        *,
        population: Annotated[int, Field(ge=2)] = 20,
        crossover: Annotated[float, Field(ge=0, le=1)] = 0.5,
        mutation: Annotated[float, Field(ge=0, le=1)] = 0.5,
        duplicates: OnDuplicate = "redraw",
    ) -> None:
        super().__init__(problem)
        self.population = population
        self.crossover = crossover
        self.mutation = mutation
        self.duplicates = duplicates
        self._duplicates = DuplicatePolicy(problem, duplicates)
        self._selection = RankAndCrowding(problem.goal)
        self._parents: list[Measurement] = []

    def next_generation(self, outcomes: list[Outcome]) -> list[Task]:
        rng = self.problem.rng
        children = [outcome for outcome in outcomes if isinstance(outcome, Measurement)]
        self._parents = self._selection.survivors(self._parents + children, self.population, rng)
        pairs = self._selection.pairs(self._parents, self.population, rng) if self._parents else []
        tasks: list[Task] = []
        for i in range(self.population):
            task = self._duplicates.draw(partial(self._child, *pairs[i]), CHILD_ATTEMPTS) if pairs else None
            if task is None:  # initial population, or a random immigrant if all children found are duplicates
                task = self._duplicates.sample()
            if task is None:
                break
            tasks.append(task)
        return tasks

    def _child(self, one: Measurement, other: Measurement) -> Architecture:
        space, rng = self.problem.space, self.problem.rng
        parents = one.architecture, other.architecture
        child = space.crossover(*parents, rng) if rng.random() < self.crossover else parents[0]
        mutate = child in parents or rng.random() < self.mutation
        return space.mutate(child, rng) if mutate else child

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {
            "repeats": self._duplicates.get_state(),
            "parents": [encode_outcome(parent) for parent in self._parents],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._duplicates.set_state(state["repeats"])
        self._parents = [decode_measurement(body) for body in state["parents"]]
