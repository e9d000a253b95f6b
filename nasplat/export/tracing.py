"""The modules of a network as straight-line code. Each module whose class is not torch's own has a graph of steps.

A module's `forward` is run with symbolic values. They have only a shape and record the operations on them. The call of
an inner module is one step; the operations of the inner module are another graph. The batch size stays free. The other
sizes are those of the network's input. For networks that accept images of any size, height and width stay free too.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nasplat.cost import all_nonzero
from nasplat.errors import RunError
from nasplat.export.code import NOTHING, USED_IN_FORWARD, Atom, Code, Value, attribute, call, index, keyword, quoted
from nasplat.export.watching import (
    READING,
    Flag,
    Size,
    Tree,
    Unwritable,
    Watched,
    as_code,
    call_of,
    flattened,
    is_watched,
    plain,
)


@dataclass
class Graph:
    """The operations of a module's call.

    Args:
        inputs: The names of the inputs. The values of the inputs are the first steps.
        lists: The names of the inputs that are lists of tensors.
        steps: The code of each step, in order; None for inputs.
        effects: The steps that change a tensor in place.
        result: The code of the output.
    """

    inputs: list[str] = field(default_factory=list)
    lists: set[str] = field(default_factory=set)
    steps: list[Code | None] = field(default_factory=list)
    effects: set[int] = field(default_factory=set)
    result: Code = NOTHING

    def add(self, code: Code | None, *, effect: bool = False) -> Value:
        """Record a step, and return its value."""
        self.steps.append(code)
        if effect:
            self.effects.add(len(self.steps) - 1)
        return Value(len(self.steps) - 1)


@dataclass(frozen=True, slots=True)
class Trace:
    """The result of running a network with symbolic values.

    Args:
        graphs: The graphs of the network's own modules, by their paths. Modules that are never called have no graph.
        reached: The paths of the modules that some `forward` accesses.
    """

    graphs: dict[str, Graph]
    reached: set[str]


def traced(network: nn.Module, input_shape: Sequence[int], *, free_sides: bool) -> Trace:
    """Run a network once and record the operations of each of its own modules.

    Args:
        network: A network in evaluation mode. It is not changed.
        input_shape: The shape of one example.
        free_sides: Whether height and width are free, as in super-resolution networks.

    Raises:
        RunError: A module cannot be expressed as straight-line code.
    """
    meta_copy = copy.deepcopy(network).to("meta")
    tracer = _Tracer(meta_copy, free_sides=free_sides)
    with tracer.watching(), torch.no_grad(), all_nonzero():
        tracer.run(meta_copy, (torch.zeros(2, *input_shape, device="meta"),), {})
    return Trace(tracer.graphs, tracer.reached)


class _Tracer:
    """Runs a network once and records the operations of each of its own modules."""

    def __init__(self, network: nn.Module, *, free_sides: bool) -> None:
        self.free_sides = free_sides
        self.graphs: dict[str, Graph] = {}
        self.reached: set[str] = set()
        self._paths = {id(module): path for path, module in network.named_modules()}
        self._current: tuple[nn.Module, Graph] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside this context, calls of the network's modules and accesses to their attributes are recorded."""
        called, asked = nn.Module.__call__, nn.Module.__getattr__

        def call_module(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._current is not None and any(isinstance(each, Watched) for each in flattened((args, kwargs))):
                return self._within(module, args, kwargs)
            return self.run(module, args, kwargs) if id(module) in self._paths else called(module, *args, **kwargs)

        def ask(module: nn.Module, name: str) -> Any:
            found = asked(module, name)
            if isinstance(found, Tensor) and self._current is not None and id(module) in self._paths:
                return Watched(found, _member(module, self._reached(module), name), self)
            return found

        nn.Module.__call__, nn.Module.__getattr__ = call_module, ask  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__, nn.Module.__getattr__ = called, asked  # type: ignore[method-assign]

    def run(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of a module for plain values. The graph is recorded unless the module is torch's own."""
        path, before = self._paths[id(module)], self._current
        try:
            if module._forward_hooks or module._forward_pre_hooks:
                raise Unwritable("has hooks, which change what its forward does")
            if torchs_class(module) is not None:
                self._current = None
                return module.forward(*args, **kwargs)
            graph = Graph()
            self._current = module, graph
            vars(module)["training"] = Flag(False)
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                bound.arguments[name] = self._input(graph, name, value)
            result = module.forward(*bound.args, **bound.kwargs)
            graph.result = as_code(result)
            self._keep(path, graph)
            return plain(result)
        except RunError:
            raise
        except Exception as error:  # a module may raise any error for symbolic values
            why = str(error) if isinstance(error, Unwritable) else f"fails: {type(error).__name__}: {error}"
            raise RunError(
                f"the module {path or 'at the root'} ({type(module).__name__}) cannot be written as stand-alone "
                f"source, since it {' '.join(why.split())}; change it, or export with "
                "--format onnx (format='onnx')"
            ) from error
        finally:
            self._current = before
            vars(module)["training"] = False

    def function(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str = ""
    ) -> Any:
        """The result of a function of torch, recorded as a step. Operators are identified by name."""
        if function is torch.cat and len(args[0]) == 1:
            return args[0][0]
        name = name or getattr(function, "__name__", "")
        if name in READING:
            raise Unwritable("reads a plain value from a tensor")
        code = call_of(function, name, args, kwargs)
        value = function(*plain(args), **plain(kwargs))
        overwrites = (name.endswith("_") and not name.endswith("__")) or bool(kwargs.get("inplace"))
        return self.step(value, code, effect=overwrites)

    def step(self, value: Any, code: Code, *, effect: bool = False) -> Any:
        """The watched value of a new step of the current module."""
        if not any(isinstance(each, Tensor) for each in flattened(value)):
            raise Unwritable("reads a plain value from a tensor")
        assert self._current is not None
        return self._watched(value, self._current[1].add(code, effect=effect))

    def _within(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of a module that the current module calls, recorded as a step."""
        if type(module) is nn.Identity:
            return args[0]
        if id(module) not in self._paths:
            if torchs_class(module) is nn.Sequential:  # a slice of a sequence, whose modules have paths
                return module.forward(*args, **kwargs)
            raise Unwritable(f"calls a {type(module).__name__} that is not one of its registered modules")
        value = self.run(module, plain(args), plain(kwargs))
        if torchs_class(module) is not None:
            given = [*map(as_code, args), *(keyword(name, as_code(each)) for name, each in kwargs.items())]
        else:
            bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            given = [as_code(each) for each in bound.values() if is_watched(each)]
        return self.step(value, call(self._reached(module), *given), effect=self._overwrites(module))

    def _overwrites(self, module: nn.Module) -> bool:
        """Whether a module may change its input in place."""
        if isinstance(module, nn.Sequential):
            return any(map(self._overwrites, list(module)[:1]))
        if torchs_class(module) is not None:
            return bool(getattr(module, "inplace", False))
        return bool(self.graphs[self._paths[id(module)]].effects)

    def _reached(self, module: nn.Module) -> Code:
        """The code with which the current module accesses a module."""
        assert self._current is not None
        here, there = (self._paths[id(each)] for each in (self._current[0], module))
        if module is self._current[0]:
            return Atom("self")
        if here and not there.startswith(f"{here}."):
            raise Unwritable(f"uses the module {there}, which is not one of its own")
        self.reached.add(there)
        code: Code = Atom("self")
        owner = self._current[0]
        for name in there.removeprefix(here).lstrip(".").split("."):
            code = _member(owner, code, name)
            owner = owner.get_submodule(name)
        return code

    def _input(self, graph: Graph, name: str, value: Tree) -> Tree:
        if not any(isinstance(each, Tensor | Size) for each in flattened(value)):
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
                return Watched(value, code, self)
            case Size():
                return Size(int(value), code)
            case list() | tuple():
                parts = [self._watched(each, index(code, Atom(str(place)))) for place, each in enumerate(value)]
                return parts if isinstance(value, list) else tuple(parts)
            case dict():
                return {key: self._watched(each, index(code, as_code(key))) for key, each in value.items()}
        return value

    def _keep(self, path: str, graph: Graph) -> None:
        known = self.graphs.setdefault(path, graph)
        if (known.steps, known.result) != (graph.steps, graph.result):
            raise Unwritable("behaves differently each time it is called")


def _member(owner: nn.Module, code: Code, name: str) -> Code:
    """The code with which a module accesses its child or tensor."""
    known = torchs_class(owner)
    if known is nn.ModuleDict:
        return index(code, Atom(quoted(name)))
    if known in (nn.ModuleList, nn.ParameterList):
        return index(code, Atom(name))
    if known is nn.Sequential and name == str(list(owner._modules).index(name)):
        return index(code, Atom(name))
    return attribute(code, name)


def torchs_class(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch with the module's behavior; None if there is no such class.

    It is the module's own class, or a base class whose forward the module does not override.
    """
    for known in type(module).__mro__[:-1]:
        if known is not nn.Module and getattr(nn, known.__name__, None) is known:
            return known if type(module).forward is known.forward else None
    return None
