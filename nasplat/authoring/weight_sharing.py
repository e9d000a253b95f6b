"""The networks of a model with choices, assembled from shared weights.

A path is the network that the model makes for an architecture, with the tensors of its modules replaced by those that
all paths share. So it has the structure, the names and the settings, such as strides,
of the network that `build` returns.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from nasplat.architecture import IO, Architecture
from nasplat.errors import InputError
from nasplat.nn.nested import NESTED
from nasplat.nn.rewritten import Rewritten

if TYPE_CHECKING:
    from nasplat.authoring.model_space import ModelSpace
    from nasplat.nn.supernet import Part

T = TypeVar("T")


def shape_only(make: Callable[[], T]) -> T:
    """What `make` makes, on the meta device if it can be made there, else on the CPU. No global generator moves."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return make()
        except InputError:
            raise
        except Exception:  # noqa: BLE001  foreign code, which may need values; what else is wrong is raised again
            with torch.device("cpu"):
                return make()


class SharedModel:
    """Assembles the networks of a model with choices from parts; see `nasplat.nn.supernet.Assemble`.

    Args:
        space: The space of the model.
        io: The input and output shapes of the data.
    """

    def __init__(self, space: "ModelSpace", io: IO) -> None:
        self._space = space
        self._io = io

    def __call__(self, architecture: Architecture, part: "Part", /) -> nn.Module:
        """The architecture's network of shared parts.

        Raises:
            InputError: Its modules have other kinds or sizes than those that other networks have in their place.
        """
        network, construction = shape_only(lambda: self._space.constructed(architecture, self._io))
        if any(map(_holds_values, network.modules())):  # which the meta device has not
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                network, construction = self._space.constructed(architecture, self._io)
        taken = {
            id(module): f"[{label}={construction.decisions[label].options[construction.taken[label]]}]"
            for label, modules in construction.chosen().items()
            for module in modules
        }
        whole: list[nn.Module] = []

        def real(path: str) -> nn.Module:
            """The module of a new network with initial weights; only made for what no path has had before."""
            if not whole:
                whole.append(self._space.constructed(architecture, self._io)[0])
            return whole[0].get_submodule(path)

        shared: dict[int, nn.Module] = {}

        def visit(module: nn.Module, path: str, key: str) -> nn.Module:
            if id(module) in shared:
                return shared[id(module)]
            key += taken.get(id(module), "")
            if tensors(module):
                try:
                    shared[id(module)] = _shared(module, key, lambda: real(path), part)
                except InputError as error:
                    raise InputError(
                        f"the networks of {self._space.name} cannot share weights: in "
                        f"{self._space.said(architecture)}, {error}"
                    ) from error
            found = shared.setdefault(id(module), module)
            for name, child in [*module.named_children()]:
                found._modules[name] = visit(child, f"{path}.{name}".strip("."), f"{key}/{name}")
            return found

        return visit(network, "", "net")


def _shared(module: nn.Module, key: str, real: Callable[[], nn.Module], part: "Part") -> nn.Module:
    """A module with shared tensors in place of its own."""
    key = key.replace(".", "·")  # names of modules have no dots
    where = f"the layer {key.removeprefix('net').strip('/')!r}"
    leaf = next(module.children(), None) is None
    own = type(module).__name__
    try:
        if leaf and type(module) in NESTED:
            found = part(key, lambda: module, real)
        else:
            found = part(key, real if leaf else lambda: _without_children(real()))
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{where} ({own}) must be the same kind of layer in all networks, and be in those with the largest "
            "numbers; give layers that differ names of their own"
        ) from error
    if isinstance(getattr(found, "whole", found), Rewritten):  # a transform put it in the place of the module
        return found
    if type(found) is NESTED.get(type(module)):
        there = {name: found.part(name) for name in tensors(module)}
        whole = found.whole
    else:
        there, whole = dict[str, "Tensor | None"](tensors(found)), found
    if leaf and type(whole) is not type(module):
        raise InputError(f"{where} is {own}, but elsewhere {type(whole).__name__}; give layers that differ other names")
    for name, tensor in tensors(module).items():
        other = there.get(name)
        if other is None or other.shape != tensor.shape:
            raise InputError(
                f"{where} ({own}) has a {name} of the shape {tuple(tensor.shape)}, which is no part of "
                f"{'none' if other is None else tuple(other.shape)}; only Conv2d, BatchNorm2d and Linear may change "
                "their sizes, and must be largest with the largest numbers"
            )
    if found is not whole:
        return found
    if any(
        isinstance(value, list | tuple) and any(_is_own(each, module) for each in value) for value in _plain(module)
    ):
        if repr(found) != repr(module):
            raise InputError(f"{where} has other settings: {module!r} here, and {found!r} elsewhere")
        return found  # such as a recurrent layer, which keeps its weights in a list as well
    module._parameters, module._buffers = found._parameters, found._buffers
    return module


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's own parameters and buffers, without those of its children."""
    every = (*module._parameters.items(), *module._buffers.items())
    return {name: tensor for name, tensor in every if tensor is not None}


def _without_children(module: nn.Module) -> nn.Module:
    """A module with the same parameters and buffers, and nothing else."""
    holder = nn.Module()
    holder._parameters, holder._buffers = module._parameters, module._buffers
    holder._non_persistent_buffers_set = module._non_persistent_buffers_set
    return holder


def _plain(module: nn.Module) -> list[Any]:
    """The attributes of a module that torch does not know of."""
    known = {"_parameters", "_buffers", "_modules"}
    return [value for name, value in vars(module).items() if name not in known]


def _is_own(value: object, module: nn.Module) -> bool:
    return any(value is tensor for tensor in tensors(module).values())


def _holds_values(module: nn.Module) -> bool:
    """Whether a module has a tensor that is neither a parameter nor a buffer, on the meta device."""
    return any(
        isinstance(each, Tensor) and each.is_meta and not _is_own(each, module)
        for value in _plain(module)
        for each in (
            value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        )
    )
