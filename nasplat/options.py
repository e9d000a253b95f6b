"""Options of plug-ins: read from constructors, checked, and completed with their defaults."""

import inspect
import reprlib
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from nasplat.errors import InputError, unknown

MOST_PROBLEMS = 10
"""How many problems a message spells out."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100


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
    model = options_model(plugin)
    try:
        return model.model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        raise InputError(explain(error, section, model)) from None


def explain(error: ValidationError, section: str, model: type[BaseModel]) -> str:
    """One line for everything that a validation found wrong, with near matches of unknown names."""
    problems = error.errors()
    said = [_explain_one(dict(problem), section, model) for problem in problems[:MOST_PROBLEMS]]
    return "; ".join(said + [f"and {len(problems) - len(said)} more"] * (len(problems) > len(said)))


def _explain_one(problem: dict[str, Any], section: str, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in ((section,) if section else ()) + tuple(problem["loc"]))
    if problem["type"] == "extra_forbidden":
        fields = _fields_at(model, problem["loc"][:-1])
        kind = f"option of {section or '.'.join(map(str, problem['loc'][:-1])) or 'the configuration'}"
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
