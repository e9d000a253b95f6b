"""Exceptions by cause: every error names the rule, the value that was given in a printable form, and the remedy."""

import difflib
from collections.abc import Iterable, Mapping


class NasplatError(Exception):
    """Base class of all errors that the platform raises on purpose."""


class InputError(NasplatError, ValueError):
    """Invalid input from the user; the command line exits with 2 and creates nothing."""


class RunError(NasplatError, RuntimeError):
    """A run cannot continue; the command line exits with 1."""


class ArtifactError(RunError):
    """An artifact is missing or damaged; a trial that needs it fails, and the search continues."""


class StorageError(RunError):
    """Something cannot be written, for example on a full disk; a run stops and can be resumed.

    The message ends with the remedy.
    """


class DamageError(RunError):
    """A file of a run is damaged, so that resuming it cannot help; the message ends with the remedy."""


class DamageWarning(UserWarning):
    """A run is damaged, and what is read of it may not be all of it; the message ends with the remedy."""


class InfeasibleWarning(UserWarning):
    """A search leaves out architectures whose networks cannot be built or run; the message ends with the remedy."""


class StrategyError(RunError):
    """A strategy broke its contract: an infeasible proposal, too many tasks, or a replay that differs."""


class TrialFailed(NasplatError):
    """Raised inside a benchmark to end one trial; it is recorded as a failure of the given kind.

    Args:
        kind: A short name such as ``"diverged"``; progress and reports count failures by kind.
        message: What happened, with the values that show it.
        curve: What the trial reported before, by epoch.
    """

    def __init__(self, kind: str, message: str, *, curve: Mapping[int, Mapping[str, float]] | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.curve = dict(curve or {})


def printable(text: str) -> str:
    """Text with all that is no printable character escaped: control characters, line breaks, marks of direction.

    >>> print(printable("a\\x1b[2J"), printable("b\\nc"))
    a\\x1b[2J b\\nc
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown name; near matches come first.

    >>> unknown("strategy", "randon_search", ["random_search", "local_search"])
    "no strategy is named 'randon_search'; did you mean 'random_search'? Known: local_search, random_search"
    """
    names = sorted(known)
    family = [member for member in names if name and member.startswith(f"{name}/")]
    near = family or difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    guess = f"did you mean {' or '.join(map(repr, near))}? Known" if near else "known"
    return f"no {kind} is named {name!r}; {guess}: {', '.join(names) or 'none'}"
