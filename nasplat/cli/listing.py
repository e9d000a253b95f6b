"""`nasplat list`: what there is by name."""

import inspect
from enum import StrEnum
from typing import Annotated, Any

import typer

from nasplat.cli.output import print_json, print_table
from nasplat.data.datasets import DATASETS
from nasplat.data.picture_sets import PICTURE_SETS
from nasplat.errors import InputError
from nasplat.options import options_model
from nasplat.registry import BENCHMARKS, PREDICTORS, SEARCH_SPACES, STRATEGIES, Registry


class Kind(StrEnum):
    """What can be listed."""

    SEARCH_SPACES = "search-spaces"
    STRATEGIES = "strategies"
    PREDICTORS = "predictors"
    BENCHMARKS = "benchmarks"
    DATASETS = "datasets"


REGISTRIES: dict[Kind, Registry[Any]] = {
    Kind.SEARCH_SPACES: SEARCH_SPACES,
    Kind.STRATEGIES: STRATEGIES,
    Kind.PREDICTORS: PREDICTORS,
    Kind.BENCHMARKS: BENCHMARKS,
}


def list_plugins(
    kind: Annotated[Kind | None, typer.Argument(help="One kind; all without it.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """List search spaces, strategies, predictors, benchmarks and data sets, with their options."""
    listing = {each: _entries(each) for each in ([kind] if kind else list(Kind))}
    if json:
        print_json({each.value: entries for each, entries in listing.items()})
        return
    for each, entries in listing.items():
        measured = each is Kind.BENCHMARKS
        print_table(
            each.value,
            ["name", "what it is", *(["metrics"] if measured else []), "options", "from"],
            (
                [
                    e["name"],
                    e["summary"],
                    *([" ".join(e["metrics"])] if measured else []),
                    _spelt(e["options"]),
                    e["origin"],
                ]
                for e in entries
            ),
        )
        reserved = REGISTRIES[each].reserved if each in REGISTRIES else {}
        for name, meaning in reserved.items():
            typer.echo(f"{name} {meaning}")
        typer.echo("" if entries else "none\n", nl=bool(entries))


def _entries(kind: Kind) -> list[dict[str, Any]]:
    if kind is Kind.DATASETS:
        return [
            {"name": dataset.name, "summary": dataset.summary, "options": {}, "origin": "built-in"}
            for dataset in (*DATASETS.values(), *PICTURE_SETS.values())
        ]
    registry = REGISTRIES[kind]
    entries = []
    for plugin in registry:
        try:
            found = registry.get(plugin.name)
            summary = (inspect.getdoc(found) or "").partition("\n")[0]
            metrics = getattr(found, "metrics", ())
            options = {name: field.default for name, field in options_model(found).model_fields.items()}
        except InputError as error:  # one broken plug-in does not hide the others
            summary, metrics, options = f"BROKEN: {error}", (), {}
        entry = {"name": plugin.name, "summary": summary, "options": options, "origin": plugin.origin}
        if kind is Kind.BENCHMARKS:
            entry["metrics"] = list(metrics)
        entries.append(entry)
    return entries


def _spelt(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())
