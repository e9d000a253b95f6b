"""A (mu + lambda) evolution in generations."""

from typing import Any, ClassVar

from nasplat.problem import Problem
from nasplat.strategy import Strategy
from nasplat.task import Evaluate, Measurement, Outcome, Task, decode_outcome, decode_task, encode_outcome, encode_task


class Generations(Strategy):
    """Keeps the best half of parents and mutants, one generation after the other.

    Args:
        problem: What is searched.
        size: Architectures in a generation.
    """

    generational: ClassVar[bool] = True

    def __init__(self, problem: Problem, *, size: int = 6) -> None:
        super().__init__(problem)
        self.size = size
        self._parents: list[Measurement] = []
        self._told: list[Outcome] = []
        self._asked: list[Evaluate] = []

    def ask(self, n: int) -> list[Task]:
        if len(self._told) == self.size:
            self._next_generation()
        tasks: list[Task] = []
        while len(tasks) < n and len(self._asked) < self.size:
            task = self._child()
            self._asked.append(task)
            tasks.append(task)
        return tasks

    def tell(self, outcome: Outcome) -> None:
        self._told.append(outcome)

    def _next_generation(self) -> None:
        children = [outcome for outcome in self._told if isinstance(outcome, Measurement)]
        goal = self.problem.goal
        everyone = sorted(self._parents + children, key=lambda m: (goal.violation(m), goal.losses(m), m.id))
        self._parents, self._told, self._asked = everyone[: self.size], [], []

    def _child(self) -> Evaluate:
        problem = self.problem
        for _ in range(100):
            if not self._parents:
                break
            parent = self._parents[int(problem.rng.integers(len(self._parents)))]
            child = problem.space.mutate(parent.architecture, problem.rng)
            if problem.feasible(child):
                return problem.evaluate(child)
        return problem.evaluate(problem.sample())

    def get_state(self) -> dict[str, Any]:
        return {
            "parents": [encode_outcome(m) for m in self._parents],
            "told": [encode_outcome(o) for o in self._told],
            "asked": [encode_task(t) for t in self._asked],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._parents = [m for m in map(decode_outcome, state["parents"]) if isinstance(m, Measurement)]
        self._told = [decode_outcome(body) for body in state["told"]]
        self._asked = [t for t in map(decode_task, state["asked"]) if isinstance(t, Evaluate)]
