"""Random search: the baseline every other strategy must beat."""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any, ClassVar

from nasplat.problem import Problem
from nasplat.strategy import DuplicatePolicy, OnDuplicate, Strategy
from nasplat.task import Outcome, Task


class RandomSearch(Strategy):
    """Uniform sampling of feasible architectures.

    Args:
        problem: The search problem.
        duplicates: The duplicate policy; with ``redraw``, the default, sampling is without replacement and ends when
            nothing new is found.
    """

    former_options: ClassVar[Mapping[str, str]] = {"repeats": "duplicates"}

    def __init__(self, problem: Problem, *, duplicates: OnDuplicate = "redraw") -> None:
        super().__init__(problem)
        self.duplicates = duplicates
        self._duplicates = DuplicatePolicy(problem, duplicates)

    def ask(self, n: int) -> list[Task]:
        drawn = (self._duplicates.sample() for _ in range(n))
        return [task for task in takewhile(bool, drawn) if task]

    def tell(self, outcome: Outcome) -> None:
        pass  # random search ignores outcomes

    def get_state(self) -> dict[str, Any]:
        return {"asked": self._duplicates.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        self._duplicates.set_state(state["asked"])
