"""Bars of progress, and what they are made of, apart from the console, since rich's take long to import."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn
from rich.text import Text

from nasplat.errors import printable

if TYPE_CHECKING:
    from nasplat.data.pool_pass import Told


class LineColumn(TextColumn):
    """A column whose text is one printable line, in rich's markup; line breaks are a console's own.

    Of the options of `TextColumn` it ignores `markup` and `highlighter`.
    """

    def render(self, task: Task) -> Text:
        """The text of the column, escaped."""
        text = printable(self.text_format.format(task=task))
        return Text.from_markup(text, style=self.style, justify=self.justify, emoji=False)


@contextmanager
def progress(console: Console) -> "Iterator[Told]":
    """A bar on terminals; without one, a line for each step."""
    shown = console.is_terminal and not console.quiet
    columns = BarColumn(bar_width=24), LineColumn("{task.description}  {task.completed:,}")
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task, doing = bar.add_task("", total=None), ""

        def told(what: str, done: int, whole: int) -> None:
            nonlocal doing
            if what != doing and not shown:
                console.print(f"{what} …")
            doing = what
            bar.update(task, description=what, completed=done, total=whole or None)

        yield told
