"""What bars of progress are made of, apart from the console, since rich's take long to import."""

from rich.progress import Task, TextColumn
from rich.text import Text

from nasplat.errors import printable


class LineColumn(TextColumn):
    """A column whose text is one printable line, whatever it names; line breaks are a console's own."""

    def render(self, task: Task) -> Text:
        """The text of the column, escaped."""
        text = super().render(task)
        text.plain = printable(text.plain)
        return text
