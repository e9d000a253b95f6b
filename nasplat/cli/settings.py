"""Flags that set what a configuration file could, shared by the commands that search."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

import typer

from nasplat.config import yaml_value
from nasplat.errors import InputError
from nasplat.options import grouped, merged, nested, shortly
from nasplat.registry import BENCHMARKS, SEARCH_SPACES, STRATEGIES, Registry

AcceptChangedData: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--accept-changed-data",
        help="Go on although the data has changed since the run was created: images that are still there keep their "
        "part, new ones are for training alone. The run records the change.",
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
ExecutorName: TypeAlias = Annotated[
    str | None, typer.Option("--executor", help="inline or ray. Default: inline.", show_default=False)
]
Workers: TypeAlias = Annotated[int | None, typer.Option(help="Ray workers. Default: 1.", show_default=False)]
CpusPerWorker: TypeAlias = Annotated[
    float | None, typer.Option(help="CPUs for each worker. Default: 1.", show_default=False)
]
GpusPerWorker: TypeAlias = Annotated[
    float | None, typer.Option(help="GPUs for each worker, such as 0.5. Default: 0.", show_default=False)
]
RayAddress: TypeAlias = Annotated[
    str | None, typer.Option(help="An existing Ray cluster: auto or HOST:PORT.", show_default=False)
]
TrustRun: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--trust-run",
        help="Connect to the Ray cluster, and write into the folders, that the run itself names or links to.",
    ),
]
Retries: TypeAlias = Annotated[
    int | None, typer.Option(help="Ray: retries of a trial after a worker failure. Default: 2.", show_default=False)
]
TrialSeconds: TypeAlias = Annotated[
    float | None,
    typer.Option(help="Ray: time limit of a trial in seconds; after it, the trial fails.", show_default=False),
]
Set: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="An option, as in strategy.population=50 or benchmark.recipe.ema=.99; repeatable.",
        show_default=False,
    ),
]


class EngineName(StrEnum):
    """What may run networks that are timed."""

    TORCH = "torch"
    ONNXRUNTIME = "onnxruntime"


REGISTRIES: dict[str, Registry[Any]] = {"space": SEARCH_SPACES, "benchmark": BENCHMARKS, "strategy": STRATEGIES}
"""The sections of a configuration that name a plug-in."""


def choose(tree: dict[str, Any], section: str, name: str) -> None:
    """Set the plug-in of a section. Options from a file are kept only if the file names the same plug-in."""
    now = tree.get(section)
    if section == "executor" and name == "inline":
        now = None  # a file's options for workers no longer apply
    if isinstance(now, dict) and (now.get("name") == name or section == "executor"):
        tree[section] = {**now, "name": name}
    else:
        tree[section] = {"name": name}


def merge(tree: dict[str, Any], section: str, flags: Mapping[str, Any]) -> None:
    """Enter the given flags into a section. None means that a flag was not given."""
    enter(tree, section, {key: value for key, value in flags.items() if value is not None})


def enter(tree: dict[str, Any], section: str, values: Mapping[str, Any]) -> None:
    """Enter values into a section. None is a value like any other."""
    if values:
        tree[section] = merged(_section(tree, section), _grouped(tree, section, values))


def assign(tree: dict[str, Any], assignment: str) -> None:
    """Carry out one ``--set section.option=value``, or ``section.group.option=value``.

    Raises:
        InputError: The assignment has another form, or names no section.
    """
    path, equals, text = assignment.partition("=")
    section, dot, option = path.partition(".")
    if not (equals and dot and section and all(option.split("."))):
        raise InputError(f"--set takes SECTION.OPTION=VALUE, such as strategy.population=50, but got {assignment!r}")
    if section not in ("space", "benchmark", "strategy", "executor", "budget"):
        raise InputError(
            f"--set {assignment}: no section is named {section!r}; there are space, benchmark, strategy, "
            "executor and budget"
        )
    try:
        value = yaml_value(text)
    except ValueError:
        value = text
    changed = _grouped(tree, section, nested(option, value))
    if option in changed:  # a mapping replaces the old value and is not merged with it
        tree[section] = {**_section(tree, section), option: value}
    else:
        tree[section] = merged(_section(tree, section), changed)


def _grouped(tree: Mapping[str, Any], section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for a section, with former names of options replaced if the section's plug-in is known."""
    name = tree[section].get("name") if isinstance(tree.get(section), dict) else tree.get(section)
    registry = REGISTRIES.get(section)
    if registry is None or name not in registry.names():
        return dict(values)
    return grouped(registry.get(name), values, section)


def _section(tree: Mapping[str, Any], section: str) -> dict[str, Any]:
    """A section of the configuration as a mapping. A bare name means the plug-in without options."""
    now = tree.get(section, {})
    if isinstance(now, str):
        return {"name": now}
    if not isinstance(now, dict):
        raise InputError(f"{section} must be a mapping or a plug-in's name, but the configuration has {shortly(now)}")
    return _grouped(tree, section, now)
