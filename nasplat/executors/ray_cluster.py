"""A Ray cluster: connecting to it, its resources, and the meaning of its errors."""

import logging
import math
import os
import socket
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)

from nasplat.errors import InputError, RunError
from nasplat.executors.executor import OUT_OF_MEMORY
from nasplat.executors.retrying import NODE_LOST, OBJECT_LOST, WORKER_DIED

REWORDED = {
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: ": "",
    "Worker unexpectedly exits with a connection error code 2. End of file.": "its process ended without a word",
    "The actor": "the worker",
}
"""Ray's messages about a dead worker, and the shorter text for each."""

PROBE_SECONDS = 10.0
"""Seconds that a connection to a cluster's address may take."""


def connect(address: str | None, *, cpus: float) -> bool:
    """Start Ray or connect to a cluster; return whether this call did so, and the caller must shut Ray down."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            # The user decides how many workers share this machine, even if there are more workers than cores.
            # A cluster that already runs on this machine is not used unless its address is given.
            logical = max(os.cpu_count() or 1, math.ceil(cpus))
            ray.init(address="local", num_cpus=logical, include_dashboard=False, **quiet)
        else:
            _probe(address)
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises the class itself if its processes do not come up, as for want of memory
        if address is None:
            raise InputError(
                f"Ray cannot be started here: {_last_line(error).rstrip('.')}; look at the limits of memory and "
                "processes (ulimit -a), or leave --executor ray (executor='ray') out to search in one "
                "process"
            ) from error
        raise InputError(
            f"the Ray cluster at {address!r} cannot be reached: {_last_line(error)}; "
            "check the address, and set RAY_AUTH_MODE=token if the cluster asks for a token"
        ) from error
    return True


def _probe(address: str) -> None:
    """Fail at once if no process listens at the address; Ray itself would try for minutes.

    Only addresses of the form ``HOST:PORT`` are checked; Ray checks the others.

    Raises:
        OSError: No process listens at ``HOST:PORT``.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=PROBE_SECONDS).close()


def require(**wanted: float) -> None:
    """Raise an `InputError` if the whole cluster has fewer resources than the workers need."""
    present: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for resource, amount in wanted.items():
        if amount > present.get(resource, 0.0) + 1e-9:
            raise InputError(
                f"the workers need {amount:g} {resource}s together, but Ray has {present.get(resource, 0.0):g}; "
                f"use fewer --workers (workers=…) or a smaller --{resource.lower()}s-per-worker "
                f"({resource.lower()}s_per_worker=…)"
            )


def why_no_worker(options: Mapping[str, float]) -> str:
    """The reason why workers do not start, as far as the cluster reports it."""
    if not any(node["Alive"] for node in ray.nodes()):  # type: ignore[no-untyped-call]
        return "for no node of the cluster is left; start it again"
    return (
        f"where one needs {options['num_cpus']:g} CPUs and {options['num_gpus']:g} GPUs; "
        "the nodes that have them may be gone, or other work may hold them"
    )


def is_node_lost(error: RayError) -> bool:
    """Whether a whole node is lost, and not only one worker.

    A live node reports the death of its workers. If a worker is unreachable without such a report, or no node has a
    result any more, then the node itself is lost.
    """
    gone = isinstance(error, ActorUnavailableError | LocalRayletDiedError | NodeDiedError | ObjectLostError)
    return gone or (not isinstance(error, RayTaskError) and "its node has died" in str(error))


def check_own_node(error: RayError) -> None:
    """Raise a `RunError` if the node that this process belongs to is lost.

    This process owns its workers, so a cluster that takes it for dead ends all of them, wherever they are, and starts
    no others. No trial is the cause, and none may fail for it. Calls of Ray that need the node would end the process.
    """
    if not isinstance(error, RayTaskError) and "its owner has died" in str(error):
        raise RunError(
            "the Ray node of this process is lost, and its workers with it: its raylet was killed, or the cluster "
            "heard nothing of it for too long; if the cluster was not started by this command, start it again"
        ) from error


def kind_of(error: RayError) -> str:
    """The kind of a worker failure under a task."""
    if isinstance(error, RayTaskError):
        return OBJECT_LOST  # the only error that a live worker raises outside the work of its task
    if is_node_lost(error):
        return NODE_LOST
    return OUT_OF_MEMORY if isinstance(error, OutOfMemoryError) else WORKER_DIED


def reason_of(error: RayError) -> str:
    """The cause of a worker failure, in one line.

    An error in the worker's own code is in the last line of Ray's message; Ray's own cause is in an earlier line.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if isinstance(error, RayTaskError) or "creation task" in str(error):
        return lines[-1]
    verdict = next(
        (line for line in lines if line.startswith(("The actor is dead because", "The actor died because"))), ""
    )
    verdict = verdict.partition(" Some common causes")[0] or lines[0]
    for ray_says, we_say in REWORDED.items():
        verdict = verdict.replace(ray_says, we_say, 1)
    return verdict


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
