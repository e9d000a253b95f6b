"""Options of plug-ins: read from constructors, validated, and completed with their defaults."""

import inspect
import re
import reprlib
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticSchemaGenerationError, ValidationError, create_model
from pydantic.fields import FieldInfo

from nasplat.errors import InputError, unknown

MOST_PROBLEMS = 10
"""Maximum number of problems that a message lists."""

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100


class Options(BaseModel):
    """A group of options: one option of a constructor, whose parts are set as ``SECTION.GROUP.PART``.

    The docstring of a subclass describes its fields in a section ``Args:``, like the docstring of a plug-in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


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
            "the constructor of a plug-in must annotate every keyword-only parameter"
        ) from error
    config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False, coerce_numbers_to_str=True)
    try:
        return create_model(f"{plugin.__name__}Options", __config__=config, **fields)
    except PydanticSchemaGenerationError as error:
        raise InputError(
            f"the options of {plugin.__module__}.{plugin.__qualname__} cannot be read: "
            f"{str(error).partition('. ')[0].removeprefix('Unable to generate pydantic-core schema for ')} is no type "
            "of options; use int, str, list[float] or the like, or a subclass of nasplat.options.Options"
        ) from None


def complete(section: str, plugin: type, given: dict[str, Any]) -> dict[str, Any]:
    """The options of a plug-in with all defaults filled in, as JSON values.

    Args:
        section: The section of the options in messages, such as ``strategy``.
        plugin: The plug-in's class.
        given: Options by name; strings are converted to the type of the option.

    Raises:
        InputError: An option is unknown or of the wrong type.
    """
    return _validated(section, plugin, given).model_dump(mode="json")


def construct(section: str, plugin: type[T], /, *arguments: Any, **options: Any) -> T:
    """Make a plug-in with options in the form of a configuration; groups of options are mappings.

    Args:
        section: The section of the options in messages, such as ``strategy``.
        plugin: The plug-in's class.
        arguments: Positional arguments of its constructor.
        options: As in `complete`.

    Raises:
        InputError: An option is unknown or of the wrong type.
    """
    model = _validated(section, plugin, options)
    return plugin(*arguments, **{name: getattr(model, name) for name in type(model).model_fields})


def _validated(section: str, plugin: type, given: Mapping[str, Any]) -> BaseModel:
    return validated(options_model(plugin), grouped(plugin, given, section), section)


def validated(model: type[Model], given: Mapping[str, Any], section: str = "") -> Model:
    """A model of plain values, each read by the type of its field.

    Texts of digits are numbers where a number is expected, and whole numbers are texts where a text is. A truth value
    is no number, and a number with a point no text, since its spelling is lost.

    Raises:
        InputError: A name is unknown or missing, or a value is of the wrong type.
    """
    try:
        made = model.model_validate(dict(given))
    except ValidationError as error:
        raise InputError(explain(error, section, model)) from None
    for place, value, read in _values(given, made):
        path = ".".join(filter(None, (section, place)))
        if isinstance(value, bool) and isinstance(read, int | float) and not isinstance(read, bool):
            raise InputError(f"{path} must be a number, but got {str(value).lower()}; give a number")
        if isinstance(value, float) and isinstance(read, str):
            raise InputError(f"{path} must be a text, but got the number {value}; put it in quotes")
    return made


def _values(given: Any, made: Any) -> Iterator[tuple[str, Any, Any]]:
    """Place, value and what it was read as, of all single values; a place is names and numbers, joined by dots."""
    pairs: Iterable[tuple[str, Any, Any]] = ()
    if isinstance(given, Mapping):
        if isinstance(made, Mapping):  # its names may have been converted too, but they keep their order
            pairs = ((str(name), given[name], read) for name, read in zip(given, made.values(), strict=False))
        else:
            inner = dict(made) if isinstance(made, BaseModel) else vars(made) if hasattr(made, "__dict__") else {}
            pairs = ((str(name), value, inner.get(name)) for name, value in given.items())
    elif isinstance(made, Set):
        pairs = ((str(i), value, _element_for(made, value)) for i, value in enumerate(given))
    elif isinstance(made, Collection):
        pairs = ((str(i), *each) for i, each in enumerate(zip(given, made, strict=False)))
    for name, value, read in pairs:
        if isinstance(value, Mapping | list | tuple | Set):
            yield from ((f"{name}.{place}", *each) for place, *each in _values(value, read))
        else:
            yield name, value, read


def _element_for(made: Set[Any], value: Any) -> Any:
    """The element of a set that a value was read as; sets have no order. None if it cannot be told."""
    value = tuple(value) if isinstance(value, list) else value
    alike = [element for element in made if element == value or element == str(value)]
    return next((element for element in alike if type(element) is type(value)), alike[0] if alike else None)


def grouped(plugin: type, given: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Replace each former name of an option by its name of today, which may be in a group.

    A renamed option still works under its former name. The plug-in's `former_options` has the former names.

    Raises:
        InputError: An option is given under both of its names.
    """
    former: Mapping[str, str] = getattr(plugin, "former_options", {})
    found = {name: value for name, value in given.items() if name not in former}
    for name in sorted(former.keys() & given.keys()):
        group, grouping, part = former[name].partition(".")
        beside = given.get(group, {})
        # What is no mapping cannot be added to.
        if part in beside if grouping and isinstance(beside, Mapping) else group in given:
            place = f"{section}." * bool(section)
            raise InputError(
                f"{place}{name} is the former name of {place}{former[name]}, but both are given; leave one out"
            )
        found = merged(found, nested(former[name], given[name]))
    return found


def nested(path: str, value: Any) -> dict[str, Any]:
    """Nest a value under the names of a dotted path: ``a.b`` and 1 give ``{"a": {"b": 1}}``."""
    for name in reversed(path.split(".")):
        value = {name: value}
    found: dict[str, Any] = value
    return found


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees of options, name by name; values of the second override those of the first.

    Raises:
        InputError: A value of the first stands where the second has a mapping.
    """
    found = dict(first)
    for name, value in second.items():
        now = found.get(name)
        if isinstance(value, Mapping) and now is not None:
            if not isinstance(now, Mapping):
                raise InputError(
                    f"{name} is a group of options and must be a mapping, but got {shortly(now)}; leave that value out"
                )
            value = merged(now, value)
        found[name] = value
    return found


def defaults(plugin: type) -> dict[str, Any]:
    """The default of each option, groups as mappings; None for an option without a default."""
    found: dict[str, Any] = {}
    for name, field in options_model(plugin).model_fields.items():
        default = None if field.is_required() else field.default
        found[name] = default.model_dump(mode="json") if isinstance(default, BaseModel) else default
    return found


def option_names(plugin: type) -> list[str]:
    """The names of a plug-in's options; options in groups are ``GROUP.PART``."""
    return [name for name, _, _ in _fields(options_model(plugin))]


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, type[BaseModel]]]:
    """Dotted name, field and model of every option; for groups, those of their parts."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Options):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field, model


@dataclass(frozen=True, slots=True)
class Option:
    """An option in human-readable form.

    Args:
        name: The name, as in ``--set SECTION.NAME=VALUE``.
        type: The type or the allowed values, such as ``int >= 1`` or ``sgd | adam``.
        default: The default value; None is shown as ``none``.
        meaning: The description in the plug-in's docstring; empty if there is none.
    """

    name: str
    type: str
    default: str
    meaning: str


def described_options(plugin: type) -> list[Option]:
    """The options of a plug-in in the order of its constructor, each with its description from the docstring.

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
    """The descriptions in the section ``Args:`` of a docstring, by argument, each on one line."""
    _, _, section = inspect.cleandoc(docstring).partition("\nArgs:\n")
    section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]  # the next section is not indented
    parts = re.split(r"^ {4}(\w+): ", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(said.split()) for name, said in zip(parts[::2], parts[1::2], strict=True)}


def _type(annotation: Any, constraints: list[Any]) -> str:
    """A type in human-readable form: ``int >= 1``, ``sgd | adam``, ``text, or none``."""
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
    """One line with all errors of a validation, and with near matches of unknown names."""
    problems = error.errors()
    said = [_explain_one(dict(problem), section, model) for problem in problems[:MOST_PROBLEMS]]
    return "; ".join(said + [f"and {len(problems) - len(said)} more"] * (len(problems) > len(said)))


def _explain_one(problem: dict[str, Any], section: str, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in (section, *problem["loc"]) if part != "")  # tags of unions may be empty
    at = f"{place}: " * bool(place)
    if problem["type"] == "extra_forbidden":
        fields = _fields_at(model, problem["loc"][:-1])
        owner = ".".join(str(part) for part in ((section,) if section else ()) + tuple(problem["loc"][:-1]))
        kind = f"option of {owner or 'the configuration'}"
        return unknown(kind, str(problem["loc"][-1]), fields)
    if problem["type"] == "missing":
        return f"{place} is missing; it has no default"
    if problem["type"] == "json_invalid":  # the text is not quoted: a file of a foreign folder may be a link to another
        return "it is not JSON"
    return at + rule_and_value(problem)


def rule_and_value(problem: Mapping[str, Any]) -> str:
    """The rule that an error of a validation is about, and what was given, without pydantic's own words."""
    message, given = str(problem["msg"]), f"but got {shortly(problem['input'])}"
    match problem["type"]:
        case "value_error":  # of a validator of this project or of a plug-in, whose message is complete
            return message.removeprefix("Value error, ") or f"the value is not valid, {given}"
        case "assertion_error":  # of a validator of a plug-in, with or without a message
            return f"{message.removeprefix('Assertion failed, ') or 'the value is not valid'}, {given}"
    return f"{message[:1].lower()}{message[1:]}, {given}"


def shortly(value: Any) -> str:
    """A value for messages; long or deeply nested values are shortened."""
    text = _REPR.repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return list(model.model_fields)
