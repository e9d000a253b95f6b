"""A console that prints texts of others in a printable form."""

import errno
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from nasplat.errors import printable


class SafeConsole(Console):
    """A console for texts of others: what is no printable character is escaped in everything that is printed.

    A string is one line. Only line breaks at its beginning and end are layout; one inside it could pretend to be a line
    of this program. Markup is kept; text of others goes through `rich.markup.escape`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print strings as lines, and anything else that rich can draw."""
        try:
            super().print(*(_line(each) if isinstance(each, str) else each for each in objects), **options)
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that was closed takes nothing more
                raise

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of text without control characters, also of tables and progress bars."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:  # line breaks are rich's own, since those in strings and cells were escaped before
                yield Segment("\n".join(map(printable, segment.text.split("\n"))), segment.style)


def console_of(progress: bool) -> SafeConsole:
    """Where notes and progress are shown: standard error, or the notebook."""
    return SafeConsole(stderr=True, soft_wrap=True, quiet=not progress)


def _line(text: str) -> str:
    """A string for `SafeConsole.print`, escaped but for the line breaks around it."""
    inside = text.strip("\n")
    before, _, after = text.partition(inside) if inside else (text, "", "")
    return f"{before}{printable(inside)}{after}"
