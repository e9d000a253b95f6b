"""A supernet whose layers are rewritten, in one way or another, as an architecture says."""

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any, TypeAlias

import torch
from torch import nn

from nasplat.architecture import Architecture
from nasplat.nn.rewriting import LayerTransform
from nasplat.nn.supernet import Part, Supernet
from nasplat.transform import Transform

Plan: TypeAlias = Callable[[Architecture, nn.Module], Iterable[tuple[str, Transform, list[str]]]]
"""The choices of an architecture: for each its name, its transform, and the layers of the network that it rewrites."""

Change: TypeAlias = tuple[str, str, LayerTransform]
"""The name of a layer inside of a part, the name of the choice, and its transform."""


def rewritten_supernet(
    whole: Supernet, covering: Iterable[Architecture], base: Callable[[Architecture], Architecture], plan: Plan
) -> Supernet:
    """A supernet with the parts of another one, and for each choice the parts that it rewrites.

    What is not rewritten begins as it does in the other supernet.

    Args:
        whole: The supernet of the networks that are not rewritten.
        covering: Architectures that together have every part.
        base: The architecture of `whole` for an architecture.
        plan: What an architecture rewrites in its network.
    """

    def assemble(architecture: Architecture, part: Part, /) -> nn.Module:
        changes = _changes(whole, base(architecture), partial(plan, architecture))

        def other(
            name: str, make: Callable[[], nn.Module], largest: Callable[[], nn.Module] | None = None, /
        ) -> nn.Module:
            change = changes[name]
            if not change:
                return part(name, make, largest)
            again = _rewriting(change, make)
            return part(_named(name, change), again, None if largest is None else _rewriting(change, largest))

        return whole.assemble(base(architecture), other)

    made = Supernet(assemble, covering)
    for name, module in made.parts.items():
        begins = whole.parts[name.partition(AS)[0]].state_dict()
        own = module.state_dict()
        module.load_state_dict({key: tensor for key, tensor in begins.items() if key in own}, strict=False)
    return made


DESCRIBED = 4096
"""Maximum number of parts whose modules are kept; to make them for each path would take most of its time."""
AS = " as "
"""Between the name of a part and that of a choice."""


def _named(name: str, change: tuple[Change, ...]) -> str:
    choices = dict.fromkeys(choice.replace(".", "_") for _, choice, _ in change)  # a name of a module has no point
    return f"{name}{AS}{', '.join(choices)}"


def _changes(
    whole: Supernet, architecture: Architecture, plan: Callable[[nn.Module], Iterable[tuple[str, Transform, list[str]]]]
) -> dict[str, tuple[Change, ...]]:
    """What is rewritten in each part of an architecture's network, by the name of the part."""
    made: dict[str, nn.Module] = {}

    def noted(name: str, make: Callable[[], nn.Module], largest: Callable[[], nn.Module] | None = None, /) -> nn.Module:
        if isinstance(make, partial):
            made[name] = _described(name, make.func, make.args, tuple(sorted(make.keywords.items())))
        else:
            made[name] = make()
        return made[name]

    with torch.device("meta"):
        network = whole.assemble(architecture, noted)
    chosen = {
        network.get_submodule(name): (choice, transform) for choice, transform, names in plan(network) for name in names
    }
    found = {}
    for part, module in made.items():
        inside = [(name, chosen[layer]) for name, layer in module.named_modules() if layer in chosen]
        found[part] = tuple(
            (name, choice, transform) for name, (choice, transform) in inside if isinstance(transform, LayerTransform)
        )
    return found


@lru_cache(maxsize=DESCRIBED)
def _described(
    name: str, make: Callable[..., nn.Module], arguments: tuple[Any, ...], options: tuple[tuple[str, Any], ...]
) -> nn.Module:
    """A part without weights; parts of one network have different names, so each has a module of its own."""
    with torch.device("meta"):
        return make(*arguments, **dict(options))


def _rewriting(change: tuple[Change, ...], make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    if isinstance(make, partial):  # its arguments tell parts apart
        return partial(_rewritten, change, make.func, *make.args, **make.keywords)
    return partial(_rewritten, change, make)


def _rewritten(change: tuple[Change, ...], make: Callable[..., nn.Module], *args: Any, **options: Any) -> nn.Module:
    module = make(*args, **options)
    for name, _, transform in change:
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        other = transform.replacement(layer, fitted=False)
        if not name:
            return other
        place, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(place), leaf, other)
    return module
