"""What goes wrong, by whose doing: every error names the rule, what was given, and the remedy."""

import difflib
from collections.abc import Iterable


class NasplatError(Exception):
    """The root of all errors that the platform raises on purpose."""


class InputError(NasplatError, ValueError):
    """Something the user gave is wrong; the command line exits with 2 and creates nothing."""


class RunError(NasplatError, RuntimeError):
    """A run cannot go on; the command line exits with 1."""


class ArtifactError(RunError):
    """An artifact is missing or damaged; a trial that needs it fails, the search goes on."""


class StorageError(RunError):
    """The run's directory cannot be written, as when the disk is full; the run stops and can be resumed."""


class StrategyError(RunError):
    """A strategy broke its contract: an infeasible proposal, too many tasks, or a divergent replay."""


class TrialFailed(NasplatError):
    """Raised inside a benchmark to end one trial as a recorded failure of the named kind.

    Args:
        kind: A short name such as ``"diverged"``; it is what progress and reports count by.
        message: What happened, with the values that show it.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not among the known ones, near matches first.

    >>> unknown("strategy", "randon_search", ["random_search", "local_search"])
    "no strategy is named 'randon_search'; did you mean 'random_search'? Known: local_search, random_search"
    """
    names = sorted(known)
    family = [member for member in names if name and member.startswith(f"{name}/")]
    near = family or difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    guess = f"did you mean {' or '.join(map(repr, near))}? Known" if near else "known"
    return f"no {kind} is named {name!r}; {guess}: {', '.join(names) or 'none'}"
