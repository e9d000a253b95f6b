"""Symbolic values and the code of the operations on them. A symbolic value has only a shape and records operations."""

import builtins
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from nasplat.export.code import NOTHING, Atom, Code, Node, Number, binary, call, flat, index, keyword, quoted

Tree: TypeAlias = object
"""A value, or a nested list, tuple or dictionary of values."""

_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
    "and": "&", "or": "|", "xor": "^",
}  # fmt: skip
_KNOWN_ATTRIBUTES = ("ndim", "dtype", "device", "layout", "is_cuda", "requires_grad", "is_quantized", "is_nested")
READING = "item", "tolist", "numpy"
_NAMESPACES = ((functional, "functional"), (torch, "torch"), (torch.linalg, "torch.linalg"), (torch.fft, "torch.fft"),
               (torch.special, "torch.special"))  # fmt: skip


class Unwritable(Exception):
    """The operations of a module cannot be written as straight-line code."""


class Size(int):
    """A size that depends on the input. It is an integer that records the computations on it."""

    code: Code

    def __new__(cls, value: int, code: Code) -> "Size":
        self = super().__new__(cls, value)
        self.code = code
        return self

    def __bool__(self) -> bool:
        raise Unwritable("makes a decision by a size of its input that must stay variable")

    def _refuse(self, other: object) -> bool:
        raise Unwritable("makes a decision by a size of its input that must stay variable")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __hash__ = int.__hash__

    def __neg__(self) -> "Size":
        return Size(-int(self), Node("unary", (self.code,), "-"))

    def __truediv__(self, other: object) -> NoReturn:
        raise Unwritable("divides a size of its input that must stay variable into a fraction")

    __rtruediv__ = __truediv__


class Flag(int):
    """The training flag of a module. It is always false here."""


def _size_operator(name: str, operator: str, *, swapped: bool) -> Callable[[Size, int], "Size"]:
    operation: Callable[[int, int], int] = getattr(int, f"__{name}__")

    def operate(self: Size, other: int) -> Size:
        pair = (other, self) if swapped else (self, other)
        return Size(operation(*(int(each) for each in pair)), binary(operator, *map(as_code, pair)))

    return operate


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(Size, f"__{_name}__", _size_operator(_name, _OPERATORS[_name], swapped=False))
    setattr(Size, f"__r{_name}__", _size_operator(_name, _OPERATORS[_name], swapped=True))


class Recorder(Protocol):
    """Records the operations on watched values."""

    free_sides: bool

    def function(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str = ""
    ) -> Any:
        """The result of a function of torch, recorded as a step. Operators are identified by name."""

    def step(self, value: Any, code: Code, *, effect: bool = False) -> Any:
        """The watched value of a new step of the current module."""


class Watched:
    """A tensor that records the operations on it.

    Args:
        value: A tensor on the device ``meta``, which has only a shape.
        code: The name of the tensor, or the code that computes it.
        tracer: The recorder of the operations.
    """

    def __init__(self, value: Tensor, code: Code, tracer: "Recorder") -> None:
        self._value = value
        self._code = code
        self._tracer = tracer

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        tracer = next(each for each in flattened((args, kwargs)) if isinstance(each, Watched))._tracer
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
            return Watched(found, Node("attribute", (self._code,), name), self._tracer)
        raise Unwritable(f"reads the attribute {name} of a tensor")

    def _is_free(self, axis: int) -> bool:
        return axis == 0 or (self._tracer.free_sides and axis != 1)

    def _shape(self) -> tuple[int, ...]:
        count = self._value.ndim
        shape: list[int] = []
        for axis, size in enumerate(self._value.shape):
            if self._is_free(axis):
                place = Number(axis if axis < 2 else axis - count)
                shape.append(Size(size, index(Node("attribute", (self._code,), "shape"), Atom(flat(place)))))
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
        if len(listed) <= len(sizes) and all(map(takes_all, listed, sizes)):
            return self
        value = self._value[plain(items)]
        return self._tracer.step(value, index(self._code, *map(as_code, listed)))

    def __setitem__(self, items: object, value: object) -> None:
        raise Unwritable("assigns to a part of a tensor; join parts with torch.cat instead")

    def __bool__(self) -> bool:
        raise Unwritable("makes a decision by the values of a tensor")

    def __len__(self) -> int:
        raise Unwritable("takes the length of a tensor, which depends on the batch; use its shape")

    def __iter__(self) -> Iterator[Any]:
        raise Unwritable("iterates over a tensor")

    def __hash__(self) -> int:
        return id(self)


def _tensor_operator(name: str) -> Callable[..., Any]:
    function = getattr(Tensor, name)
    return lambda self, *other: self._tracer.function(function, (self, *other), {}, name=name)


for _name in (*_OPERATORS, "eq", "ne", "lt", "le", "gt", "ge", "neg", "invert"):
    setattr(Watched, f"__{_name}__", _tensor_operator(f"__{_name}__"))
for _name in _OPERATORS:
    if hasattr(Tensor, f"__r{_name}__"):
        setattr(Watched, f"__r{_name}__", _tensor_operator(f"__r{_name}__"))


def flattened(tree: Tree) -> Iterator[object]:
    """The leaves of a tree of values."""
    if isinstance(tree, list | tuple):
        for each in tree:
            yield from flattened(each)
    elif isinstance(tree, Mapping):
        for each in tree.values():
            yield from flattened(each)
    elif isinstance(tree, slice):
        yield from (tree.start, tree.stop, tree.step)
    else:
        yield tree


def takes_all(item: object, size: int | None) -> bool:
    """Whether a slice keeps a whole axis. A size of None is free; the slice must then keep the axis at any size."""
    if not isinstance(item, slice) or any(isinstance(each, Size) for each in (item.start, item.stop, item.step)):
        return False
    return item.start in (None, 0) and item.step in (None, 1) and (item.stop is None or item.stop == size)


def is_watched(tree: Tree) -> bool:
    """Whether any value in a tree is watched."""
    return any(isinstance(each, Watched | Size) for each in flattened(tree))


def plain(tree: Tree) -> Any:
    """The same tree without recording. Sizes are kept, since modules may take them as inputs."""
    match tree:
        case Watched():
            return tree._value
        case Flag():
            return False
        case slice():
            return slice(*(each if each is None else int(each) for each in (tree.start, tree.stop, tree.step)))
        case torch.Size():
            return tree
        case list() | tuple():
            return type(tree)(map(plain, tree))
        case dict():
            return {key: plain(each) for key, each in tree.items()}
    return tree


def as_code(value: Tree) -> Code:
    """A value as code.

    Raises:
        Unwritable: There is no code for the value.
    """
    match value:
        case Watched():
            return value._code
        case Size():
            return value.code
        case Flag():
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
            return Node("slice", tuple(NOTHING if each is None else as_code(each) for each in limits))
        case list():
            return Node("list", tuple(map(as_code, value)))
        case tuple():
            return Node("tuple", tuple(map(as_code, value)))
        case dict():
            items = (Node("item", (as_code(key), as_code(each))) for key, each in value.items())
            return Node("dict", tuple(items))
        case Tensor():
            raise Unwritable("uses a tensor that is neither its parameter nor its buffer; register it as a buffer")
    raise Unwritable(f"passes on a value of the type {type(value).__name__}")


def call_of(function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Code:
    """A call of a function or method of torch as code.

    Raises:
        Unwritable: The function is not a published function or method of torch.
    """
    given = [as_code(each) for each in args]
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
    named = [keyword(key, as_code(each)) for key, each in _telling(function, name, kwargs).items()]
    for namespace, text in _NAMESPACES:
        if getattr(namespace, name, None) is function:
            return call(f"{text}.{name}", *given, *named)
    if name in ("add", "sub", "mul", "pow") and len(given) == 2 and not named:
        return binary(_OPERATORS[name], *given)
    if getattr(Tensor, name, None) is function:
        return call(Node("attribute", (given[0],), name), *given[1:], *named)
    raise Unwritable(f"calls {name or function}, which is not a public function of torch")


def _telling(function: Callable[..., Any], name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments that differ from their default. Functions of torch also pass on default values."""
    try:
        known = inspect.signature(getattr(functional, f"_{name}", function)).parameters
    except (TypeError, ValueError):  # a built-in function without a signature
        return kwargs
    return {
        key: value
        for key, value in kwargs.items()
        if is_watched(value) or isinstance(value, Flag) or key not in known
        or known[key].default is inspect.Parameter.empty or known[key].default != value
    }  # fmt: skip
