"""One thread for all predictions. Requests that queue while it is busy are predicted in one call."""

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

from nasplat.architecture import Architecture
from nasplat.errors import NasplatError
from nasplat.metric import Metric
from nasplat.predictor import Predictor
from nasplat.surrogates.predictor_store import Predicted, scored


class OverfullError(NasplatError):
    """The queue is full."""


class Batcher:
    """Predicts in its own thread, so the event loop is not blocked. It must be used from one event loop.

    Args:
        predictor: The predictor.
        metric: The metric that it estimates, if known.
        largest: The largest number of architectures in one call.
        waiting: The largest number that may wait for one.
    """

    def __init__(self, predictor: Predictor, metric: Metric | None = None, *, largest: int, waiting: int) -> None:
        self._predictor = predictor
        self._metric = metric
        self._largest = largest
        self._most = waiting
        self._queue: deque[tuple[Sequence[Architecture], asyncio.Future[list[Predicted]]]] = deque()
        self._waiting = 0
        self._work: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "predictor", initializer=_leave_a_core_to_the_event_loop)

    async def predict(self, architectures: Sequence[Architecture]) -> list[Predicted]:
        """As `nasplat.surrogates.predictor_store.scored`.

        Raises:
            OverfullError: The queue is full.
        """
        if not architectures:
            return []
        if self._waiting + len(architectures) > self._most:
            raise OverfullError(f"{self._waiting} architectures are waiting, but at most {self._most} may")
        future: asyncio.Future[list[Predicted]] = asyncio.get_running_loop().create_future()
        self._queue.append((architectures, future))
        self._waiting += len(architectures)
        if self._work is None:
            self._work = asyncio.create_task(self._drain())
        return await future

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    async def _drain(self) -> None:
        """Predict until the queue is empty."""
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                group = self._next()
                parts = [architectures for architectures, _ in group]
                results = await loop.run_in_executor(self._thread, self._predict, parts)
                self._waiting -= sum(map(len, parts))
                for (_, future), result in zip(group, results, strict=True):
                    if future.done():  # the request was cancelled
                        continue
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
        finally:
            self._work = None

    def _next(self) -> list[tuple[Sequence[Architecture], "asyncio.Future[list[Predicted]]"]]:
        """The oldest requests in the queue that fit into one call."""
        group = [self._queue.popleft()]
        size = len(group[0][0])
        while self._queue and size + len(self._queue[0][0]) <= self._largest:
            group.append(self._queue.popleft())
            size += len(group[-1][0])
        return group

    def _predict(self, parts: list[Sequence[Architecture]]) -> list[list[Predicted] | Exception]:
        """Predictions for each part. If the joint call fails, each part is tried alone, so one part cannot make others
        fail."""
        try:
            together = scored(self._predictor, [each for part in parts for each in part], self._metric)
        except Exception as error:  # noqa: BLE001  returned to the requester
            return [error] if len(parts) == 1 else [self._predict([part])[0] for part in parts]
        ends = accumulate(map(len, parts))
        return [together[end - len(part) : end] for end, part in zip(ends, parts, strict=True)]


def _leave_a_core_to_the_event_loop() -> None:
    """Torch's number of threads is set for each calling thread. OMP_NUM_THREADS, if set, takes precedence."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
