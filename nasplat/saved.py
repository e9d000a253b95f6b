"""Predictors in folders: opened by what their documents name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasplat.errors import InputError
from nasplat.options import complete
from nasplat.predictor import Predictor, read_document
from nasplat.registry import PREDICTORS, SEARCH_SPACES
from nasplat.search_space import SearchSpace


@dataclass(frozen=True, slots=True)
class Saved:
    """A predictor as it was saved.

    Args:
        predictor: Ready to predict.
        space: Whose architectures it knows.
        about: What else its document says, such as what it has learnt from.
        versions: Of the packages that it was saved with, by name.
        digest: The SHA-256 of its document, which tells it from all others.
    """

    predictor: Predictor
    space: SearchSpace
    about: dict[str, Any]
    versions: dict[str, Any]
    digest: str


def open_predictor(folder: Path) -> Saved:
    """The predictor that a folder holds, whichever it is.

    Raises:
        InputError: The folder is missing or damaged, or names a predictor, a space or an option that is not there.
    """
    document = read_document(folder)
    try:
        space = make_space(document["space"]["name"], document["space"]["options"])
        predictor = PREDICTORS.get(document["predictor"])
    except InputError as error:
        raise InputError(f"{folder} cannot be opened: {error}") from error
    return Saved(predictor.load(folder, space), space, document["about"], document["versions"], document["document"])


def make_space(name: str, options: dict[str, Any] | None = None) -> SearchSpace:
    """The search space of a name.

    Args:
        name: The registered name.
        options: Arguments of the constructor, the defaults for what is left out.

    Raises:
        InputError: There is no such space, or an option is unknown, of the wrong type, or refused.
    """
    space = SEARCH_SPACES.get(name)
    return space(**complete("space", space, options or {}))
