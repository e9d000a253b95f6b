"""A strategy of one's own, and a search without the command line: python examples/own_strategy.py"""

import tempfile
from pathlib import Path
from typing import Any

from nasplat import DuplicatePolicy, Goal, Measurement, Objective, Outcome, Problem, Strategy, Task
from nasplat.config import Workload
from nasplat.driver.budget import Budget
from nasplat.driver.loop import Search
from nasplat.executors.inline import InlineExecutor
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.storage.event_log import EventLog
from nasplat.task import decode_outcome, encode_outcome


class Greedy(Strategy):
    """Always mutates the best so far."""

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


def main() -> None:
    """Search for ten trials and print them."""
    benchmark = Workload("nasbench201", "classification", {"channels": 4, "cells": 1}, {"epochs": 1}).make()
    goal = Goal((Objective("accuracy", maximize=True),))
    problem = Problem.of(benchmark, goal, seed=0)
    problem.check_feasible()
    with tempfile.TemporaryDirectory() as folder:
        log = EventLog.create(Path(folder) / "events.sqlite")
        with InlineExecutor(benchmark, ArtifactStore(Path(folder) / "artifacts")) as executor:
            search = Search(problem, Greedy(problem), executor, log, Budget(evaluations=10))
            search.run()
        log.close()
    assert search.best is not None
    print(f"best of {search.outcomes['measured']}: {search.best.architecture} {search.best.metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
