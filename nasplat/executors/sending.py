"""What workers in other processes are sent of the user's own classes."""

from typing import Any

from ray import cloudpickle

from nasplat.config import Workload
from nasplat.errors import InputError
from nasplat.executors.importing import importing


class Sent:
    """A workload on its way: it arrives as the workload itself, and is known to be imported meanwhile.

    Ray imports the modules of the user's classes before the worker's own code runs. A module that starts a search at
    its top level would start it in every worker.

    Args:
        workload: The workload.

    Raises:
        InputError: A class refers to what cannot leave this process.
    """

    def __init__(self, workload: Workload) -> None:
        for name, adopted in workload.adopted.items():
            try:
                cloudpickle.dumps(adopted)  # type: ignore[no-untyped-call]
            except Exception as error:
                raise InputError(
                    f"workers must be sent {name} with all that it refers to, but that cannot be: "
                    f"{type(error).__name__}: {error}; open files, connections and locks inside the function, or take "
                    "--executor inline (executor='inline')"
                ) from error
        self._names = ", ".join(workload.adopted)
        self._packed = cloudpickle.dumps(workload)  # type: ignore[no-untyped-call]

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self._names, self._packed)


def _received(names: str, packed: bytes) -> Workload:
    with importing(f"the module of {names}"):
        workload: Workload = cloudpickle.loads(packed)
    return workload
