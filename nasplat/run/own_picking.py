"""A run's own folder `picking/`, with what was picked for it, wherever the run is now."""

import os
import shutil
import stat
from pathlib import Path

from nasplat.config import PluginConfig, SearchConfig
from nasplat.data.picked import ABOUT, FOLDER, JOB, LARGEST, PREFIX, RESULTS, beside
from nasplat.storage.files import is_full, is_taken, read_file


def at_home(config: SearchConfig, run: Path) -> SearchConfig:
    """The configuration of a run; if the run has images that were picked for it, they are read from where it is now.

    The configuration names the place where the run was created, but runs are moved, copied and recovered.
    """
    options = config.benchmark.options
    if not str(options.get("dataset")).startswith(PREFIX):
        return config
    if not os.path.isfile(run / FOLDER / ABOUT):  # noqa: PTH113  an impossible name is a missing file
        return config
    here = options | {"dataset": f"{PREFIX}{run.absolute()}"}
    return config.model_copy(update={"benchmark": PluginConfig(name=config.benchmark.name, **here)})


def lost_of(run: Path) -> dict[str, str]:
    """What a run's picking lacks, by name, with why: results that are no regular files. Empty without a picking.

    The run may be anybody's: a link may lead to any file, and reading a pipe or a device might never end.
    """
    place = run / FOLDER
    if not is_taken(place):
        return {}
    if place.is_symlink() or not place.is_dir():
        return {FOLDER: "it is a link" if place.is_symlink() else "it is no folder"}
    return {f"{FOLDER}/{name}": why for name in RESULTS if (why := _why_no_file(place / name))}


def copy_results(run: Path, target: Path) -> dict[str, str]:
    """Copy the results of a run's picking, if it has one, and nothing else that is in its folder.

    Args:
        run: The run.
        target: The directory of the new run.

    Returns:
        What could not be copied, by name, with why.

    Raises:
        OSError: The disk is full.
    """
    lost = lost_of(run)
    if FOLDER in lost or not is_taken(run / FOLDER):
        return lost
    (target / FOLDER).mkdir()
    for name in (f"{FOLDER}/{each}" for each in RESULTS):
        if name in lost:
            continue
        try:
            shutil.copyfile(run / name, target / name, follow_symlinks=False)
        except OSError as error:
            if is_full(error):
                raise
            (target / name).unlink(missing_ok=True)
            lost[name] = error.strerror or str(error)
    return lost


def delete_leftover(run: Path) -> None:
    """Delete the folder beside a run in which its images were picked; a process that was killed leaves it there.

    It is left alone unless the run has all results, and it is the folder of this very picking.
    """
    work = beside(run.absolute())  # the working directory has no name
    try:
        if work.is_symlink() or _why_no_file(work / JOB) or lost_of(run):
            return
        if read_file(work / ABOUT, LARGEST) == read_file(run / FOLDER / ABOUT, LARGEST):
            shutil.rmtree(work, ignore_errors=True)
    except OSError:  # one of them is not there
        return


def _why_no_file(path: Path) -> str:
    """Why a path is no regular file; empty if it is one."""
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISLNK(mode):
        return "it is a link"
    return "" if stat.S_ISREG(mode) else "it is not a regular file"
