"""Where commands print: tables for people on a terminal, JSON for machines, errors on standard error."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table

from nasplat.errors import printable


class SafeConsole(Console):
    """A console for texts of others: what is no printable character is escaped, whoever prints it.

    A string is one line. Only line breaks at its beginning and end are layout; one inside it could pretend to be a line
    of this program. Markup is kept; text of others goes through `rich.markup.escape`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print strings as lines, and anything else that rich can draw."""
        super().print(*(_line(each) if isinstance(each, str) else each for each in objects), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of text without control characters, also of tables and progress bars."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:  # line breaks are rich's own, since those in strings and cells were escaped before
                yield Segment("\n".join(map(printable, segment.text.split("\n"))), segment.style)


def _line(text: str) -> str:
    """A string for `SafeConsole.print`, escaped but for the line breaks around it."""
    inside = text.strip("\n")
    before, _, after = text.partition(inside) if inside else (text, "", "")
    return f"{before}{printable(inside)}{after}"


out = SafeConsole(soft_wrap=True)
PROSE = {"what it is", "meaning"}
"""The columns whose text is wrapped to the terminal. Numbers and names are not wrapped."""
err = SafeConsole(stderr=True, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output, and nothing else."""
    typer.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON cannot represent."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
    return value


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table. It is as wide as its content, unless it has text columns that can be wrapped to the terminal."""
    if title:
        out.print(escape(title), style="italic")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="left", no_wrap=column not in PROSE)
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    if out.is_terminal and PROSE & set(columns):
        out.print(table)
    else:
        SafeConsole(width=10_000).print(table, crop=False, no_wrap=True)
