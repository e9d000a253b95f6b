"""Where commands print: tables for people on a terminal, JSON for machines, errors on standard error."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from nasplat.errors import printable
from nasplat.interface.console import SafeConsole

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
