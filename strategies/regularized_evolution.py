"""Ageing evolution (Real et al., 2019, "Regularized evolution for image classifier architecture search")."""

from collections import deque
from collections.abc import Mapping
from functools import reduce
from typing import Any, ClassVar

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.problem import Problem
from nasplat.strategy import DuplicatePolicy, OnDuplicate, Strategy
from nasplat.task import Measurement, Outcome, Task, decode_measurement, encode_outcome

CHILD_ATTEMPTS = 200
"""Maximum number of infeasible or duplicate mutants before a random immigrant replaces a child."""


class RegularizedEvolution(Strategy):
    """Ageing evolution: mutate the best of a random sample, remove the oldest.

    After Real et al. (2019), "Regularized evolution for image classifier architecture search", alg. 1.

    The paper draws the sample with replacement; here no member competes with itself. With several objectives the parent
    is a member of the sample that no other member dominates. The first `population` architectures are drawn at random.
    The next child does not wait for tasks in flight.

    Args:
        problem: The search problem.
        population: The size of the population.
        sample: Number of members, drawn without replacement, that compete to be the parent.
        duplicates: The duplicate policy for children.
    """

    former_options: ClassVar[Mapping[str, str]] = {"repeats": "duplicates"}

    def __init__(
        self, problem: Problem, *, population: int = 50, sample: int = 10, duplicates: OnDuplicate = "cache"
    ) -> None:
        if not 1 <= sample <= population:
            raise InputError(f"1 <= sample <= population must hold, but got sample={sample}, population={population}")
        super().__init__(problem)
        self.population = population
        self.sample = sample
        self.duplicates = duplicates
        self._duplicates = DuplicatePolicy(problem, duplicates)
        self._living: deque[Measurement] = deque(maxlen=population)
        self._asked = 0

    def ask(self, n: int) -> list[Task]:
        tasks: list[Task] = []
        while len(tasks) < n:
            founding = self._asked < self.population or not self._living
            task = None if founding else self._duplicates.draw(self._child, CHILD_ATTEMPTS)
            if task is None:  # initial population, or a random immigrant if all mutants found are duplicates
                task = self._duplicates.sample()
            if task is None:
                break
            self._asked += 1
            tasks.append(task)
        return tasks

    def tell(self, outcome: Outcome) -> None:
        if isinstance(outcome, Measurement):
            self._living.append(outcome)  # a deque of fixed length: the oldest is removed

    def _child(self) -> Architecture:
        rng, living, goal = self.problem.rng, self._living, self.problem.goal
        drawn = rng.choice(len(living), size=min(self.sample, len(living)), replace=False)
        parent = reduce(lambda best, other: other if goal.better(other, best) else best, [living[i] for i in drawn])
        return self.problem.space.mutate(parent.architecture, rng)

    def get_state(self) -> dict[str, Any]:
        return {
            "asked": self._asked,
            "living": [encode_outcome(member) for member in self._living],
            "repeats": self._duplicates.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._asked = state["asked"]
        self._duplicates.set_state(state["repeats"])
        self._living.clear()
        self._living.extend(map(decode_measurement, state["living"]))
