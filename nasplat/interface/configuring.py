"""The configuration of a search as a tree of plain values, from a file, from arguments, or from both."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasplat.config import SearchConfig, load_tree, yaml_value
from nasplat.errors import InputError
from nasplat.interface.adoption import adopt
from nasplat.interface.sections import REGISTRIES
from nasplat.options import grouped, merged, nested, shortly
from nasplat.registry import AUTO, JOINED
from nasplat.retraining import RETRAINING

SECTIONS = (*REGISTRIES, "transform", "executor", "stopping", "budget")
"""The sections of a configuration that have options."""


def configured(
    config: Path | None = None,
    *,
    plugins: Mapping[str, Any],
    transform: Any = None,
    objectives: Sequence[str] | None = None,
    constraints: Sequence[str] | None = None,
    budget: Mapping[str, Any] | None = None,
    seed: int | None = None,
    executor: str | None = None,
    placing: Mapping[str, Any] | None = None,
    assignments: Sequence[tuple[str, Any]] = (),
) -> SearchConfig:
    """The configuration of a search. None means that a value is not given; it is then that of the file, or the default.

    Args:
        config: A YAML file; everything else overrides it.
        plugins: Space, benchmark and strategy by section, each in a form that `adopt` takes.
        transform: The name of a transform of the space, several names, or a mapping with `name` and options.
        objectives: ``METRIC:max`` or ``METRIC:min``.
        constraints: ``METRIC<=NUMBER`` or ``METRIC>=NUMBER``.
        budget: The limits of the budget.
        seed: The random seed.
        executor: ``inline`` or ``ray``.
        placing: The options of the executor.
        assignments: Further options, as pairs of ``SECTION.OPTION`` and value.

    Raises:
        InputError: Something is missing, unknown, of the wrong type, or given twice with different values.
    """
    tree = load_tree(config) if config else {}
    if plugins.get("strategy") is not None:  # who names a strategy wants a search, whatever the file is of
        tree["kind"] = "search"
    for section in REGISTRIES:
        name = (tree.get(section) or {}).get("name") if isinstance(tree.get(section), dict) else tree.get(section)
        if plugins.get(section) is not None:
            choose(tree, section, plugins[section])
        elif isinstance(name, str) and ":" in name:  # the file is the user's own
            adopt(section, name)
    if transform:
        rewrite(tree, transform)
    if executor is not None:
        place(tree, executor)
    for key, values in (("objectives", objectives), ("constraints", constraints)):
        if values:
            tree[key] = [values] if isinstance(values, str) else list(values)
    if seed is not None:
        tree["seed"] = seed
    merge(tree, "budget", budget or {})
    merge(tree, "executor", placing or {})
    for path, value in assignments:
        assign(tree, path, value)
        if path == "strategy.name":
            tree["kind"] = "search"  # as above
    check_given_once(
        tree,
        [
            *((section, given) for section, given in plugins.items() if isinstance(given, Mapping)),
            ("budget", budget or {}),
            ("executor", {"name": executor, **(placing or {})}),
        ],
        assignments,
    )
    tree.setdefault("strategy", RETRAINING if tree.get("kind") == RETRAINING else AUTO)
    if missing := [key for key in ("space", "benchmark", "objectives") if key not in tree]:
        raise InputError(
            f"a search needs {', '.join(missing)}; for example: nasplat search --space nasbench201 --benchmark "
            "classification --objective accuracy:max --evaluations 20, or from Python nasplat.search("
            'space="nasbench201", benchmark="classification", objectives=["accuracy:max"], evaluations=20)'
        )
    read = SearchConfig.read(tree)
    for each in read.goal.objectives:
        each.check_direction()
    return read


def choose(tree: dict[str, Any], section: str, plugin: Any) -> None:
    """Set the plug-in of a section. Options from a file are kept only if the file names the same plug-in."""
    name, options = adopt(section, plugin)
    now = tree.get(section)
    kept = now if isinstance(now, dict) and now.get("name") == name else {}
    tree[section] = {**kept, "name": name}
    enter(tree, section, options)


def rewrite(tree: dict[str, Any], transform: Any) -> None:
    """Set the transforms of the space. Options from a file are kept only if the file names the same transforms."""
    given = dict(transform) if isinstance(transform, Mapping) else {"name": transform}
    names = given.pop("name", None)
    if names is not None:
        name = names if isinstance(names, str) else JOINED.join(names)
        now = tree.get("transform")
        tree["transform"] = {**(now if isinstance(now, dict) and now.get("name") == name else {}), "name": name}
    enter(tree, "transform", given)


def place(tree: dict[str, Any], executor: str) -> None:
    """Set the executor. Options from a file are kept for workers, and dropped for the inline executor."""
    now = tree.get("executor")
    tree["executor"] = (
        {**now, "name": executor} if isinstance(now, dict) and executor != "inline" else {"name": executor}
    )


def merge(tree: dict[str, Any], section: str, given: Mapping[str, Any]) -> None:
    """Enter the given values into a section. None means that a value was not given."""
    enter(tree, section, {key: value for key, value in given.items() if value is not None})


def enter(tree: dict[str, Any], section: str, values: Mapping[str, Any]) -> None:
    """Enter values into a section. None is a value like any other."""
    if values:
        tree[section] = merged(_section(tree, section), _grouped(tree, section, values))


def parsed(assignment: str) -> tuple[str, Any]:
    """Read ``SECTION.OPTION=VALUE``, or ``SECTION.GROUP.OPTION=VALUE``; the value is YAML, or else text.

    Raises:
        InputError: The assignment has another form.
    """
    path, equals, text = assignment.partition("=")
    _check_no_seed(path)
    if not equals or not _names_an_option(path):
        raise InputError(f"--set takes SECTION.OPTION=VALUE, such as strategy.population=50, but got {assignment!r}")
    try:
        return path, yaml_value(text)
    except ValueError:
        return path, text


def _check_no_seed(path: str) -> None:
    if path == "seed":
        raise InputError(
            f"the seed is of the whole run, and no option of a section, but got {path}; give --seed (seed=…)"
        )


def _names_an_option(path: str) -> bool:
    section, _, option = path.partition(".")
    return bool(section) and all(option.split("."))


def assign(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set one option ``SECTION.OPTION``, or ``SECTION.GROUP.OPTION``.

    Raises:
        InputError: The path has another form, or names no section.
    """
    section, _, option = path.partition(".")
    _check_no_seed(path)
    if not _names_an_option(path):
        raise InputError(f"the name of an option is SECTION.OPTION, such as strategy.population, but got {path!r}")
    if section not in SECTIONS:
        raise InputError(
            f"{path}: no section is named {section!r}; there are {', '.join(SECTIONS[:-1])} and {SECTIONS[-1]}"
        )
    changed = _grouped(tree, section, nested(option, value))
    if option in changed:  # a mapping replaces the old value and is not merged with it
        tree[section] = {**_section(tree, section), option: value}
    else:
        tree[section] = merged(_section(tree, section), changed)


def check_given_once(
    tree: Mapping[str, Any], given: Iterable[tuple[str, Mapping[str, Any]]], assignments: Iterable[tuple[str, Any]]
) -> None:
    """Check that no assignment says another value than an argument. Of two assignments, the last one counts.

    Args:
        tree: The configuration, which has the plug-ins' names.
        given: Sections and the arguments for them. None means that one was not given.
        assignments: Pairs of ``SECTION.OPTION`` and value.

    Raises:
        InputError: One does; the message has both values.
    """

    def said(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return dict(_leaves(section, _grouped(tree, section, values)))

    arguments: dict[str, Any] = {}
    for section, values in given:
        arguments |= said(section, {name: value for name, value in values.items() if value is not None})
    for path, value in assignments:
        section, _, option = path.partition(".")
        for name, assigned in said(section, nested(option, value)).items():
            if name in arguments and arguments[name] != assigned:
                raise InputError(
                    f"{name} is given twice, as {shortly(arguments[name])} and as {shortly(assigned)}; leave one out"
                )


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values below a path, by their own paths."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(f"{path}.{name}", each)
    else:
        yield path, value


def _grouped(tree: Mapping[str, Any], section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for a section, with former names of options replaced if the section's plug-in is known."""
    name = tree[section].get("name") if isinstance(tree.get(section), dict) else tree.get(section)
    registry = REGISTRIES.get(section)
    if registry is None or not isinstance(name, str) or name not in registry:
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
