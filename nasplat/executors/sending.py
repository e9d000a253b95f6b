"""What workers in other processes are sent of the user's own classes."""

from ray import cloudpickle

from nasplat.config import Workload
from nasplat.errors import InputError


def check_sendable(workload: Workload) -> None:
    """Check that workers can be sent the classes of a workload, before any worker starts.

    Raises:
        InputError: A class refers to what cannot leave this process.
    """
    for name, adopted in workload.adopted.items():
        try:
            cloudpickle.dumps(adopted)  # type: ignore[no-untyped-call]
        except Exception as error:
            raise InputError(
                f"workers must be sent {name} with all that it refers to, but that cannot be: {type(error).__name__}: "
                f"{error}; open files, connections and locks inside the function, or take --executor inline"
            ) from error
