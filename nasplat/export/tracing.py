"""What the modules of a network do, as straight-line code: one graph of steps for each module that is not torch's own.

A module's `forward` is run with values that know their shape alone and take down what is done with them. Modules within
it are steps; what they do themselves is another graph. The number of examples in a batch stays free; the other sizes
are those of the network's input, or free as well for networks that take pictures of any size.
"""

import builtins
import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplat.errors import RunError
from nasplat.export.code import (
    NOTHING,
    USED_IN_FORWARD,
    Atom,
    Code,
    Node,
    Number,
    Value,
    attribute,
    binary,
    call,
    flat,
    index,
    keyword,
    quoted,
)

Tree: TypeAlias = object
"""Values, and lists, tuples and dictionaries of them, as Python passes them around."""

_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
    "and": "&", "or": "|", "xor": "^",
}  # fmt: skip
_KNOWN_ATTRIBUTES = ("ndim", "dtype", "device", "layout", "is_cuda", "requires_grad", "is_quantized", "is_nested")
_READING = "item", "tolist", "numpy"
_NAMESPACES = ((functional, "functional"), (torch, "torch"), (torch.linalg, "torch.linalg"), (torch.fft, "torch.fft"),
               (torch.special, "torch.special"))  # fmt: skip


class Unwritable(Exception):
    """What a module does cannot be written as straight-line code."""


@dataclass
class Graph:
    """What a module does when it is called.

    Args:
        inputs: The names of what comes in; their values are the first steps.
        lists: Which of them are lists of tensors.
        steps: Code by step, in order; None for what comes in.
        effects: The steps that change a tensor in place.
        result: The code of what goes out.
    """

    inputs: list[str] = field(default_factory=list)
    lists: set[str] = field(default_factory=set)
    steps: list[Code | None] = field(default_factory=list)
    effects: set[int] = field(default_factory=set)
    result: Code = NOTHING

    def add(self, code: Code | None, *, effect: bool = False) -> Value:
        """Take down a step."""
        self.steps.append(code)
        if effect:
            self.effects.add(len(self.steps) - 1)
        return Value(len(self.steps) - 1)


@dataclass(frozen=True, slots=True)
class Trace:
    """What became known of a network by running it.

    Args:
        graphs: Of its own modules, by their paths; those that are never called have none.
        reached: The paths of the modules that a forward names.
    """

    graphs: dict[str, Graph]
    reached: set[str]


def traced(network: nn.Module, input_shape: Sequence[int], *, free_sides: bool) -> Trace:
    """Run a network once and take down what each of its own modules does.

    Args:
        network: In evaluation mode; it is not changed.
        input_shape: The shape of one example.
        free_sides: Whether sides are free, as of networks that enlarge pictures.

    Raises:
        RunError: A module does what straight-line code cannot say.
    """
    twin = copy.deepcopy(network).to("meta")
    tracer = _Tracer(twin, free_sides=free_sides)
    with tracer.watching(), torch.no_grad():
        tracer.run(twin, (torch.zeros(2, *input_shape, device="meta"),), {})
    return Trace(tracer.graphs, tracer.reached)


class _Size(int):
    """A size that depends on the input: an integer that takes down what is computed of it."""

    code: Code

    def __new__(cls, value: int, code: Code) -> "_Size":
        self = super().__new__(cls, value)
        self.code = code
        return self

    def __bool__(self) -> bool:
        raise Unwritable("decides by a size of its input that is to stay free")

    def _refuse(self, other: object) -> bool:
        raise Unwritable("decides by a size of its input that is to stay free")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __hash__ = int.__hash__

    def __neg__(self) -> "_Size":
        return _Size(-int(self), Node("unary", (self.code,), "-"))

    def __truediv__(self, other: object) -> NoReturn:
        raise Unwritable("divides a size of its input that is to stay free into a fraction")

    __rtruediv__ = __truediv__


class _Flag(int):
    """The flag that tells a module whether it is trained, which it is not here."""


def _size_operator(name: str, operator: str, *, swapped: bool) -> Callable[[_Size, int], "_Size"]:
    plain: Callable[[int, int], int] = getattr(int, f"__{name}__")

    def operate(self: _Size, other: int) -> _Size:
        pair = (other, self) if swapped else (self, other)
        return _Size(plain(*(int(each) for each in pair)), binary(operator, *map(_written, pair)))

    return operate


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(_Size, f"__{_name}__", _size_operator(_name, _OPERATORS[_name], swapped=False))
    setattr(_Size, f"__r{_name}__", _size_operator(_name, _OPERATORS[_name], swapped=True))


class _Watched:
    """A tensor that takes down what is done with it.

    Args:
        value: On the device ``meta``: a shape alone.
        code: What it is called, or how it is made.
        tracer: Who takes it down.
    """

    def __init__(self, value: Tensor, code: Code, tracer: "_Tracer") -> None:
        self._value = value
        self._code = code
        self._tracer = tracer

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        tracer = next(each for each in _flattened((args, kwargs)) if isinstance(each, _Watched))._tracer
        return tracer.function(function, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name == "shape":
            return self._shape()
        if name in _KNOWN_ATTRIBUTES:
            return getattr(self._value, name)
        found = getattr(self._value, name)
        if callable(found):
            return lambda *args, **kwargs: self._method(name, args, kwargs)
        if isinstance(found, Tensor):
            return _Watched(found, Node("attribute", (self._code,), name), self._tracer)
        raise Unwritable(f"asks a tensor for its {name}")

    def _is_free(self, axis: int) -> bool:
        return axis == 0 or (self._tracer.free_sides and axis != 1)

    def _shape(self) -> tuple[int, ...]:
        count = self._value.ndim
        shape: list[int] = []
        for axis, size in enumerate(self._value.shape):
            if self._is_free(axis):
                place = Number(axis if axis < 2 else axis - count)
                shape.append(_Size(size, index(Node("attribute", (self._code,), "shape"), Atom(flat(place)))))
            else:
                shape.append(size)
        return tuple(shape)

    def _method(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == "size":
            return self._shape()[args[0]] if args else self._shape()
        if name == "dim":
            return self._value.ndim
        return self._tracer.function(getattr(Tensor, name), (self, *args), kwargs)

    def __getitem__(self, items: object) -> Any:
        listed = items if isinstance(items, tuple) else (items,)
        sizes = [None if self._is_free(axis) else size for axis, size in enumerate(self._value.shape)]
        if len(listed) <= len(sizes) and all(map(_takes_all, listed, sizes)):
            return self
        value = self._value[_plain(items)]
        return self._tracer.step(value, index(self._code, *map(_written, listed)))

    def __setitem__(self, items: object, value: object) -> None:
        raise Unwritable("assigns to a part of a tensor; join parts with torch.cat instead")

    def __bool__(self) -> bool:
        raise Unwritable("decides by the values of a tensor")

    def __len__(self) -> int:
        raise Unwritable("asks for the length of a tensor, which depends on the batch; use its shape")

    def __iter__(self) -> Iterator[Any]:
        raise Unwritable("goes through a tensor step by step")

    def __hash__(self) -> int:
        return id(self)


def _tensor_operator(name: str) -> Callable[..., Any]:
    function = getattr(Tensor, name)
    return lambda self, *other: self._tracer.function(function, (self, *other), {}, name=name)


for _name in (*_OPERATORS, "eq", "ne", "lt", "le", "gt", "ge", "neg", "invert"):
    setattr(_Watched, f"__{_name}__", _tensor_operator(f"__{_name}__"))
for _name in _OPERATORS:
    if hasattr(Tensor, f"__r{_name}__"):
        setattr(_Watched, f"__r{_name}__", _tensor_operator(f"__r{_name}__"))


class _Tracer:
    """Runs a network once and takes down what each of its own modules does."""

    def __init__(self, network: nn.Module, *, free_sides: bool) -> None:
        self.free_sides = free_sides
        self.graphs: dict[str, Graph] = {}
        self.reached: set[str] = set()
        self._paths = {id(module): path for path, module in network.named_modules()}
        self._current: tuple[nn.Module, Graph] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, calls of the network's modules and what is asked of them are taken down."""
        called, asked = nn.Module.__call__, nn.Module.__getattr__

        def call_module(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._current is not None and any(isinstance(each, _Watched) for each in _flattened((args, kwargs))):
                return self._within(module, args, kwargs)
            return self.run(module, args, kwargs) if id(module) in self._paths else called(module, *args, **kwargs)

        def ask(module: nn.Module, name: str) -> Any:
            found = asked(module, name)
            if isinstance(found, Tensor) and self._current is not None and id(module) in self._paths:
                return _Watched(found, _member(module, self._reached(module), name), self)
            return found

        nn.Module.__call__, nn.Module.__getattr__ = call_module, ask  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__, nn.Module.__getattr__ = called, asked  # type: ignore[method-assign]

    def run(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a module gives for plain values; if it is none of torch's, its graph is taken down."""
        path, before = self._paths[id(module)], self._current
        try:
            if module._forward_hooks or module._forward_pre_hooks:
                raise Unwritable("has hooks, which do more than its forward says")
            if torchs_class(module) is not None:
                self._current = None
                return module.forward(*args, **kwargs)
            graph = Graph()
            self._current = module, graph
            vars(module)["training"] = _Flag(False)
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                bound.arguments[name] = self._input(graph, name, value)
            result = module.forward(*bound.args, **bound.kwargs)
            graph.result = _written(result)
            self._keep(path, graph)
            return _plain(result)
        except RunError:
            raise
        except Exception as error:  # whatever the module does with values that are none
            why = str(error) if isinstance(error, Unwritable) else f"fails: {type(error).__name__}: {error}"
            raise RunError(
                f"the module {path or 'at the root'} ({type(module).__name__}) cannot be written as stand-alone "
                f"source, since it {' '.join(why.split())}; change it, or export with --format onnx"
            ) from error
        finally:
            self._current = before
            vars(module)["training"] = False

    def function(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str = ""
    ) -> Any:
        """What a function of torch gives, taken down as a step; an operator is told by its name."""
        if function is torch.cat and len(args[0]) == 1:
            return args[0][0]
        name = name or getattr(function, "__name__", "")
        if name in _READING:
            raise Unwritable("takes a plain value out of a tensor")
        code = _function(function, name, args, kwargs)
        value = function(*_plain(args), **_plain(kwargs))
        overwrites = (name.endswith("_") and not name.endswith("__")) or bool(kwargs.get("inplace"))
        return self.step(value, code, effect=overwrites)

    def step(self, value: Any, code: Code, *, effect: bool = False) -> Any:
        """A value that a step of the current module has given."""
        if not any(isinstance(each, Tensor) for each in _flattened(value)):
            raise Unwritable("takes a plain value out of a tensor")
        assert self._current is not None
        return self._watched(value, self._current[1].add(code, effect=effect))

    def _within(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module called by the current one."""
        if type(module) is nn.Identity:
            return args[0]
        if id(module) not in self._paths:
            if torchs_class(module) is nn.Sequential:  # a slice of one; its modules are known
                return module.forward(*args, **kwargs)
            raise Unwritable(f"calls a {type(module).__name__} that is not among its modules")
        value = self.run(module, _plain(args), _plain(kwargs))
        if torchs_class(module) is not None:
            given = [*map(_written, args), *(keyword(name, _written(each)) for name, each in kwargs.items())]
        else:
            bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            given = [_written(each) for each in bound.values() if _is_watched(each)]
        return self.step(value, call(self._reached(module), *given), effect=self._overwrites(module))

    def _overwrites(self, module: nn.Module) -> bool:
        """Whether a module may change what comes in."""
        if isinstance(module, nn.Sequential):
            return any(map(self._overwrites, list(module)[:1]))
        if torchs_class(module) is not None:
            return bool(getattr(module, "inplace", False))
        return bool(self.graphs[self._paths[id(module)]].effects)

    def _reached(self, module: nn.Module) -> Code:
        """How the current module reaches a module."""
        assert self._current is not None
        here, there = (self._paths[id(each)] for each in (self._current[0], module))
        if module is self._current[0]:
            return Atom("self")
        if here and not there.startswith(f"{here}."):
            raise Unwritable(f"reaches the module {there}, which is none of its own")
        self.reached.add(there)
        code: Code = Atom("self")
        owner = self._current[0]
        for name in there.removeprefix(here).lstrip(".").split("."):
            code = _member(owner, code, name)
            owner = owner.get_submodule(name)
        return code

    def _input(self, graph: Graph, name: str, value: Tree) -> Tree:
        if not any(isinstance(each, Tensor | _Size) for each in _flattened(value)):
            return value
        while name in USED_IN_FORWARD or name in graph.inputs:
            name += "_"
        graph.inputs.append(name)
        if isinstance(value, list | tuple):
            graph.lists.add(name)
        return self._watched(value, graph.add(None))

    def _watched(self, value: Tree, code: Code) -> Tree:
        match value:
            case Tensor():
                return _Watched(value, code, self)
            case _Size():
                return _Size(int(value), code)
            case list() | tuple():
                parts = [self._watched(each, index(code, Atom(str(place)))) for place, each in enumerate(value)]
                return parts if isinstance(value, list) else tuple(parts)
            case dict():
                return {key: self._watched(each, index(code, _written(key))) for key, each in value.items()}
        return value

    def _keep(self, path: str, graph: Graph) -> None:
        known = self.graphs.setdefault(path, graph)
        if (known.steps, known.result) != (graph.steps, graph.result):
            raise Unwritable("does something else each time that it is called")


def _member(owner: nn.Module, code: Code, name: str) -> Code:
    """How a module's child or tensor is reached from the module."""
    known = torchs_class(owner)
    if known is nn.ModuleDict:
        return index(code, Atom(quoted(name)))
    if known in (nn.ModuleList, nn.ParameterList):
        return index(code, Atom(name))
    if known is nn.Sequential and name == str(list(owner._modules).index(name)):
        return index(code, Atom(name))
    return attribute(code, name)


def torchs_class(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch that does what a module does: its own, or one whose forward it has not changed."""
    for known in type(module).__mro__[:-1]:
        if known is not nn.Module and getattr(nn, known.__name__, None) is known:
            return known if type(module).forward is known.forward else None
    return None


def _flattened(tree: Tree) -> Iterator[object]:
    if isinstance(tree, list | tuple):
        for each in tree:
            yield from _flattened(each)
    elif isinstance(tree, Mapping):
        for each in tree.values():
            yield from _flattened(each)
    elif isinstance(tree, slice):
        yield from (tree.start, tree.stop, tree.step)
    else:
        yield tree


def _takes_all(item: object, size: int | None) -> bool:
    """Whether a slice leaves an axis as it is, whatever its size where that is free, which None stands for."""
    if not isinstance(item, slice) or any(isinstance(each, _Size) for each in (item.start, item.stop, item.step)):
        return False
    return item.start in (None, 0) and item.step in (None, 1) and (item.stop is None or item.stop == size)


def _is_watched(tree: Tree) -> bool:
    return any(isinstance(each, _Watched | _Size) for each in _flattened(tree))


def _plain(tree: Tree) -> Any:
    """The same without anybody watching; sizes stay what they are for modules, which may take them as inputs."""
    match tree:
        case _Watched():
            return tree._value
        case _Flag():
            return False
        case slice():
            return slice(*(each if each is None else int(each) for each in (tree.start, tree.stop, tree.step)))
        case torch.Size():
            return tree
        case list() | tuple():
            return type(tree)(map(_plain, tree))
        case dict():
            return {key: _plain(each) for key, each in tree.items()}
    return tree


def _written(value: Tree) -> Code:
    """A value as code.

    Raises:
        Unwritable: There is no code for it.
    """
    match value:
        case _Watched():
            return value._code
        case _Size():
            return value.code
        case _Flag():
            return Atom("self.training")
        case bool() | None | builtins.Ellipsis:
            return Atom("..." if value is ... else repr(value))
        case int() | float():
            return Number(value)
        case str():
            return Atom(quoted(value))
        case torch.dtype() | torch.memory_format():
            return Atom(repr(value))
        case slice():
            limits = (value.start, value.stop, value.step)
            return Node("slice", tuple(NOTHING if each is None else _written(each) for each in limits))
        case list():
            return Node("list", tuple(map(_written, value)))
        case tuple():
            return Node("tuple", tuple(map(_written, value)))
        case dict():
            items = (Node("item", (_written(key), _written(each))) for key, each in value.items())
            return Node("dict", tuple(items))
        case Tensor():
            raise Unwritable("uses a tensor that is neither its parameter nor its buffer; register it as a buffer")
    raise Unwritable(f"passes on a {type(value).__name__}")


def _function(function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Code:
    """A call of one of torch's functions or methods as code.

    Raises:
        Unwritable: It is none of them.
    """
    given = [_written(each) for each in args]
    bare = name.strip("_")
    if name.startswith("__"):
        if bare in _OPERATORS:
            return binary(_OPERATORS[bare], *given)
        if bare[1:] in _OPERATORS and bare[0] == "r":
            return binary(_OPERATORS[bare[1:]], *reversed(given))
        if bare in ("neg", "invert"):
            return Node("unary", tuple(given), "-" if bare == "neg" else "~")
        if bare in ("eq", "ne", "lt", "le", "gt", "ge"):
            return call(f"torch.{bare}", *given)
    named = [keyword(key, _written(each)) for key, each in _telling(function, name, kwargs).items()]
    for namespace, text in _NAMESPACES:
        if getattr(namespace, name, None) is function:
            return call(f"{text}.{name}", *given, *named)
    if name in ("add", "sub", "mul", "pow") and len(given) == 2 and not named:
        return binary(_OPERATORS[name], *given)
    if getattr(Tensor, name, None) is function:
        return call(Node("attribute", (given[0],), name), *given[1:], *named)
    raise Unwritable(f"calls {name or function}, which is no published function of torch")


def _telling(function: Callable[..., Any], name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name without those that are the default anyway, which torch's own functions pass on."""
    try:
        known = inspect.signature(getattr(functional, f"_{name}", function)).parameters
    except (TypeError, ValueError):  # built in
        return kwargs
    return {
        key: value
        for key, value in kwargs.items()
        if _is_watched(value) or isinstance(value, _Flag) or key not in known
        or known[key].default is inspect.Parameter.empty or known[key].default != value
    }  # fmt: skip
