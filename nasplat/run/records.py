"""What a run records of its environment and of its data: read, checked, and spelt."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasplat.data.manifest import Manifest
from nasplat.errors import DamageError
from nasplat.run.layout import DATA, ENVIRONMENT
from nasplat.storage.event_log import recovering
from nasplat.storage.files import read_file

LARGEST = {DATA: 1 << 30, ENVIRONMENT: 1 << 24}
"""Bytes of the records. That of data has a line of a hundred bytes for each file."""


def read_data(folder: Path) -> dict[str, Any] | None:
    """Read what a run recorded of its data; None if it recorded nothing.

    Raises:
        DamageError: The record is damaged.
    """
    path = folder / DATA
    try:
        recorded = json.loads(read_file(path, LARGEST[DATA]))
        if not isinstance(recorded, dict):
            raise ValueError("it is no object")
        for each in recorded.values():
            Manifest.of_json(each)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise DamageError(f"{path} is damaged: {problem}; {recovering(folder)}, without this record") from error
    return recorded


def read_environment(folder: Path) -> dict[str, Any]:
    """Read the environment that was recorded when a run was created.

    Raises:
        RunError: The record is missing or damaged.
    """
    path = folder / ENVIRONMENT
    try:
        recorded = json.loads(read_file(path, LARGEST[ENVIRONMENT]))
    except (OSError, ValueError, RecursionError) as error:
        raise DamageError(f"{path} cannot be read: {error}; {recovering(folder)}") from error
    match recorded:
        case {"versions": dict(versions), "git": {"code": str() | None}} if (
            all(isinstance(version, str | None) for version in versions.values())
            and _are_names(recorded.get("code_metrics", []))
            and _are_texts(recorded.get("objects", {}))
        ):
            found: dict[str, Any] = recorded
            return found
    raise DamageError(
        f"{path} is damaged: it must have versions and git.code as text, and if they are there, code_metrics as a list "
        f"of names and objects as text; {recovering(folder)}"
    )


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def spelt_data(data: Mapping[str, Any]) -> str:
    """The record of data as a file. Names that are no UTF-8 are escaped."""
    return json.dumps(data, separators=(",", ":")) + "\n"
