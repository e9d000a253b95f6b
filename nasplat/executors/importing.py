"""Whether a module of the user is being imported for a search; one that starts meanwhile would start itself again."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_importing: ContextVar[str] = ContextVar("importing", default="")


@contextmanager
def importing(what: str) -> Iterator[None]:
    """Hold while something of the user is imported.

    Args:
        what: The module, or what is imported of it, for messages.
    """
    token = _importing.set(what)
    try:
        yield
    finally:
        _importing.reset(token)


def being_imported() -> str:
    """What is being imported in this thread; empty if nothing is."""
    return _importing.get()
