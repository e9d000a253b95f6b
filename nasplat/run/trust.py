"""What the configuration of a run may cause only if its user says so; `docs/trust.md` has the whole table."""

import os

from nasplat.config import SearchConfig
from nasplat.errors import InputError
from nasplat.run.directory import RunDirectory
from nasplat.run.layout import ARTIFACTS

RAY_ADDRESS = "RAY_ADDRESS"
"""The variable by which a user, and Ray itself, names a cluster."""


def check_trusted(run: RunDirectory, now: SearchConfig, *, named: bool, trusted: bool) -> None:
    """Check that no place is used that only the configuration of a run names. A run may be anybody's copy.

    A cluster that is connected to sends objects that Ray unpickles, which runs code. A download writes into a folder.

    Args:
        run: The run.
        now: The configuration that is about to be used.
        named: Whether the user named the address of the cluster on the command line.
        trusted: Whether the user trusts the run.

    Raises:
        InputError: A place is used; the message shows it and says how to agree.
    """
    if trusted:
        return
    address = now.executor.address
    if address not in (None, "local") and not named and not _of_the_user(address):
        raise InputError(
            f"{run.folder} names the Ray cluster at {address!r}, which could run any code in this process; a cluster "
            "counts only if you name it: give --ray-address ADDRESS, or --trust-run if the run is your own"
        )
    folder = _download_folder(now)
    if folder is not None and folder == _download_folder(run.config):
        raise InputError(
            f"{run.folder} would download data into {folder!r}, a folder that only the run names; if the run is your "
            "own, give --trust-run"
        )


def check_store_trusted(run: RunDirectory, *, trusted: bool) -> None:
    """Check that a run that goes on writes no artifacts outside its folder: its store may be a link to anywhere.

    Raises:
        InputError: The store is a link, and the user does not trust the run.
    """
    store = run.folder / ARTIFACTS
    if store.is_symlink() and not trusted:
        raise InputError(
            f"{store} is a link to {store.readlink()}, so trials would leave their weights outside the run; if the run "
            "is your own, give --trust-run, or put a copy of the folder in place of the link"
        )


def _of_the_user(address: str | None) -> bool:
    """Whether the user's environment names the address. Ray takes `auto` from there."""
    return bool(os.environ.get(RAY_ADDRESS)) and address in ("auto", os.environ[RAY_ADDRESS])


def _download_folder(config: SearchConfig) -> str | None:
    """The folder into which the benchmark may download; None if it downloads nothing, or into the data folder."""
    return config.resolved().workload.download_folder
