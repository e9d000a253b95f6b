"""The Ray actor that runs in worker processes."""

import os
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

import ray.util

from nasplat.artifact import MemoryArtifacts
from nasplat.benchmark import Benchmark, SupernetBenchmark
from nasplat.config import Workload
from nasplat.executors.executor import perform
from nasplat.executors.group import Rank, Rendezvous
from nasplat.task import Failure, Json, decode_task, encode_outcome


class Worker:
    """A Ray actor with a prepared benchmark, made of a workload.

    Args:
        workload: The benchmark and the space.
        device: A torch device.
    """

    def __init__(self, workload: Workload, device: str) -> None:
        self._device = device
        self._workload = workload
        self._benchmark: Benchmark | None = None
        self._served: Rendezvous | None = None

    def name(self) -> str:
        """The process, as ``host:pid``; the answer shows that it is up."""
        return f"{socket.gethostname()}:{os.getpid()}"

    def ready(self) -> int:
        """Prepare the benchmark, which may take long; return the number of workers that can share a training."""
        if self._benchmark is None:
            benchmark = self._workload.make()
            benchmark.prepare()
            self._benchmark = benchmark
        return self._benchmark.members if isinstance(self._benchmark, SupernetBenchmark) else 1

    def serve(self) -> str:
        """Serve the rendezvous of a new group with this worker as rank 0; return its address."""
        self._served = Rendezvous(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        return self._served.address

    def perform(
        self, task: Json, rank: Rank | None, address: str, digests: Sequence[str], *given: Any
    ) -> tuple[Json, dict[str, bytes], bool]:
        """Run a task, or this worker's rank of it.

        Args:
            task: The task.
            rank: The rank of this worker in the group that shares the task; None if it works alone.
            address: The address of the rendezvous, if there is a group.
            digests: The digests of the artifacts that the task refers to.
            given: The bytes of these artifacts, as arrays.

        Returns:
            The outcome; the artifacts of the task, if they are to be kept; and whether it is a failure of this worker
            and not the effect of another rank's failure.
        """
        assert self._benchmark is not None, "no task is sent before the worker is ready"
        parcel = MemoryArtifacts({digest: memoryview(array) for digest, array in zip(digests, given, strict=True)})
        work = partial(perform, decode_task(task), self._benchmark, device=self._device, artifacts=parcel)
        if rank is None:
            outcome = work()
            return encode_outcome(outcome, with_task=False), parcel.added, isinstance(outcome, Failure)
        served, self._served = self._served, None
        rendezvous = served if rank.index == 0 and served is not None else Rendezvous.at(address)
        with rendezvous.joined(rank) as group:
            outcome = work(group=group)
            failed_first = isinstance(outcome, Failure) and rendezvous.fail()
        return encode_outcome(outcome, with_task=False), {} if rank.index else parcel.added, failed_first
