"""The meaning of Ray's errors, from the errors themselves; no cluster is started."""

from importlib import import_module
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, LocalRayletDiedError, RayError

from nasplat.errors import InputError, RunError
from nasplat.executors.executor import OUT_OF_MEMORY
from nasplat.executors.ray_cluster import check_own_node, connect, kind_of, reason_of
from nasplat.executors.retrying import NODE_LOST, OBJECT_LOST, WORKER_DIED

EXCEPTIONS: Any = import_module("ray.exceptions")
"""Those whose constructors have no types."""
MESSAGES: Any = import_module("ray.core.generated.common_pb2")

OWNER = (
    "The actor is dead because its owner has died. Owner Id: 01000000ffff Owner Ip address: 192.0.2.2 Owner worker "
    "exit type: SYSTEM_ERROR Worker exit detail: Owner's node has crashed."
)
"""What Ray 2.60 says of workers after the raylet of the driver's node was killed."""
NODE = "The actor died because its node has died. Node Id: 6e780ee3a91a\n\tthe actor's node was terminated unexpectedly"
PROCESS = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
    "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) …"
)


def died(message: str) -> ActorDiedError:
    """The error of an actor that the cluster reports as dead."""
    return ActorDiedError(
        MESSAGES.ActorDiedErrorContext(class_name="Worker", actor_id=bytes(16), error_message=message)
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (died(PROCESS), WORKER_DIED),
        (died(NODE), NODE_LOST),
        (LocalRayletDiedError(), NODE_LOST),
        (EXCEPTIONS.NodeDiedError("the node is unreachable"), NODE_LOST),
        (ActorUnavailableError("no answer", bytes(16)), NODE_LOST),
        (EXCEPTIONS.OutOfMemoryError("too large"), OUT_OF_MEMORY),
        (EXCEPTIONS.RayTaskError("perform", OWNER + NODE, ValueError("of the trial's own code")), OBJECT_LOST),
    ],
)
def test_what_is_lost_tells_what_counts_as_an_attempt(error: RayError, kind: str) -> None:
    check_own_node(error)  # the node of the driver is alive
    assert kind_of(error) == kind


def test_the_cause_is_one_line() -> None:
    assert reason_of(died(PROCESS)) == "its process ended without a word"
    assert reason_of(LocalRayletDiedError()).startswith("The task's local raylet died")


def test_without_the_node_of_the_driver_the_run_ends_and_no_trial_fails() -> None:
    with pytest.raises(RunError, match="the Ray node of this process is lost"):
        check_own_node(died(OWNER))


def test_whatever_keeps_ray_from_starting_is_wrong_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise Exception("Traceback\nThe current node timed out during startup.")  # as Ray does under ulimit -v

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(InputError, match=r"cannot be started here: The current node .* startup; look at the limits"):
        connect(None, cpus=1)
