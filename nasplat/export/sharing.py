"""The classes and functions that modules share in the source of a network, and the parameters of these definitions.

Modules share a definition if their code differs only in numbers. A number that differs between modules becomes a
parameter. Places with the same numbers in every module share one parameter. The parameter is named by its role.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from string import ascii_uppercase
from typing import TypeAlias

from torch import nn

from nasplat.export.code import (
    RESERVED,
    Atom,
    Code,
    Node,
    Number,
    Part,
    binary,
    call,
    changed,
    is_name,
    keyword,
    leaves,
)
from nasplat.export.definition import Definition, Written
from nasplat.export.describing import Described
from nasplat.export.tracing import Graph, Trace

MULTIPLES = 8
"""The largest factor with which a parameter is written as a multiple of another one."""
_Key: TypeAlias = tuple[str, tuple[int | float, ...]]
_BY_NAME = "kernel", "stride", "padding", "dilation", "groups", "scale"
"""Parameters that calls pass by name."""


def written(network: nn.Module, trace: Trace) -> list[Written]:
    """The definitions of a network's source. Each comes after the definitions that it needs; the network is last.

    Raises:
        RunError: A module cannot be written as source.
    """
    described = Described(network, trace)
    found = described.definitions()
    _give_names(found)
    owners = {path: (each, place) for each in found for place, path in enumerate(each.members)}
    names = {each.name for each in found}
    return [_generalized(definition, owners, names) for definition in found]


def _give_names(found: list[Definition]) -> None:
    """Distinguish definitions with the same name by letters. Reserved names get a letter too."""
    counts = Counter(each.name for each in found)
    taken = {*counts, *RESERVED}
    for each in found:
        if counts[each.name] > 1 or each.name in RESERVED:
            marks = chain(ascii_uppercase, map(str, count(len(ascii_uppercase))))
            names = (f"{each.name}_{mark.lower()}" if each.is_function else f"{each.name}{mark}" for mark in marks)
            each.name = next(name for name in names if name not in taken)
            taken.add(each.name)


@dataclass(frozen=True, slots=True)
class _Place:
    """A place of a number in the code of a definition.

    Args:
        family: The family of the role. Only places of one family share a parameter.
        role: The role of the number.
        attribute: The attribute that contains the place; empty in a forward.
        numbers: The number in each module.
    """

    family: str
    role: str
    attribute: str
    numbers: tuple[int | float, ...]

    @property
    def key(self) -> "_Key":
        """The key of the parameter. Places with the same key share one parameter."""
        return self.family, self.numbers


def _generalized(
    definition: Definition, owners: Mapping[str, tuple[Definition, int]], definitions: Set[str]
) -> Written:
    """Put parameters where the modules of a definition differ. Inner definitions must already have parameters."""
    places = _places(definition, owners)
    names = _parameter_names(places, definitions, () if definition.is_function else definition.first.attributes)
    fields: list[str] = []
    if not definition.is_function:
        needed = [names[place.key] for place in places if not place.attribute and place.key in names]
        fields = list(dict.fromkeys(needed))
    derived = _derived({key: name for key, name in names.items() if name not in fields}, names)
    parameters = {name: key[1] for key, name in names.items() if key not in derived}
    definition.parameters = dict(sorted(parameters.items(), key=lambda each: _rank(*each)))
    following = iter(places)

    def write(part: Code, attribute: str) -> Code | None:
        if isinstance(part, Number):
            return one(next(following), part, attribute)
        if isinstance(part, Part):
            inner, _ = owners[part.path]
            values = {name: one(next(following), None, attribute) for name in inner.parameters}
            return call(inner.name, *(_given(name, value, inner) for name, value in values.items()))
        return None

    def one(place: _Place, number: Number | None, attribute: str) -> Code:
        if place.key in derived:
            return derived[place.key]
        if place.key in names:
            return Atom(names[place.key] if attribute or definition.is_function else f"self.{names[place.key]}")
        return number or Number(place.numbers[0])

    first = definition.first
    codes = [_repeated(changed(code, partial(write, attribute=name))) for name, code in first.codes()]
    attributes = dict(zip(first.attributes, codes, strict=False))
    graph = first.graph
    if graph is not None:
        rest = iter(codes[len(attributes) :])
        steps = [None if code is None else next(rest) for code in graph.steps]
        graph = Graph(graph.inputs, graph.lists, steps, graph.effects, next(rest))
    return Written(definition, attributes, graph, tuple(fields))


def _derived(names: "Mapping[_Key, str]", bases: "Mapping[_Key, str]") -> "dict[_Key, Code]":
    """Formulas for parameters that follow from others: half a kernel as padding, or a multiple of channels.

    Args:
        names: The parameters that a formula may replace.
        bases: All parameters.
    """
    found: dict[_Key, Code] = {}
    for family, numbers in sorted(names, key=lambda key: key[1]):
        for (other, base), name in sorted(bases.items(), key=lambda each: each[0][1]):
            if (other, base) in found:
                continue
            factor = numbers[0] // base[0] if base[0] else 0
            if (family, other) == ("padding", "kernel") and numbers == tuple(number // 2 for number in base):
                found[family, numbers] = binary("//", Atom(name), Number(2))
            elif family == other == "" and 2 <= factor <= MULTIPLES and numbers == tuple(factor * n for n in base):
                found[family, numbers] = binary("*", Number(factor), Atom(name))
            else:
                continue
            break
    return found


def _repeated(code: Code) -> Code:
    """The same code with a comprehension for each list of at least three equal calls."""

    def change(part: Code) -> Code | None:
        if isinstance(part, Node) and part.kind == "list" and len(part.parts) >= 3 and len(set(part.parts)) == 1:
            count = Atom(f"for _ in range({len(part.parts)})")
            is_call = isinstance(part.parts[0], Node) and part.parts[0].kind == "call"
            return Node("comprehension", (_repeated(part.parts[0]), count)) if is_call else None
        return None

    return changed(code, change)


def _rank(name: str, numbers: tuple[int | float, ...]) -> int:
    """The rank of a parameter: 0 if passed by position, 1 if passed by name, 2 if it also has a default."""
    return _is_by_name(name) + (default_of(name, numbers) is not None)


def default_of(name: str, numbers: Sequence[int | float]) -> str | None:
    """The code of a parameter's default value; None if it has no default."""
    return "1" if name.rpartition("_")[2] in ("stride", "dilation", "groups") and 1 in numbers else None


def _given(name: str, value: Code, definition: Definition) -> Code:
    if not _is_by_name(name):
        return value
    return keyword(name, value, default_of(name, definition.parameters[name]))


def _is_by_name(parameter: str) -> bool:
    return parameter.rpartition("_")[2] in _BY_NAME


def _differs(place: _Place) -> bool:
    return len(set(place.numbers)) > 1


def _places(definition: Definition, owners: Mapping[str, tuple[Definition, int]]) -> list[_Place]:
    """All places of numbers in the code of a definition, in order."""
    columns: list[list[tuple[str, str, int | float]]] = []
    for member in definition.members.values():
        column: list[tuple[str, str, int | float]] = []
        for attribute, code in member.codes():
            for leaf in leaves(code):
                if isinstance(leaf, Number):
                    column.append((leaf.role, attribute, leaf.value))
                elif isinstance(leaf, Part):
                    inner, place = owners[leaf.path]
                    column += [(name, attribute, numbers[place]) for name, numbers in inner.parameters.items()]
        columns.append(column)
    return [
        _Place(_family(row[0][0]), row[0][0], row[0][1], tuple(number for *_, number in row))
        for row in zip(*columns, strict=True)
    ]


def _family(role: str) -> str:
    last = role.rpartition("_")[2]
    return last if last in ("kernel", "stride", "padding", "dilation", "scale", "p", "eps", "momentum") else ""


def _parameter_names(places: list[_Place], taken: Set[str], attributes: Collection[str]) -> dict[_Key, str]:
    """A parameter name for each key whose numbers differ between modules.

    Args:
        places: All places of a definition.
        taken: Names that already have another meaning.
        attributes: The attributes of a class. The parameters that the forward needs become attributes too, so they need
            other names.
    """
    owned = {*attributes, *dir(nn.Module)}
    roles: dict[_Key, list[_Place]] = {}
    for place in places:
        if _differs(place):
            roles.setdefault(place.key, []).append(place)
    wanted = {key: _wanted(found) for key, found in roles.items()}
    counts = Counter(wanted.values())
    names: dict[_Key, str] = {}
    for key, name in wanted.items():
        attribute = roles[key][0].attribute
        if counts[name] > 1 and attribute and is_name(f"{attribute}_{name}"):
            name = f"{attribute}_{name}"
        is_field = any(not place.attribute for place in roles[key])
        others = {*names.values(), *taken, *RESERVED, *(owned if is_field else ())}
        candidates = chain([name], (f"{name}_{number}" for number in count(2)))
        names[key] = next(each for each in candidates if each not in others)
    return names


def _wanted(places: list[_Place]) -> str:
    """The preferred name of a parameter, from the roles of all its places."""
    roles = [place.role.rpartition("_")[2] for place in places]
    if (roles[0] == "outputs" and "inputs" in roles) or (roles[:2] == ["inputs", "outputs"] and (
        places[0].attribute == places[1].attribute
    )):  # fmt: skip
        return "channels"
    return next((role for role in roles if is_name(role) and role != "size"), "size")
