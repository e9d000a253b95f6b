"""Options of plug-ins: read from constructors, checked, and completed with their defaults."""

import inspect
import re
import reprlib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from nasplat.errors import InputError, unknown

MOST_PROBLEMS = 10
"""How many problems a message spells out."""

T = TypeVar("T")

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100


class Options(BaseModel):
    """Options that belong together: one option of a constructor, whose parts are set as ``SECTION.GROUP.PART``.

    The docstring of a subclass describes its fields in a section ``Args:``, as that of a plug-in does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def options_model(plugin: type) -> type[BaseModel]:
    """The keyword-only parameters of a plug-in's constructor as a pydantic model.

    Raises:
        InputError: A parameter has no type, or its type cannot be resolved.
    """
    constructor: Any = getattr(plugin, "__init__")  # noqa: B009  mypy: a class's own, not an instance's
    try:
        hints = get_type_hints(constructor, include_extras=True)
        fields: dict[str, Any] = {
            name: (hints[name], ... if parameter.default is inspect.Parameter.empty else parameter.default)
            for name, parameter in inspect.signature(constructor).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
    except (KeyError, NameError, TypeError, ValueError) as error:
        raise InputError(
            f"the options of {plugin.__module__}.{plugin.__qualname__} cannot be read: {error}; "
            "a plug-in's constructor annotates every keyword-only parameter"
        ) from error
    return create_model(
        f"{plugin.__name__}Options",
        __config__=ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False),
        **fields,
    )


def complete(section: str, plugin: type, given: dict[str, Any]) -> dict[str, Any]:
    """The options of a plug-in with all defaults filled in, as JSON values.

    Args:
        section: What messages call the place of the options, such as ``strategy``.
        plugin: The plug-in's class.
        given: Options by name; strings are read as the type that the option has.

    Raises:
        InputError: An option is unknown or of the wrong type.
    """
    return _validated(section, plugin, given).model_dump(mode="json")


def construct(section: str, plugin: type[T], *arguments: Any, **options: Any) -> T:
    """A plug-in made with options as a configuration gives them, groups of options as mappings.

    Args:
        section: What messages call the place of the options, such as ``strategy``.
        plugin: The plug-in's class.
        arguments: What its constructor takes by position.
        options: As in `complete`.

    Raises:
        InputError: An option is unknown or of the wrong type.
    """
    model = _validated(section, plugin, options)
    return plugin(*arguments, **{name: getattr(model, name) for name in type(model).model_fields})


def _validated(section: str, plugin: type, given: Mapping[str, Any]) -> BaseModel:
    model = options_model(plugin)
    try:
        return model.model_validate(grouped(plugin, given, section))
    except ValidationError as error:
        raise InputError(explain(error, section, model)) from None


def grouped(plugin: type, given: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Options with each former name replaced by its place in a group.

    Options that once stood by themselves and now belong to a group keep working by their former names, which the
    plug-in's `former_options` gives.

    Raises:
        InputError: An option is given by both of its names.
    """
    former: Mapping[str, str] = getattr(plugin, "former_options", {})
    found = {name: value for name, value in given.items() if name not in former}
    for name in former.keys() & given.keys():
        group, grouping, part = former[name].partition(".")
        if (part in (given.get(group) or {})) if grouping else group in given:
            place = f"{section}." * bool(section)
            raise InputError(
                f"{place}{name} is the former name of {place}{former[name]}, but both are given; leave one out"
            )
        found = merged(found, nested(former[name], given[name]))
    return found


def nested(path: str, value: Any) -> dict[str, Any]:
    """A value below the names of a dotted path: ``a.b`` and 1 give ``{"a": {"b": 1}}``."""
    for name in reversed(path.split(".")):
        value = {name: value}
    found: dict[str, Any] = value
    return found


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees of options, where the second has the last word; mappings are merged name by name."""
    found = dict(first)
    for name, value in second.items():
        now = found.get(name)
        found[name] = merged(now, value) if isinstance(now, Mapping) and isinstance(value, Mapping) else value
    return found


def defaults(plugin: type) -> dict[str, Any]:
    """The default of each option, groups as mappings; None for an option that has none."""
    found: dict[str, Any] = {}
    for name, field in options_model(plugin).model_fields.items():
        default = None if field.is_required() else field.default
        found[name] = default.model_dump(mode="json") if isinstance(default, BaseModel) else default
    return found


def option_names(plugin: type) -> list[str]:
    """The names of a plug-in's options, those in groups as ``GROUP.PART``."""
    return [name for name, _, _ in _fields(options_model(plugin))]


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, type[BaseModel]]]:
    """Dotted name, field and model of every option, of groups their parts."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Options):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field, model


@dataclass(frozen=True, slots=True)
class Option:
    """An option as a person reads of it.

    Args:
        name: As in ``--set SECTION.NAME=VALUE``.
        type: What it may be, such as ``int >= 1`` or ``sgd | adam``.
        default: Its value if nothing is said; None is spelt ``none``.
        meaning: From the docstring of the plug-in; empty if it says nothing.
    """

    name: str
    type: str
    default: str
    meaning: str


def described_options(plugin: type) -> list[Option]:
    """The options of a plug-in in the order of its constructor, with what its docstring says of each.

    Raises:
        InputError: As in `options_model`.
    """
    own = options_model(plugin)
    found = []
    for name, field, model in _fields(own):
        meanings: dict[str, str] = {}
        for each in reversed((plugin if model is own else model).__mro__):
            meanings |= described_arguments(each.__doc__ or "")
        kind = _type(field.annotation, field.metadata)
        found.append(Option(name, kind, _spelt(field.default), meanings.get(name.rpartition(".")[2], "")))
    return found


def described_arguments(docstring: str) -> dict[str, str]:
    """What the section ``Args:`` of a docstring says, by argument, each on one line."""
    _, _, section = inspect.cleandoc(docstring).partition("\nArgs:\n")
    section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]  # the next section is not indented
    parts = re.split(r"^ {4}(\w+): ", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(said.split()) for name, said in zip(parts[::2], parts[1::2], strict=True)}


def _type(annotation: Any, constraints: list[Any]) -> str:
    """A type as people write it: ``int >= 1``, ``sgd | adam``, ``text, or none``."""
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [each for each in get_args(annotation) if each is not type(None)]
        text = " | ".join(_type(each, []) for each in inner)
        return text + _bounds(constraints) + ", or none" * (type(None) in get_args(annotation))
    if hasattr(annotation, "__metadata__"):
        return _type(annotation.__origin__, [*annotation.__metadata__, *constraints])
    if get_origin(annotation) is not None:
        inside = [_type(each, []) for each in get_args(annotation) if each is not Ellipsis]
        outside = str(get_origin(annotation).__name__)
        kind = {"tuple": "list", "Sequence": "list", "Mapping": "mapping", "dict": "mapping"}.get(outside, outside)
        return f"{kind} of {' to '.join(inside)}"
    named = {"str": "text", "bool": "true | false", "Any": "any"}
    name = str(getattr(annotation, "__name__", annotation))
    return named.get(name, name) + _bounds(constraints)


def _bounds(constraints: list[Any]) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = []
    for constraint in constraints:
        for each in getattr(constraint, "metadata", [constraint]):  # a `Field` has several
            found += [f" {sign} {getattr(each, name):g}" for name, sign in signs.items() if hasattr(each, name)]
    return ",".join(found)


def _spelt(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case list() | tuple():
            return f"[{', '.join(map(_spelt, value))}]"
    return str(value)


def explain(error: ValidationError, section: str, model: type[BaseModel]) -> str:
    """One line for everything that a validation found wrong, with near matches of unknown names."""
    problems = error.errors()
    said = [_explain_one(dict(problem), section, model) for problem in problems[:MOST_PROBLEMS]]
    return "; ".join(said + [f"and {len(problems) - len(said)} more"] * (len(problems) > len(said)))


def _explain_one(problem: dict[str, Any], section: str, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in ((section,) if section else ()) + tuple(problem["loc"]))
    if problem["type"] == "extra_forbidden":
        fields = _fields_at(model, problem["loc"][:-1])
        owner = ".".join(str(part) for part in ((section,) if section else ()) + tuple(problem["loc"][:-1]))
        kind = f"option of {owner or 'the configuration'}"
        return unknown(kind, str(problem["loc"][-1]), fields)
    if problem["type"] == "missing":
        return f"{place} is missing; it has no default"
    message = str(problem["msg"])
    if problem["type"] == "value_error":  # a rule of our own, which says all there is to say
        return f"{place}: {message.removeprefix('Value error, ')}"
    return f"{place}: {message[:1].lower()}{message[1:]}, but got {shortly(problem['input'])}"


def shortly(value: Any) -> str:
    """A value as messages give it: what is long, or deep, is cut."""
    text = _REPR.repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return list(model.model_fields)
