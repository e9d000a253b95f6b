"""`nasplat list`: what there is by name, and the options of one plug-in."""

import ast
import importlib.util
import inspect
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from nasplat.cli.console import out, print_json, print_table
from nasplat.cli.settings import Json
from nasplat.errors import InputError, unknown
from nasplat.options import defaults, described_options
from nasplat.registry import BENCHMARKS, PREDICTORS, SEARCH_SPACES, STRATEGIES, TRANSFORMS, Plugin, Registry


class Kind(StrEnum):
    """What can be listed."""

    SEARCH_SPACES = "search-spaces"
    STRATEGIES = "strategies"
    PREDICTORS = "predictors"
    BENCHMARKS = "benchmarks"
    TRANSFORMS = "transforms"
    DATASETS = "datasets"


REGISTRIES: dict[Kind, Registry[Any]] = {
    Kind.SEARCH_SPACES: SEARCH_SPACES,
    Kind.STRATEGIES: STRATEGIES,
    Kind.PREDICTORS: PREDICTORS,
    Kind.BENCHMARKS: BENCHMARKS,
    Kind.TRANSFORMS: TRANSFORMS,
}
SECTIONS = {
    Kind.SEARCH_SPACES: "space",
    Kind.STRATEGIES: "strategy",
    Kind.PREDICTORS: "predictor",
    Kind.BENCHMARKS: "benchmark",
    Kind.TRANSFORMS: "transform",
}
"""Where the options of each kind are set, as in ``--set strategy.population=50``."""


def list_plugins(
    kind: Annotated[Kind | None, typer.Argument(help="The kind to list. Default: all.", show_default=False)] = None,
    name: Annotated[
        str | None,
        typer.Argument(help="A plug-in of this kind; shows its description and options.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """List search spaces, strategies, predictors, benchmarks, transforms, data sets; or the options of one of them."""
    if kind is not None and name is not None:
        _describe(kind, name, json=json)
        return
    kinds = [kind] if kind else list(Kind)
    if json:
        print_json({each.value: _datasets() if each is Kind.DATASETS else _entries(each) for each in kinds})
        return
    for each in kinds:
        rows = _rows(each)
        foreign = any(origin != "built-in" for *_, origin in rows)
        print_table(each.value, ["name", "what it is", *["from"] * foreign], [row[: 2 + foreign] for row in rows])
        out.print("" if rows else "none\n", end="\n" if rows else "")
    if kind in REGISTRIES:
        out.print(f"[dim]options: nasplat list {kind} NAME[/]")


def _rows(kind: Kind) -> list[tuple[str, str, str]]:
    """Name, summary and origin of each plug-in of a kind; names that stand for others come last."""
    if kind is Kind.DATASETS:
        return [(each["name"], each["summary"], each["origin"]) for each in _datasets()]
    registry = REGISTRIES[kind]
    rows = [(plugin.name, _summary(registry, plugin), plugin.origin) for plugin in registry]
    return rows + [(name, meaning, "built-in") for name, meaning in registry.reserved.items()]


def _summary(registry: Registry[Any], plugin: Plugin) -> str:
    """The first line of a plug-in's docstring.

    For a built-in plug-in it is read from the source, since importing all of them takes seconds. A third-party plug-in
    is imported, which also shows whether the import works.
    """
    if plugin.origin == "built-in":
        module, _, attribute = plugin.target.partition(":")
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None and spec.has_location:
            for node in ast.parse(Path(spec.origin).read_bytes()).body:
                if isinstance(node, ast.ClassDef) and node.name == attribute:
                    return (ast.get_docstring(node) or "").partition("\n")[0]
    try:
        return (inspect.getdoc(registry.get(plugin.name)) or "").partition("\n")[0]
    except InputError as error:  # one broken plug-in does not hide the others
        return f"BROKEN: {error}"


def _entries(kind: Kind) -> list[dict[str, Any]]:
    """The plug-ins of a kind for machines, with their options."""
    registry = REGISTRIES[kind]
    entries = []
    for plugin in registry:
        try:
            found = registry.get(plugin.name)
            summary = (inspect.getdoc(found) or "").partition("\n")[0]
            metrics = getattr(found, "metrics", ())
            options = defaults(found)
        except InputError as error:
            summary, metrics, options = f"BROKEN: {error}", (), {}
        entry = {"name": plugin.name, "summary": summary, "options": options, "origin": plugin.origin}
        if kind is Kind.BENCHMARKS:
            entry["metrics"] = list(metrics)
        entries.append(entry)
    return entries


def _datasets() -> list[dict[str, Any]]:
    from nasplat.data.datasets import DATASETS
    from nasplat.data.picture_sets import PICTURE_SETS

    return [
        {"name": dataset.name, "summary": dataset.summary, "options": {}, "origin": "built-in"}
        for dataset in (*DATASETS.values(), *PICTURE_SETS.values())
    ]


def described(kind: Kind, name: str) -> dict[str, Any]:
    """What one plug-in is: name, summary, whole description, origin, metrics of a benchmark, and its options.

    `nasplat list KIND NAME` prints this, and the pages of the documentation are written from it.

    Raises:
        InputError: The name is unknown, or the plug-in cannot be loaded.
    """
    registry = REGISTRIES[kind]
    if name in registry.reserved:
        return {"name": name, "summary": registry.reserved[name], "options": []}
    plugin, found = registry.plugin(name), registry.get(name)
    options, about = described_options(found), (inspect.getdoc(found) or "").partition("\nArgs:\n")[0].strip()
    entry = {"name": plugin.name, "summary": about.partition("\n")[0], "about": about, "origin": plugin.origin}
    metrics = tuple(getattr(found, "metrics", ())) if kind is Kind.BENCHMARKS else ()
    measured = {"metrics": list(metrics)} if metrics else {}
    return {**entry, **measured, "options": [asdict(each) for each in options]}


def _describe(kind: Kind, name: str, *, json: bool) -> None:
    """Tell what one plug-in is, and its options.

    Raises:
        InputError: As in `described`.
    """
    if kind is Kind.DATASETS:
        _describe_dataset(name, json=json)
        return
    entry = described(kind, name)
    if json:
        print_json(entry)
        return
    if "about" not in entry:  # a name that stands for others
        out.print(f"[bold]{escape(name)}[/] {escape(entry['summary'])}")
        return
    out.print(f"[bold]{escape(entry['name'])}[/] ({REGISTRIES[kind].kind}, {escape(entry['origin'])})\n")
    for line in entry["about"].splitlines():
        out.print(escape(line))
    out.print()
    if "metrics" in entry:
        out.print(f"metrics: {escape(', '.join(entry['metrics']))}\n")
    if not entry["options"]:
        out.print("no options")
        return
    section, first = SECTIONS[kind], entry["options"][0]
    print_table(
        f"options, as in --set {section}.{first['name']}={first['default']}",
        ["option", "type", "default", "meaning"],
        [(each["name"], each["type"], each["default"], each["meaning"]) for each in entry["options"]],
    )


def _describe_dataset(name: str, *, json: bool) -> None:
    known = {each["name"]: each for each in _datasets()}
    if name not in known:
        raise InputError(unknown("data set", name, known))
    if json:
        print_json(known[name])
    else:
        out.print(f"[bold]{escape(name)}[/] (data set)\n")
        out.print(escape(known[name]["summary"]))
