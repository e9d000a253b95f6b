"""Optional packages, imported where they are needed."""

import importlib
from typing import Any

from nasplat.errors import InputError


def needed(module: str, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: The module.
        extra: The extra of this project that installs it.

    Raises:
        InputError: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the package is there, but one that it needs is not
        package = module.partition(".")[0]
        raise InputError(f"{package} is not installed; install it with: pip install 'nasplat[{extra}]'") from error
