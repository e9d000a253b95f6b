"""The retry policy decides after worker failures, without Ray."""

import subprocess
import sys

import pytest

from nasplat.executors.executor import OUT_OF_MEMORY
from nasplat.executors.retrying import NODE_LOSSES, NODE_LOST, OBJECT_LOST, WORKER_DIED, Decision, RetryPolicy


@pytest.mark.parametrize("kind", [WORKER_DIED, OUT_OF_MEMORY])
def test_a_task_is_retried_until_its_retries_are_used_up(kind: str) -> None:
    policy = RetryPolicy(retries=2)
    assert [policy.decide(5, kind, "the cause") for _ in range(3)] == [
        Decision(True, "attempt 1 of 3: the cause"),
        Decision(True, "attempt 2 of 3: the cause"),
        Decision(False, "the cause"),
    ]


def test_without_retries_the_first_failure_is_the_last() -> None:
    policy = RetryPolicy(retries=0)
    assert policy.decide(5, WORKER_DIED, "the cause") == Decision(False, "the cause")


@pytest.mark.parametrize("kind", [NODE_LOST, OBJECT_LOST])
def test_losses_are_no_tries_but_have_a_maximum(kind: str) -> None:
    policy = RetryPolicy(retries=0)
    assert [policy.decide(5, kind, "gone") for _ in range(NODE_LOSSES)] == [Decision(True, "gone")] * NODE_LOSSES
    assert policy.decide(5, kind, "gone") == Decision(False, "gone")


def test_losses_of_nodes_and_of_objects_count_together_and_leave_the_tries_alone() -> None:
    policy = RetryPolicy(retries=1)
    for number in range(NODE_LOSSES):
        assert policy.decide(5, (NODE_LOST, OBJECT_LOST)[number % 2], "gone").retry
    assert policy.decide(5, WORKER_DIED, "killed") == Decision(True, "attempt 1 of 2: killed")
    assert not policy.decide(5, NODE_LOST, "gone").retry


def test_deaths_and_memory_that_ran_out_count_together() -> None:
    policy = RetryPolicy(retries=1)
    assert policy.decide(5, OUT_OF_MEMORY, "too large").retry
    assert not policy.decide(5, WORKER_DIED, "killed").retry


def test_each_task_has_its_own_counts_and_they_can_be_forgotten() -> None:
    policy = RetryPolicy(retries=1)
    assert policy.decide(5, WORKER_DIED, "killed").retry
    assert policy.decide(6, WORKER_DIED, "killed").retry
    policy.forget(5)
    policy.forget(7)  # without any failure
    assert policy.decide(5, WORKER_DIED, "killed").retry
    assert not policy.decide(6, WORKER_DIED, "killed").retry


def test_the_policy_does_not_import_ray() -> None:
    program = "import sys, nasplat.executors.retrying; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
