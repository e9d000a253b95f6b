"""The configuration of a search: one schema for files and flags, resolved before anything is created."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nasplat.benchmark import Benchmark
from nasplat.errors import InputError
from nasplat.objective import Constraint, Goal, Objective
from nasplat.options import complete, construct, grouped, merged, shortly, validated
from nasplat.registry import BENCHMARKS, JOINED, SEARCH_SPACES, STRATEGIES, TRANSFORMS, Registry
from nasplat.retraining import RETRAINING, Retraining
from nasplat.search_space import SearchSpace
from nasplat.storage.files import read_file
from nasplat.strategy import Strategy
from nasplat.task import MOST_ASKED

LARGEST = 100_000
"""Maximum size of a configuration file in bytes; a long one has a thousand."""
MOST_VALUES = 10_000
"""Maximum number of values in a configuration file, each counted as often as aliases repeat it."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class PluginConfig(BaseModel):
    """A plug-in by name; everything else is an option of its constructor."""

    model_config = ConfigDict(extra="allow")

    name: str

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class BudgetConfig(_Section):
    """The limits of `nasplat.driver.budget.Budget`."""

    evaluations: int | None = None
    seconds: float | None = None
    images: int | None = None
    device_seconds: float | None = None


class StoppingConfig(_Section):
    """When trials end before their time, by what they report while they train: `nasplat.driver.stopping`."""

    rule: Literal["none", "median"] = "none"
    startup_trials: int = Field(default=5, ge=1)
    warmup_epochs: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _bare_rule(cls, value: Any) -> Any:
        return {"rule": value} if isinstance(value, str) else value


class ExecutorConfig(_Section):
    """Where tasks run."""

    name: Literal["inline", "ray"] = "inline"
    workers: int = Field(default=1, ge=1, le=MOST_ASKED)
    cpus_per_worker: float = Field(default=1.0, gt=0)
    gpus_per_worker: float = Field(default=0.0, ge=0)
    address: str | None = None
    retries: int = Field(default=2, ge=0)
    trial_seconds: float | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _inline_is_one_process(self) -> Self:
        given = [
            name for name in type(self).model_fields if getattr(self, name) != type(self).model_fields[name].default
        ]
        if self.name == "inline" and given:
            raise ValueError(f"{', '.join(given)} belongs to the ray executor; add --executor ray (executor='ray')")
        return self


@dataclass(frozen=True, slots=True)
class Workload:
    """A benchmark on a search space, by names and options: all that a worker knows about them.

    Args:
        space: The registered name of the search space.
        benchmark: The registered name of the benchmark.
        space_options: Arguments of the space's constructor, JSON values.
        benchmark_options: Arguments of the benchmark's constructor, JSON values.
        data: What the run recorded of its data; None in a run without a record.
        adopted: The classes of space and benchmark that are no installed plug-ins but the user's own, by name; workers
            are sent them.
    """

    space: str
    benchmark: str
    space_options: dict[str, Any] = field(default_factory=dict)
    benchmark_options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    adopted: dict[str, type] = field(default_factory=dict)

    def offline(self) -> Self:
        """The same workload, but nothing is downloaded."""
        return replace(self, benchmark_options=_offline(self.benchmark_options))

    def make(self) -> Benchmark:
        """Make the benchmark; it is not yet prepared."""
        below, *transforms = self.space.split(JOINED)
        space_class: type[SearchSpace] = self.adopted.get(below) or SEARCH_SPACES.get(below)
        if transforms:
            space_class = SEARCH_SPACES.transformed(space_class, transforms)
        space: SearchSpace = construct("space", space_class, **self.space_options)
        benchmark_class: type[Benchmark] = self.adopted.get(self.benchmark) or BENCHMARKS.get(self.benchmark)
        benchmark: Benchmark = construct("benchmark", benchmark_class, space, **self.benchmark_options)
        benchmark.recorded = self.data
        return benchmark


class SearchConfig(_Section):
    """Everything that defines a run: a search or a retraining. The same file gives the same run."""

    kind: Literal["search", "retraining"] = "search"
    """What the run is. A retraining has its schedule in place of a strategy, under the name `retraining`."""

    space: PluginConfig
    benchmark: PluginConfig
    strategy: PluginConfig
    objectives: list[str] = Field(min_length=1)
    constraints: list[str] = []
    budget: BudgetConfig = BudgetConfig()
    stopping: StoppingConfig = StoppingConfig()
    seed: int = Field(default=0, ge=0)
    executor: ExecutorConfig = ExecutorConfig()

    @model_validator(mode="before")
    @classmethod
    def _kind_of_earlier_versions(cls, tree: Any) -> Any:
        """Earlier versions knew a retraining by the name of its strategy."""
        if not isinstance(tree, Mapping) or "kind" in tree:
            return tree
        strategy = tree.get("strategy")
        named = strategy.get("name") if isinstance(strategy, Mapping) else strategy
        return {**tree, "kind": RETRAINING} if named == RETRAINING else tree

    @model_validator(mode="after")
    def _retraining_has_no_strategy(self) -> Self:
        if self.kind == RETRAINING and self.strategy.name != RETRAINING:
            raise ValueError(
                f"a {RETRAINING} has no strategy, but got {self.strategy.name}; leave out strategy or kind"
            )
        return self

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> Self:
        """Validate a tree of plain values from a file or from flags.

        Raises:
            InputError: A key is unknown or missing, or a value is of the wrong type.
        """
        return validated(cls, with_transform(tree))

    def resolved(self) -> "SearchConfig":
        """The same configuration with every option of every plug-in, and with the space's own hard constraints.

        The strategy `auto` stays `auto`: `Assembly.of` chooses the strategy.

        Raises:
            InputError: A plug-in is unknown, one of its options is unknown or of the wrong type, or `auto` has options.
        """

        def spelt(section: str, found: type[Any], plugin: PluginConfig) -> PluginConfig:
            return PluginConfig(name=plugin.name, **complete(section, found, plugin.options))

        space = SEARCH_SPACES.get(self.space.name)
        bounded = {(constraint.metric, constraint.upper) for constraint in self.goal.constraints}
        limits = [text for text in space.limits if side_of(text) not in bounded]
        update: dict[str, Any] = {
            "constraints": [*self.constraints, *limits],
            "space": spelt("space", space, self.space),
            "benchmark": spelt("benchmark", BENCHMARKS.get(self.benchmark.name), self.benchmark),
        }
        if self.strategy.name in STRATEGIES.reserved:
            _check_without_options("strategy", self.strategy)
        else:
            update["strategy"] = spelt("strategy", self.strategy_class, self.strategy)
        return self.model_copy(update=update)

    @property
    def strategy_class(self) -> type[Strategy]:
        """The class that asks for the tasks: that of the strategy, or the schedule of a retraining.

        Raises:
            InputError: The strategy is unknown or cannot be loaded.
        """
        return Retraining if self.kind == RETRAINING else STRATEGIES.get(self.strategy.name)

    def offline(self) -> "SearchConfig":
        """The same configuration, but the benchmark downloads nothing."""
        name, options = self.benchmark.name, self.benchmark.options
        if name in BENCHMARKS:  # an option may have a former name, outside of its group
            options = grouped(BENCHMARKS.get(name), options)
        return self.model_copy(update={"benchmark": PluginConfig(name=name, **_offline(options))})

    @property
    def goal(self) -> Goal:
        """Parse the objectives and constraints.

        Raises:
            InputError: An objective or constraint has the wrong form.
        """
        return Goal(
            tuple(Objective.parse(text) for text in self.objectives),
            tuple(Constraint.parse(text) for text in self.constraints),
        )

    @property
    def workload(self) -> Workload:
        """The benchmark on the search space, in the form that is sent to workers."""
        named: dict[str, Registry[Any]] = {self.space.name: SEARCH_SPACES, self.benchmark.name: BENCHMARKS}
        adopted = {
            name.partition(JOINED)[0]: found
            for name, registry in named.items()
            if (found := registry.adopted(name)) is not None
        }
        return Workload(
            self.space.name, self.benchmark.name, self.space.options, self.benchmark.options, adopted=adopted
        )

    def to_yaml(self) -> str:
        """The configuration as a file that `load_tree` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def with_transform(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with its section ``transform`` as a part of the section ``space``.

    The name of the space then ends with those of the transforms, and the space has their options as ``transform``.

    Raises:
        InputError: The section names no transform, and the space has none; or there is no space.
    """
    found = dict(tree)
    given = found.pop("transform", None)
    if given is None:
        return found
    options = {"name": given} if isinstance(given, str | list) else given
    space = found.get("space")
    space = {"name": space} if isinstance(space, str) else space
    names = options.get("name", []) if isinstance(options, Mapping) else None
    names = names.split(JOINED) if isinstance(names, str) else names
    beside = space.get("transform") if isinstance(space, Mapping) else None
    if not (
        isinstance(options, Mapping)
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and isinstance(space, Mapping)
        and isinstance(space.get("name"), str)
        and isinstance(beside, Mapping | None)
    ):
        raise InputError(
            "transform must be the name of a transform, or a mapping with its name and options, beside a space, but "
            f"got {shortly(given)} for {shortly(found.get('space'))}"
        )
    options = {option: value for option, value in options.items() if option != "name"}
    for name in names:
        TRANSFORMS.plugin(name)
    name = JOINED.join([space["name"], *names])
    if JOINED not in name:
        raise InputError(
            f"transform.{next(iter(options), 'name')} is an option of a transform, but none is named; add --transform "
            f"NAME (transform='NAME'), one of {', '.join(TRANSFORMS.names())}"
        )
    inner = merged(beside or {}, options)
    found["space"] = {**space, "name": name, **({"transform": inner} if inner else {})}
    return found


def _check_without_options(section: str, plugin: PluginConfig) -> None:
    """Refuse options of a strategy that is not chosen yet."""
    if plugin.options:
        given = ", ".join(f"{section}.{option}" for option in plugin.options)
        raise InputError(
            f"{plugin.name} chooses the {section} and its options, but got {given}; "
            f"name a {section} (nasplat list), or leave the options out"
        )


def recorded_strategy(name: str) -> type[Strategy]:
    """The class of a strategy that a run had; a retraining has its schedule under the name `retraining`.

    Raises:
        InputError: The strategy is unknown or cannot be loaded.
    """
    return Retraining if name == RETRAINING else STRATEGIES.get(name)


def side_of(constraint: str) -> tuple[str, bool]:
    """The metric of a constraint, and whether it bounds it from above."""
    parsed = Constraint.parse(constraint)
    return parsed.metric, parsed.upper


def _offline(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a benchmark, by their names of today, without the permission to download."""
    data = options.get("data")
    if isinstance(data, Mapping) and data.get("download"):
        return {**options, "data": {**data, "download": False}}
    return dict(options)


def load_tree(path: Path) -> dict[str, Any]:
    """Read the plain values of a configuration, a YAML file.

    Raises:
        InputError: The file is missing, or is not a YAML mapping.
    """
    return _mapping(path, "configuration", _read_yaml(path, "configuration"))


def load_recipe(path: Path) -> dict[str, Any]:
    """Read the options of a recipe, a YAML file; an empty file gives no options.

    Raises:
        InputError: The file is missing, or is not a YAML mapping.
    """
    tree = _read_yaml(path, "recipe")
    return {} if tree is None else _mapping(path, "recipe", tree)


def _mapping(path: Path, what: str, tree: Any) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise InputError(f"the {what} {path} must contain a mapping, but contains {type(tree).__name__}")
    return tree


def _read_yaml(path: Path, what: str) -> Any:
    """Read the value of a YAML file; messages call the file `what`."""
    try:
        content = read_file(path, LARGEST)
    except OSError as error:
        raise InputError(f"the {what} {path} cannot be read: {error.strerror}") from error
    try:
        return yaml_value(content.decode())
    except ValueError as error:
        raise InputError(f"the {what} {path} is not YAML: {' '.join(str(error).split())}") from error


class _Loader(yaml.SafeLoader):
    """YAML without what surprises: `no` is a text, and so are `014`, `0x1f`, `1_000`, `12:30` and dates.

    The first version of YAML reads them as false, and as numbers of base 8, 16, 10 and 60; but architectures have codes
    such as 014, and choices names such as no. Options take a text as a truth value or a number where they have one.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  as in its base class


for _tag, _form, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"0|-?[1-9][0-9]*", "-0123456789"),
    # As written by the library itself, so that a text that it does not quote is read as a text.
    ("float", r"[-+]?[0-9]+\.[0-9]*([eE][-+][0-9]+)?|\.[0-9]+([eE][-+][0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_form})$"), list(_first))


def yaml_value(text: str) -> Any:
    """Read the value of a YAML document. Its size is limited with every alias counted as a copy.

    Raises:
        ValueError: The text is not YAML, or is larger than a configuration can be.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
        if root is None:
            return None
        _check_size(root)
        return yaml.constructor.SafeConstructor().construct_document(root)
    except RecursionError as error:
        raise ValueError("it is nested too deeply; a few levels are enough") from error
    # A tag requests a conversion, such as !!timestamp, which can raise any exception for an unsuitable text.
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(str(error)) from error


def _check_size(root: yaml.Node) -> None:
    count, waiting = 0, [root]
    while waiting:
        node = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} values, with every alias a copy; a few are enough")
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
