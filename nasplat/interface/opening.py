"""Opening a run from Python."""

from pathlib import Path
from typing import Any

from nasplat.interface.run import Run


def open_run(
    folder: str | Path,
    *,
    space: Any = None,
    benchmark: Any = None,
    strategy: Any = None,
    trust: bool = False,
    accept_changed_code: bool = False,
) -> Run:
    """Open a run. Objects of your own that it was searched with are given again, or `trust` has them imported.

    Args:
        folder: The run directory.
        space: Whatever was given to `nasplat.search`, if it is no installed plug-in.
        benchmark: Likewise.
        strategy: Likewise.
        trust: Whether what only the run names may be imported, used and downloaded; for a run of your own.
        accept_changed_code: Whether code of your own that has changed since the search is accepted.

    Raises:
        InputError: It is no run directory, or an object is not the one that it was searched with.
    """
    return Run(
        folder,
        space=space,
        benchmark=benchmark,
        strategy=strategy,
        trust=trust,
        accept_changed_code=accept_changed_code,
    )
