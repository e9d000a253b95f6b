"""What bars of progress are made of, apart from the console, since rich's take long to import."""

from rich.progress import Task, TextColumn
from rich.text import Text

from nasplat.errors import printable


class LineColumn(TextColumn):
    """A column whose text is one printable line, in rich's markup; line breaks are a console's own.

    Of the options of `TextColumn` it ignores `markup` and `highlighter`.
    """

    def render(self, task: Task) -> Text:
        """The text of the column, escaped."""
        text = printable(self.text_format.format(task=task))
        return Text.from_markup(text, style=self.style, justify=self.justify, emoji=False)
