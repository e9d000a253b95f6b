"""What the configuration of a run may cause only if its user says so; `docs/trust.md` has the whole table."""

import os
import shlex

from nasplat.config import SearchConfig
from nasplat.errors import InputError
from nasplat.run.directory import ASKED, RunDirectory
from nasplat.run.layout import ARTIFACTS
from nasplat.storage.files import is_taken

RAY_ADDRESS = "RAY_ADDRESS"
"""The variable by which a user, and Ray itself, names a cluster."""


def check_trusted(run: RunDirectory, now: SearchConfig, *, named: bool, trusted: bool) -> None:
    """Check that no cluster is used that only the configuration of a run names. A run may be anybody's copy.

    A cluster that is connected to sends objects that Ray unpickles, which runs code.

    Args:
        run: The run.
        now: The configuration that is about to be used.
        named: Whether the user named the address of the cluster on the command line.
        trusted: Whether the user trusts the run.

    Raises:
        InputError: One is used; the message shows it and says how to agree.
    """
    if trusted:
        return
    address = now.executor.address
    if not _is_local(address) and not named and not _of_the_user(address):
        raise InputError(
            f"{run.folder} names the Ray cluster at {address!r}, which could run any code in this process; a cluster "
            "counts only if you name it: give --ray-address ADDRESS (ray_address=…), or --trust-run (trust=True) if "
            "the run is your own"
        )


def check_store_trusted(run: RunDirectory, *, trusted: bool) -> None:
    """Check that a run that goes on writes no artifacts outside its folder: its store may be a link to anywhere.

    Raises:
        InputError: The store is a link, and the user does not trust the run; or it is no folder.
    """
    store = run.folder / ARTIFACTS
    link = f"a link to {store.readlink()}" if store.is_symlink() else ""
    if is_taken(store) and not store.is_dir():
        raise InputError(
            f"{store} is {f'{link}, which is no' if link else 'no'} folder, so trials could not leave their weights "
            "there; delete it, or put the folder of another copy of the run in its place"
        )
    if link and not trusted:
        raise InputError(
            f"{store} is {link}, so trials would leave their weights outside the run; if the run is your own, give "
            "--trust-run (trust=True), or put a copy of the folder in place of the link"
        )


def resuming(run: RunDirectory) -> str:
    """The command that goes on with a run; it names again what a run alone cannot: a cluster, a module, a store.

    A run whose networks a caller measures goes on in Python, and so does one with objects of a script or a notebook.
    """
    config = run.config
    if config.benchmark.name == ASKED:
        return f"nasplat.AskTell.open({str(run.folder)!r})"
    plugins = {section: getattr(config, section).name for section in ("space", "benchmark", "strategy")}
    modules = [section for section, name in plugins.items() if ":" in name]
    if any(plugins[section].startswith("__main__:") for section in modules):  # no command has these
        objects = "".join(f", {section}=…" for section in modules)
        return f"nasplat.open_run({str(run.folder)!r}{objects}).resume()"
    words = ["nasplat", "resume", str(run.folder)]
    if not _is_local(config.executor.address):
        words += ["--ray-address", str(config.executor.address)]
    if modules or (run.folder / ARTIFACTS).is_symlink():
        words.append("--trust-run")
    return shlex.join(words)


def _is_local(address: str | None) -> bool:
    """Whether an address stands for a Ray of this process."""
    return address in (None, "local")


def _of_the_user(address: str | None) -> bool:
    """Whether the user's environment names the address. Ray takes `auto` from there."""
    return bool(os.environ.get(RAY_ADDRESS)) and address in ("auto", os.environ[RAY_ADDRESS])
