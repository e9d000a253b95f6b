"""The pages of the reference that are written from the code: every plug-in and every command.

A plug-in's page says what `nasplat list KIND NAME` says, a command's page what `nasplat COMMAND --help` says: both are
asked for the same things. Sphinx loads this as an extension; the pages go to `docs/generated`, which git ignores.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nasplat.cli.app import COMMANDS, load
from nasplat.cli.listing import REGISTRIES, SECTIONS, Kind, described

HEADS = {
    Kind.SEARCH_SPACES: "Search spaces",
    Kind.STRATEGIES: "Strategies",
    Kind.BENCHMARKS: "Benchmarks",
    Kind.PREDICTORS: "Predictors",
    Kind.TRANSFORMS: "Transforms",
}


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before Sphinx looks for what there is to read."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir, "generated")))
    return {"parallel_read_safe": True}


def write(folder: Path) -> None:
    """Write all pages below a folder, leave alone those that are as they should be, and remove what is none of them."""
    wanted = {folder / name: text for name, text in pages()}
    for path in set(folder.rglob("*.md")) - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def pages() -> Iterator[tuple[str, str]]:
    """Path and text of each page: plug-ins by kind, then commands."""
    for kind in HEADS:
        entries = [described(kind, plugin.name) for plugin in REGISTRIES[kind] if plugin.origin == "built-in"]
        yield f"{kind}/index.md", kind_page(kind, entries)
        for entry in entries:
            yield f"{kind}/{file_name(entry['name'])}.md", plugin_page(kind, entry)
    yield "commands/index.md", commands_page()
    for name in COMMANDS:
        yield (
            f"commands/{name}.md",
            "\n\n".join([f"# nasplat {name}", *command_sections(f"nasplat {name}", load(name))]),
        )


# Plug-ins


def kind_page(kind: Kind, entries: Sequence[dict[str, Any]]) -> str:
    """The page that lists the plug-ins of a kind."""
    rows = [(f"[`{each['name']}`]({file_name(each['name'])}.md)", plain(each["summary"])) for each in entries]
    rows += [(f"`{name}`", plain(meaning)) for name, meaning in REGISTRIES[kind].reserved.items()]
    command = f"nasplat list {kind}"
    return "\n\n".join(
        [
            f"# {HEADS[kind]}",
            f"What `{command}` lists; `{command} NAME` prints what the page of one says.",
            table(["name", "what it is"], rows),
            toctree([file_name(each["name"]) for each in entries]),
        ]
    )


def plugin_page(kind: Kind, entry: dict[str, Any]) -> str:
    """The page of one plug-in: its description, metrics and options."""
    section, options = SECTIONS[kind], entry["options"]
    parts = [f"# {entry['name']}", plain(entry["about"])]
    if "metrics" in entry:
        parts.append("Metrics: " + ", ".join(f"`{metric}`" for metric in entry["metrics"]) + ".")
    parts.append("## Options")
    if options:
        example = f"{section}.{options[0]['name']}={options[0]['default']}"
        parts.append(f"On the command line as `--set {example}`, in a file below `{section}`.")
        parts += [
            f"`{each['name']}` · {plain(each['type'])} · default `{each['default']}`\n: {plain(each['meaning'])}"
            for each in options
        ]
    else:
        parts.append("It has none.")
    return "\n\n".join(parts) + "\n"


# Commands


def commands_page() -> str:
    """The page that lists the commands."""
    rows = [(f"[`nasplat {name}`]({name}.md)", plain(each.summary)) for name, each in COMMANDS.items()]
    return "\n\n".join(["# Commands", table(["command", "what it does"], rows), toctree(list(COMMANDS))])


def command_sections(name: str, command: Any, level: int = 2) -> Iterator[str]:
    """What a command does and takes; of a group, that of all its commands."""
    yield plain(" ".join((command.help or "").split("\f")[0].split()))
    if nested := getattr(command, "commands", None):
        for each, inner in nested.items():
            yield f"{'#' * level} {name} {each}"
            yield from command_sections(f"{name} {each}", inner, level + 1)
        return
    context = command.make_context(name, [], resilient_parsing=True)
    yield f"```text\n{' '.join([name, *command.collect_usage_pieces(context)])}\n```"
    records = [(each, each.get_help_record(context)) for each in command.params]
    for kind, head in (("argument", "argument"), ("option", "option")):
        rows = [
            (f"`{record[0]}`", plain(record[1])) for each, record in records if record and each.param_type_name == kind
        ]
        if rows:
            yield table([head, "meaning"], rows)


# Markdown


def file_name(plugin: str) -> str:
    """The name of a plug-in's page without its ending."""
    return plugin.replace("/", "-")


def plain(text: str) -> str:
    """A docstring or help text as Markdown: code keeps its backticks, options become code, all else is text."""
    parts = re.split(r"(`+[^`]*`+)", text)
    parts[::2] = [re.sub(r"([\\*_<>\[\]#|])", r"\\\1", part) for part in parts[::2]]
    parts[::2] = [re.sub(r"--[a-z][a-z-]*", r"`\g<0>`", part) for part in parts[::2]]
    return "".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; cells are Markdown, in which a bar is written with a backslash."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in line) + " |" for line in lines)


def toctree(names: Sequence[str]) -> str:
    """The order of pages in the navigation."""
    return "\n".join(["```{toctree}", ":hidden:", "", *names, "```"]) + "\n"
