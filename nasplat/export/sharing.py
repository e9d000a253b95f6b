"""Which modules of a network share one class or function of its source, and what their parameters are.

Modules are alike if they are written alike but for numbers. Where these differ from one to another, the number becomes
a parameter; places whose numbers are the same in every module share one, named by what it is there.
"""

import inspect
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import chain, count
from string import ascii_uppercase
from typing import TypeAlias

from torch import Tensor, nn

from nasplat.errors import RunError
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
    flat,
    is_name,
    keyword,
    leaves,
    number,
    quoted,
)
from nasplat.export.tracing import Graph, Trace, torchs_class

CONTAINERS = nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList
LARGEST_BUFFER = 64
"""A buffer that the weights do not hold is written down if it has at most so many numbers."""
_ROLES = {
    "in_channels": "inputs", "in_features": "inputs", "out_channels": "outputs", "out_features": "outputs",
    "num_features": "channels", "num_channels": "channels", "normalized_shape": "channels", "kernel_size": "kernel",
    "upscale_factor": "scale",
}  # fmt: skip
_KINDS = (
    ("AdaptiveAvgPool", "pool"), ("AvgPool", "pool"), ("MaxPool", "pool"), ("Conv", "conv"), ("BatchNorm", "norm"),
    ("ReLU", "relu"), ("PixelShuffle", "shuffle"),
)  # fmt: skip
_WORDS = {"pool": "pooling", "conv": "convolution", "norm": "batch norm", "relu": "ReLU", "shuffle": "pixel shuffle"}
MULTIPLES = 8
"""A parameter is written as another one's multiple up to so many times."""
_Key: TypeAlias = tuple[str, tuple[int | float, ...]]
_BY_NAME = "kernel", "stride", "padding", "dilation", "groups", "scale"
"""Parameters that calls give by name."""


@dataclass(frozen=True, slots=True)
class Member:
    """A module as it is written.

    Args:
        attributes: What it is made of, by name; a sequence that a function makes is one, without a name.
        graph: What it does; None for sequences, and for modules that are never called.
    """

    attributes: dict[str, Code]
    graph: Graph | None

    def codes(self) -> Iterator[tuple[str, Code]]:
        """All of its code, each with the attribute that it is of; that of the forward has none."""
        yield from self.attributes.items()
        if self.graph is not None:
            yield from (("", code) for code in (*self.graph.steps, self.graph.result) if code is not None)


@dataclass
class Definition:
    """A class or a function of the source.

    Args:
        name: What it is called.
        doc: Its first sentence.
        members: The modules that it stands for, by their paths.
        parameters: The numbers of each of them, in order, by the name of the parameter.
    """

    name: str
    doc: str
    members: dict[str, Member] = field(default_factory=dict)
    parameters: dict[str, tuple[int | float, ...]] = field(default_factory=dict)

    @property
    def is_function(self) -> bool:
        """Whether it returns a sequence of torch's modules, rather than being a class."""
        return "" in self.first.attributes

    @property
    def first(self) -> Member:
        """The module that the others are like."""
        return next(iter(self.members.values()))


@dataclass(frozen=True, slots=True)
class Written:
    """A definition whose code has parameters where its modules differ.

    Args:
        definition: What it is called, and its parameters.
        attributes: What is made in its ``__init__``, or returned by a function.
        graph: Its forward.
        fields: The parameters that the forward needs.
    """

    definition: Definition
    attributes: dict[str, Code]
    graph: Graph | None
    fields: tuple[str, ...]


def written(network: nn.Module, trace: Trace) -> list[Written]:
    """The definitions of a network's source, each after those that it needs; the last is of the network itself.

    Raises:
        RunError: A module cannot be written down.
    """
    described = _Described(network, trace)
    found = described.definitions()
    _give_names(found)
    owners = {path: (each, place) for each in found for place, path in enumerate(each.members)}
    names = {each.name for each in found}
    return [_generalized(definition, owners, names) for definition in found]


class _Described:
    """A network's modules as they are written, those together that are alike; those inside others come first."""

    def __init__(self, network: nn.Module, trace: Trace) -> None:
        self._trace = trace
        self._definitions: dict[str, Definition] = {}
        self._keys: dict[str, str] = {}
        self._visit("", network)

    def definitions(self) -> list[Definition]:
        """All of them; a sequence that there is only one of stands where it is used."""
        single = {
            path: member.attributes[""]
            for each in self._definitions.values()
            if each.is_function and len(each.members) == 1
            for path, member in each.members.items()
        }

        def unfold(part: Code) -> Code | None:
            return single.get(part.path) if isinstance(part, Part) else None

        found = [each for each in self._definitions.values() if not (each.is_function and len(each.members) == 1)]
        for each in found:
            for path, member in each.members.items():
                inside = {name: changed(code, unfold) for name, code in member.attributes.items()}
                each.members[path] = Member(inside, member.graph)
        return found

    def _visit(self, path: str, module: nn.Module) -> None:
        attributes = dict(self._attributes(path, module))
        own = type(module)
        name = own.__name__.lstrip("_")
        name = name if is_name(name) else "Module"
        doc = (inspect.cleandoc(own.__dict__.get("__doc__") or "")).partition("\n\n")[0]
        self._register(path, name, " ".join(doc.split()), Member(attributes, self._trace.graphs.get(path)))

    def _register(self, path: str, name: str, doc: str, member: Member) -> None:
        inputs = [] if member.graph is None else [*member.graph.inputs, *sorted(member.graph.lists)]
        shapes = [f"{attribute}: {self._shape(code)}" for attribute, code in member.codes()]
        key = "\n".join([name, doc, *inputs, *shapes])
        self._keys[path] = key
        self._definitions.setdefault(key, Definition(name, doc)).members[path] = member

    def _shape(self, code: Code) -> str:
        """Code that is the same for modules that are written alike but for numbers."""
        known = list(self._definitions)

        def change(part: Code) -> Code | None:
            if isinstance(part, Number):
                return Atom("#")
            return Atom(f"<{known.index(self._keys[part.path])}>") if isinstance(part, Part) else None

        return flat(changed(code, change), omit=False)

    def _attributes(self, path: str, module: nn.Module) -> Iterator[tuple[str, Code]]:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield name, call("nn.Parameter", _empty(parameter))
        for name, buffer in module._buffers.items():
            if buffer is not None and name in module._non_persistent_buffers_set:
                yield name, _register_buffer(name, _constant(buffer, path, module), persistent=False)
            elif buffer is not None:
                yield name, _register_buffer(name, _empty(buffer), persistent=True)
        for name, child in module._modules.items():
            below = f"{path}.{name}".lstrip(".")
            if child is not None and (child.state_dict() or self._is_reached(below)):
                yield name, self._made(below, child)

    def _is_reached(self, path: str) -> bool:
        return any(each == path or each.startswith(f"{path}.") for each in self._trace.reached)

    def _made(self, path: str, module: nn.Module) -> Code:
        """What makes a module, in the `__init__` of the one above it."""
        known = torchs_class(module)
        if known is None:
            self._visit(path, module)
            return Part(path)
        if isinstance(module, nn.ParameterList):
            return call("nn.ParameterList", Node("list", tuple(call("nn.Parameter", _empty(each)) for each in module)))
        if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            return self._container(path, module)
        return _leaf(path, module, known or type(module))

    def _container(self, path: str, module: "nn.Sequential | nn.ModuleList | nn.ModuleDict") -> Code:
        children = {
            name: self._made(f"{path}.{name}", child) for name, child in module._modules.items() if child is not None
        }
        if isinstance(module, nn.ModuleDict) or list(children) != [str(place) for place in range(len(children))]:
            if isinstance(module, nn.ModuleList):
                raise _unwritable(path, module, "has modules whose names are no numbers in order")
            items = tuple(Node("item", (Atom(quoted(name)), child)) for name, child in children.items())
            if isinstance(module, nn.ModuleDict):
                return call("nn.ModuleDict", Node("dict", items))
            return call("nn.Sequential", call("OrderedDict", Node("dict", items)))
        if isinstance(module, nn.ModuleList):
            return call("nn.ModuleList", Node("list", tuple(children.values())))
        code = call("nn.Sequential", *children.values())
        if len(children) < 2 or not all(map(_is_leaf, module)):
            return code
        kinds = [_kind(child) for child in module]
        self._register(path, _function_name(kinds), _sentence(kinds), Member({"": code}, None))
        return Part(path)


def _register_buffer(name: str, value: Code, *, persistent: bool) -> Code:
    return call("self.register_buffer", Atom(quoted(name)), value, keyword("persistent", Atom(str(persistent)), "True"))


def _is_leaf(module: nn.Module) -> bool:
    return torchs_class(module) is not None and not isinstance(module, CONTAINERS)


def _empty(tensor: Tensor) -> Code:
    """A tensor of the same shape, which the weights fill."""
    return call("torch.empty", *_sizes(tensor), keyword("dtype", Atom(str(tensor.dtype)), "torch.float32"))


def _sizes(tensor: Tensor) -> list[Code]:
    return [Number(size, "size") for size in tensor.shape] or [Node("tuple", ())]


def _constant(tensor: Tensor, path: str, module: nn.Module) -> Code:
    """A tensor with its values."""
    if tensor.numel() > LARGEST_BUFFER:
        raise _unwritable(path, module, f"has a buffer of {tensor.numel()} numbers that its weights do not hold")

    def listed(values: object) -> Code:
        if isinstance(values, list):
            return Node("list", tuple(map(listed, values)))
        return Atom(number(values) if isinstance(values, int | float) else repr(values))

    kind = keyword("dtype", Atom(str(tensor.dtype)), "torch.float32" if tensor.dtype.is_floating_point else None)
    return call("torch.tensor", listed(tensor.tolist()), kind)


def _leaf(path: str, module: nn.Module, known: type[nn.Module]) -> Code:
    """The call that makes a module of torch.

    Raises:
        RunError: What it was made with is not to be seen from it.
    """
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in module.state_dict().items())
    for simple in (True, False):
        given = _arguments(module, known, simple=simple)
        if given is not None and _makes(known.__name__, tuple((name, value) for name, (value, _) in given.items()),
                                        shapes, module.extra_repr()):  # fmt: skip
            return call(f"nn.{known.__name__}", *(_argument_of(name, *each) for name, each in given.items()))
    raise _unwritable(path, module, "does not tell what it was made with")


@lru_cache(maxsize=1024)
def _makes(
    name: str,
    given: tuple[tuple[str, object], ...],
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    shown: str,
) -> bool:
    """Whether a class of torch, with these arguments, makes a module with weights of these shapes that looks so."""
    known: type[nn.Module] = getattr(nn, name)
    on_meta = {"device": "meta"} if "device" in inspect.signature(known.__init__).parameters else {}
    try:
        twin = known(**dict(given), **on_meta)
    except (TypeError, ValueError, RuntimeError):
        return False
    made = tuple((name, tuple(tensor.shape)) for name, tensor in twin.state_dict().items())
    return made == shapes and twin.extra_repr() == shown


def _arguments(module: nn.Module, known: type[nn.Module], *, simple: bool) -> dict[str, tuple[object, object]] | None:
    """The value and the default of every argument that a module of torch was made with.

    Args:
        module: It has them as attributes.
        known: Its class.
        simple: Whether equal numbers for height and width are given as one.
    """
    given: dict[str, tuple[object, object]] = {}
    for name, parameter in list(inspect.signature(known.__init__).parameters.items())[1:]:
        if name in ("device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(module, name):
            return None
        value = getattr(module, name)
        if isinstance(parameter.default, bool) and not isinstance(value, bool):
            value = value is not None  # such as a bias, which is there or not
        if simple and isinstance(value, tuple) and len(set(value)) == 1:
            value = value[0]
        given[name] = value, parameter.default
    return given


def _argument_of(name: str, value: object, default: object) -> Code:
    code = _literal(value, _ROLES.get(name, name))
    if default is inspect.Parameter.empty:
        return code
    return keyword(name, code, flat(_literal(default, "")))


def _literal(value: object, role: str) -> Code:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Number(value, role)
    if isinstance(value, tuple):
        return Node("tuple", tuple(_literal(each, role) for each in value))
    return Atom(quoted(value) if isinstance(value, str) else repr(value))


def _unwritable(path: str, module: nn.Module, why: str) -> RunError:
    return RunError(
        f"the module {path or 'at the root'} ({type(module).__name__}) cannot be written as stand-alone source, "
        f"since it {why}; change it, or export with --format onnx"
    )


def _kind(module: nn.Module) -> str:
    name = type(module).__name__
    return next((kind for beginning, kind in _KINDS if name.startswith(beginning)), name.lower())


def _function_name(kinds: list[str]) -> str:
    half = len(kinds) // 2
    if len(kinds) > 3 and kinds == kinds[:half] * 2:
        return f"{'_'.join(kinds[:half])}_twice"
    return "_".join(kinds)


def _sentence(kinds: list[str]) -> str:
    words = ", ".join(_WORDS.get(kind, kind) for kind in kinds)
    return f"{words[0].upper()}{words[1:]}."


def _give_names(found: list[Definition]) -> None:
    """Tell apart what has one name, by letters."""
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
    """A place in the code of a definition where a number stands.

    Args:
        family: Only places of one family share a parameter.
        role: What the number is.
        attribute: The attribute that it is in, or none.
        numbers: What it is in each module.
    """

    family: str
    role: str
    attribute: str
    numbers: tuple[int | float, ...]

    @property
    def key(self) -> "_Key":
        """What places that share a parameter have in common."""
        return self.family, self.numbers


def _generalized(
    definition: Definition, owners: Mapping[str, tuple[Definition, int]], definitions: Set[str]
) -> Written:
    """Put parameters where the modules of a definition differ; those that are in them have theirs already."""
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
    """Formulas for parameters that others tell: half a kernel as padding, a multiple of channels.

    Args:
        names: The parameters that need not be given.
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
    """The same with a comprehension for lists of modules that are made alike."""

    def change(part: Code) -> Code | None:
        if isinstance(part, Node) and part.kind == "list" and len(part.parts) >= 3 and len(set(part.parts)) == 1:
            count = Atom(f"for _ in range({len(part.parts)})")
            is_call = isinstance(part.parts[0], Node) and part.parts[0].kind == "call"
            return Node("comprehension", (_repeated(part.parts[0]), count)) if is_call else None
        return None

    return changed(code, change)


def _rank(name: str, numbers: tuple[int | float, ...]) -> int:
    """Parameters that calls give by name come last, and those with a default after them."""
    return _is_by_name(name) + (default_of(name, numbers) is not None)


def default_of(name: str, numbers: Sequence[int | float]) -> str | None:
    """What a parameter is where a call does not say."""
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
    """All places of a definition's code where a number stands, in order."""
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
    """A name for each family and numbers that differ between modules.

    Args:
        places: All places of a definition.
        taken: Names that stand for something else.
        attributes: What a class has already; the parameters that its forward needs become attributes too.
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
    """What a number is, by all the places where it stands."""
    roles = [place.role.rpartition("_")[2] for place in places]
    if (roles[0] == "outputs" and "inputs" in roles) or (roles[:2] == ["inputs", "outputs"] and (
        places[0].attribute == places[1].attribute
    )):  # fmt: skip
        return "channels"
    return next((role for role in roles if is_name(role) and role != "size"), "size")
