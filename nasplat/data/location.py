"""Where tables and data sets are looked for: `NASPLAT_DATA`, else the user's data folder."""

import os
from pathlib import Path

import platformdirs

from nasplat.errors import InputError


def data_folder() -> Path:
    """The folder that holds tables and data sets; it need not exist."""
    given = os.environ.get("NASPLAT_DATA")
    return Path(given).expanduser() if given else Path(platformdirs.user_data_dir("nasplat", appauthor=False))


def locate(name: str, remedy: str) -> Path:
    """The path of a file or folder below the data folder.

    Raises:
        InputError: It is not there.
    """
    path = data_folder() / name
    if not path.exists():
        raise InputError(
            f"{path} does not exist; {remedy} (the environment variable NASPLAT_DATA names the data folder)"
        )
    return path
