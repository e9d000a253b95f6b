"""The accounts of a search: its tasks, their outcomes, and their cost."""

from collections.abc import Sequence

from nasplat.driver.budget import Spending
from nasplat.objective import Goal
from nasplat.task import Evaluate, Failure, Measurement, Outcome, Task, Trained


class Accounts:
    """The accounts of a search, updated in the same way while it runs and while its log is replayed.

    Args:
        goal: Decides which measurement is better.

    Attributes:
        spending: The budget spent so far.
        best: The measurement with the best first objective so far.
        outcomes: The number of outcomes by kind: ``measured``, ``cached``, ``trained``, ``failed``.
        outstanding: The tasks without an outcome yet, by id.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self.spending = Spending()
        self.outcomes = {"measured": 0, "cached": 0, "trained": 0, "failed": 0}
        self.best: Measurement | None = None
        self.outstanding: dict[int, Task] = {}

    def ask(self, tasks: Sequence[Task]) -> None:
        """Enter tasks that a strategy asked for."""
        for task in tasks:
            self.outstanding[task.id] = task
            self.spending.evaluations += isinstance(task, Evaluate)

    def tell(self, outcome: Outcome) -> None:
        """Enter the outcome of an outstanding task."""
        del self.outstanding[outcome.id]
        self.spending.add(outcome)
        match outcome:
            case Measurement(cached_from=None):
                self.outcomes["measured"] += 1
                if self.best is None or self.goal.better_first(outcome, self.best):
                    self.best = outcome
            case Measurement():
                self.outcomes["cached"] += 1
            case Failure():
                self.outcomes["failed"] += 1
            case Trained():
                self.outcomes["trained"] += 1
