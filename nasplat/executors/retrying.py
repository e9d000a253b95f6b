"""The retry policy: whether a task is tried again after a worker failure."""

from dataclasses import dataclass

WORKER_DIED = "worker died"
NODE_LOST = "node lost"
OBJECT_LOST = "object lost"

NODE_LOSSES = 10
"""Maximum number of losses under one trial, of a node or of an artifact in the object store, before it fails."""


@dataclass(slots=True)
class WorkerFailures:
    """The worker failures under one task.

    Args:
        deaths: How often a worker died or ran out of memory. The task itself may be the cause.
        losses: How often a node was lost, or an artifact in the object store. The task is hardly the cause.
    """

    deaths: int = 0
    losses: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to a task after a worker failure.

    Args:
        retry: Whether the task is tried again; otherwise it fails.
        message: The message of the incident.
    """

    retry: bool
    message: str


class RetryPolicy:
    """Counts the worker failures under each task, and decides whether to retry the task.

    Args:
        retries: Number of further attempts of a task after its worker died or ran out of memory.
    """

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._failures: dict[int, WorkerFailures] = {}  # by the id of the task

    def decide(self, task: int, kind: str, reason: str) -> Decision:
        """Count a worker failure under a task, and decide whether to retry the task.

        Args:
            task: The id of the task.
            kind: The kind of the failure.
            reason: Its cause, in one line.

        >>> policy = RetryPolicy(retries=1)
        >>> policy.decide(7, WORKER_DIED, "killed")
        Decision(retry=True, message='attempt 1 of 2: killed')
        >>> policy.decide(7, NODE_LOST, "node gone")  # a loss does not count as an attempt
        Decision(retry=True, message='node gone')
        >>> policy.decide(7, WORKER_DIED, "killed again")
        Decision(retry=False, message='killed again')
        """
        failures = self._failures.setdefault(task, WorkerFailures())
        if kind in (NODE_LOST, OBJECT_LOST):
            failures.losses += 1
            return Decision(failures.losses <= NODE_LOSSES, reason)
        failures.deaths += 1
        if failures.deaths <= self._retries:
            return Decision(True, f"attempt {failures.deaths} of {self._retries + 1}: {reason}")
        return Decision(False, reason)

    def forget(self, task: int) -> None:
        """Drop the counts of a task that has its outcome."""
        self._failures.pop(task, None)
