"""A strategy: which tasks it proposes, what it learns from outcomes, and its state for resuming."""

from typing import Any

from nasplat import DuplicatePolicy, Measurement, Outcome, Problem, Strategy, Task
from nasplat.task import decode_outcome, encode_outcome


class Mutation(Strategy):
    """Always mutates the best architecture so far."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._best: Measurement | None = None
        self._duplicates = DuplicatePolicy(problem, "redraw")

    def ask(self, n: int) -> list[Task]:
        best, problem = self._best, self.problem
        drawn = [
            self._duplicates.draw(
                lambda: problem.space.mutate(best.architecture, problem.rng) if best else problem.draw()
            )
            for _ in range(n)
        ]
        return [task for task in drawn if task is not None]

    def tell(self, outcome: Outcome) -> None:
        if isinstance(outcome, Measurement) and (self._best is None or self.problem.goal.better(outcome, self._best)):
            self._best = outcome

    def get_state(self) -> dict[str, Any]:
        return {"best": self._best and encode_outcome(self._best), "duplicates": self._duplicates.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        best = decode_outcome(state["best"]) if state["best"] else None
        self._best = best if isinstance(best, Measurement) else None
        self._duplicates.set_state(state["duplicates"])
