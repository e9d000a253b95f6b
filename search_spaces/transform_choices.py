"""What transforms of a search space may be chosen: their options, and the choices that these make."""

import inspect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Tag, create_model
from pydantic.fields import FieldInfo

from nasplat.errors import InputError
from nasplat.gene import SYMBOLS
from nasplat.options import Options, construct, described_arguments, options_model
from nasplat.transform import Transform


@dataclass(frozen=True, slots=True)
class Choice:
    """What a stage may be.

    Args:
        name: Its name: ``plain``, or that of the transform with the options that differ between choices.
        transforms: The transforms that are applied, none for plain.
    """

    name: str
    transforms: tuple[Transform, ...] = ()


def options_of(kinds: Mapping[str, type[Transform]]) -> type[Options]:
    """The options of transforms: those of a single one, or a group for each."""
    per: Any = (Literal["network", "stage"], "network")
    meanings = ["per: Whether the whole network is transformed, or each stage has a choice."]
    groups = {}
    for name, kind in kinds.items():
        each = {option: (_or_list(field), field.default) for option, field in options_model(kind).model_fields.items()}
        described = described_arguments(inspect.getdoc(kind) or "")
        groups[name] = (each, [f"{option}: {described.get(option, '')}" for option in each])
    if len(kinds) == 1:
        ((fields, more),) = groups.values()
        return _made("TransformOptions", {"per": per, **fields}, [*meanings, *more])
    parts = {
        name: (made := _made(f"{name.title().replace('_', '')}Options", fields, more), made())
        for name, (fields, more) in groups.items()
    }
    return _made("TransformOptions", {"per": per, **parts}, meanings)


def _or_list(field: FieldInfo) -> Any:
    """The type of an option, or a list of such values."""
    single: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    kinds = Annotated[single, Tag("")] | Annotated[list[single], Tag("list")]
    return Annotated[kinds, Discriminator(lambda value: "list" if isinstance(value, list) else "")]


def _made(name: str, fields: Mapping[str, Any], meanings: Sequence[str]) -> type[Options]:
    doc = "Options of transforms.\n\nArgs:\n" + "\n".join(f"    {meaning}" for meaning in meanings)
    made: type[Options] = create_model(name, __base__=Options, __doc__=doc, **fields)
    return made


def alternatives(kinds: Mapping[str, type[Transform]], options: BaseModel) -> tuple[Choice, ...]:
    """The choices of a stage, plain first; of a whole network the only one.

    Raises:
        InputError: Options or transforms exclude one another.
    """
    tree = options.model_dump()
    per = tree.pop("per")
    groups = {name: tree if len(kinds) == 1 else tree[name] for name in kinds}
    found: list[Choice] = []
    for name, kind in kinds.items():
        lists = {option: value for option, value in groups[name].items() if isinstance(value, list)}
        if lists and per == "network":
            option, value = next(iter(lists.items()))
            raise InputError(
                f"transform.{option} is a list of choices only for each stage, but got {value} for the whole network; "
                "set transform.per=stage, or give one value"
            )
        if several := sorted(lists.keys() & kind.whole):
            raise InputError(
                f"transform.{several[0]} of {name} must be one value, since it is of the whole network, but got "
                f"{groups[name][several[0]]}; give one of them"
            )
        for option, given in lists.items():
            if not given or len(set(map(str, given))) < len(given):
                raise InputError(
                    f"a list of choices must have different values, at least one, but transform.{option} is {given}; "
                    "leave out what it has twice"
                )
        number = 1 + len(found) + math.prod(map(len, lists.values()))
        if number > len(SYMBOLS):
            raise InputError(
                f"a stage must have at most {len(SYMBOLS)} choices with plain, but the lists of transform options make "
                f"{number:,}; give shorter lists"
            )
        for values in itertools.product(*lists.values()):
            said = dict(zip(lists, values, strict=True))
            label = " ".join([name, *(f"{option}={value}" for option, value in said.items())])
            found.append(Choice(label, (construct("transform", kind, **{**groups[name], **said}),)))
    if per == "stage":
        return (Choice("plain"), *found)
    for name, kind in kinds.items():
        if others := kind.excludes & kinds.keys():
            raise InputError(
                f"{name} and {', '.join(sorted(others))} rewrite the same layers, so that a network can have one of "
                "them only; choose one, or set transform.per=stage, where each stage has one"
            )
    return (Choice("+".join(kinds), tuple(each.transforms[0] for each in found)),)
