"""Steps of an optimizer that leave alone what no path of the step uses."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import EllipsisType

import torch
from torch import Tensor, nn

from nasplat.nn.nested import parameter_parts


def unused_parts(paths: Iterable[nn.Module]) -> dict[nn.Parameter, Tensor]:
    """What no path uses of the parameters that the paths use in part.

    Parameters that some path uses whole are left out, and those that no path has: without a gradient, optimizers leave
    them alone.

    Returns:
        For each parameter a boolean mask of its shape, true where it is unused.
    """
    parts: defaultdict[nn.Parameter, list[tuple[slice, ...] | EllipsisType]] = defaultdict(list)
    for path in paths:
        for parameter, part in parameter_parts(path):
            parts[parameter].append(part)
    masks = {}
    for parameter, used in parts.items():
        if ... not in used:
            masks[parameter] = mask = torch.ones_like(parameter, dtype=torch.bool, requires_grad=False)
            for part in used:
                mask[part] = False
    return masks


@contextmanager
def untouched(unused: Mapping[nn.Parameter, Tensor], optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """A context for a step of the optimizer, after which unused parts and their moments are what they were before.

    Args:
        unused: Masks of parameters, as of `unused_parts`.
        optimizer: Keeps moments of a parameter's shape in its state, and begins with moments of zero.
    """
    before = {
        parameter: (
            parameter.detach().clone(),
            {name: moment.clone() for name, moment in _moments(optimizer, parameter)},
        )
        for parameter in unused
    }
    yield
    with torch.no_grad():
        for parameter, (weights, moments) in before.items():
            mask = unused[parameter]
            torch.where(mask, weights, parameter, out=parameter)
            for name, moment in _moments(optimizer, parameter):
                if name in moments:
                    torch.where(mask, moments[name], moment, out=moment)
                else:
                    moment.masked_fill_(mask, 0)


def _moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[tuple[str, Tensor]]:
    """What the optimizer keeps for each weight of a parameter, such as momentum."""
    kept = optimizer.state.get(parameter, {}).items()
    return [(name, each) for name, each in kept if isinstance(each, Tensor) and each.shape == parameter.shape]
