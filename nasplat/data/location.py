"""The location of tables and data sets: `NASPLAT_DATA`, else the user's data folder."""

import os
from pathlib import Path

import platformdirs


def data_folder() -> Path:
    """The folder of tables and data sets. It need not exist."""
    given = os.environ.get("NASPLAT_DATA")
    return Path(given).expanduser() if given else Path(platformdirs.user_data_dir("nasplat", appauthor=False))


def absolute(place: str | None) -> str | None:
    """The absolute path of a file or folder, for workers in other directories."""
    return None if place is None else str(Path(place).expanduser().absolute())
