"""The modules of a network as source code. Modules whose code differs only in numbers share a definition."""

import inspect
from collections.abc import Iterator
from functools import lru_cache

from torch import Tensor, nn

from nasplat.errors import RunError
from nasplat.export.code import Atom, Code, Node, Number, Part, call, changed, flat, is_name, keyword, number, quoted
from nasplat.export.definition import Definition, Member
from nasplat.export.tracing import Trace, torchs_class

CONTAINERS = nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList
LARGEST_BUFFER = 64
"""The largest size, in numbers, of a buffer that the source contains because the weights do not."""
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


class Described:
    """The modules of a network as code. Similar modules share a definition. Definitions of inner modules come first."""

    def __init__(self, network: nn.Module, trace: Trace) -> None:
        self._trace = trace
        self._definitions: dict[str, Definition] = {}
        self._keys: dict[str, str] = {}
        if torchs_class(network) is None:
            self._visit("", network)
        else:  # a sequence has no forward of its own
            self._register("", "build", "The network without its weights.", Member({"": self._made("", network)}, None))

    def definitions(self) -> list[Definition]:
        """All definitions. A sequence with a single use in another module has no definition; its code is inlined."""
        inlined = [
            each
            for each in self._definitions.values()
            if each.is_function and len(each.members) == 1 and "" not in each.members
        ]
        single = {path: member.attributes[""] for each in inlined for path, member in each.members.items()}

        def unfold(part: Code) -> Code | None:
            return single.get(part.path) if isinstance(part, Part) else None

        found = [each for each in self._definitions.values() if each not in inlined]
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
        """The code without its numbers. It is equal for modules whose code differs only in numbers."""
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
        """The code that makes a module, in the `__init__` of its parent module."""
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
            name: self._made(f"{path}.{name}".lstrip("."), child)
            for name, child in module._modules.items()
            if child is not None
        }
        if isinstance(module, nn.ModuleDict) or list(children) != [str(place) for place in range(len(children))]:
            if isinstance(module, nn.ModuleList):
                raise _unwritable(path, module, "contains modules whose names are not consecutive numbers")
            items = tuple(Node("item", (Atom(quoted(name)), child)) for name, child in children.items())
            if isinstance(module, nn.ModuleDict):
                return call("nn.ModuleDict", Node("dict", items))
            return call("nn.Sequential", call("OrderedDict", Node("dict", items)))
        if isinstance(module, nn.ModuleList):
            return call("nn.ModuleList", Node("list", tuple(children.values())))
        code = call("nn.Sequential", *children.values())
        if not path or len(children) < 2 or not all(map(_is_leaf, module)):
            return code
        kinds = [_kind(child) for child in module]
        self._register(path, _function_name(kinds), _sentence(kinds), Member({"": code}, None))
        return Part(path)


def _register_buffer(name: str, value: Code, *, persistent: bool) -> Code:
    return call("self.register_buffer", Atom(quoted(name)), value, keyword("persistent", Atom(str(persistent)), "True"))


def _is_leaf(module: nn.Module) -> bool:
    return torchs_class(module) is not None and not isinstance(module, CONTAINERS)


def _empty(tensor: Tensor) -> Code:
    """The code of an empty tensor of the same shape and type. Loading the weights fills it."""
    return call("torch.empty", *_sizes(tensor), keyword("dtype", Atom(str(tensor.dtype)), "torch.float32"))


def _sizes(tensor: Tensor) -> list[Code]:
    return [Number(size, "size") for size in tensor.shape] or [Node("tuple", ())]


def _constant(tensor: Tensor, path: str, module: nn.Module) -> Code:
    """The code of a tensor with its values.

    Raises:
        RunError: The tensor has more than `LARGEST_BUFFER` numbers.
    """
    if tensor.numel() > LARGEST_BUFFER:
        raise _unwritable(path, module, f"has a buffer of {tensor.numel()} numbers that its weights do not contain")

    def listed(values: object) -> Code:
        if isinstance(values, list):
            return Node("list", tuple(map(listed, values)))
        return Atom(number(values) if isinstance(values, int | float) else repr(values))

    kind = keyword("dtype", Atom(str(tensor.dtype)), "torch.float32" if tensor.dtype.is_floating_point else None)
    return call("torch.tensor", listed(tensor.tolist()), kind)


def _leaf(path: str, module: nn.Module, known: type[nn.Module]) -> Code:
    """The call that makes a module of torch.

    Raises:
        RunError: The constructor arguments of the module cannot be determined.
    """
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in module.state_dict().items())
    for simple in (True, False):
        given = _arguments(module, known, simple=simple)
        if given is not None and _makes(known.__name__, tuple((name, value) for name, (value, _) in given.items()),
                                        shapes, module.extra_repr()):  # fmt: skip
            return call(f"nn.{known.__name__}", *(_argument_of(name, *each) for name, each in given.items()))
    raise _unwritable(path, module, "does not show the arguments that it was made with")


@lru_cache(maxsize=1024)
def _makes(
    name: str,
    given: tuple[tuple[str, object], ...],
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    shown: str,
) -> bool:
    """Whether a class of torch makes the same module with these arguments.

    Args:
        name: The name of the class.
        given: The name and the value of each argument.
        shapes: The name and the shape of each weight that the module must have.
        shown: The text that `extra_repr` of the module must return.
    """
    known: type[nn.Module] = getattr(nn, name)
    on_meta = {"device": "meta"} if "device" in inspect.signature(known.__init__).parameters else {}
    try:
        made_again = known(**dict(given), **on_meta)
    except (TypeError, ValueError, RuntimeError):
        return False
    made = tuple((name, tuple(tensor.shape)) for name, tensor in made_again.state_dict().items())
    return made == shapes and made_again.extra_repr() == shown


def _arguments(module: nn.Module, known: type[nn.Module], *, simple: bool) -> dict[str, tuple[object, object]] | None:
    """The value and the default of every constructor argument of a module of torch.

    The result is None if the module lacks an attribute with the name of an argument.

    Args:
        module: The module, which has the arguments as attributes.
        known: The class of the module.
        simple: Whether equal numbers for height and width are given as one number.
    """
    given: dict[str, tuple[object, object]] = {}
    for name, parameter in list(inspect.signature(known.__init__).parameters.items())[1:]:
        if name in ("device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(module, name):
            return None
        value = getattr(module, name)
        if isinstance(parameter.default, bool) and not isinstance(value, bool):
            value = value is not None  # for example a bias, which is a tensor or None
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
        f"since it {why}; change it, or export with --format onnx (format='onnx')"
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
