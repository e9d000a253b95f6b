"""Local search: hill climbing with restarts (White et al., 2021, "Exploring the loss landscape in NAS")."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nasplat.architecture import Architecture
from nasplat.problem import Problem
from nasplat.strategy import DuplicatePolicy, OnDuplicate, Strategy
from nasplat.task import Evaluate, Measurement, Outcome, Task, decode_measurement, encode_outcome


@dataclass
class _Climb:
    """One climb: its current architecture, the neighbors still to try, and its outstanding tasks."""

    best: Measurement | None = None
    untried: list[str] = field(default_factory=list)
    outstanding: set[int] = field(default_factory=set)


class LocalSearch(Strategy):
    """Tries the neighbors of the best in random order, moves at an improvement.

    When no neighbor improves, it restarts at a random architecture. Each code is asked for at most once. When every
    neighbor of a climb is in work and workers are idle, another climb begins, so that no worker waits.

    Args:
        problem: The search problem. With several objectives, to improve means to dominate.
        duplicates: The duplicate policy for an architecture that was asked for under another code.
    """

    former_options: ClassVar[Mapping[str, str]] = {"repeats": "duplicates"}

    def __init__(self, problem: Problem, *, duplicates: OnDuplicate = "cache") -> None:
        super().__init__(problem)
        self.duplicates = duplicates
        self._duplicates = DuplicatePolicy(problem, duplicates)
        self._codes: set[str] = set()
        self._climbs: list[_Climb] = []

    def ask(self, n: int) -> list[Task]:
        tasks: list[Task] = []
        for climb in self._climbs:
            while climb.untried and len(tasks) < n:
                architecture = Architecture(self.problem.space.name, climb.untried.pop())
                if self.problem.feasible(architecture) and self._is_new(architecture):
                    tasks.append(self._task(climb, architecture))
        self._climbs = [climb for climb in self._climbs if climb.untried or climb.outstanding]
        while len(tasks) < n:
            start = self.problem.find(self._is_new)
            if start is None:
                break
            self._climbs.append(_Climb())
            tasks.append(self._task(self._climbs[-1], start))
        return tasks

    def tell(self, outcome: Outcome) -> None:
        climb = next(climb for climb in self._climbs if outcome.id in climb.outstanding)
        climb.outstanding.remove(outcome.id)
        if isinstance(outcome, Measurement) and (climb.best is None or self.problem.goal.better(outcome, climb.best)):
            climb.best = outcome
            neighbors = [neighbor.code for neighbor in self.problem.neighbors(outcome.architecture)]
            climb.untried = [neighbors[i] for i in self.problem.rng.permutation(len(neighbors))]

    def _is_new(self, architecture: Architecture) -> bool:
        return architecture.code not in self._codes and self._duplicates.new(architecture)

    def _task(self, climb: _Climb, architecture: Architecture) -> Evaluate:
        self._codes.add(architecture.code)
        task = self._duplicates.task(architecture)
        climb.outstanding.add(task.id)
        return task

    def get_state(self) -> dict[str, Any]:
        return {
            "repeats": self._duplicates.get_state(),
            "codes": sorted(self._codes),
            "climbs": [
                {
                    "best": climb.best and encode_outcome(climb.best),
                    "untried": list(climb.untried),
                    "outstanding": sorted(climb.outstanding),
                }
                for climb in self._climbs
            ],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._duplicates.set_state(state["repeats"])
        self._codes = set(state["codes"])
        self._climbs = []
        for body in state["climbs"]:
            best = decode_measurement(body["best"]) if body["best"] else None
            self._climbs.append(_Climb(best, list(body["untried"]), set(body["outstanding"])))
